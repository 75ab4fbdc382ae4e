"""The source of an emitted step: what goes into the frame `kernels/costsim_model.c.jinja`."""

from collections.abc import Sequence

from costsim.c.emission.camera import camera_image
from costsim.c.emission.memory import Memory
from costsim.c.emission.options import EmissionOptions
from costsim.c.emission.quantization import Quantization
from costsim.c.emission.store import kept_parts
from costsim.c.emission.tables import Tables
from costsim.c.emission.templates import render
from costsim.c.emission.text import call, comment, identifier, number
from costsim.ir.operators import elements
from costsim.ir.program import Category, Direction, Operand


def source_text(
    memory: Memory,
    tables: Tables,
    bodies: Sequence[Sequence[str]],
    options: EmissionOptions,
    quantization: Quantization | None,
    features: str,
) -> str:
    """`costsim_model.c`: a function an operation, and those that run them.

    `bodies` are the operations' statements, `tables` what these refer to; `features` is what the
    model returned, as classifiers take it.
    """
    program = memory.program
    operations = [
        (operation_symbol(position, op.name), comment(op.name), [f"    {line}" for line in body])
        for position, (op, body) in enumerate(zip(program.operations, bodies, strict=True))
    ]
    loss = program.operations[program.loss_position]
    late = program.step.keeps_gradients
    first_update = len(program.operations) - sum(
        late and op.direction is Direction.UPDATE for op in program.operations
    )
    classifier = options.class_means
    return render(
        "costsim_model.c.jinja",
        name=comment(options.name),
        class_means=classifier is not None,
        temperature="1.0f" if classifier is None else number(classifier.temperature),
        features=features,
        features_at="x" if quantization is None else "q",
        image=camera_image(memory, quantization, tables),
        kept=kept_parts(memory, options),
        learning_rate=number(options.learning_rate),
        arrays=_arrays(memory),
        tables=tables.definitions,
        operations=operations,
        load=_load(memory, quantization),
        initial=_initial(memory),
        zeroed=_zeroed(memory),
        after_loss=program.loss_position + 1,
        first_update=first_update,
        logits=_logits(memory, loss.reads[0], quantization),
    )


def operation_symbol(position: int, name: str) -> str:
    """The function of an operation: its position, then its name."""
    return f"costsim_op_{position:04d}_{identifier(name)}"


def initial_symbol(index: int) -> str:
    """The array that an update's weights start from."""
    return f"costsim_initial_{index}"


def _arrays(memory: Memory) -> list[str]:
    """Declarations of the weights in flash: those that stay, and what the others start from."""
    frozen = [
        f"extern const {memory.c_type(name)} {memory.symbol(name)}[{len(places)}]; "
        f"/* {comment(name)} */"
        for name, places in memory.frozen.items()
    ]
    updated = [
        f"extern const {memory.c_type(u.parameter.name)} {initial_symbol(i)}[{len(u.places)}]; "
        f"/* {comment(u.parameter.name)} */"
        for i, u in enumerate(memory.updates)
    ]
    return frozen + updated


def _initial(memory: Memory) -> list[str]:
    """Statements that put updated weights and the optimizer's state where they start."""
    weights = [
        f"    memcpy({memory.at(u.offset_bytes)}, {initial_symbol(i)}, {u.bytes});"
        for i, u in enumerate(memory.updates)
    ]
    state = [
        f"    memset({memory.buffer(i)}, 0, {b.bytes});"
        for i, b in enumerate(memory.program.buffers)
        if b.category is Category.OPTIMIZER and b.bytes
    ]
    return weights + state


def _zeroed(memory: Memory) -> list[str]:
    """Statements that begin the sums of gradients over several passes."""
    program = memory.program
    if program.step.passes == 1:
        return []
    return [
        f"    memset({memory.buffer(i)}, 0, {program.buffers[i].bytes});"
        for i in map(memory.gradient, memory.updates)
    ]


def _load(memory: Memory, quantization: Quantization | None) -> list[str]:
    """Statements that put the samples of a pass where the forward pass reads them."""
    graph = memory.graph
    given, size = memory.index.get(graph.input), elements(graph[graph.input].shape)
    if given is None:
        return ["    (void)input;"]
    offset = memory.arena.offsets_bytes[given]
    if quantization is None:
        to = memory.at(offset)
        copied = call("memcpy", to, "input", 4 * size)
    else:
        to, a = memory.byte_at(offset), quantization.values[graph.input]
        copied = call("costsim_q_quantise", size, number(a.scale), a.zero, "input", to)
    return [f"    if ((const void *)input != {to}) {{", f"        {copied}", "    }"]


def _logits(memory: Memory, read: Operand, quantization: Quantization | None) -> str:
    """The statement that gives away what the model returned."""
    graph = memory.graph
    size = elements(graph[graph.output].shape)
    if quantization is None:
        return "    " + call("memcpy", "outputs", memory.pointer(read), 4 * size)
    a = quantization.values[graph.output]
    x = memory.bytes_of(read)
    return "    " + call("costsim_q_dequantise", size, number(a.scale), a.zero, x, "outputs")
