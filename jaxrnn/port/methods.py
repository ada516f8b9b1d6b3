"""What each method of a tensor becomes."""

import ast

from jaxrnn.port.functions import OF_TENSORS
from jaxrnn.port.rules import Rule, UntranslatedError, bind, fill, rule, whole


def _size(call: ast.Call, receiver: ast.expr | None = None) -> ast.expr:
    given = bind(call, "self dim?", receiver)
    return fill("{self}.shape[{dim}]" if "dim" in given else "{self}.shape", given)


def _view(call: ast.Call, receiver: ast.expr | None = None) -> ast.expr:
    """Rewrite a view as a reshape, which has the same numbers in the same order."""
    if [k.arg for k in call.keywords] not in ([], ["shape"], ["size"]):
        raise UntranslatedError("a view as another dtype is jax.lax.bitcast_convert_type")
    assert receiver is not None
    function = ast.Attribute(receiver, "reshape", ast.Load())
    return ast.Call(function, [*call.args, *(k.value for k in call.keywords)], [])


def _expand(call: ast.Call, receiver: ast.expr | None = None) -> ast.expr:
    """Rewrite expand, where -1 stands for the tensor's own size; axes are counted from behind."""
    given = bind(call, "self *size", receiver)
    sizes = given["size"]
    elements = sizes.elts if isinstance(sizes, ast.Tuple | ast.List) else None
    if elements is None or any(isinstance(e, ast.Starred) for e in elements):
        raise UntranslatedError("write the sizes out one by one")
    kept = [whole(element) == -1 for element in elements]
    if any(kept) and not isinstance(receiver, ast.Name):
        raise UntranslatedError("-1 needs the tensor's size: give the tensor a name first")
    shape = [
        fill(f"{{self}}.shape[{place - len(kept)}]", given) if keep else element
        for place, (keep, element) in enumerate(zip(kept, elements, strict=True))
    ]
    return fill("jnp.broadcast_to({self}, {shape})", {**given, "shape": ast.Tuple(shape, ast.Load())})


def _to(call: ast.Call, receiver: ast.expr | None = None) -> ast.expr:
    """Rewrite `to` with a dtype, positional or named; devices are left out before."""
    given = bind(call, "self dtype?", receiver)
    return fill("{self}.astype({dtype})" if "dtype" in given else "{self}", given)


_TENSOR = {
    "dim": "-> {self}.ndim",
    "ndimension": "-> {self}.ndim",
    "reshape": "*shape -> jnp.reshape({self}, {shape})",
    "view_as": "other -> {self}.reshape({other}.shape)",
    "expand_as": "other -> jnp.broadcast_to({self}, {other}.shape)",
    "permute": "*dims -> jnp.transpose({self}, {dims})",
    "narrow": "dim start length -> jax.lax.slice_in_dim({self}, {start}, {start} + {length}, axis={dim})",
    "repeat": "*sizes -> jnp.tile({self}, {sizes})",
    "detach": "-> jax.lax.stop_gradient({self})",
    "contiguous": "-> {self}",
    "clone": "-> {self}",
    "cpu": "-> {self}",
    "cuda": "-> {self}",
    "requires_grad_": "-> {self}",
    "numpy": "-> np.asarray({self})",
    "type_as": "other -> {self}.astype({other}.dtype)",
    "new_zeros": "*size -> jnp.zeros({size}, {self}.dtype)",
    "new_ones": "*size -> jnp.ones({size}, {self}.dtype)",
    "float": "-> {self}.astype(jnp.float32)",
    "double": "-> {self}.astype(jnp.float64)",
    "half": "-> {self}.astype(jnp.float16)",
    "bfloat16": "-> {self}.astype(jnp.bfloat16)",
    "long": "-> {self}.astype(jnp.int32)",
    "int": "-> {self}.astype(jnp.int32)",
    "bool": "-> {self}.astype(jnp.bool_)",
}

METHODS: dict[str, Rule] = {
    **OF_TENSORS,
    **{name: rule(f"self {line}") for name, line in _TENSOR.items()},
    "size": _size,
    "view": _view,
    "expand": _expand,
    "to": _to,
    "type": _to,
}
# Methods of tensors that have no rule, and that nothing else in Python has.
WITHOUT_RULES = {
    "allclose", "amax", "amin", "argsort", "byte", "clamp_max", "clamp_min", "fmod", "frac", "logical_and",
    "logical_not", "logical_or", "movedim", "nan_to_num", "nelement", "nonzero", "norm", "reciprocal", "remainder",
    "sort",
    "addcdiv", "addcmul", "addmm", "baddbmm", "data_ptr", "erf", "gather", "index_add", "index_copy", "index_fill",
    "kthvalue", "lerp", "masked_scatter", "masked_select", "multinomial", "new_empty", "new_full", "new_tensor",
    "register_hook", "retain_grad", "scatter", "scatter_add", "unflatten", "unfold", "unique_consecutive",
}  # fmt: skip
# Methods that lists, strings and dicts have too, and arrays of JAX under the same name with the same meaning.
SHARED = {
    "item", "tolist", "append", "extend", "insert", "pop", "items", "keys", "values", "get", "format", "join",
}  # fmt: skip
# Methods that nothing but a tensor has, and that return one.
TORCHS_ALONE = {
    "clone", "contiguous", "cuda", "detach", "expand", "float", "log_softmax", "long", "masked_fill", "new_ones",
    "new_zeros", "permute", "requires_grad_", "softmax", "unsqueeze", "view",
}  # fmt: skip
