"""Training loops: what happens in them, in the functions that they call too."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from jaxrnn.doctor.program import Program
from jaxrnn.doctor.values import Bound, Class, Function, Instance, Made, Name, Super, Value

Loop = ast.For | ast.AsyncFor | ast.While
_OPTIMIZER = re.compile(r"(?:.*[._])?(?:optim\w*|opt|opt_?\w|\w+_opt|scaler)")


def text(node: ast.AST) -> str:
    """Return an expression as it is written."""
    return ast.unparse(node)


def loops(program: Program) -> list[Loop]:
    """Return all loops of a program in which gradients are computed, none of another."""
    trains = any(has_attribute(node, "backward") for node in program.nodes)
    return [node for node in program.nodes if isinstance(node, Loop)] if trains else []


def within(program: Program, node: ast.AST) -> list[ast.AST]:
    """Return what is in a piece of code and in the functions of the program that it calls."""
    if node not in program.reached:
        program.reached[node] = list(_reached(program, node))
    return program.reached[node]


def _reached(program: Program, node: ast.AST) -> Iterator[ast.AST]:
    seen: set[ast.AST] = set()
    waiting = [node]
    while waiting:
        for each in ast.walk(waiting.pop()):
            yield each
            for body in _bodies(program.targets.get(each, ())):
                if body not in seen:
                    seen.add(body)
                    waiting.append(body)


def _bodies(targets: object) -> Iterator[ast.AST]:
    for target in targets if isinstance(targets, list) else ():
        found = _function(target)
        if found is not None:
            yield found.node


def _function(target: Value) -> Function | None:
    match target:
        case Function():
            return target
        case Class():
            return target.method("__init__")
        case Instance():
            return target.cls.method("forward") or target.cls.method("__call__")
        case Bound(value=Instance() as instance):
            return instance.cls.method(target.name)
        case Bound(value=Super() as parent):
            return parent.cls.inherited(target.name)
    return None


def is_own(program: Program, call: ast.Call) -> bool:
    """Tell whether a call runs a function of the program itself."""
    return any(map(_function, program.targets.get(call, ())))


def is_inherited(program: Program, node: ast.AST) -> bool:
    """Tell whether a call may run a method that a class has from another program."""
    owners = [each.value for each in program.targets.get(node, ()) if isinstance(each, Bound)]
    bases = [base for each in owners if isinstance(each, Instance) for base in each.cls.bases]
    known = ("torch.nn.Module", "object")
    elsewhere = any(not isinstance(each, Name) or each.dotted not in known for each in bases)
    return elsewhere and not any(map(_function, program.targets.get(node, ())))


def calls_of(program: Program, node: ast.AST, *names: str) -> list[ast.Call]:
    """Return the calls of methods of these names in a piece of code and in what it calls."""
    return [
        each
        for each in within(program, node)
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute) and each.func.attr in names
    ]


def steps(program: Program, node: ast.AST) -> list[ast.Call]:
    """Return the steps of optimizers, known ones or such by their names."""
    return [call for call in calls_of(program, node, "step") if is_optimizer(program, call)]


def is_optimizer(program: Program, call: ast.Call) -> bool:
    """Tell whether a method's object is an optimizer: by what it is, or else by its name."""
    owners = [each.value for each in program.targets.get(call, []) if isinstance(each, Bound)]
    made = [each.name for each in owners if isinstance(each, Made)]
    if made:
        return all(_steps_parameters(name) for name in made)
    return isinstance(call.func, ast.Attribute) and _OPTIMIZER.fullmatch(text(call.func.value)) is not None


def _steps_parameters(name: str) -> bool:
    optimizer = name.startswith("torch.optim.") and not is_schedule(name)
    return optimizer or name.endswith(".GradScaler")


def is_schedule(name: str) -> bool:
    """Tell one of torch's schedules of learning rates by its dotted name."""
    return name.startswith(("torch.optim.lr_scheduler.", "torch.optim.swa_utils.SWALR"))


def is_training(program: Program, node: ast.AST) -> bool:
    """Tell whether a piece of code runs backward and takes steps."""
    return bool(calls_of(program, node, "backward")) and bool(steps(program, node))


def has_attribute(node: ast.AST, *names: str) -> bool:
    """Tell whether a node is one of these attributes of something."""
    return isinstance(node, ast.Attribute) and node.attr in names


def assigned(node: ast.AST) -> set[str]:
    """Return the names that a statement gives a value."""
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    found = (each for target in targets if target is not None for each in ast.walk(target))
    return {each.id for each in found if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}


_NO_GRADIENTS = ("torch.no_grad", "torch.inference_mode", "torch.autograd.no_grad")


def without_gradients(program: Program, node: ast.AST) -> bool:
    """Tell whether a piece of code stands under `torch.no_grad` or `torch.inference_mode`."""
    while (parent := program.parents.get(node)) is not None:
        contexts = [
            item.context_expr for item in getattr(parent, "items", ()) if isinstance(item, ast.withitem)
        ]
        for each in (*contexts, *getattr(parent, "decorator_list", ())):
            if any(_is_no_gradients(program, part) for part in ast.walk(each)):
                return True
        node = parent
    return False


def _is_no_gradients(program: Program, node: ast.AST) -> bool:
    targets = program.targets.get(node, [])
    if any(isinstance(each, Name) and each.dotted in _NO_GRADIENTS for each in targets):
        return True
    return has_attribute(node, "no_grad", "inference_mode") or (
        isinstance(node, ast.Name) and node.id in ("no_grad", "inference_mode")
    )
