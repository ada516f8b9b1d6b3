"""cuDNN's LSTM in a few lines, from its documentation, in the place of the calls on a device.

Written from NVIDIA's description of `cudnnRNNForward`, `cudnnRNNBackwardData_v8` and `cudnnGetRNNWeightParams`, and
with the unpacking of `jax.experimental.rnn`; it shares no code with what is tested. It is as unkind as the
documentation allows: a length of 0 ruins everything, and so does a padding that is not finite, or has gradients.
What is not promised is NaN, and so is all that a backward pass returns without the reserve of its own forward pass.
"""

import jax
import jax.numpy as jnp
from jax.experimental import rnn

from jaxrnn.ops.cudnn.calls import Device

SPARE = 3  # the reserve is longer than what is kept


def forward(stack, x, h, c, weights, lengths):
    y, h_n, c_n = _network(stack, x, h, c, weights, lengths)
    allowed = jnp.all((lengths >= 1) & (lengths <= x.shape[1])) & jnp.all(jnp.isfinite(x))
    y, h_n, c_n = (jnp.where(allowed, a, jnp.nan) for a in (y, h_n, c_n))
    return y, h_n, c_n, _reserve(x, h, c, weights)


def backward(stack, x, h, c, weights, lengths, y, reserve, dy, dh_n, dc_n):
    def run(x, h, c, weights):
        return _network(stack, x, h, c, weights, lengths)

    (again, *_), pull = jax.vjp(run, x, h, c, weights)
    dx, *rest = pull((dy, dh_n, dc_n))
    dx = jnp.where(_inside(x, lengths), dx, jnp.nan)  # no promise about padding
    tidy = jnp.all(_inside(x, lengths) | (dy == 0)) & jnp.all(jnp.isfinite(x))
    mine = tidy & jnp.all(reserve == _reserve(x, h, c, weights)) & jnp.all(again == y) & jnp.all(lengths >= 1)
    return tuple(jnp.where(mine, gradient, jnp.nan) for gradient in (dx, *rest))


def emulated(platform="cpu", dtype=jnp.float64):
    return Device(platform, dtype, forward, backward)


def _reserve(x, h, c, weights):
    kept = jnp.concatenate([a.reshape(-1) for a in (x, h, c)])
    return jnp.pad(kept * 2 + weights[0], (0, SPARE))


def _inside(x, lengths):
    return (jnp.arange(x.shape[1]) < lengths[:, None])[..., None]


def _network(stack, x, h, c, weights, lengths):
    """Run every layer and direction; a row that has ended, or has not begun, waits."""
    count, hidden = stack.layers * stack.directions, stack.hidden_features
    w_ih, w_hh, b_ih, b_hh = rnn.unpack_lstm_weights(
        weights, stack.input_features, hidden, stack.layers, stack.directions == 2
    )
    assert len(w_ih) == count
    final_h, final_c = [], []
    for layer in range(stack.layers):
        sides = []
        for direction in range(stack.directions):
            n = layer * stack.directions + direction
            h_t, c_t, outputs = h[n], c[n], {}
            times = range(x.shape[1])
            for t in reversed(times) if direction else times:
                runs = (t < lengths)[:, None]
                given = jnp.where(runs, x[:, t], 0)
                sums = given @ w_ih[n].T + b_ih[n] + h_t @ w_hh[n].T + b_hh[n]
                i, f, g, o = (sums[:, k * hidden : (k + 1) * hidden] for k in range(4))
                c_new = c_t / (1 + jnp.exp(-f)) + jnp.tanh(g) / (1 + jnp.exp(-i))
                h_new = jnp.tanh(c_new) / (1 + jnp.exp(-o))
                h_t, c_t = jnp.where(runs, h_new, h_t), jnp.where(runs, c_new, c_t)
                outputs[t] = jnp.where(runs, h_new, 0)
            sides.append(jnp.stack([outputs[t] for t in times], axis=1))
            final_h.append(h_t)
            final_c.append(c_t)
        x = jnp.concatenate(sides, axis=-1)
    return x, jnp.stack(final_h), jnp.stack(final_c)
