"""What a traced step computes and must move, counted in its jaxpr: loops as often as they run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.extend import core

from jaxrnn.ops.native import call as native
from jaxrnn.ops.primitives import VALUES


class Work(NamedTuple):
    """Of one run of a step.

    flops: of its matrix products (a product and a sum count as two); what is elementwise is not counted.
    streamed_bytes: what cannot but be read or written in the device's memory, see `count`.
    exact: whether every loop says how often it runs; one that does not counts as one round.
    kernels: how many kernels written in Pallas are in it, wherever they stand.
    """

    flops: int = 0
    streamed_bytes: int = 0
    exact: bool = True
    kernels: int = 0

    def __add__(self, other: tuple[Any, ...]) -> Work:
        more = Work(*other)
        return Work(
            self.flops + more.flops, self.streamed_bytes + more.streamed_bytes, self.exact and more.exact,
            self.kernels + more.kernels,
        )  # fmt: skip

    def times(self, count: int) -> Work:
        """Return that of `count` runs."""
        return self._replace(flops=self.flops * count, streamed_bytes=self.streamed_bytes * count)


def count(jaxpr: core.ClosedJaxpr, on_chip_bytes: int) -> Work:
    """Return the work of a traced function on a device that can hold so many bytes beside its products.

    Bytes are counted once for each argument and result of the function, and whenever they are used for what does
    not fit on the chip: factors and results of products, what a loop slices and stacks. Everything smaller may
    have stayed there, and everything elementwise may have been fused into what surrounds it, so this is a bound.
    """
    ends = [*jaxpr.jaxpr.invars, *jaxpr.jaxpr.outvars]
    return _of(jaxpr.jaxpr, on_chip_bytes) + Work(0, sum(_bytes(v) for v in ends))


def _of(jaxpr: core.Jaxpr, on_chip_bytes: int) -> Work:
    total = Work()
    for equation in jaxpr.eqns:
        total += _equation(equation, on_chip_bytes)
    return total


def _equation(equation: Any, on_chip_bytes: int) -> Work:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        ends = [*equation.invars, *equation.outvars]
        return Work(_product(equation), _large(ends, on_chip_bytes))
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        each = math.prod(kernel) // kernel[params["dimension_numbers"].rhs_spec[0]]
        return Work(2 * each * math.prod(equation.outvars[0].aval.shape))
    if name == "ffi_call":
        shapes = [[_shape(v) for v in ends] for ends in (equation.invars, equation.outvars)]
        return Work(native.flops(params["target_name"], *shapes) or 0)
    inner = [_of(each, on_chip_bytes) for each in _inner(params) or _of_ours(equation)]
    if not inner:
        return Work()
    if name == "cond":
        return max(inner)
    total = sum(inner, Work())
    if name == "scan":
        return total.times(params["length"]) + Work(0, _large(_sliced(equation), on_chip_bytes))
    if name == "while":
        return total._replace(exact=False)
    if name == "pallas_call":
        rounds = math.prod(side for side in params["grid_mapping"].grid if isinstance(side, int))
        ends = [*equation.invars, *equation.outvars]
        return Work(total.flops * rounds, _large(ends, on_chip_bytes), total.exact, 1)
    return total


def _inner(params: dict[str, Any]) -> list[core.Jaxpr]:
    """Return the programs within an equation."""
    values = [
        each for value in params.values() for each in (value if isinstance(value, tuple | list) else [value])
    ]
    opened = [each.jaxpr if isinstance(each, core.ClosedJaxpr) else each for each in values]
    return [each for each in opened if isinstance(each, core.Jaxpr)]


def _of_ours(equation: Any) -> list[core.Jaxpr]:
    """Return the program of a primitive of `jaxrnn.ops.primitives`, which no equation shows."""
    run = VALUES.get(equation.primitive)
    if run is None:
        return []
    arrays = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars]
    return [jax.make_jaxpr(partial(run, **equation.params))(*arrays).jaxpr]


def _sliced(scan: Any) -> Iterator[Any]:
    """Yield what a loop slices and stacks: arrays of one dimension more outside than inside."""
    (body,) = _inner(scan.params)
    pairs = [*zip(scan.invars, body.invars, strict=True), *zip(scan.outvars, body.outvars, strict=True)]
    for outside, inside in pairs:
        if len(_shape(outside)) != len(_shape(inside)):
            yield outside


def _product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _large(variables: Any, on_chip_bytes: int) -> int:
    return sum(size for size in map(_bytes, variables) if size > on_chip_bytes)


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _bytes(variable: Any) -> int:
    size = getattr(getattr(variable.aval, "dtype", None), "itemsize", 0)  # tokens and references have none
    return size and math.prod(_shape(variable)) * size
