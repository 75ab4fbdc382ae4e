"""A training program and its weights as self-contained C99."""

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costsim.emission.memory import Memory
from costsim.emission.operations import OperationWriter
from costsim.emission.options import EmissionOptions
from costsim.emission.quantised import QuantisedWriter
from costsim.emission.quantization import Quantization, integers
from costsim.emission.readme import readme
from costsim.emission.sizes import DOCUMENT, Sizes, sizes_of
from costsim.emission.support import check_step, is_narrow
from costsim.emission.tables import Tables
from costsim.emission.text import array, call, comment, identifier, number
from costsim.errors import InputError
from costsim.operators import elements
from costsim.program import Category, Direction, Operand, TrainingProgram

KERNELS = (
    "mathematics.c",
    "product.c",
    "batched.c",
    "elementwise.c",
    "convolution.c",
    "normalization.c",
    "pooling.c",
    "quantised.c",
    "learning.c",
)
"""Sources of the kernels, in an order in which each finds what it uses."""


def emit(
    program: TrainingProgram,
    weights: Mapping[str, Any],
    *,
    options: EmissionOptions | None = None,
    quantization: Quantization | None = None,
) -> dict[str, str | bytes]:
    """The files of a C99 project that does the training step of `program`, by name.

    `weights` are the model's tensors by the graph's names, as numpy arrays of any float type. A
    step with 8-bit weights and activations needs a `quantization`. Raises `InputError` for other
    bit widths, an operator without a kernel, and a tensor that is missing or has another shape.
    """
    options = options or EmissionOptions()
    check_step(program.graph, program.step)
    _check_scales(program, quantization)
    tensors = _tensors(program, weights)
    memory, tables = Memory(program), Tables()
    if quantization is None:
        writer = OperationWriter(memory, tables, options)
        stored: Mapping[str, NDArray[Any]] = tensors
    else:
        writer = QuantisedWriter(memory, tables, options, quantization)
        shaped = {p.name: tensors[p.name].reshape(p.shape) for p in program.graph.parameters}
        stored = integers(program.graph, shaped, quantization)
    bodies = [writer.write(op) for op in program.operations]
    sizes = sizes_of(memory, tables.bytes)
    return {
        "costsim_model.h": _header(memory, sizes, options, quantization),
        "costsim_model.c": _source(memory, tables, bodies, options, quantization),
        "costsim_weights.c": _weights(memory, stored),
        "costsim_kernels.h": _kernel("costsim_kernels.h"),
        "costsim_kernels.c": kernel_source(),
        DOCUMENT: _document(memory, sizes),
        "Makefile": _kernel("Makefile"),
        "README.md": readme(program, sizes, options),
    }


def kernel_source() -> str:
    """All kernels as one source file; the same for every model."""
    parts = [_kernel(name) for name in KERNELS]
    return '#include "costsim_kernels.h"\n\n' + "\n".join(parts)


def _kernel(name: str) -> str:
    return resources.files("costsim.emission").joinpath("kernels", name).read_text("utf-8")


def _check_scales(program: TrainingProgram, quantization: Quantization | None) -> None:
    bits = program.step.bits
    if is_narrow(bits) is (quantization is None):
        says = "needs scales" if quantization is None else "is in floats and has no scales"
        raise InputError(f"a step with {bits.weights}-bit weights {says}")


def _tensors(
    program: TrainingProgram, weights: Mapping[str, Any]
) -> dict[str, NDArray[np.float32]]:
    found = {}
    for parameter in program.graph.parameters:
        if parameter.name not in weights:
            raise InputError(f"tensor {parameter.name!r} of the layer graph is missing")
        tensor = np.asarray(weights[parameter.name])
        if tensor.shape != parameter.shape:
            raise InputError(
                f"tensor {parameter.name!r} is {tensor.shape}; the program is for {parameter.shape}"
            )
        found[parameter.name] = np.ascontiguousarray(tensor, np.float32).reshape(-1)
    return found


def _header(
    memory: Memory, sizes: Sizes, options: EmissionOptions, quantization: Quantization | None
) -> str:
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
        "OPERATIONS": (len(program.operations), "operations of a pass and the updates"),
        "LOSS_OPERATION": (program.loss_position, "a prediction runs those before it"),
    }
    if quantization is not None:
        given_as = quantization.values[graph.input]
        of = f"value / {number(given_as.scale)} {given_as.zero:+d}, rounded, from -128 to 127"
        constants["INPUT_BYTES"] = (elements(given_shape), f"COSTSIM_INPUT, of integers: {of}")
    defines = "\n".join(
        f"#define COSTSIM_{name} {value} /* {what} */" for name, (value, what) in constants.items()
    )
    place = "costsim_arena"
    if given is not None:
        place = memory.buffer(given).replace("AT", "COSTSIM_AT")
    shape = " x ".join(map(str, sample))
    return f"""\
/* {comment(options.name)}: one training step, generated by costsim. */
#ifndef COSTSIM_MODEL_H
#define COSTSIM_MODEL_H

#include <stdint.h>

{defines}

/* Weights as they were, no optimiser state. Call it first, and to start again. */
void costsim_init(void);

/* One training step; the mean loss. input: COSTSIM_BATCH samples, {shape} each.
 * If the loss is not finite nothing more is updated. */
float costsim_train_step(const float *input, const int32_t *labels);

/* logits: [COSTSIM_SAMPLES, COSTSIM_OUTPUTS] for COSTSIM_SAMPLES samples. */
void costsim_predict(const float *input, float *logits);

/* For samples that do not fit in memory together, a step in pieces: begin, COSTSIM_PASSES times
 * a pass over COSTSIM_SAMPLES samples (which returns its loss), end. An input written to
 * COSTSIM_INPUT, quantised if the step is in 8 bits, and given as such is not copied. */
void costsim_begin_step(void);
float costsim_pass(const float *input, const int32_t *labels);
void costsim_end_step(void);

extern float costsim_learning_rate; /* {number(options.learning_rate)} at the start */
extern int32_t costsim_steps;       /* training steps done since costsim_init */

extern float costsim_arena[COSTSIM_ARENA_BYTES / 4];
#define COSTSIM_AT(bytes) (costsim_arena + (bytes) / 4)
#define COSTSIM_INPUT {place}

/* Every operation, in order; which one is running. */
typedef struct {{
    const char *name;
    void (*run)(void);
}} costsim_operation;
extern const costsim_operation costsim_operations[COSTSIM_OPERATIONS];
extern volatile int32_t costsim_running;

#endif
"""


def _source(
    memory: Memory,
    tables: Tables,
    bodies: list[list[str]],
    options: EmissionOptions,
    quantization: Quantization | None,
) -> str:
    program = memory.program
    functions, entries = [], []
    for position, (op, body) in enumerate(zip(program.operations, bodies, strict=True)):
        name = operation_symbol(position, op.name)
        statements = "\n".join(f"    {line}" for line in body)
        functions.append(f"OPERATION {name}(void) {{\n{statements}\n}}\n")
        entries.append(f'    {{"{comment(op.name)}", {name}}}')
    loss = program.operations[program.loss_position]
    late = program.step.keeps_gradients
    first_update = len(program.operations) - sum(
        late and op.direction is Direction.UPDATE for op in program.operations
    )
    load = _load(memory, quantization)
    zeroed = [
        f"    memset({memory.buffer(i)}, 0, {program.buffers[i].bytes});"
        for i in map(memory.gradient, memory.updates)
        if program.step.passes > 1
    ]
    initial = [
        f"    memcpy({memory.at(u.offset_bytes)}, {initial_symbol(i)}, {u.bytes});"
        for i, u in enumerate(memory.updates)
    ] + [
        f"    memset({memory.buffer(i)}, 0, {b.bytes});"
        for i, b in enumerate(program.buffers)
        if b.category is Category.OPTIMIZER and b.bytes
    ]
    logits = _logits(memory, loss.reads[0], quantization)
    arrays = [
        f"extern const {memory.c_type(name)} {memory.symbol(name)}[{len(places)}]; "
        f"/* {comment(name)} */"
        for name, places in memory.frozen.items()
    ]
    for i, u in enumerate(memory.updates):
        name = comment(u.parameter.name)
        declared = f"{memory.c_type(u.parameter.name)} {initial_symbol(i)}[{len(u.places)}]"
        arrays.append(f"extern const {declared}; /* {name} */")
    table = ",\n".join(entries)
    lines = "\n".join
    return f"""\
/* {comment(options.name)}: one training step, generated by costsim. */
#include "costsim_model.h"

#include "costsim_kernels.h"

#if defined(__ELF__)
#define ARENA __attribute__((section(".costsim_arena"), aligned(8)))
#else
#define ARENA
#endif
#define OPERATION static __attribute__((noinline)) void
#define AT(bytes) (costsim_arena + (bytes) / 4)
#define BYTES(bytes) ((int8_t *)costsim_arena + (bytes))

float costsim_arena[COSTSIM_ARENA_BYTES / 4] ARENA;
float costsim_learning_rate = {number(options.learning_rate)};
int32_t costsim_steps;
volatile int32_t costsim_running = -1;
static const int32_t *costsim_labels;
static float costsim_loss;

{lines(arrays)}

{lines(tables.definitions)}
{lines(functions)}
const costsim_operation costsim_operations[COSTSIM_OPERATIONS] = {{
{table}
}};

static void run(int32_t from, int32_t to) {{
    for (; from < to; from++) {{
        costsim_running = from;
        costsim_operations[from].run();
    }}
    costsim_running = -1;
}}

static void load(const float *input) {{
{lines(load)}
}}

void costsim_init(void) {{
{lines(initial) or "    /* nothing is updated */"}
    costsim_steps = 0;
}}

void costsim_begin_step(void) {{
{lines(zeroed) or "    /* nothing is summed up over passes */"}
}}

float costsim_pass(const float *input, const int32_t *labels) {{
    costsim_labels = labels;
    load(input);
    run(0, {program.loss_position + 1});
    if (costsim_loss - costsim_loss == 0.0f) {{ /* finite */
        run({program.loss_position + 1}, {first_update});
    }}
    return costsim_loss;
}}

void costsim_end_step(void) {{
    run({first_update}, {len(program.operations)});
    costsim_steps++;
}}

float costsim_train_step(const float *input, const int32_t *labels) {{
    float total = 0.0f;
    int32_t pass;
    costsim_begin_step();
    for (pass = 0; pass < COSTSIM_PASSES; pass++) {{
        const float loss = costsim_pass(input, labels);
        if (!(loss - loss == 0.0f)) {{
            return loss;
        }}
        total += loss;
        input += COSTSIM_SAMPLES * COSTSIM_INPUTS;
        labels += COSTSIM_SAMPLES;
    }}
    costsim_end_step();
    return total / COSTSIM_PASSES;
}}

void costsim_predict(const float *input, float *logits) {{
    load(input);
    run(0, COSTSIM_LOSS_OPERATION);
{logits}
}}
"""


def operation_symbol(position: int, name: str) -> str:
    """The function of an operation: its position, then its name."""
    return f"costsim_op_{position:04d}_{identifier(name)}"


def initial_symbol(index: int) -> str:
    """The array that an update's weights start from."""
    return f"costsim_initial_{index}"


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
        return "    " + call("memcpy", "logits", memory.pointer(read), 4 * size)
    a = quantization.values[graph.output]
    x = memory.bytes_of(read)
    return "    " + call("costsim_q_dequantise", size, number(a.scale), a.zero, x, "logits")


def _weights(memory: Memory, tensors: Mapping[str, NDArray[Any]]) -> str:
    parts = ["/* Weights. What is updated is here as it is at the start. */\n#include <stdint.h>\n"]

    def add(what: str, symbol: str, parameter: str, places: NDArray[np.int64]) -> None:
        c_type = memory.c_type(parameter)
        declared = f"extern const {c_type} {symbol}[{len(places)}];\n"
        parts.append(f"\n/* {comment(what)} */\n{declared}")
        parts.append(array(c_type, symbol, tensors[parameter].reshape(-1)[places]))

    for name, places in memory.frozen.items():
        add(name, memory.symbol(name), name, places)
    for i, update in enumerate(memory.updates):
        name = update.parameter.name
        add(f"{name}, {update.atom[0]}: updated", initial_symbol(i), name, update.places)
    return "".join(parts)


def _document(memory: Memory, sizes: Sizes) -> str:
    """What is where, for tools: operations with their functions, buffers with their offsets."""
    program = memory.program
    offsets = memory.arena.offsets_bytes
    document = {
        "schema": "costsim.emission/1",
        "sizes": sizes.to_json(),
        "operations": [
            {
                "name": op.name,
                "symbol": operation_symbol(position, op.name),
                "direction": op.direction.value,
                "call": op.call,
                "macs": op.macs,
                "unpadded_macs": op.unpadded_macs,
            }
            for position, op in enumerate(program.operations)
        ],
        "buffers": [
            {
                "name": b.name,
                "category": b.category.value,
                "offset_bytes": offsets[i],
                "bytes": b.bytes,
                "birth": b.birth,
                "death": b.death,
            }
            for i, b in enumerate(program.buffers)
            if i in offsets
        ],
    }
    return json.dumps(document, indent=1) + "\n"
