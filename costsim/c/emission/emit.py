"""A training program and its weights as self-contained C99."""

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costsim.base.errors import InputError
from costsim.c.emission.memory import Memory, Update
from costsim.c.emission.model_header import header_text
from costsim.c.emission.model_source import operation_symbol, source_text
from costsim.c.emission.model_weights import weights_text
from costsim.c.emission.operations import OperationWriter
from costsim.c.emission.options import EmissionOptions
from costsim.c.emission.quantised_writer import QuantisedWriter
from costsim.c.emission.quantization import Quantization, integers
from costsim.c.emission.readme import readme
from costsim.c.emission.sizes import DOCUMENT, Sizes, sizes_of
from costsim.c.emission.store import StoreLayout, kept_parts, layout_of
from costsim.c.emission.support import check_step, is_narrow
from costsim.c.emission.tables import Tables
from costsim.ir.program import TrainingProgram

KERNELS = (
    "mathematics.c",
    "product.c",
    "batched.c",
    "elementwise.c",
    "convolution.c",
    "normalization.c",
    "pooling.c",
    "quantised.c",
    "quantised_products.c",
    "quantised_depthwise.c",
    "quantised_gradients.c",
    "learning.c",
    "classifier.c",
)
"""Sources of the kernels, in an order in which each finds what it uses."""


POINTER_PAIR_BYTES = 8
"""Of a pointer and a size, on the 32-bit cores that flash is counted for."""


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
    features = writer.features(program.operations[program.loss_position].reads[0])
    source = source_text(memory, tables, bodies, options, quantization, features)
    kept_table = POINTER_PAIR_BYTES * (len(kept_parts(memory, options)) + 1)
    sizes = sizes_of(memory, tables.bytes + kept_table, options)
    layout = layout_of(memory, stored, quantization, options)
    return {
        "costsim_model.h": header_text(memory, sizes, options, quantization, layout),
        "costsim_model.c": source,
        "costsim_adapt.c": _kernel("costsim_adapt.c"),
        "costsim_store.c": _kernel("costsim_store.c"),
        "costsim_weights.c": weights_text(memory, stored),
        "costsim_kernels.h": _kernel("costsim_kernels.h"),
        "costsim_kernels.c": kernel_source(),
        DOCUMENT: _document(memory, sizes, layout, quantization),
        "Makefile": _kernel("Makefile"),
        "CMakeLists.txt": _kernel("CMakeLists.txt"),
        "README.md": readme(memory, sizes, options, layout.kept_bytes),
    }


def check_source() -> str:
    """A program that compares a build with its test vectors; the same for every model."""
    return _kernel("costsim_check.c")


def kernel_source() -> str:
    """All kernels as one source file; the same for every model."""
    parts = [_kernel(name) for name in KERNELS]
    return '#include "costsim_kernels.h"\n\n' + "\n".join(parts)


def _kernel(name: str) -> str:
    return resources.files("costsim.c.emission").joinpath("kernels", name).read_text("utf-8")


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


def _document(
    memory: Memory, sizes: Sizes, layout: StoreLayout, quantization: Quantization | None
) -> str:
    """What is where, for tools: operations with their functions, buffers with their offsets."""
    program = memory.program
    offsets = memory.arena.offsets_bytes
    document = {
        "schema": "costsim.emission/1",
        "sizes": sizes.to_json(),
        "kept": {
            "bytes": layout.kept_bytes,
            "digest": layout.digest.hex(),
            "updates": [_update(memory, update, quantization) for update in memory.updates],
        },
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


def _update(memory: Memory, update: Update, quantization: Quantization | None) -> dict[str, Any]:
    """An updated parameter; of integers the value of one step, for each output channel."""
    kind, layer = update.atom
    found = {
        "layer": layer,
        "kind": kind,
        "parameter": update.parameter.name,
        "elements": len(update.places),
        "type": memory.dtype(update.parameter.name).name,
    }
    if quantization is not None:
        call = memory.graph[memory.graph.layers[layer].calls[0]]
        assert call.weight is not None
        units = quantization.weight_scales[call.weight.name].astype(np.float64)
        if kind == "bias":
            units = units * quantization.input_of(call).scale
        found["units"] = units.tolist()
    return found
