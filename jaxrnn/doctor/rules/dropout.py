"""Rules about dropout: where it is on, and where it is off."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from jaxrnn.doctor.loops import calls_of, has_attribute, is_training, loops, text, within, without_gradients
from jaxrnn.doctor.program import Program
from jaxrnn.doctor.rules.rule import STEP, Hit, Rule, model, training_loop
from jaxrnn.doctor.values import Instance, Made, Name, Value, is_recurrent

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
    if any(has_attribute(node, "eval", "train", "training") for node in program.nodes):
        return
    if not any(is_training(program, loop) for loop in loops(program)):
        return
    for call in program.calls:
        if _drops(call.target) and _is_network(call.target) and without_gradients(program, call.node):
            yield call.node, f"{text(call.node)} under no_grad, but in training mode: nothing calls eval()."


def _is_network(value: Value) -> bool:
    """Tell a whole model from a layer of one."""
    if isinstance(value, Made):
        return value.name == "torch.nn.Sequential"
    bases = value.cls.bases if isinstance(value, Instance) else ()
    return any(isinstance(base, Name) and base.dotted == "torch.nn.Module" for base in bases)


def _stays_in_evaluation(program: Program) -> Iterator[Hit]:
    for loop in loops(program):
        inside = list(within(program, loop))
        if not is_training(program, loop) or any(has_attribute(each, "train", "training") for each in inside):
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


# Dropout ---------------------------------------------------------------------------------------------------------


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
