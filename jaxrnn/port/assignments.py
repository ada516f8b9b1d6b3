"""Assignments of torch in JAX, where nothing is changed in its place: what they say of the whole."""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

from jaxrnn.port.kinds import Kinds
from jaxrnn.port.problems import Problem
from jaxrnn.port.rules import fill

_VIEWS = {
    "view", "transpose", "squeeze", "unsqueeze", "expand", "permute", "t", "detach", "contiguous", "to",
}  # fmt: skip


@dataclass(frozen=True)
class Assignments:
    """Rewrites assignments in a scope."""

    kinds: Kinds
    base_draws: bool  # whether the constructor of the class's base needs random numbers

    def rewritten(self, node: ast.stmt) -> ast.stmt:
        """Return what a statement that sets a part of a tensor, or a buffer, says of the whole."""
        if isinstance(node, ast.Expr) and (buffer := self._buffer(node.value)) is not None:
            return buffer
        if self.base_draws and self.kinds.constructs_base(node):
            node.value.keywords.append(ast.keyword("rngs", ast.Name("rngs", ast.Load())))  # type: ignore[attr-defined]
        if (
            isinstance(node, ast.Assign | ast.AnnAssign)
            and self.kinds.scope.has_rngs
            and node.value is not None
        ):
            node.value = self._held_by_flax(node)
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            return self._set_at(node, node.targets[0], node.value)
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Subscript):
            # Not by `at[...].add`, which counts an index that comes twice.
            return self._set_at(node, node.target, ast.BinOp(_loaded(node.target), node.op, node.value))
        return node

    def aliased(self, node: ast.stmt) -> Iterator[Problem]:
        """Yield what to know where torch changes a tensor that others hold too; here they keep the old values."""
        yield from self._otherwise_held(node)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            whole = target.value if isinstance(target, ast.Subscript) else target
            changes = isinstance(node, ast.AugAssign) or isinstance(target, ast.Subscript)
            if not (changes and isinstance(whole, ast.Name) and self.kinds.is_tensor(whole)):
                continue
            if whole.id not in self.kinds.scope.fresh:
                why = "torch changes the tensor itself, here other names of it keep the old values"
                yield Problem(node.lineno, ast.unparse(node), why)

    def _otherwise_held(self, node: ast.stmt) -> Iterator[Problem]:
        """Yield what to know of weights that are held otherwise: in lists of layers, and in state dicts."""
        value, scope = node.value if isinstance(node, ast.Assign) else None, self.kinds.scope
        if (
            isinstance(value, ast.List | ast.ListComp | ast.Dict | ast.DictComp)
            and scope.owner
            and scope.has_rngs
        ):
            names = [
                self.kinds.names.of_torch(n.func) or "" for n in ast.walk(value) if isinstance(n, ast.Call)
            ]
            if any(name.startswith("torch.nn.") for name in names):
                why = (
                    "torch does not register layers in a list or dictionary; here they are trained and saved"
                )
                yield Problem(node.lineno, ast.unparse(node), why)
        function = value.func if isinstance(value, ast.Call) else None
        weights = isinstance(function, ast.Attribute) and function.attr == "state_dict" and function.value
        if weights and ast.unparse(weights) in scope.called:
            why = "a copy; torch's are the tensors themselves, which training goes on changing"
            yield Problem(node.lineno, ast.unparse(node), why)

    def _held_by_flax(self, node: ast.Assign | ast.AnnAssign) -> ast.expr:
        """Return a value as a module of Flax can keep it: lists and dictionaries in its own kinds of them."""
        value, targets = node.value, node.targets if isinstance(node, ast.Assign) else [node.target]
        assert value is not None
        if not any(
            isinstance(t, ast.Attribute) and self.kinds.names.full(t.value) == "self" for t in targets
        ):
            return value
        if isinstance(value, ast.Dict | ast.DictComp):
            return fill("nnx.Dict({it})", {"it": value})
        makes_list = isinstance(value, ast.Call) and (
            self.kinds.names.full(value.func) == "list" or getattr(value.func, "attr", "") == "tolist"
        )
        return (
            fill("nnx.List({it})", {"it": value})
            if makes_list or isinstance(value, ast.List | ast.ListComp)
            else value
        )

    def _set_at(self, node: ast.Assign | ast.AugAssign, target: ast.expr, value: ast.expr) -> ast.stmt:
        if not (isinstance(target, ast.Subscript) and self.kinds.is_tensor(target.value)):
            return node
        if isinstance(target.value, ast.Call):
            return node  # which is refused
        whole, index = self._part(target)
        code = fill("{x}.at[0].set({value})", {"x": _loaded(whole), "value": value})
        code.func.value.slice = index  # type: ignore[attr-defined]
        whole = copy.deepcopy(whole)
        whole.ctx = ast.Store()  # type: ignore[attr-defined]
        return ast.copy_location(ast.Assign([whole], code), node)

    def _part(self, target: ast.Subscript) -> tuple[ast.expr, ast.expr]:
        """Return the tensor that is set a part of, and which part: ``x[i][j]`` is ``x[i, j]``."""
        inner = target.value
        if not (
            isinstance(inner, ast.Subscript) and self.kinds.is_tensor(inner.value) and _is_plain(inner.slice)
        ):
            return inner, target.slice
        whole, first = self._part(inner)
        parts = [
            p
            for part in (first, target.slice)
            for p in (part.elts if isinstance(part, ast.Tuple) else [part])
        ]
        return whole, ast.Tuple(parts, ast.Load())

    def _buffer(self, call: ast.expr) -> ast.stmt | None:
        """Return ``self.name = Buffer(value)`` for ``self.register_buffer("name", value)``."""
        if not (isinstance(call, ast.Call) and self.kinds.names.full(call.func) == "self.register_buffer"):
            return None
        name, *values = call.args
        values += [k.value for k in call.keywords if k.arg == "tensor"]
        if not (isinstance(name, ast.Constant) and len(values) == 1):
            return None
        self.kinds.scope.variables.add(str(name.value))
        target = ast.Attribute(ast.Name("self", ast.Load()), str(name.value), ast.Store())
        made = ast.Call(ast.parse("jaxrnn.torch_names.Buffer", mode="eval").body, values, [])
        return ast.copy_location(ast.Assign([target], made), call)

    def refused(self, node: ast.stmt) -> list[Problem]:
        """Return what of an assignment has no counterpart."""
        return [*self._set_of_parameters(node), *self._kept_in_the_module(node), *self._set_in_a_view(node)]

    def _set_of_parameters(self, node: ast.stmt) -> list[Problem]:
        """Refuse what is set of parameters: whether they are trained, and which are one."""
        targets = node.targets if isinstance(node, ast.Assign) else []
        found = [target for target in targets if isinstance(target, ast.Attribute)]
        frozen = "what is not trained is a jaxrnn.torch_names.Frozen, or left out of the optimizer's wrt"
        tied = (
            "a Linear's weight is stored transposed: write the product with the one weight, x @ embedding.T"
        )
        return [
            Problem(node.lineno, ast.unparse(node), frozen if target.attr == "requires_grad" else tied)
            for target in found
            if target.attr == "requires_grad"
            or (target.attr in ("weight", "bias") and "." in ast.unparse(target.value))
        ]

    def _set_in_a_view(self, node: ast.stmt) -> list[Problem]:
        """Refuse ``x.view(-1)[i] = y``, which sets a part of what x is a view of."""
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        why = "it sets a part of another tensor by a view of it: set it by x.at[...].set(...)"
        return [
            Problem(node.lineno, ast.unparse(target), why)
            for target in targets
            if isinstance(target, ast.Subscript)
            and isinstance(target.value, ast.Call)
            and self.kinds.is_tensor(target.value)
        ]

    def _kept_in_the_module(self, node: ast.stmt) -> list[Problem]:
        """Refuse what a method other than the constructor keeps in its module: compiled code forgets it."""
        if (
            not self.kinds.scope.owner
            or self.kinds.scope.has_rngs
            or not isinstance(node, ast.Assign | ast.AugAssign)
        ):
            return []
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        kept = [t for target in targets for t in ast.walk(target) if isinstance(t, ast.Attribute)]
        why = "compiled code keeps nothing in a module; return it, and take it as an argument"
        return [
            Problem(node.lineno, ast.unparse(t), why)
            for t in kept
            if isinstance(t.ctx, ast.Store) and self.kinds.names.full(t).startswith("self.")
        ]


def _loaded(target: ast.expr) -> ast.expr:
    """Return what a target is before it is set."""
    found = copy.deepcopy(target)
    for node in ast.walk(found):
        if hasattr(node, "ctx"):
            node.ctx = ast.Load()
    return found


def _is_plain(index: ast.expr) -> bool:
    """Return whether an index is one number for each of some axes, as far as the code tells."""
    parts = index.elts if isinstance(index, ast.Tuple) else [index]
    return all(isinstance(part, ast.Constant | ast.Name | ast.BinOp | ast.UnaryOp) for part in parts)


def is_new(value: ast.expr) -> bool:
    """Return whether an expression makes a tensor of its own, not a view of another."""
    if isinstance(value, ast.BinOp | ast.UnaryOp):
        return True
    return isinstance(value, ast.Call) and getattr(value.func, "attr", "") not in _VIEWS
