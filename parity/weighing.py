"""One candidate and one probe: both models run, and every array compared."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from parity.compare import candidate_errors, compare_traces, misfitting
from parity.probe import Probe
from parity.trace import AMPLIFYING, Trace
from parity.verdict import DIVERGENT, CaseResult, Comparison, TensorResult

if TYPE_CHECKING:
    from parity.oracle.evidence import Evidence
    from parity.refusal import Unrefused


FAR = 100.0  # times a limit; what is further off is not drawn again


class Judgement(NamedTuple):
    """A comparison and what it rests on; without evidence where the models could not be run."""

    comparison: Comparison
    evidence: Evidence | None = None
    trace: Trace | None = None  # what the candidate answered in the precision under test
    trace64: Trace | None = None  # and in float64
    unrefused: Unrefused | None = None  # what it answered to arguments that the reference refuses


def try_probe(candidate: Any, reference: Any, probe: Probe) -> Judgement:
    """Put one probe to both models; an exception becomes a comparison of verdict ERROR."""
    started = time.perf_counter()
    try:
        judgement = _try_probe(candidate, reference, probe)
    except Exception as error:
        judgement = Judgement(Comparison(probe.name, error=put_in_words(error), probe=probe.describe()))
    seconds = time.perf_counter() - started
    return judgement._replace(comparison=dataclasses.replace(judgement.comparison, seconds=seconds))


def _try_probe(candidate: Any, reference: Any, probe: Probe) -> Judgement:
    misfits = _misfitting_weights(candidate, reference)
    if misfits:
        expected = len(side_of(reference).parameters(reference))
        note = "the models cannot hold the same weights, so they were not run"
        return Judgement(Comparison(probe.name, misfits, expected, notes=(note,), probe=probe.describe()))
    if probe.refused:
        from parity.refusal import try_refused

        comparison, unrefused = try_refused(candidate, reference, probe)
        return Judgement(comparison, unrefused=unrefused)
    from parity.oracle.evidence import gather

    return weigh(candidate, gather(reference, probe))


def weigh(candidate: Any, evidence: Evidence) -> Judgement:
    """Run a candidate on the probe of some evidence and compares it with the reference's answers."""
    ours, probe = side_of(candidate), evidence.probe
    if probe.weight_scale is not None:
        candidate = ours.with_weights(candidate, evidence.weights)
    c = ours.run(candidate, probe, probe.dtype, evidence.gradients)
    c64 = ours.run(candidate, probe, "float64", evidence.gradients)
    comparison = compare_traces(c, evidence.measured, evidence.oracle, c64, probe, evidence.redrawn)
    notes = (*evidence.notes, *ours.reservations(candidate, probe))
    failed = {tensor.name for tensor in comparison.failures}
    if failed and all(map(_may_appeal, comparison.failures)):
        usual = candidate_errors(_drawn_again(candidate, evidence))
        comparison = compare_traces(
            c,
            evidence.measured,
            evidence.oracle,
            c64,
            probe,
            evidence.redrawn,
            {name: errors for name, errors in usual.items() if name in failed},
        )
        notes = (
            *notes,
            f"drawn again, because one draw was {FAR:g} times a limit or less: {', '.join(failed)}",
        )
    return Judgement(
        dataclasses.replace(comparison, oracle=evidence.description, notes=notes), evidence, c, c64
    )


def _may_appeal(tensor: TensorResult) -> bool:
    """Tell whether a failure is so small that it may be a rare draw."""
    if tensor.verdict != DIVERGENT or tensor.gate not in ("semantic", "numeric"):
        return False
    shares = [tensor.semantic_ratio or 0.0]
    if tensor.rho_limits is not None and tensor.rho_rms is not None and tensor.rho_max is not None:
        shares += [tensor.rho_rms / tensor.rho_limits[0], tensor.rho_max / tensor.rho_limits[1]]
    return all(share <= FAR for share in shares)


def _drawn_again(candidate: Any, evidence: Evidence) -> Iterator[tuple[Trace, Trace, Trace]]:
    """Yield what the candidate and the oracle answer where all roundings are others."""
    ours = side_of(candidate)
    for probe, weights, oracle in evidence.redraw():
        model = ours.with_weights(candidate, weights)
        c, c64 = (ours.run(model, probe, dtype) for dtype in (probe.dtype, "float64"))
        yield c.of_kind(*AMPLIFYING), c64.of_kind(*AMPLIFYING), oracle


def side_of(model: Any) -> ModuleType:
    """Return the module that runs this kind of model: `parity.running.jax_side` or `parity.running.torch_side`."""
    family = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    if "flax" in family:
        from parity.running import jax_side

        return jax_side
    if "torch" in family:
        from parity.running import torch_side

        return torch_side
    raise TypeError(
        f"expected a flax nnx.Module or a torch.nn.Module, not {type(model).__name__}; or give both the "
        "candidate and the reference as dicts or tuples of NumPy arrays."
    )


def require_models(candidate: Any, reference: Any) -> None:
    """Raise TypeError unless the two are models, the reference one of torch's."""
    side_of(candidate)
    if side_of(reference).__name__ != "parity.running.torch_side":
        raise TypeError(
            f"the reference must be a torch.nn.Module, not {type(reference).__name__}; the candidate comes "
            "first: compare(candidate, reference, inputs)."
        )


def _misfitting_weights(candidate: Any, reference: Any) -> tuple[TensorResult, ...]:
    ours, theirs = side_of(candidate), side_of(reference)
    mine, wanted = (
        {name: array.shape for name, array in side.parameters(model).items()}
        for side, model in ((ours, candidate), (theirs, reference))
    )
    return misfitting(mine, wanted, ours.paths(candidate))


def explained(result: CaseResult, explain: Callable[[CaseResult], CaseResult]) -> CaseResult:
    """Return a divergent result with its explanation, any other as it is; the verdict stands in any case."""
    if result.verdict != DIVERGENT:
        return result
    try:
        return explain(result)
    except Exception as error:
        return dataclasses.replace(result, notes=(f"not explained: {put_in_words(error)}",))


def put_in_words(error: Exception) -> str:
    """Put an exception into words, with the innermost place in the models' or this project's code."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((f for f in reversed(frames) if "site-packages" not in f.filename), frames[-1])
    return f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno} in {frame.name})"
