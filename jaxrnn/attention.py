"""Attention: of a query over many keys, the mean of the values that belong to them::

    r = sum_i alpha_i v_i,    alpha = softmax_i(score(q, k_i))

Scores are dot products (Luong et al., 2015, https://arxiv.org/abs/1508.04025; scaled, Vaswani et al., 2017,
https://arxiv.org/abs/1706.03762) or a small network (Bahdanau et al., 2015, https://arxiv.org/abs/1409.0473).
Masks are torch's: True, or minus infinity, where a key must not be looked at.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from jaxrnn import checks
from jaxrnn.dropout import Dropout
from jaxrnn.init import TorchDraws, torch_uniform_of
from jaxrnn.lengths import is_traced
from jaxrnn.torch_names import Parameter


def weigh(scores: Float[Array, "... S"], hidden: Array | None, *, empty: float) -> Float[Array, "... S"]:
    """Return the weights ``softmax(scores)`` of S keys, zero where `hidden` is True.

    `hidden` may be floating instead, and is added. A row of which every key is hidden gets weights of `empty`,
    0 or NaN, and no gradient.
    """
    if hidden is None:
        return jax.nn.softmax(scores)
    if hidden.dtype == bool:
        biased = jnp.where(hidden, -jnp.inf, scores)
    else:
        biased = scores + hidden.astype(scores.dtype)
    none_left = jnp.all(jnp.isneginf(biased), axis=-1, keepdims=True)
    return jnp.where(none_left, empty, jax.nn.softmax(jnp.where(none_left, 0.0, biased)))


class MultiheadAttention(nnx.Module):
    """Scaled dot-product attention of several heads, as `torch.nn.MultiheadAttention`::

        head_h = softmax(Q_h K_h^T / sqrt(E / heads) + mask) V_h
        output = W_o [head_1, ..., head_n] + b_o

    with ``Q = W_q query + b_q`` and so on; ``in_proj_weight`` holds W_q, W_k, W_v one below the other, unless
    `kdim` or `vdim` differ from `embed_dim`. Its parameters have torch's names, so checkpoints load by name.

    Not there: `add_bias_kv`, `add_zero_attn`.
    """

    @checks.torch_keywords
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        rngs: nnx.Rngs,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
    ):
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(
                f"embed_dim and num_heads must be greater than 0, got embed_dim={embed_dim} and "
                f"num_heads={num_heads} instead. Pass the number of features, and of heads that share them."
            )
        if embed_dim % num_heads:
            raise ValueError(
                f"embed_dim must be divisible by num_heads. Got embed_dim={embed_dim} and "
                f"num_heads={num_heads}; each head takes an equal part of the features."
            )
        checks.check_flags(bias=bias, batch_first=batch_first)
        self.embed_dim, self.num_heads, self.batch_first = embed_dim, num_heads, batch_first
        self.kdim, self.vdim = kdim or embed_dim, vdim or embed_dim
        self.dtype, self.precision = dtype, precision
        xavier = jax.nn.initializers.xavier_uniform()

        def drawn(*shape: int) -> nnx.Param:
            return nnx.Param(xavier(rngs.params(), shape, param_dtype))

        if self._packed:
            self.in_proj_weight = drawn(3 * embed_dim, embed_dim)
        else:
            self.q_proj_weight = drawn(embed_dim, embed_dim)
            self.k_proj_weight = drawn(embed_dim, self.kdim)
            self.v_proj_weight = drawn(embed_dim, self.vdim)
        if bias:
            self.in_proj_bias = nnx.Param(jnp.zeros(3 * embed_dim, param_dtype))
        self.bias = bias
        self.out_proj = nnx.Linear(
            embed_dim,
            embed_dim,
            use_bias=bias,
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,  # type: ignore[arg-type]  # Flax knows fewer; what it gets, it hands on
            kernel_init=torch_uniform_of(embed_dim),
        )
        self.dropout = Dropout(dropout, rngs=rngs)

    def drawn_like_torch(self, draws: TorchDraws, members: list[Parameter]) -> dict[str, np.ndarray]:
        """Return what torch draws: `out_proj` when it is built, then the other weights; biases are zero."""
        values = draws.in_turn([each for each in members if each.owner is self.out_proj], inside=self)
        for each in members:
            if len(each.shape) == 1:
                values[each.name] = np.zeros(each.shape)
            elif each.owner is self:
                values[each.name] = draws.xavier_uniform(each)
        return values

    @property
    def _packed(self) -> bool:
        return self.kdim == self.vdim == self.embed_dim

    def __call__(
        self,
        query: Array,
        key: Array,
        value: Array,
        key_padding_mask: Array | None = None,
        need_weights: bool = True,
        attn_mask: Array | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        *,
        dropout_mask: Bool[Array, "B heads L S"] | None = None,
    ) -> tuple[Array, Array | None]:
        """Return the output, shaped like `query`, and the weights [B, L, S], or None.

        * `query` [L, B, E], `key` and `value` [S, B, features], or [B, ...] with `batch_first`, or without B.
        * `key_padding_mask`: [B, S], True where the key is padding. `attn_mask`: [L, S], or
          [B * heads, L, S], True where a query must not look. Both may be floating, and are added then.
        * `need_weights`: without, the second result is None. `average_attn_weights=False`: weights of every
          head, [B, heads, L, S].
        * `is_causal`: torch's hint that `attn_mask` is the causal one. It must be given too, and if it is known
          to be another, that is an error: torch may then use either.
        * `dropout_mask`: which weights to keep, in place of a draw.

        A query all of whose keys are hidden gets what torch gives it: NaN with `need_weights`, else zeros in
        front of the output's projection.
        """
        arrays = (checks.check_array(n, a) for n, a in (("query", query), ("key", key), ("value", value)))
        query, key, value = arrays
        batched = self._check_ranks(query, key, value)

        def batch_major(a: Array) -> Array:
            return a[None] if not batched else a if self.batch_first else jnp.swapaxes(a, 0, 1)

        query, key, value = map(batch_major, (query, key, value))
        self._check_shapes(query, key, value)
        if is_causal:
            _check_hint(attn_mask)
        sizes = (query.shape[0], query.shape[1], key.shape[1])
        hidden = self._hidden(sizes, key_padding_mask, attn_mask, batched)
        q, k, v = self.heads("q", query), self.heads("k", key), self.heads("v", value)
        empty = math.nan if need_weights else 0.0
        output, weights = self.attend(q, k, v, hidden, empty=empty, dropout_mask=dropout_mask)
        output = output[0] if not batched else output if self.batch_first else jnp.swapaxes(output, 0, 1)
        if not need_weights:
            return output, None
        weights = weights.mean(1) if average_attn_weights else weights
        return output, weights if batched else weights[0]

    def heads(self, part: str, array: Float[Array, "B T F"]) -> Float[Array, "B heads T K"]:
        """Return what all heads make of queries (`part` is "q"), keys ("k") or values ("v"), batch first."""
        row = "qkv".index(part)
        if self._packed:
            weight = jnp.split(self.in_proj_weight[...], 3)[row]
        else:
            weight = getattr(self, f"{part}_proj_weight")[...]
        array = checks.check_dtype(array, self.dtype, self.dtype or weight.dtype, of="MultiheadAttention")
        found = jnp.einsum("bte,fe->btf", array, weight.astype(array.dtype), precision=self.precision)
        if self.bias:
            found += jnp.split(self.in_proj_bias[...], 3)[row].astype(array.dtype)
        return jnp.swapaxes(found.reshape(*found.shape[:2], self.num_heads, -1), 1, 2)

    def attend(
        self,
        q: Float[Array, "B heads L K"],
        k: Float[Array, "B heads S K"],
        v: Float[Array, "B heads S K"],
        hidden: Array | None,
        *,
        empty: float = 0.0,
        dropout_mask: Bool[Array, "B heads L S"] | None = None,
    ) -> tuple[Float[Array, "B L E"], Float[Array, "B heads L S"]]:
        """Return the output and the weights for what `heads` returned; `hidden` and `empty` as for `weigh`."""
        scores = jnp.einsum("bhle,bhse->bhls", q / math.sqrt(q.shape[-1]), k, precision=self.precision)
        weights = self.dropout(weigh(scores, hidden, empty=empty), dropout_mask)
        mixed = jnp.einsum("bhls,bhse->blhe", weights, v, precision=self.precision)
        return self.out_proj(mixed.reshape(*mixed.shape[:2], -1)), weights

    def _hidden(self, sizes: tuple[int, int, int], padding: Any, look: Any, batched: bool) -> Array | None:
        """Return both masks as one, of a shape that broadcasts to [B, heads, L, S]."""
        rows, queries, keys = sizes
        found: list[Array] = []
        if padding is not None:
            mask = _check_mask("key_padding_mask", padding)
            mask = mask if batched or mask.ndim != 1 else mask[None]
            if mask.shape != (rows, keys):
                raise ValueError(
                    f"key_padding_mask should be of shape ({rows}, {keys}), True where a row's key is padding; got "
                    f"{mask.shape}."
                )
            found.append(mask[:, None, None, :])
        if look is not None:
            mask = _check_mask("attn_mask", look)
            every = (rows * self.num_heads, queries, keys)
            if mask.shape not in ((queries, keys), every):
                raise RuntimeError(
                    f"The shape of the {mask.ndim}D attn_mask is {mask.shape}, but should be {every[1:]}, or "
                    f"{every} with a mask for every row and head."
                )
            found.append(mask.reshape(rows, self.num_heads, queries, keys) if mask.ndim == 3 else mask)
        if not found:
            return None
        if all(mask.dtype == bool for mask in found):
            return found[0] if len(found) == 1 else found[0] | found[1]
        return jnp.sum(jnp.stack(jnp.broadcast_arrays(*map(_added, found))), 0)

    def _check_ranks(self, *arrays: Array) -> bool:
        """Return whether there is a batch axis."""
        ranks = [a.ndim for a in arrays]
        if ranks not in ([2] * 3, [3] * 3):
            raise ValueError(
                f"query should be unbatched 2D or batched 3D, and key and value like it; got {ranks} axes. "
                "Map over further batch axes with jax.vmap."
            )
        return ranks[0] == 3

    def _check_shapes(self, query: Array, key: Array, value: Array) -> None:
        given = {"query": query, "key": key, "value": value}
        for (name, array), features in zip(
            given.items(), (self.embed_dim, self.kdim, self.vdim), strict=True
        ):
            if array.shape[-1] != features:
                raise ValueError(
                    f"was expecting embedding dimension of {features}, but got {array.shape[-1]}: {name} is, batch "
                    f"first, of shape {array.shape}, and its last axis must hold the features."
                )
        if not query.shape[0] == key.shape[0] == value.shape[0] or key.shape[1] != value.shape[1]:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in given.items())
            raise ValueError(
                "query, key and value need one batch size, key and value one length. Batch first, they are "
                f"{shapes}; is batch_first what you mean?"
            )
        if key.shape[1] == 0:
            raise ValueError("There are no keys, of which a mean could be taken: S is 0.")


def _check_hint(mask: Any) -> None:
    """Raise where the hint that a mask is the causal one lacks the mask, or is known to be wrong."""
    if mask is None:
        raise RuntimeError(
            "Need attn_mask if specifying the is_causal hint. You may use the Transformer module method "
            "`generate_square_subsequent_mask` to create this mask. In JAX: "
            "jnp.triu(jnp.ones((L, S), bool), 1)."
        )
    if is_traced(mask):
        return
    known = np.asarray(mask)  # in NumPy, which `jit` does not trace
    hidden = known if known.dtype == bool else np.isneginf(known.astype(np.float32))
    causal = np.triu(np.ones(hidden.shape[-2:], bool), 1)
    if hidden.shape[-2:] != causal.shape or np.any(hidden != causal):
        raise ValueError(
            "is_causal=True says that attn_mask is the causal mask, but it is another. Leave the hint out: the "
            "mask alone decides."
        )


def _check_mask(name: str, mask: Any) -> Array:
    mask = checks.check_array(name, mask)
    if mask.dtype != bool and not jnp.issubdtype(mask.dtype, jnp.floating):
        raise TypeError(
            f"only bool and floating types of {name} are supported, got {mask.dtype}. Compare: mask != 0 if 1 "
            "marks what is hidden."
        )
    return mask


def _added(mask: Array) -> Array:
    """Return a mask as what is added to scores."""
    return jnp.where(mask, -jnp.inf, 0.0) if mask.dtype == bool else mask
