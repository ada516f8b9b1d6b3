"""The Transformer in its equations: encoder, decoder, and both."""

import copy

import torch
from torch import Tensor, nn

from torch_ref.dropout import Masks, check_masks, masks_of
from torch_ref.models.transformer_layers import Activation, TransformerDecoderLayer, TransformerEncoderLayer


class TransformerEncoder(nn.Module):
    """Copies of an encoder layer, one after the other, and a norm; as `torch.nn.TransformerEncoder`."""

    def __init__(self, encoder_layer: nn.Module, num_layers: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(copy.deepcopy(encoder_layer) for _ in range(num_layers))
        self.norm = norm

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        *,
        dropout_masks: Masks | None = None,
    ) -> Tensor:
        """Return the output, shaped like `src`."""
        masks = check_masks(self, dropout_masks)
        for number, layer in enumerate(self.layers):
            src = layer(src, mask, src_key_padding_mask, dropout_masks=masks_of(f"layers.{number}", masks))
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(nn.Module):
    """Copies of a decoder layer, one after the other, and a norm; as `torch.nn.TransformerDecoder`."""

    def __init__(self, decoder_layer: nn.Module, num_layers: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(copy.deepcopy(decoder_layer) for _ in range(num_layers))
        self.norm = norm

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        *,
        dropout_masks: Masks | None = None,
    ) -> Tensor:
        """Return the output, shaped like `tgt`."""
        masks = check_masks(self, dropout_masks)
        given = (memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
        for number, layer in enumerate(self.layers):
            tgt = layer(tgt, *given, dropout_masks=masks_of(f"layers.{number}", masks))
        return tgt if self.norm is None else self.norm(tgt)


class Transformer(nn.Module):
    """Encoder and decoder (Vaswani et al., 2017, https://arxiv.org/abs/1706.03762); as `torch.nn.Transformer`.

    torch's hints that a mask is the causal one choose its kernel, not the result; they are not there.
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Activation = "relu",
        custom_encoder: nn.Module | None = None,
        custom_decoder: nn.Module | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        options = (dropout, activation, layer_norm_eps, batch_first, norm_first, bias)

        def encoder() -> TransformerEncoder:
            layer = TransformerEncoderLayer(d_model, nhead, dim_feedforward, *options)
            return TransformerEncoder(
                layer, num_encoder_layers, nn.LayerNorm(d_model, layer_norm_eps, bias=bias)
            )

        def decoder() -> TransformerDecoder:
            layer = TransformerDecoderLayer(d_model, nhead, dim_feedforward, *options)
            return TransformerDecoder(
                layer, num_decoder_layers, nn.LayerNorm(d_model, layer_norm_eps, bias=bias)
            )

        self.encoder = encoder() if custom_encoder is None else custom_encoder
        self.decoder = decoder() if custom_decoder is None else custom_decoder
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        *,
        dropout_masks: Masks | None = None,
    ) -> Tensor:
        """Return the output, shaped like `tgt`."""
        masks = check_masks(self, dropout_masks)
        memory = self.encoder(src, src_mask, src_key_padding_mask, dropout_masks=masks_of("encoder", masks))
        return self.decoder(
            tgt,
            memory,
            tgt_mask,
            memory_mask,
            tgt_key_padding_mask,
            memory_key_padding_mask,
            dropout_masks=masks_of("decoder", masks),
        )

    @staticmethod
    def generate_square_subsequent_mask(sz: int) -> Tensor:
        """Return the causal mask: minus infinity where a key comes after the query, else 0."""
        return torch.full((sz, sz), float("-inf")).triu(1)
