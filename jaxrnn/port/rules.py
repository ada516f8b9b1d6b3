"""Rules of rewriting a call: the arguments that torch takes, and the code that says the same in JAX.

A rule is a line of text, ``"input dim=0 keepdim? -> jnp.sum({input}, axis={dim}[, keepdims={keepdim}])"``: in front
the arguments in torch's order, required, with a default, or optional (?); behind it the code, where what stands in
square brackets is left out if the optional argument in it is. ``*sizes`` takes all positional arguments as a
tuple, and ``.keepdim`` has to be named. Of a method, the first argument is what it is called of.
"""

import ast
import re
from typing import Protocol

# Arguments that say where or for whom a tensor lives, or that overwrite what it is made of. JAX has neither.
MEANINGLESS = {
    "device", "inplace", "memory_format", "non_blocking", "pin_memory", "requires_grad", "layout", "copy",
    "enable_nested_tensor", "mask_check", "foreach", "fused", "capturable",
}  # fmt: skip


class UntranslatedError(Exception):
    """Code that has no translation; the text says why, and what to do."""


class Rule(Protocol):
    """Rewrites a call of a function, or of a receiver's method."""

    def __call__(self, call: ast.Call, receiver: ast.expr | None = None) -> ast.expr:
        """Return the code in JAX, or raise `UntranslatedError`."""


def rule(text: str) -> Rule:
    """Return the function that rewrites a call, or a method's call of a receiver, by a rule."""
    signature, _, template = (part.strip() for part in text.partition("->"))
    return lambda call, receiver=None: fill(template, bind(call, signature, receiver))


def bind(call: ast.Call, signature: str, receiver: ast.expr | None = None) -> dict[str, ast.expr]:
    """Return a call's arguments by the names of a signature; raise `UntranslatedError` for what does not fit."""
    positional = [*([] if receiver is None else [receiver]), *call.args]
    named = {k.arg: k.value for k in call.keywords if k.arg not in MEANINGLESS}
    given: dict[str, ast.expr] = {}
    for word in signature.split():
        name, _, default = word.strip(".?").partition("=")
        if name.startswith("*"):
            given[name[1:]] = _sizes(positional, named.pop(name[1:], None))
            positional = []
        elif positional and not word.startswith(".") and not isinstance(positional[0], ast.Starred):
            given[name] = positional.pop(0)
        elif name in named:
            given[name] = named.pop(name)
        elif default:
            given[name] = ast.parse(default, mode="eval").body
        elif not word.endswith("?"):
            raise UntranslatedError(f"its argument {name!r} is missing, or cannot be told from the code")
    if positional or named:
        if None in named or any(isinstance(argument, ast.Starred) for argument in positional):
            raise UntranslatedError("arguments by * or ** cannot be told from the code")
        unknown = ", ".join(str(name) for name in named) or ast.unparse(positional[0])
        raise UntranslatedError(f"its argument {unknown!r} has no counterpart here")
    return given


def fill(template: str, given: dict[str, ast.expr]) -> ast.expr:
    """Return the code of a template with arguments in their places."""
    used = re.sub(r"\[(, [^\[\]]*\{(\w+)\}[^\[\]]*)\]", lambda m: m[1] if m[2] in given else "", template)
    code = ast.parse(re.sub(r"\{(\w+)\}", r"_given_\1", used), mode="eval").body
    return _Filling(given).visit(code)


class _Filling(ast.NodeTransformer):
    def __init__(self, given: dict[str, ast.expr]):
        self.given = given

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.given[node.id.removeprefix("_given_")] if node.id.startswith("_given_") else node


def _sizes(positional: list[ast.expr], named: ast.expr | None) -> ast.expr:
    """Return sizes, which torch takes one by one or as one tuple, as one expression."""
    if named is not None:
        return named
    if len(positional) == 1 and not isinstance(positional[0], ast.Starred):
        return positional[0]  # one number, or a tuple; what takes a shape takes both
    return ast.Tuple(positional, ast.Load())


def whole(node: ast.expr) -> int | None:
    """Return the number that a literal is, -1 too, or None."""
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
