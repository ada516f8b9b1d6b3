"""The very bits of the normal numbers that torch draws on a CPU: Box and Muller's transform of uniform ones::

    n_1 = sqrt(-2 log(1 - u_1)) cos(2 pi u_2),    n_2 = sqrt(-2 log(1 - u_1)) sin(2 pi u_2)

In float32 torch takes eight pairs at a time, with logarithm, sine and cosine by the polynomials of the Cephes
library (Moshier, 1989), in which its compiler fuses multiplications and additions. What is fused was found by
comparing 1.6 million numbers, of which none differs.
"""

import math
from collections.abc import Callable

import numpy as np

BLOCK = 16  # u_1 of eight pairs, then u_2
Uniform = Callable[[int], np.ndarray]  # that many numbers in [0, 1)


def fill_normal(uniform: Uniform, count: int, dtype: np.dtype) -> np.ndarray:
    """Return `count` >= 16 normal numbers: in blocks, and what is left over in a block over the last sixteen."""
    transform = _block32 if dtype == np.float32 else _block64
    u = uniform(count)
    whole = count - count % BLOCK
    u[:whole] = transform(u[:whole])
    if whole < count:
        u[-BLOCK:] = transform(uniform(BLOCK))
    return u


def pair(u_1: float, u_2: float) -> tuple[float, float]:
    """Return two normal numbers in float64, as for fewer than sixteen; here u_2 makes the radius, u_1 the angle."""
    radius, angle = math.sqrt(-2.0 * math.log1p(-u_2)), 2.0 * math.pi * u_1
    return radius * math.cos(angle), radius * math.sin(angle)


def _block64(u: np.ndarray) -> np.ndarray:
    u_1, u_2 = (part.ravel().tolist() for part in np.split(u.reshape(-1, 2, BLOCK // 2), 2, 1))
    radius = np.array([math.sqrt(-2.0 * math.log(1.0 - each)) for each in u_1])
    # NumPy's own sine may differ from the C library's in the last bit.
    angles = [2.0 * math.pi * each for each in u_2]
    both = [radius * [function(angle) for angle in angles] for function in (math.cos, math.sin)]
    return np.stack([part.reshape(-1, BLOCK // 2) for part in both], 1).ravel()


def _block32(u: np.ndarray) -> np.ndarray:
    u_1, u_2 = np.split(u.reshape(-1, 2, BLOCK // 2), 2, 1)
    radius = np.sqrt(np.float32(-2) * _log(np.float32(1) - u_1))
    sine, cosine = _sine_and_cosine(np.float32(2 * math.pi) * u_2)
    return np.concatenate([radius * cosine, radius * sine], 1).ravel()


_LOG = [
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
    2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
]  # fmt: skip
_LOG_2 = -2.12194440e-4, 0.693359375  # their sum, so that the second times an exponent is exact
_SINE = [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1]
_COSINE = [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2]
_QUARTER_OF_PI = (
    0.78515625,
    2.4187564849853515625e-4,
    3.77489497744594108e-8,
)  # their sum, for the same reason


def _log(x: np.ndarray) -> np.ndarray:
    mantissa, exponent = np.frexp(x)
    small = mantissa < np.float32(math.sqrt(0.5))
    x = (mantissa - np.float32(1)) + np.where(small, mantissa, np.float32(0))
    e, z = (exponent - small).astype(np.float32), x * x
    y = _fused(_polynomial(_LOG, x) * x, z, e * np.float32(_LOG_2[0]))
    x = x + _fused(-z, 0.5, y)
    return _fused(e, _LOG_2[1], x)


def _sine_and_cosine(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    octant = ((x * np.float32(4 / math.pi)).astype(np.int32) + 1) & ~1
    for part in _QUARTER_OF_PI:
        x = _fused(octant.astype(np.float32), -part, x)
    z = x * x
    near_one = _fused(_polynomial(_COSINE, z) * z, z, -(z * np.float32(0.5))) + np.float32(1)
    near_zero = _fused(_polynomial(_SINE, z) * z, x, x)
    swapped = octant & 2 != 0
    sine, cosine = np.where(swapped, near_one, near_zero), np.where(swapped, near_zero, near_one)
    return np.where(octant & 4 != 0, -sine, sine), np.where((octant + 2) & 4 != 0, -cosine, cosine)


def _polynomial(coefficients: list[float], x: np.ndarray) -> np.ndarray:
    value = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = _fused(value, x, coefficient)
    return value


def _fused(a: np.ndarray, b: np.ndarray | float, c: np.ndarray | float) -> np.ndarray:
    """Return ``a * b + c`` in float32 with one rounding.

    In float64 the product is exact; the sum is rounded to odd, so that rounding it again does no harm (Boldo &
    Melquiond, 2008, "Emulation of FMA and correctly rounded sums").
    """
    a, b, c = (np.asarray(each, np.float32).astype(np.float64) for each in (a, b, c))
    product = a * b
    total = product + c
    rest = total - product
    error = (product - (total - rest)) + (c - rest)
    even = total.view(np.int64) & 1 == 0
    odd = np.nextafter(total, np.copysign(np.inf, error))
    return np.where((error != 0) & even, odd, total).astype(np.float32)
