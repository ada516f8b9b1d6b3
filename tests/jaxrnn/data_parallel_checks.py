"""Data parallelism on eight devices of a CPU, beside one: `python -m tests.jaxrnn.data_parallel_checks quick`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

import jaxrnn
from jaxrnn.sharding import HiddenSharded, data_parallel, wavefront
from tests.jaxrnn.common import draw, fill
from tests.jaxrnn.on_devices import counted, initial, main, mesh_of, refused, worst

T, B, I, H = 12, 16, 3, 5
DEVICES = 8
# Of four shards one holds nothing that counts, of eight two; the others 3 to 29 steps.
LENGTHS = np.array([12, 12, 0, 5, 0, 0, 0, 0, 7, 1, 0, 3, 12, 1, 2, 9])
ROWS, LENGTHS_SPEC = PartitionSpec(None, "data"), PartitionSpec("data")


class Tagger(nnx.Module):
    """A number per step, read out of a layer."""

    def __init__(self, make, dtype=jnp.float64, layers=1, **options):
        rngs = nnx.Rngs(0, dropout=1)
        self.layer = make(I, H, layers, param_dtype=dtype, rngs=rngs, **options)
        self.head = nnx.Linear(H * (2 if self.layer.bidirectional else 1), 1, param_dtype=dtype, rngs=rngs)

    def __call__(self, x, state=None, **options):
        h, state = self.layer(x, state, **options)
        return self.head(h), state


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
    x, y = jnp.asarray(draw(2, T, B, I), dtype), jnp.asarray(draw(3, T, B, 1), dtype)
    return x, y, jnp.asarray(LENGTHS), initial(model.layer, B, dtype)


def gradients(mean, model, batch):
    """Return mean, states and gradients, those of x and of the initial states too."""
    return nnx.jit(nnx.value_and_grad(mean, argnums=(0, 1, 4), has_aux=True))(model, *batch)


def alone(loss):
    def mean(model, *batch):
        total, count, state = loss(model, *batch)
        return total / count, state

    return mean


def error(loss, model, dtype=jnp.float64, devices=DEVICES, mesh=None):
    """Return the worst error of all numbers of `data_parallel` and, in float32, that of one device."""
    mesh, batch = mesh or mesh_of("data", devices), batch_of(model, dtype)
    mean = data_parallel(loss, mesh, (ROWS, ROWS, LENGTHS_SPEC, ROWS), aux_specs=ROWS)
    ours, one = (gradients(f, model, batch) for f in (mean, alone(loss)))
    if dtype == jnp.float64:
        return worst(ours, one)
    exact = gradients(alone(loss), fill(model), batch_of(model, jnp.float64))
    return [worst(found, exact) for found in (ours, one)]


def mean_of_means():
    """Return how far the mean of the shards' means is from the mean, for four shards of which one is empty."""
    each = np.abs(draw(4, T, B)) * (np.arange(T)[:, None] < LENGTHS)
    totals, counts = each.sum(0).reshape(4, -1).sum(1), LENGTHS.reshape(4, -1).sum(1)
    return abs((totals / np.maximum(counts, 1)).mean() / (totals.sum() / counts.sum()) - 1)


def counted_of(make, mesh, loss, mean, rows=32):
    """Count the collectives of a training step on long rows, the gradients added up chunk by chunk."""
    sharding = jax.sharding.NamedSharding(mesh, ROWS)
    everywhere = jax.sharding.NamedSharding(mesh, PartitionSpec())
    structure, weights = nnx.split(nnx.eval_shape(lambda: make(64, 256, rngs=nnx.Rngs(0))))
    weights = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=everywhere), weights)
    x = jax.ShapeDtypeStruct((128, rows * mesh.size, 64), jnp.float32, sharding=sharding)

    def value_and_gradient(weights, x):
        return jax.value_and_grad(lambda w: mean(loss, mesh)(nnx.merge(structure, w), x))(weights)

    return counted(value_and_gradient, weights, x)


def squares(model, x):
    h, _ = model(x)
    return jnp.square(h).sum(), h.size


def squares_in_segments(model, x):
    total, _ = jaxrnn.scan_loss(model, lambda h, _: jnp.square(h).sum(), x, x, segments=32, reduction="sum")
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
    model = Tagger(jaxrnn.GRU, layers=2, dropout=0.5)

    def loss(model, x):
        out, _ = model(x)
        return out.sum(), out.size, out

    mean = data_parallel(loss, mesh_of("data", DEVICES), (ROWS,), aux_specs=ROWS)
    counts = [int(model.layer.rngs.count[...])]
    outputs = []
    for _ in range(2):
        outputs.append(mean(model, jnp.ones((T, DEVICES, I)))[1][:, :, 0].T.tolist())
        counts.append(int(model.layer.rngs.count[...]))
    key = jax.random.key_data(Tagger(jaxrnn.GRU, layers=2, dropout=0.5).layer.rngs.key[...])
    kept = bool((jax.random.key_data(model.layer.rngs.key[...]) == key).all())
    return {"outputs": outputs, "counts": counts, "key kept": kept}


def statistics():
    """Return running means of a batch norm and what they should be."""
    model = nnx.BatchNorm(2, momentum=0.0, rngs=nnx.Rngs(0))
    x = jnp.asarray(draw(0, 1, 8, 2), jnp.float32)
    mean = data_parallel(lambda model, x: (model(x).sum(), x.size), mesh_of("data", 4), (ROWS,))
    mean(model, x)
    return [model.mean[...].tolist(), x.mean((0, 1)).tolist()]


def training(devices):
    """Return the losses of `fit` over windows of a stream, the state handed on."""
    model = fill(Tagger(jaxrnn.LSTM))
    x, y, _, state = batch_of(model, jnp.float64)

    def loss(model, batch, state):
        out, state = model(batch[0], state)
        return jnp.square(out - batch[1]).sum(), out.size, state

    mean = alone(loss)
    if devices > 1:
        mean = data_parallel(loss, mesh_of("data", devices), (ROWS, ROWS), aux_specs=ROWS)
    optimizer = nnx.Optimizer(model, jaxrnn.optim.adam(1e-2), wrt=nnx.Param)
    windows = [(x[t : t + 4], y[t : t + 4]) for t in range(0, T, 4)]
    history = jaxrnn.train.fit(
        model, optimizer, mean, lambda epoch: windows, epochs=2, carry=state, progress=False
    )
    return history.train_loss


def crossed(axis, spread):
    """Return the error of rows over two devices, and of what `spread` makes of a layer over two of each."""
    mesh = jax.make_mesh((2, 2), ("data", axis), (AxisType.Auto,) * 2, devices=jax.devices()[:4])
    layer = fill(jaxrnn.LSTM(I, 4, param_dtype=jnp.float64, rngs=nnx.Rngs(0)))
    module, call = spread(layer, mesh)
    x, _, lengths, _ = batch_of(Tagger(jaxrnn.RNN), jnp.float64)

    def loss(model, x, lengths):
        return jnp.square(call(model, x, lengths=lengths)[0]).sum(), lengths.sum()

    def of_one(layer, x, lengths):
        return jnp.square(layer(x, lengths=lengths)[0]).sum() / lengths.sum()

    mean = data_parallel(loss, mesh, (ROWS, LENGTHS_SPEC))
    value, gradients = nnx.jit(nnx.value_and_grad(mean))(module, x, lengths)
    if module is not layer:
        nnx.update(module.layer, gradients.layer)
        gradients = nnx.state(module.gathered(), nnx.Param)
    return worst((value, gradients), nnx.value_and_grad(of_one)(layer, x, lengths))


def over_units(layer, mesh):
    return HiddenSharded(layer, mesh), lambda wide, x, **options: wide(x, **options)


def over_time(layer, mesh):
    return layer, partial(wavefront, mesh=mesh, micro_batches=2)


def refusals():
    model, x = jaxrnn.GRU(I, H, rngs=nnx.Rngs(0)), jnp.ones((T, B, I))
    mesh, nowhere = mesh_of("data", 8), PartitionSpec()
    cases = {
        "rows": lambda: spread(squares, mesh)(model, x[:, :6]),
        "mean": lambda: spread(lambda model, x: x.mean(), mesh)(model, x),
        "vector": lambda: spread(lambda model, x: (x.sum(0), 1), mesh)(model, x),
        "axis": lambda: data_parallel(squares, mesh, (ROWS,), axis="rows"),
        "nothing spread": lambda: data_parallel(squares, mesh, (nowhere,))(model, x),
        "arguments": lambda: spread(squares, mesh)(model, x, x),
    }
    return {name: refused(work) for name, work in cases.items()}


def quick():
    mesh = mesh_of("data", 4)
    return {
        "spread": counted_of(jaxrnn.LSTM, mesh, squares, spread),
        "left to the compiler": counted_of(jaxrnn.LSTM, mesh, squares, left_to_the_compiler),
        "float64": {"LSTM on 4": error(squared_errors, fill(Tagger(jaxrnn.LSTM)), devices=4)},
        "mean of means": mean_of_means(),
        "refused": refusals(),
    }


def thorough():
    errors = {
        "RNN": error(squared_errors, fill(Tagger(jaxrnn.RNN))),
        "PeepholeLSTM": error(squared_errors, fill(Tagger(jaxrnn.PeepholeLSTM))),
        "GRU, both directions": error(squared_errors, fill(Tagger(jaxrnn.GRU, bidirectional=True))),
        "LSTM, in segments": error(in_segments, fill(Tagger(jaxrnn.LSTM)), devices=4),
    }
    errors["units, too"] = crossed("model", over_units)
    errors["time, too"] = crossed("time", over_time)
    explicit = mesh_of("data", 4, AxisType.Explicit)
    with jax.set_mesh(explicit):
        errors["explicit axes"] = error(squared_errors, fill(Tagger(jaxrnn.RNN)), mesh=explicit)
    narrow, eight = fill(Tagger(jaxrnn.LSTM, jnp.float32), jnp.float32), mesh_of("data", 8)
    return {
        "spread": counted_of(
            jaxrnn.GRU, eight, squares, spread
        ),  # whose forward pass is loops in a loop, too
        "in segments": counted_of(jaxrnn.LSTM, eight, squares_in_segments, spread, rows=8),
        "float64": errors,
        "float32": error(squared_errors, narrow, jnp.float32),
        "masks": masks(),
        "statistics": statistics(),
        "training": [training(devices) for devices in (1, 4)],
    }


if __name__ == "__main__":
    main(DEVICES, quick=quick, thorough=thorough)
