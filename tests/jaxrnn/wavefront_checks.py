"""Time spread over four devices of a CPU, beside one: `python -m tests.jaxrnn.wavefront_checks quick`."""

import jax
import jax.numpy as jnp
from flax import nnx

import jaxrnn
from jaxrnn.sharding import wavefront
from tests.jaxrnn.common import draw, fill, rms_error
from tests.jaxrnn.on_devices import counted, everything, initial, main, mesh_of, refused, worst

T, B, I, H = 24, 6, 3, 5


def ragged():
    """Return lengths, and marks at the first step of a stretch, at its last, beside and beyond a row's end."""
    marks = jnp.zeros((T, B), bool)
    for step, row in ((3, 0), (6, 0), (12, 4), (13, 5), (17, 5), (20, 1)):
        marks = marks.at[step, row].set(True)
    return {"lengths": jnp.array([24, 0, 4, 6, 13, 20]), "resets": marks}


def layer_of(make, layers=1, dtype=jnp.float64, **options):
    return fill(make(I, H, layers, param_dtype=dtype, rngs=nnx.Rngs(0, dropout=1), **options), dtype)


def x_of(dtype=jnp.float64):
    return jnp.asarray(draw(9, T, B, I), dtype)


def error(make, micro_batches=3, layers=1, **options):
    layer, mesh = layer_of(make, layers), mesh_of("time", 4)

    def spread(layer, x, state):
        return wavefront(layer, x, state, mesh=mesh, micro_batches=micro_batches, **options)

    def alone(layer, x, state):
        return layer(x, state, **options)

    return worst(*(everything(call, layer, x_of(), initial(layer, B)) for call in (spread, alone)))


def cut_off():
    """Return the error of outputs where every stretch begins with zeros."""
    layer, x = layer_of(jaxrnn.LSTM), x_of()
    stretches = [layer(x[t : t + 6])[0] for t in range(0, T, 6)]
    return rms_error(jnp.concatenate(stretches), layer(x)[0])


def collectives_of(make):
    structure, weights = nnx.split(layer_of(make))
    mesh = mesh_of("time", 4)

    def loss(weights, x):
        output, _ = wavefront(nnx.merge(structure, weights), x, mesh=mesh, micro_batches=3)
        return jnp.square(output).mean()

    return counted(jax.grad(loss), weights, x_of())


class LossOfStretch(nnx.Module):
    """A language model's way: the loss of each stretch where its outputs are, so that they are never stored."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, inputs, state):
        x, targets = inputs
        total, state = jaxrnn.scan_loss(
            self.layer, lambda h, y: jnp.square(h - y).sum(), x, targets, state,
            segments=3, reduction="sum",
        )  # fmt: skip
        return total[None, None], state  # one step, one row


def losses():
    """Return the error of the loss in stretches of segments."""
    model, mesh = LossOfStretch(layer_of(jaxrnn.GRU)), mesh_of("time", 4)
    targets = jnp.asarray(draw(8, T, B, H))

    def spread(model, x, state):
        each, state = wavefront(model, (x, targets), state, mesh=mesh, micro_batches=2)
        assert each.shape == (4, 2)
        return each.sum(), state

    def alone(model, x, state):
        output, state = model.layer(x, state)
        return jnp.square(output - targets).sum(), state

    return worst(*(everything(call, model, x_of(), initial(model.layer, B)) for call in (spread, alone)))


class Logarithms(nnx.Module):
    """A layer on the logarithms of its inputs, which zeros do not have."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, inputs, state):
        return self.layer(jnp.log(inputs), state)


def logarithms():
    """Return the error of a module to which zeros are poison."""
    model, mesh, x = Logarithms(layer_of(jaxrnn.RNN)), mesh_of("time", 4), jnp.abs(x_of()) + 0.1

    def spread(model, x, state):
        return wavefront(model, x, state, mesh=mesh, micro_batches=2)

    return worst(
        *(everything(call, model, x, initial(model.layer, B)) for call in (spread, lambda m, x, s: m(x, s)))
    )


def dropout():
    """Return what comes out of equal steps and rows, and how often the stream was drawn from."""
    layer = layer_of(jaxrnn.RNN, 2, dropout=0.5)
    layer.weight_hh_l0[...] *= 0
    layer.weight_hh_l1[...] *= 0
    output, _ = wavefront(layer, jnp.ones((T, B, I)), mesh=mesh_of("time", 4), micro_batches=3)
    return {"outputs": output[..., 0].tolist(), "drawn": int(layer.rngs.count[...])}


def refusals():
    mesh, x = mesh_of("time", 4), x_of()
    layer, both = layer_of(jaxrnn.GRU), layer_of(jaxrnn.GRU, bidirectional=True)
    batch_first = layer_of(jaxrnn.GRU, batch_first=True)
    cases = {
        "steps": lambda: wavefront(layer, x[:22], mesh=mesh, micro_batches=3),
        "rows": lambda: wavefront(layer, x, mesh=mesh, micro_batches=4),
        "both directions": lambda: wavefront(both, x, mesh=mesh, micro_batches=3),
        "layout": lambda: wavefront(batch_first, x, mesh=mesh, micro_batches=3),
        "state": lambda: wavefront(LossOfStretch(layer), (x, x), mesh=mesh, micro_batches=3),
        "rows of the state": lambda: wavefront(layer, x, initial(layer, 4), mesh=mesh, micro_batches=3),
        "lengths": lambda: wavefront(layer, x, mesh=mesh, micro_batches=3, lengths=[25] * B),
        "axis": lambda: wavefront(layer, x, mesh=mesh, micro_batches=3, axis="data"),
    }
    return {name: refused(work) for name, work in cases.items()}


def quick():
    return {
        "errors": {"LSTM": error(jaxrnn.LSTM, **ragged())},
        "collectives": {"LSTM": collectives_of(jaxrnn.LSTM)},
        "cut off": cut_off(),
        "refused": refusals(),
    }


def bits():
    """Return how far float32 outputs are apart, in units of the last place of 1."""
    layer, x = layer_of(jaxrnn.LSTM, dtype=jnp.float32), x_of(jnp.float32)
    spread, _ = wavefront(layer, x, mesh=mesh_of("time", 4), micro_batches=3)
    return float(jnp.abs(spread - layer(x)[0]).max() / jnp.finfo(jnp.float32).eps)


def thorough():
    return {
        "errors": {
            "RNN": error(jaxrnn.RNN, **ragged()),
            "RNN, of logarithms": logarithms(),
            "PeepholeLSTM": error(jaxrnn.PeepholeLSTM, **ragged()),
            "GRU, two layers, one micro-batch": error(jaxrnn.GRU, micro_batches=1, layers=2, **ragged()),
            "GRU, a loss in segments": losses(),
        },
        "collectives": {"GRU": collectives_of(jaxrnn.GRU)},
        "dropout": dropout(),
        "bits": bits(),
    }


if __name__ == "__main__":
    main(4, quick=quick, thorough=thorough)
