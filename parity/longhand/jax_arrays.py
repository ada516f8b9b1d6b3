"""JAX as an array library."""

import jax
import jax.numpy as jnp
from jax import lax

from parity.longhand.arrays import Library

LIBRARY = Library("jax", jnp, jax.nn.sigmoid, lax.erf, lax.stop_gradient, lax.scan)
