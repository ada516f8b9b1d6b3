"""Expressions of torch in JAX: functions, methods of tensors, classes and dtypes, one by one from the tables."""

import ast

from jaxrnn.port import loading
from jaxrnn.port.drawing import DRAWING
from jaxrnn.port.dropouts import DROPOUT, rate_of
from jaxrnn.port.functions import DTYPES, FUNCTIONS, OPTIMIZERS, TENSORS
from jaxrnn.port.kinds import Kinds, Scope, counted_module, having_parameters, module_of_first_parameter
from jaxrnn.port.methods import METHODS, SHARED, WITHOUT_RULES
from jaxrnn.port.modules import LAYERS, MODULES
from jaxrnn.port.names import Names
from jaxrnn.port.problems import Problem
from jaxrnn.port.rules import Rule, UntranslatedError, bind, fill

# Classes that are named, not called.
CLASSES = {
    "torch.nn.Module": "nnx.Module",
    "torch.nn.utils.rnn.PackedSequence": "jaxrnn.PackedSequence",
    "torch.device": "None",
    "torch.dtype": "jnp.dtype",
    "torch.Size": "tuple",
    "torch.nn.Parameter": "nnx.Param",
    "torch.nn.ModuleList": "nnx.List",
    **{f"torch.nn.{name}": f"nnx.{name}" for name in ("Linear", "LayerNorm")},
    **{
        f"torch.nn.{name}": f"jaxrnn.migration.{name}"
        for name in ("Embedding", "Conv1d", "BatchNorm1d", "Sequential", "ModuleDict")
    },
    **dict.fromkeys(
        ("torch.Tensor", "torch.FloatTensor", "torch.LongTensor", "torch.IntTensor", "torch.BoolTensor"),
        "jax.Array",
    ),
    **LAYERS,
}
# Numbers, and functions that are handed on, not called.
VALUES = {
    "torch.pi": "jnp.pi", "torch.inf": "jnp.inf", "torch.nan": "jnp.nan", "torch.e": "jnp.e",
    "torch.tanh": "jnp.tanh", "torch.exp": "jnp.exp", "torch.relu": "jax.nn.relu",
    "torch.sigmoid": "jax.nn.sigmoid", "torch.nn.functional.sigmoid": "jax.nn.sigmoid",
    "torch.nn.functional.tanh": "jnp.tanh", "torch.nn.functional.relu": "jax.nn.relu",
}  # fmt: skip
_OF_SEQUENCES = {
    "pack_padded_sequence", "pad_packed_sequence", "pad_sequence", "unpad_sequence", "pack_sequence",
    "unpack_sequence", "invert_permutation", "PackedSequence",
}  # fmt: skip
# What a module of torch can be asked for, and its twin cannot, or not in this way.
_OF_MODULES = {
    "parameters": "nnx.state(module, nnx.Param) has them",
    "named_parameters": "nnx.state(module, nnx.Param) has them",
    "modules": "nnx.iter_modules(module) has them",
    "children": "nnx.iter_children(module) has them",
    "add_module": "set it as an attribute",
    "register_parameter": "set it as an attribute, nnx.Param(...)",
    "register_forward_hook": "there are no hooks: call it in __call__",
    "apply": "write the loop over nnx.iter_modules(module)",
}
# What to do about a function, or a package, that has no rules.
_INSTEAD = {
    "torch.load": "jaxrnn.load_state_dict(model, path, key=...) reads the weights in a checkpoint, "
    "jaxrnn.optimizer_from_torch an optimizer",
    "torch.optim.lr_scheduler": "a schedule of jaxrnn.optim takes the place of the learning rate, nothing steps "
    "it; it counts updates, so one by epochs is jaxrnn.optim.by_epochs(schedule, updates_per_epoch)",
}


class Expressions(ast.NodeTransformer):
    """Translates expressions within a scope; what cannot be is left as it is, and listed in `problems`."""

    def __init__(self, names: Names, scope: Scope, needing_rngs: set[str], compiled: bool = False):
        self.names, self.scope, self.needing_rngs = names, scope, needing_rngs
        self.kinds = Kinds(names, scope)
        self.compiled = compiled or bool(scope.owner)  # whether Python runs it but once
        self.unused: ast.expr | None = None  # a call whose result nobody takes, as a set's `add`
        self.problems: list[Problem] = []
        self.notes: list[Problem] = []

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        """Translate an expression that is a statement."""
        self.unused = node.value
        return self.generic_visit(node)

    # Calls -----------------------------------------------------------------------------------------------------

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """Translate a call, or note why it cannot be."""
        try:
            return self._call(node)
        except UntranslatedError as why:
            self.problems.append(Problem(node.lineno, ast.unparse(node), str(why)))
            return node

    def _call(self, node: ast.Call) -> ast.expr:
        name = self.names.of_torch(node.func)
        if (model := module_of_first_parameter(node)) is not None:
            return fill("jax.tree.leaves(nnx.state({model}, nnx.Param))[0]", {"model": model})
        if name in OPTIMIZERS:
            return self._optimizer(OPTIMIZERS[name], node)
        if name == DROPOUT:
            return self._dropout(node)
        if name is not None:
            return self._function(name, self.with_arguments(node))
        if self._names_a_layer(node.func):
            return self._layer(node)
        if isinstance(node.func, ast.Attribute):
            return self._method(node, node.func)
        node = self.with_arguments(node)
        if isinstance(node.func, ast.Name) and node.func.id in self.needing_rngs:
            return self._drawn(node)
        node.func = self.visit(node.func)
        return node

    def with_arguments(self, node: ast.Call) -> ast.Call:
        """Return a call with its arguments translated, and without those that are devices.

        A parameter for devices is not there any more, so whatever is given for it goes; where a device is given for
        another parameter of this file's functions, nothing stands in its place.
        """
        places, known = self.kinds.places_of_devices(node)
        given = [self._argument(a, place) for a, place in zip(node.args, places, strict=True)]
        named = [
            ast.keyword(k.arg, value)
            for k in node.keywords
            if (value := self._argument(k.value, k.arg == "device" or known.get(k.arg or ""))) is not None
        ]
        return ast.copy_location(ast.Call(node.func, [a for a in given if a is not None], named), node)

    def _argument(self, node: ast.expr, for_devices: bool | None) -> ast.expr | None:
        """Return an argument in JAX, or None for a device where one is expected, or nothing is known of what is."""
        if for_devices or (for_devices is None and self.kinds.is_device(node)):
            return None
        is_string = isinstance(node, ast.Constant)  # "cpu" may be a word
        return ast.Constant(None) if self.kinds.is_device(node) and not is_string else self.visit(node)

    def _function(self, name: str, node: ast.Call) -> ast.expr:
        head, _, last = name.rpartition(".")
        if name in DRAWING:
            self._need_rngs("random numbers come from a stream: pass them in as an argument")
            return DRAWING[name](node)
        if head == "torch.nn.utils.rnn" and last in _OF_SEQUENCES:
            node.func = ast.parse(f"jaxrnn.sequence.{last}", mode="eval").body
            return node
        if name == "torch.cuda.is_available":
            return ast.Constant(False)
        if head == "torch.nn" and last in MODULES:
            made = MODULES[last](node)
            if "rngs" in {n.id for n in ast.walk(made) if isinstance(n, ast.Name)}:
                self._need_rngs("layers are made in __init__, where rngs is")
            return made
        if name in CLASSES and last == "Tensor" and node.args:
            raise UntranslatedError(
                "a tensor of no values yet: use torch.zeros, or torch.tensor for given ones"
            )
        if name.startswith(loading.PACKAGE):
            return loading.rewrite(name, node)
        if name not in FUNCTIONS:
            raise UntranslatedError(_INSTEAD.get(name) or _INSTEAD.get(head, "there is no rule for it"))
        return FUNCTIONS[name](node)

    def _dropout(self, node: ast.Call) -> ast.expr:
        layer = self.scope.dropouts.get(ast.unparse(rate_of(node, self.names)))
        if layer is None:
            raise UntranslatedError("a layer takes its place: it needs a class with an __init__ of its own")
        return fill(
            f"self.{layer}({{input}})", {"input": self.visit(bind(node, "input p? training?")["input"])}
        )

    def _need_rngs(self, why: str) -> None:
        if not self.scope.has_rngs:
            raise UntranslatedError(why)

    def _optimizer(self, rule: Rule, node: ast.Call) -> ast.expr:
        """Rewrite an optimizer of all parameters of a model; for groups of them there is no rule."""
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        model = having_parameters(node.args[0] if node.args else named.get("params"))
        keywords = [keyword for keyword in node.keywords if keyword.arg != "params"]
        if model is None:
            raise UntranslatedError("only an optimizer of model.parameters() is known")
        rule_of = rule(self.with_arguments(ast.Call(node.func, node.args[1:], keywords)))
        return fill("nnx.Optimizer({model}, {rule}, wrt=nnx.Param)", {"model": model, "rule": rule_of})

    def _names_a_layer(self, function: ast.expr) -> bool:
        """Return whether a class of layers is chosen by name, from a dictionary, or held by a variable."""
        if isinstance(function, ast.Name):
            return function.id in self.scope.classes
        if isinstance(function, ast.Call) and self.names.full(function.func) == "getattr":
            return self.names.of_torch(function.args[0]) == "torch.nn"
        return isinstance(function, ast.Subscript | ast.IfExp) and self.kinds.holds_layers(function)

    def _layer(self, node: ast.Call) -> ast.expr:
        self._need_rngs("layers are made in __init__, where rngs is")
        function = node.func
        made = MODULES["LSTM"](self.with_arguments(node))
        assert isinstance(made, ast.Call)
        if isinstance(function, ast.Call):  # getattr(nn, name)
            made.func = fill("getattr(jaxrnn, {name})", {"name": self.visit(function.args[1])})
        else:
            made.func = self.visit(function)
        return made

    def _drawn(self, node: ast.Call) -> ast.expr:
        self._need_rngs("it draws its parameters: make it in __init__, where rngs is, or pass rngs=")
        node.keywords.append(ast.keyword("rngs", ast.Name("rngs", ast.Load())))
        return node

    # Methods ---------------------------------------------------------------------------------------------------

    def _method(self, node: ast.Call, function: ast.Attribute) -> ast.expr:
        name, receiver = function.attr, function.value
        if self.names.full(function).startswith(("random.", "numpy.random.")) and self.compiled:
            self.notes.append(
                Problem(node.lineno, ast.unparse(node), "compiled code draws it once, when it is compiled")
            )
        if name == "forward":
            called = self.with_arguments(node)
            of_base = isinstance(receiver, ast.Call) and self.names.full(receiver.func) == "super"
            method = ast.Attribute(receiver, "__call__", ast.Load()) if of_base else receiver
            return ast.Call(method, called.args, called.keywords)
        if name == "backward":
            raise UntranslatedError(
                "a gradient is one of a function, by nnx.value_and_grad: write the step by hand"
            )
        if name == "get_last_lr" and (schedule := ast.unparse(receiver)) in self.scope.schedules:
            optimizer = ast.parse(self.scope.schedules[schedule], mode="eval").body
            return fill("[{schedule}({optimizer}.step[...])]", {"schedule": receiver, "optimizer": optimizer})
        if name in ("state_dict", "load_state_dict") and ast.unparse(receiver) in self.scope.called:
            return self._weights(name, node, receiver)
        if name in _OF_MODULES and self.kinds.is_tensor(receiver) is not True:
            raise UntranslatedError(_OF_MODULES[name])
        if self._is_fresh_zeros(node):
            return self._fresh_zeros(node)
        if self._is_tensors(name, node, receiver):
            if name == "type" and (made := TENSORS.get(self.names.of_torch(node.args[0]) or "")) is not None:
                dtype = ast.parse(made, mode="eval").body
                return fill("{it}.astype({dtype})", {"it": self.visit(receiver), "dtype": dtype})
            if name in ("to", "type") and any(
                not self.kinds.is_device(a) and self.kinds.dtype(a) is None for a in node.args
            ):
                raise UntranslatedError(
                    "whether its argument is a device or a dtype cannot be told from the code"
                )
            return METHODS[name](self.with_arguments(node), self.visit(receiver))
        overwrites = name.endswith("_") and not name.endswith("__") and self.names.full(receiver) != "self"
        if overwrites and self.kinds.is_tensor(receiver) is not False:
            raise UntranslatedError("it overwrites a tensor; assign what it returns")
        unknown = (
            name in WITHOUT_RULES and node is not self.unused and self.kinds.is_tensor(receiver) is not False
        )
        if unknown or (self.kinds.is_tensor(receiver) and name not in SHARED):
            raise UntranslatedError("tensors' method of this name has no rule")
        changed = self.with_arguments(node)
        changed.func = ast.copy_location(ast.Attribute(self.visit(receiver), name, ast.Load()), function)
        return changed

    def _weights(self, name: str, node: ast.Call, model: ast.expr) -> ast.expr:
        """Rewrite a model's weights being asked for, or loaded, from a file too."""
        if name == "state_dict":
            bind(node, "")
            return fill("jaxrnn.state_dict({model})", {"model": model})
        given = bind(node, "state_dict strict?")
        source = given["state_dict"]
        if isinstance(source, ast.Call) and self.names.full(source.func) == "torch.load":
            given["state_dict"] = bind(source, "f .map_location? .weights_only?")["f"]
        code = "jaxrnn.load_state_dict({model}, {state_dict}[, {strict}])"
        return fill(code, {"model": model} | {key: self.visit(value) for key, value in given.items()})

    def _is_tensors(self, name: str, node: ast.Call, receiver: ast.expr) -> bool:
        if name not in METHODS or self.kinds.is_tensor(receiver) is False or node is self.unused:
            return False
        if name == "split" and not (node.args or node.keywords):
            return False  # a text's
        head = self.names.full(receiver).partition(".")[0]
        if head in self.names.packages:
            return False  # numpy's, math's
        if isinstance(receiver, ast.Name) and receiver.id == "self":
            return False
        if isinstance(receiver, ast.Subscript) and getattr(receiver.value, "attr", "") == "at":
            return False  # JAX's already
        first = node.args[0] if node.args else None
        return name == "to" or not (isinstance(first, ast.Constant) and isinstance(first.value, str))

    def _is_fresh_zeros(self, node: ast.Call) -> bool:
        """Return whether it is ``tensor.new(...).zero_()``, the way to say torch.zeros before it was there."""
        function = node.func
        if not (isinstance(function, ast.Attribute) and function.attr == "zero_"):
            return False
        made = function.value
        return isinstance(made, ast.Call) and isinstance(made.func, ast.Attribute) and made.func.attr == "new"

    def _fresh_zeros(self, node: ast.Call) -> ast.expr:
        made = node.func.value  # type: ignore[attr-defined]
        # Of float32, as the weights by which such tensors are made.
        return fill("jnp.zeros({size}, jnp.float32)", bind(self.with_arguments(made), "*size"))

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> ast.expr:
        """Translate a generator; one that counts a model's parameters is known as a whole."""
        if (model := counted_module(node)) is not None:
            return fill("(p.size for p in jax.tree.leaves(nnx.state({model}, nnx.Param)))", {"model": model})
        return self.generic_visit(node)  # type: ignore[return-value]

    # What is named ---------------------------------------------------------------------------------------------

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        """Translate what belongs to torch, to a tensor, or to the module itself."""
        if (name := self.names.of_torch(node)) is not None:
            return self._named(name, node)
        if not isinstance(node.ctx, ast.Load):
            return self.generic_visit(node)  # type: ignore[return-value]
        owner, attribute = self.names.full(node.value), node.attr
        if owner == "self" and attribute in self.scope.variables:
            return fill("{it}[...]", {"it": node})
        if owner == "self" and attribute == "training":
            return self._refuse(node, "a module of Flax has no such flag: use a Dropout, which knows its own")
        if owner.startswith("self.") and attribute in ("weight", "bias"):
            return self._parameter_of(node, owner.removeprefix("self."))
        receiver = self.visit(node.value)
        if isinstance(receiver, ast.Tuple) and attribute in ("values", "indices"):
            return receiver.elts[attribute == "indices"]
        if attribute == "data" and self.kinds.is_tensor(node.value) is not False:
            return fill("jax.lax.stop_gradient({it})", {"it": receiver})
        if attribute == "param_groups":
            return self._refuse(node, "a rate is a number or a schedule that the optimizer is made with")
        if attribute == "device":
            return self._refuse(node, "arrays of JAX are where jax.device_put puts them: leave devices out")
        return ast.copy_location(ast.Attribute(receiver, attribute, node.ctx), node)

    def _parameter_of(self, node: ast.Attribute, layer: str) -> ast.expr:
        kind = self.scope.layers.get(layer)
        if kind == "Embedding" and node.attr == "weight":
            return ast.copy_location(fill("{it}.weight[...]", {"it": node.value}), node)
        if kind == "Linear":
            code = "{it}.kernel[...].T" if node.attr == "weight" else "{it}.bias[...]"
            return ast.copy_location(fill(code, {"it": node.value}), node)
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Translate a name that was imported from torch."""
        name = self.names.of_torch(node)
        return node if name is None else self._named(name, node)

    def _named(self, name: str, node: ast.expr) -> ast.expr:
        head, _, last = name.rpartition(".")
        code = CLASSES.get(name) or VALUES.get(name) or (DTYPES.get(last) if head == "torch" else None)
        if code is None and name.startswith(loading.PACKAGE):
            return node
        if code is None:
            return self._refuse(node, _INSTEAD.get(name) or _INSTEAD.get(head, "there is no rule for it"))
        return ast.copy_location(ast.parse(code, mode="eval").body, node)

    def _refuse(self, node: ast.expr, why: str) -> ast.expr:
        self.problems.append(Problem(node.lineno, ast.unparse(node), why))
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        """Translate both sides; a part of a pair that is written out is that part."""
        node = ast.copy_location(
            ast.Subscript(self.visit(node.value), self.visit(node.slice), node.ctx), node
        )
        if isinstance(node.value, ast.Tuple) and isinstance(node.slice, ast.Constant):
            return node.value.elts[node.slice.value]  # type: ignore[index]
        return node
