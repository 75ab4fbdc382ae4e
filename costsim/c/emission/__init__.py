"""A training program as C for a microcontroller: `emit` is one more reading of it."""

from costsim.c.emission.emit import emit, kernel_source
from costsim.c.emission.memory import Memory, Update, read_weights
from costsim.c.emission.model_source import operation_symbol
from costsim.c.emission.options import COMPILER_FLAGS, EmissionOptions
from costsim.c.emission.published_scales import published_quantization
from costsim.c.emission.quantization import Affine, Quantization, integers, quantize_ranges
from costsim.c.emission.sizes import Sizes
from costsim.c.emission.support import (
    check_emitted,
    check_kernels,
    check_step,
    is_narrow,
    why_not_emitted,
)

__all__ = [
    "COMPILER_FLAGS",
    "Affine",
    "EmissionOptions",
    "Memory",
    "Quantization",
    "Sizes",
    "Update",
    "check_emitted",
    "check_kernels",
    "check_step",
    "emit",
    "integers",
    "is_narrow",
    "kernel_source",
    "operation_symbol",
    "published_quantization",
    "quantize_ranges",
    "read_weights",
    "why_not_emitted",
]
