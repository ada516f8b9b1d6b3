"""A scheduler of torch, which changes an optimizer from outside, as the schedule that an optimizer is made with."""

import ast
import copy
from dataclasses import dataclass

from jaxrnn.port.functions import OPTIMIZERS
from jaxrnn.port.names import Names, used_in
from jaxrnn.port.rules import Rule, rule
from jaxrnn.port.training import blocks

PACKAGE = "torch.optim.lr_scheduler."
_LINES = {
    "StepLR": "lr step_size gamma=0.1 -> jaxrnn.optim.step_lr({lr}, {step_size}, gamma={gamma})",
    "MultiStepLR": "lr milestones gamma=0.1 -> jaxrnn.optim.multi_step_lr({lr}, {milestones}, gamma={gamma})",
    "ExponentialLR": "lr gamma -> jaxrnn.optim.exponential_lr({lr}, {gamma})",
    "CosineAnnealingLR": "lr T_max eta_min=0.0 -> "
    "jaxrnn.optim.cosine_annealing_lr({lr}, {T_max}, eta_min={eta_min})",
    "LambdaLR": "lr lr_lambda -> jaxrnn.optim.lambda_lr({lr}, {lr_lambda})",
    "LinearLR": "lr start_factor? end_factor? total_iters? -> jaxrnn.optim.linear_lr({lr}"
    "[, start_factor={start_factor}][, end_factor={end_factor}][, total_iters={total_iters}])",
    "PolynomialLR": "lr total_iters? power? -> jaxrnn.optim.polynomial_lr({lr}"
    "[, total_iters={total_iters}][, power={power}])",
}
SCHEDULERS: dict[str, Rule] = {PACKAGE + name: rule(line) for name, line in _LINES.items()}


@dataclass
class Schedule:
    """A scheduler, the optimizer that it is of, and where it is stepped, in a function."""

    name: str
    made: ast.Assign
    optimizer: ast.Assign
    steps: list[ast.stmt]
    per: ast.expr | None = None  # of one that is stepped by epochs, what a loop over updates goes through

    def lines(self) -> tuple[ast.Call, ast.Assign]:
        """Return the call that makes the schedule, for `SCHEDULERS`, and the optimizer that is made with it."""
        made, optimizer = copy.deepcopy(self.made.value), copy.deepcopy(self.optimizer)
        call = optimizer.value
        assert isinstance(made, ast.Call)
        assert isinstance(call, ast.Call)
        rate = next((k for k in call.keywords if k.arg == "lr"), None)
        name = ast.Name(self.name, ast.Load())
        if rate is not None:
            made.args[0], rate.value = rate.value, name
        elif len(call.args) > 1:
            made.args[0], call.args[1] = call.args[1], name
        else:
            made.args[0] = ast.Constant(0.01 if ast.unparse(call.func).endswith("RMSprop") else 0.001)
            call.keywords.append(ast.keyword("lr", name))
        return made, optimizer


def find_schedules(function: ast.FunctionDef, names: Names) -> list[Schedule]:
    """Return the schedulers of a function that are stepped once an update, or once an epoch, and nothing else."""
    found = []
    assigned = [n for n in ast.walk(function) if isinstance(n, ast.Assign) and isinstance(n.value, ast.Call)]
    optimizers = {ast.unparse(n.targets[0]): n for n in assigned if _made(n, names) in OPTIMIZERS}
    for node in assigned:
        call = node.value
        assert isinstance(call, ast.Call)
        owner = optimizers.get(ast.unparse(call.args[0])) if call.args else None
        if _made(node, names) in SCHEDULERS and owner is not None and isinstance(node.targets[0], ast.Name):
            found.append(_understood(Schedule(node.targets[0].id, node, owner, []), function))
    return [schedule for schedule in found if schedule is not None]


def _made(node: ast.Assign, names: Names) -> str:
    return names.of_torch(node.value.func) or "" if isinstance(node.value, ast.Call) else ""


def _understood(schedule: Schedule, function: ast.FunctionDef) -> Schedule | None:
    """Fill in where a scheduler is stepped; None if that cannot be told, or if something is not known in time."""
    optimizer = ast.unparse(schedule.optimizer.targets[0])
    places = [(block, s) for block in blocks(function) for s in block if _calls(s, schedule.name, "step")]
    if len(places) != 1:
        return None
    block, step = places[0]
    updates = [s for s in block if _calls(s, optimizer, "step")]
    loops = [
        s
        for s in block
        if isinstance(s, ast.For) and any(_calls(inner, optimizer, "step") for b in blocks(s) for inner in b)
    ]
    if len(updates) + len(loops) != 1 or ast.unparse(step) != f"{schedule.name}.step()":
        return None
    if block.index(step) < block.index([*updates, *loops][0]):
        return None  # it begins one step ahead
    schedule.steps, schedule.per = [step], None if updates else _counted(loops[0])
    if loops and (schedule.per is None or _nested(loops[0], optimizer)):
        return None
    needed = used_in(schedule.made.value) | (used_in(schedule.per) if schedule.per else set()) - {
        "range",
        "len",
    }
    late = {
        n.id
        for n in ast.walk(function)
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store) and n.lineno >= schedule.optimizer.lineno
    }
    return None if (needed - {optimizer}) & late else schedule


def _counted(loop: ast.For) -> ast.expr | None:
    """Return what a loop goes through, if it can be counted before."""
    of = loop.iter
    if isinstance(of, ast.Call) and getattr(of.func, "id", "") == "enumerate" and len(of.args) == 1:
        of = of.args[0]
    is_range = isinstance(of, ast.Call) and getattr(of.func, "id", "") == "range"
    return of if is_range or isinstance(of, ast.Name | ast.Attribute) else None


def _nested(loop: ast.For, optimizer: str) -> bool:
    """Return whether the number of updates may not be that of the loop's rounds."""
    leaves = any(isinstance(n, ast.Break | ast.Continue | ast.Return) for n in ast.walk(loop))
    return leaves or not any(_calls(s, optimizer, "step") for s in loop.body)


def _calls(statement: ast.stmt, owner: str, method: str) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    function = value.func if isinstance(value, ast.Call) else None
    return (
        isinstance(function, ast.Attribute)
        and function.attr == method
        and ast.unparse(function.value) == owner
    )
