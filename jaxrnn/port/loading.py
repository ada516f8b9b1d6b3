"""Loading data stays in torch: what a DataLoader is made of is kept as it is, and its batches become arrays."""

import ast
from collections.abc import Mapping

from jaxrnn.port.names import Names, free_in
from jaxrnn.port.rules import UntranslatedError, bind, fill

PACKAGE = "torch.utils.data"
KEPT = "stays in torch, as data are loaded by it; elsewhere, hand on .numpy() of its tensors"


def kept_in_torch(names: Names, bound: Mapping[str, ast.stmt]) -> list[str]:
    """Return the classes and functions at the top of a file that load data, and those of torch that these use."""
    found = [
        n for n, node in names.classes.items() if any(base.startswith(PACKAGE) for base in names.bases(node))
    ]
    for node in bound.values():
        found += [n for n in _collating(node, names) if n in bound]
    for name in found:  # which grows on the way
        used = sorted(free_in(bound[name]) & {*bound} - {*found})
        found += [n for n in used if isinstance(bound[n], _DEFINITION) and names.mentions_torch(bound[n])]
    return list(dict.fromkeys(found))


_DEFINITION = ast.FunctionDef | ast.ClassDef


def _collating(node: ast.AST, names: Names) -> list[str]:
    """Return the functions that loaders are given."""
    calls = [
        n
        for n in ast.walk(node)
        if isinstance(n, ast.Call) and (names.of_torch(n.func) or "").startswith(PACKAGE)
    ]
    return [
        k.value.id
        for call in calls
        for k in call.keywords
        if isinstance(k.value, ast.Name) and k.arg == "collate_fn"
    ]


def rewrite(name: str, call: ast.Call) -> ast.expr:
    """Return a call of torch's loaders and datasets, whose arguments are in JAX by then."""
    if name != f"{PACKAGE}.TensorDataset":
        return call
    tensors = bind(call, "*tensors")["tensors"]
    if not isinstance(tensors, ast.Tuple):
        tensors = ast.Tuple([tensors], ast.Load())
    if any(isinstance(each, ast.Starred) for each in tensors.elts):
        raise UntranslatedError("give it its tensors one by one")
    code = "{of}(*(torch.tensor(np.asarray(array)) for array in {tensors}))"
    return fill(code, {"of": call.func, "tensors": tensors})
