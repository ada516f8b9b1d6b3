"""Writes the gallery as Markdown: what was judged, a table, a section for each finding, what is equivalent.

Nothing in it depends on the day or on how fast a machine is; `read` finds the table's rows again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata

from parity.gallery.entry import PACKAGES, Finding
from parity.gates import PRECISIONS
from parity.verdict import (
    DIVERGENT,
    EQUIVALENT,
    ERROR,
    INCONCLUSIVE,
    NOT_RUN,
    Element,
    Explanation,
    TensorResult,
)

# What the reader has to know about the two gates, and about one bias for two.
_HEAD = """\
# Findings: other libraries before the judge

The judge of this project, run on code that nobody here wrote: recurrent networks of other JAX libraries, and
optax's optimizers, schedules and losses, each against what PyTorch calls by the same name. A finding is no
reproach. Some are defects, some are decisions that the other library documents and may well prefer; what they
have in common is that a program that is moved from PyTorch computes something else, mostly without an error.

This page is written by

```
pip install 'jaxrnn[torch,peers]'
parity findings --output docs/findings.md      # all of it
parity findings nnx optax.adam                 # some of it, on the terminal
```

and by nothing else. A test runs the entries anew wherever their library is installed and compares verdicts and
diagnoses, so that a version that repairs something, or breaks it, is noticed.
"""

_HOW = """\
## How it was judged

Every **network** is a module with torch's parameters. A map as a careful user would write it (gate order,
transposed matrices, `b_ih + b_hh` where there is one bias) puts them into the peer's own, the peer computes,
and gradients flow back through the map. Compared are outputs, final states and the gradients of all weights and
inputs, on the designed probes of [the judge](parity.md): every weight, bias and initial state drawn, at several
scales. **Optimizers** are given the same recorded gradients, of 1e-12 to 1e3, and their parameters are compared
along the way; **losses** are compared in values and gradients.

*Ragged* rows have unequal lengths and finite garbage in the padding. The reference is then `torch_ref.LSTM`,
this project's plain PyTorch, which is held equal to `torch.nn.LSTM` and takes what that refuses: empty rows, and
sequences that begin inside a row.

Each array is compared twice. The *semantic* gate asks, in float64, whether it is the same function. The
*numeric* gate asks, in float32, whether it is as accurate: rho is the candidate's error over torch's own, and
up to {rho:g} it is taken for noise. A *diagnosis* is a known mistake which,
made in torch on purpose, gives the candidate's numbers down to rounding. *Worst numbers* are those of the array
that is furthest off.

**One bias for two** cannot be seen in outputs or gradients, so it is measured apart: after one step of SGD in
the peer's own parameters, where are they, in units of the way that torch's go? A bias that stands for `b_ih +
b_hh` has gone half of it, since each of torch's two takes the whole step. The ratio is the same for Adam, and
the global norm of the gradients, by which they are clipped, counts the bias once instead of twice.
"""


def to_markdown(findings: Sequence[Finding]) -> str:
    """Return the page."""
    how = _HOW.format(rho=PRECISIONS["float32"].rho_rms)
    parts = [_HEAD, how, "Versions: " + ", ".join(_versions(findings)) + ".\n", _summary(findings)]
    parts += _sections(findings)
    return "\n".join(parts).rstrip() + "\n"


def read(page: str) -> dict[str, tuple[str, str]]:
    """Return verdict and diagnosis of every row of a page's summary, by the entry's id."""
    rows = re.findall(r"^\| \[?([\w.-]+)[^|]*\|[^|]*\|[^|]*\| ([A-Z ]+) \|([^|]*)\|$", page, re.MULTILINE)
    return {id: (verdict.strip(), diagnosis.strip()) for id, verdict, diagnosis in rows}


def diagnosis_of(finding: Finding) -> str:
    """Return the ids of what explains a finding: `G04`, `A or B` if either does, and nothing if nothing does."""
    diagnosis = finding.result.diagnosis
    return " or ".join(each.id for each in diagnosis.explanations) if diagnosis else ""


def _versions(findings: Iterable[Finding]) -> Iterator[str]:
    names = {finding.entry.package for finding in findings if finding.version}
    if names:
        yield from (f"{name} {metadata.version(name)}" for name in ("torch", "jax", "numpy"))
    else:
        yield "nothing was run"
    for name, package in PACKAGES.items():
        if name in names - {"jax"}:
            yield f"{package.distribution} {package.version}"


def _summary(findings: Sequence[Finding]) -> str:
    lines = ["## All entries", ""]
    counts = [
        f"{sum(f.result.verdict == verdict for f in findings)} {verdict}"
        for verdict in (EQUIVALENT, DIVERGENT, INCONCLUSIVE, ERROR, NOT_RUN)
    ]
    lines += [", ".join(count for count in counts if not count.startswith("0 ")) + ".", ""]
    lines += ["| entry | what | version | verdict | diagnosis |", "|---|---|---|---|---|"]
    for finding in findings:
        id = finding.entry.id
        named = (
            f"[{id}](#{_anchor(id)})" if finding.result.verdict in (DIVERGENT, INCONCLUSIVE, ERROR) else id
        )
        cells = (named, finding.entry.title, _version(finding), finding.result.verdict, diagnosis_of(finding))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _anchor(heading: str) -> str:
    """Return what GitHub calls a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _version(finding: Finding) -> str:
    package = PACKAGES[finding.entry.package].distribution
    return f"{package} {finding.version}".rstrip()


def _sections(findings: Sequence[Finding]) -> Iterator[str]:
    different = [f for f in findings if f.result.verdict == DIVERGENT and not _only_numeric(f)]
    worse = [f for f in findings if f.result.verdict == DIVERGENT and _only_numeric(f)]
    undecided = [f for f in findings if f.result.verdict in (INCONCLUSIVE, ERROR)]
    for heading, chosen in (
        ("Not the same function", different),
        ("The same function, less accurate", worse),
        ("Not decided", undecided),
    ):
        if chosen:
            yield f"## {heading}\n"
            yield from (_section(finding) for finding in chosen)
    yield from _equivalent([f for f in findings if f.result.verdict == EQUIVALENT])
    yield from _not_run([f for f in findings if f.result.verdict == NOT_RUN])


def _only_numeric(finding: Finding) -> bool:
    return all(tensor.gate == "numeric" for tensor in _failures(finding))


def _failures(finding: Finding) -> list[TensorResult]:
    return [tensor for tensor in finding.result.tensors if tensor.verdict != EQUIVALENT]


# A finding --------------------------------------------------------------------------------------------------


def _section(finding: Finding) -> str:
    entry, result = finding.entry, finding.result
    lines = [f"### {entry.id}", "", f"{entry.title}, {_version(finding)}, against {entry.reference}:"]
    lines[-1] += f" **{result.verdict}**"
    lines += ["", entry.meaning, "", f"* *Settings.* {entry.settings}"]
    lines += [f"* *{name}.* {text}" for name, text in _evidence(finding)]
    if entry.issue:
        lines.append(f"* *Upstream.* {_link(entry.issue)}")
    return "\n".join(lines) + "\n"


def _evidence(finding: Finding) -> Iterator[tuple[str, str]]:
    result, failures = finding.result, _failures(finding)
    for error in filter(None, (result.error, *(comparison.error for comparison in result.comparisons))):
        yield "Error", _without_places(error)
    if failures:
        gates = ", ".join(dict.fromkeys(tensor.gate or "" for tensor in failures))
        yield "Gate", f"{gates}, in {len(failures)} of {len(result.tensors)} arrays compared"
        yield "First array", _first_array(failures[0])
    if result.first_divergence is not None:
        yield "First divergence", str(result.first_divergence)
    yield "Diagnosis", _diagnosis(finding)
    yield from _numbers(result.tensors)
    yield from _training(finding)


def _without_places(error: str) -> str:
    """Return an error's first line without the file and line, which are this machine's."""
    return re.sub(r" \(\S+:\d+ in \w+\)$", "", error.splitlines()[0])


def _first_array(tensor: TensorResult) -> str:
    text = f"`{tensor.name}`: {tensor.message}"
    return text if tensor.worst is None else f"{text}; worst element {_element(tensor.worst)}"


def _element(element: Element) -> str:
    wanted = element.oracle if element.oracle is not None else element.reference
    place = f"[{', '.join(map(str, element.index))}]: " if element.index else ""
    if wanted is None:
        return f"{place}{element.candidate:.4g} here, nothing to compare with"
    pairs = [_both(element.candidate, wanted, digits) for digits in range(4, 18)]
    here, there = next((pair for pair in pairs if pair[0] != pair[1]), pairs[-1])
    return f"{place}{here} here, {there} in torch"


def _both(here: float, there: float, digits: int) -> tuple[str, str]:
    return f"{here:.{digits}g}", f"{there:.{digits}g}"


def _diagnosis(finding: Finding) -> str:
    diagnosis = finding.result.diagnosis
    if diagnosis is None:
        return "none: there is no known mistake to hold against it"
    if not diagnosis.explanations:
        return "no known mistake explains it"  # how many were tried depends on the machine's patience
    return " *or* ".join(map(_explanation, diagnosis.explanations))


def _explanation(each: Explanation) -> str:
    return f"{each.id}, {each.name}. Remedy: {each.fix}"


def _numbers(tensors: Iterable[TensorResult]) -> Iterator[tuple[str, str]]:
    parts = [text for text in (_semantic(tensors), _rho(tensors)) if text]
    if parts:
        yield (
            "Worst numbers",
            "; ".join(parts) + (" (of arrays that are finite)" if _not_finite(tensors) else ""),
        )


def _not_finite(tensors: Iterable[TensorResult]) -> bool:
    return any(tensor.gate == "non-finite" for tensor in tensors)


def _semantic(tensors: Iterable[TensorResult]) -> str:
    found = [(t.semantic_error, t.semantic_limit, t.name) for t in tensors if t.semantic_error is not None]
    if not found:
        return ""
    error, limit, name = max(found, key=lambda each: each[0])
    return f"semantic error {error:.1e} of `{name}`" + ("" if limit is None else f" (limit {limit:.0e})")


def _rho(tensors: Iterable[TensorResult]) -> str:
    found = [(t.rho_rms, t.name) for t in tensors if t.rho_rms is not None]
    if not found:
        return ""
    rho, name = max(found)
    return f"rho {rho:.2g} of `{name}`"


def _training(finding: Finding) -> Iterator[tuple[str, str]]:
    by_share: dict[tuple[float, ...], list[str]] = {}
    for name, shares in finding.shares.items():
        by_share.setdefault(shares, []).append(f"`{name}`")
    moved = [
        f"{' and '.join(f'{share:g}' for share in shares)} ({', '.join(names)})"
        for shares, names in by_share.items()
    ]
    if moved:
        yield "One step of SGD, in units of torch's", ", ".join(moved)


def _link(issue: str) -> str:
    repository, _, number = issue.partition("#")
    return f"[{issue}](https://github.com/{repository}/issues/{number})"


# The others -------------------------------------------------------------------------------------------------


def _equivalent(findings: Sequence[Finding]) -> Iterator[str]:
    if not findings:
        return
    yield "## Found equivalent\n"
    for finding in findings:
        entry, tensors = finding.entry, finding.result.tensors
        lines = [f"* **{entry.id}**: {entry.title}, {_version(finding)}, against {entry.reference}."]
        lines += [f"  {entry.meaning}"]
        lines += [f"  *Settings.* {entry.settings}"]
        lines += [
            f"  *{len(tensors)} arrays.* "
            + ", ".join(filter(None, (_semantic(tensors), _rho(tensors))))
            + "."
        ]
        lines += [f"  *{name}.* {text}." for name, text in _training(finding)]
        if entry.issue:
            lines.append(f"  *Upstream.* {_link(entry.issue)}")
        yield "\n".join(lines)
    yield ""


def _not_run(findings: Sequence[Finding]) -> Iterator[str]:
    yield "## What was not run\n"
    for finding in findings:
        yield f"* **{finding.entry.id}**: {finding.entry.title}: {finding.result.not_run}"
    yield (
        "* `jax.experimental.rnn.lstm`, which needs cuDNN: everything here was computed on a CPU, where only "
        "its reference runs.\n"
        "* Keras's cuDNN path, for the same reason, and its other backends.\n"
        "* Dropout inside layers: the streams of random numbers differ by design.\n"
        "* Half precision, and how fast any of them is."
    )
