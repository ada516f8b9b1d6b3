"""A loop that trains in torch: what happens between zero_grad and step becomes one compiled function."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from jaxrnn.port.names import Names
from jaxrnn.port.rules import UntranslatedError

_LOOKED_AT = {"item", "append", "print", "tolist", "numpy"}  # of numbers, which are there only after the step
_CHANGING = {"append", "extend", "insert", "pop", "remove", "clear", "update", "add", "popleft", "appendleft"}
_CLIP = {"torch.nn.utils.clip_grad_norm_", "torch.nn.utils.clip_grad_norm"}


@dataclass
class Step:
    """The statements of one training step, in one block of a loop."""

    model: str
    optimizer: str
    loss: str
    inside: list[ast.stmt]  # what is differentiated
    gone: list[ast.stmt]  # zero_grad, backward, step and clipping
    clip: ast.Call | None = None
    arguments: list[str] = field(default_factory=list)  # of the step: what the loop sets
    kept: list[str] = field(default_factory=list)  # what else is used afterwards

    def definition(self, lines: Sequence[str], clip: str | None) -> str:
        """Return the code that goes in front of the loop, given that of the statements inside."""
        arguments = ", ".join([self.model, *self.arguments])
        body = "\n".join(f"    {line}" for line in "\n".join(lines).split("\n"))
        aux = f", ({', '.join(self.kept)},)" if self.kept else ""
        found = f"({self.loss}{aux})" if self.kept else self.loss
        options = ", has_aux=True" if self.kept else ""
        clipped = f"    gradients, _ = jaxrnn.optim.clip_gradients(gradients, {clip})\n" if clip else ""
        outside = ", ".join([self.model, self.optimizer, *self.arguments])
        return (
            f"def loss_of({arguments}):\n{body}\n    return {self.loss}{aux}\n\n"
            f"@nnx.jit\ndef train_step({outside}):\n"
            f"    {found}, gradients = nnx.value_and_grad(loss_of{options})({arguments})\n"
            f"{clipped}    {self.optimizer}.update({self.model}, gradients)\n"
            f"    return {', '.join([self.loss, *self.kept])}\n\n"
        )

    @property
    def call(self) -> str:
        """The line that takes the step, inside the loop."""
        given = ", ".join([self.model, self.optimizer, *self.arguments])
        return f"{', '.join([self.loss, *self.kept])} = train_step({given})"


def find_step(loop: ast.For | ast.While, function: ast.FunctionDef, names: Names) -> Step | None:
    """Return the training step in a loop, or None; raise `UntranslatedError` for one of another kind."""
    places = [(b, n) for b in _blocks(loop) for n, s in enumerate(b) if _method(s) == "backward"]
    if not places:
        return None
    if len(places) > 1:
        raise UntranslatedError("a loop with several backward passes; write the step by hand")
    block, index = places[0]
    steps = [s for s in block[index:] if _method(s) == "step"]
    zeroed = [s for s in block if _method(s) == "zero_grad"]
    if len(steps) != 1 or len(zeroed) != 1:
        raise UntranslatedError(
            "the loop should call zero_grad, backward and step of one optimizer, once each"
        )
    if block[index].value.args or block[index].value.keywords:  # type: ignore[attr-defined]
        raise UntranslatedError("a backward pass with arguments; write the step by hand")
    loss, optimizer = (ast.unparse(s.value.func.value) for s in (block[index], steps[0]))  # type: ignore[attr-defined]
    clips = [s for s in block[index:] if isinstance(s, ast.Expr) and names.full(_function(s)) in _CLIP]
    gone = [block[index], *steps, *zeroed, *clips]
    model = _model(block[:index], names, function)
    first = next(n for n, s in enumerate(block) if _calls(s, model))
    inside = [s for s in block[first:index] if s not in gone and not _looks_at_numbers(s)]
    step = Step(model, optimizer, loss, inside, gone, clips[0].value if clips else None)  # type: ignore[arg-type]
    set_in_loop = _changed(loop)
    free, bound = _free_and_bound(inside)
    step.arguments = [name for name in free if name in set_in_loop and name != model]
    elsewhere = _used_elsewhere(function, inside) | {*step.arguments}
    step.kept = [name for name in bound if name != loss and name in elsewhere]
    return step


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for child in ast.walk(node):
        for name in ("body", "orelse", "finalbody"):
            if isinstance(block := getattr(child, name, None), list):
                yield block


def _function(statement: ast.stmt) -> ast.expr:
    value = statement.value if isinstance(statement, ast.Expr | ast.Assign) else None
    return value.func if isinstance(value, ast.Call) else ast.Constant(None)


def _method(statement: ast.stmt) -> str:
    function = _function(statement) if isinstance(statement, ast.Expr) else None
    return (
        function.attr if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) else ""
    )


def _model(block: Sequence[ast.stmt], names: Names, function: ast.FunctionDef) -> str:
    """Return the name of the first thing that is called and is a variable: the model, whose output is judged."""
    known = {a.arg for a in [*function.args.args, *function.args.kwonlyargs]}
    known |= {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    for statement in block:
        for node in ast.walk(statement):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known:
                return node.func.id
    raise UntranslatedError("no call of a model is seen in front of backward")


def _calls(statement: ast.stmt, name: str) -> bool:
    calls = (n for n in ast.walk(statement) if isinstance(n, ast.Call))
    return any(isinstance(call.func, ast.Name) and call.func.id == name for call in calls)


def _looks_at_numbers(statement: ast.stmt) -> bool:
    return any(
        (isinstance(n, ast.Attribute) and n.attr in _LOOKED_AT)
        or (isinstance(n, ast.Name) and n.id in _LOOKED_AT)
        for n in ast.walk(statement)
    )


def _changed(loop: ast.AST) -> set[str]:
    """Return the names that a loop sets, and those of what it changes: lists, dictionaries, tensors."""
    found = {n.id for n in ast.walk(loop) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    for node in ast.walk(loop):
        changed: ast.expr | None = None
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            changed = node.value
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in _CHANGING
        ):
            changed = node.func.value
        if isinstance(changed, ast.Name):
            found.add(changed.id)
    return found


def _free_and_bound(statements: Sequence[ast.stmt]) -> tuple[list[str], list[str]]:
    """Return the names that statements read before they set them, and those that they set."""
    free, bound = dict[str, None](), dict[str, None]()
    for statement in statements:
        read = [n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
        if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
            read.append(statement.target.id)
        free |= dict.fromkeys(name for name in read if name not in bound)
        stored = [
            n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        ]
        bound |= dict.fromkeys(stored)
    return list(free), list(bound)


def _used_elsewhere(function: ast.FunctionDef, inside: Sequence[ast.stmt]) -> set[str]:
    within = {id(n) for statement in inside for n in ast.walk(statement)}
    loads = (n for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))
    return {n.id for n in loads if id(n) not in within}
