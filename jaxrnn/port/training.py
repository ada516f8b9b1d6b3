"""A loop that trains in torch: what happens between zero_grad and step becomes one compiled function."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from jaxrnn.port.names import Names, free_in, used_in
from jaxrnn.port.rules import UntranslatedError, rule
from jaxrnn.source import blocks_of

_LOOKED_AT = {"item", "print", "tolist", "numpy"}  # of numbers, which are there only after the step
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
    clip: ast.expr | None = None  # max_norm and norm_type, as a tuple
    arguments: list[str] = field(default_factory=list)  # of the step: what the loop sets
    kept: list[str] = field(default_factory=list)  # what else is used afterwards

    def definition(self, lines: Sequence[str]) -> str:
        """Return the code that goes in front of the loop, given that of the statements inside."""
        arguments = ", ".join([self.model, *self.arguments])
        body = "\n".join(f"    {line}" for line in "\n".join(lines).split("\n"))
        aux = f", ({', '.join(self.kept)},)" if self.kept else ""
        found = f"({self.loss}{aux})" if self.kept else self.loss
        options = ", has_aux=True" if self.kept else ""
        clip = "" if self.clip is None else ast.unparse(self.clip)[1:-1]
        clipped = f"    gradients, _ = jaxrnn.optim.clip_gradients(gradients, {clip})\n" if clip else ""
        outside = ", ".join([self.model, self.optimizer, *self.arguments])
        return (
            f"def loss_of({arguments}):\n{body}\n    return {self.loss}{aux}\n\n"
            f"@jaxrnn.compiled_once\ndef train_step({outside}):\n"
            f"    {found}, gradients = nnx.value_and_grad(loss_of{options})({arguments})\n"
            f"{clipped}    {self.optimizer}.update({self.model}, gradients)\n"
            f"    return {', '.join([self.loss, *self.kept])}\n\n"
        )

    @property
    def call(self) -> str:
        """The line that takes the step, inside the loop."""
        given = ", ".join([self.model, self.optimizer, *self.arguments])
        return f"{', '.join([self.loss, *self.kept])} = train_step({given})"


def find_step(
    loop: ast.For | ast.While, function: ast.FunctionDef, names: Names, others: Sequence[ast.stmt] = ()
) -> Step | None:
    """Return the training step in a loop, or None; raise `UntranslatedError` for one of another kind.

    `others` are calls of `step` that are not an optimizer's.
    """
    places = [(b, n) for b in blocks(loop) for n, s in enumerate(b) if _method(s) == "backward"]
    if not places:
        return None
    if len(places) > 1:
        raise UntranslatedError("a loop with several backward passes; write the step by hand")
    block, index = places[0]
    steps = [s for s in block[index:] if _method(s) == "step" and s not in others]
    zeroed = [s for s in block if _method(s) == "zero_grad"]
    if len(steps) != 1 or len(zeroed) != 1:
        raise UntranslatedError(
            "the loop should call zero_grad, backward and step of one optimizer, once each, by names of its own "
            "(optimizer.step(), not self.optimizer.step())"
        )
    if block[index].value.args or block[index].value.keywords:  # type: ignore[attr-defined]
        raise UntranslatedError("a backward pass with arguments; write the step by hand")
    loss, optimizer = (ast.unparse(s.value.func.value) for s in (block[index], steps[0]))  # type: ignore[attr-defined]
    clips = [s for s in block[index:] if isinstance(s, ast.Expr) and names.full(_function(s)) in _CLIP]
    if any(block.index(clip) > block.index(steps[0]) for clip in clips):
        raise UntranslatedError("gradients are clipped after the update, which does nothing in torch")
    gone = [block[index], *steps, *zeroed, *clips]
    before = [s for s in block[:index] if s not in gone]
    model = _model(optimizer, before, function)
    needed = _needed(before, loss)
    if parts := [s for s in clips if ast.unparse(s.value.args[0]) != f"{model}.parameters()"]:  # type: ignore[attr-defined]
        raise UntranslatedError(
            f"line {parts[0].lineno} clips other gradients than those of {model}.parameters()"
        )
    first = next((n for n, s in enumerate(before) if s in needed and model in used_in(s)), None)
    if first is None:
        raise UntranslatedError(f"nothing of {model!r} is seen in {loss!r}")
    if leaving := [s for s in before[first:] if _leaves(s)]:
        raise UntranslatedError(
            f"line {leaving[0].lineno} leaves the step before its update; decide in compiled code, by jnp.where"
        )
    # What else asks the model is there too: afterwards it would have other weights.
    inside = [s for s in before[first:] if s in needed or model in used_in(s)]
    if looked := [s for s in inside if _looks_at_numbers(s)]:
        raise UntranslatedError(
            f"line {looked[0].lineno} looks at a number in the middle of the step; do it afterwards"
        )
    held = {name for s in inside for name in used_in(s)} - {model}
    if changing := sorted((held & _owners_changed(loop, function)) | _globals_read(held, names)):
        raise UntranslatedError(
            f"{changing[0]!r} changes between steps, and compiled code keeps what it was: hand it on as a number"
        )
    step = Step(model, optimizer, loss, inside, gone, _clipped(clips))
    changed, (free, bound) = _changed(loop), _free_and_bound(inside)
    step.arguments = [name for name in free if name in changed and name != model]
    elsewhere = _used_elsewhere(function, inside) | {*step.arguments}
    given_back = dict.fromkeys([*bound, *(n for n in step.arguments if n in _changed(*inside))])
    step.kept = [name for name in given_back if name != loss and name in elsewhere]
    return step


def _leaves(statement: ast.stmt) -> bool:
    """Return whether a statement may leave the block that it is in."""
    if isinstance(statement, ast.Return | ast.Break | ast.Continue):
        return True
    if isinstance(statement, ast.For | ast.While):
        return any(isinstance(n, ast.Return) for n in ast.walk(statement))
    return any(_leaves(inner) for block in blocks_of(statement) for inner in block)


def _owners_changed(loop: ast.stmt, function: ast.FunctionDef) -> set[str]:
    """Return the names of what a loop sets attributes of, and globals that it sets."""
    stored = [n for n in ast.walk(loop) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)]
    owners = {n.value.id for n in stored if isinstance(n.value, ast.Name)}
    return owners | {name for n in ast.walk(function) if isinstance(n, ast.Global) for name in n.names}


def _globals_read(used: set[str], names: Names) -> set[str]:
    """Return the globals that functions of the file set, and that those used here read."""
    functions = names.functions.values()
    changing = {
        name for each in functions for n in ast.walk(each) if isinstance(n, ast.Global) for name in n.names
    }
    found, reached = set[str](), used & {*names.functions}
    while changing and reached - found:
        name = sorted(reached - found)[0]
        found.add(name)
        reached |= free_in(names.functions[name]) & {*names.functions}
    return changing & {name for each in found for name in free_in(names.functions[each])}


def blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """Yield all lists of statements in a piece of code."""
    for child in ast.walk(node):
        yield from blocks_of(child)


def _function(statement: ast.stmt) -> ast.expr:
    value = statement.value if isinstance(statement, ast.Expr | ast.Assign) else None
    return value.func if isinstance(value, ast.Call) else ast.Constant(None)


def _method(statement: ast.stmt) -> str:
    function = _function(statement) if isinstance(statement, ast.Expr) else None
    return (
        function.attr if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) else ""
    )


def _model(optimizer: str, before: Sequence[ast.stmt], function: ast.FunctionDef) -> str:
    """Return the name of what is trained: whose parameters the optimizer has, or else what is called first."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == [optimizer]:
            for call in ast.walk(node.value):
                if (
                    isinstance(call, ast.Attribute)
                    and call.attr == "parameters"
                    and isinstance(call.value, ast.Name)
                ):
                    return call.value.id
    known = {a.arg for a in [*function.args.args, *function.args.kwonlyargs]}
    called = [
        n.func.id
        for s in before
        for n in _inner_first(s)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    ]
    if found := [name for name in called if name in known]:
        return found[0]
    raise UntranslatedError("no call of a model is seen in front of backward")


def _inner_first(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield from _inner_first(child)
    yield node


def _clipped(statements: Sequence[ast.stmt]) -> ast.expr | None:
    if not statements:
        return None
    read = rule("parameters max_norm norm_type=2.0 -> ({max_norm}, {norm_type})")
    return read(statements[0].value, None)  # type: ignore[attr-defined]


def _needed(statements: Sequence[ast.stmt], loss: str) -> list[ast.stmt]:
    """Return the statements that a loss depends on: those that set or change what later ones of them read."""
    names, found = {loss}, list[ast.stmt]()
    for statement in reversed(statements):
        if _changed(statement) & names:
            found.append(statement)
            names |= used_in(statement)
    return found[::-1]


def _looks_at_numbers(statement: ast.stmt) -> bool:
    return any(
        (isinstance(n, ast.Attribute) and n.attr in _LOOKED_AT)
        or (isinstance(n, ast.Name) and n.id in _LOOKED_AT)
        for n in ast.walk(statement)
    )


def _changed(*code: ast.AST) -> set[str]:
    """Return the names that code sets, and those of what it changes: lists, dictionaries, tensors."""
    nodes = [node for each in code for node in ast.walk(each)]
    found = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    for node in nodes:
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


def yielded(loop: ast.For) -> list[str]:
    """Return the names that a loop gives what data yield: no numbers, as `range` and `enumerate` count them."""
    function = getattr(getattr(loop.iter, "func", None), "id", "")
    of_data: list[ast.expr] = [loop.target]
    if function == "enumerate" and isinstance(loop.target, ast.Tuple):
        of_data = loop.target.elts[1:]
    return [name for each in of_data for name in _stored(each) if function != "range"]


def _free_and_bound(statements: Sequence[ast.stmt]) -> tuple[list[str], list[str]]:
    """Return the names that statements read before they set them, and those that they set."""
    free, bound = dict[str, None](), dict[str, None]()
    for statement in statements:
        _follow(statement, free, bound)
    return list(free), list(bound)


def _follow(node: ast.AST, free: dict[str, None], bound: dict[str, None]) -> None:
    """Add what a statement reads and sets, what is inside of it in the order in which it runs."""
    if isinstance(node, ast.For | ast.While | ast.If | ast.With):
        heads = [node.iter] if isinstance(node, ast.For) else [getattr(node, "test", None)]
        heads += [item.context_expr for item in getattr(node, "items", [])]
        for head in filter(None, heads):
            _read(head, free, bound)
        for target in [getattr(node, "target", None), *(i.optional_vars for i in getattr(node, "items", []))]:
            bound |= dict.fromkeys(_stored(target)) if target is not None else {}
        for statement in [*node.body, *getattr(node, "orelse", [])]:
            _follow(statement, free, bound)
        return
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        _read(ast.Name(node.target.id, ast.Load()), free, bound)
    _read(node, free, bound)
    bound |= dict.fromkeys(_stored(node))


def _read(node: ast.AST, free: dict[str, None], bound: dict[str, None]) -> None:
    own = {name for n in ast.walk(node) if isinstance(n, ast.comprehension) for name in _stored(n.target)}
    names = [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    free |= dict.fromkeys(name for name in names if name not in bound and name not in own)


def _stored(node: ast.AST) -> list[str]:
    return [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]


def _used_elsewhere(function: ast.FunctionDef, inside: Sequence[ast.stmt]) -> set[str]:
    within = {id(n) for statement in inside for n in ast.walk(statement)}
    loads = (n for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))
    return {n.id for n in loads if id(n) not in within}
