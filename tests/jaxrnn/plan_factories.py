"""Training steps for `jaxrnn.plan(step=...)`, as users write them; a plan's process imports this module."""

import os

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

import jaxrnn

FEATURES = 64


def loss(weight, x):
    """A loop whose every state is kept: [T, B, F]."""
    return jnp.mean(jnp.square(jax.lax.scan(lambda h, x: (jnp.tanh(h @ weight + x),) * 2, x[0], x)[1]))


def shared_by_rows(steps, memory, mesh):
    """Rows on different chips, weights on all."""
    rows = NamedSharding(mesh, PartitionSpec(None, "data"))
    x = jax.ShapeDtypeStruct((steps, 16, FEATURES), jnp.float32, sharding=rows)
    return jax.grad(loss), (jnp.zeros((FEATURES, FEATURES)), x)


def shared_by_features(steps, memory, mesh):
    """Each chip computes a part of the state, which all others need in the next step."""
    columns = NamedSharding(mesh, PartitionSpec(None, "data"))
    weight = jax.ShapeDtypeStruct((FEATURES, FEATURES), jnp.float32, sharding=columns)
    return loss, (weight, jax.ShapeDtypeStruct((steps, 16, FEATURES), jnp.float32))


def trained_by_adam(steps, memory, mesh):
    """The example of `docs/long_sequences.md`."""

    def make():
        return jaxrnn.LSTM(FEATURES, 256, memory=memory, rngs=nnx.Rngs(0))

    structure, weights = nnx.split(nnx.eval_shape(make))
    adam = optax.adam(1e-3)

    def step(weights, state, x):
        gradient = jax.grad(lambda weights: jnp.mean(nnx.merge(structure, weights)(x)[0] ** 2))(weights)
        updates, state = adam.update(gradient, state)
        return optax.apply_updates(weights, updates), state

    x = jax.ShapeDtypeStruct((steps, 8, FEATURES), jnp.float32)
    return jax.jit(step, donate_argnums=(0, 1)), (weights, jax.eval_shape(adam.init, weights), x)


def plain_scan(steps, memory, mesh):
    """A loss of all outputs of an LSTM that is one `lax.scan`, differentiated by JAX."""
    options = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16, "implementation": "reference"}
    structure, weights = nnx.split(nnx.eval_shape(lambda: jaxrnn.LSTM(32, 512, rngs=nnx.Rngs(0), **options)))

    def loss(weights, x):
        h, _ = nnx.merge(structure, weights)(x)
        return jnp.mean(jnp.square(h.astype(jnp.float32)))

    return jax.value_and_grad(loss), (weights, jax.ShapeDtypeStruct((steps, 8, 32), jnp.bfloat16))


def of_the_policy(steps, memory, mesh):
    """A step that takes as many rows as its policy says."""
    return jax.jit(jnp.sin), (jax.ShapeDtypeStruct((steps, memory), jnp.float32),)


def wrong_result(steps, memory, mesh):
    return "no step"


def raises(steps, memory, mesh):
    raise KeyError("no such data set")


def dies(steps, memory, mesh):
    os.abort()
