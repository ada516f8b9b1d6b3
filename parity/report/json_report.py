"""A report as JSON, schema `parity/1`: stable names, no NaN or infinity, every number with its limit.

`parity-1.schema.json` beside this file says what a reader may rely on. The elements sampled for the plots of the
page are left out: they would be nine tenths of the file.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from parity.report import facts
from parity.verdict import CaseResult, Comparison, Divergence, Report, TensorResult

SCHEMA = "parity/1"


def to_json(report: Report) -> str:
    """Return the report as indented JSON; numbers that JSON has no word for are strings ("nan", "inf")."""
    return _written(_plain(as_dict(report))) + "\n"


def schema() -> dict[str, Any]:
    """Return the JSON Schema that every report fulfils."""
    text = resources.files("parity.report").joinpath("parity-1.schema.json").read_text("utf-8")
    return dict(json.loads(text))


def as_dict(report: Report) -> dict[str, Any]:
    """Return the report as nested dicts and lists."""
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": report.verdict,
        "exit_code": report.exit_code,
        "seconds": report.seconds,
        "environment": dict(report.environment),
        "sensitivity": _sensitivity(report.semantic_sensitivity, report.numeric_sensitivity),
        "not_exercised": list(facts.unexercised(report)),
        "totals": totals(report),
        "cases": [_case(case) for case in report.cases],
    }


def totals(report: Report) -> dict[str, int]:
    """Count arrays and cases by verdict."""
    tensors, cases = report.tensors, report.cases
    return {
        "cases": len(cases),
        "not_run": sum(case.verdict == "NOT RUN" for case in cases),
        "errors": sum(case.verdict == "ERROR" for case in cases),
        "expected": report.expected,
        "compared": report.compared,
        "divergent": sum(tensor.verdict == "DIVERGENT" for tensor in tensors),
        "inconclusive": sum(tensor.verdict == "INCONCLUSIVE" for tensor in tensors),
    }


def _case(case: CaseResult) -> dict[str, Any]:
    return {
        "id": case.id,
        "summary": case.summary,
        "verdict": case.verdict,
        "error": case.error,
        "not_run": case.not_run,
        "notes": list(case.notes),
        "first_divergence": None if case.first_divergence is None else _divergence(case.first_divergence),
        "diagnosis": None if case.diagnosis is None else asdict(case.diagnosis),
        "probes": [_comparison(comparison) for comparison in case.comparisons],
    }


def _divergence(divergence: Divergence) -> dict[str, Any]:
    return {
        "phase": divergence.phase,
        "text": str(divergence),
        "extent": divergence.extent,
        "places": [node._asdict() for node in divergence.places],
        "wrong": [node._asdict() for node in divergence.wrong],
        "free": [grid._asdict() for grid in facts.grids(divergence.free)],
        "forced": [grid._asdict() for grid in facts.grids(divergence.forced)],
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "name": comparison.name,
        "verdict": comparison.verdict,
        "error": comparison.error,
        "oracle": comparison.oracle,
        "tiers": list(comparison.tiers),
        "notes": list(comparison.notes),
        "expected": comparison.expected,
        "compared": comparison.compared,
        "seconds": comparison.seconds,
        "probe": dict(comparison.probe),
        "tensors": [_tensor(tensor) for tensor in comparison.tensors],
    }


def _tensor(tensor: TensorResult) -> dict[str, Any]:
    return {
        "reference_name": tensor.name,
        "candidate_name": tensor.candidate_name,
        "kind": tensor.kind,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "verdict": tensor.verdict,
        "compared": tensor.compared,
        "gate": tensor.gate,
        "message": tensor.message,
        "semantic": {"error": tensor.semantic_error, "limit": tensor.semantic_limit},
        "numeric": {
            "rho_rms": tensor.rho_rms,
            "rho_max": tensor.rho_max,
            "bias_u": tensor.bias,
            "limits": None if tensor.rho_limits is None else list(tensor.rho_limits),
        },
        "reference_error_u": tensor.reference_error,
        "first": None if tensor.first is None else asdict(tensor.first),
        "worst": None if tensor.worst is None else asdict(tensor.worst),
        "sensitivity": _sensitivity(tensor.semantic_sensitivity, tensor.numeric_sensitivity),
    }


def _sensitivity(semantic: float | None, numeric: float | None) -> dict[str, float | None]:
    return {"semantic": semantic, "numeric": numeric}


def _written(value: Any, indent: str = "") -> str:
    """Write JSON with what holds no further lists or dicts on one line: a row of numbers, a pair of limits."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not any(isinstance(child, dict | list) for child in children):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    inner = indent + "  "
    if isinstance(value, dict):
        lines = [
            f"{json.dumps(key, ensure_ascii=False)}: {_written(child, inner)}" for key, child in value.items()
        ]
    else:
        lines = [_written(child, inner) for child in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{inner}" + f",\n{inner}".join(lines) + f"\n{indent}{closing}"


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity; a reader that is told "nan" cannot take it for a number."""
    if isinstance(value, dict):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
