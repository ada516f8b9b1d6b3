"""Rules about training loops: the order of what they do, and what they leave out."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from jaxrnn.doctor.loops import (
    assigned,
    calls_of,
    has_attribute,
    is_inherited,
    is_optimizer,
    is_own,
    is_training,
    loops,
    steps,
    text,
    within,
    without_gradients,
)
from jaxrnn.doctor.program import Program
from jaxrnn.doctor.rules.rule import Hit, Rule, model
from jaxrnn.doctor.values import Instance, Made, Name, Value, is_recurrent

# Gradients -------------------------------------------------------------------------------------------------------


def _not_zeroed(program: Program) -> Iterator[Hit]:
    for loop in loops(program):
        if not is_training(program, loop) or _zeroes(program, loop):
            continue
        stepped = steps(program, loop)
        if _handed_on(program, loop, stepped) or _made_within(program, loop, stepped):
            continue
        backward = calls_of(program, loop, "backward")[0]
        yield backward, f"{text(stepped[0])} in a loop in which nothing sets the gradients to zero."


def _zeroes(program: Program, loop: ast.AST) -> bool:
    """Tell whether gradients are reset in a loop: by `zero_grad`, or by hand."""
    for node in within(program, loop):
        if has_attribute(node, "zero_grad") or (isinstance(node, ast.Name) and "zero_grad" in node.id):
            return True
        if isinstance(node, ast.Attribute) and node.attr == "grad" and isinstance(node.ctx, ast.Store):
            return True
        if isinstance(node, ast.Attribute) and text(node).endswith(".grad.zero_"):
            return True
    return False


def _handed_on(program: Program, loop: ast.AST, stepped: Sequence[ast.Call]) -> bool:
    """Tell whether an optimizer is given to a function that is not known, which may reset what it likes."""
    names = {text(call.func.value) for call in stepped if isinstance(call.func, ast.Attribute)}
    names |= {text(each) for call in stepped for each in call.args}
    for node in within(program, loop):
        if not isinstance(node, ast.Call) or node in stepped or is_own(program, node):
            continue
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        if names & set(map(text, given)) or is_inherited(program, node):
            return True
    return False


def _made_within(program: Program, loop: ast.AST, stepped: Sequence[ast.Call]) -> bool:
    """Tell whether each round has an optimizer of its own."""
    names = {text(call.func.value) for call in stepped if isinstance(call.func, ast.Attribute)}
    stored = {name for node in within(program, loop) for name in assigned(node)}
    return bool(names & stored)


# Clipping --------------------------------------------------------------------------------------------------------


def _clipping(program: Program) -> Iterator[Hit]:
    for node in program.nodes:
        for body in (getattr(node, "body", None), getattr(node, "orelse", None)):
            if isinstance(body, list):
                yield from _clipped_late(program, body)


def _clipped_late(program: Program, body: Sequence[ast.stmt]) -> Iterator[Hit]:
    found = [each for statement in body for each in _events(program, statement)]
    kinds = "".join(kind for kind, _ in found)
    if kinds in (
        "bsc",
        "scb",
        "cbs",
    ):  # once around, the clipping is between the step and the next backward()
        node = next(node for kind, node in found if kind == "c")
        where = "in front of backward()" if kinds == "cbs" else "behind the step"
        yield node, f"gradients are clipped {where}, so the step takes them as they are."


def _events(program: Program, statement: ast.stmt) -> Iterator[tuple[str, ast.AST]]:
    """Yield what a statement does to gradients: b(ackward), c(lips), s(teps)."""
    if isinstance(statement, ast.For | ast.AsyncFor | ast.While | ast.FunctionDef | ast.ClassDef):
        return
    calls = [node for node in ast.walk(statement) if isinstance(node, ast.Call)]
    for node in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name == "backward":
            yield "b", node
        elif name in ("clip_grad_norm_", "clip_grad_value_") and "inf" not in text(
            node
        ):  # that only measures
            yield "c", node
        elif name == "step" and is_optimizer(program, node):
            yield "s", node


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


_LOOP = """import torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 2))
optimizer = torch.optim.Adam(model.parameters())


def fit(batches, held_out, epochs):
    for epoch in range(epochs):
        {first}for x, y in batches:
{step}
        {evaluate}with torch.no_grad():
            print(sum(nn.functional.mse_loss(model(x), y) for x, y in held_out))
"""
_STEP = (
    "optimizer.zero_grad()",
    "loss = nn.functional.mse_loss(model(x), y)",
    "loss.backward()",
    "optimizer.step()",
)
_CLIP = "nn.utils.clip_grad_norm_(model.parameters(), 1.0)"


def _loop(*step: str, first: str = "model.train()", evaluate: str = "model.eval()") -> str:
    lines = "\n".join(f"            {line}" for line in step)
    starts = [f"{line}\n        " if line else "" for line in (first, evaluate)]
    return _LOOP.format(first=starts[0], evaluate=starts[1], step=lines)


RULES = (
    Rule(
        "gradients-not-zeroed",
        "A training loop steps, and never sets the gradients to zero.",
        "`backward()` adds to what is there, so each step takes the sum of all gradients so far. Gradient "
        "descent on a quadratic function, whose loss falls to {} of its start in 50 steps, still swings at {} "
        "of it.",
        "`optimizer.zero_grad()` in each round, in front of `backward()`.",
        _loop(*_STEP[1:]),
        _loop(*_STEP),
        _not_zeroed,
        "Nothing: a gradient is what `jax.grad` returns, and nothing adds up.",
        ("0.0001", "0.52"),
    ),
    Rule(
        "clipping-order",
        "Gradients are clipped where the step does not see it.",
        "Between the step and the next `backward()` clipping changes nothing that is used: with a gradient of "
        "norm {} and a limit of 1, SGD goes {} times as far as the limit allows.",
        "`loss.backward()`, `clip_grad_norm_(...)`, `optimizer.step()`, in this order.",
        _loop(*_STEP, _CLIP),
        _loop(*_STEP[:3], _CLIP, _STEP[3]),
        _clipping,
        "`optax.chain(jaxrnn.optim.clip_grad_norm(1.0), jaxrnn.optim.adam(1e-3))`, the clipping first.",
        ("22", "22"),
    ),
    Rule(
        "dropout-in-evaluation",
        "A model with dropout is evaluated in training mode.",
        "`no_grad` switches gradients off, not dropout. A classifier whose loss on held-out rows is {} has "
        "anything from {} to {} with its dropout of 0.5 on: each evaluation draws anew.",
        "`model.eval()` in front of the evaluation and `model.train()` behind it.",
        _loop(*_STEP, first="", evaluate=""),
        _loop(*_STEP),
        _drops_in_evaluation,
        measured=("0.44", "0.65", "0.81"),
    ),
    Rule(
        "dropout-off-in-training",
        "A training loop switches to evaluation and never back.",
        "From the second epoch on nothing drops. A small network on 40 noisy rows, whose loss on others is {} "
        "after 100 epochs with dropout, has {} where it dropped in the first one only.",
        "`model.train()` at the top of each epoch.",
        _loop(*_STEP, first=""),
        _loop(*_STEP),
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
