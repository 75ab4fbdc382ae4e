"""Test vectors: made-up images, and what the model returns for them, to check a build by."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costsim.c.emission.options import EmissionOptions
from costsim.c.emission.quantization import Quantization, integers
from costsim.c.emission.reference import Reference
from costsim.c.emission.text import comment, number, rows
from costsim.data.pixels import to_float
from costsim.ir.operators import elements
from costsim.ir.program import TrainingProgram

TOLERANCES = {32: 1e-3, 8: 1e-6}
"""Share of the greatest by which numbers may be off: 32-bit sums are in other orders elsewhere."""


def made_up(program: TrainingProgram, image: int) -> NDArray[np.float32]:
    """The pass of `costsim_check.c` of this number."""
    shape = program.graph[program.graph.input].shape
    n = (np.arange(elements(shape), dtype=np.uint64) + image * elements(shape)).astype(np.uint32)
    n = (n ^ (n >> np.uint32(16))) * np.uint32(0x7FEB352D)
    n = (n ^ (n >> np.uint32(15))) * np.uint32(0x846CA68B)
    levels = ((n ^ (n >> np.uint32(16))) >> np.uint32(24)).astype(np.uint8)
    return to_float(levels).reshape(shape)


def vectors_header(
    outputs: NDArray[np.floating[Any]], loss: float, bits: int, options: EmissionOptions
) -> str:
    """`costsim_vectors.h`: `outputs` of the first made-up pass, and the loss of its step."""
    values = rows(map(number, outputs.reshape(-1).tolist()))
    by = "class means of two" if options.class_means is not None else "logits"
    return (
        f"/* What {comment(options.name)} returns for a made-up image; its loss by {by}. */\n"
        f"#define COSTSIM_CHECK_TOLERANCE {number(TOLERANCES[bits])}\n"
        f"#define COSTSIM_CHECK_LOSS {number(loss)}\n"
        "#define COSTSIM_CHECK_OUTPUTS \\\n" + " \\\n".join(values.splitlines()) + "\n"
    )


def reference_vectors(
    program: TrainingProgram,
    weights: Mapping[str, Any],
    quantization: Quantization,
    options: EmissionOptions,
) -> tuple[NDArray[np.float32], float]:
    """Outputs and loss in 8 bits, by the numpy reference: forward alone."""
    stored = integers(program.graph, weights, quantization)
    reference = Reference(program, stored, quantization, options)
    first, second = (reference.features(made_up(program, image)) for image in (0, 1))
    of = quantization.values[program.graph.output]
    outputs = of.real(first)
    return outputs, loss_of(outputs, of.real(second), options)


def loss_of(
    first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]], options: EmissionOptions
) -> float:
    """The mean loss of the first pass, all of class 0, where the second is class 1."""
    logits = first.astype(np.float64).reshape(len(first), -1)
    if options.class_means is not None:
        means = np.stack([logits.sum(0), second.astype(np.float64).reshape(len(second), -1).sum(0)])
        logits = options.class_means.temperature * (_unit(logits) @ _unit(means).T)
    shifted = logits - logits.max(1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(1)) - shifted[:, 0]).mean())


def _unit(rows_of: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(rows_of, axis=1, keepdims=True)
    found: NDArray[np.float64] = rows_of / np.where(lengths > 0, lengths, 1)
    return found
