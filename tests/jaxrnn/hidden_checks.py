"""Hidden units spread over four devices of a CPU, beside one: `python -m tests.jaxrnn.hidden_checks quick`."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxrnn
from jaxrnn.ops.planning import planning_for
from jaxrnn.sharding import HiddenSharded
from tests.jaxrnn.common import draw, fill
from tests.jaxrnn.on_devices import counted, everything, initial, main, mesh_of, refused, worst

T, B, I, H = 11, 3, 3, 8


def layer_of(make, layers=1, dtype=jnp.float64, **options):
    return fill(make(I, H, layers, param_dtype=dtype, rngs=nnx.Rngs(0, dropout=1), **options), dtype)


def ragged(batch_first=False):
    marks = jnp.zeros((T, B), bool).at[3, 0].set(True).at[4, 2].set(True)
    return {"lengths": jnp.array([11, 0, 5]), "resets": marks.T if batch_first else marks}


def x_of(batch_first=False, dtype=jnp.float64):
    x = jnp.asarray(draw(9, T, B, I), dtype)
    return x.swapaxes(0, 1) if batch_first else x


def error(make, layers=1, **how):
    layer = layer_of(make, layers, **how)
    x, options = x_of(layer.batch_first), ragged(layer.batch_first)

    def call(layer, x, state):
        return layer(x, state, **options)

    wide = HiddenSharded(layer, mesh_of("model", 4))
    results, (of_weights, *others) = everything(call, wide, x, initial(layer, B))
    nnx.update(wide.layer, of_weights.layer)
    ours = results, nnx.state(wide.gathered(), nnx.Param), others
    results, (of_weights, *others) = everything(call, layer, x, initial(layer, B))
    return worst(ours, (results, of_weights, others))


def collectives_of(make, argument=0, **how):
    """Return those of the gradient of weights (0) or of x (1)."""
    structure, weights = nnx.split(HiddenSharded(layer_of(make, **how), mesh_of("model", 4)))

    def loss(weights, x):
        return jnp.square(nnx.merge(structure, weights)(x)[0]).mean()

    return counted(jax.grad(loss, argument), weights, x_of())


def places():
    """Return which rows of which gates a device holds, of weights that say where they are."""
    layer = layer_of(jaxrnn.LSTM)
    layer.weight_ih_l0[...] = jnp.broadcast_to(jnp.arange(4.0 * H)[:, None], (4 * H, I))
    wide = HiddenSharded(layer, mesh_of("model", 4))
    shards = wide.layer.weight_ih_l0[...].addressable_shards
    rows = [
        np.asarray(shard.data)[:, :, 0].tolist() for shard in sorted(shards, key=lambda s: s.index[1].start)
    ]
    same = np.array_equal(wide.gathered().weight_ih_l0[...], layer.weight_ih_l0[...])
    return {"rows": rows, "gathered": same}


def training():
    """Return the losses of a training run, spread and alone, with dropout, and what was drawn."""
    found = []
    for spread in (True, False):
        model = layer_of(jaxrnn.GRU, 2, dropout=0.5)
        model = HiddenSharded(model, mesh_of("model", 4)) if spread else model
        optimizer = nnx.Optimizer(model, jaxrnn.optim.adam(1e-2), wrt=nnx.Param)
        history = jaxrnn.train.fit(
            model, optimizer, lambda model, x: jnp.square(model(x)[0]).mean(), lambda epoch: [x_of()] * 2,
            epochs=2, progress=False,
        )  # fmt: skip
        found.append(history.train_loss)
    return found


def refusals():
    mesh = mesh_of("model", 4)
    wide = HiddenSharded(layer_of(jaxrnn.LSTM), mesh)
    packed = jaxrnn.sequence.pack_padded_sequence(x_of(), [11, 3, 2])
    cases = {
        "units": lambda: HiddenSharded(jaxrnn.GRU(I, 6, rngs=nnx.Rngs(0)), mesh),
        "projection": lambda: HiddenSharded(jaxrnn.LSTM(I, 8, proj_size=2, rngs=nnx.Rngs(0)), mesh),
        "kernel": lambda: HiddenSharded(jaxrnn.LSTM(I, 8, implementation="cudnn", rngs=nnx.Rngs(0)), mesh),
        "minimal": lambda: HiddenSharded(jaxrnn.MinGRU(I, 8, rngs=nnx.Rngs(0)), mesh),
        "packed": lambda: wide(packed),
        "features": lambda: wide(x_of()[..., :2]),
        "state": lambda: wide(x_of(), (jnp.zeros((1, B, H)), jnp.zeros((1, B, 2)))),
        "lengths": lambda: wide(x_of(), lengths=[12, 1, 1]),
    }
    return {name: refused(work) for name, work in cases.items()}


def quick():
    return {
        "errors": {"LSTM": error(jaxrnn.LSTM)},
        "collectives": {"LSTM": collectives_of(jaxrnn.LSTM)},
        "places": places(),
        "refused": refusals(),
    }


def thorough():
    errors = {
        "RNN": error(jaxrnn.RNN),
        "GRU, carry": error(jaxrnn.GRU, memory="carry"),
        "PeepholeLSTM, segments": error(jaxrnn.PeepholeLSTM, memory=4),
        "LSTM, two layers of two directions": error(jaxrnn.LSTM, 2, bidirectional=True, batch_first=True),
    }
    with planning_for("gpu"):  # what a step leaves behind is one array there
        errors["LSTM, packed"] = error(jaxrnn.LSTM)
    return {
        "errors": errors,
        "collectives": {"GRU": collectives_of(jaxrnn.GRU), "x": collectives_of(jaxrnn.GRU, 1)},
        "training": training(),
    }


if __name__ == "__main__":
    main(4, quick=quick, thorough=thorough)
