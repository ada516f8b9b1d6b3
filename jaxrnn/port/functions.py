"""What each function of `torch` and `torch.nn.functional` becomes."""

import ast

from jaxrnn.port.rules import MEANINGLESS, Rule, UntranslatedError, bind, fill, rule, whole

_OPTIONS = "[, axis={dim}][, keepdims={keepdim}]"


def _max_or_min(name: str) -> Rule:
    """`torch.max` takes all of a tensor, an axis of it (then it gives indices too), or the larger of two."""

    def rewrite(call: ast.Call, receiver: ast.expr | None = None) -> ast.expr:
        given = bind(call, "input dim? keepdim?", receiver)
        if "dim" not in given:
            return fill(f"jnp.{name}({{input}})", given)
        if whole(given["dim"]) is None and given["dim"] in call.args:
            raise UntranslatedError(
                f"its second argument may be an axis or a tensor: write dim=..., or torch.{name}imum"
            )
        options = "axis={dim}[, keepdims={keepdim}]"
        return fill(f"(jnp.{name}({{input}}, {options}), jnp.arg{name}({{input}}, {options}))", given)

    return rewrite


def _split(call: ast.Call, receiver: ast.expr | None = None) -> ast.expr:
    """Rewrite torch's split, whose sizes are those of the parts; NumPy's are the places between them."""
    given = bind(call, "tensor split_size_or_sections dim=0", receiver)
    sizes = given["split_size_or_sections"]
    if isinstance(sizes, ast.List | ast.Tuple):
        return fill("jnp.split({tensor}, np.cumsum({split_size_or_sections})[:-1], axis={dim})", given)
    if not isinstance(given["tensor"], ast.Name):
        raise UntranslatedError("it needs the tensor's size: give the tensor a name first")
    return fill(
        "jnp.split({tensor}, np.arange({split_size_or_sections}, {tensor}.shape[{dim}], {split_size_or_sections}), "
        "axis={dim})",
        given,
    )


def _softmax(name: str) -> Rule:
    def rewrite(call: ast.Call, receiver: ast.expr | None = None) -> ast.expr:
        given = bind(call, "input dim?", receiver)
        if "dim" not in given:
            raise UntranslatedError(
                "without dim torch chooses the axis by the number of axes; say which one is meant"
            )
        return fill(f"jax.nn.{name}({{input}}, axis={{dim}})", given)

    return rewrite


def _flatten(call: ast.Call, receiver: ast.expr | None = None) -> ast.expr:
    given = bind(call, "input start_dim=0 end_dim=-1", receiver)
    start, end = whole(given["start_dim"]), whole(given["end_dim"])
    if (start, end) == (0, -1):
        return fill("{input}.reshape(-1)", given)
    if (start, end) == (1, -1) and isinstance(given["input"], ast.Name):
        return fill("{input}.reshape({input}.shape[0], -1)", given)
    raise UntranslatedError("write the shape out, x.reshape(...)")


def _arange(call: ast.Call, receiver: ast.expr | None = None) -> ast.expr:
    """Rewrite torch's arange, which takes start, end and step as NumPy does."""
    named = {k.arg: k for k in call.keywords if k.arg not in MEANINGLESS}
    dtype = named.pop("dtype", None)
    if named:
        raise UntranslatedError("give start, end and step without their names")
    function = ast.parse("jnp.arange", mode="eval").body
    return ast.Call(function, call.args, [dtype] if dtype else [])


def _einsum(call: ast.Call, receiver: ast.expr | None = None) -> ast.expr:
    """Rewrite torch's einsum, whose operands may come as one list."""
    equation, *operands = call.args
    if len(operands) == 1 and isinstance(operands[0], ast.List | ast.Tuple):
        operands = operands[0].elts
    if call.keywords:
        raise UntranslatedError("it takes no named arguments")
    return ast.Call(ast.parse("jnp.einsum", mode="eval").body, [equation, *operands], [])


_ELEMENTWISE = (
    "exp log log1p log2 expm1 sqrt sin cos tan tanh abs sign floor ceil isnan isinf isfinite square sinh cosh"
)

# Of a tensor, and of nothing else.
_OF_ONE: dict[str, str] = {
    **{name: f"jnp.{name}({{input}})" for name in _ELEMENTWISE.split()},
    "sigmoid": "jax.nn.sigmoid({input})",
    "relu": "jax.nn.relu({input})",
    "rsqrt": "jax.lax.rsqrt({input})",
    "round": "jnp.round({input})",
    "neg": "-{input}",
    "t": "{input}.T",
    "numel": "{input}.size",
}

# What follows the tensor, and the code.
_OF_MORE: dict[str, str] = {
    "sum": f"dim? keepdim? -> jnp.sum({{input}}{_OPTIONS})",
    "mean": f"dim? keepdim? -> jnp.mean({{input}}{_OPTIONS})",
    "prod": f"dim? keepdim? -> jnp.prod({{input}}{_OPTIONS})",
    "all": f"dim? keepdim? -> jnp.all({{input}}{_OPTIONS})",
    "any": f"dim? keepdim? -> jnp.any({{input}}{_OPTIONS})",
    "argmax": f"dim? keepdim? -> jnp.argmax({{input}}{_OPTIONS})",
    "argmin": f"dim? keepdim? -> jnp.argmin({{input}}{_OPTIONS})",
    "std": f"dim? .keepdim? -> jnp.std({{input}}, ddof=1{_OPTIONS})",
    "var": f"dim? .keepdim? -> jnp.var({{input}}, ddof=1{_OPTIONS})",
    "logsumexp": f"dim keepdim? -> jax.nn.logsumexp({{input}}{_OPTIONS})",
    "cumsum": "dim -> jnp.cumsum({input}, axis={dim})",
    "unsqueeze": "dim -> jnp.expand_dims({input}, {dim})",
    "squeeze": "dim? -> jnp.squeeze({input}[, axis={dim}])",
    "transpose": "dim0 dim1 -> jnp.swapaxes({input}, {dim0}, {dim1})",
    "unbind": "dim=0 -> jnp.unstack({input}, axis={dim})",
    "chunk": "chunks dim=0 -> jnp.split({input}, {chunks}, axis={dim})",
    "flip": "*dims -> jnp.flip({input}, axis={dims})",
    "clamp": "min=None max=None -> jnp.clip({input}, {min}, {max})",
    "pow": "exponent -> {input} ** {exponent}",
    "mul": "other -> {input} * {other}",
    "add": "other -> {input} + {other}",
    "sub": "other -> {input} - {other}",
    "div": "other -> {input} / {other}",
    "eq": "other -> {input} == {other}",
    "ne": "other -> {input} != {other}",
    "gt": "other -> {input} > {other}",
    "lt": "other -> {input} < {other}",
    "ge": "other -> {input} >= {other}",
    "le": "other -> {input} <= {other}",
    "matmul": "other -> jnp.matmul({input}, {other})",
    "bmm": "mat2 -> jnp.matmul({input}, {mat2})",
    "mm": "mat2 -> jnp.matmul({input}, {mat2})",
    "mv": "vec -> jnp.matmul({input}, {vec})",
    "dot": "other -> jnp.dot({input}, {other})",
    "outer": "vec2 -> jnp.outer({input}, {vec2})",
    "masked_fill": "mask value -> jnp.where({mask}, {value}, {input})",
    "repeat_interleave": "repeats dim -> jnp.repeat({input}, {repeats}, axis={dim})",
    "index_select": "dim index -> jnp.take({input}, {index}, axis={dim})",
    "topk": "k -> jax.lax.top_k({input}, {k})",
    "tril": "diagonal=0 -> jnp.tril({input}, {diagonal})",
    "triu": "diagonal=0 -> jnp.triu({input}, {diagonal})",
}

# What torch has as functions and as methods of tensors.
OF_TENSORS: dict[str, Rule] = {
    **{name: rule(f"input -> {code}") for name, code in _OF_ONE.items()},
    **{name: rule(f"input {line}") for name, line in _OF_MORE.items()},
    "max": _max_or_min("max"),
    "min": _max_or_min("min"),
    "split": _split,
    "flatten": _flatten,
    "softmax": _softmax("softmax"),
    "log_softmax": _softmax("log_softmax"),
}

_FUNCTIONAL = {
    "relu": "input -> jax.nn.relu({input})",
    "tanh": "input -> jnp.tanh({input})",
    "sigmoid": "input -> jax.nn.sigmoid({input})",
    "silu": "input -> jax.nn.silu({input})",
    "elu": "input alpha=1.0 -> jax.nn.elu({input}, {alpha})",
    "gelu": "input -> jax.nn.gelu({input}, approximate=False)",
    "softplus": "input -> jax.nn.softplus({input})",
    "leaky_relu": "input negative_slope=0.01 -> jaxrnn.migration.Activation("
    "'LeakyReLU', negative_slope={negative_slope})({input})",
    "one_hot": "tensor num_classes -> jax.nn.one_hot({tensor}, {num_classes}, dtype=jnp.int32)",
    "mse_loss": "input target reduction='mean' -> jaxrnn.losses.mse_loss({input}, {target}, reduction={reduction})",
    "l1_loss": "input target reduction='mean' -> jaxrnn.losses.l1_loss({input}, {target}, reduction={reduction})",
    "cross_entropy": "input target weight? ignore_index? reduction? label_smoothing? -> "
    "jaxrnn.losses.cross_entropy({input}, {target}[, weight={weight}][, ignore_index={ignore_index}]"
    "[, reduction={reduction}][, label_smoothing={label_smoothing}])",
    "nll_loss": "input target weight? ignore_index? reduction? -> jaxrnn.losses.nll_loss("
    "{input}, {target}[, weight={weight}][, ignore_index={ignore_index}][, reduction={reduction}])",
}

_MADE = "*size dtype?"


def _made(code: str) -> Rule:
    return rule(f"{_MADE} -> {code}")


_LOSSES = {
    "MSELoss": "mse_loss",
    "L1Loss": "l1_loss",
    "SmoothL1Loss": "smooth_l1_loss",
    "HuberLoss": "huber_loss",
    "CrossEntropyLoss": "cross_entropy",
    "NLLLoss": "nll_loss",
    "BCELoss": "binary_cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits",
}
_COMMON = "[, eps={eps}][, weight_decay={weight_decay}][, maximize={maximize}]"
_OPTIMIZERS = {
    "Adam": f"lr=1e-3 betas? eps? weight_decay? amsgrad? .maximize? -> jaxrnn.optim.adam({{lr}}[, *{{betas}}]"
    f"{_COMMON}[, amsgrad={{amsgrad}}])",
    "AdamW": f"lr=1e-3 betas? eps? weight_decay? amsgrad? .maximize? -> jaxrnn.optim.adamw({{lr}}[, *{{betas}}]"
    f"{_COMMON}[, amsgrad={{amsgrad}}])",
    "SGD": "lr=1e-3 momentum? dampening? weight_decay? nesterov? .maximize? -> jaxrnn.optim.sgd({lr}"
    "[, momentum={momentum}][, dampening={dampening}][, weight_decay={weight_decay}][, nesterov={nesterov}]"
    "[, maximize={maximize}])",
    "RMSprop": f"lr=1e-2 alpha? eps? weight_decay? momentum? centered? .maximize? -> jaxrnn.optim.rmsprop({{lr}}"
    f"[, alpha={{alpha}}]{_COMMON}[, momentum={{momentum}}][, centered={{centered}}])",
}
OPTIMIZERS: dict[str, Rule] = {f"torch.optim.{name}": rule(line) for name, line in _OPTIMIZERS.items()}


def _loss(name: str) -> Rule:
    """Rewrite a loss with its options as a function of prediction and target."""

    def rewrite(call: ast.Call, receiver: ast.expr | None = None) -> ast.expr:
        loss = ast.parse(f"jaxrnn.losses.{name}", mode="eval").body
        if call.args:
            raise UntranslatedError("name its options")
        if not call.keywords:
            return loss
        return ast.Call(ast.parse("functools.partial", mode="eval").body, [loss], call.keywords)

    return rewrite


def _save(call: ast.Call, receiver: ast.expr | None = None) -> ast.expr:
    """Rewrite torch.save of a model's weights, which by then are those of `jaxrnn.state_dict`."""
    given = bind(call, "obj f")
    weights = given["obj"]
    if not (isinstance(weights, ast.Call) and ast.unparse(weights.func) == "jaxrnn.state_dict"):
        raise UntranslatedError(
            "only weights are written, by jaxrnn.save(model, path); docs/training.md has checkpoints"
        )
    return fill("jaxrnn.save({model}, {f})", {"model": weights.args[0], "f": given["f"]})


FUNCTIONS: dict[str, Rule] = {
    "torch.save": _save,
    "torch.nn.Transformer.generate_square_subsequent_mask": rule(
        "sz -> jaxrnn.Transformer.generate_square_subsequent_mask({sz})"
    ),
    **{f"torch.nn.{torchs}": _loss(ours) for torchs, ours in _LOSSES.items()},
    **{f"torch.{name}": known for name, known in OF_TENSORS.items()},
    **{f"torch.nn.functional.{name}": rule(line) for name, line in _FUNCTIONAL.items()},
    "torch.nn.functional.softmax": _softmax("softmax"),
    "torch.nn.functional.log_softmax": _softmax("log_softmax"),
    "torch.concat": rule("tensors dim=0 -> jnp.concatenate({tensors}, axis={dim})"),
    "torch.cat": rule("tensors dim=0 -> jnp.concatenate({tensors}, axis={dim})"),
    "torch.stack": rule("tensors dim=0 -> jnp.stack({tensors}, axis={dim})"),
    "torch.permute": rule("input dims -> jnp.transpose({input}, {dims})"),
    "torch.reshape": rule("input shape -> jnp.reshape({input}, {shape})"),
    "torch.where": rule("condition input other -> jnp.where({condition}, {input}, {other})"),
    "torch.maximum": rule("input other -> jnp.maximum({input}, {other})"),
    "torch.minimum": rule("input other -> jnp.minimum({input}, {other})"),
    "torch.einsum": _einsum,
    "torch.arange": _arange,
    "torch.zeros": _made("jnp.zeros({size}[, dtype={dtype}])"),
    "torch.ones": _made("jnp.ones({size}[, dtype={dtype}])"),
    "torch.empty": _made("jnp.zeros({size}[, dtype={dtype}])"),
    "torch.full": rule("size fill_value dtype? -> jnp.full({size}, {fill_value}[, dtype={dtype}])"),
    "torch.eye": rule("n dtype? -> jnp.eye({n}[, dtype={dtype}])"),
    "torch.tensor": rule("data dtype? -> jnp.array({data}[, dtype={dtype}])"),
    "torch.as_tensor": rule("data dtype? -> jnp.asarray({data}[, dtype={dtype}])"),
    "torch.from_numpy": rule("ndarray -> jnp.asarray({ndarray})"),
    "torch.zeros_like": rule("input dtype? -> jnp.zeros_like({input}[, dtype={dtype}])"),
    "torch.ones_like": rule("input dtype? -> jnp.ones_like({input}[, dtype={dtype}])"),
    "torch.full_like": rule("input fill_value -> jnp.full_like({input}, {fill_value})"),
    "torch.linspace": rule("start end steps -> jnp.linspace({start}, {end}, {steps})"),
    "torch.autograd.Variable": rule("data -> {data}"),
    "torch.is_tensor": rule("obj -> isinstance({obj}, jax.Array)"),
    "torch.is_grad_enabled": rule("-> True"),
}

# What `tensor.type(torch.FloatTensor)` makes.
TENSORS = {
    **dict.fromkeys(("torch.Tensor", "torch.FloatTensor"), "jnp.float32"),
    "torch.DoubleTensor": "jnp.float64",
    "torch.HalfTensor": "jnp.float16",
    **dict.fromkeys(("torch.IntTensor", "torch.LongTensor"), "jnp.int32"),
    "torch.ByteTensor": "jnp.uint8",
    "torch.BoolTensor": "jnp.bool_",
}
DTYPES = {
    **dict.fromkeys(("float", "float32"), "jnp.float32"),
    **dict.fromkeys(("double", "float64"), "jnp.float64"),
    **dict.fromkeys(("half", "float16"), "jnp.float16"),
    "bfloat16": "jnp.bfloat16",
    **dict.fromkeys(("int", "int32"), "jnp.int32"),
    **dict.fromkeys(("long", "int64"), "jnp.int32"),
    **dict.fromkeys(("short", "int16"), "jnp.int16"),
    "int8": "jnp.int8",
    "uint8": "jnp.uint8",
    "bool": "jnp.bool_",
}
