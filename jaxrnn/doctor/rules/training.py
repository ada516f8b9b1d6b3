"""Rules about training loops: the order of what they do, and what they leave out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from jaxrnn.doctor.loops import (
    assigned,
    calls_of,
    has_attribute,
    is_inherited,
    is_optimizer,
    is_own,
    is_schedule,
    is_training,
    loops,
    steps,
    text,
    within,
)
from jaxrnn.doctor.program import Program
from jaxrnn.doctor.rules.rule import STEP, Hit, Rule, training_loop
from jaxrnn.doctor.values import Bound, Instance, Made, Value
from jaxrnn.source import blocks_of

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
        for body in blocks_of(node):
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


# Schedules -------------------------------------------------------------------------------------------------------

_SCHEDULE = re.compile(r"(?:.*\.)?(?:lr_?|warm_?up_)?sched(?:ule|uler)?\d?")


def _scheduled_early(program: Program) -> Iterator[Hit]:
    for loop in loops(program):
        if not is_training(program, loop):
            continue
        stored = {name for node in within(program, loop) for name in assigned(node)}
        for call in calls_of(program, loop, "step"):
            if not _is_schedule(program, call) or _owner(call) in stored:
                continue
            if (step := _step_behind(program, call)) is not None:
                yield call, f"{text(call)} in front of {text(step)}, which takes the rate of the next step."


def _owner(call: ast.Call) -> str:
    """Return the object of a method that is called, as it is written."""
    return text(call.func.value) if isinstance(call.func, ast.Attribute) else ""


def _is_schedule(program: Program, call: ast.Call) -> bool:
    """Tell the step of a schedule that only counts; with an argument, a rate may be meant for what follows."""
    if call.args or call.keywords:
        return False
    owners = _owners(program, call)
    known = [each for each in owners if isinstance(each, Made | Instance)]
    if known:
        return all(isinstance(each, Made) and is_schedule(each.name) for each in known)
    own = any(cls.method("step") for cls in program.classes.values())
    return not own and _SCHEDULE.fullmatch(_owner(call)) is not None


def _owners(program: Program, call: ast.Call) -> list[Value]:
    return [each.value for each in program.targets.get(call, ()) if isinstance(each, Bound)]


def _step_behind(program: Program, call: ast.Call) -> ast.Call | None:
    """Return the optimizer's step behind its schedule's; None if there is another that may come first."""
    found, node = None, program.parents[call]
    if not isinstance(node, ast.Expr):
        return None
    for parent in program.around(node):
        front, behind = _beside(parent, node)
        if any(_steps_of(program, each, call) for each in front):
            return None
        found = found or next((step for each in behind for step in _steps_of(program, each, call)), None)
        if isinstance(parent, ast.FunctionDef | ast.AsyncFunctionDef):
            break
        if found is None and not _in_all_rounds(parent, node, call):
            break
        node = parent
    return found


def _beside(parent: ast.AST, node: ast.AST) -> tuple[list[ast.stmt], list[ast.stmt]]:
    """Return the statements in front of one and behind it; those of other branches are in front."""
    front: list[ast.stmt] = []
    behind: list[ast.stmt] = []
    for block in blocks_of(parent):
        number = block.index(node) if node in block else len(block)
        front += block[:number]
        behind += block[number + 1 :]
    return front, behind


def _steps_of(program: Program, statement: ast.stmt, schedule: ast.Call) -> list[ast.Call]:
    """Return the steps in a statement, without those of an optimizer that a schedule is known not to be for."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return []
    made = [each for each in _owners(program, schedule) if isinstance(each, Made)]
    given = [each.options.get("optimizer") for each in made]
    own = {each.node for each in given if isinstance(each, Made)}
    return [step for step in steps(program, statement) if not own or own & _stepped(program, step, own)]


def _stepped(program: Program, step: ast.Call, otherwise: set[ast.AST]) -> set[ast.AST]:
    """Return where an optimizer was made; of one that is not known, or steps through a scaler, `otherwise`."""
    made = [each for each in _owners(program, step) if isinstance(each, Made)]
    return {each.node for each in made if not each.name.endswith("GradScaler")} or otherwise


def _in_all_rounds(parent: ast.AST, node: ast.AST, schedule: ast.Call) -> bool:
    """Tell whether a statement in another runs in each round, the first one too."""
    if not isinstance(parent, ast.If):
        return isinstance(parent, ast.With | ast.AsyncWith)
    owner, asked = _owner(schedule), parent.test
    is_kind = isinstance(asked, ast.Compare) and isinstance(getattr(asked.comparators[0], "value", None), str)
    return node in parent.body and (is_kind or text(asked) in (owner, f"{owner} is not None"))


_CLIP = "nn.utils.clip_grad_norm_(model.parameters(), 1.0)"

_SCHEDULED = """import torch
from torch import nn

model = nn.Linear(8, 2)
optimizer = torch.optim.Adam(model.parameters())
scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.99)


def fit(batches):
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        {}.step()
        {}.step()
"""

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
    Rule(
        "schedule-before-step",
        "A schedule of learning rates steps in front of its optimizer.",
        "The first rate is never used, and each step takes the rate of the next. Gradient descent on a quadratic "
        "function with `ExponentialLR(optimizer, gamma=0.5)` from a rate of {} begins with {}, and after 20 steps "
        "its loss is at {} of its start, not at {}. torch warns, once.",
        "`optimizer.step()` and then `scheduler.step()`; of a schedule over epochs, behind the loop over batches.",
        _SCHEDULED.format("scheduler", "optimizer"),
        _SCHEDULED.format("optimizer", "scheduler"),
        _scheduled_early,
        "Nothing: a schedule, such as `jaxrnn.optim.exponential_lr(1e-3, gamma=0.99)`, is a function of how many "
        "updates there were, and takes the place of the rate.",
        ("0.5", "0.25", "0.33", "0.083"),
    ),
)
