"""Rules about programs that stand beside each other: a PyTorch reference and what was ported from it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jaxrnn.doctor.loops import has_attribute, text
from jaxrnn.doctor.program import Program
from jaxrnn.doctor.rules.rule import Hit, Rule
from jaxrnn.doctor.values import Made, Name, is_recurrent


class Option(NamedTuple):
    """What one number is called on both sides, and what it is where nobody gives it."""

    theirs: str
    their_default: float | None
    optax: str
    optax_default: float | bool | None


class Pair(NamedTuple):
    """An optimizer of torch and the one that optax calls by its name."""

    theirs: str
    optax: str
    options: tuple[Option, ...]
    always: str = ""  # what differs whatever the options


_EPS = Option("eps", 1e-8, "eps", 1e-8)
PAIRS = (
    Pair("AdamW", "adamw", (Option("weight_decay", 1e-2, "weight_decay", 1e-4), _EPS)),
    Pair(
        "RMSprop",
        "rmsprop",
        (Option("alpha", 0.99, "decay", 0.9), _EPS, Option("", False, "eps_in_sqrt", True)),
    ),
    Pair(
        "Adagrad",
        "adagrad",
        (
            Option("initial_accumulator_value", 0.0, "initial_accumulator_value", 0.1),
            Option("eps", 1e-10, "eps", 1e-7),
        ),
        "optax adds eps under the root",
    ),
    Pair("Adadelta", "adadelta", (Option("lr", 1.0, "learning_rate", None), Option("rho", 0.9, "rho", 0.9))),
    Pair("NAdam", "nadam", (), "torch's momentum follows a schedule of its own (momentum_decay)"),
)


def _optimizers(program: Program) -> Iterator[Hit]:
    for pair in PAIRS:
        theirs = [each for each in program.made if each.name == f"torch.optim.{pair.theirs}"]
        for ours in program.made:
            if ours.name != f"optax.{pair.optax}" or not theirs:
                continue
            differences = min((list(_differences(pair, each, ours)) for each in theirs), key=len)
            if differences:
                yield (
                    ours.node,
                    f"optax.{pair.optax} beside torch.optim.{pair.theirs}: {'; '.join(differences)}.",
                )


def _differences(pair: Pair, theirs: Made, ours: Made) -> Iterator[str]:
    for option in pair.options:
        left = theirs.known(option.theirs, option.their_default) if option.theirs else option.their_default
        right = ours.known(option.optax, option.optax_default)
        left_out = option.optax not in ours.options and None not in ours.options
        if left is None or (right is None and not left_out) or left == right:
            continue
        name = option.theirs or "eps under the root"
        yield (
            f"{name}={left:g} in torch, {option.optax}={right} in optax"
            if option.theirs
            else f"{name} in optax, outside it in torch"
        )
    if pair.always:
        yield pair.always


# TF32 ------------------------------------------------------------------------------------------------------------

_COMPARISONS = frozenset(
    (
        "numpy.allclose",
        "numpy.testing.assert_allclose",
        "numpy.testing.assert_array_almost_equal",
        "jax.numpy.allclose",
        "torch.allclose",
        "torch.testing.assert_close",
    )
)


def _tf32(program: Program) -> Iterator[Hit]:
    for source in program.sources:
        nodes = list(ast.walk(source.tree))
        comparisons = [node for node in nodes if _compares(program, node)]
        if not comparisons or not _with_jax(nodes):
            continue
        switched_on = list(_switched_on(nodes))
        yield from ((node, f"{text(node)} in a program that compares with JAX.") for node in switched_on)
        layers = [each.node for each in program.made if is_recurrent(each) and each.name.startswith("torch.")]
        if (
            not switched_on
            and set(layers) & set(nodes)
            and _on_a_gpu(nodes)
            and not _mentions_precision(nodes)
        ):
            what = "on a GPU torch's recurrent layers multiply in TF32 unless told not to; here they are compared."
            yield comparisons[0], what


def _compares(program: Program, node: ast.AST) -> bool:
    targets = program.targets.get(node, ())
    return any(isinstance(each, Name) and each.dotted in _COMPARISONS for each in targets)


def _with_jax(nodes: Sequence[ast.AST]) -> bool:
    """Tell whether both frameworks are imported."""
    imported = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    imported += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    packages = {name.partition(".")[0] for name in imported}
    return "torch" in packages and bool(packages & {"jax", "jaxrnn", "flax"})


def _switched_on(nodes: Sequence[ast.AST]) -> Iterator[ast.AST]:
    for node in nodes:
        match node:
            case ast.Assign(targets=[ast.Attribute(attr="allow_tf32")], value=ast.Constant(value=True)):
                yield node
            case ast.Assign(targets=[ast.Attribute(attr="fp32_precision")], value=ast.Constant(value="tf32")):
                yield node
            case ast.Call(func=function, args=[ast.Constant(value="high" | "medium")]):
                if text(function).endswith("set_float32_matmul_precision"):
                    yield node


def _on_a_gpu(nodes: Sequence[ast.AST]) -> bool:
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    moved = any(isinstance(node, ast.Call) and has_attribute(node.func, "cuda") for node in nodes)
    return moved or any(each.startswith("cuda") for each in texts)


def _mentions_precision(nodes: Sequence[ast.AST]) -> bool:
    """Tell whether a program says how to multiply, or multiplies in float64."""
    names = ("allow_tf32", "fp32_precision", "double", "float64")
    keywords = {node.arg for node in nodes if isinstance(node, ast.keyword)}
    return "allow_tf32" in keywords or any(has_attribute(node, *names) for node in nodes)


_PORT = """import optax
import torch

reference = torch.nn.LSTM(8, 16)
theirs = torch.optim.AdamW(reference.parameters(), lr=1e-3)
ours = {ours}
"""
_COMPARED = """import jax
import numpy as np
import torch

{setting}
reference = torch.nn.LSTM(8, 16).cuda()


def check(candidate, x):
    expected, _ = reference(torch.from_numpy(x).cuda())
    np.testing.assert_allclose(candidate(x), expected.detach().cpu(), rtol=1e-5)
"""

RULES = (
    Rule(
        "optimizer-defaults",
        "An optimizer of optax stands for one of torch, with other numbers.",
        "The names are the same, the defaults are not. After 100 steps on a least squares problem `adamw` is "
        "{} of the way away from where torch's went, `rmsprop` {}, `adagrad` {} and `nadam` {}; `adadelta` "
        "without a learning rate climbs, to {} times the first loss.",
        "The same numbers on both sides, where optax can have them: `optax.adamw(lr, weight_decay=1e-2)`, "
        "`optax.rmsprop(lr, decay=0.99, eps_in_sqrt=False)`, `optax.adadelta(1.0)`.",
        _PORT.format(ours="optax.adamw(1e-3)"),
        _PORT.format(ours="optax.adamw(1e-3, weight_decay=1e-2)"),
        _optimizers,
        "`jaxrnn.optim.adamw`, `rmsprop`, `adagrad`, `adadelta` and `nadam` have torch's defaults and torch's "
        "formulas.",
        ("0.38 %", "13 %", "84 %", "5.5 %", "2.2"),
    ),
    Rule(
        "tf32-in-reference",
        "A reference that is compared with multiplies in TF32.",
        "TF32 keeps 10 of the 23 bits of each factor. On a GPU torch's recurrent layers take it unless told not "
        "to (`torch.backends.cudnn.allow_tf32` is {}), matrix products where they are told to. With factors "
        "rounded like that an LSTM's output is {} of its size away from float64, instead of {}: the comparison "
        "measures the reference's rounding.",
        "`torch.backends.cudnn.allow_tf32 = False` and `torch.backends.cuda.matmul.allow_tf32 = False`, or "
        "compare in float64.",
        _COMPARED.format(setting="torch.backends.cuda.matmul.allow_tf32 = True"),
        _COMPARED.format(setting="torch.backends.cudnn.allow_tf32 = False"),
        _tf32,
        "`parity.compare`, which sets torch's precision itself; JAX's is "
        "`jax.default_matmul_precision('highest')`.",
        ("True", "0.00021", "9.2e-08"),
    ),
)
