"""Attention of a decoder to what its encoder has read: one head, and keys that are projected once."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from jaxrnn import checks
from jaxrnn.attention import weigh
from jaxrnn.init import torch_linear


class Attention(nnx.Module):
    """What the classes below share; each has its own `project_keys` and `score`::

        alpha = softmax_s(score(q, k_s)),    context = sum_s alpha_s v_s

    All are constructed with the features of a query and of a key.
    """

    query_size: int
    key_size: int
    precision: jax.lax.PrecisionLike

    def project_keys(self, keys: Float[Array, "B S F"]) -> Float[Array, "B S P"]:
        """Return what of the scores depends on the keys alone."""
        return keys

    def score(self, query: Float[Array, "B T E"], projected: Float[Array, "B S P"]) -> Float[Array, "B T S"]:
        """Return the score of each key for each query."""
        return jnp.einsum("btp,bsp->bts", query, projected, precision=self.precision)

    def __call__(
        self,
        query: Float[Array, "B *T E"],
        keys: Float[Array, "B S F"],
        values: Float[Array, "B S V"],
        key_padding_mask: Bool[Array, "B S"] | None = None,
    ) -> tuple[Float[Array, "B *T V"], Float[Array, "B *T S"]]:
        """Return the contexts and the weights of S keys, for one query per row or for T.

        `key_padding_mask`: True where a key must not be looked at; what is there, even NaN, reaches neither a
        result nor a gradient. Where every key of a row is hidden, its weights and its context are zero.
        """
        if key_padding_mask is not None:
            hidden = self._hidden(key_padding_mask, keys)[..., None]
            keys, values = (jnp.where(hidden, 0, array) for array in (keys, values))
        return self.attend(query, self.project_keys(keys), values, key_padding_mask)

    def attend(
        self,
        query: Float[Array, "B *T E"],
        projected: Float[Array, "B S P"],
        values: Float[Array, "B S V"],
        key_padding_mask: Bool[Array, "B S"] | None = None,
    ) -> tuple[Float[Array, "B *T V"], Float[Array, "B *T S"]]:
        """Return what a call returns, of keys that `project_keys` has seen: once, for all steps of a decoder.

        Here keys and values must be finite where they are hidden.
        """
        self._check(query, projected, values)
        queries = query[:, None] if query.ndim == 2 else query
        hidden = None if key_padding_mask is None else self._hidden(key_padding_mask, projected)[:, None]
        weights = weigh(self.score(queries, projected), hidden, empty=0.0)
        contexts = jnp.einsum("bts,bsv->btv", weights, values, precision=self.precision)
        return (contexts[:, 0], weights[:, 0]) if query.ndim == 2 else (contexts, weights)

    def _hidden(self, mask: Any, keys: Array) -> Bool[Array, "B S"]:
        hidden = checks.check_array("key_padding_mask", mask)
        if hidden.dtype != bool or hidden.shape != keys.shape[:2]:
            raise ValueError(
                f"key_padding_mask should be boolean, of shape {keys.shape[:2]}, True where a key is padding; got "
                f"{hidden.dtype}, {hidden.shape}."
            )
        return hidden

    def _check(self, query: Array, projected: Array, values: Array) -> None:
        if query.ndim not in (2, 3) or query.shape[-1] != self.query_size:
            raise ValueError(
                f"query should be [B, {self.query_size}], or [B, T, {self.query_size}] for T queries per row, got "
                f"{query.shape}."
            )
        batches = query.shape[0] == projected.shape[0] == values.shape[0]
        if not batches or projected.shape[1] != values.shape[1]:
            raise ValueError(
                "query, keys and values need one batch size, keys and values one length. Batch first, they are "
                f"{query.shape}, {projected.shape} and {values.shape}."
            )


class AdditiveAttention(Attention):
    """Scores by a network with one hidden layer (Bahdanau et al., 2015, https://arxiv.org/abs/1409.0473)::

        score(q, k) = v^T tanh(W_q q + W_k k)

    The layer has `hidden_size` features, as many as a query unless given, and no biases, as in the paper. T queries
    at once take memory for B * T * S * `hidden_size` numbers.
    """

    def __init__(
        self,
        query_size: int,
        key_size: int,
        hidden_size: int | None = None,
        *,
        rngs: nnx.Rngs,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
    ):
        self.query_size, self.key_size, self.precision = query_size, key_size, precision
        given: Any = {"use_bias": False, "rngs": rngs, "param_dtype": param_dtype, "precision": precision}
        hidden_size = query_size if hidden_size is None else hidden_size
        self.query_proj = torch_linear(query_size, hidden_size, **given)
        self.key_proj = torch_linear(key_size, hidden_size, **given)
        self.score_proj = torch_linear(hidden_size, 1, **given)

    def project_keys(self, keys: Float[Array, "B S F"]) -> Float[Array, "B S P"]:
        """Return ``W_k k``."""
        return self.key_proj(keys)

    def score(self, query: Float[Array, "B T E"], projected: Float[Array, "B S P"]) -> Float[Array, "B T S"]:
        """Return ``v^T tanh(W_q q + W_k k)``."""

        @jax.checkpoint  # kept, the hidden layer of all steps was half of a model's memory, and no faster
        def added(query: Array, projected: Array) -> Array:
            return self.score_proj(jnp.tanh(query[:, :, None] + projected[:, None]))[..., 0]

        return added(self.query_proj(query), projected)


class DotAttention(Attention):
    """Scores by dot products, not scaled (Luong et al., 2015, "dot", https://arxiv.org/abs/1508.04025)::

        score(q, k) = q^T k

    Query and key must have equally many features. There are no parameters: nothing is drawn from `rngs`.
    """

    def __init__(
        self,
        query_size: int,
        key_size: int,
        *,
        rngs: nnx.Rngs | None = None,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
    ):
        if query_size != key_size:
            raise ValueError(
                f"a dot product needs equally many features, got {query_size} of a query and {key_size} of a key. "
                "BilinearAttention maps one to the other."
            )
        self.query_size, self.key_size, self.precision = query_size, key_size, precision


class BilinearAttention(Attention):
    """Scores by a bilinear form (Luong et al., 2015, "general", https://arxiv.org/abs/1508.04025)::

    score(q, k) = q^T W k
    """

    def __init__(
        self,
        query_size: int,
        key_size: int,
        *,
        rngs: nnx.Rngs,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
    ):
        self.query_size, self.key_size, self.precision = query_size, key_size, precision
        self.key_proj = torch_linear(
            key_size, query_size, use_bias=False, rngs=rngs, param_dtype=param_dtype, precision=precision
        )

    def project_keys(self, keys: Float[Array, "B S F"]) -> Float[Array, "B S P"]:
        """Return ``W k``."""
        return self.key_proj(keys)
