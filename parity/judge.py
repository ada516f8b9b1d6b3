"""The judge: runs two models on the same probes and compares every array they produce.

Importing this module imports neither framework; running a model imports its own.
"""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from parity.cases import Case
from parity.compare import compare_arrays
from parity.environment import environment
from parity.gates import Array
from parity.probe import Probe, as_probe, parameter_names
from parity.trace import Trace, named_leaves
from parity.verdict import DIVERGENT, EQUIVALENT, CaseResult, Comparison, Report, TensorResult


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
    if _is_tree(candidate) and _is_tree(reference):
        if inputs is not None:
            raise TypeError("arrays are compared as they are: leave out inputs.")
        comparison = _compare_trees(candidate, reference, oracle, candidate64)
    else:
        if oracle is not None or candidate64 is not None:
            raise TypeError(
                "oracle= and candidate64= belong to arrays; models are run in float64 by the judge."
            )
        _require_models(candidate, reference)
        comparison = judge_probe(candidate, reference, as_probe(inputs, dtype, seed))
    name = f"{type(candidate).__name__} against {type(reference).__name__}"
    return Report((CaseResult("compare", name, (comparison,)),), environment(), time.perf_counter() - started)


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
    from jaxrnn.checkpoint import load_state_dict

    load_state_dict(candidate, side_of(reference).parameters(reference))
    return candidate


def judge_probe(candidate: Any, reference: Any, probe: Probe) -> Comparison:
    """Put one probe to both models; an exception becomes a comparison of verdict ERROR."""
    started = time.perf_counter()
    try:
        comparison = _judge_probe(candidate, reference, probe)
    except Exception as error:
        comparison = Comparison(probe.name, error=_explain(error), probe=probe.describe())
    return dataclasses.replace(comparison, seconds=time.perf_counter() - started)


def judge_case(
    case: Case,
    probe_set: str = "designed",
    seed: int = 0,
    *,
    candidate: Callable[[], Any] | None = None,
    progress: Callable[[], None] = lambda: None,
) -> CaseResult:
    """Build both models of a case and puts its probes to them; `progress` is called after each probe.

    `candidate`, where given, is built in place of the case's own. A missing package leaves the case NOT RUN, and
    any other exception makes its verdict ERROR.
    """
    missing = case.missing()
    if missing is not None:
        return CaseResult(case.id, case.summary, not_run=missing)
    try:
        models = (candidate or case.candidate)(), case.reference()
        _require_models(*models)
        probes = case.probes(probe_set, seed)
    except Exception as error:
        return CaseResult(case.id, case.summary, error=_explain(error))
    comparisons = []
    for probe in probes:
        comparisons.append(judge_probe(*models, probe))
        progress()
    return CaseResult(case.id, case.summary, tuple(comparisons))


def side_of(model: Any) -> ModuleType:
    """Return the module that runs this kind of model: `parity.jax_side` or `parity.torch_side`."""
    family = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    if "flax" in family:
        from parity import jax_side

        return jax_side
    if "torch" in family:
        from parity import torch_side

        return torch_side
    raise TypeError(
        f"expected a flax nnx.Module or a torch.nn.Module, not {type(model).__name__}; or give both the "
        "candidate and the reference as dicts or tuples of NumPy arrays."
    )


def _require_models(candidate: Any, reference: Any) -> None:
    side_of(candidate)
    if side_of(reference).__name__ != "parity.torch_side":
        raise TypeError(
            f"the reference must be a torch.nn.Module, not {type(reference).__name__}; the candidate comes "
            "first: compare(candidate, reference, inputs)."
        )


def _judge_probe(candidate: Any, reference: Any, probe: Probe) -> Comparison:
    from parity import oracle as oracles

    ours, theirs = side_of(candidate), side_of(reference)
    declared = probe.outputs
    if probe.arg_names is None:
        probe = dataclasses.replace(probe, arg_names=parameter_names(reference.forward))
    if declared is None and hasattr(reference, "num_layers"):  # a recurrent layer without a cell state
        probe = dataclasses.replace(probe, outputs=("output", "h_n"))
    misfits = _structure_of_weights(ours, candidate, theirs, reference)
    if misfits:
        expected = len(theirs.parameters(reference))
        note = "the models cannot hold the same weights, so they were not run"
        return Comparison(probe.name, misfits, expected, notes=(note,), probe=probe.describe())
    if probe.weight_scale is not None:
        reference = theirs.with_weights(reference, probe.weights(theirs.parameters(reference)))
        candidate = ours.with_weights(candidate, theirs.parameters(reference))  # read back: some may be tied
    r = theirs.run(reference, probe, probe.dtype)
    if declared is not None and not set(declared) <= set(r):
        found = list(r.of_kind("output", "state"))
        raise ValueError(f"the probe names the outputs {list(declared)}, but the reference returns {found}.")
    replayed = {name: r[f"grad({name})"] for name in theirs.parameters(reference)}
    oracle = oracles.consult(reference, probe, r, replayed)
    c = ours.run(candidate, probe, probe.dtype, replayed)
    c64 = ours.run(candidate, probe, "float64", replayed)
    results = compare_arrays(
        c,
        r,
        oracle.trace,
        c64,
        kinds={**c.kinds, **r.kinds},
        candidate_names=c.paths,
        zeros=probe.zeros,
        batch_axes=probe.batch_axes,
        redrawn=oracle.redrawn,
    )
    return Comparison(
        probe.name,
        results,
        expected=len(r),
        tiers=_tiers(results),
        oracle=oracle.description,
        notes=_notes(reference, r),
        probe=probe.describe(),
    )


def _structure_of_weights(
    ours: ModuleType, candidate: Any, theirs: ModuleType, reference: Any
) -> tuple[TensorResult, ...]:
    """Return the parameters whose names or shapes fit one side only; where there are any, nothing can be run."""
    mine, wanted = ours.parameters(candidate), theirs.parameters(reference)
    results = compare_arrays(
        {name: np.zeros(array.shape, np.float32) for name, array in mine.items()},
        {name: np.zeros(array.shape, np.float32) for name, array in wanted.items()},
        kinds=dict.fromkeys({**mine, **wanted}, "param"),
        candidate_names=ours.paths(candidate),
    )
    return tuple(result for result in results if result.verdict == DIVERGENT)


def _notes(reference: Any, trace: Trace) -> tuple[str, ...]:
    """Say what this comparison could not see."""
    notes = []
    zero = [name for name in trace.of_kind("param") if not np.any(trace[name])]
    if zero:
        notes.append(
            f"parameters that are zero hide bugs: {', '.join(zero)}; use a Probe with a weight_scale"
        )
    buffers = [name for name, _ in reference.named_buffers()]
    if buffers:
        notes.append(f"buffers are not compared: {', '.join(buffers)}")
    return tuple(notes)


def _compare_trees(candidate: Any, reference: Any, oracle: Any, candidate64: Any) -> Comparison:
    given = {"candidate": candidate, "reference": reference, "oracle": oracle, "candidate64": candidate64}
    arrays = {who: None if tree is None else _arrays(tree, who) for who, tree in given.items()}
    try:
        results = compare_arrays(**arrays)  # type: ignore[arg-type]
    except ValueError as error:
        return Comparison("arrays", error=_explain(error))
    expected = len(arrays["reference"] or ())
    return Comparison("arrays", results, expected, tiers=_tiers(results), notes=_missing_tier(results))


def _tiers(results: Iterable[TensorResult]) -> tuple[str, ...]:
    """Return the tiers by which every measured tensor was judged."""
    measured = [result for result in results if (result.semantic_error, result.rho_rms) != (None, None)]
    tiers = {
        "semantic": all(result.semantic_error is not None for result in measured),
        "numeric": all(result.rho_rms is not None for result in measured),
    }
    return tuple(tier for tier, judged in tiers.items() if judged and measured)


def _missing_tier(results: Iterable[TensorResult]) -> tuple[str, ...]:
    results = tuple(results)
    remedies = {
        "semantic": "not possible: give both sides in float64, as the arrays or as oracle= and candidate64=",
        "numeric": "not possible: give both sides in the precision under test, and oracle= in float64",
    }
    present = _tiers(results)
    return tuple(f"{tier} tier {remedy}" for tier, remedy in remedies.items() if tier not in present)


def _is_tree(value: Any) -> bool:
    return isinstance(value, Mapping | tuple | list)


def _arrays(tree: Any, who: str) -> dict[str, Array]:
    leaves = named_leaves(tree, "")
    for name, leaf in leaves.items():
        if not isinstance(leaf, np.ndarray | np.generic):
            raise TypeError(f"{who}: {name} is a {type(leaf).__name__}; convert it with np.asarray.")
    return {name: np.asarray(leaf) for name, leaf in leaves.items()}


def _explain(error: Exception) -> str:
    """Put an exception into words, with the innermost place in the models' or this project's code."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((f for f in reversed(frames) if "site-packages" not in f.filename), frames[-1])
    return f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno} in {frame.name})"
