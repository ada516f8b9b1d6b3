"""Four mistakes that people make when they port a recurrent network, each with every name and shape right.

Factories for `parity run CASE --candidate tests.parity.wrong_models:FACTORY`.
"""

import jax
import jax.numpy as jnp
from flax import nnx

import jaxrnn
from parity.designed import FEATURES, HIDDEN


def with_parameters(layer, change):
    """Return a copy of a layer with `change(name, value)` for every parameter; gradients pass through."""
    layer = nnx.clone(layer)
    for name, parameter in list(vars(layer).items()):
        if isinstance(parameter, nnx.Param):
            parameter.set_value(change(name, parameter.get_value()))
    return layer


class SwappedGates(jaxrnn.LSTM):
    """Reads the rows of the weights as i, f, o, g."""

    def __call__(self, *args, **kwargs):
        def swap(name, value):
            i, f, g, o = jnp.split(value, 4)
            return jnp.concatenate([i, f, o, g])

        return jaxrnn.LSTM.__call__(with_parameters(self, swap), *args, **kwargs)


class DroppedBias(jaxrnn.GRU):
    """Leaves out the recurrent bias of the candidate gate, as Flax's own GRUCell does."""

    def __call__(self, *args, **kwargs):
        def drop(name, value):
            return value.at[2 * HIDDEN :].set(0) if name.startswith("bias_hh") else value

        return jaxrnn.GRU.__call__(with_parameters(self, drop), *args, **kwargs)


class CutBPTT(jaxrnn.LSTM):
    """Stops the gradient at every step: the outputs are exact, and only gradients tell."""

    def __call__(self, input, hx=None):
        def one_step(state, x):
            output, state = jaxrnn.LSTM.__call__(self, x[None], jax.lax.stop_gradient(state))
            return state, output[0]

        zeros = jnp.zeros((1, input.shape[1], self.hidden_size), input.dtype)
        state, outputs = jax.lax.scan(one_step, (zeros, zeros) if hx is None else hx, input)
        return outputs, state


class LengthsOffByOne(jaxrnn.RNN):
    """Takes `lengths` for the index of the last valid step."""

    def __call__(self, input, hx=None, *, lengths):
        return super().__call__(input, hx, lengths=jnp.minimum(lengths + 1, input.shape[1]))


def swapped_gates():
    return SwappedGates(FEATURES, HIDDEN, rngs=nnx.Rngs(0))


def dropped_b_hn():
    return DroppedBias(FEATURES, HIDDEN, rngs=nnx.Rngs(0))


def cut_bptt():
    return CutBPTT(FEATURES, HIDDEN, rngs=nnx.Rngs(0))


def lengths_off_by_one():
    deep = {"num_layers": 2, "bidirectional": True, "batch_first": True}
    return LengthsOffByOne(FEATURES, HIDDEN, **deep, rngs=nnx.Rngs(0))


def broken():
    """A model that raises when it is called."""

    class Broken(jaxrnn.LSTM):
        def __call__(self, *args, **kwargs):
            raise ZeroDivisionError("a bug in the candidate")

    return Broken(FEATURES, HIDDEN, rngs=nnx.Rngs(0))


def without_a_bias():
    """A model that cannot hold the reference's weights."""
    return jaxrnn.LSTM(FEATURES, HIDDEN, bias=False, rngs=nnx.Rngs(0))
