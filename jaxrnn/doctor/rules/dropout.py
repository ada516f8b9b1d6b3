"""Rules about dropout: where it is on, and where it is off."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator, Sequence

from jaxrnn.doctor.library import SIGNATURES
from jaxrnn.doctor.loops import calls_of, has_attribute, is_training, loops, text, within, without_gradients
from jaxrnn.doctor.program import Call, Program
from jaxrnn.doctor.rules.rule import STEP, Hit, Rule, model, training_loop
from jaxrnn.doctor.values import Class, Constant, Instance, Made, Name, Value, is_recurrent

# Modes -----------------------------------------------------------------------------------------------------------


def _drops(value: Value, seen: frozenset[int] = frozenset()) -> bool:
    """Tell whether a module drops in training mode: itself, or a part of it."""
    if id(value) in seen:
        return False
    parts: Sequence[Value] = ()
    if isinstance(value, Made):
        if _is_dropout(value):
            return True
        parts = value.items
    elif isinstance(value, Instance):
        parts = list(value.attributes.values())
    return any(_drops(each, seen | {id(value)}) for each in parts)


def _is_dropout(made: Made) -> bool:
    if made.name.startswith("torch.nn.Dropout"):
        return made.known("p", 0.5) != 0
    layers, dropped = made.known("num_layers", 1), made.known("dropout", 0.0)
    return is_recurrent(made) and bool(layers and layers > 1) and bool(dropped)


def _drops_in_evaluation(program: Program) -> Iterator[Hit]:
    if any(_is_mode(node) or has_attribute(node, "eval") for node in program.nodes):
        return
    if not any(is_training(program, loop) for loop in loops(program)):
        return
    for call in program.calls:
        if _drops(call.target) and _is_network(call.target) and without_gradients(program, call.node):
            yield call.node, f"{text(call.node)} under no_grad, but in training mode: nothing calls eval()."


def _is_mode(node: ast.AST) -> bool:
    """Tell whether a node may set a mode, or keep one for later; a module that looks at its own does not."""
    return has_attribute(node, "train") or (has_attribute(node, "training") and text(node) != "self.training")


def _is_network(value: Value) -> bool:
    """Tell a whole model from a layer of one."""
    if isinstance(value, Made):
        return value.name == "torch.nn.Sequential"
    bases = value.cls.bases if isinstance(value, Instance) else ()
    return any(isinstance(base, Name) and base.dotted == "torch.nn.Module" for base in bases)


def _stays_in_evaluation(program: Program) -> Iterator[Hit]:
    for loop in loops(program):
        inside = list(within(program, loop))
        if not is_training(program, loop) or any(map(_is_mode, inside)):
            continue
        for call in calls_of(program, loop, "eval"):
            assert isinstance(call.func, ast.Attribute)
            if (
                not call.args
                and _is_trained(program, inside, call.func.value)
                and not _is_last(program, call)
            ):
                yield call, f"{text(call)} in a training loop in which nothing calls train() again."


def _is_trained(program: Program, inside: Sequence[ast.AST], owner: ast.expr) -> bool:
    calls = (each for each in inside if isinstance(each, ast.Call))
    return any(text(each.func) == text(owner) and not without_gradients(program, each) for each in calls)


def _is_last(program: Program, call: ast.Call) -> bool:
    """Tell whether a loop or a function ends behind a call, in its block."""
    node: ast.AST = call
    while not isinstance(node, ast.stmt):
        node = program.parents[node]
    blocks = (getattr(program.parents[node], name, None) for name in ("body", "orelse"))
    block = next((each for each in blocks if isinstance(each, list) and node in each), [])
    return any(isinstance(each, ast.Break | ast.Return) for each in block)


# Functions -------------------------------------------------------------------------------------------------------

_FUNCTIONS = frozenset(
    name for name in SIGNATURES if name.startswith("torch.nn.functional.") and "dropout" in name
)
_SWITCH = re.compile(
    r"(?:.*_)?(?:train|training|eval|evaluating|inference|deterministic|stochastic|sampling|mc)(?:_.*)?"
)


def _always_on(program: Program) -> Iterator[Hit]:
    for call in program.calls:
        what = _without_mode(call)
        cls = next(filter(None, map(program.classes.get, program.around(call.node))), None)
        if what and cls and _is_module(cls) and not _switched_by_hand(program, call.node, cls):
            yield call.node, f"{text(call.node)}: {what}."


def _without_mode(call: Call) -> str | None:
    """Return what is wrong with a call that drops by a mode of its own, None for all other calls."""
    match call.target:
        case Name(dotted=dotted) if dotted in _FUNCTIONS:
            given = call.arguments.named(SIGNATURES[dotted])
            if {"training", None} & given.keys() or given.get("p") == Constant(0):
                return None
            return f"without training= it {'never drops' if 'alpha' in dotted else 'drops in evaluation too'}"
        case Made() as made if _is_dropout(made) and not is_recurrent(made) and made.node is call.node.func:
            return "a layer that is made for one call is in training mode"
    return None


def _is_module(cls: Class) -> bool:
    """Tell a class of torch's modules, or of another package's that are named so, such as Lightning's."""
    return any(
        _is_module(base) if isinstance(base, Class) else isinstance(base, Name) and _of_modules(base.dotted)
        for base in cls.bases
    )


def _of_modules(dotted: str) -> bool:
    return dotted.startswith("torch.nn.") or dotted.endswith("Module")


def _switched_by_hand(program: Program, node: ast.AST, cls: Class) -> bool:
    """Tell whether somebody sees to it that a call is made in training only, or where it is asked for."""
    for each in itertools.takewhile(lambda each: each is not cls.node, program.around(node)):
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and _SWITCH.fullmatch(each.name):
            return True
        if isinstance(each, ast.If | ast.IfExp) and _names(each.test) & _arguments(program, each):
            return True
    return any(_is_switch(program, each) for body in _lineage(cls) for each in ast.walk(body))


def _names(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def _arguments(program: Program, node: ast.AST) -> set[str]:
    """Return the arguments of the functions around a node, without the object itself."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    functions = [each.args for each in program.around(node) if isinstance(each, kinds)]
    return {each.arg for args in functions for each in (*args.args, *args.kwonlyargs)} - {"self"}


def _lineage(cls: Class) -> Iterator[ast.ClassDef]:
    yield cls.node
    for base in cls.bases:
        if isinstance(base, Class):
            yield from _lineage(base)


def _is_switch(program: Program, node: ast.AST) -> bool:
    """Tell a mode that is looked at from one that is only handed on to torch, as it should be."""
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    if not _SWITCH.fullmatch(name) or isinstance(getattr(node, "ctx", None), ast.Store):
        return False
    outer = program.parents[node]
    call = program.parents[outer] if isinstance(outer, ast.keyword) else outer
    if not isinstance(call, ast.Call):
        return True
    targets = program.targets.get(call, ())
    to_torch = any(isinstance(each, Name) and each.dotted.startswith("torch.") for each in targets)
    return call.func is not node and not to_torch


# Layers -----------------------------------------------------------------------------------------------------------


def _of_one_layer(program: Program) -> Iterator[Hit]:
    for made in program.made:
        dropped = made.known("dropout", 0.0)
        if (
            is_recurrent(made)
            and made.known("num_layers", 1) == 1
            and isinstance(dropped, int | float)
            and dropped > 0
        ):
            yield (
                made.node,
                f"dropout={dropped} of a {made.name.rpartition('.')[2]} with one layer drops nothing.",
            )


_DROPPING = """import torch
from torch import nn
from torch.nn import functional as F


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(8, 16, batch_first=True)
        self.fc = nn.Linear(16, 2)

    def forward(self, x):
        output, _ = self.rnn(x)
        return self.fc(F.dropout(output[:, -1], 0.5{training}))
"""

RULES = (
    Rule(
        "dropout-in-evaluation",
        "A model with dropout is evaluated in training mode.",
        "`no_grad` switches gradients off, not dropout. A classifier whose loss on held-out rows is {} has "
        "anything from {} to {} with its dropout of 0.5 on: each evaluation draws anew.",
        "`model.eval()` in front of the evaluation and `model.train()` behind it.",
        training_loop(*STEP, first="", evaluate=""),
        training_loop(*STEP),
        _drops_in_evaluation,
        measured=("0.44", "0.65", "0.81"),
    ),
    Rule(
        "dropout-off-in-training",
        "A training loop switches to evaluation and never back.",
        "From the second epoch on nothing drops. A small network on 40 noisy rows, whose loss on others is {} "
        "after 100 epochs with dropout, has {} where it dropped in the first one only.",
        "`model.train()` at the top of each epoch.",
        training_loop(*STEP, first=""),
        training_loop(*STEP),
        _stays_in_evaluation,
        measured=("1.7", "2.1"),
    ),
    Rule(
        "dropout-always-on",
        "A model drops by a function that is not told whether it is training.",
        "`F.dropout` drops unless it is told otherwise, and `eval()` does not reach it. A classifier that was "
        "switched to evaluation gives {} of 256 held-out rows another class when it is asked again, and its loss "
        "on them, {} without dropout, is {} at the least. A layer that is made in the call, "
        "`nn.Dropout(0.5)(x)`, is alike. `F.alpha_dropout` is the other way round: without `training=` it never "
        "drops.",
        "`F.dropout(x, 0.5, training=self.training)`, or a layer, `self.dropout = nn.Dropout(0.5)` in `__init__`. "
        "To sample with dropout on purpose, write `training=True`.",
        _DROPPING.format(training=""),
        _DROPPING.format(training=", training=self.training"),
        _always_on,
        "`self.dropout = nnx.Dropout(0.5, rngs=rngs)`, which `eval()` switches off.",
        ("77", "0.44", "0.65"),
    ),
    Rule(
        "dropout-of-one-layer",
        "A recurrent layer of one layer is given dropout.",
        "`dropout` drops between the layers of a stack, and one layer has no between: in training mode, "
        "outputs with `dropout=0.9` and without differ by {}. torch warns, once.",
        "`nn.Dropout` in front of the readout; or `num_layers=2`.",
        model("output, _ = self.rnn(x)", "return self.fc(output)", options="dropout=0.5, batch_first=True"),
        model(
            "output, _ = self.rnn(x)", "return self.fc(output)", options="2, dropout=0.5, batch_first=True"
        ),
        _of_one_layer,
        "`nnx.Dropout` in front of the readout.",
        ("0",),
    ),
)
