"""Mutants of weights: a faithful model whose own parameters were carried over with a mistake."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from parity.faults.mapping import diagnose_parameters
from parity.gates import Array
from parity.oracle.evidence import gather
from parity.probe import numpy_dtype
from parity.selftest.subject import subject
from parity.selftest.trial import Trial
from parity.subjects.table import STACK
from parity.verdict import DIVERGENT, CaseResult, Diagnosis
from parity.weighing import side_of, weigh

FAMILY = "mapping"
_SHARED = "weights share the memory of the reference's"
Weights = dict[str, Array]
Change = Callable[[Weights], Weights]


class Mistake(NamedTuple):
    """A fault's id, in words, and what it makes of the right weights."""

    fault: str
    name: str
    change: Change


def trials() -> Iterator[Trial]:
    """Yield a trial of every mistake of the table."""
    for mistake in MISTAKES:
        judge = functools.partial(judge_weights, mistake.change, mistake.name)
        yield Trial(mistake.fault, mistake.name, FAMILY, STACK.id, "structure", judge)
    yield Trial("T05", _SHARED, FAMILY, STACK.id, "structure", judge_shared)


def judge_weights(change: Change, name: str = "") -> CaseResult:
    """Judge a faithful model whose own weights were changed."""
    chosen = subject(STACK.id)
    (evidence,) = chosen.evidence
    candidate = STACK.candidate()
    return chosen.judge(side_of(candidate).with_weights(candidate, change(dict(evidence.weights))), name)


def _shared(tensor: torch.Tensor) -> Any:
    return importlib.import_module("jax").dlpack.from_dlpack(tensor)


def judge_shared(hold: Callable[[torch.Tensor], Any] = _shared) -> CaseResult:
    """Judge a model after a step of the reference; `hold` makes its arrays of the reference's weights."""
    (probe,) = STACK.probes("designed", 0)
    evidence = gather(STACK.reference(), probe)
    before = evidence.weights
    candidate: Any = side_of(STACK.candidate()).with_weights(STACK.candidate(), before)
    for name, tensor in evidence.model.named_parameters():
        if name.startswith("lstm."):  # the readout's kernel is transposed, and so a copy in any case
            getattr(candidate.lstm, name.removeprefix("lstm.")).set_value(hold(tensor.detach()))
    with torch.no_grad():
        for name, tensor in evidence.model.named_parameters():
            tensor.sub_(0.1 * torch.from_numpy(evidence.gradients[name]))
    judgement = weigh(candidate, evidence)
    result = CaseResult(STACK.id, _SHARED, (judgement.comparison,))
    if result.verdict != DIVERGENT or judgement.trace is None:
        return result
    found = diagnose_parameters(judgement.trace.of_kind("param"), before, evidence.weights)
    return dataclasses.replace(result, diagnosis=Diagnosis(tuple(found), None, len(found)))


# The mistakes --------------------------------------------------------------------------------------------------


def _one(name: str, change: Callable[[Array], Array]) -> Change:
    return lambda weights: {**weights, name: np.ascontiguousarray(change(weights[name]))}


def _where(chosen: str, change: Callable[[Array], Array]) -> Change:
    return lambda weights: {name: change(a) if chosen in name else a for name, a in weights.items()}


def _from(sources: dict[str, str]) -> Change:
    return lambda weights: {name: weights[sources.get(name, name)] for name in weights}


def _rows(order: str) -> Callable[[Array], Array]:
    def reordered(array: Array) -> Array:
        blocks = dict(zip("ifgo", np.split(array, 4), strict=True))
        return np.concatenate([blocks[gate] for gate in order])

    return reordered


def _turned_blocks(array: Array) -> Array:
    return np.concatenate([block.T for block in np.split(array, 4)])


def _forget(array: Array) -> Array:
    i, f, g, o = np.split(array, 4)
    return np.concatenate([i, f + np.float32(1.0), g, o])


def _fold(weights: Weights) -> Weights:
    folded = dict(weights)
    for name in [name for name in weights if "bias_ih" in name]:
        other = name.replace("bias_ih", "bias_hh")
        folded[name], folded[other] = weights[name] + weights[other], np.zeros_like(weights[other])
    return folded


def _through(dtype: str) -> Callable[[Array], Array]:
    def rounded(array: Array) -> Array:
        return array.astype(numpy_dtype(dtype)).astype(np.float32)

    return rounded


def _initial(array: Array) -> Array:
    values = np.random.default_rng(7).uniform(-0.4, 0.4, array.shape)
    return np.asarray(values, np.float32)


def _doubled(array: Array) -> Array:
    return array + array


def _one_element(array: Array) -> Array:
    changed = array.copy()
    changed[1, 2] += np.float32(1e-3)
    return changed


def _reversed(weights: Weights) -> Weights:
    """Assign the weights of each shape from the last to the first."""
    changed = dict(weights)
    for shape in {array.shape for array in weights.values()}:
        alike = [name for name, array in weights.items() if array.shape == shape]
        changed |= {name: weights[other] for name, other in zip(alike, reversed(alike), strict=True)}
    return changed


_LAYERS = [f"lstm.{part}_l" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]

MISTAKES: tuple[Mistake, ...] = (
    Mistake("T01", "square weight transposed", _one("readout.weight", np.transpose)),
    Mistake("T01", "blocks of W_hh transposed", _one("lstm.weight_hh_l1", _turned_blocks)),
    Mistake("T02", "parameters assigned in the reverse order", _reversed),
    Mistake(
        "T02",
        "layers assigned in the reverse order",
        _from({f"{part}{n}": f"{part}{2 - n}" for part in _LAYERS for n in range(3)}),
    ),
    Mistake(
        "T02-swapped",
        "W_ih and W_hh of a layer exchanged",
        _from({"lstm.weight_ih_l1": "lstm.weight_hh_l1", "lstm.weight_hh_l1": "lstm.weight_ih_l1"}),
    ),
    Mistake(
        "T03",
        "the first layer's weights copied to all",
        _from({f"{part}{n}": f"{part}0" for part in _LAYERS for n in range(3)}),
    ),
    Mistake("T04", "all weights through bfloat16", _where("", _through("bfloat16"))),
    Mistake("T04", "one weight through float16", _one("readout.weight", _through("float16"))),
    Mistake("T06", "a weight left at its initial value", _one("lstm.weight_hh_l2", _initial)),
    Mistake("T07", "a bias left at zero", _one("readout.bias", np.zeros_like)),
    Mistake("T08", "a weight twice as large", _one("readout.weight", _doubled)),
    Mistake("T09", "the opposite sign", _one("readout.weight", np.negative)),
    Mistake("T10", "a constant added to a bias", _one("readout.bias", lambda array: array + np.float32(0.5))),
    Mistake("T11", "columns reversed", _one("readout.weight", lambda array: array[:, ::-1])),
    Mistake("T00", "one element wrong", _one("readout.weight", _one_element)),
    Mistake("L01", "rows of the gates as i, o, f, g", _where("lstm", _rows("iofg"))),
    Mistake("L02", "rows of the gates as i, g, f, o", _where("lstm", _rows("igfo"))),
    Mistake("L03", "rows of the gates as f, i, g, o", _where("lstm", _rows("figo"))),
    Mistake("L01-ogfi", "rows of the gates backwards", _where("lstm", _rows("ogfi"))),
    Mistake("L06", "1 added to the forget gate's bias", _where("bias_hh", _forget)),
    Mistake("L26", "both biases folded into one", _fold),
)
