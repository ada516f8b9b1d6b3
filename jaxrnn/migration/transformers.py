"""Rows of the table for attention and Transformers: their parts are converted one by one and put in place."""

from typing import Any

from flax import nnx

from jaxrnn import models
from jaxrnn.attention import MultiheadAttention
from jaxrnn.migration.activations import Activation
from jaxrnn.migration.refusals import is_module, name_of
from jaxrnn.migration.table import LEAVES, Row, Tools, dtype_of

_KINDS = {
    "self_attn": "torch.nn.modules.activation.MultiheadAttention",
    "multihead_attn": "torch.nn.modules.activation.MultiheadAttention",
    "out_proj": "torch.nn.modules.linear.Linear",
    "linear": "torch.nn.modules.linear.Linear",
    "norm": "torch.nn.modules.normalization.LayerNorm",
    "dropout": "torch.nn.modules.dropout.Dropout",
}
# torch's functions by the names of their modules; torch.nn.functional's gelu says that it is torch._C._nn's.
_FUNCTIONS = {
    ("torch.nn.functional", "relu"): "relu",
    ("torch", "relu"): "relu",
    ("torch._C._nn", "gelu"): "gelu",
}


def _replace(twin: nnx.Module, module: Any, names: list[str], tools: Tools) -> nnx.Module:
    """Put conversions of a module's parts into the twin, where they are of the kind that belongs there."""
    for name in names:
        part = getattr(module, name)
        kind = _KINDS[name.rstrip("123")]
        if tools.kind(part) != kind:
            raise NotImplementedError(
                f"{name} is a {name_of(type(part))} in place of {kind}: register the whole module"
            )
        setattr(twin, name, tools.convert(part))
    return twin


def _attention(module: Any, tools: Tools) -> nnx.Module:
    if module.bias_k is not None or module.add_zero_attn:
        option = "add_zero_attn" if module.add_zero_attn else "add_bias_kv"
        raise NotImplementedError(f"{option}=True is not supported: construct it without")
    weight = module.in_proj_weight if module._qkv_same_embed_dim else module.q_proj_weight
    twin = MultiheadAttention(
        module.embed_dim,
        module.num_heads,
        tools.probability(module.dropout),
        module.in_proj_bias is not None,
        kdim=module.kdim,
        vdim=module.vdim,
        batch_first=module.batch_first,
        rngs=tools.rngs,
        param_dtype=dtype_of(weight),
    )
    return _replace(twin, module, ["out_proj"], tools)


def _function(activation: Any, tools: Tools) -> Any:
    """Return our function for what a layer applies between its two linear maps."""
    if is_module(activation):
        return tools.convert(activation)
    key = getattr(activation, "__module__", ""), getattr(activation, "__name__", "")
    if key not in _FUNCTIONS:
        raise NotImplementedError(
            f"activation={activation!r} is neither relu nor gelu: pass an activation of torch.nn, a module"
        )
    return _FUNCTIONS[key]


def _layer(kind: type, parts: list[str]) -> Row:
    def build(module: Any, tools: Tools) -> nnx.Module:
        attention = module.self_attn
        if tools.kind(attention) != _KINDS["self_attn"]:
            raise NotImplementedError(
                f"self_attn is a {name_of(type(attention))} in place of {_KINDS['self_attn']}: register the "
                "whole module"
            )
        twin = kind(
            attention.embed_dim,
            attention.num_heads,
            1,  # the linear maps are replaced
            dropout=0.0,
            activation=_function(module.activation, tools),
            batch_first=attention.batch_first,
            norm_first=bool(module.norm_first),
            rngs=tools.rngs,
        )
        return _replace(twin, module, parts, tools)

    return build


def _stack(kind: type) -> Row:
    def build(module: Any, tools: Tools) -> nnx.Module:
        if not len(module.layers):
            raise ValueError("has no layers, and would compute nothing: use torch.nn.Identity")
        norm = None if module.norm is None else tools.convert(module.norm)
        twin = kind(Activation("Identity"), 1, norm, rngs=tools.rngs)
        twin.layers, twin.num_layers = tools.convert(module.layers), len(module.layers)
        return twin

    return build


def _transformer(module: Any, tools: Tools) -> nnx.Module:
    encoder, decoder = tools.convert(module.encoder), tools.convert(module.decoder)
    return models.Transformer(
        module.d_model,
        module.nhead,
        custom_encoder=encoder,
        custom_decoder=decoder,
        batch_first=module.batch_first,
        rngs=tools.rngs,
    )


_ENCODER_PARTS = ["self_attn", "linear1", "dropout", "linear2", "norm1", "norm2", "dropout1", "dropout2"]
_DECODER_PARTS = [*_ENCODER_PARTS, "multihead_attn", "norm3", "dropout3"]
_PREFIX = "torch.nn.modules.transformer"

TABLE: dict[str, Row] = {
    **LEAVES,
    "torch.nn.modules.activation.MultiheadAttention": _attention,
    f"{_PREFIX}.TransformerEncoderLayer": _layer(models.TransformerEncoderLayer, _ENCODER_PARTS),
    f"{_PREFIX}.TransformerDecoderLayer": _layer(models.TransformerDecoderLayer, _DECODER_PARTS),
    f"{_PREFIX}.TransformerEncoder": _stack(models.TransformerEncoder),
    f"{_PREFIX}.TransformerDecoder": _stack(models.TransformerDecoder),
    f"{_PREFIX}.Transformer": _transformer,
}
