"""One layer of a Transformer's encoder and of its decoder, as in `torch.nn`; `transformer.py` stacks them."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxrnn import checks
from jaxrnn.attention import MultiheadAttention
from jaxrnn.dropout import Dropout, check_masks
from jaxrnn.init import torch_linear

Activation = Callable[[Array], Array]

_ACTIVATIONS: Mapping[str, Activation] = {
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),  # torch's default is the exact one
}


class Builder(NamedTuple):
    """Builds the parts of a layer, initialised as torch does."""

    d_model: int
    dropout: float
    layer_norm_eps: float
    batch_first: bool
    bias: bool
    rngs: nnx.Rngs
    dtype: Any
    param_dtype: Any
    precision: jax.lax.PrecisionLike

    def attention(self, nhead: int) -> MultiheadAttention:
        """Build self-attention, or attention to the memory."""
        return MultiheadAttention(
            self.d_model,
            nhead,
            self.dropout,
            self.bias,
            batch_first=self.batch_first,
            rngs=self.rngs,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            precision=self.precision,
        )

    def linear(self, inputs: int, outputs: int) -> nnx.Linear:
        """Build a linear map."""
        return torch_linear(
            inputs,
            outputs,
            use_bias=self.bias,
            rngs=self.rngs,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            precision=self.precision,
        )

    def norm(self) -> nnx.LayerNorm:
        """Build a layer norm; Flax's fast variance ``E[x^2] - E[x]^2`` cancels where the mean is large."""
        return nnx.LayerNorm(
            self.d_model,
            epsilon=self.layer_norm_eps,
            use_bias=self.bias,
            use_fast_variance=False,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            rngs=self.rngs,
        )

    def drop(self) -> Dropout:
        """Build a dropout."""
        return Dropout(self.dropout, rngs=self.rngs)


class _Layer(nnx.Module):
    """What both kinds of layers share: residual branches, and what they accept."""

    self_attn: MultiheadAttention
    linear1: nnx.Linear
    linear2: nnx.Linear
    dropout: Dropout
    norm_first: bool
    activation: Activation
    dtype: Any

    def _branch(self, norm: nnx.LayerNorm, x: Array, block: Activation) -> Array:
        """Add what a block makes of x; the norm is in front of the block (`norm_first`) or behind the sum."""
        return x + block(norm(x)) if self.norm_first else norm(x + block(x))

    def _feed_forward(self, x: Array, mask: Array | None) -> Array:
        return self.linear2(self.dropout(self.activation(self.linear1(x)), mask))

    def _checked(self, name: str, x: Any) -> Array:
        x, features = checks.check_array(name, x), self.self_attn.embed_dim
        if x.ndim not in (2, 3):
            raise ValueError(
                f"{name} should be unbatched 2D or batched 3D, got {x.ndim}D instead. Map over further batch "
                "axes with jax.vmap."
            )
        if x.shape[-1] != features:
            raise ValueError(
                f"was expecting embedding dimension of {features}, but got {x.shape[-1]}: {name} is of shape "
                f"{x.shape}, and its last axis must hold the d_model={features} features."
            )
        weights = self.linear1.kernel[...].dtype
        return checks.check_dtype(x, self.dtype, self.dtype or weights, of=type(self).__name__)


class TransformerEncoderLayer(_Layer):
    """Self-attention and a network for each position, as `torch.nn.TransformerEncoderLayer`::

        y = norm1(x + dropout1(self_attn(x, x, x)))
        z = norm2(y + dropout2(linear2(dropout(activation(linear1(y))))))

    or, with `norm_first`, ``y = x + dropout1(self_attn(n, n, n))`` with ``n = norm1(x)`` and so on (Xiong et al.,
    2020, https://arxiv.org/abs/2002.04745). `activation` is "relu", "gelu" (exact) or a function of an array.

    A query of which every key is hidden gets zeros from the heads, as in torch where it trains. In evaluation
    mode without gradients torch takes another path, on which that row is NaN.
    """

    @checks.torch_keywords
    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
    ):
        checks.check_flags(batch_first=batch_first, norm_first=norm_first, bias=bias)
        build = Builder(
            d_model, dropout, layer_norm_eps, batch_first, bias, rngs, dtype, param_dtype, precision
        )
        self.self_attn = build.attention(nhead)
        self.linear1 = build.linear(d_model, dim_feedforward)
        self.dropout = build.drop()
        self.linear2 = build.linear(dim_feedforward, d_model)
        self.norm_first, self.dtype = norm_first, dtype
        self.norm1, self.norm2 = build.norm(), build.norm()
        self.dropout1, self.dropout2 = build.drop(), build.drop()
        self.activation = _activation(activation)

    def __call__(
        self,
        src: Float[Array, "... E"],
        src_mask: Array | None = None,
        src_key_padding_mask: Array | None = None,
        is_causal: bool = False,
        *,
        dropout_masks: Mapping[str, Array] | None = None,
    ) -> Float[Array, "... E"]:
        """Return the output, shaped like `src`: [S, B, E], or [B, S, E] with `batch_first`, or [S, E].

        Masks and `is_causal` are those of `MultiheadAttention`. `dropout_masks`, by name, are what to keep in
        place of draws: "self_attn.dropout" [B, heads, S, S] (B is 1 without a batch), "dropout"
        [..., dim_feedforward], "dropout1" and "dropout2", shaped like `src`.
        """
        masks, x = check_masks(self, dropout_masks), self._checked("src", src)

        def attend(x: Array) -> Array:
            x, _ = self.self_attn(
                x,
                x,
                x,
                attn_mask=src_mask,
                key_padding_mask=src_key_padding_mask,
                need_weights=False,
                is_causal=is_causal,
                dropout_mask=masks.get("self_attn.dropout"),
            )
            return self.dropout1(x, masks.get("dropout1"))

        def network(x: Array) -> Array:
            return self.dropout2(self._feed_forward(x, masks.get("dropout")), masks.get("dropout2"))

        x = self._branch(self.norm1, x, attend)
        return self._branch(self.norm2, x, network)


class LayerCache(NamedTuple):
    """What a decoder layer keeps between steps: its keys and values, and those of the memory, of every head."""

    key: jax.Array  # [B, heads, T, E / heads], of the target's positions so far
    value: jax.Array
    memory_key: jax.Array  # [B, heads, S, E / heads]
    memory_value: jax.Array


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to the memory and a network, as `torch.nn.TransformerDecoderLayer`::

        y = norm1(x + dropout1(self_attn(x, x, x)))
        z = norm2(y + dropout2(multihead_attn(y, memory, memory)))
        output = norm3(z + dropout3(linear2(dropout(activation(linear1(z))))))

    or with the norms in front, as in `TransformerEncoderLayer`, whose options it has.
    """

    @checks.torch_keywords
    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
    ):
        checks.check_flags(batch_first=batch_first, norm_first=norm_first, bias=bias)
        build = Builder(
            d_model, dropout, layer_norm_eps, batch_first, bias, rngs, dtype, param_dtype, precision
        )
        self.self_attn, self.multihead_attn = build.attention(nhead), build.attention(nhead)
        self.linear1 = build.linear(d_model, dim_feedforward)
        self.dropout = build.drop()
        self.linear2 = build.linear(dim_feedforward, d_model)
        self.norm_first, self.dtype = norm_first, dtype
        self.norm1, self.norm2, self.norm3 = build.norm(), build.norm(), build.norm()
        self.dropout1, self.dropout2, self.dropout3 = build.drop(), build.drop(), build.drop()
        self.activation = _activation(activation)

    def __call__(
        self,
        tgt: Float[Array, "... E"],
        memory: Float[Array, "... E"],
        tgt_mask: Array | None = None,
        memory_mask: Array | None = None,
        tgt_key_padding_mask: Array | None = None,
        memory_key_padding_mask: Array | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
        *,
        dropout_masks: Mapping[str, Array] | None = None,
    ) -> Float[Array, "... E"]:
        """Return the output, shaped like `tgt`: [T, B, E], or [B, T, E] with `batch_first`, or [T, E].

        Masks and hints are those of `MultiheadAttention`. `dropout_masks`, by name: "self_attn.dropout"
        [B, heads, T, T], "multihead_attn.dropout" [B, heads, T, S], "dropout" [..., dim_feedforward], and
        "dropout1" to "dropout3", shaped like `tgt`.
        """
        masks, x = check_masks(self, dropout_masks), self._checked("tgt", tgt)

        def look_back(x: Array) -> Array:
            x, _ = self.self_attn(
                x,
                x,
                x,
                attn_mask=tgt_mask,
                key_padding_mask=tgt_key_padding_mask,
                need_weights=False,
                is_causal=tgt_is_causal,
                dropout_mask=masks.get("self_attn.dropout"),
            )
            return x

        def look_up(x: Array) -> Array:
            x, _ = self.multihead_attn(
                x,
                memory,
                memory,
                attn_mask=memory_mask,
                key_padding_mask=memory_key_padding_mask,
                need_weights=False,
                is_causal=memory_is_causal,
                dropout_mask=masks.get("multihead_attn.dropout"),
            )
            return x

        return self._through(x, look_back, look_up, masks)

    def start(self, memory: Float[Array, "B S E"], steps: int) -> LayerCache:
        """Return a cache for `steps` steps, batch first whatever `batch_first` says."""
        key, value = (self.multihead_attn.heads(part, memory) for part in "kv")
        rows, heads, _, features = key.shape
        empty = jnp.zeros((rows, heads, steps, features), key.dtype)
        return LayerCache(empty, empty, key, value)

    def step(
        self,
        tgt: Float[Array, "B 1 E"],
        cache: LayerCache,
        position: Int[Array, " B"],
        memory_padding: Bool[Array, "B S"],
    ) -> tuple[Float[Array, "B 1 E"], LayerCache]:
        """Return the output at one position, given the steps before it, and the cache with this one in it."""
        x = self._checked("tgt", tgt)
        seen = self.norm1(x) if self.norm_first else x
        rows, steps = jnp.arange(x.shape[0]), jnp.arange(cache.key.shape[2])
        key, value = (
            kept.at[rows, :, position].set(self.self_attn.heads(part, seen)[:, :, 0], mode="drop")
            for part, kept in (("k", cache.key), ("v", cache.value))
        )
        later = steps > position[:, None, None, None]

        def look_back(x: Array) -> Array:
            return self.self_attn.attend(self.self_attn.heads("q", x), key, value, later)[0]

        def look_up(x: Array) -> Array:
            q, padding = self.multihead_attn.heads("q", x), memory_padding[:, None, None, :]
            return self.multihead_attn.attend(q, cache.memory_key, cache.memory_value, padding)[0]

        return self._through(x, look_back, look_up, {}), cache._replace(key=key, value=value)

    def _through(
        self, x: Array, look_back: Activation, look_up: Activation, masks: Mapping[str, Any]
    ) -> Array:
        def network(x: Array) -> Array:
            return self.dropout3(self._feed_forward(x, masks.get("dropout")), masks.get("dropout3"))

        x = self._branch(self.norm1, x, lambda x: self.dropout1(look_back(x), masks.get("dropout1")))
        x = self._branch(self.norm2, x, lambda x: self.dropout2(look_up(x), masks.get("dropout2")))
        return self._branch(self.norm3, x, network)


def _activation(given: str | Activation) -> Activation:
    if callable(given):
        return given
    if given not in _ACTIVATIONS:
        raise RuntimeError(
            f"activation should be relu/gelu, not {given}. Pass one of the two names, or a function of an array."
        )
    return _ACTIVATIONS[given]
