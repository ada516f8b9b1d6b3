"""The judge: runs two models on the same probes and compares every array they produce.

Importing this module imports neither framework; running a model imports its own.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from parity.cases import Case
from parity.compare import compare_arrays, tiers_of
from parity.contracts import contract_of
from parity.environment import environment
from parity.gates import Array
from parity.probe import Probe, as_probe
from parity.seeds import over_seeds
from parity.trace import named_leaves
from parity.verdict import EQUIVALENT, CaseResult, Comparison, Report, TensorResult
from parity.weighing import explained, put_in_words, require_models, side_of, try_probe


class ParityError(AssertionError):
    """Two models are not equivalent, or could not be shown to be; `report` has the evidence."""

    def __init__(self, report: Report):
        super().__init__(f"{report.verdict}\n{report}")
        self.report = report


def compare(
    candidate: Any,
    reference: Any,
    inputs: Any = None,
    *,
    oracle: Any = None,
    candidate64: Any = None,
    dtype: str = "float32",
    seed: int = 0,
) -> Report:
    """Judge a candidate by a reference: outputs, states, gradients, and one optimizer step.

    Two models: `candidate` is an `nnx.Module` (or a torch module), `reference` a `torch.nn.Module`, `inputs` a
    `Probe`, or a tuple (positional) or dict (keyword) of NumPy arrays, nested tuples allowed. The models keep
    their own weights, which must be equal (see `port`), unless the probe draws new ones; neither is changed.

    Two sets of arrays: dicts or tuples of NumPy arrays. A verdict needs both in float64 (semantic tier), or
    `oracle=`, the reference's arrays in float64 (numeric tier), and best `candidate64=` as well (both tiers).
    What was not possible is named in the notes, and the verdict is INCONCLUSIVE if that was all.

    dtype: the precision under test, where the inputs are not a `Probe` that says so itself.
    seed: of the cotangents, likewise.
    """
    started = time.perf_counter()
    name = f"{type(candidate).__name__} against {type(reference).__name__}"
    if _is_tree(candidate) and _is_tree(reference):
        if inputs is not None:
            raise TypeError("arrays are compared as they are: leave out inputs.")
        comparison = _compare_trees(candidate, reference, oracle, candidate64)
        result = CaseResult("compare", name, (comparison,))
    else:
        if oracle is not None or candidate64 is not None:
            raise TypeError(
                "oracle= and candidate64= belong to arrays; models are run in float64 by the judge."
            )
        require_models(candidate, reference)
        result = judge_models("compare", name, candidate, reference, [as_probe(inputs, dtype, seed)])
    return Report((result,), environment(), time.perf_counter() - started)


def assert_equivalent(candidate: Any, reference: Any, inputs: Any = None, **options: Any) -> Report:
    """Return the report of `compare` if its verdict is EQUIVALENT, else raises ParityError with its table."""
    report = compare(candidate, reference, inputs, **options)
    if report.verdict != EQUIVALENT:
        raise ParityError(report)
    return report


def port(reference: Any, candidate: Any) -> Any:
    """Copy the weights of a torch module into a Flax module, by torch's names, and returns the latter.

    Strict: a name or shape that fits only one side is an error. The candidate is changed in place.
    """
    from jaxrnn.checkpoint import load_parameters

    load_parameters(candidate, side_of(reference).parameters(reference))
    return candidate


def judge_case(
    case: Case,
    probe_set: str = "designed",
    seed: int = 0,
    *,
    candidate: Callable[[], Any] | None = None,
    progress: Callable[[], None] = lambda: None,
    contract: str = "ieee_f32",
    seeds: int = 1,
) -> CaseResult:
    """Build both models of a case and puts its probes to them; `progress` is called after each probe.

    `candidate`, where given, is built in place of the case's own. `contract`: see `parity.contracts`. With
    `seeds`, every probe is drawn from so many seeds, `seed` being the first; from 8 on, `parity.seeds` judges
    them together. A missing package or a contract that this machine cannot keep leaves the case NOT RUN, and any
    other exception makes its verdict ERROR.
    """
    missing = case.missing() or contract_of(contract).broken()
    if missing is not None:
        return CaseResult(case.id, case.summary, not_run=missing)
    try:
        models = (candidate or case.candidate)(), case.reference()
        require_models(*models)
        probes = [
            contract_of(contract).apply(probe)
            for number in range(seeds)
            for probe in _numbered(case.probes(probe_set, seed + number), number if seeds > 1 else None)
        ]
    except Exception as error:
        return CaseResult(case.id, case.summary, error=put_in_words(error))
    return judge_models(case.id, case.summary, *models, probes, progress)


def _numbered(probes: Sequence[Probe], number: int | None) -> list[Probe]:
    """Return the probes with the number of their seed in their names."""
    if number is None:
        return list(probes)
    return [dataclasses.replace(probe, name=f"{probe.name} #{number}") for probe in probes]


def judge_models(
    id: str,
    summary: str,
    candidate: Any,
    reference: Any,
    probes: Iterable[Probe],
    progress: Callable[[], None] = lambda: None,
) -> CaseResult:
    """Put probes to two models; where they diverge, say where and why."""
    judgements = []
    for probe in probes:
        judgements.append(try_probe(candidate, reference, probe))
        progress()
    comparisons = [judgement.comparison for judgement in judgements]
    result = CaseResult(id, summary, (*comparisons, *over_seeds(comparisons)))

    def explain_models(result: CaseResult) -> CaseResult:
        from parity.explaining.explain import explain

        return explain(result, candidate, judgements)

    return explained(result, explain_models)


def _compare_trees(candidate: Any, reference: Any, oracle: Any, candidate64: Any) -> Comparison:
    given = {"candidate": candidate, "reference": reference, "oracle": oracle, "candidate64": candidate64}
    arrays = {who: None if tree is None else _arrays(tree, who) for who, tree in given.items()}
    try:
        results = compare_arrays(**arrays)  # type: ignore[arg-type]
    except ValueError as error:
        return Comparison("arrays", error=put_in_words(error))
    expected = len(arrays["reference"] or ())
    return Comparison("arrays", results, expected, tiers=tiers_of(results), notes=_missing_tier(results))


def _missing_tier(results: Iterable[TensorResult]) -> tuple[str, ...]:
    results = tuple(results)
    remedies = {
        "semantic": "not possible: give both sides in float64, as the arrays or as oracle= and candidate64=",
        "numeric": "not possible: give both sides in the precision under test, and oracle= in float64",
    }
    present = tiers_of(results)
    return tuple(f"{tier} tier {remedy}" for tier, remedy in remedies.items() if tier not in present)


def _is_tree(value: Any) -> bool:
    return isinstance(value, Mapping | tuple | list)


def _arrays(tree: Any, who: str) -> dict[str, Array]:
    leaves = named_leaves(tree, "")
    for name, leaf in leaves.items():
        if not isinstance(leaf, np.ndarray | np.generic):
            raise TypeError(f"{who}: {name} is a {type(leaf).__name__}; convert it with np.asarray.")
    return {name: np.asarray(leaf) for name, leaf in leaves.items()}
