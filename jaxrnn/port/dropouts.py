"""Dropout as a function: in JAX it is a layer, which keeps its random numbers, and which the constructor makes."""

import ast
import contextlib

from jaxrnn.port.names import Names, used_in
from jaxrnn.port.rules import UntranslatedError, bind

DROPOUT = "torch.nn.functional.dropout"


def rate_of(call: ast.Call, names: Names) -> ast.expr:
    """Return the rate of a call that drops in training; raise `UntranslatedError` where no layer says the same."""
    given = bind(call, "input p=0.5 training=True")
    if names.full(given["training"]) != "self.training":
        raise UntranslatedError(
            "it drops in evaluation too; if that is not meant, give it training=self.training, or use nn.Dropout"
        )
    if used_in(given["p"]) - {"self"}:
        raise UntranslatedError("its layer is made in __init__: give a number or an attribute as its rate")
    return given["p"]


def rates_of(node: ast.ClassDef, names: Names) -> list[str]:
    """Return the code of the rates of a class's calls, each once; what is refused is named in its place."""
    found = dict[str, None]()
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and names.full(call.func) == DROPOUT:
            with contextlib.suppress(UntranslatedError):
                found[ast.unparse(rate_of(call, names))] = None
    return list(found)
