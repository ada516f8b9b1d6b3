"""What the tests of kernels share: all numbers of an unroll, their errors, and JAX's transformations of it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from tests.jaxrnn.common import draw, rms_error, scalar


def values_and_gradients(f, args):
    results, pull = jax.vjp(f, *args)
    cotangents = jax.tree.map(lambda a: jnp.asarray(draw(7, *a.shape), a.dtype), results)
    return results, pull(cotangents)


def errors(f, args, exact):
    """Return the relative error of each result and gradient."""
    found = jax.jit(partial(values_and_gradients, f))(args)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
    return np.array([rms_error(a, b) for a, b in pairs])


def in_float64(f, args):
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), args)
        return jax.jit(partial(values_and_gradients, f))(wide)


def assert_transformed_alike(ours, theirs, args):
    """Assert that forward mode, second derivatives and `vmap` of two unrolls agree in float32."""
    params, x, state = args

    def tangent(f):
        direction = jax.tree.map(lambda a: jnp.asarray(draw(3, *a.shape), a.dtype), (params, x, state))
        return jax.jvp(f, (params, x, state), direction)

    def product_with_the_hessian(f):
        of_weights = jax.grad(scalar(f), argnums=(0, 1))
        return jax.jvp(lambda *weights: of_weights(*weights, state), (params, x), (params, x))[1]

    def gradient_of_gradient(f):
        def norm(params):
            return sum(jnp.sum(g**2) for g in jax.tree.leaves(jax.grad(scalar(f))(params, x, state)))

        return jax.grad(norm)(params)

    def of_a_batch_of_batches(f):
        def loss(params, xs):
            return jnp.sin(jax.vmap(lambda x: f(params, x, state)[0], in_axes=1, out_axes=2)(xs)).sum()

        return jax.value_and_grad(loss, argnums=(0, 1))(params, jnp.stack([x, 2 * x], axis=1))

    def per_example(f):
        rows = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), params)
        return jax.vmap(jax.grad(scalar(f), argnums=(0, 1)), in_axes=(0, None, None))(rows, x, state)

    for transform in (
        tangent, product_with_the_hessian, gradient_of_gradient, of_a_batch_of_batches, per_example,
    ):  # fmt: skip
        found = jax.jit(lambda transform=transform: (transform(ours), transform(theirs)))()
        for a, b in zip(*map(jax.tree.leaves, found), strict=True):
            assert rms_error(a, b) < 5e-6, transform
