"""Functions whose value and first gradients are computed in a way of their own, and can still be transformed.

`jax.custom_vjp` ends forward mode, second derivatives and, around a kernel, `vmap`. Here three primitives have
rules of their own. What they mean, in JAX's own operations (the scan), gives everything but the two kernels:

==========  ==================  ====================================  ============================
primitive   value               derivative                            batched by `vmap`
==========  ==================  ====================================  ============================
`forward`   the forward kernel  `tangent`                             rows joined, or call by call
`tangent`   the meaning's       the meaning's; transposed: `back`     the meaning's
`back`      the other kernel    the meaning's; transposed: `tangent`  the meaning's
==========  ==================  ====================================  ============================

`jax.custom_derivatives.linear_call` inside a `jax.custom_jvp` would be shorter. But its residuals must not have
tangents, so second derivatives fail, and it cannot be batched; what `jax.custom_batching.custom_vmap` wraps has no
transpose.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Arrays = Sequence[Any]
# Of what is static, which operands have a gradient that somebody asks for, the operands, forward's outputs and the
# cotangents of its results: the gradients that are asked for.
Backward = Callable[[Any, tuple[bool, ...], Arrays, Arrays, Arrays], Arrays]
# Of what is static, the operands, and the axis of each along which it is batched, or None: the results, batched
# along their first; None where nothing can be joined.
Join = Callable[[Any, Arrays, Arrays], Arrays | None]

VALUES: dict[Primitive, Callable[..., Arrays]] = {}  # what each primitive computes, which no jaxpr shows


class Operation:
    """A function of arrays with kernels for its value and for its gradients.

    Args:
        name: as programs show it.
        forward: of what is static, the operands, and whether to keep something for `backward`: the results, and
            then what is kept.
        backward: see `Backward`.
        meaning: of what is static and the operands: the results, in operations that JAX can transform.
        results: of what is static, how many of forward's outputs are results.
        join: see `Join`; by default, batched calls are made one by one.
        exported: what takes the place of forward and backward in a program that is exported.
    """

    def __init__(
        self,
        name: str,
        *,
        forward: Callable[..., Arrays],
        backward: Backward,
        meaning: Callable[..., Arrays],
        results: Callable[[Any], int],
        join: Join = lambda static, operands, axes: None,
        exported: tuple[Callable[..., Arrays], Backward] | None = None,
    ) -> None:
        self._forward, self._backward = partial(_run_forward, forward), partial(_run_back, backward, results)
        self._meaning, self._results, self._join = meaning, results, join
        there = (forward, backward) if exported is None else exported
        abroad = partial(_run_forward, there[0]), partial(_run_back, there[1], results)
        self._forward_p = _define(name, self._forward, abroad[0], self._shapes_of_forward)
        self._tangent_p = _define(
            f"{name}_tangent", self._run_tangent, self._run_tangent, self._shapes_of_tangent
        )
        self._back_p = _define(f"{name}_back", self._backward, abroad[1], self._shapes_of_back)
        ad.primitive_jvps[self._forward_p] = self._differentiate
        batching.primitive_batchers[self._forward_p] = self._batch
        _follow(self._tangent_p, self._run_tangent)
        _follow(self._back_p, self._back_by_meaning)
        ad.primitive_transposes[self._tangent_p] = self._transpose_tangent
        ad.primitive_transposes[self._back_p] = self._transpose_back

    def __call__(self, static: Hashable, *operands: jax.Array) -> Arrays:
        """Return the results."""
        return self._forward_p.bind(*operands, static=static, keep=False)

    # Forward ---------------------------------------------------------------------------------------------

    def _shapes_of_forward(self, *operands: Any, static: Any, keep: bool) -> Arrays:
        given = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in operands]
        return jax.eval_shape(partial(self._forward, static=static, keep=keep), *given)

    def _differentiate(self, operands: Arrays, tangents: Arrays, *, static: Any, keep: bool) -> Any:
        outputs = self._forward_p.bind(*operands, static=static, keep=True)
        wanted = tuple(not isinstance(t, ad.Zero) for t in tangents)
        moved = [t for t in tangents if not isinstance(t, ad.Zero)]
        d_results = self._tangent_p.bind(*operands, *outputs, *moved, static=static, wanted=wanted)
        # What is left for `backward` depends on the operands, but is differentiated with them, not by itself.
        nothing = [ad.Zero(jax.typeof(kept)) for kept in outputs[self._results(static) :]]
        return (outputs, [*d_results, *nothing]) if keep else (outputs[: self._results(static)], d_results)

    def _batch(self, operands: Arrays, axes: Arrays, *, static: Any, keep: bool) -> Any:
        outputs = None if keep else self._join(static, operands, axes)
        if outputs is None:
            batched = [
                None if axis is None else jnp.moveaxis(o, axis, 0)
                for o, axis in zip(operands, axes, strict=True)
            ]

            def one(row: Arrays) -> Arrays:
                mine = [o if r is None else r for o, r in zip(operands, row, strict=True)]
                return self._forward_p.bind(*mine, static=static, keep=keep)

            outputs = lax.map(one, batched)
        return outputs, [0] * len(outputs)

    # The linear maps. Their arguments: the operands, forward's outputs, and what the map is linear in, which is the
    # tangents of the wanted operands, or the cotangents of the results ------------------------------------------

    def _run_tangent(self, *args: Any, static: Any, wanted: tuple[bool, ...]) -> Arrays:
        point, tangents = _cut(args, sum(wanted))
        operands = point[: len(wanted)]
        return jax.jvp(*_of_wanted(self._meaning, static, operands, wanted), tangents)[1]

    def _shapes_of_tangent(self, *args: Any, static: Any, wanted: tuple[bool, ...]) -> Arrays:
        return args[len(wanted) : len(wanted) + self._results(static)]

    def _transpose_tangent(
        self, cotangents: Arrays, *args: Any, static: Any, wanted: tuple[bool, ...]
    ) -> Arrays:
        point, tangents = _cut(args, sum(wanted))
        undefined = iter(map(ad.is_undefined_primal, tangents))
        asked = tuple(moves and next(undefined) for moves in wanted)
        filled = map(ad.instantiate_zeros, cotangents)
        gradients = iter(self._back_p.bind(*point, *filled, static=static, wanted=asked))
        return [None] * len(point) + [
            next(gradients) if ad.is_undefined_primal(t) else None for t in tangents
        ]

    def _back_by_meaning(self, *args: Any, static: Any, wanted: tuple[bool, ...]) -> Arrays:
        point, cotangents = _cut(args, self._results(static))
        return gradients_of(self._meaning, static, wanted, point[: len(wanted)], cotangents)

    def _shapes_of_back(self, *args: Any, static: Any, wanted: tuple[bool, ...]) -> Arrays:
        return [operand for operand, asked in zip(args, wanted, strict=False) if asked]

    def _transpose_back(
        self, cotangents: Arrays, *args: Any, static: Any, wanted: tuple[bool, ...]
    ) -> Arrays:
        point, linear = _cut(args, self._results(static))
        filled = map(ad.instantiate_zeros, cotangents)
        tangents = self._tangent_p.bind(*point, *filled, static=static, wanted=wanted)
        both = zip(tangents, linear, strict=True)
        return [None] * len(point) + [t if ad.is_undefined_primal(place) else None for t, place in both]


def gradients_of(
    meaning: Callable[..., Arrays],
    static: Any,
    wanted: tuple[bool, ...],
    operands: Arrays,
    cotangents: Arrays,
) -> Arrays:
    """Return the gradients of the wanted operands by JAX's own derivative."""
    function, values = _of_wanted(meaning, static, operands, wanted)
    return jax.vjp(function, *values)[1](tuple(cotangents))


def _of_wanted(
    meaning: Callable[..., Arrays], static: Any, operands: Arrays, wanted: tuple[bool, ...]
) -> tuple[Callable[..., Any], list[Any]]:
    """Return the meaning as a function of the wanted operands, and these."""

    def function(*values: Any) -> Arrays:
        fresh = iter(values)
        both = zip(operands, wanted, strict=True)
        return tuple(meaning(static, *(next(fresh) if asked else given for given, asked in both)))

    return function, [operand for operand, asked in zip(operands, wanted, strict=True) if asked]


def _run_forward(forward: Callable[..., Arrays], *operands: Any, static: Any, keep: bool) -> Arrays:
    return tuple(forward(static, operands, keep=keep))


def _run_back(
    backward: Backward, results: Callable[[Any], int], *args: Any, static: Any, wanted: tuple[bool, ...]
) -> Arrays:
    point, cotangents = _cut(args, results(static))
    return tuple(backward(static, wanted, point[: len(wanted)], point[len(wanted) :], cotangents))


def _cut(args: Arrays, linear: int) -> tuple[list[Any], list[Any]]:
    return list(args[: len(args) - linear]), list(args[len(args) - linear :])


def _define(
    name: str, run: Callable[..., Arrays], exported: Callable[..., Arrays], shapes: Callable[..., Arrays]
) -> Primitive:
    """Return a primitive of this value, and of another one in programs that are exported."""

    def avals(*args: Any, **static: Any) -> list[Any]:
        return [jax.core.ShapedArray(a.shape, a.dtype) for a in shapes(*args, **static)]

    def lower(context: Any, *args: Any, **static: Any) -> Any:
        chosen = exported if context.module_context.lowering_parameters.for_export else run
        return mlir.lower_fun(chosen, multiple_results=True)(context, *args, **static)

    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_impl(run)
    VALUES[primitive] = run
    primitive.def_abstract_eval(avals)
    mlir.register_lowering(primitive, lower)
    return primitive


def _follow(primitive: Primitive, meaning: Callable[..., Arrays]) -> None:
    """Differentiate and batch a primitive as its meaning is."""

    def differentiate(operands: Arrays, tangents: Arrays, **static: Any) -> Any:
        moving = [n for n, t in enumerate(tangents) if not isinstance(t, ad.Zero)]

        def of_moving(*values: jax.Array) -> Arrays:
            given = dict(zip(moving, values, strict=True))
            return meaning(*(given.get(n, operand) for n, operand in enumerate(operands)), **static)

        return jax.jvp(of_moving, [operands[n] for n in moving], [tangents[n] for n in moving])

    def batch(operands: Arrays, axes: Arrays, **static: Any) -> Any:
        results = jax.vmap(partial(meaning, **static), in_axes=tuple(axes))(*operands)
        return results, [0] * len(results)

    ad.primitive_jvps[primitive] = differentiate
    batching.primitive_batchers[primitive] = batch


# Gradients without a value -------------------------------------------------------------------------------------


def gradient_of_segments(a: jax.Array, length: int) -> jax.Array:
    """Return zeros, [T / K, K, ...], that are differentiated as if they were ``a.reshape(T / K, K, ...)``.

    Added to what was sliced from ``stop_gradient(a)``, they collect its gradient in one array. By `jax.custom_jvp`,
    second derivatives would be wrong: what is computed again in a backward pass loses such rules.
    """
    return _gradient_p.bind(a, length=length)[0]


def _segments_of(a: Any, length: int) -> tuple[int, ...]:
    return (a.shape[0] // length, length, *a.shape[1:])


def _zeros(a: Any, *, length: int) -> Arrays:
    return (jnp.zeros(_segments_of(a, length), a.dtype),)


def _differentiate_zeros(operands: Arrays, tangents: Arrays, *, length: int) -> Any:
    (a,), (tangent,) = operands, tangents  # one that moves, or there would be nothing to differentiate
    return _gradient_p.bind(a, length=length), [tangent.reshape(_segments_of(a, length))]


def _batch_zeros(operands: Arrays, axes: Arrays, *, length: int) -> Any:
    return _gradient_p.bind(jnp.moveaxis(operands[0], axes[0], 1), length=length), [2]


_gradient_p = _define(
    "gradient_of_segments",
    _zeros,
    _zeros,
    lambda a, *, length: [jax.ShapeDtypeStruct(_segments_of(a, length), a.dtype)],
)
ad.primitive_jvps[_gradient_p] = _differentiate_zeros
batching.primitive_batchers[_gradient_p] = _batch_zeros
