"""What a page shows of training runs: losses, how far they are from float64, and the single steps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from parity.report import facts
from parity.report.sections import Band, Line, LinePlot, Mark, Section, Table
from parity.training.judge import TrainingResult
from parity.training.trajectory import LIMIT, Trajectory
from parity.verdict import NOT_RUN, Comparison, TensorResult, worst

_NAME = re.compile(r"(loss|grad|step)(\d+)")  # what is compared of which step, from 1


def in_a_line(result: TrainingResult) -> str:
    """Say how far a run came from float64, and whether a step is wrong by itself."""
    trajectory = result.trajectory
    if trajectory is None:
        return f"{result.id}: {result.verdict}" if result.verdict == NOT_RUN else f"{result.id}: no run"
    first = "no step is wrong by itself"
    if result.first_bad is not None:
        first = f"the first step that is wrong by itself is {result.first_bad}"
    return (
        f"{result.id}: at most {trajectory.largest:.3g} envelopes from float64 (limit {LIMIT:g}) in "
        f"{trajectory.horizon} steps before chaos; {first}"
    )


def sections(results: Iterable[TrainingResult]) -> list[Section]:
    """Return a section for each run; one that was not run, or ended in an error, has nothing to draw."""
    return [_section(result, result.trajectory) for result in results if result.trajectory is not None]


def _section(result: TrainingResult, trajectory: Trajectory) -> Section:
    steps = list(range(1, len(trajectory.gold) + 1))
    marks = _marks(result, trajectory)
    blocks: list[LinePlot | Table] = [
        _losses(trajectory, steps, marks),
        _distances(trajectory, steps, marks),
        _ratio(trajectory, steps, marks),
    ]
    if result.single is not None:
        blocks.append(_single_steps(result.single.comparisons))
    if result.replay is not None:
        blocks.append(_replay(result.replay.comparisons))
    return Section(f"Training run {result.id}", blocks, f"{in_a_line(result)}.")


def _marks(result: TrainingResult, trajectory: Trajectory) -> list[Mark]:
    places = {
        "first bad step": result.first_bad,
        "leaves the envelope": trajectory.first_outside,
        "chaos": trajectory.horizon + 1 if trajectory.horizon < len(trajectory.gold) else None,
    }
    return [Mark(name, step) for name, step in places.items() if step is not None]


def _losses(trajectory: Trajectory, steps: Sequence[int], marks: Sequence[Mark]) -> LinePlot:
    runs = list(zip(*trajectory.ensemble, strict=True))
    noise = Band(
        f"{len(trajectory.ensemble)} runs of the reference with nudged roundings",
        steps,
        [min(losses) for losses in runs],
        [max(losses) for losses in runs],
    )
    lines = [
        Line("in float64", steps, trajectory.gold, "quiet"),
        Line("reference", steps, trajectory.reference, "reference"),
        Line("candidate", steps, trajectory.candidate),
    ]
    positive = min(trajectory.gold) > 0
    return LinePlot("Loss of the free run", "step", "loss", lines, [noise], log_y=positive, marks=marks)


def _distances(trajectory: Trajectory, steps: Sequence[int], marks: Sequence[Mark]) -> LinePlot:
    limit = [LIMIT * noise for noise in trajectory.envelope]
    lines = [
        Line("envelope of rounding noise", steps, trajectory.envelope, "reference"),
        Line(f"limit, {LIMIT:g} envelopes", steps, limit, "limit"),
        Line("candidate", steps, trajectory.distance),
    ]
    allowed = Band("where an honest run may be", steps, trajectory.envelope, limit)
    return LinePlot(
        "Distance from float64",
        "step",
        "largest relative distance so far",
        lines,
        [allowed],
        log_y=True,
        marks=marks,
        caption="the envelope is how far the furthest of the nudged runs is from the run in float64 by then",
    )


def _ratio(trajectory: Trajectory, steps: Sequence[int], marks: Sequence[Mark]) -> LinePlot:
    lines = [
        Line("candidate", steps, trajectory.ratio),
        Line(f"limit {LIMIT:g}", [steps[0], steps[-1]], [LIMIT, LIMIT], "limit"),
    ]
    return LinePlot("Distance in envelopes", "step", "distance / envelope", lines, log_y=True, marks=marks)


# Step by step ---------------------------------------------------------------------------------------------


def _single_steps(comparisons: Sequence[Comparison]) -> Table:
    """Return a row for each step that was taken by itself."""
    by_step: dict[int, list[TensorResult]] = {}
    for comparison in comparisons:
        by_step |= _by_step(comparison)
    rows = []
    for step, tensors in sorted(by_step.items()):
        shares = [_largest(tensors, kind) for kind in ("loss", "grad", "step")]
        rows.append((step, *shares, facts.worst_first(tensors)[0].name, _verdict(tensors)))
    columns = ("step", "loss", "gradients", "parameters after it", "worst tensor", "verdict")
    caption = "from the reference's parameters; each number is the largest measure as a share of its limit"
    return Table("One step at a time", columns, rows, caption=caption)


def _replay(comparisons: Sequence[Comparison]) -> Table:
    """Return a row for each step of the recorded gradients, two columns for each start."""
    replays: Mapping[str, Mapping[int, list[TensorResult]]] = {c.name: _by_step(c) for c in comparisons}
    rows = []
    for step in sorted({step for replay in replays.values() for step in replay}):
        row: list[str | float | None] = [step]
        for replay in replays.values():
            tensors = replay.get(step, [])
            row += [_largest(tensors, "step"), _verdict(tensors) if tensors else None]
        rows.append(row)
    columns = ["step", *(column for name in replays for column in (name, "verdict"))]
    caption = "parameters after each step; the largest measure of any parameter as a share of its limit"
    return Table("The optimizers on the recorded gradients", columns, rows, caption=caption)


def _by_step(comparison: Comparison) -> dict[int, list[TensorResult]]:
    found: dict[int, list[TensorResult]] = {}
    for tensor in comparison.tensors:
        name = _NAME.match(tensor.name)
        if name:
            found.setdefault(int(name[2]), []).append(tensor)
    return found


def _largest(tensors: Sequence[TensorResult], kind: str) -> float | None:
    return facts.largest(facts.excess(tensor) for tensor in tensors if tensor.name.startswith(kind))


def _verdict(tensors: Sequence[TensorResult]) -> str:
    return worst(tensor.verdict for tensor in tensors)
