"""One layer of a Transformer's encoder and of its decoder, in their equations."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from torch_ref.attention import MultiheadAttention
from torch_ref.dropout import Dropout, Masks, check_masks

Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: Mapping[str, Activation] = {"relu": nn.functional.relu, "gelu": nn.functional.gelu}


class TransformerEncoderLayer(nn.Module):
    """Self-attention and a network for each position, each added to what goes into it::

        y = norm1(x + dropout1(self_attn(x, x, x)))
        z = norm2(y + dropout2(linear2(dropout(activation(linear1(y))))))

    With `norm_first` the norms are in front: ``y = x + dropout1(self_attn(n, n, n))``, ``n = norm1(x)``. As
    `torch.nn.TransformerEncoderLayer` where it trains, with dropouts whose masks may be given, by name.
    """

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
    ) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first)
        self.linear1 = nn.Linear(d_model, dim_feedforward, bias)
        self.dropout = Dropout(dropout)
        self.linear2 = nn.Linear(dim_feedforward, d_model, bias)
        self.norm_first = norm_first
        self.norm1 = nn.LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.norm2 = nn.LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.activation: Activation = ACTIVATIONS[activation] if isinstance(activation, str) else activation

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        *,
        dropout_masks: Masks | None = None,
    ) -> Tensor:
        """Return the output, shaped like `src`."""
        masks = check_masks(self, dropout_masks)

        def attend(x: Tensor) -> Tensor:
            kept = masks.get("self_attn.dropout")
            x, _ = self.self_attn(
                x, x, x, src_key_padding_mask, need_weights=False, attn_mask=src_mask, dropout_mask=kept
            )
            return self.dropout1(x, masks.get("dropout1"))

        def network(x: Tensor) -> Tensor:
            hidden = self.dropout(self.activation(self.linear1(x)), masks.get("dropout"))
            return self.dropout2(self.linear2(hidden), masks.get("dropout2"))

        if self.norm_first:
            src = src + attend(self.norm1(src))
            return src + network(self.norm2(src))
        src = self.norm1(src + attend(src))
        return self.norm2(src + network(src))


class TransformerDecoderLayer(nn.Module):
    """Self-attention, attention to the memory and a network, each added to what goes into it::

        y = norm1(x + dropout1(self_attn(x, x, x)))
        z = norm2(y + dropout2(multihead_attn(y, memory, memory)))
        output = norm3(z + dropout3(linear2(dropout(activation(linear1(z))))))

    or with the norms in front. As `torch.nn.TransformerDecoderLayer`, with dropouts whose masks may be given.
    """

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
    ) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first)
        self.multihead_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first)
        self.linear1 = nn.Linear(d_model, dim_feedforward, bias)
        self.dropout = Dropout(dropout)
        self.linear2 = nn.Linear(dim_feedforward, d_model, bias)
        self.norm_first = norm_first
        self.norm1 = nn.LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.norm2 = nn.LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.norm3 = nn.LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.dropout3 = Dropout(dropout)
        self.activation: Activation = ACTIVATIONS[activation] if isinstance(activation, str) else activation

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

        def look_back(x: Tensor) -> Tensor:
            kept = masks.get("self_attn.dropout")
            x, _ = self.self_attn(
                x, x, x, tgt_key_padding_mask, need_weights=False, attn_mask=tgt_mask, dropout_mask=kept
            )
            return self.dropout1(x, masks.get("dropout1"))

        def look_up(x: Tensor) -> Tensor:
            kept, padding = masks.get("multihead_attn.dropout"), memory_key_padding_mask
            x, _ = self.multihead_attn(
                x, memory, memory, padding, need_weights=False, attn_mask=memory_mask, dropout_mask=kept
            )
            return self.dropout2(x, masks.get("dropout2"))

        def network(x: Tensor) -> Tensor:
            hidden = self.dropout(self.activation(self.linear1(x)), masks.get("dropout"))
            return self.dropout3(self.linear2(hidden), masks.get("dropout3"))

        if self.norm_first:
            tgt = tgt + look_back(self.norm1(tgt))
            tgt = tgt + look_up(self.norm2(tgt))
            return tgt + network(self.norm3(tgt))
        tgt = self.norm1(tgt + look_back(tgt))
        tgt = self.norm2(tgt + look_up(tgt))
        return self.norm3(tgt + network(tgt))
