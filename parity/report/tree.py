"""The two models side by side: what each part is called in torch and in Flax, and how far apart the two are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from parity.report import facts
from parity.report.facts import excess, number
from parity.verdict import EQUIVALENT, CaseResult, Node, TensorResult

_LAYER = re.compile(r"_l(\d+)(_reverse)?$")  # torch's way to name the weights of a layer and direction
_WRAPPED = re.compile(r"^(grad|step)\((.*)\)$")


class Chip(NamedTuple):
    """The verdict on one array, in a word or a number: rho_rms where it was measured."""

    text: str
    level: str  # "ok", or "off1" to "off3" by orders of magnitude outside the limit, or "open"
    title: str


class Row(NamedTuple):
    """A module or an array; `chips` are for its value, its gradient, and after one step."""

    depth: int
    torch: str
    flax: str
    shape: str
    chips: tuple[Chip | None, Chip | None, Chip | None]
    is_module: bool
    here: bool = False


_NONE = (None, None, None)


def rows(case: CaseResult) -> list[Row]:
    """Return inputs, parameters by module, and outputs; what the probes say of each, the gravest."""
    found = _gravest(case.tensors)
    parameters = [tensor for tensor in found.values() if tensor.kind == "param"]
    own = {tensor.name for tensor in parameters}
    inputs = [name for name in found if _of(name)[0] == "grad" and _of(name)[1] not in own]
    outputs = [tensor for tensor in found.values() if tensor.kind in ("output", "state")]
    listed = []
    if inputs:
        listed.append(Row(0, "inputs", "", "", _NONE, True))
        listed += [_input(found[name]) for name in inputs]
    if parameters:
        listed += _marked([("", Row(0, "model", "", "", _NONE, True)), *_modules(parameters, found)], case)
    if outputs:
        listed.append(Row(0, "outputs", "", "", _NONE, True))
        listed += [
            _leaf(1, tensor.name, tensor.candidate_name, tensor, (tensor, None, None)) for tensor in outputs
        ]
    return listed


def _gravest(tensors: Iterable[TensorResult]) -> dict[str, TensorResult]:
    """Return the gravest result of each name over all probes, in the order of the first."""
    found: dict[str, TensorResult] = {}
    for tensor in tensors:
        name = tensor.name if not tensor.unexpected else tensor.candidate_name
        known = found.get(name)
        found[name] = tensor if known is None else max(known, tensor, key=_gravity)
    return found


def _gravity(tensor: TensorResult) -> tuple[int, float]:
    """Return what a tensor is ranked by among the probes: the verdict, then how far it is from the reference."""
    return -facts.urgency(tensor.verdict), -1.0 if tensor.rho_rms is None else tensor.rho_rms


def _modules(
    parameters: Sequence[TensorResult], found: dict[str, TensorResult]
) -> Iterator[tuple[str | None, Row]]:
    """Yield a row for each module, layer and direction on the way, with its place, then for its parameters."""
    open_path: tuple[str, ...] = ()
    for tensor in parameters:
        name = tensor.name if not tensor.unexpected else tensor.candidate_name
        *modules, leaf = name.split(".")
        theirs = tensor.candidate_name.split(".")[:-1]
        layer = _LAYER.search(leaf)
        path = (*modules, *([_in_words(layer)] if layer else []))
        for depth in range(_common(open_path, path), len(path)):
            place = (
                ".".join(modules[: depth + 1])
                if depth < len(modules)
                else f"{'.'.join(modules)}@{path[depth]}"
            )
            flax = theirs[depth] if depth < len(modules) == len(theirs) else ""
            yield place, Row(depth + 1, path[depth], flax, "", _NONE, True)
        open_path = path
        chips = (tensor, found.get(f"grad({name})"), found.get(f"step({name})"))
        own = tensor.candidate_name.rpartition(".")[2]
        yield None, _leaf(len(path) + 1, leaf if not tensor.unexpected else "-", own, tensor, chips)


def _leaf(
    depth: int,
    torch: str,
    flax: str,
    tensor: TensorResult,
    results: tuple[TensorResult | None, TensorResult | None, TensorResult | None],
) -> Row:
    value, gradient, step = (None if result is None else chip(result) for result in results)
    return Row(depth, torch, flax, facts.shape(tensor), (value, gradient, step), False)


def _input(tensor: TensorResult) -> Row:
    return _leaf(1, _of(tensor.name)[1], _of(tensor.candidate_name)[1], tensor, (None, tensor, None))


def chip(tensor: TensorResult) -> Chip:
    """Return a tensor's verdict as the page shows it: coloured by rho, or by the semantic error if worse."""
    title = f"{facts.names(tensor)}: {tensor.verdict} {facts.reason(tensor)}".strip()
    if tensor.verdict == EQUIVALENT:
        text = number(tensor.rho_rms) if tensor.rho_rms is not None else "="
        return Chip(text, "ok", title)
    if tensor.verdict != "DIVERGENT":
        return Chip("?", "open", title)
    factor = excess(tensor)
    level = "off1" if factor < 1e2 else "off2" if factor < 1e4 else "off3"
    return Chip(number(tensor.rho_rms) if tensor.rho_rms is not None else "≠", level, title)


def _of(name: str) -> tuple[str, str]:
    """Split `grad(h_0)` into ("grad", "h_0"); a plain name belongs to ""."""
    match = _WRAPPED.match(name)
    return (match[1], match[2]) if match else ("", name)


def _marked(found: Sequence[tuple[str | None, Row]], case: CaseResult) -> Iterator[Row]:
    """Yield the rows; that of the first divergence is marked: its layer, or its part where it has no layers."""
    divergence = case.first_divergence
    names: list[str] = []
    if divergence is not None and divergence.places:
        node: Node = divergence.places[0]
        names = [f"{node.part}@layer {node.layer} {('forward', 'reverse')[node.direction]}", node.part]
    places = [place for place, _ in found]
    here = next((places.index(name) for name in names if name in places), None)
    yield from (row._replace(here=number == here) for number, (_, row) in enumerate(found))


def _in_words(layer: re.Match[str]) -> str:
    return f"layer {layer[1]} {'reverse' if layer[2] else 'forward'}"


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Return how many leading parts two paths share."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
