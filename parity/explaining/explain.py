"""What a divergence means: where the candidate leaves the reference, and which mistake that is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from parity import refusal
from parity.explaining import diagnose, locate
from parity.explaining.misfit import Answer
from parity.explaining.rounding import diagnose_numeric
from parity.faults.mapping import diagnose_parameters
from parity.verdict import DIVERGENT, CaseResult, Comparison, Diagnosis
from parity.weighing import Judgement, side_of


def explain(result: CaseResult, candidate: Any, judgements: Sequence[Judgement]) -> CaseResult:
    """Return the result with its first divergence and its diagnosis, as far as they can be found."""
    unrefused = next((each.unrefused for each in judgements if each.unrefused is not None), None)
    if unrefused is not None:
        return dataclasses.replace(result, diagnosis=refusal.diagnose(unrefused))
    judged = [judgement for judgement in judgements if judgement.evidence is not None]
    if not judged:
        return result
    guilty = next((j for j in judged if semantically_divergent(j.comparison)), None)
    if guilty and guilty.evidence and side_of(candidate).__name__ == "parity.running.jax_side":
        found = locate.first_divergence(candidate, guilty.evidence)
        result = dataclasses.replace(result, first_divergence=found)
    return dataclasses.replace(result, diagnosis=name(judged))


def name(judgements: Sequence[Judgement], dictionary: diagnose.Dictionary | None = None) -> Diagnosis | None:
    """Return the diagnosis of a candidate that diverges.

    Its weights are looked at first: if they are not the reference's, nothing else can be said. Then the function,
    where float64 shows that it is another one, and its accuracy, where it does not.
    """
    misread = _misread_weights(judgements)
    if misread is not None:
        return misread
    guilty = [judgement for judgement in judgements if semantically_divergent(judgement.comparison)]
    if not guilty or _only_dtypes(guilty):
        return diagnose_numeric(judgements)
    answers = [
        Answer(judgement.evidence, judgement.trace64)
        for judgement in judgements
        if judgement.evidence is not None and judgement.trace64 is not None
    ]
    found = diagnose.diagnose(answers, dictionary)
    if found is None or not found.explanations:
        numeric = diagnose_numeric(judgements)
        return numeric if numeric is not None and numeric.explanations else found
    return found


def semantically_divergent(comparison: Comparison) -> bool:
    """Tell whether the two are different functions, so that float64 shows it."""
    return any(t.verdict == DIVERGENT and t.gate != "numeric" for t in comparison.tensors)


def _misread_weights(judgements: Sequence[Judgement]) -> Diagnosis | None:
    for judgement in judgements:
        wrong = any(t.kind == "param" and t.verdict == DIVERGENT for t in judgement.comparison.tensors)
        if wrong and judgement.trace is not None and judgement.evidence is not None:
            ours, theirs = (side.of_kind("param") for side in (judgement.trace, judgement.evidence.measured))
            found = diagnose_parameters(ours, theirs, became=judgement.evidence.weights)
            return Diagnosis(tuple(found), None, len(found))
    return None


def _only_dtypes(guilty: Sequence[Judgement]) -> bool:
    failures = [tensor for judgement in guilty for tensor in judgement.comparison.failures]
    return all(tensor.message.startswith("dtype") for tensor in failures if tensor.verdict == DIVERGENT)
