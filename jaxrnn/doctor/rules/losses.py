"""Rules about losses: what they are given, and what they should not count."""

from __future__ import annotations

from collections.abc import Iterator

from jaxrnn.doctor.library import SIGNATURES
from jaxrnn.doctor.program import Call, Program
from jaxrnn.doctor.rules.rule import Hit, Rule
from jaxrnn.doctor.values import Array, Constant, Made, Name, Output, Padding, Value

# What a loss takes, and what it makes of it itself.
_WANTS_LOGITS = {
    "torch.nn.CrossEntropyLoss": "softmax",
    "torch.nn.functional.cross_entropy": "softmax",
    "jaxrnn.losses.cross_entropy": "softmax",
    "optax.softmax_cross_entropy": "softmax",
    "optax.softmax_cross_entropy_with_integer_labels": "softmax",
    "torch.nn.BCEWithLogitsLoss": "sigmoid",
    "torch.nn.functional.binary_cross_entropy_with_logits": "sigmoid",
    "jaxrnn.losses.binary_cross_entropy_with_logits": "sigmoid",
    "optax.sigmoid_binary_cross_entropy": "sigmoid",
}
_WANTS_LOGS = frozenset(("torch.nn.NLLLoss", "torch.nn.functional.nll_loss", "jaxrnn.losses.nll_loss"))
_OF_LABELS = frozenset(("torch.nn.CrossEntropyLoss", "torch.nn.functional.cross_entropy", *_WANTS_LOGS))


def _name(call: Call) -> str | None:
    """Return the dotted name of a loss that is called, a function or an object."""
    match call.target:
        case Name(dotted=name) | Made(name=name):
            return name
    return None


def _probabilities(program: Program) -> Iterator[Hit]:
    for call in program.calls:
        name = _name(call)
        value = call.arguments.first()
        activation = value.activation if isinstance(value, Array | Output) else None
        if name is None or activation is None:
            continue
        short = name.rpartition(".")[2]
        if _WANTS_LOGITS.get(name) == activation:
            yield (
                call.node,
                f"{short} is given a {activation}'s result, and takes logits: it has the {activation} in it.",
            )
        elif name in _WANTS_LOGS and activation == "softmax":
            yield call.node, f"{short} is given a softmax's result, and takes logarithms of probabilities."


def _padding(program: Program) -> Iterator[Hit]:
    for call in program.calls:
        if _name(call) not in _OF_LABELS or not call.arguments.complete:
            continue
        options = _options(call)
        target = options.get("target")
        padding = target.padding if isinstance(target, Array) else None
        if padding is None or _value(options, "reduction", "mean") not in ("mean", "sum"):
            continue
        if options.get("weight", Constant(None)) != Constant(None) or None in options:
            continue
        if (what := _counted(padding, _value(options, "ignore_index", -100))) is not None:
            yield call.node, f"the targets are padded with {what}, and the loss counts the padding."


def _options(call: Call) -> dict[object, Value]:
    """Return what a loss was made with and what it is called with."""
    if isinstance(call.target, Made):
        given = call.arguments.named(("input", "target"))
        return {**call.target.options, **given}
    signature = SIGNATURES.get(call.target.dotted, ("input", "target"))
    return dict(call.arguments.named(signature))


def _value(options: dict[object, Value], name: str, default: object) -> object:
    return getattr(options.get(name, Constant(default)), "value", None)


def _counted(padding: Padding, ignored: object) -> object:
    """Return what the targets are padded with, if it is known and not what the loss ignores."""
    filled = padding.value.value if isinstance(padding.value, Constant) else None
    return None if ignored is None or filled is None or filled == ignored else filled


def _other_token(program: Program) -> Iterator[Hit]:
    for call in program.calls:
        if not (isinstance(call.target, Made) and call.target.name == "torch.nn.Embedding"):
            continue
        value, own = call.arguments.first(), call.target.known("padding_idx", None)
        padding = value.padding if isinstance(value, Array) else None
        filled = padding.value.value if padding and isinstance(padding.value, Constant) else None
        if isinstance(own, int) and filled is not None and filled != own:
            yield call.node, f"the batch is padded with {filled}, and the embedding's padding_idx is {own}."


_TAGGING = """import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

criterion = nn.CrossEntropyLoss()


def loss_of(model, sentences, tags):
    x = pad_sequence(sentences, batch_first=True)
    y = pad_sequence(tags, batch_first=True{padding})
    logits = model(x)
    return criterion(logits.flatten(0, 1), y.flatten())
"""
_CLASSIFYING = """import torch
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(8, 16, batch_first=True)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        _, h_n = self.rnn(x)
        return {readout}


model = Model()
criterion = nn.CrossEntropyLoss()


def loss_of(x, y):
    return criterion(model(x), y)
"""
_EMBEDDING = """from torch import nn
from torch.nn.utils.rnn import pad_sequence

embedding = nn.Embedding(1000, 32, padding_idx=0)


def embed(sentences):
    return embedding(pad_sequence(sentences, batch_first=True, padding_value={padding}))
"""

RULES = (
    Rule(
        "padding-in-loss",
        "Padded steps count in the loss.",
        "The mean is taken over padding too, so it depends on how much of that a batch happens to have. Of a "
        "model that knows padding when it sees it, with {} of the steps being padding, the loss is {} of that "
        "of real steps: it looks better than it is, and the gradient of real steps shrinks alike.",
        "Pad the targets with -100, which `CrossEntropyLoss` ignores: `pad_sequence(tags, batch_first=True, "
        "padding_value=-100)`; or name your own: `CrossEntropyLoss(ignore_index=PAD)`. Else "
        "`reduction='none'` and a mean over what is real.",
        _TAGGING.format(padding=""),
        _TAGGING.format(padding=", padding_value=-100"),
        _padding,
        "`jaxrnn.losses.cross_entropy(logits, jaxrnn.losses.ignore_padding(y, lengths))`, or `masked_mean`.",
        ("49 %", "51 %"),
    ),
    Rule(
        "probabilities-for-logits",
        "A loss that takes logits is given probabilities.",
        "`CrossEntropyLoss` takes the softmax itself. Behind another one its scores lie between 0 and 1, and of "
        "5 classes it cannot fall below {}. The first gradient of a small classifier is {} times smaller, and "
        "after 200 steps of SGD that bring its cross entropy to {} without the softmax, it is at {} with it. "
        "(Adam makes up for the size of the gradient, but not for where it vanishes.) `BCEWithLogitsLoss` "
        "behind a sigmoid is alike: it cannot fall below {} for ones and {} for zeros. `NLLLoss` of "
        "probabilities without a logarithm has next to no gradient where the model is surely wrong. A "
        "`log_softmax` in front of `CrossEntropyLoss` is no fault: taken twice, it is the same.",
        "Return the readout's numbers, and take the softmax where probabilities are wanted, in prediction. "
        "`BCELoss` takes probabilities, `NLLLoss` a `log_softmax`.",
        _CLASSIFYING.format(readout="torch.softmax(self.fc(h_n[-1]), dim=-1)"),
        _CLASSIFYING.format(readout="self.fc(h_n[-1])"),
        _probabilities,
        measured=("0.9", "5.9", "0.54", "1.4", "0.31", "0.69"),
    ),
    Rule(
        "other-padding-token",
        "Batches are padded with another token than the one that the embedding keeps at zero.",
        "The true padding's vector is trained like a word's, and the word at `padding_idx` is a row of zeros "
        "that never learns: the gradient of all its {} numbers is exactly zero.",
        "The same number for `pad_sequence(padding_value=PAD)` and `nn.Embedding(padding_idx=PAD)`.",
        _EMBEDDING.format(padding="1"),
        _EMBEDDING.format(padding="0"),
        _other_token,
        measured=("32",),
    ),
)
