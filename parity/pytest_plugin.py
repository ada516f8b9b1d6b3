"""The pytest plugin: a fixture that judges, a marker, a ledger, and reports that survive pytest-xdist.

    def test_my_port(parity):
        parity.check(candidate=ours, reference=theirs, inputs=parity.probe(x=(5, 9, 3)))

A test that is marked `parity`, or asks for the fixture, must compare something: one that passes without having done
so fails, and one that was collected and then neither run nor skipped fails the session. Loading this module loads
neither JAX nor torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import pickle
import sys
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import pytest

from parity.probe import SETS

_MARKER = (
    "parity(probe=, seed=): a test that must compare two models; its probe set (quick, designed) and seed"
)
_LEDGER: pytest.StashKey[Ledger] = pytest.StashKey()
_CHECKS: pytest.StashKey[Checks] = pytest.StashKey()
_NOTHING = (
    "a parity test that compared nothing: call parity.check(candidate=..., reference=..., inputs=...) of the "
    "fixture, or skip the test explicitly"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("parity", "parity of two models")
    group.addoption("--parity-report", metavar="DIR", help="write parity-report.json, .xml and .html here")
    group.addoption(
        "--parity-probe", choices=SETS, default="designed", help="probe set (default: %(default)s)"
    )
    group.addoption("--parity-seed", type=int, default=0, metavar="N", help="seed of every draw (default: 0)")
    group.addoption(
        "--parity-inconclusive",
        choices=("fail", "skip"),
        default="fail",
        help="what an INCONCLUSIVE check does to its test (default: %(default)s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker and open the ledger."""
    config.addinivalue_line("markers", _MARKER)
    folder = config.option.parity_report
    if folder is not None and not _is_worker(config):
        folder = (config.invocation_params.dir / folder).absolute()
        config.option.parity_report = str(folder)  # workers are told the option, and may run elsewhere
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("parity-report*"):  # none of them may be taken for one of this session
            if old.suffix in (".json", ".xml", ".html"):
                old.unlink()
    config.stash[_LEDGER] = Ledger(config)
    config.pluginmanager.register(config.stash[_LEDGER], "parity-ledger")


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Checks:
    """Judge two models: `parity.check(candidate=..., reference=..., inputs=parity.probe(x=(5, 9, 3)))`."""
    options = {"probe": request.config.option.parity_probe, "seed": request.config.option.parity_seed}
    options |= _marked(request.node) or {}
    checks = Checks(request.node, options["probe"], options["seed"])
    request.node.stash[_CHECKS] = checks
    return checks


class Checks:
    """The checks of one test."""

    def __init__(self, item: pytest.Item, probe_set: str, seed: int):
        self._item = item
        self._set = probe_set
        self._seed = seed
        self.cases: list[Any] = []  # a CaseResult for each check

    def probe(
        self,
        inputs: Mapping[str, Any] | None = None,
        /,
        *,
        own_weights: bool = False,
        dtype: str = "float32",
        **named: Any,
    ) -> Any:
        """Return inputs that `check` draws, with the session's probe set and seed, or those of the marker.

        Arguments are named as in the reference's `forward`. Each is a shape for normal numbers, `(5, 9, 3)`, a
        text such as `"int:5,9<100"` or `"bool:5,9"`, or an array. `inputs` is for names that are parameters of
        this method. All weights are drawn on both sides, at each scale; with `own_weights` the models keep theirs,
        and the inputs are drawn at each scale.
        """
        from parity.inputs import Drawn, Shape

        def shaped(value: Any) -> Any:
            if isinstance(value, str):
                return Shape.parse(value)
            return Shape(value) if isinstance(value, tuple) else value

        arguments = {name: shaped(value) for name, value in {**(inputs or {}), **named}.items()}
        if not arguments:
            raise ValueError("name what the models are called with: parity.probe(x=(5, 9, 3)).")
        return Drawn(arguments, self._set, self._seed, dtype, own_weights)

    def check(
        self,
        *,
        candidate: Any,
        reference: Any,
        inputs: Any = None,
        name: str = "",
        oracle: Any = None,
        candidate64: Any = None,
    ) -> Any:
        """Judge as `parity.compare` does, and return the report if it is EQUIVALENT.

        `inputs` may also be a list of Probes, or what `probe` returned. Raises ParityError with the table; where
        the session is told `--parity-inconclusive=skip`, an INCONCLUSIVE test is skipped.
        """
        __tracebackhide__ = True
        from parity import ParityError
        from parity.verdict import EQUIVALENT, INCONCLUSIVE

        with _one_torch_thread():
            report = self._judge(candidate, reference, inputs, oracle, candidate64)
        id = f"{self._item.nodeid} {name}".rstrip()
        self.cases += [dataclasses.replace(case, id=id) for case in report.cases]
        report = dataclasses.replace(report, cases=tuple(self.cases[-len(report.cases) :]))
        self._record()
        if report.verdict == INCONCLUSIVE and self._item.config.option.parity_inconclusive == "skip":
            pytest.skip(f"{INCONCLUSIVE}\n{report}")
        if report.verdict != EQUIVALENT:
            raise ParityError(report)
        return report

    def _judge(self, candidate: Any, reference: Any, inputs: Any, oracle: Any, candidate64: Any) -> Any:
        from parity import compare
        from parity.environment import environment
        from parity.inputs import Drawn, probes_of, with_batch
        from parity.judge import judge_models
        from parity.verdict import Report
        from parity.weighing import require_models

        if not isinstance(inputs, Drawn | list):
            return compare(
                candidate, reference, inputs, oracle=oracle, candidate64=candidate64, seed=self._seed
            )
        started = time.perf_counter()
        require_models(candidate, reference)
        notes: tuple[str, ...] = ()
        if isinstance(inputs, Drawn):
            probes, assumed = with_batch(reference, inputs.probes(reference))
            notes = (assumed,)
        else:
            probes = probes_of(inputs)
        summary = f"{type(candidate).__name__} against {type(reference).__name__}"
        result = judge_models("check", summary, candidate, reference, probes)
        result = dataclasses.replace(result, notes=(*result.notes, *notes))
        return Report((result,), environment(), time.perf_counter() - started)

    def _record(self) -> None:
        """Keep the worst numbers of all checks so far as properties of the test; JUnit shows them."""
        for name, value in _properties(self.cases).items():
            self._item.user_properties[:] = [p for p in self._item.user_properties if p[0] != name]
            self._item.user_properties.append((name, value))

    def entry(self) -> dict[str, Any]:
        """Return what the ledger keeps of this test, in plain values."""
        from parity.verdict import Report

        report = Report(tuple(self.cases))
        verdicts = [case.verdict for case in self.cases]
        return {"verdicts": verdicts, "compared": report.compared, "expected": report.expected}


class Ledger:
    """What was to be compared in this session, and what was; under pytest-xdist, all workers together."""

    def __init__(self, config: pytest.Config):
        self.config = config
        self.registered: dict[str, None] = {}  # in order
        self.entries: dict[str, dict[str, Any]] = {}  # of the tests that ran
        self.skipped: set[str] = set()
        self.cases: list[Any] = []
        self.environment: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Refuse a marker that says what nobody understands."""
        for item in items:
            _marked(item)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note the parity tests that are left after deselection."""
        self.registered = {item.nodeid: None for item in session.items if _is_parity(item)}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Fail a test that compared nothing, and send on what the others compared."""
        report = yield
        if report.when == "teardown" or not _is_parity(item):
            return report
        checks = item.stash.get(_CHECKS, None)
        cases = [] if checks is None else checks.cases
        if report.when == "call" and report.passed and not cases:
            report.outcome, report.longrepr = "failed", f"{item.nodeid}: {_NOTHING}"
        if report.when == "call" and checks is not None and cases:
            report.parity = checks.entry()
            self.cases += cases
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what a test compared, in this process or in a worker."""
        if report.skipped and not hasattr(report, "parity"):
            self.skipped.add(report.nodeid)
        elif report.when == "call" or (report.when == "setup" and report.failed):
            self.entries[report.nodeid] = getattr(report, "parity", {})

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over the ledger of a worker that is done."""
        sent = getattr(node, "workeroutput", {}).get("parity")
        if sent is not None:
            registered, cases, environment = pickle.loads(sent)
            self.registered |= registered
            self.cases += cases
            self.environment = self.environment or environment

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the reports; the session fails where a test was collected and then lost."""
        if self.cases and not self.environment:
            from parity.environment import environment

            self.environment = environment()
        if _is_worker(self.config):
            sent = (self.registered, self.cases, self.environment)
            self.config.workeroutput["parity"] = pickle.dumps(sent)  # type: ignore[attr-defined]
        elif self.lost and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self.config.option.parity_report is not None and not self.config.option.collectonly:
            self._write(Path(self.config.option.parity_report))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the ledger."""
        if not self.registered or self.config.option.collectonly:
            return
        terminalreporter.section("parity")
        terminalreporter.line(self.summary())
        for nodeid in self.lost:
            terminalreporter.line(f"NOT RUN {nodeid}: collected, and then neither run nor skipped", red=True)
        if self.config.option.parity_report is not None:
            terminalreporter.line(f"report: {self.config.option.parity_report}/parity-report.json")

    @property
    def lost(self) -> list[str]:
        """The parity tests that were collected, and then neither run nor skipped."""
        if self.config.option.collectonly or self.config.option.setupplan or self.config.option.setuponly:
            return []
        return [name for name in self.registered if name not in self.entries and name not in self.skipped]

    def summary(self) -> str:
        """Return the ledger in one line."""
        entries = [self.entries[name] for name in self.registered if name in self.entries]
        verdicts = [verdict for entry in entries for verdict in entry.get("verdicts", ())]
        compared, expected = (sum(entry.get(key, 0) for entry in entries) for key in ("compared", "expected"))
        counts = ", ".join(
            f"{verdicts.count(v)} {v.lower()}" for v in ("EQUIVALENT", "DIVERGENT", "INCONCLUSIVE")
        )
        errors = f", {verdicts.count('ERROR')} in error" if "ERROR" in verdicts else ""
        skipped = len(self.skipped.intersection(self.registered))
        return (
            f"{len(self.registered)} tests registered, {len(entries)} run, {skipped} skipped; "
            f"{len(verdicts)} checks: {counts}{errors}; {compared}/{expected} tensors compared"
        )

    def _write(self, folder: Path) -> None:
        """Write the report of this process: a worker's own, or that of the whole session."""
        from parity.verdict import Report

        cases = sorted(self.cases, key=lambda case: case.id)
        seconds = sum(probe.seconds for case in cases for probe in case.comparisons)
        report = Report(tuple(cases), self.environment, seconds)
        if _is_worker(self.config):
            worker = self.config.workerinput["workerid"]  # type: ignore[attr-defined]
            (folder / f"parity-report-{worker}.json").write_text(report.to_json(), encoding="utf-8")
            return
        (folder / "parity-report.json").write_text(report.to_json(), encoding="utf-8")
        (folder / "parity-report.xml").write_text(report.to_junit(), encoding="utf-8")
        if importlib.util.find_spec("parity.report.html") is not None:
            report.to_html(folder / "parity-report.html")


def _marked(item: pytest.Item) -> dict[str, Any] | None:
    """Return what the marker of a test asks for; `None` without one."""
    marker = item.get_closest_marker("parity")
    if marker is None:
        return None
    checkers: dict[str, Callable[[Any], bool]] = {
        "probe": lambda value: value in SETS,
        "seed": lambda value: isinstance(value, int) and value >= 0,
    }
    wrong = [repr(value) for value in marker.args]
    wrong += [
        f"{name}={value!r}"
        for name, value in marker.kwargs.items()
        if not checkers.get(name, lambda _: False)(value)
    ]
    if wrong:
        raise pytest.UsageError(
            f"{item.nodeid}: the marker parity does not take {', '.join(wrong)}; it takes "
            f"probe={' or '.join(SETS)} and seed=N."
        )
    return dict(marker.kwargs)


def _is_parity(item: pytest.Item) -> bool:
    """Tell whether a test is marked, or asks for this plugin's fixture (and not one of its own of that name)."""
    if item.get_closest_marker("parity") is not None:
        return True
    fixtures = getattr(item, "_fixtureinfo", None)
    found = fixtures.name2fixturedefs.get("parity") if fixtures is not None else None
    return found is not None and found[-1].func.__module__ == __name__


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _one_torch_thread() -> contextlib.AbstractContextManager[None]:
    if "torch" not in sys.modules:
        return contextlib.nullcontext()
    from parity.running.torch_side import one_thread

    return one_thread()


def _properties(cases: list[Any]) -> dict[str, str]:
    """Return the worst numbers of some checks, and what explains the first that failed."""
    from parity.report.facts import largest
    from parity.verdict import Report

    report = Report(tuple(cases))
    numbers = {
        "rho_rms": largest(tensor.rho_rms for tensor in report.tensors),
        "rho_max": largest(tensor.rho_max for tensor in report.tensors),
        "semantic": largest(tensor.semantic_error for tensor in report.tensors),
        "sensitivity_semantic": report.semantic_sensitivity,
        "sensitivity_numeric": report.numeric_sensitivity,
    }
    found = {"parity_verdict": report.verdict}
    found |= {name: f"{value:.3g}" for name, value in numbers.items() if value is not None}
    if report.diagnosis is not None and report.diagnosis.explanations:
        found["diagnosis_id"] = report.diagnosis.explanations[0].id
    if report.first_divergence is not None:
        found["first_divergence"] = str(report.first_divergence)
    return found
