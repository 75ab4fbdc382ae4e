"""Single precision as the C kernels compute it, in numpy, to the last bit.

What C does in one operation is one rounding here too: a fused multiply-add, and the series by which
exponentials and logarithms are summed up.
"""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[Any]
"""Of float32."""


def fused_sum(total: Floats, a: Floats, b: Floats) -> Floats:
    """`total + a * b` of float32, rounded once, as a fused multiply-add is.

    A product of two float32 is exact in double precision, the sum is not: where it falls exactly
    half way between two float32, what was rounded off decides (Boldo and Melquiond 2008).
    """
    addend, product = np.broadcast_arrays(
        total.astype(np.float64), a.astype(np.float64) * b.astype(np.float64)
    )
    found: Floats = addend + product
    half_way = (found.view(np.int64) & _BELOW_SINGLE) == _HALF
    if half_way.any():
        s, x, y = found[half_way], addend[half_way], product[half_way]
        part = s - x
        rest = (x - (s - part)) + (y - part)  # Knuth's exact error of a sum
        found[half_way] = np.where(rest == 0, s, np.nextafter(s, np.copysign(np.inf, rest)))
    return found.astype(np.float32)


_BELOW_SINGLE, _HALF = (1 << 29) - 1, 1 << 28
"""The bits of a double's significand that a float32 has no room for; the highest of them alone."""


def exponential(x: Floats) -> Floats:
    """`costsim_exp` for x from -87 to 88."""
    f = np.float32
    count = x * f(1.44269504)
    n = np.where(count < 0, count - f(0.5), count + f(0.5)).astype(np.int32)
    real = n.astype(f)
    r = x - real * f(0.693359375) + real * f(2.12194440e-4)
    total = np.full_like(x, f(1) / f(5040))
    for term in (f(1) / f(720), f(1) / f(120), f(1) / f(24), f(1) / f(6), f(0.5)):
        total = total * r + term
    result: Floats = np.ldexp(f(1) + (r + r * r * total), n).astype(f)
    return result


def logarithm(x: Floats) -> Floats:
    """`costsim_log` for normal numbers."""
    f = np.float32
    bits = x.view(np.int32) - np.int32(0x3F3504F3)
    e = (bits >> 23).astype(f)
    m = ((bits & 0x7FFFFF) + np.int32(0x3F3504F3)).astype(np.int32).view(f)
    s = (m - f(1)) / (m + f(1))
    square = s * s
    series: Any = f(2) / f(9)
    for term in (f(2) / f(7), f(2) / f(5), f(2) / f(3)):
        series = series * square + term
    series = (m - f(1)) - s * ((m - f(1)) - square * series)
    result: Floats = e * f(0.693359375) + (series - e * f(2.12194440e-4))
    return result


DITHER_STRIDE = 0x9E3779B9
"""By how much the numbers of a weight differ from one step to the next."""


def dither(numbers: NDArray[np.uint32]) -> Floats:
    """`costsim_dither`: between -1/2 and 1/2, looking drawn."""
    n = numbers.astype(np.uint32)
    n = (n ^ (n >> np.uint32(16))) * np.uint32(0x7FEB352D)
    n = (n ^ (n >> np.uint32(15))) * np.uint32(0x846CA68B)
    high = ((n ^ (n >> np.uint32(16))) >> np.uint32(16)).astype(np.float32)
    found: Floats = high * np.float32(2.0**-16) - np.float32(0.5 - 2.0**-17)
    return found
