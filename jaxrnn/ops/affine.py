"""Affine recurrences, all steps at once: ``s_t = A_t s_{t-1} + b_t`` by an associative scan.

Two maps that follow each other are one map, so T of them are composed in about 2 log T rounds of elementwise work,
where a loop takes T (Blelloch, "Prefix sums and their applications", 1990).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Blocks = Sequence[Sequence[jax.Array]]  # n x n arrays [T, ...]: of each element a matrix of its n fields


def affine_scan(blocks: Blocks, vectors: Sequence[jax.Array]) -> list[jax.Array]:
    """Return n fields s_t [T, ...] that begin from zeros, of each element for itself::

    s_t[i] = Σ_j blocks[i][j]_t s_{t-1}[j] + vectors[i]_t
    """

    def after(first, second):
        (a, u), (b, v) = first, second
        product = [[_dot(row, column) for column in zip(*a, strict=True)] for row in b]
        return product, [_dot(row, u) + one for row, one in zip(b, v, strict=True)]

    return lax.associative_scan(after, ([list(row) for row in blocks], list(vectors)))[1]


def _dot(row: Sequence[jax.Array], column: Sequence[jax.Array]) -> jax.Array:
    total = row[0] * column[0]
    for a, b in zip(row[1:], column[1:], strict=True):
        total = total + a * b
    return total


def linear_recurrence(a: Float[Array, "T ..."], b: Float[Array, "T ..."]) -> Float[Array, "T ..."]:
    """Return ``s_t = a_t s_{t-1} + b_t`` from zeros on, elementwise.

    It is the solution of a linear system, ``s_t - a_t s_{t-1} = b_t``, and is differentiated as one: backwards, the
    cotangent follows a recurrence of the same kind, and beside `a` only s is kept for it, none of the products of
    the scan. Forward mode, `vmap` and higher derivatives follow.
    """

    def system(s):
        return s - a * jnp.concatenate([jnp.zeros_like(s[:1]), s[:-1]])

    def solve(_, b):
        return affine_scan([[a]], [b])[0]

    def solve_transposed(_, b):  # s_t - a_{t+1} s_{t+1} = b_t
        following = jnp.concatenate([a[1:], jnp.zeros_like(a[:1])])
        return jnp.flip(affine_scan([[jnp.flip(following, 0)]], [jnp.flip(b, 0)])[0], 0)

    return lax.custom_linear_solve(system, b, solve, solve_transposed)
