"""Data parallelism on eight devices of a CPU, beside one: `python -m tests.jaxrnn.data_parallel_checks` prints JSON.

A process of its own, since the number of devices is fixed when JAX starts.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

import jaxrnn
from benchmarks.programs import collectives
from jaxrnn.sharding import data_parallel
from tests.jaxrnn.common import draw, fill, rms_error

T, B, I, H = 12, 16, 3, 5
DEVICES = 8
# Two shards hold nothing that counts, the others 1 to 24 steps.
LENGTHS = np.array([12, 12, 0, 0, 5, 7, 1, 0, 0, 3, 0, 0, 12, 1, 2, 9])
ROWS, LENGTHS_SPEC = PartitionSpec(None, "data"), PartitionSpec("data")
LAYERS = (jaxrnn.RNN, jaxrnn.GRU, jaxrnn.LSTM, jaxrnn.PeepholeLSTM)


class Tagger(nnx.Module):
    """A number per step, read out of two layers."""

    def __init__(self, make, dtype, **options):
        rngs = nnx.Rngs(0, dropout=1)
        self.layer = make(I, H, 2, param_dtype=dtype, rngs=rngs, **options)
        self.head = nnx.Linear(H * (2 if self.layer.bidirectional else 1), 1, param_dtype=dtype, rngs=rngs)

    def __call__(self, x, state=None, **options):
        h, state = self.layer(x, state, **options)
        return self.head(h), state


def mesh_of(devices, axis_type=AxisType.Auto):
    return jax.make_mesh((devices,), ("data",), (axis_type,), devices=jax.devices()[:devices])


def squared_errors(model, x, y, lengths, state):
    out, state = model(x, state, lengths=lengths)
    valid = (jnp.arange(T)[:, None] < lengths)[..., None]
    return jnp.where(valid, jnp.square(out - y), 0).sum(), valid.sum(), state


def in_segments(model, x, y, lengths, state):
    total, state = jaxrnn.scan_loss(
        model, lambda out, y: jnp.square(out - y)[..., 0], x, y, state,
        segments=5, lengths=lengths, reduction="sum",
    )  # fmt: skip
    return total, lengths.sum(), state


def batch_of(model, dtype):
    layer = model.layer
    states = [
        jnp.asarray(draw(n, 2 * (2 if layer.bidirectional else 1), B, H), dtype)
        for n in range(len(layer.cell.state._fields))
    ]
    state = tuple(states) if len(states) > 1 else states[0]
    return jnp.asarray(draw(2, T, B, I), dtype), jnp.asarray(draw(3, T, B, 1), dtype), jnp.asarray(LENGTHS), state


def gradients(mean, model, batch):
    """Return mean, states and gradients, those of x and of the initial states too."""
    found = nnx.jit(nnx.value_and_grad(mean, argnums=(0, 1, 4), has_aux=True))(model, *batch)
    return jax.tree.leaves(found)


def alone(loss):
    def mean(model, *batch):
        total, count, state = loss(model, *batch)
        return total / count, state

    return mean


def error(loss, model, dtype=jnp.float64, devices=DEVICES, mesh=None):
    """Return the worst error of all numbers of `data_parallel` and, in float32, that of one device."""
    mesh, batch = mesh or mesh_of(devices), batch_of(model, dtype)
    mean = data_parallel(loss, mesh, (ROWS, ROWS, LENGTHS_SPEC, ROWS), aux_specs=ROWS)
    ours, one = (gradients(f, model, batch) for f in (mean, alone(loss)))
    if dtype == jnp.float64:
        return max(map(rms_error, ours, one))
    exact = gradients(alone(loss), fill(model), batch_of(model, jnp.float64))
    return [max(map(rms_error, found, exact)) for found in (ours, one)]


def counted(make, mesh, loss, mean, rows=32):
    """Count the collectives of a training step on long rows, the gradients added up chunk by chunk."""
    sharding = jax.sharding.NamedSharding(mesh, ROWS)
    everywhere = jax.sharding.NamedSharding(mesh, PartitionSpec())
    structure, weights = nnx.split(nnx.eval_shape(lambda: make(64, 256, rngs=nnx.Rngs(0))))
    weights = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=everywhere), weights)
    x = jax.ShapeDtypeStruct((128, rows * mesh.size, 64), jnp.float32, sharding=sharding)

    def value_and_gradient(weights, x):
        return jax.value_and_grad(lambda w: mean(loss, mesh)(nnx.merge(structure, w), x))(weights)

    text = jax.jit(value_and_gradient).lower(weights, x).compile().as_text()
    return sorted([*key, count] for key, count in collectives(text).items())


def squares(model, x):
    h, _ = model(x)
    return jnp.square(h).sum(), h.size


def squares_in_segments(model, x):
    total, _ = jaxrnn.scan_loss(
        model, lambda h, _: jnp.square(h).sum(), x, x, segments=32, reduction="sum"
    )
    return total, x.size


def spread(loss, mesh):
    return data_parallel(loss, mesh, (ROWS,))


def left_to_the_compiler(loss, mesh):
    def mean(model, x):
        total, count = loss(model, x)
        return total / count

    return mean


def masks():
    """Return outputs of equal rows, one to a shard, under dropout, and what was drawn before and after."""
    model = Tagger(jaxrnn.GRU, jnp.float64, dropout=0.5)

    def loss(model, x):
        out, _ = model(x)
        return out.sum(), out.size, out

    mean = data_parallel(loss, mesh_of(DEVICES), (ROWS,), aux_specs=ROWS)
    counts = [int(model.layer.rngs.count[...])]
    outputs = []
    for _ in range(2):
        outputs.append(mean(model, jnp.ones((T, DEVICES, I)))[1][:, :, 0].T.tolist())
        counts.append(int(model.layer.rngs.count[...]))
    key = jax.random.key_data(Tagger(jaxrnn.GRU, jnp.float64, dropout=0.5).layer.rngs.key[...])
    kept = bool((jax.random.key_data(model.layer.rngs.key[...]) == key).all())
    return {"outputs": outputs, "counts": counts, "key kept": kept}


def statistics():
    """Return running means of a batch norm and what they should be."""
    model = nnx.BatchNorm(2, momentum=0.0, rngs=nnx.Rngs(0))
    x = jnp.asarray(draw(0, 1, 8, 2), jnp.float32)
    mean = data_parallel(lambda model, x: (model(x).sum(), x.size), mesh_of(4), (ROWS,))
    mean(model, x)
    return [model.mean[...].tolist(), x.mean((0, 1)).tolist()]


def refused(work):
    try:
        work()
    except (TypeError, ValueError) as refusal:
        return f"{type(refusal).__name__}: {refusal}"
    return "accepted"


def training(devices):
    """Return the losses of `fit` over windows of a stream, the state handed on."""
    model = fill(Tagger(jaxrnn.LSTM, jnp.float64))
    x, y, _, state = batch_of(model, jnp.float64)

    def loss(model, batch, state):
        out, state = model(batch[0], state)
        return jnp.square(out - batch[1]).sum(), out.size, state

    mean = alone(loss)
    if devices > 1:
        mean = data_parallel(loss, mesh_of(devices), (ROWS, ROWS), aux_specs=ROWS)
    optimizer = nnx.Optimizer(model, jaxrnn.optim.adam(1e-2), wrt=nnx.Param)
    windows = [(x[t : t + 4], y[t : t + 4]) for t in range(0, T, 4)]
    history = jaxrnn.train.fit(
        model, optimizer, mean, lambda epoch: windows, epochs=2, carry=state, progress=False
    )
    return history.train_loss


def quick():
    """The checks of the inner loop."""
    model, x = jaxrnn.GRU(I, H, rngs=nnx.Rngs(0)), jnp.ones((T, B, I))
    eight, nowhere = mesh_of(8), PartitionSpec()
    return {
        "spread": counted(jaxrnn.LSTM, mesh_of(4), squares, spread),
        "left to the compiler": counted(jaxrnn.LSTM, mesh_of(4), squares, left_to_the_compiler),
        "float64": {"LSTM on 4": error(squared_errors, fill(Tagger(jaxrnn.LSTM, jnp.float64)), devices=4)},
        "masks": masks(),
        "statistics": statistics(),
        "refused": {
            "rows": refused(lambda: spread(squares, eight)(model, x[:, :6])),
            "mean": refused(lambda: spread(lambda model, x: x.mean(), eight)(model, x)),
            "vector": refused(lambda: spread(lambda model, x: (x.sum(0), 1), eight)(model, x)),
            "axis": refused(lambda: data_parallel(squares, eight, (ROWS,), axis="rows")),
            "nothing spread": refused(lambda: data_parallel(squares, eight, (nowhere,))(model, x)),
            "arguments": refused(lambda: spread(squares, eight)(model, x, x)),
        },
    }


def thorough():
    """The rest of them."""
    errors = {
        f"{make.__name__} on 8": error(squared_errors, fill(Tagger(make, jnp.float64))) for make in LAYERS
    }
    both = Tagger(jaxrnn.GRU, jnp.float64, bidirectional=True)
    errors["both directions"] = error(squared_errors, fill(both))
    errors["in segments"] = error(in_segments, fill(Tagger(jaxrnn.LSTM, jnp.float64)), devices=4)
    explicit = mesh_of(4, AxisType.Explicit)
    with jax.set_mesh(explicit):
        errors["explicit axes"] = error(squared_errors, fill(Tagger(jaxrnn.GRU, jnp.float64)), mesh=explicit)
    narrow = fill(Tagger(jaxrnn.LSTM, jnp.float32), jnp.float32)
    return {
        "spread": {make.__name__: counted(make, mesh_of(8), squares, spread) for make in LAYERS},
        "in segments": counted(jaxrnn.LSTM, mesh_of(8), squares_in_segments, spread, rows=8),
        "float64": errors,
        "float32": error(squared_errors, narrow, jnp.float32),
        "training": [training(devices) for devices in (1, 4)],
    }


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", DEVICES)
    with jax.enable_x64(True):
        print(json.dumps({"quick": quick, "thorough": thorough}[sys.argv[1]]()))
