"""The Transformer of Vaswani et al. (2017, https://arxiv.org/abs/1706.03762), as `torch.nn` has it."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxrnn import checks
from jaxrnn.dropout import check_masks, masks_for
from jaxrnn.init import TorchDraws
from jaxrnn.models.transformer_layers import (
    Activation,
    Builder,
    LayerCache,
    TransformerDecoderLayer,
    TransformerEncoderLayer,
)
from jaxrnn.torch_names import Parameter


class _Stack(nnx.Module):
    """What encoder and decoder share: copies of one layer, and how torch draws them."""

    layers: nnx.List[Any]
    norm: nnx.Module | None

    def drawn_like_torch(self, draws: TorchDraws, members: list[Parameter]) -> dict[str, np.ndarray]:
        """Return what torch draws: one layer, of which all are copies, and the norm."""
        stacked = [
            [each for each in members if any(node is layer for node in each.path)] for layer in self.layers
        ]
        values = draws.in_turn(stacked[0], inside=self)
        first = list(values.values())
        for copies in stacked:
            values |= dict(zip((each.name for each in copies), first, strict=True))
        rest = [each for each in members if each.name not in values]
        return values | draws.in_turn(rest, inside=self)


class TransformerEncoder(_Stack):
    """A stack of encoder layers, as `torch.nn.TransformerEncoder`: each is a copy of `encoder_layer`.

    So all start with the same weights, as in torch; what they drop out they draw on their own, from `rngs`.
    Not there: `enable_nested_tensor` and `mask_check`, which choose among torch's ways to compute.
    """

    @checks.torch_keywords
    def __init__(
        self,
        encoder_layer: nnx.Module,
        num_layers: int,
        norm: nnx.Module | None = None,
        *,
        rngs: nnx.Rngs,
    ):
        self.layers = _copies(encoder_layer, num_layers, rngs)
        self.num_layers = num_layers
        self.norm = norm

    def __call__(
        self,
        src: Float[Array, "... E"],
        mask: Array | None = None,
        src_key_padding_mask: Array | None = None,
        is_causal: bool | None = None,
        *,
        dropout_masks: Mapping[str, Array] | None = None,
    ) -> Float[Array, "... E"]:
        """Return the output, shaped like `src`; `mask` is the layers' `src_mask`, the rest is as there.

        Names of `dropout_masks` start with the layer: "layers.0.dropout1".
        """
        masks = check_masks(self, dropout_masks)
        for number, layer in enumerate(self.layers):
            of_layer = masks_for(f"layers.{number}", masks)
            src = layer(src, mask, src_key_padding_mask, is_causal=bool(is_causal), **of_layer)
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(_Stack):
    """A stack of decoder layers, as `torch.nn.TransformerDecoder`: each is a copy of `decoder_layer`.

    So all start with the same weights, as in torch; what they drop out they draw on their own, from `rngs`.
    """

    @checks.torch_keywords
    def __init__(
        self,
        decoder_layer: nnx.Module,
        num_layers: int,
        norm: nnx.Module | None = None,
        *,
        rngs: nnx.Rngs,
    ):
        self.layers = _copies(decoder_layer, num_layers, rngs)
        self.num_layers = num_layers
        self.norm = norm

    def __call__(
        self,
        tgt: Float[Array, "... E"],
        memory: Float[Array, "... E"],
        tgt_mask: Array | None = None,
        memory_mask: Array | None = None,
        tgt_key_padding_mask: Array | None = None,
        memory_key_padding_mask: Array | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
        *,
        dropout_masks: Mapping[str, Array] | None = None,
    ) -> Float[Array, "... E"]:
        """Return the output, shaped like `tgt`; arguments are the layers'.

        Names of `dropout_masks` start with the layer: "layers.0.dropout1".
        """
        masks = check_masks(self, dropout_masks)
        for number, layer in enumerate(self.layers):
            tgt = layer(
                tgt,
                memory,
                tgt_mask,
                memory_mask,
                tgt_key_padding_mask,
                memory_key_padding_mask,
                bool(tgt_is_causal),
                memory_is_causal,
                **masks_for(f"layers.{number}", masks),
            )
        return tgt if self.norm is None else self.norm(tgt)

    def start(self, memory: Float[Array, "B S E"], steps: int) -> tuple[LayerCache, ...]:
        """Return what the layers keep between `steps` steps, batch first."""
        return tuple(layer.start(memory, steps) for layer in self.layers)

    def step(
        self,
        tgt: Float[Array, "B 1 E"],
        caches: tuple[LayerCache, ...],
        position: Int[Array, " B"],
        memory_padding: Bool[Array, "B S"],
    ) -> tuple[Float[Array, "B 1 E"], tuple[LayerCache, ...]]:
        """Return the output at one position, given the steps before it, and the caches with this one in them.

        Equal to a call with the causal mask, at the cost of one position.
        """
        kept = []
        for layer, cache in zip(self.layers, caches, strict=True):
            tgt, cache = layer.step(tgt, cache, position, memory_padding)
            kept.append(cache)
        return (tgt if self.norm is None else self.norm(tgt)), tuple(kept)


class Transformer(nnx.Module):
    """Encoder and decoder, as `torch.nn.Transformer`; its parameters have torch's names, so weights go by name.

    Every matrix is drawn by Xavier's rule, those of a custom encoder or decoder too; biases of linear maps are
    equal in all layers of a stack, as in torch, which copies them.
    """

    @checks.torch_keywords
    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Activation = "relu",
        custom_encoder: nnx.Module | None = None,
        custom_decoder: nnx.Module | None = None,
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
        sizes = (
            d_model,
            nhead,
            dim_feedforward,
            dropout,
            activation,
            layer_norm_eps,
            batch_first,
            norm_first,
            bias,
        )
        given: dict[str, Any] = {
            "rngs": rngs,
            "dtype": dtype,
            "param_dtype": param_dtype,
            "precision": precision,
        }
        norm = Builder(d_model, dropout, layer_norm_eps, batch_first, bias, **given).norm
        if custom_encoder is None:
            encoder_layer = TransformerEncoderLayer(*sizes, **given)
            custom_encoder = TransformerEncoder(encoder_layer, num_encoder_layers, norm(), rngs=rngs)
        self.encoder = custom_encoder
        if custom_decoder is None:
            decoder_layer = TransformerDecoderLayer(*sizes, **given)
            custom_decoder = TransformerDecoder(decoder_layer, num_decoder_layers, norm(), rngs=rngs)
        self.decoder = custom_decoder
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first
        _draw_matrices(self, rngs)

    def __call__(
        self,
        src: Float[Array, "... E"],
        tgt: Float[Array, "... E"],
        src_mask: Array | None = None,
        tgt_mask: Array | None = None,
        memory_mask: Array | None = None,
        src_key_padding_mask: Array | None = None,
        tgt_key_padding_mask: Array | None = None,
        memory_key_padding_mask: Array | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
        *,
        dropout_masks: Mapping[str, Array] | None = None,
    ) -> Float[Array, "... E"]:
        """Return the output, shaped like `tgt`.

        * `src` [S, B, E] and `tgt` [T, B, E], or [B, ...] with `batch_first`, or without B.
        * `src_mask` [S, S], `tgt_mask` [T, T], `memory_mask` [T, S], each also for every row and head,
          [B * heads, ...]: True where a query must not look. `..._key_padding_mask` [B, S] or [B, T]: True where
          the key is padding. All may be floating, and are added then.
        * `..._is_causal`: torch's hints that a mask is the causal one. The masks must be given too, and decide.
        * `dropout_masks`: what to keep, in place of draws, by the names of the dropouts:
          "encoder.layers.0.self_attn.dropout", "decoder.layers.1.dropout3"; all of them, or none.
        """
        masks = check_masks(self, dropout_masks)
        src, tgt = checks.check_array("src", src), checks.check_array("tgt", tgt)
        self._check_shapes(src, tgt)
        memory = self.encoder(
            src,
            mask=src_mask,
            src_key_padding_mask=src_key_padding_mask,
            is_causal=src_is_causal,
            **masks_for("encoder", masks),
        )
        return self.decoder(
            tgt,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal,
            **masks_for("decoder", masks),
        )

    @staticmethod
    def generate_square_subsequent_mask(sz: int, *, dtype: Any = jnp.float32) -> Float[Array, "L L"]:
        """Return the causal mask: minus infinity where a key comes after the query, else 0."""
        return jnp.where(jnp.triu(jnp.ones((sz, sz), bool), 1), -jnp.inf, 0.0).astype(dtype)

    def drawn_like_torch(self, draws: TorchDraws, members: list[Parameter]) -> dict[str, np.ndarray]:
        """Return what torch draws: its parts, and then every matrix anew."""
        values = draws.in_turn(members, inside=self)
        return values | {each.name: draws.xavier_uniform(each) for each in members if len(each.shape) > 1}

    def _check_shapes(self, src: Array, tgt: Array) -> None:
        shapes = f"src is of shape {src.shape}, tgt of shape {tgt.shape}"
        batch = 0 if self.batch_first else 1
        if src.ndim == tgt.ndim == 3 and src.shape[batch] != tgt.shape[batch]:
            raise RuntimeError(
                f"the batch number of src and tgt must be equal, but {shapes}, and the batch is axis {batch}; "
                "is batch_first what you mean?"
            )
        if not src.shape[-1:] == tgt.shape[-1:] == (self.d_model,):
            raise RuntimeError(
                f"the feature number of src and tgt must be equal to d_model, which is {self.d_model}, but "
                f"{shapes}; the last axis must hold the features."
            )
        if src.ndim != tgt.ndim:
            raise ValueError(f"src and tgt must both have a batch axis, or neither, but {shapes}.")


def _draw_matrices(module: nnx.Module, rngs: nnx.Rngs) -> None:
    """Draw every matrix of a module by Xavier's rule, ``U(-b, b)`` with ``b = sqrt(6 / (rows + columns))``."""
    xavier = jax.nn.initializers.xavier_uniform()
    for _, node in nnx.iter_graph(module):
        if isinstance(node, nnx.Param) and node.ndim > 1:
            node.set_value(xavier(rngs.params(), node.shape, node.dtype))


def _copies(layer: nnx.Module, count: int, rngs: nnx.Rngs) -> nnx.List[Any]:
    """Return copies of a layer, with variables and random streams of their own."""
    if count < 1:
        raise ValueError(f"num_layers must be greater than zero. {count} layers would compute nothing.")
    return nnx.List([_copy(layer, rngs) for _ in range(count)])


def _copy(layer: nnx.Module, rngs: nnx.Rngs) -> nnx.Module:
    graphdef, state = nnx.split(layer)
    copied = nnx.merge(graphdef, jax.tree.map(jnp.copy, state))  # a buffer that two share cannot be donated
    for (_, old), (_, new) in zip(nnx.iter_graph(layer), nnx.iter_graph(copied), strict=True):
        if isinstance(new, nnx.RngStream):
            new.key.set_value(rngs.dropout())
        elif isinstance(new, nnx.Module):  # merged, it has its attributes by name, not in torch's order
            attributes = dict(vars(new))
            vars(new).clear()
            vars(new).update({name: attributes[name] for name in vars(old)})
    return copied
