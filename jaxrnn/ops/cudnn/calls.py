"""The calls of cuDNN's LSTM as one operation that JAX can transform in every way (`jaxrnn.ops.primitives`).

`jax.experimental.rnn.lstm` has a custom VJP: forward mode, second derivatives and `vmap` end there. Here values and
first gradients come from cuDNN, everything else from the scan, which means the same (`by_scan`). So does all of it
where a program is compiled for another platform than CUDA, or exported: JAX promises no stability of these calls.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import rnn

from jaxrnn import cells
from jaxrnn.ops import scan
from jaxrnn.ops.primitives import Operation, gradients_of
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


# The operation ---------------------------------------------------------------------------------------------


def forward(
    stack: Stack, x: jax.Array, h: jax.Array, c: jax.Array, weights: jax.Array, lengths: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return outputs [B, T, D*H] and the final h and c [L*D, B, H], see `_cudnn_forward`."""
    y, h, c = LSTM(stack, x, h, c, weights, lengths)
    return y, h, c


def _here_or_there(there: Callable[..., Arrays], elsewhere: Callable[..., Arrays], *arrays: jax.Array) -> Any:
    """Return what is computed on a device with cuDNN, or elsewhere."""
    return lax.platform_dependent(*arrays, **{DEVICE.platform: there}, default=elsewhere)


def _forward(stack: Stack, operands: Arrays, *, keep: bool) -> Arrays:
    def there(*operands: jax.Array) -> Arrays:
        return tuple(DEVICE.forward(stack, *operands))[: 4 if keep else 3]

    return _here_or_there(there, lambda *operands: _forward_elsewhere(stack, operands, keep=keep), *operands)


def _backward(
    stack: Stack, wanted: tuple[bool, ...], operands: Arrays, outputs: Arrays, cotangents: Arrays
) -> Arrays:
    count = len(operands)

    def there(*arrays: jax.Array) -> Arrays:
        y, _, _, reserve, *cotangents = arrays[count:]
        gradients = DEVICE.backward(stack, *arrays[:count], y, reserve, *cotangents)
        return tuple(gradient for gradient, want in zip(gradients, wanted, strict=False) if want)

    def elsewhere(*arrays: jax.Array) -> Arrays:
        return _backward_elsewhere(stack, wanted, arrays[:count], (), arrays[count + 4 :])

    return _here_or_there(there, elsewhere, *operands, *outputs, *cotangents)


def _forward_elsewhere(stack: Stack, operands: Arrays, *, keep: bool) -> Arrays:
    results = by_scan(stack, *operands)
    if not keep:
        return results
    rows, steps, _ = operands[0].shape
    reserve = _reserve(stack, steps, rows)
    return *results, jnp.zeros(reserve.shape, reserve.dtype)


def _backward_elsewhere(
    stack: Stack, wanted: tuple[bool, ...], operands: Arrays, outputs: Arrays, cotangents: Arrays
) -> Arrays:
    return gradients_of(by_scan, stack, wanted, operands, cotangents)


def _join(stack: Stack, operands: Arrays, axes: Sequence[int | None]) -> Arrays | None:
    """Join what is batched with the rows of the batch, where all have the same weights."""
    if axes[3] is not None:
        return None
    count = next(o.shape[a] for o, a in zip(operands, axes, strict=True) if a is not None)

    def joined(n: int, to: int) -> jax.Array:
        operand, axis = operands[n], axes[n]
        if axis is None:
            operand, axis = jnp.repeat(operand[None], count, 0), 0
        return lax.collapse(jnp.moveaxis(operand, axis, to), to, to + 2)

    y, h, c = LSTM(stack, joined(0, 0), joined(1, 1), joined(2, 1), operands[3], joined(4, 0))
    apart = [jnp.moveaxis(s.reshape(s.shape[0], count, -1, s.shape[-1]), 1, 0) for s in (h, c)]
    return [y.reshape(count, -1, *y.shape[1:]), *apart]


LSTM = Operation(
    "cudnn_lstm", forward=_forward, backward=_backward, meaning=by_scan, results=lambda stack: 3, join=_join,
    exported=(_forward_elsewhere, _backward_elsewhere),
)  # fmt: skip
