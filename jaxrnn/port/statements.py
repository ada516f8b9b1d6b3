"""Statements of torch in JAX: what is dropped, what is left out, what is assigned in place, and all others."""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from jaxrnn.port.assignments import Assignments, is_new
from jaxrnn.port.expressions import Expressions
from jaxrnn.port.kinds import NO_GRADIENT, Kinds, Scope
from jaxrnn.port.modules import LAYERS, MODULES
from jaxrnn.port.names import Names, with_defaults
from jaxrnn.port.problems import Problem
from jaxrnn.port.rules import UntranslatedError
from jaxrnn.port.schedules import SCHEDULERS, Schedule, find_schedules
from jaxrnn.port.text import Text
from jaxrnn.port.training import Step, find_step

_SEEDS = {"torch.manual_seed", "torch.cuda.manual_seed", "torch.cuda.manual_seed_all"}
LEFT_OUT = "initial values are drawn as torch does by default: load the weights, or set them"


@dataclass
class Function:
    """Translates the body of a function, in the text."""

    text: Text
    names: Names
    scope: Scope
    needing_rngs: set[str]  # classes whose constructors draw
    bases: set[str] = field(default_factory=set)  # of the class, if it is a method
    untranslated: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    around: ast.FunctionDef | ast.AsyncFunctionDef | None = None  # that this is the body of, if no method
    step: Step | None = None  # the training step in the loop at hand
    schedules: list[Schedule] = field(default_factory=list)  # of the optimizers in this function

    # Blocks ----------------------------------------------------------------------------------------------------

    def block(self, body: list[ast.stmt]) -> None:
        """Translate statements one after the other; a block that nothing is left of becomes `pass`."""
        kept = [not self._statement(statement) for statement in body]
        if not any(kept):
            self.text.edits = [e for e in self.text.edits if e.start[0] != body[0].lineno]
            self.text.replace(body[0], "pass")

    def _statement(self, node: ast.stmt) -> bool:
        """Translate a statement; return whether it is gone."""
        if self.step is not None and node is self.step.inside[0]:
            self.text.replace(node, self.step.call)
            return False
        if self.step is not None and node in [*self.step.inside, *self.step.gone]:
            self.text.remove(node)
            return True
        if self._is_dropped(node) or any(node is s.made or node in s.steps for s in self.schedules):
            self.text.remove(node)
            return True
        for schedule in self.schedules:
            if node is schedule.optimizer:
                return self._scheduled(schedule)
        if not isinstance(node, ast.If) and self.kinds.sets_initial_values(node):
            self._leave_out(node)
            return False
        if isinstance(node, ast.ClassDef):
            self._class(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            draws = not (self.around or self.scope.owner) and node.name in self.needing_rngs
            scope = replace(
                self.scope,
                tensors=dict(self.scope.tensors),
                devices=set(self.scope.devices),
                has_rngs=draws or self.scope.has_rngs,
                called=called_in(node),
            )
            inner = replace(self, scope=scope, around=node)
            if isinstance(node, ast.FunctionDef):
                inner.schedules = find_schedules(node, self.names)
            inner.header(taking_rngs(node) if draws else node, change=draws)
            inner.decorators(node)
            inner.block(node.body)
        elif isinstance(node, ast.For | ast.While) and self.around is not None and self.step is None:
            self._loop(node, self.around)
        elif isinstance(node, ast.If | ast.For | ast.While | ast.With | ast.Try):
            self._compound(node)
        else:
            return self._simple(node)
        return False

    def _class(self, node: ast.ClassDef) -> None:
        """Translate a class that is no module: its bases, and what its methods do with tensors."""
        _, problems = self._translated(_without_body(node))
        if problems:
            whole = copy.copy(node)
            whole.lineno = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            self._refuse(whole, problems)
            return
        self.header(node)
        self.decorators(node)
        self.block(node.body)

    def decorators(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        """Take torch's decorators away, and say so; outside of models nothing here keeps a graph."""
        for decorator in node.decorator_list:
            name = self.names.of_torch(decorator.func if isinstance(decorator, ast.Call) else decorator)
            comment = ast.copy_location(ast.Expr(decorator), decorator)
            comment.col_offset -= 1  # the @
            if name in NO_GRADIENT:
                self.text.remove(comment)
                why = "gradients are taken where they are asked for: of this too, if a loss is made of it"
                self.notes.append(Problem(decorator.lineno, f"@{ast.unparse(decorator)}", why))
            elif name:
                problem = Problem(
                    decorator.lineno, ast.unparse(decorator), "decorators of torch have no rule"
                )
                self.untranslated.append(problem)
                self.text.replace(comment, f"# Not translated: @{problem.code}: {problem.why}.")

    def _scheduled(self, schedule: Schedule) -> bool:
        """Translate an optimizer that has a scheduler: a schedule in front of it takes the place of its rate."""
        made, optimizer = schedule.lines()
        expressions = Expressions(self.names, self.scope, self.needing_rngs)
        name = self.names.of_torch(made.func) or ""
        changed, problems = self._translated(optimizer)
        try:
            code = ast.unparse(SCHEDULERS[name](expressions.with_arguments(made)))
        except UntranslatedError as why:
            problems.append(Problem(schedule.made.lineno, ast.unparse(schedule.made.value), str(why)))
        if problems := [*problems, *expressions.problems]:
            self._refuse(schedule.optimizer, problems)
            return False
        if schedule.per is not None:
            per = ast.unparse(expressions.visit(copy.deepcopy(schedule.per)))
            code = f"jaxrnn.optim.by_epochs({code}, len({per}))"
        self.text.replace(
            schedule.optimizer, f"{schedule.name} = {code}\n{ast.unparse(changed or optimizer)}"
        )
        self.scope.schedules[schedule.name] = ast.unparse(schedule.optimizer.targets[0])
        return False

    def _compound(self, node: ast.If | ast.For | ast.While | ast.With | ast.Try) -> None:
        if self.kinds.asks_for_no_gradient(node):
            self.text.replace_header(node, "with contextlib.nullcontext():")
        elif not isinstance(node, ast.Try):
            emptied = _without_body(node)
            changed, problems = self._translated(emptied)
            if problems:
                self._refuse(node, problems)
                return
            first = self._first_of_loop(node) if isinstance(node, ast.For) else ""
            if changed is not None or first:
                code = _header(changed or emptied) + first
                is_elif = self.text.lines[node.lineno - 1][node.col_offset :].startswith(b"elif")
                self.text.replace_header(node, f"el{code}" if is_elif else code)
        blocks = [node.body, getattr(node, "orelse", []), getattr(node, "finalbody", [])]
        for block in [*blocks, *(handler.body for handler in getattr(node, "handlers", []))]:
            if block:
                self.block(block)

    def _first_of_loop(self, node: ast.For) -> str:
        """Return the line that takes batches from a loader of torch, whose tensors JAX does not take, if any."""
        inside = node.body[0].col_offset - node.col_offset
        names = [] if self.scope.owner or inside <= 0 else self.kinds.batches(node)
        if not names:
            return ""
        together = ", ".join(names)
        given = f"({together})" if len(names) > 1 else together
        return f"\n{' ' * inside}{together} = jax.tree.map(jnp.asarray, {given})"

    def _loop(self, node: ast.For | ast.While, function: Any) -> None:
        """Translate a loop, and the training step in it, if there is one."""
        try:
            self.step = find_step(
                node, function, self.names, [s for each in self.schedules for s in each.steps]
            )
        except UntranslatedError as why:
            self._refuse(node, [Problem(node.lineno, ast.unparse(node).split("\n")[0], str(why))])
            return
        if self.step is not None and (problems := self._define(self.step, node)):
            self._refuse(node, problems)
        else:
            self._compound(node)
        self.step = None

    def _define(self, step: Step, loop: ast.stmt) -> list[Problem]:
        """Put the functions of a training step in front of its loop; return what could not be translated."""
        lines, problems = [], list[Problem]()
        for statement in step.inside:
            changed, found = self._translated(
                self.assignments.rewritten(copy.deepcopy(statement)), compiled=True
            )
            if not _does_nothing(changed or statement):
                lines.append(ast.unparse(changed or statement))
            problems += found
            self._learn(statement)
        if not problems:
            self.text.insert_above(loop, step.definition(lines))
        return problems

    # Single statements -----------------------------------------------------------------------------------------

    def _simple(self, node: ast.stmt) -> bool:
        """Translate a statement; return whether it is gone, as nothing is left to do, x = x."""
        original = ast.dump(node)
        rewritten = self.assignments.rewritten(copy.deepcopy(node))
        changed, problems = self._translated(rewritten)
        problems += self.assignments.refused(node)
        self.notes += self.assignments.aliased(node)
        gone = changed is not None and not problems and _does_nothing(changed)
        if problems:
            self._refuse(node, problems)
        elif gone:
            self.text.remove(node)
        elif changed is not None or ast.dump(rewritten) != original:
            self.text.replace(node, ast.unparse(changed if changed is not None else rewritten))
        self._learn(node)
        return gone

    def _translated(self, node: ast.stmt, compiled: bool = False) -> tuple[ast.stmt | None, list[Problem]]:
        """Return a translated statement, None if nothing changed, and what could not be translated in it."""
        expressions = Expressions(self.names, self.scope, self.needing_rngs, compiled)
        changed = expressions.visit(copy.deepcopy(node))
        self.notes += expressions.notes
        same = ast.dump(changed) == ast.dump(node)
        return None if same else ast.fix_missing_locations(changed), expressions.problems

    # What goes -------------------------------------------------------------------------------------------------

    def _is_dropped(self, node: ast.stmt) -> bool:
        if isinstance(node, ast.Assign) and all(
            self.names.full(target).startswith("torch.backends.") for target in node.targets
        ):
            return True
        if isinstance(node, ast.Assign) and self.kinds.is_device(node.value):
            self.scope.devices |= {self.names.full(target) for target in node.targets}
            return True
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
            return False
        function = node.value.func
        if not isinstance(function, ast.Attribute):
            return False
        if self.names.of_torch(function) == "torch.nn.Module.__init__":
            return True
        if self.names.of_torch(function) in _SEEDS:
            self.notes.append(Problem(node.lineno, ast.unparse(node), "the seed is that of nnx.Rngs"))
            return True
        if self.kinds.constructs_base(node):
            return not self._base_draws and (not self.bases or self.bases == {"nnx.Module"})
        return function.attr == "flatten_parameters" or (
            function.attr in ("to", "cuda", "cpu") and not isinstance(function.value, ast.Call)
        )

    @property
    def _base_draws(self) -> bool:
        """Whether the constructor of a class's base needs random numbers."""
        return bool(self.bases & {*self.needing_rngs, *LAYERS})

    def _leave_out(self, node: ast.stmt) -> None:
        self.notes.append(Problem(node.lineno, ast.unparse(node).split("\n")[0], LEFT_OUT))
        self.text.replace(node, f"# Left out; {LEFT_OUT}.\n{self.text.commented(node)}\npass")

    def _refuse(self, node: ast.stmt, problems: list[Problem]) -> None:
        self.untranslated += problems
        lines = [f"# Not translated: {problem.code}: {problem.why}." for problem in problems]
        what = "; ".join(problem.code for problem in problems)
        stop = f"raise NotImplementedError({f'not translated: {what}'!r})"
        self.text.edits = [
            e for e in self.text.edits if not node.lineno <= e.start[0] <= (node.end_lineno or node.lineno)
        ]
        if not (self.scope.owner or self.around):  # run when the file is imported
            stop = "pass"
        one_line = _is_one_line_body(self.text, node)
        self.text.replace(node, stop if one_line else "\n".join([*lines, self.text.commented(node), stop]))

    # What is learned -------------------------------------------------------------------------------------------

    @property
    def kinds(self) -> Kinds:
        """What tells kinds of expressions as things are now."""
        return Kinds(self.names, self.scope)

    @property
    def assignments(self) -> Assignments:
        """What rewrites assignments as things are now."""
        return Assignments(self.kinds, self._base_draws)

    def _learn(self, node: ast.stmt) -> None:
        """Note what the names that a statement sets are from then on."""
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            self.scope.fresh -= {
                a.id for a in node.value.args if isinstance(a, ast.Name)
            }  # which a list may hold
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            return
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            for name, value in _pairs(target, node.value):
                self._learn_name(name, value)

    def _learn_name(self, target: ast.expr, value: ast.expr | None) -> None:
        name = self.names.full(target)
        if value is None:
            self.scope.tensors.pop(name, None)
            return
        if isinstance(target, ast.Name):
            if (known := self.kinds.is_tensor(value)) is None:
                self.scope.tensors.pop(name, None)
            else:
                self.scope.tensors[name] = known
            self.scope.fresh.discard(name)
            if isinstance(value, ast.Name):
                self.scope.fresh.discard(value.id)  # which has two names from here on
            if is_new(value):
                self.scope.fresh.add(name)
            if self.kinds.holds_layers(value):
                self.scope.classes.add(name)
            if self._makes_module(value):
                self.scope.called.add(name)
        if name.startswith("self.") and isinstance(value, ast.Call):
            made = self.names.of_torch(value.func) or ""
            self.scope.layers[name[5:]] = made.rpartition(".")[2]
            if made == "torch.nn.Parameter":
                self.scope.variables.add(name[5:])

    def _makes_module(self, value: ast.expr) -> bool:
        """Return whether a value is a new object of one of the file's classes of modules, or of torch's."""
        while isinstance(value, ast.Call) and getattr(value.func, "attr", "") in (
            "to",
            "cuda",
            "cpu",
            "train",
            "eval",
        ):
            value = value.func.value  # type: ignore[attr-defined]
        made = self.names.full(value.func) if isinstance(value, ast.Call) else ""
        return made in self.needing_rngs & {*self.names.classes} or made.removeprefix("torch.nn.") in MODULES

    def header(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, change: bool = False
    ) -> None:
        """Translate bases, defaults and annotations, and write a header anew if it was changed.

        Parameters for devices go; from then on their names stand for devices.
        """
        emptied = _without_body(node)
        if not isinstance(node, ast.ClassDef):
            emptied.args, gone = self._without_devices(node.args)
            self.scope.devices |= gone
            change = change or bool(gone)
        changed, problems = self._translated(emptied)
        self.untranslated += problems
        if changed is not None or change:
            self.text.replace_header(node, _header(changed or emptied))

    def _without_devices(self, of: ast.arguments) -> tuple[ast.arguments, set[str]]:
        """Return parameters without those that are for devices, and the names of these."""
        gone = {
            parameter.arg
            for parameter, default in with_defaults(of)
            if self.kinds.is_for_devices(parameter, default)
        }
        kept = [(p, default) for p, default in with_defaults(of) if p.arg not in gone]
        named = [(p, default) for p, default in kept if p in of.kwonlyargs]
        return ast.arguments(
            posonlyargs=[p for p in of.posonlyargs if p.arg not in gone],
            args=[p for p in of.args if p.arg not in gone],
            vararg=of.vararg,
            kwonlyargs=[p for p, _ in named],
            kw_defaults=[default for _, default in named],
            kwarg=of.kwarg,
            defaults=[default for p, default in kept if default is not None and p not in of.kwonlyargs],
        ), gone


def called_in(node: ast.AST) -> set[str]:
    """Return the names that a piece of code calls."""
    functions = (n.func for n in ast.walk(node) if isinstance(n, ast.Call))
    return {ast.unparse(function) for function in functions if isinstance(function, ast.Name | ast.Attribute)}


def taking_rngs(node: Any) -> Any:
    """Return a function that takes `rngs`, by name."""
    changed = copy.deepcopy(node)
    changed.args.kwonlyargs.append(ast.arg("rngs", ast.parse("nnx.Rngs", mode="eval").body))
    changed.args.kw_defaults.append(None)
    return changed


def _without_body(node: Any) -> Any:
    """Return the header of a compound statement: the statement with nothing in it."""
    emptied = copy.copy(node)
    emptied.body = [ast.Pass()]
    for name in ("orelse", "decorator_list"):
        if hasattr(emptied, name):
            setattr(emptied, name, [])
    return emptied


def _does_nothing(node: ast.stmt) -> bool:
    """Return whether a statement gives names what they have: ``x, y = x, y``."""
    return (
        isinstance(node, ast.Assign)
        and len(node.targets) == 1
        and ast.unparse(node.targets[0]) == ast.unparse(node.value)
    )


def _header(emptied: ast.stmt) -> str:
    return ast.unparse(emptied).removesuffix("\n    pass")


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr | None]]:
    """Yield what is assigned to what, where a tuple is unpacked too; None where that is not seen."""
    if not isinstance(target, ast.Tuple | ast.List):
        yield target, value
        return
    values = value.elts if isinstance(value, ast.Tuple | ast.List) else [None] * len(target.elts)
    for one, its in zip(target.elts, values, strict=False):
        if isinstance(one, ast.Tuple | ast.List):
            yield from ((t, None) for t in one.elts)
        else:
            yield one, its


def _is_one_line_body(text: Text, node: ast.stmt) -> bool:
    return bool(text.lines[node.lineno - 1][: node.col_offset].strip())
