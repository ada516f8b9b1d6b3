"""What each class of `torch.nn` becomes where it is constructed."""

import ast

from jaxrnn.port.rules import MEANINGLESS, Rule, UntranslatedError, rule

# Classes of this package with torch's arguments in torch's order, whose parameters are drawn from `rngs`.
_SAME_ARGUMENTS = (
    "RNN GRU LSTM RNNCell GRUCell LSTMCell MultiheadAttention Transformer TransformerEncoder TransformerDecoder "
    "TransformerEncoderLayer TransformerDecoderLayer"
)
LAYERS = {f"torch.nn.{name}": f"jaxrnn.{name}" for name in _SAME_ARGUMENTS.split()}
_DRAWN = "Conv1d Embedding EmbeddingBag"
_PLAIN = "ReLU Tanh Sigmoid SiLU SELU Identity Hardsigmoid"

_NORM = "epsilon={eps}, use_bias={bias}, use_scale={elementwise_affine}, use_fast_variance=False, rngs=rngs"

_ACT = "jaxrnn.migration.Activation"
_LINES = {
    "Linear": "in_features out_features bias? dtype? -> jaxrnn.init.torch_linear("
    "{in_features}, {out_features}[, use_bias={bias}], rngs=rngs[, param_dtype={dtype}])",
    "Dropout": "p=0.5 -> jaxrnn.dropout.Dropout({p}, rngs=rngs)",
    "LeakyReLU": f"negative_slope=0.01 -> {_ACT}('LeakyReLU', negative_slope={{negative_slope}})",
    "ELU": f"alpha=1.0 -> {_ACT}('ELU', alpha={{alpha}})",
    "GELU": f"approximate='none' -> {_ACT}('GELU', approximate={{approximate}})",
    "Softplus": f"beta=1.0 threshold=20.0 -> {_ACT}('Softplus', beta={{beta}}, threshold={{threshold}})",
    "Hardtanh": f"min_val=-1.0 max_val=1.0 -> {_ACT}('Hardtanh', min_val={{min_val}}, max_val={{max_val}})",
    "Softmax": f"dim=None -> {_ACT}('Softmax', dim={{dim}})",
    "LogSoftmax": f"dim=None -> {_ACT}('LogSoftmax', dim={{dim}})",
    "Flatten": f"start_dim=1 end_dim=-1 -> {_ACT}('Flatten', start_dim={{start_dim}}, end_dim={{end_dim}})",
    "BatchNorm1d": "num_features eps=1e-5 momentum=0.1 affine=True track_running_stats=True -> "
    "jaxrnn.migration.BatchNorm1d("
    "{num_features}, {eps}, {momentum}, {affine}, {track_running_stats})",
    "ModuleDict": "modules -> jaxrnn.migration.ModuleDict({modules})",
}


def _with_rngs(name: str) -> Rule:
    """Hand all arguments on, and `rngs`; the dtype is that of the parameters."""

    def rewrite(call: ast.Call, receiver: ast.expr | None = None) -> ast.expr:
        kept = [k for k in call.keywords if k.arg not in MEANINGLESS]
        renamed = [ast.keyword("param_dtype" if k.arg == "dtype" else k.arg, k.value) for k in kept]
        rngs = ast.keyword("rngs", ast.Name("rngs", ast.Load()))
        function = ast.parse(name, mode="eval").body
        # A dictionary of arguments stays last, where its names are checked against the others'.
        known = [k for k in renamed if k.arg is not None]
        return ast.Call(function, call.args, [*known, rngs, *(k for k in renamed if k.arg is None)])

    return rewrite


def _parameter(call: ast.Call, receiver: ast.expr | None = None) -> ast.expr:
    """Rewrite a parameter; one that is not trained is another kind of variable."""
    trained = [k.value for k in call.keywords if k.arg == "requires_grad"] + call.args[1:]
    frozen = bool(trained) and isinstance(trained[0], ast.Constant) and trained[0].value is False
    if trained and not isinstance(trained[0], ast.Constant):
        raise UntranslatedError("whether it is trained cannot be told from the code")
    kind = "jaxrnn.torch_names.Frozen" if frozen else "nnx.Param"
    return rule(f"data -> {kind}({{data}})")(ast.Call(call.func, call.args[:1], call.keywords), None)


def _activation(name: str) -> Rule:
    plain = rule(f"-> {_ACT}('{name}')")

    def rewrite(call: ast.Call, receiver: ast.expr | None = None) -> ast.expr:
        return plain(ast.Call(call.func, [], call.keywords), None)  # a positional argument is inplace

    return rewrite


def _layer_norm(call: ast.Call, receiver: ast.expr | None = None) -> ast.expr:
    """Over one axis it is Flax's own; a literal tuple of several is another class."""
    options = "normalized_shape eps=1e-5 elementwise_affine=True bias=True"
    if call.args and isinstance(call.args[0], ast.Tuple | ast.List):
        shape = call.args[0]
        if len(shape.elts) > 1:
            made = "jaxrnn.migration.LayerNorm({normalized_shape}, {eps}, {elementwise_affine}, {bias})"
            return rule(f"{options} -> {made}")(call, None)
        call = ast.Call(call.func, [shape.elts[0], *call.args[1:]], call.keywords)
    return rule(f"{options} -> nnx.LayerNorm({{normalized_shape}}, {_NORM})")(call, None)


def _sequential(call: ast.Call, receiver: ast.expr | None = None) -> ast.expr:
    """Hand the parts on: modules one by one, or an OrderedDict of them."""
    if call.keywords:
        raise UntranslatedError("give its parts without names, or as an OrderedDict")
    return ast.Call(ast.parse("jaxrnn.migration.Sequential", mode="eval").body, call.args, [])


def _module_list(call: ast.Call, receiver: ast.expr | None = None) -> ast.expr:
    if call.keywords or len(call.args) > 1:
        raise UntranslatedError("give it one list")
    function = ast.parse("nnx.List", mode="eval").body
    return ast.Call(function, call.args or [ast.List([], ast.Load())], [])


MODULES: dict[str, Rule] = {
    **{name: _with_rngs(f"jaxrnn.{name}") for name in _SAME_ARGUMENTS.split()},
    **{name: _with_rngs(f"jaxrnn.migration.{name}") for name in _DRAWN.split()},
    **{name: _activation(name) for name in _PLAIN.split()},
    **{name: rule(line) for name, line in _LINES.items()},
    "Parameter": _parameter,
    "LayerNorm": _layer_norm,
    "Sequential": _sequential,
    "ModuleList": _module_list,
}
