"""A report as one HTML page: style, script and plots are inside it, and nothing is fetched from anywhere.

`sections` (see `parity.report.sections`) are shown after the cases: a training run's trajectory with its envelope,
the kill matrix of a selftest, or whatever else a report should carry.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from parity.gates import PRECISIONS
from parity.report import facts, heat, plots, tree
from parity.report.facts import largest, number
from parity.report.json_report import totals
from parity.report.plots import Cloud, Figure, Scatter
from parity.report.sections import Line, LinePlot, Section, Table
from parity.verdict import EQUIVALENT, CaseResult, Comparison, Report, TensorResult

_DOTS = 900  # of either side in a scatter plot
_CURVES = 4  # tensors whose errors are followed over the steps


def to_html(report: Report, sections: Iterable[Section] = ()) -> str:
    """Return the page."""
    views = [_case(case, number) for number, case in enumerate(facts.by_urgency(report.cases), start=1)]
    return render(
        "report.html.j2",
        report=report,
        totals=totals(report),
        sensitivity=facts.sensitivity(report),
        unexercised=facts.unexercised(report),
        divergent=facts.divergent(report),
        notes=facts.notes(report),
        failed=[view for view in views if view["case"].verdict != EQUIVALENT],
        passed=[view for view in views if view["case"].verdict == EQUIVALENT],
        distributions=_distributions(report),
        sections=[drawn(section) for section in sections],
        heat=heat,
        precisions=PRECISIONS,
    )


def render(template: str, **content: Any) -> str:
    """Return a page made from one of the templates that extend `page.html.j2`."""
    loader = PackageLoader("parity.report", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": number,
        "shape": facts.shape,
        "names": facts.names,
        "reason": facts.reason,
    }
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = environment.get_template(template).render(
        created=created, style=_asset("report.css"), script=_asset("report.js"), **content
    )
    return page.lstrip()  # what the macros leave


def _asset(name: str) -> str:
    return resources.files("parity.report").joinpath("templates", name).read_text("utf-8")


def _case(case: CaseResult, place: int) -> dict[str, Any]:
    """Return what the template shows of a case."""
    probe = facts.first_failing(case) or next(iter(case.comparisons), None)
    divergence = case.first_divergence
    return {
        "case": case,
        "anchor": f"case-{place}",
        "why": _why(case),
        "measured": {
            "semantic": largest(tensor.semantic_ratio for tensor in case.tensors),
            "rho_rms": largest(tensor.rho_rms for tensor in case.tensors),
            "rho_max": largest(tensor.rho_max for tensor in case.tensors),
        },
        "tree": tree.rows(case),
        "maps": heat.maps(divergence) if divergence is not None and divergence.free else None,
        "figures": [] if probe is None else [*_scatters(probe), *_growth(probe)],
        "probe": probe,
        "tensors": [facts.worst_first(probe.failures) for probe in case.comparisons],
    }


def _why(case: CaseResult) -> str:
    """Say in a few words what is wrong with a case."""
    if case.error or case.not_run:
        return str(case.error or case.not_run)
    if case.diagnosis is not None and case.diagnosis.explanations:
        return " or ".join(f"{found.id} {found.name}" for found in case.diagnosis.explanations)
    probe = facts.first_failing(case)
    if probe is None:
        return case.summary
    if probe.error:
        return probe.error
    return "" if not probe.failures else f"{probe.failures[0].name}: {facts.reason(probe.failures[0])}"


# Plots ----------------------------------------------------------------------------------------------------


def _distributions(report: Report) -> list[Figure]:
    """Return how all tensors of the report lie towards the limits of the numeric gate."""
    measured = [tensor for tensor in report.tensors if tensor.rho_limits is not None]
    figures = []
    for place, (label, what) in enumerate((("rho_rms", "rms"), ("rho_max", "largest"))):
        values = [
            (rho, rho <= tensor.rho_limits[place])
            for tensor in measured
            if tensor.rho_limits is not None and (rho := (tensor.rho_rms, tensor.rho_max)[place]) is not None
        ]
        limits = sorted({tensor.rho_limits[place] for tensor in measured if tensor.rho_limits is not None})
        if values:
            caption = f"the candidate's {what} error over the reference's; at 1 it is as accurate"
            figures.append(plots.histogram(label, label, values, limits, caption))
    return figures


def _scatters(probe: Comparison) -> list[Figure]:
    """Return error against magnitude, for what flows forward and for gradients."""
    groups = {
        f"Errors of outputs and states, probe {probe.name}": ("output", "state"),
        f"Errors of gradients, probe {probe.name}": ("grad",),
    }
    figures = []
    for title, kinds in groups.items():
        tensors = [tensor for tensor in probe.tensors if tensor.kind in kinds and tensor.sample is not None]
        if any(tensor.sample.size for tensor in tensors if tensor.sample):
            figures.append(_scatter(title, tensors))
    return figures


def _scatter(title: str, tensors: Sequence[TensorResult]) -> Figure:
    points: dict[str, list[tuple[float, float]]] = {"reference": [], "candidate": []}
    for sample in (tensor.sample for tensor in tensors if tensor.sample is not None):
        points["reference"] += zip(sample.size, sample.reference, strict=True)
        points["candidate"] += zip(sample.size, sample.candidate, strict=True)
    clouds = [Cloud(side, side, _thinned(found)) for side, found in points.items()]
    unit = max(PRECISIONS[t.dtype].unit_roundoff for t in tensors if t.dtype in PRECISIONS)
    caption = "each element's distance from the float64 oracle; u is the roundoff of the precision under test"
    rows = [
        (
            facts.names(t),
            facts.shape(t),
            max(t.sample.candidate),
            max(t.sample.reference),
            t.rho_rms,
            t.rho_max,
        )
        for t in tensors
        if t.sample is not None and t.sample.size
    ]
    columns = (
        "tensor",
        "shape",
        "largest error, candidate",
        "largest error, reference",
        "rho_rms",
        "rho_max",
    )
    slopes = (("4u", 4 * unit), ("u", unit))
    table = Table(title, columns, rows)
    return plots.scatter(Scatter(title, "|oracle|", "|error|", clouds, slopes, caption, table))


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return points evenly by magnitude, and the furthest one."""
    ordered = sorted(points)
    stride = max(1, -(-len(ordered) // _DOTS))
    return [*ordered[::stride], max(points, key=lambda point: point[1])]


def _growth(probe: Comparison) -> list[Figure]:
    """Return how errors grow along the steps of the sequences that a probe's models return."""
    tensors = [t for t in probe.tensors if t.sample is not None and len(t.sample.candidate_steps) > 2]
    if not tensors:
        return []
    lines, said = [], []
    for tensor in facts.worst_first(tensors)[:_CURVES]:
        assert tensor.sample is not None
        sides = {"candidate": tensor.sample.candidate_steps, "reference": tensor.sample.reference_steps}
        for side, errors in sides.items():
            steps = [float(step) for step in range(1, len(errors) + 1)]
            lines.append(Line(f"{tensor.name}, {side}", steps, errors, side))
            power = plots.growth(errors)
            said += [] if power is None else [f"{tensor.name}, {side}: like t^{round(power, 1) + 0.0:.1f}"]
    caption = f"rms error at each step; {'; '.join(said)}" if said else "rms error at each step"
    plot = LinePlot(
        f"Growth of errors, probe {probe.name}",
        "step",
        "rms error",
        lines,
        log_x=True,
        log_y=True,
        caption=caption,
    )
    return [plots.line_plot(plot)]


def drawn(section: Section) -> dict[str, Any]:
    """Return what a template shows of a section."""
    blocks = [plots.line_plot(block) if isinstance(block, LinePlot) else block for block in section.blocks]
    return {"title": section.title, "text": section.text, "blocks": blocks}
