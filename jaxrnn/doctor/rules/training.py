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
)
from jaxrnn.doctor.program import Program
from jaxrnn.doctor.rules.rule import STEP, Hit, Rule, training_loop

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


_CLIP = "nn.utils.clip_grad_norm_(model.parameters(), 1.0)"

RULES = (
    Rule(
        "gradients-not-zeroed",
        "A training loop steps, and never sets the gradients to zero.",
        "`backward()` adds to what is there, so each step takes the sum of all gradients so far. Gradient "
        "descent on a quadratic function, whose loss falls to {} of its start in 50 steps, still swings at {} "
        "of it.",
        "`optimizer.zero_grad()` in each round, in front of `backward()`.",
        training_loop(*STEP[1:]),
        training_loop(*STEP),
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
        training_loop(*STEP, _CLIP),
        training_loop(*STEP[:3], _CLIP, STEP[3]),
        _clipping,
        "`optax.chain(jaxrnn.optim.clip_grad_norm(1.0), jaxrnn.optim.adam(1e-3))`, the clipping first.",
        ("22", "22"),
    ),
)
