"""What the tests of training share: models with all kinds of state, losses, batches, and their exact comparison."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxrnn.data import batches

RNG = np.random.default_rng(0)
X = RNG.standard_normal((24, 3)).astype(np.float32)
Y = (X @ RNG.standard_normal((3, 2)) + 0.1 * RNG.standard_normal((24, 2))).astype(np.float32)


class Net(nnx.Module):
    """All kinds of state: parameters, batch statistics, random streams."""

    def __init__(self, seed=0, hidden=4):
        rngs = nnx.Rngs(seed)
        self.first = nnx.Linear(3, hidden, rngs=rngs)
        self.norm = nnx.BatchNorm(hidden, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(hidden, 2, rngs=rngs)])

    def __call__(self, x):
        return self.layers[0](self.dropout(nnx.tanh(self.norm(self.first(x)))))


def linear(seed=0):
    return nnx.Linear(3, 2, rngs=nnx.Rngs(seed))


def squared_error(model, batch):
    x, y = batch
    return jnp.mean((model(x) - y) ** 2)


def carried_error(model, batch, carry):
    """A loss with memory: the carry depends on the parameters and enters the next loss."""
    x, y = batch
    prediction = model(x)
    return jnp.mean((prediction + carry["mean"] - y) ** 2), {
        "mean": 0.5 * (carry["mean"] + prediction.mean(axis=0)),
        "key": jax.random.split(carry["key"])[0],
    }


def first_carry():
    return {"mean": jnp.zeros(2), "key": jax.random.key(7)}


def shuffled(epoch):
    return batches((X, Y), 8, shuffle_seed=3, epoch=epoch)


def validation_error(model):
    return squared_error(model, (X, Y))


def with_optimizer(model, transformation=None):
    return model, nnx.Optimizer(model, transformation or optax.adam(1e-2), wrt=nnx.Param)


def state_of(*nodes):
    """Every array of the modules and optimizers, keys as integers."""
    leaves = jax.tree.leaves([nnx.to_pure_dict(nnx.state(node)) for node in nodes])
    keys = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    return [np.asarray(jax.random.key_data(x) if key else x) for x, key in zip(leaves, keys, strict=True)]


def assert_same_bits(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def without_seconds(history):
    return history._replace(seconds=())


def scripted(values):
    """Validation that gives these values, whatever the model."""
    values = iter(values)
    return lambda model: next(values)
