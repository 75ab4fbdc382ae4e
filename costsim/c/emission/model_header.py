"""The header of an emitted step: what a firmware may know of it."""

from collections.abc import Mapping

from costsim import __version__
from costsim.base.units import counted
from costsim.c.emission.camera import CHANNEL_ORDERS, NORMALISED, takes_images
from costsim.c.emission.memory import Memory
from costsim.c.emission.options import EmissionOptions
from costsim.c.emission.quantization import Quantization
from costsim.c.emission.sizes import Sizes
from costsim.c.emission.store import BLOCK_BYTES, FORMAT, StoreLayout, kept_parts
from costsim.c.emission.templates import render
from costsim.c.emission.text import comment, number
from costsim.ir.operators import elements


def header_text(
    memory: Memory,
    sizes: Sizes,
    options: EmissionOptions,
    quantization: Quantization | None,
    layout: StoreLayout,
) -> str:
    """`costsim_model.h`: sizes, what a firmware may call, and how to do a step in pieces."""
    program, graph = memory.program, memory.graph
    sample = graph[graph.input].shape[1:]
    output = graph[graph.output].shape
    given = memory.index.get(graph.input)
    given_shape = graph[graph.input].shape
    constants = {
        "ARENA_BYTES": (sizes.arena_bytes, "all RAM that a step works in"),
        "ARENA_LOWER_BOUND_BYTES": (sizes.lower_bound_bytes, "no arena is smaller"),
        "UPDATED_WEIGHT_BYTES": (sizes.updated_weight_bytes, "inside the arena, throughout"),
        "OPTIMIZER_BYTES": (sizes.optimizer_bytes, "inside the arena, throughout"),
        "FROZEN_WEIGHT_BYTES": (sizes.frozen_weight_bytes, "in flash"),
        "INITIAL_WEIGHT_BYTES": (sizes.initial_weight_bytes, "in flash, copied by costsim_init"),
        "BATCH": (program.step.batch, "samples in a training step"),
        "SAMPLES": (program.step.samples_a_pass, "samples in one pass, and in a prediction"),
        "PASSES": (program.step.passes, "passes in a training step"),
        "INPUTS": (elements(sample), "numbers in a sample"),
        "INPUT_BYTES": (4 * elements(given_shape), "COSTSIM_INPUT: a pass's samples in floats"),
        "OUTPUTS": (elements(output) // output[0], "numbers the model returns for a sample"),
        **_of_task(elements(output) // output[0], options, sizes),
        **_of_image(memory),
        "KEPT_BYTES": (layout.kept_bytes, "that costsim_save saves"),
        "KEPT_PARTS": (len(kept_parts(memory, options)), "pieces that they are in"),
        "BLOCK_BYTES": (BLOCK_BYTES, "that it writes at a time"),
        "SLOT_BYTES": (layout.slot_bytes, "of one of the two slots that it writes in turn"),
        "FORMAT": (FORMAT, "of a slot"),
        "OPERATIONS": (len(program.operations), "operations of a pass and the updates"),
        "LOSS_OPERATION": (program.loss_position, "a prediction runs those before it"),
    }
    if quantization is not None:
        given_as = quantization.values[graph.input]
        of = f"value / {number(given_as.scale)} {given_as.zero:+d}, rounded, from -128 to 127"
        constants["INPUT_BYTES"] = (elements(given_shape), f"COSTSIM_INPUT, of integers: {of}")
    numbers = "floats"
    if quantization is not None:
        numbers = "integers of 8 bits, " + of
    place = "costsim_arena"
    if given is not None:
        place = memory.buffer(given).replace("AT", "COSTSIM_AT")
    return render(
        "costsim_model.h.jinja",
        model=comment(options.name),
        version=__version__,
        digest=", ".join(f"0x{byte:02x}" for byte in layout.digest),
        constants=constants,
        class_means=options.class_means is not None,
        told_loss=told_of_classifier(options),
        image=takes_images(memory),
        channel_order=CHANNEL_ORDERS.get(sample[0], ""),
        normalised=NORMALISED,
        samples_a_pass=counted(program.step.samples_a_pass, "sample"),
        layout=numbers,
        shape=" x ".join(map(str, sample)),
        learning_rate=number(options.learning_rate),
        place=place,
    )


def told_of_classifier(options: EmissionOptions) -> str:
    """By what the emitted code tells classes apart, for a person."""
    if options.class_means is None:
        return "softmax of the model's outputs, one for each class"
    factor = options.class_means.temperature
    return f"softmax of {factor:g} times the cosine to each class mean"


def _of_task(outputs: int, options: EmissionOptions, sizes: Sizes) -> Mapping[str, tuple[int, str]]:
    """Constants of the classifier and of the loops."""
    classifier = options.class_means
    found = {
        "BY_CLASS_MEANS": (int(classifier is not None), "or by outputs that are logits"),
        "CLASSES": (outputs if classifier is None else classifier.classes, "at most"),
        "ITERATIONS": (options.iterations, "of costsim_adapt over the support images"),
        "IMAGE_INTERVAL": (options.image_interval, "iterations in which each image is shown once"),
        "MEANS_INTERVAL": (options.means_interval, "iterations by the same class means, if any"),
    }
    if classifier is not None:
        found["CLASS_MEANS_BYTES"] = (sizes.class_means_bytes, "RAM beside the arena, throughout")
    return found


def _of_image(memory: Memory) -> Mapping[str, tuple[int, str]]:
    """Constants of images, where the model takes them."""
    if not takes_images(memory):
        return {}
    _, channels, height, width = memory.graph[memory.graph.input].shape
    return {
        "CHANNELS": (channels, f"bytes of a pixel: {CHANNEL_ORDERS[channels]}"),
        "HEIGHT": (height, "rows of an image"),
        "WIDTH": (width, "pixels of a row"),
    }
