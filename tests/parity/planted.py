"""A layer with a bug in one quantity of one step, at a place that is an input: one program serves every place."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

import jaxrnn
from parity.longhand import recurrent, surface
from parity.longhand.recurrent import FAITHFUL, GATES

OPTIONS = {"num_layers": 3, "bidirectional": True, "batch_first": True}


def quantities(kind):
    """Return what a step computes: pre-activations, gates, states."""
    names = [name for gate in GATES[kind] for name in (f"z_{gate}", gate)]
    return [*names, "c", "h"] if kind == "LSTM" else [*names, "h"]


class Place(nnx.Variable):
    """Layer, direction, step and the number of the quantity; -1 is nowhere."""


def planted(kind, recipe_at):
    """Return a layer class that computes by `recipe_at(bug)`; `bug(at, name)` is whether it is at a quantity."""
    names = quantities(kind)

    class Planted(getattr(jaxrnn, kind)):
        def __call__(self, input, hx=None, *, lengths=None):
            where = self.place.get_value()

            def bug(at, name):
                here = jnp.asarray([at.layer, at.direction, at.step, names.index(name)])
                return jnp.all(here == where)

            return surface.call_layer(self, recipe_at(bug), input, hx, lengths)

    def make(features, hidden):
        layer = Planted(features, hidden, **OPTIONS, rngs=nnx.Rngs(0))
        layer.place = Place(jnp.full(4, -1))
        return layer

    return make


def weakened(bug):
    """Compute one quantity from something a tenth too small: the right number is computed nowhere."""

    def weak(at, name, value):
        return jnp.where(bug(at, name), 0.9, 1.0).astype(value.dtype) * value

    def sums(at, params, x, h):
        x_sums, h_sums = recurrent.sums(at, params, x, h)
        gates = [gate for gate in at.network.gates if gate != "n"]  # z_n is put together in `reset`
        count = len(at.network.gates)
        blocks = jnp.split(h_sums, count, axis=-1)
        changed = [weak(at, f"z_{gate}", block) for gate, block in zip(gates, blocks, strict=False)]
        return x_sums, jnp.concatenate([*changed, *blocks[len(gates) :]], axis=-1)

    def reset(at, params, r, x_n, h_n, state):
        return recurrent.reset(at, params, r, weak(at, "z_n", x_n), h_n, state)

    def activate(at, gate, z):
        return recurrent.activate(at, gate, weak(at, gate, z))

    def remember(at, i, f, g, before):
        return recurrent.remember(at, i, f, weak(at, "c", g), before)

    def emit(at, params, o, c):
        return recurrent.emit(at, params, o, weak(at, "h", c))

    def mix(at, z, n, before):
        return recurrent.mix(at, z, weak(at, "h", n), before)

    parts = {
        "sums": sums,
        "reset": reset,
        "activate": activate,
        "remember": remember,
        "emit": emit,
        "mix": mix,
    }
    return dataclasses.replace(FAITHFUL, **parts)


def cut(bug):
    """Stop the gradient of one quantity."""

    def note(at, name, value):
        if name == "c'":
            return value
        return jnp.where(bug(at, name), jax.lax.stop_gradient(value), value)

    return dataclasses.replace(FAITHFUL, note=note)
