"""The calls of cuDNN's LSTM as JAX primitives that can still be transformed in every way.

`jax.experimental.rnn.lstm` has a custom VJP: forward mode, second derivatives and `vmap` end there. Here three
primitives have rules of their own. Values and first gradients come from cuDNN; everything else comes from the scan,
which means the same (`by_scan`):

==========  =================================  ========================================  ======================
primitive   value                              derivative                                batched by `vmap`
==========  =================================  ========================================  ======================
`forward`   cuDNN                              `tangent`                                 rows joined, one call
`tangent`   that of the scan                   that of the scan; transposed: `backward`  that of the scan
`backward`  cuDNN, from forward's ``reserve``  that of the scan; transposed: `tangent`   that of the scan
==========  =================================  ========================================  ======================

Where a program is compiled for another platform than CUDA, or exported (JAX promises no stability of these calls),
all three are the scan's.

`jax.custom_derivatives.linear_call` inside a `jax.custom_jvp` would be shorter. But its residuals must not have
tangents, so second derivatives fail, and it cannot be batched; what `jax.custom_batching.custom_vmap` wraps has no
transpose.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import rnn
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxrnn import cells
from jaxrnn.ops import scan
from jaxrnn.ops.reference import without_padding

Arrays = Sequence[Any]


class Stack(NamedTuple):
    """What a call computes: L layers of D directions, each on all outputs of the one before."""

    input_features: int
    hidden_features: int
    layers: int
    directions: int
    tf32: bool  # products may round their factors to 10 bits of mantissa; else IEEE float32
    ragged: bool  # some lengths may be less than T

    def shapes(self) -> list[dict[str, tuple[int, ...]]]:
        """Return {name: shape} of the parameters, per layer and direction."""
        wide = self.directions * self.hidden_features
        return [
            cells.LSTM.parameter_shapes(
                self.input_features if index < self.directions else wide, self.hidden_features
            )
            for index in range(self.layers * self.directions)
        ]

    @property
    def parameters(self) -> int:
        """The number of all weights and biases."""
        return sum(math.prod(shape) for shapes in self.shapes() for shape in shapes.values())


class Device(NamedTuple):
    """Who computes, on which platform. Tests put an emulation here."""

    platform: str  # as `lax.platform_dependent` calls it
    dtype: Any
    forward: Callable[..., tuple[jax.Array, ...]]
    backward: Callable[..., tuple[jax.Array, ...]]


def _cudnn_forward(
    stack: Stack,
    x: jax.Array,  # [B, T, I]
    h: jax.Array,  # [L*D, B, H]
    c: jax.Array,  # [L*D, B, H]
    weights: jax.Array,  # all parameters, see `pack`
    lengths: jax.Array,  # int32 [B], 1 to T
) -> tuple[jax.Array, ...]:
    """Return outputs [B, T, D*H], final h and c [L*D, B, H], and what only `_cudnn_backward` can read."""
    results, residuals = rnn.lstm_fwd(x, h, c, weights, lengths, *_options(stack))
    return *results, residuals[-1]


def _cudnn_backward(
    stack: Stack, x: jax.Array, h: jax.Array, c: jax.Array, weights: jax.Array, lengths: jax.Array,
    y: jax.Array, reserve: jax.Array, dy: jax.Array, dh_n: jax.Array, dc_n: jax.Array,
) -> tuple[jax.Array, ...]:  # fmt: skip
    """Return the gradients of x, h, c and the weights, given those of the results."""
    residuals = (x, h, c, weights, lengths, y, reserve)
    pull: Any = rnn.lstm_bwd  # not typed
    return pull(*_options(stack), residuals, (dy, dh_n, dc_n))[:4]


def _options(stack: Stack) -> tuple[Any, ...]:
    precision = lax.Precision.HIGH if stack.tf32 else lax.Precision.HIGHEST  # JAX refuses DEFAULT
    bidirectional = stack.directions == 2
    return stack.input_features, stack.hidden_features, stack.layers, 0.0, bidirectional, (precision,) * 2


CUDNN = Device("cuda", jnp.float32, _cudnn_forward, _cudnn_backward)
DEVICE = CUDNN


# What the calls mean ---------------------------------------------------------------------------------------


def pack(stack: Stack, layers: Sequence[cells.Parameters]) -> jax.Array:
    """Return cuDNN's vector of parameters: all matrices, then all biases, zeros where there are none.

    Within both: by layer, forward before reverse direction; W_ih before W_hh, b_ih before b_hh; rows in the order
    i, f, g, o, which is torch's.
    """

    def block(shape: dict[str, tuple[int, ...]], params: cells.Parameters, name: str) -> jax.Array:
        return params[name].reshape(-1) if name in params else jnp.zeros(shape[name], DEVICE.dtype)

    both = list(zip(stack.shapes(), layers, strict=True))
    return jnp.concatenate(
        [
            block(shape, params, name)
            for names in (("weight_ih", "weight_hh"), ("bias_ih", "bias_hh"))
            for shape, params in both
            for name in names
        ]
    )


def unpack(stack: Stack, weights: jax.Array) -> list[dict[str, jax.Array]]:
    """Return the parameters per layer and direction, of the vector that `pack` made."""
    places = [
        (layer, name, shape[name])
        for names in (("weight_ih", "weight_hh"), ("bias_ih", "bias_hh"))
        for layer, shape in enumerate(stack.shapes())
        for name in names
    ]
    blocks = lax.split(weights, [math.prod(shape) for _, _, shape in places])
    layers: list[dict[str, jax.Array]] = [{} for _ in stack.shapes()]
    for (layer, name, shape), block in zip(places, blocks, strict=True):
        layers[layer][name] = block.reshape(shape)
    return layers


def by_scan(
    stack: Stack, x: jax.Array, h: jax.Array, c: jax.Array, weights: jax.Array, lengths: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return what `forward` does but the reserve, computed by `scan.unroll`."""
    steps = x.shape[1]
    valid = (jnp.arange(steps)[:, None] < lengths)[..., None] if stack.ragged else None
    precision = lax.Precision.DEFAULT if stack.tf32 else lax.Precision.HIGHEST
    states = [cells.LSTMState(*fields) for fields in zip(h, c, strict=True)]
    y, finals = scan.unroll(
        cells.LSTM, unpack(stack, weights), x.swapaxes(0, 1), states, valid, None,
        bidirectional=stack.directions == 2, precision=precision,
    )  # fmt: skip
    y = without_padding(valid, y)
    return y.swapaxes(0, 1), jnp.stack([s.h for s in finals]), jnp.stack([s.c for s in finals])


# Of the primitives' operands, `_POINT` say where the derivative is taken: x, h, c, weights, lengths, y, reserve.
_POINT = 7


def _tangent_by_scan(stack: Stack, *operands: jax.Array) -> Arrays:
    """Return the tangents of the results; the operands after `_POINT` are those of x, h, c and weights."""
    *inputs, lengths = operands[:5]
    return jax.jvp(partial(_with_lengths, stack, lengths), tuple(inputs), operands[_POINT:])[1]


def _backward_by_scan(stack: Stack, *operands: jax.Array) -> Arrays:
    """Return the gradients of x, h, c and weights; the operands after `_POINT` are those of the results."""
    *inputs, lengths = operands[:5]
    return jax.vjp(partial(_with_lengths, stack, lengths), *inputs)[1](tuple(operands[_POINT:]))


def _with_lengths(stack: Stack, lengths: jax.Array, *inputs: jax.Array) -> Any:
    x, h, c, weights = inputs
    return by_scan(stack, x, h, c, weights, lengths)


def _forward_by_scan(stack: Stack, x: jax.Array, *rest: jax.Array) -> Arrays:
    reserve = _reserve(stack, x.shape[1], x.shape[0])
    return *by_scan(stack, x, *rest), jnp.zeros(reserve.shape, reserve.dtype)


def reserve_bytes(stack: Stack, steps: int, rows: int) -> int:
    """Return the size of what a call keeps for the backward pass; only a device with cuDNN can tell."""
    reserve = _reserve(stack, steps, rows)
    return math.prod(reserve.shape) * reserve.dtype.itemsize


def _reserve(stack: Stack, steps: int, rows: int) -> Any:
    array = partial(jax.ShapeDtypeStruct, dtype=DEVICE.dtype)
    state = array((stack.layers * stack.directions, rows, stack.hidden_features))
    x, weights = array((rows, steps, stack.input_features)), array((stack.parameters,))
    lengths = jax.ShapeDtypeStruct((rows,), jnp.int32)
    return jax.eval_shape(partial(DEVICE.forward, stack), x, state, state, weights, lengths)[-1]


# The primitives --------------------------------------------------------------------------------------------


def _define(name: str, on_device: Callable[..., Any], elsewhere: Callable[..., Arrays]) -> Primitive:
    """Return a primitive of this value, with a parameter `stack`."""

    def run(*operands: jax.Array, stack: Stack) -> Any:
        there = {DEVICE.platform: lambda *a: tuple(on_device(stack, *a))}
        return lax.platform_dependent(*operands, **there, default=lambda *a: tuple(elsewhere(stack, *a)))

    def avals(*operands: Any, stack: Stack) -> list[Any]:
        given = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in operands]
        return [
            jax.core.ShapedArray(a.shape, a.dtype) for a in jax.eval_shape(partial(on_device, stack), *given)
        ]

    def lower(context: Any, *operands: Any, stack: Stack) -> Any:
        exported = context.module_context.lowering_parameters.for_export
        chosen = partial(elsewhere, stack) if exported else partial(run, stack=stack)
        return mlir.lower_fun(chosen, multiple_results=True)(context, *operands)

    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_impl(run)
    primitive.def_abstract_eval(avals)
    mlir.register_lowering(primitive, lower)
    return primitive


def _follow(primitive: Primitive, meaning: Callable[..., Arrays]) -> None:
    """Differentiate and batch a primitive as its meaning is."""

    def differentiate(operands: Arrays, tangents: Arrays, *, stack: Stack) -> Any:
        moving = [n for n, t in enumerate(tangents) if not isinstance(t, ad.Zero)]

        def of_moving(*values: jax.Array) -> Arrays:
            given = dict(zip(moving, values, strict=True))
            return meaning(stack, *(given.get(n, operand) for n, operand in enumerate(operands)))

        return jax.jvp(of_moving, [operands[n] for n in moving], [tangents[n] for n in moving])

    def batch(operands: Arrays, axes: Arrays, *, stack: Stack) -> Any:
        results = jax.vmap(partial(meaning, stack), in_axes=tuple(axes))(*operands)
        return results, [0] * len(results)

    ad.primitive_jvps[primitive] = differentiate
    batching.primitive_batchers[primitive] = batch


def _transpose_into(primitive: Primitive, other: Primitive) -> None:
    """Let the transpose of a primitive, linear in what follows `_POINT`, be another."""

    def transpose(cotangents: Arrays, *operands: Any, stack: Stack) -> Any:
        results = other.bind(*operands[:_POINT], *map(ad.instantiate_zeros, cotangents), stack=stack)
        wanted = map(ad.is_undefined_primal, operands[_POINT:])
        return [None] * _POINT + [r if w else None for r, w in zip(results, wanted, strict=True)]

    ad.primitive_transposes[primitive] = transpose


forward_p = _define("cudnn_lstm", lambda stack, *a: DEVICE.forward(stack, *a), _forward_by_scan)
tangent_p = _define("cudnn_lstm_tangent", _tangent_by_scan, _tangent_by_scan)
backward_p = _define("cudnn_lstm_backward", lambda stack, *a: DEVICE.backward(stack, *a), _backward_by_scan)
_follow(tangent_p, _tangent_by_scan)
_follow(backward_p, _backward_by_scan)
_transpose_into(tangent_p, backward_p)
_transpose_into(backward_p, tangent_p)


def forward(
    stack: Stack, x: jax.Array, h: jax.Array, c: jax.Array, weights: jax.Array, lengths: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return outputs [B, T, D*H] and the final h and c [L*D, B, H], see `_cudnn_forward`."""
    y, h, c, _ = forward_p.bind(x, h, c, weights, lengths, stack=stack)
    return y, h, c


def _differentiate_forward(operands: Arrays, tangents: Arrays, *, stack: Stack) -> Any:
    y, h, c, reserve = forward_p.bind(*operands, stack=stack)
    moving = map(ad.instantiate_zeros, tangents[:4])
    d_results = tangent_p.bind(*operands, y, reserve, *moving, stack=stack)
    # The reserve depends on the operands, but what is computed from it is differentiated without it.
    return [y, h, c, reserve], [*d_results, ad.Zero(jax.typeof(reserve))]


def _batch_forward(operands: Arrays, axes: Arrays, *, stack: Stack) -> Any:
    """Join the axis with the rows of the batch, where all have the same weights."""
    count = next(o.shape[a] for o, a in zip(operands, axes, strict=True) if a is not None)
    if axes[3] is not None or count == 0:
        y, h, c = jax.vmap(partial(by_scan, stack), in_axes=tuple(axes))(*operands)
    else:

        def joined(n: int, to: int) -> jax.Array:
            operand, axis = operands[n], axes[n]
            if axis is None:
                operand, axis = jnp.repeat(operand[None], count, 0), 0
            return lax.collapse(jnp.moveaxis(operand, axis, to), to, to + 2)

        weights, lengths = operands[3], joined(4, 0)
        y, h, c, _ = forward_p.bind(joined(0, 0), joined(1, 1), joined(2, 1), weights, lengths, stack=stack)
        y = y.reshape(count, -1, *y.shape[1:])
        h, c = (jnp.moveaxis(s.reshape(s.shape[0], count, -1, s.shape[-1]), 1, 0) for s in (h, c))
    return [y, h, c, _reserves(operands, axes, stack)], [0] * 4


def _reserves(operands: Arrays, axes: Arrays, stack: Stack) -> jax.Array:
    """Return one reserve per call.

    Only a gradient function that left the `vmap` reads them. Anywhere else this loop of calls computes what
    nobody reads, and XLA removes it.
    """
    operands = [lax.stop_gradient(o) for o in operands]
    batched = [None if a is None else jnp.moveaxis(o, a, 0) for o, a in zip(operands, axes, strict=True)]

    def one(row: Arrays) -> jax.Array:
        mine = (o if r is None else r for o, r in zip(operands, row, strict=True))
        return forward_p.bind(*mine, stack=stack)[-1]

    return lax.map(one, batched)


ad.primitive_jvps[forward_p] = _differentiate_forward
batching.primitive_batchers[forward_p] = _batch_forward
