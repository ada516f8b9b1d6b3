"""A class of `torch.nn.Module` as one of `nnx.Module`: its header, its constructor, and its methods."""

import ast
import copy
import itertools
from dataclasses import dataclass, field, replace

from jaxrnn.port.drawing import DRAWING
from jaxrnn.port.dropouts import rates_of
from jaxrnn.port.kinds import Scope
from jaxrnn.port.modules import LAYERS, MODULES
from jaxrnn.port.names import Names, with_defaults
from jaxrnn.port.problems import Problem
from jaxrnn.port.schedules import find_schedules
from jaxrnn.port.statements import Function, called_in, taking_rngs
from jaxrnn.port.text import Text

# What draws its parameters, where it is called in a constructor.
_DRAWING = {
    *LAYERS,
    *(
        f"torch.nn.{name}"
        for name in ("Linear", "Dropout", "Embedding", "EmbeddingBag", "Conv1d", "LayerNorm")
    ),
    *DRAWING,
}
_NUMBERS = {"int", "float", "bool", "str"}


@dataclass
class Port:
    """Translates what is chosen of a file."""

    text: Text
    names: Names
    classes: dict[str, ast.ClassDef]  # of modules, in the file's order
    functions: dict[str, ast.FunctionDef]  # at the top of the file
    devices: set[str]  # names at the top of the file that stand for devices
    untranslated: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.needing_rngs = self._needing_rngs()
        self.scopes: dict[str, Scope] = {}

    def statement(self, node: ast.stmt) -> None:
        """Translate one statement at the top of the file."""
        if isinstance(node, ast.ClassDef) and node.name in self.classes:
            self._class(node)
        else:
            self._function(Scope(devices={*self.devices}), set()).block([node])

    def _class(self, node: ast.ClassDef) -> None:
        self._function(Scope(), set()).header(node)
        scope = self.scopes[node.name] = self._inherited(node)
        bases = self.names.bases(node)
        methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
        dropouts = self._dropouts(node, scope.dropouts)
        scope.dropouts |= dropouts
        for statement in sorted(node.body, key=lambda n: getattr(n, "name", "") != "__init__"):
            if statement in methods:
                self._method(statement, scope, bases - {"torch.nn.Module"} or {"nnx.Module"})
                if statement.name == "__init__":
                    for rate, name in dropouts.items():
                        made = f"self.{name} = jaxrnn.dropout.Dropout({rate}, rngs=rngs)"
                        self.text.insert_below(statement.body[-1], made)
            elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                self._function(Scope(devices={*self.devices}), set()).block([statement])

    def script(self, statements: list[ast.stmt], name: str) -> None:
        """Translate code at the top of a file as the body of a function of this name."""
        nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
        body = ast.FunctionDef(name, nothing, statements, [])
        draws = self.draws(statements, self.needing_rngs)
        scope = Scope(devices={*self.devices}, has_rngs=draws, called=called_in(body))
        function = replace(self._function(scope, set()), around=body)
        function.schedules = find_schedules(body, self.names)
        function.block(statements)

    def _dropouts(self, node: ast.ClassDef, known: dict[str, str]) -> dict[str, str]:
        """Return the layers that its constructor makes for calls of F.dropout, by the code of their rates.

        Those of its bases are known; they are made again where it sets the attributes that their rates are.
        """
        if _constructor(node) is None:
            return {}
        attributes = [n for c in self.classes.values() for n in ast.walk(c) if isinstance(n, ast.Attribute)]
        taken = {n.attr for n in attributes} | {*known.values()}
        free = (name for name in map("dropout_{}".format, itertools.count(1)) if name not in taken)
        new = {rate: next(free) for rate in rates_of(node, self.names) if rate not in known}
        stored = {
            ast.unparse(n)
            for n in ast.walk(node)
            if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)
        }
        return {rate: name for rate, name in known.items() if any(s in rate for s in stored)} | new

    def _inherited(self, node: ast.ClassDef) -> Scope:
        scope = Scope(owner=node.name, devices={*self.devices})
        for base in node.bases:
            known = self.scopes.get(self.names.full(base), Scope())
            scope.variables |= known.variables
            scope.layers |= known.layers
            scope.dropouts |= known.dropouts
            scope.devices |= known.devices
        return scope

    def _method(self, node: ast.FunctionDef, of_class: Scope, bases: set[str]) -> None:
        is_init = node.name == "__init__"
        draws = is_init and of_class.owner in self.needing_rngs
        scope = Scope(
            owner=of_class.owner, has_rngs=is_init, variables=of_class.variables, layers=of_class.layers,
            dropouts=of_class.dropouts, devices={*of_class.devices},
            tensors=_tensors(node) if node.name == "forward" else {},
        )  # fmt: skip
        function = self._function(scope, bases)
        for argument, default in with_defaults(node.args):
            if default is not None and function.kinds.holds_layers(default):
                scope.classes.add(argument.arg)
        written = taking_rngs(node) if draws else copy.deepcopy(node)
        if node.name == "forward":
            written.name = "__call__"
        function.header(written, change=draws or node.name == "forward")
        function.decorators(node)
        function.block(node.body)
        of_class.devices |= {name for name in scope.devices if name.startswith("self.")}

    def _function(self, scope: Scope, bases: set[str]) -> Function:
        return Function(self.text, self.names, scope, self.needing_rngs, bases, self.untranslated, self.notes)

    def _needing_rngs(self) -> set[str]:
        """Return the classes whose constructors need random numbers, for layers say, and the functions that do."""
        found: set[str] = set()
        while True:
            more = {name for name, node in self.classes.items() if self._constructor_draws(node, found)}
            more |= {name for name, node in self.functions.items() if self.draws([node], found)}
            if more == found:
                return found
            found = more

    def draws(self, statements: list[ast.stmt], known: set[str]) -> bool:
        """Return whether code that is no method draws, given which classes and functions do."""
        calls = [n.func for statement in statements for n in ast.walk(statement) if isinstance(n, ast.Call)]
        return any(self.names.full(function) in _DRAWING | known for function in calls)

    def _constructor_draws(self, node: ast.ClassDef, known: set[str]) -> bool:
        """Return whether a constructor draws, if it is known which of the other classes' do."""
        base_draws = bool(self.names.bases(node) & {*known, *LAYERS})
        own = _constructor(node)
        if own is None:
            return base_draws
        if rates_of(node, self.names):
            return True
        called = {self.names.full(n.func) for n in ast.walk(own) if isinstance(n, ast.Call)}
        if called & (_DRAWING | known) or ("super" in called and base_draws):
            return True
        return any(self.names.of_torch(n) in LAYERS or self._chosen_by_name(n) for n in ast.walk(own))

    def _chosen_by_name(self, node: ast.AST) -> bool:
        """Return whether it is ``getattr(nn, ...)``."""
        return (
            isinstance(node, ast.Call)
            and self.names.full(node.func) == "getattr"
            and self.names.of_torch(node.args[0]) == "torch.nn"
        )


def _constructor(node: ast.ClassDef) -> ast.FunctionDef | None:
    return next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)


def _tensors(node: ast.FunctionDef) -> dict[str, bool]:
    """Return the arguments of a forward pass that are tensors: those whose default, if any, is None."""
    return {
        argument.arg: True
        for argument, default in with_defaults(node.args)
        if argument.arg != "self"
        and (default is None or (isinstance(default, ast.Constant) and default.value is None))
        and getattr(argument.annotation, "id", "") not in _NUMBERS
    }


assert {name.removeprefix("torch.nn.") for name in _DRAWING - {*DRAWING}} <= {*MODULES}
