"""What kind of thing code stands for: a tensor, a device, a class of layers, as far as the code tells."""

import ast
import builtins
from dataclasses import dataclass, field

from jaxrnn.port.drawing import DRAWING
from jaxrnn.port.functions import DTYPES, FUNCTIONS
from jaxrnn.port.methods import METHODS, TORCHS_ALONE
from jaxrnn.port.modules import LAYERS
from jaxrnn.port.names import Names, used_in, with_defaults
from jaxrnn.port.training import yielded

NO_GRADIENT = {"torch.no_grad", "torch.inference_mode"}
_OF_PYTHON = (
    ast.Constant, ast.List, ast.Dict, ast.Set, ast.Tuple, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp,
    ast.JoinedStr, ast.Lambda,
)  # fmt: skip
_OVERWRITING = {"uniform_", "normal_", "zero_", "fill_", "copy_", "random_"}  # of tensors, by initial values


@dataclass
class Scope:
    """What is known inside a function."""

    owner: str = ""  # the class, if it is a method
    has_rngs: bool = False  # whether there is `rngs` to draw parameters from
    tensors: dict[str, bool] = field(default_factory=dict)  # names that are tensors, and that are not
    fresh: set[str] = field(default_factory=set)  # names of tensors that nothing else holds
    devices: set[str] = field(default_factory=set)  # names, "self.device" too, that stand for devices
    classes: set[str] = field(default_factory=set)  # names of classes of layers
    # Of the object: attributes that are parameters or buffers, and what layers are made by.
    variables: set[str] = field(default_factory=set)
    layers: dict[str, str] = field(default_factory=dict)
    schedules: dict[str, str] = field(default_factory=dict)  # by name, the optimizer that goes by it
    called: set[str] = field(default_factory=set)  # names of modules: what the function calls, or makes
    dropouts: dict[str, str] = field(default_factory=dict)  # by the code of a rate, the layer for F.dropout


@dataclass(frozen=True)
class Kinds:
    """Tells of code in a scope what it is: expressions, and below statements."""

    names: Names
    scope: Scope

    def is_device(self, node: ast.expr) -> bool:
        """Return whether an expression is a device of torch."""
        name = self.names.full(node)
        if name in self.scope.devices or (
            name.startswith("torch.cuda") and name != "torch.cuda.is_available"
        ):
            return True
        if isinstance(node, ast.Constant):
            return isinstance(node.value, str) and node.value.partition(":")[0] in ("cuda", "cpu", "mps")
        if isinstance(node, ast.Attribute) and node.attr == "device":
            return True
        if isinstance(node, ast.IfExp):
            return self.is_device(node.body) and self.is_device(node.orelse)
        return isinstance(node, ast.Call) and self.names.full(node.func) == "torch.device"

    def is_tensor(self, node: ast.expr) -> bool | None:
        """Return whether an expression is a tensor, as far as the code tells; None where it does not."""
        if isinstance(node, ast.Name):
            return self.scope.tensors.get(node.id)
        if isinstance(node, _OF_PYTHON):
            return False
        if isinstance(node, ast.BinOp):
            kinds = self.is_tensor(node.left), self.is_tensor(node.right)
            return True if True in kinds else None if None in kinds else False
        if isinstance(node, ast.Subscript):
            return self.is_tensor(node.value) or None
        if isinstance(node, ast.Call):
            return self._returns_tensor(node)
        return False if isinstance(node, ast.Attribute) and node.attr in ("shape", "ndim") else None

    def _returns_tensor(self, node: ast.Call) -> bool | None:
        name, function = self.names.of_torch(node.func) or "", node.func
        if (
            name.startswith(("torch.nn.functional.", "torch.autograd."))
            or name in FUNCTIONS
            or name in DRAWING
        ):
            return name.rpartition(".")[2] not in ("is_tensor", "split", "chunk", "unbind", "max", "min")
        if module_of_first_parameter(node) is not None:
            return True
        if self._is_of_python(function):
            return False
        if not isinstance(function, ast.Attribute) or function.attr not in METHODS:
            return None
        if function.attr in TORCHS_ALONE:
            return True
        if function.attr in ("size", "dim", "ndimension", "numel", "numpy"):
            return False
        several = function.attr in ("split", "chunk", "unbind", "max", "min")
        return None if several or not self.is_tensor(function.value) else True

    def _is_of_python(self, function: ast.expr) -> bool:
        """Return whether a function is Python's or another package's, or a method of what such a one returned."""
        head = self.names.full(function).partition(".")[0]
        if head in {*dir(builtins)} - {"sum", "max", "min", "next", "abs", "super", "getattr"}:
            return True
        while isinstance(function, ast.Attribute | ast.Subscript | ast.Call):
            function = function.func if isinstance(function, ast.Call) else function.value
        return self.names.full(function).partition(".")[0] in self.names.packages - {"torch"}

    def dtype(self, node: ast.expr) -> str | None:
        """Return what a dtype of torch is in JAX, or "dtype" for that of a tensor; None for anything else."""
        if self.names.full(node).rpartition(".")[2] == "dtype":
            return "dtype"
        head, _, last = (self.names.of_torch(node) or "").rpartition(".")
        return DTYPES.get(last) if head == "torch" else None

    def is_for_devices(self, parameter: ast.arg, default: ast.expr | None) -> bool:
        """Return whether a parameter of a function is for devices, by its name, annotation or default."""
        annotated = parameter.annotation is not None and any(
            self.names.full(n) == "torch.device" or "torch.device" in str(getattr(n, "value", ""))
            for n in ast.walk(parameter.annotation)
        )
        return parameter.arg == "device" or annotated or (default is not None and self.is_device(default))

    def places_of_devices(self, node: ast.Call) -> tuple[list[bool | None], dict[str, bool]]:
        """Return which parameters of what is called are for devices, by place and by name; None is not known."""
        unknown: list[bool | None] = [None] * len(node.args)
        found = self.names.called(node.func, self.scope.owner)
        if found is None:
            return unknown, {}
        known = {p.arg: self.is_for_devices(p, default) for p, default in with_defaults(found)}
        if any(isinstance(argument, ast.Starred) for argument in node.args):
            return unknown, known
        by_place = [known[p.arg] for p in [*found.posonlyargs, *found.args]]
        return [*by_place, *unknown][: len(node.args)], known

    def holds_layers(self, node: ast.AST) -> bool:
        """Return whether an expression is one of some classes of layers, say by a dictionary of them."""
        return any(
            self.names.of_torch(n) in LAYERS
            for n in ast.walk(node)
            if isinstance(n, ast.Attribute | ast.Name)
        ) and not any(isinstance(n, ast.Call) for n in ast.walk(node))

    def batches(self, loop: ast.For) -> list[str]:
        """Return what a loop takes from data as tensors: all, if a part is put on a device or handed to a model."""
        names = [] if isinstance(loop.iter, ast.List | ast.Tuple | ast.Constant) else yielded(loop)
        parts = {*names}  # and what it is unpacked into
        for statement in loop.body:
            if isinstance(statement, ast.Assign) and used_in(statement.value) & parts:
                parts |= {n.id for t in statement.targets for n in ast.walk(t) if isinstance(n, ast.Name)}
        calls = [n for statement in loop.body for n in ast.walk(statement) if isinstance(n, ast.Call)]
        if not any(self._takes_tensor(call, name) for call in calls for name in parts):
            return []
        used = {name for statement in loop.body for name in used_in(statement)}
        return [name for name in names if name in used]

    def _takes_tensor(self, call: ast.Call, name: str) -> bool:
        """Return whether a call puts a name on a device, or hands it to what may be a model."""
        function = call.func
        if isinstance(function, ast.Attribute) and ast.unparse(function.value) == name:
            return function.attr == "cuda" or (function.attr == "to" and any(map(self.is_device, call.args)))
        handed = [*call.args, *(keyword.value for keyword in call.keywords)]
        return isinstance(function, ast.Name) and not self._is_plain(function) and name in map(_root, handed)

    def _is_plain(self, function: ast.expr) -> bool:
        """Return whether a function is Python's, another package's, or one of this file."""
        head = self.names.full(function).partition(".")[0]
        of_file = {*self.names.functions, *self.names.classes}
        return head in {*dir(builtins)} | of_file | (self.names.packages - {"torch"})

    def constructs_base(self, node: ast.stmt) -> bool:
        """Return whether it is ``super().__init__(...)``."""
        call = node.value if isinstance(node, ast.Expr) else None
        function = call.func if isinstance(call, ast.Call) else None
        return (
            isinstance(function, ast.Attribute)
            and function.attr == "__init__"
            and isinstance(function.value, ast.Call)
            and self.names.full(function.value.func) == "super"
        )

    def asks_for_no_gradient(self, node: ast.stmt) -> bool:
        """Return whether a block is one in which torch keeps no graph; outside of models nothing here does."""
        return (
            isinstance(node, ast.With)
            and not self.scope.owner
            and {self.names.full(getattr(i.context_expr, "func", i)) for i in node.items} <= NO_GRADIENT
        )

    def sets_initial_values(self, node: ast.stmt) -> bool:
        """Return whether a statement does nothing but overwrite parameters, by `torch.nn.init` say."""
        if isinstance(node, ast.For | ast.If | ast.With):
            body = [*node.body, *getattr(node, "orelse", [])]
            real = [inner for inner in body if not isinstance(inner, ast.Pass | ast.Continue)]
            over = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
            at_all = not isinstance(node, ast.For) or bool(
                {"parameters", "named_parameters", "modules"} & over
            )
            return at_all and bool(real) and all(self.sets_initial_values(inner) for inner in real)
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
            return False
        function = node.value.func
        if (self.names.of_torch(function) or "").startswith("torch.nn.init."):
            return True
        if not (self.scope.owner and isinstance(function, ast.Attribute)):
            return False
        if self.names.full(function) == "self.apply":
            return True
        words = {n.attr for n in ast.walk(function.value) if isinstance(n, ast.Attribute)}
        return function.attr in _OVERWRITING and bool(words & {"weight", "bias", "data"})


def having_parameters(node: ast.AST | None) -> ast.expr | None:
    """Return the module in ``module.parameters()``, or None."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "parameters":
        return node.func.value
    return None


def counted_module(node: ast.GeneratorExp) -> ast.expr | None:
    """Return the module in ``(p.numel() for p in module.parameters() if p.requires_grad)``, or None."""
    loop, *more = node.generators
    name = ast.unparse(loop.target)
    counts = ast.unparse(node.elt) == f"{name}.numel()" and not more
    trained = all(ast.unparse(each) == f"{name}.requires_grad" for each in loop.ifs)
    return having_parameters(loop.iter) if counts and trained else None


def module_of_first_parameter(node: ast.Call) -> ast.expr | None:
    """Return the module in ``next(module.parameters())``, which is asked for its dtype and device, or None."""
    is_next = isinstance(node.func, ast.Name) and node.func.id == "next" and len(node.args) == 1
    return having_parameters(node.args[0]) if is_next else None


def _root(node: ast.expr) -> str:
    """Return the name of which an expression is a part, or what a method returned."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        if isinstance(node, ast.Call) and not isinstance(node.func, ast.Attribute):
            return ""
        node = node.func if isinstance(node, ast.Call) else node.value
    return getattr(node, "id", "")
