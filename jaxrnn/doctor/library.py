"""What torch's, JAX's and this library's classes and functions make of values, as far as the rules care."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jaxrnn.doctor.values import (
    Array,
    Constant,
    Items,
    Made,
    Many,
    Name,
    Output,
    Packed,
    Padding,
    Shape,
    Size,
    State,
    Value,
    activated,
    is_recurrent,
    merge,
    same_rows,
)

_LSTM = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
_RNN = (*_LSTM[:3], "nonlinearity", *_LSTM[3:])
_LOSS = ("weight", "size_average", "ignore_index", "reduce", "reduction", "label_smoothing")
_ADAM = ("params", "lr", "betas", "eps", "weight_decay", "amsgrad")
_SCHEDULES = (
    "StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR", "PolynomialLR", "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts", "LambdaLR", "MultiplicativeLR", "OneCycleLR", "CyclicLR", "SequentialLR",
)  # fmt: skip
_OPTAX_ADAM = ("learning_rate", "b1", "b2", "eps", "eps_root", "mu_dtype")

# The positional arguments of what the rules look at.
SIGNATURES: dict[str, tuple[str, ...]] = {
    **{
        f"{package}.{name}": _RNN if name == "RNN" else _LSTM
        for package in ("torch.nn", "jaxrnn", "torch_ref")
        for name in ("RNN", "GRU", "LSTM", "PeepholeLSTM")
    },
    "torch.nn.Embedding": ("num_embeddings", "embedding_dim", "padding_idx"),
    **{f"torch.nn.Dropout{d}": ("p", "inplace") for d in ("", "1d", "2d", "3d")},
    **{
        f"torch.nn.functional.{name}": ("input", "p", "training", "inplace")
        for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
    },
    "torch.nn.CrossEntropyLoss": _LOSS,
    "torch.nn.NLLLoss": _LOSS[:-1],
    "torch.nn.functional.cross_entropy": ("input", "target", *_LOSS),
    "torch.nn.functional.nll_loss": ("input", "target", *_LOSS[:-1]),
    "torch.nn.functional.binary_cross_entropy_with_logits": ("input", "target"),
    "torch.nn.utils.rnn.pad_sequence": ("sequences", "batch_first", "padding_value", "padding_side"),
    "torch.nn.utils.rnn.pack_padded_sequence": ("input", "lengths", "batch_first", "enforce_sorted"),
    "torch.nn.utils.rnn.pad_packed_sequence": ("sequence", "batch_first", "padding_value", "total_length"),
    "torch.utils.data.DataLoader": (
        "dataset", "batch_size", "shuffle", "sampler", "batch_sampler", "num_workers", "collate_fn",
    ),
    "torch.optim.Adam": _ADAM,
    "torch.optim.AdamW": _ADAM,
    "torch.optim.RMSprop": ("params", "lr", "alpha", "eps", "weight_decay", "momentum", "centered"),
    "torch.optim.Adagrad": (
        "params", "lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps",
    ),
    "torch.optim.Adadelta": ("params", "lr", "rho", "eps", "weight_decay"),
    **{f"torch.optim.lr_scheduler.{name}": ("optimizer",) for name in _SCHEDULES},
    "optax.adam": _OPTAX_ADAM,
    "optax.adamw": (*_OPTAX_ADAM, "weight_decay", "mask"),
    "optax.rmsprop": (
        "learning_rate", "decay", "eps", "initial_scale", "eps_in_sqrt", "centered", "momentum", "nesterov",
    ),
    "optax.adagrad": ("learning_rate", "initial_accumulator_value", "eps"),
    "optax.adadelta": ("learning_rate", "rho", "eps", "weight_decay"),
}  # fmt: skip

# Other names of the same.
_ALIASES = {
    **{
        f"jaxrnn.sequence.{name}": f"torch.nn.utils.rnn.{name}"
        for name in ("pad_sequence", "pack_padded_sequence", "pad_packed_sequence")
    },
    "torch.utils.data.dataloader.DataLoader": "torch.utils.data.DataLoader",
    "jaxrnn.layers.LSTM": "jaxrnn.LSTM",
    "jaxrnn.layers.GRU": "jaxrnn.GRU",
    "jaxrnn.layers.RNN": "jaxrnn.RNN",
    "torch.nn.modules.rnn.LSTM": "torch.nn.LSTM",
    "torch.nn.modules.rnn.GRU": "torch.nn.GRU",
    "torch.nn.modules.rnn.RNN": "torch.nn.RNN",
}
_FUNCTIONAL = ("torch", "torch.nn.functional", "torch.special", "jax.nn", "flax.nnx", "flax.linen")
_READOUTS = frozenset(("torch.nn.Linear", "torch.nn.Embedding", "flax.nnx.Linear", "flax.nnx.Embed"))
# What works on each number, and leaves an output an output.
_ELEMENTWISE_CLASSES = frozenset(
    f"{package}.{name}"
    for package in ("torch.nn", "flax.nnx")
    for name in ("Dropout", "LayerNorm", "RMSNorm", "Identity", "ReLU", "Tanh", "GELU", "SiLU", "ELU")
)
_ELEMENTWISE = frozenset(("relu", "tanh", "gelu", "silu", "elu", "leaky_relu", "dropout", "layer_norm"))
_ACTIVATIONS = frozenset(("softmax", "log_softmax", "sigmoid"))
_ACTIVATION_CLASSES = {
    f"torch.nn.{name}": activation
    for name, activation in (("Softmax", "softmax"), ("LogSoftmax", "log_softmax"), ("Sigmoid", "sigmoid"))
}
_FRESH = frozenset(("zeros", "ones", "randn", "rand", "empty", "new_zeros", "new_ones", "new_empty", "new"))
_THE_SAME = frozenset(
    ("to", "cuda", "cpu", "float", "double", "half", "bfloat16", "long", "int", "type", "type_as", "astype",
     "clone", "contiguous", "detach", "data", "requires_grad_", "zero_", "pin_memory")
)  # fmt: skip
_CONTAINERS = frozenset(("torch.nn.Sequential", "torch.nn.ModuleList"))
_RESHAPING = frozenset(("view", "reshape", "flatten", "squeeze", "unsqueeze"))
_TRANSPOSING = frozenset(("transpose", "permute", "swapaxes", "swapdims", "t"))
_WRAPPERS = frozenset(
    ("torch.compile", "torch.jit.script", "torch.nn.DataParallel", "torch.autograd.Variable", "tqdm.tqdm", "list",
     "tuple", "tqdm.auto.tqdm", "tqdm.notebook.tqdm", "iter", "reversed")
)  # fmt: skip


@dataclass(frozen=True)
class Arguments:
    """The arguments of a call, values and how they are written; `complete` unless there are `*` or `**`."""

    values: tuple[Value, ...] = ()
    nodes: tuple[ast.expr, ...] = ()
    keywords: dict[str, Value] | None = None
    complete: bool = True

    def named(self, signature: tuple[str, ...]) -> dict[Any, Value]:
        """Return {name: value}; positions without a name by their number, and None where there may be more."""
        names: list[Any] = [*signature, *range(len(signature), len(self.values))]
        found = dict(zip(names, self.values, strict=False)) | (self.keywords or {})
        return found if self.complete else found | {None: Array()}

    def first(self) -> Value:
        """Return the first argument."""
        return self.values[0] if self.values else Array()


def canonical(dotted: str) -> str:
    """Return the name by which the tables know something."""
    return _ALIASES.get(dotted, dotted)


def call(name: Name, arguments: Arguments, node: ast.Call) -> Value:
    """Return what calling a function or class of another package gives."""
    dotted = canonical(name.dotted)
    package, _, last = dotted.rpartition(".")
    if dotted in _FUNCTIONS:
        return _FUNCTIONS[dotted](arguments)
    if dotted in _WRAPPERS:
        return arguments.first()
    if package in _FUNCTIONAL and last in _ACTIVATIONS:
        return activated(arguments.first(), last)
    if package in _FUNCTIONAL and last in _ELEMENTWISE:
        return _elementwise(arguments.first())
    if package in ("torch", "jax.numpy") and last in _FRESH:
        return _fresh(arguments)
    if package == "torch" and last in _RESHAPING | _TRANSPOSING and arguments.values:
        rest = replace(arguments, values=arguments.values[1:], nodes=arguments.nodes[1:])
        return method(arguments.first(), last, rest)
    if last[:1].isupper() or package == "optax":
        options = arguments.named(SIGNATURES.get(dotted, ()))
        items = _members(arguments) if dotted in _CONTAINERS else ()
        return Made(dotted, node, options, items)
    return Array()


def apply(made: Made, arguments: Arguments) -> Value:
    """Return what calling an object of another package gives."""
    value = arguments.first()
    if is_recurrent(made):
        return _recurrent(made, value, arguments)
    if made.name in _ACTIVATION_CLASSES:
        return activated(value, _ACTIVATION_CLASSES[made.name])
    if made.name in _ELEMENTWISE_CLASSES:
        return _elementwise(value)
    return same_rows(value) if made.name in _READOUTS else Array()


def method(value: Value, name: str, arguments: Arguments) -> Value:
    """Return what a method of a value gives."""
    if name in _THE_SAME:
        return value
    if name in ("size", "dim") and isinstance(value, Array | Output):
        return size(value.root, arguments.first()) if arguments.values else Shape(value.root)
    if name in _FRESH:
        return _fresh(arguments)
    if not isinstance(value, Array | Output):
        return Array()
    if name in _ACTIVATIONS:
        return activated(value, name)
    if name in _ELEMENTWISE:
        return _elementwise(value)
    if name in _TRANSPOSING:
        return transposed(value, name, arguments)
    return reshaped(value) if name in _RESHAPING else Array()


def size(root: int, axis: Value) -> Value:
    """Return one size of an array."""
    known = isinstance(axis, Constant) and isinstance(axis.value, int)
    return Size(root, axis.value) if known else Array()


def reshaped(value: Array | Output) -> Array:
    """Return an array with other axes, that is as padded and as activated."""
    padding = value.padding and replace(value.padding, batch_first=None)
    return Array(padding=padding, activation=value.activation)


def transposed(value: Array | Output, name: str, arguments: Arguments) -> Value:
    """Return an array behind an exchange of axes; that of the first two exchanges rows and steps."""
    axes = tuple(getattr(each, "value", None) for each in _listed(arguments.values))
    if not (name == "t" or axes[:2] == (1, 0) or axes == (0, 1)) or axes[2:] not in ((), (2,)):
        return reshaped(value)
    if isinstance(value, Output):
        return replace(value, time_axis=None if value.time_axis is None else 1 - value.time_axis)
    turned = value.padding
    if turned and turned.batch_first is not None:
        turned = replace(turned, batch_first=not turned.batch_first)
    return Array(padding=turned, activation=value.activation)


def iterated(value: Value) -> Value:
    """Return what a loop over a value goes through."""
    if isinstance(value, Many):
        return value.item
    items = value.items if isinstance(value, Items | Made) else ()
    found = items[0] if items else Array()
    for each in items[1:]:
        found = merge(found, each)
    return found


def _members(arguments: Arguments) -> tuple[Value, ...]:
    """Return the modules of a container that was given modules, or a list of them."""
    values = arguments.values if arguments.complete else (Array(),)
    if len(values) == 1 and isinstance(values[0], Items | Many):
        return values[0].items if isinstance(values[0], Items) else (values[0].item,)
    return values


def _listed(values: tuple[Value, ...]) -> tuple[Value, ...]:
    """Return sizes or axes that were given one by one, or as one tuple."""
    return values[0].items if len(values) == 1 and isinstance(values[0], Items) else values


def _elementwise(value: Value) -> Value:
    kept = same_rows(value)
    return replace(kept, direct=value.direct) if isinstance(value, Output) else kept


def _fresh(arguments: Arguments) -> Value:
    if not arguments.complete or not arguments.values:
        return Array()
    values, nodes = arguments.values, arguments.nodes
    if len(values) == 1 and isinstance(values[0], Items):
        values, written = values[0].items, getattr(nodes[0], "elts", ())
        nodes = tuple(written) if len(written) == len(values) else nodes[:1] * len(values)
    return Array(shape=tuple(zip(values, nodes, strict=True)))


def _recurrent(made: Made, value: Value, arguments: Arguments) -> Value:
    ended = (arguments.keywords or {}).get("lengths", Constant(None)) != Constant(None)
    over_padding = False if ended or isinstance(value, Packed) else _padded_behind(value)
    padded = "lengths" if ended else "padding" if over_padding else None
    inside = value.of if isinstance(value, Packed) else value
    root = inside.root if isinstance(inside, Array | Output) else None
    state = State(made, root, over_padding)
    return Items(
        (_output(made, value, padded), Items((state, state)) if made.name.endswith("LSTM") else state)
    )


def _padded_behind(value: Value) -> bool | None:
    """Tell whether rows are padded behind their ends, None where nobody knows of padding."""
    padding = value.padding if isinstance(value, Array | Output) else None
    return padding.right if padding else None


def _output(made: Made, value: Value, padded: str | None) -> Value:
    if isinstance(value, Packed):
        return Packed(Output(made, None))
    batch_first = made.known("batch_first", False)
    time_axis = int(batch_first) if isinstance(batch_first, bool) else None
    return Output(made, time_axis, padded)


def _pad_sequence(arguments: Arguments) -> Value:
    given = arguments.named(SIGNATURES["torch.nn.utils.rnn.pad_sequence"])
    batch_first = getattr(given.get("batch_first", Constant(False)), "value", None)
    right = given.get("padding_side", Constant("right")) == Constant("right")
    return Array(padding=Padding(given.get("padding_value", Constant(0)), batch_first, right))


def _pad_packed_sequence(arguments: Arguments) -> Value:
    given = arguments.named(SIGNATURES["torch.nn.utils.rnn.pad_packed_sequence"])
    packed, batch_first = arguments.first(), getattr(given.get("batch_first", Constant(False)), "value", None)
    time_axis = int(batch_first) if isinstance(batch_first, bool) else None
    inside = packed.of if isinstance(packed, Packed) else None
    if not isinstance(inside, Output):
        return Items((Array(padding=Padding(Constant(0), batch_first)), Array()))
    return Items((Output(inside.layer, time_axis, "pad_packed_sequence"), Array()))


def _enumerate(arguments: Arguments) -> Value:
    return Many(Items((Array(), iterated(arguments.first()))))


def _zip(arguments: Arguments) -> Value:
    return Many(Items(tuple(map(iterated, arguments.values)))) if arguments.complete else Array()


def _len(arguments: Arguments) -> Value:
    value = arguments.first()
    return Size(value.root, 0) if isinstance(value, Array | Output) else Array()


_FUNCTIONS: dict[str, Callable[[Arguments], Value]] = {
    "torch.nn.utils.rnn.pad_sequence": _pad_sequence,
    "torch.nn.utils.rnn.pack_padded_sequence": lambda arguments: Packed(arguments.first()),
    "torch.nn.utils.rnn.pack_sequence": lambda arguments: Packed(arguments.first()),
    "torch.nn.utils.rnn.pad_packed_sequence": _pad_packed_sequence,
    "enumerate": _enumerate,
    "zip": _zip,
    "len": _len,
}
