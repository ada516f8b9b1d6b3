"""Which matrix products of a JAX program ask for less than IEEE float32, whatever the judge has pinned.

A product without a precision of its own takes the one that the judge pins. One that has its own, by the `precision`
of a layer, keeps it. A CPU multiplies float32 in float32 all the same, and so hides it; a TPU makes one pass in
bfloat16 of it, an NVIDIA GPU takes TF32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.extend import core

_PRODUCTS = ("dot_general", "conv_general_dilated")
_EXACT = (lax.Precision.HIGHEST, *(
    getattr(lax.DotAlgorithmPreset, name) for name in ("F32_F32_F32", "F64_F64_F64", "BF16_BF16_F32_X9")
))  # fmt: skip


class Rounded(NamedTuple):
    """Products of float32 arrays: all of them, those that ask for less than float32, and what these ask for."""

    products: int
    rounded: int
    precisions: tuple[str, ...]


def rounded_products(program: core.ClosedJaxpr) -> Rounded:
    """Count a program's products, each place once, however often a loop comes by."""
    wanted = [
        equation.params["precision"]
        for equation in _equations(program.jaxpr)
        if equation.primitive.name in _PRODUCTS
        and all(operand.aval.dtype == jnp.float32 for operand in equation.invars[:2])
    ]
    less = [precision for precision in map(_both, wanted) if any(p not in _EXACT for p in precision)]
    names = sorted({p.name for precision in less for p in precision if p not in _EXACT})
    return Rounded(len(wanted), len(less), tuple(names))


def _both(precision: Any) -> tuple[Any, ...]:
    """Return what the two operands of a product are rounded to; None is the default."""
    both = precision if isinstance(precision, tuple) else (precision,)
    return tuple(lax.Precision.DEFAULT if one is None else one for one in both)


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Yield the equations of a program and of all that it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(part, "jaxpr", part)  # of a closed program
                if hasattr(inner, "eqns"):
                    yield from _equations(inner)
