"""Every predicted cost of a plan as rows of words and amounts."""

from costsim.base.units import counted, format_bytes, format_joules, format_macs, format_percent
from costsim.report.amounts import interval, joules, seconds
from costsim.solving.planfile import AdaptationRecord, PlanFile, Prediction, WayRecord

Section = tuple[str, list[tuple[str, str]]]


def cost_rows(file: PlanFile) -> list[Section]:
    """Every predicted cost: sections of (what, amount), amounts with units."""
    predicted = file.predicted
    if predicted is None:
        return []
    sections = [
        ("memory of a step", _memory_rows(predicted, file)),
        ("MACs of a step", _mac_rows(predicted)),
    ]
    if timed := _time_rows(predicted):
        sections.append(("time and energy of a step", timed))
    if predicted.adaptation is not None:
        iterations = counted(file.recipe.iterations, "iteration")
        heading = f"whole adaptation, {iterations}, {counted(file.task.samples, 'image')}"
        sections.append((heading, _adaptation_rows(predicted.adaptation, file)))
    if file.ways:
        iterations = counted(file.recipe.iterations, "iteration")
        heading = f"the same training, {iterations}, in other ways"
        sections.append((heading, [_way_row(way) for way in file.ways]))
    return sections


def _way_row(way: WayRecord) -> tuple[str, str]:
    what = f"{way.name}: {format_bytes(way.held_bytes)}"
    if way.excess_bytes:
        what += f", {format_bytes(way.excess_bytes)} of it swapped"
    if way.latency_s is None or way.energy_j is None:
        return what, "does not fit"
    return what, f"{seconds(way.latency_s)}, {format_joules(way.energy_j.value)}"


def _adaptation_rows(whole: AdaptationRecord, file: PlanFile) -> list[tuple[str, str]]:
    rows = []
    for phase in whole.phases:
        took = phase.compute_s.plus(phase.storage_s)
        told = seconds(took if phase.swap_s is None else took.plus(phase.swap_s))
        fits = "" if phase.swap_s is not None else ", does not fit"
        words = PHASES[phase.phase]
        if phase.phase == "answering" and file.step.samples_a_pass > 1:
            words = f"one pass of {file.step.samples_a_pass} images"
        rows.append((f"{phase.phase}: {words}", f"{told}{fits}"))
    if whole.latency_s is not None:
        rows.append(("together", seconds(whole.latency_s)))
    rows += [
        (f"together, {_otherwise(one.part, one.value)}", seconds(one.latency_s))
        for one in whole.alternatives
        if one.latency_s is not None
    ]
    if whole.energy_j is not None:
        rows.append(("energy", joules(whole.energy_j)))
    rows.append((f"most bytes live at once, in {whole.peak_phase}", format_bytes(whole.peak_bytes)))
    rows += [
        (f"most bytes in {place} at once, beside weights", format_bytes(size))
        for place, size in whole.stored_bytes.items()
    ]
    if file.recipe.cut is not None:
        rows.append((f"kept in {file.recipe.cache_in}", f"the values of {file.recipe.cut}"))
    return rows


def _otherwise(part: str, value: int | str) -> str:
    """A choice of the recipe at another value, in a few words."""
    every = {
        "image_interval": "with all images in each iteration",
        "means_interval": "with class means of each iteration",
        "copies": "with one copy of each image",
        "cache_in": "with nothing kept",
        "micro_batch": "with one image at a time",
        "recompute": "with nothing computed a second time",
    }
    some = {
        "image_interval": f"with 1 of {value} images in each",
        "means_interval": f"with class means of 1 in {value}",
        "copies": f"with {value} copies of each image",
        "cache_in": f"with values kept in {value}",
        "micro_batch": f"with {value} images at a time",
        "recompute": f"with a forward pass in {value} segments",
    }
    return (every if value in (1, "nothing") else some)[part]


PHASES = {
    "scoring": "what to update",
    "caching": "what frozen layers compute, once",
    "class means": "the classifier, each time anew",
    "training": "all iterations",
    "answering": "one image",
}
"""What is done in each, in a few words."""


def _memory_rows(predicted: Prediction, file: PlanFile) -> list[tuple[str, str]]:
    memory = predicted.memory
    frozen = "frozen weights, beside all of these"
    if file.device is not None:
        where = "RAM" if file.device.frozen_weights == "ram" else "flash"
        frozen = f"frozen weights, in {where} beside all of these"
    gradients = "their gradients, each freed once it is applied"
    if file.step.keeps_gradients:
        gradients = "their gradients, kept until all are applied"
    amounts = (
        ("peak: most bytes live at once", memory.peak_bytes),
        ("arena: the same with offsets assigned", memory.arena_bytes),
        ("paper: each byte once, live together or not", memory.paper_bytes),
        ("tiny-training: int8, as published", memory.tiny_training_bytes),
        ("kept for the backward pass", memory.kept_bytes),
        ("kept by stock PyTorch (autograd)", memory.autograd_kept_bytes),
        ("updated weights", memory.updated_weight_bytes),
        (gradients, memory.gradient_bytes),
        ("optimizer state", memory.optimizer_bytes),
        (frozen, memory.frozen_weight_bytes),
    )
    return [(what, format_bytes(size)) for what, size in amounts]


def _mac_rows(predicted: Prediction) -> list[tuple[str, str]]:
    macs = predicted.macs
    recompute = ("backward, computed a second time", format_macs(macs.recompute))
    return [
        ("forward", format_macs(macs.forward)),
        ("backward", format_macs(macs.backward)),
        *([recompute] if macs.recompute else []),
        ("backward, of input gradients", format_macs(macs.input_gradient)),
        ("backward, of weight gradients", format_macs(macs.weight_gradient)),
        ("backward, if everything were updated", format_macs(macs.full_backward)),
        ("backward, share of that", format_percent(macs.backward_share)),
        ("forward and backward, no padding taps", format_macs(macs.unpadded)),
    ]


def _time_rows(predicted: Prediction) -> list[tuple[str, str]]:
    if predicted.latency_s is None:
        return []
    latency = predicted.latency_s
    rows = [("latency", interval(latency.step, latency.low, latency.high))]
    if predicted.swap_s is None:
        rows.append(("swapping", "does not fit at all"))
    elif predicted.swap_s.value:
        rows.append(("swapping", seconds(predicted.swap_s)))
    if predicted.energy_interval_j is not None:
        rows.append(("energy", joules(predicted.energy_interval_j)))
    return rows
