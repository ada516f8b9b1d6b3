"""Names what is wrong with a loss: a known mistake, a constant factor, or another amount of label smoothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from parity.explaining import diagnose
from parity.explaining.misfit import Answer, misfit
from parity.gates import Array, float64
from parity.running import torch_side
from parity.running.functions_torch import Loss
from parity.trace import AMPLIFYING
from parity.verdict import EXPLAINS, Diagnosis, Explanation
from parity.weighing import Judgement

RATIO, SMOOTHING = "ratio", "smoothing"  # ids of explanations that no fault of the catalogue gives


def diagnose_losses(judgements: Sequence[Judgement]) -> Diagnosis | None:
    """Return what explains a candidate's values and gradients."""
    answers = [
        Answer(judgement.evidence, judgement.trace64)
        for judgement in judgements
        if judgement.evidence is not None and judgement.trace64 is not None
    ]
    if not answers:
        return None
    dictionary = diagnose.Dictionary()
    scores = [
        (diagnose.worst_misfit(hypothesis, answers, dictionary), hypothesis)
        for hypothesis in diagnose.hypotheses(answers[0].evidence)
    ]
    explained = [Explanation(h.id, h.name, h.fix, distance) for distance, h in scores]
    solved = [*_ratios(answers), *_smoothings(answers)]
    ranked = sorted(explained, key=lambda each: each.misfit)
    explaining = [each for each in ranked if each.misfit <= EXPLAINS]
    explaining = explaining or [each for each in solved if each.misfit <= EXPLAINS]
    if not explaining:
        return diagnose.diagnose(answers, dictionary)  # which also knows simple relations between arrays
    others = [each for each in ranked if each not in explaining]
    return Diagnosis(tuple(explaining), others[0] if others else None, len(explained) + len(solved))


# A constant factor ---------------------------------------------------------------------------------------


def _ratios(answers: Sequence[Answer]) -> Iterator[Explanation]:
    """Yield the factor by which values and gradients of every probe are wrong, if there is one."""
    factors = [factor for factor in map(_factor, answers) if factor is not None]
    if len(factors) < len(answers):
        return
    supposed = [_scaled(answer, factor) for answer, factor in zip(answers, factors, strict=True)]
    distance = max(misfit(answer, each) for answer, each in zip(answers, supposed, strict=True))
    names = set.intersection(
        *(
            {name for name, value in _meanings(answer) if np.isclose(factor, value, rtol=1e-9)}
            for answer, factor in zip(answers, factors, strict=True)
        )
    )
    found = [float(f"{factor:.6g}") for factor in factors]
    what = " or ".join(sorted(names, key=len)) or " / ".join(f"{factor:g}" for factor in dict.fromkeys(found))
    yield Explanation(RATIO, f"the reference times {what}", "divide by it: see the reduction", distance)


def _factor(answer: Answer) -> float | None:
    """Return the candidate's loss over the reference's, in the sense of least squares."""
    pairs = [
        (float64(answer.candidate[name]).ravel(), _oracle(answer)[name].ravel()) for name in _names(answer)
    ]
    found, oracle = (np.concatenate(each) for each in zip(*pairs, strict=True))
    places = np.isfinite(found) & np.isfinite(oracle)
    size = float(oracle[places] @ oracle[places])
    return float(found[places] @ oracle[places]) / size if size else None


def _meanings(answer: Answer) -> Iterator[tuple[str, float]]:
    """Yield what a factor could stand for: a mean over something else, a forgotten constant."""
    arrays = [np.asarray(value) for value in answer.evidence.probe.args if isinstance(value, np.ndarray)]
    counts: dict[str, float] = {"2": 2.0}
    if arrays:
        counts |= {"the number of elements": arrays[0].size, "the batch": (arrays[0].shape or (1,))[0]}
    if arrays and arrays[0].ndim > 1:
        counts["the number of classes"] = arrays[0].shape[1]
        counts["the size of the last axis"] = arrays[0].shape[-1]
    options = _options(answer)
    if len(arrays) > 1 and arrays[1].dtype.kind == "i":
        valid = int(np.sum(arrays[1] != options.get("ignore_index", -100)))
        counts["the number of labels that count"] = valid
        counts["the share of labels that count"] = valid / arrays[1].size
    counts |= {name: float(options[name]) for name in ("beta", "delta") if name in options}
    for name, value in counts.items():
        if value:
            yield name, value
            yield f"1 / {name}", 1 / value


def _options(answer: Answer) -> Mapping[str, Any]:
    model = answer.evidence.model
    return model.options if isinstance(model, Loss) else vars(model)


def _names(answer: Answer) -> list[str]:
    return list(_oracle(answer))


def _oracle(answer: Answer) -> Mapping[str, Array]:
    return answer.evidence.oracle.of_kind(*AMPLIFYING)


def _scaled(answer: Answer, factor: Any) -> dict[str, Array]:
    return {name: factor * value for name, value in _oracle(answer).items()}


# Label smoothing ------------------------------------------------------------------------------------------


def _smoothings(answers: Sequence[Answer]) -> Iterator[Explanation]:
    """Yield the amount of label smoothing that explains a cross entropy, which is linear in it."""
    ends = [_ends(answer) for answer in answers]
    if any(end is None for end in ends):
        return
    found: list[Array] = []
    none: list[Array] = []
    all_: list[Array] = []
    for answer, end in zip(answers, ends, strict=True):
        assert end is not None
        for name in _names(answer):
            found.append(float64(answer.candidate[name]).ravel())
            none.append(end[0][name].ravel())
            all_.append(end[1][name].ravel())
    candidate, start, whole = (np.concatenate(parts) for parts in (found, none, all_))
    slope = whole - start
    amount = float(slope @ (candidate - start) / (slope @ slope))
    distance = 0.0
    for answer, end in zip(answers, ends, strict=True):
        assert end is not None
        supposed = {name: (1 - amount) * end[0][name] + amount * end[1][name] for name in _names(answer)}
        distance = max(distance, misfit(answer, supposed))
    given = _options(answers[0]).get("label_smoothing", 0.0)
    name = f"label smoothing of {amount:.6g} instead of {given:g}"
    yield Explanation(SMOOTHING, name, f"label_smoothing={given:g}", distance)


def _ends(answer: Answer) -> tuple[Mapping[str, Array], Mapping[str, Array]] | None:
    """Return what the reference answers without smoothing and with nothing else; None if it has none."""
    model = answer.evidence.model
    if not isinstance(model, Loss) or model.name.rpartition(".")[2] not in (
        "CrossEntropyLoss",
        "cross_entropy",
    ):
        return None
    traces = []
    for amount in (0.0, 1.0):
        changed = model.__deepcopy__({})
        changed.options = {**model.options, "label_smoothing": amount}
        traces.append(torch_side.run(changed, answer.evidence.probe, "float64").of_kind(*AMPLIFYING))
    return traces[0], traces[1]
