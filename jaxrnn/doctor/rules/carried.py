"""The rule about states that are carried from batch to batch."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from jaxrnn.doctor.loops import (
    Loop,
    assigned,
    calls_of,
    has_attribute,
    is_inherited,
    loops,
    text,
    within,
    without_gradients,
)
from jaxrnn.doctor.program import Program
from jaxrnn.doctor.rules.rule import Hit, Rule
from jaxrnn.doctor.values import Function, Instance, Made, is_cell, is_recurrent

_MODEL = re.compile(r"(?:.*[._])?(?:model|net|network|rnn|lstm|gru|cell|decoder|encoder)\d*")
_STATE = re.compile(r"(?:.*_)?(?:h|c|hx|cx|hn|cn|h0|c0|hc|hidden|hiddens|cell|state|states|carry)(?:_.*)?")
_CUTS = ("detach", "detach_", "data")


def _not_detached(program: Program) -> Iterator[Hit]:
    for loop in loops(program):
        backwards = calls_of(program, loop, "backward")
        if backwards:
            how = _what_happens(backwards)
            for node, name in (*_carried_by_name(program, loop), *_carried_by_attribute(program, loop)):
                yield node, f"`{name}` goes from batch to batch and is never detached: {how}."


def _what_happens(backwards: Sequence[ast.Call]) -> str:
    if any(keyword.arg == "retain_graph" for call in backwards for keyword in call.keywords):
        return "retain_graph keeps the graph of every batch so far"
    return "the last backward() has freed its graph"


# `output, state = model(x, state)` in the loop itself ------------------------------------------------------------


def _carried_by_name(program: Program, loop: Loop) -> Iterator[tuple[ast.AST, str]]:
    if any(has_attribute(node, *_CUTS) for node in within(program, loop)):
        return
    carries = [(node, name) for node in ast.walk(loop) for name in _carried(node)]
    for node, name in carries:
        assert isinstance(node, ast.Assign)
        assert isinstance(node.value, ast.Call)
        if without_gradients(program, node) or not _is_model(program, node.value, name):
            continue
        if not any(name in assigned(each) for each in ast.walk(loop) if each is not node):
            yield node, name


def _carried(node: ast.AST) -> set[str]:
    """Return the names that a call is given, and that are given what it returns."""
    if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
        return set()
    arguments = [*node.value.args[1:], *(keyword.value for keyword in node.value.keywords)]
    given = {each.id for part in arguments for each in ast.walk(part) if isinstance(each, ast.Name)}
    return given & assigned(node)


def _is_model(program: Program, call: ast.Call, name: str) -> bool:
    """Tell whether a recurrent network is called: one that is known, or what is named so, as its state is."""
    targets = program.targets.get(call, [])
    held = [value for each in targets if isinstance(each, Instance) for value in each.attributes.values()]
    if any(is_recurrent(each) or is_cell(each) for each in (*targets, *held)):
        return True
    if any(isinstance(each, Made | Function) for each in targets) or _a_class_cuts(program):
        return False
    return _MODEL.fullmatch(text(call.func)) is not None and _STATE.fullmatch(name) is not None


def _a_class_cuts(program: Program) -> bool:
    """Tell whether some class of the program detaches; the model, if it is not known, may be of that class."""
    classes = [node for node in program.nodes if isinstance(node, ast.ClassDef)]
    return any(has_attribute(node, "detach", "detach_") for each in classes for node in ast.walk(each))


# `output, self.state = self.rnn(x, self.state)` in the model -----------------------------------------------------


def _carried_by_attribute(program: Program, loop: Loop) -> Iterator[tuple[ast.AST, str]]:
    inside = list(within(program, loop))
    if any(has_attribute(node, *_CUTS) or is_inherited(program, node) for node in inside):
        return
    for node in inside:
        for name in _kept(program, node):
            attributes = [each for each in inside if isinstance(each, ast.Attribute) and each.attr == name]
            stored = [each for each in attributes if isinstance(each.ctx, ast.Store)]
            if len(stored) == 1 and not without_gradients(program, node):
                yield node, f"self.{name}"


def _kept(program: Program, node: ast.AST) -> set[str]:
    """Return the attributes of `self` that a recurrent layer is given, and that are given what it returns."""
    if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
        return set()
    if not any(is_recurrent(each) or is_cell(each) for each in program.targets.get(node.value, ())):
        return set()
    given = {name for part in node.value.args[1:] for name in _of_self(part, ast.Load)}
    return given & {name for target in node.targets for name in _of_self(target, ast.Store)}


def _of_self(node: ast.AST, context: type[ast.expr_context]) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute) and text(each.value) == "self" and isinstance(each.ctx, context):
            yield each.attr


_TRAINING = """import torch
from torch import nn

rnn = nn.GRU(8, 16)
readout = nn.Linear(16, 2)
optimizer = torch.optim.Adam([*rnn.parameters(), *readout.parameters()])


def train(windows, state):
    for x, y in windows:
        output, state = rnn(x, {state})
        loss = nn.functional.mse_loss(readout(output), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""

RULES = (
    Rule(
        "state-not-detached",
        "A state is carried from batch to batch with its graph.",
        "The second batch raises `RuntimeError: Trying to backward through the graph a second time`. With "
        "`retain_graph=True` every batch runs backward through all batches before it, and memory grows: "
        "behind a GRU's loss there are {} nodes in the first batch of two steps and {} in the tenth. And an "
        "optimizer that stepped in between makes that raise, too.",
        "`state = state.detach()` in front of the call (of an LSTM, both: `tuple(s.detach() for s in state)`).",
        _TRAINING.format(state="state"),
        _TRAINING.format(state="state.detach()"),
        _not_detached,
        "Nothing: a state that comes into a compiled step as an argument is a constant to its gradient. Inside "
        "one gradient, `jax.lax.stop_gradient(state)`; `jaxrnn.truncated_bptt` does both.",
        ("38", "344"),
    ),
)
