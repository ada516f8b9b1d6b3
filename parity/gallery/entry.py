"""An entry of the gallery: what of another library is judged, by what of torch's, and what came out."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, NamedTuple, Protocol

import numpy as np

from parity.cases import INSTALL
from parity.designed import BATCH, FEATURES, HIDDEN, CellCall, LayerCall
from parity.probe import Probe
from parity.verdict import CaseResult
from parity.weighing import put_in_words


class Package(NamedTuple):
    """A distribution on PyPI: what is imported of it, and how it is installed beside this project."""

    distribution: str
    module: str
    install: str

    @property
    def version(self) -> str:
        """The installed version."""
        return metadata.version(self.distribution)


PACKAGES = {
    "jax": Package("jax", "jax", "pip install jaxrnn"),
    "flax": Package("flax", "flax", "pip install jaxrnn"),
    "optax": Package("optax", "optax", "pip install jaxrnn"),
    "haiku": Package("dm-haiku", "haiku", "pip install 'jaxrnn[peers-haiku]'"),
    "equinox": Package("equinox", "equinox", "pip install 'jaxrnn[peers-equinox]'"),
    "keras": Package("keras", "keras", "pip install 'jaxrnn[peers-keras]'"),
}


class Subject(Protocol):
    """What is judged, and how."""

    def judge(self, id: str, summary: str) -> CaseResult:
        """Return the judge's result."""

    def shares(self) -> Mapping[str, tuple[float, ...]]:
        """Return which of the peer's own parameters learn at another rate; see `peer.learning_shares`."""


@dataclass(frozen=True)
class Entry:
    """One row of the gallery.

    reference: torch's side in words. settings: what was chosen on the peer's side, and how weights were mapped.
    meaning: what it means for a user. issue: where it is reported upstream, as `google/flax#5594`.
    """

    id: str
    title: str
    package: str
    reference: str
    subject: Subject
    settings: str
    meaning: str
    issue: str = ""

    def missing(self) -> str | None:
        """Return what keeps the entry from being judged, with the remedy; `None` where nothing does."""
        if importlib.util.find_spec("torch") is None:
            return f"torch not installed: {INSTALL['torch']}"
        package = PACKAGES[self.package]
        if importlib.util.find_spec(package.module) is None:
            return f"not installed: {package.install}"
        return None


@dataclass(frozen=True)
class Finding:
    """What came out of an entry; `version` is empty where it was not run."""

    entry: Entry
    result: CaseResult
    version: str = ""
    shares: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def judge_entry(entry: Entry) -> Finding:
    """Judge one entry; a missing package leaves it NOT RUN, and any exception makes its verdict ERROR."""
    summary = f"{entry.title} against {entry.reference}"
    missing = entry.missing()
    if missing is not None:
        return Finding(entry, CaseResult(entry.id, summary, not_run=missing))
    version = PACKAGES[entry.package].version
    try:
        result = entry.subject.judge(entry.id, summary)
        return Finding(entry, result, version, entry.subject.shares())
    except Exception as error:
        return Finding(entry, CaseResult(entry.id, summary, error=put_in_words(error)), version)


# What can be judged -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """A recurrent network: `file` and `name` say where its `Peer` is, `reference` makes torch's module."""

    file: str
    name: str
    reference: Callable[[], Any]
    probes: Callable[[], list[Probe]]

    def judge(self, id: str, summary: str) -> CaseResult:
        """Put the probes to both."""
        from parity.gallery.peer import wrap
        from parity.judge import judge_models

        reference = self.reference()
        return judge_models(id, summary, wrap(self._peer(), reference), reference, self.probes())

    def shares(self) -> Mapping[str, tuple[float, ...]]:
        """Take one step of SGD in the peer's own parameters."""
        from parity.gallery.peer import learning_shares

        (probe, *_) = self.probes()
        shapes = {name: np.empty(tuple(value.shape)) for name, value in self.reference().named_parameters()}
        probe = dataclasses.replace(probe, weight_scale=1.0)
        return learning_shares(self._peer(), probe.weights(shapes), probe)

    def _peer(self) -> Any:
        return getattr(importlib.import_module(f"parity.gallery.{self.file}"), self.name)


class _Unweighted:
    """What has no weights of its own."""

    def shares(self) -> Mapping[str, tuple[float, ...]]:
        """Nothing learns."""
        return {}


@dataclass(frozen=True)
class Optimizer(_Unweighted):
    """Two optimizers as calls in words."""

    reference: str
    candidate: str
    clip_norm: float | None = None

    def judge(self, id: str, summary: str) -> CaseResult:
        """Play the designed gradients to both."""
        from parity.optimizers.cases import OptimizerCase, judge_case

        case = OptimizerCase(id, self.reference, self.candidate, clip_norm=self.clip_norm)
        return dataclasses.replace(judge_case(case), summary=summary)


@dataclass(frozen=True)
class Schedule(_Unweighted):
    """Two schedules as calls in words."""

    reference: str
    candidate: str

    def judge(self, id: str, summary: str) -> CaseResult:
        """Compare every rate."""
        from parity.schedules.judge import judge_schedule

        return dataclasses.replace(judge_schedule(self.reference, self.candidate, id=id), summary=summary)


@dataclass(frozen=True)
class Loss(_Unweighted):
    """A loss of torch in words, and a function of `optax_peer`; `asked` names one that returns the probes."""

    reference: str
    function: str
    asked: Callable[[Any], list[Probe]] | None = None
    task: str | None = None

    def judge(self, id: str, summary: str) -> CaseResult:
        """Compare values and gradients."""
        from parity.gallery import optax_peer
        from parity.losses.judge import judge_loss

        probes = None if self.asked is None else self.asked(optax_peer)
        function = getattr(optax_peer, self.function)
        return judge_loss(function, self.reference, probes, task=self.task, id=id, summary=summary)


# What networks are asked -----------------------------------------------------------------------------------


def cell(states: int) -> Callable[[], list[Probe]]:
    """Return the designed probes of a cell."""
    return lambda: CellCall(states).probes("designed", 0)


def layer(states: int, *, batch_first: bool = True, **options: Any) -> Callable[[], list[Probe]]:
    """Return the designed probes of a layer."""
    return lambda: LayerCall(states, batch_first=batch_first, **options).probes("designed", 0)


def ragged(
    states: int, *, directions: int = 1, padding: float = 2.0, empty: bool = False
) -> Callable[[], list[Probe]]:
    """Return probes with rows of unequal lengths; what is in the padding, and whether a row is empty."""

    def probes() -> list[Probe]:
        call = LayerCall(states, directions=directions, batch_first=True, ragged=True)
        return [_with_padding(probe, padding, empty) for probe in call.probes("designed", 0)[:2]]

    return probes


def _with_padding(probe: Probe, padding: float, empty: bool) -> Probe:
    (x, hx), lengths = probe.args, np.array(probe.kwargs["lengths"])
    lengths[np.argmin(lengths)] = 0 if empty else 1
    unused = np.arange(x.shape[1])[None, :] >= lengths[:, None]
    x = np.where(unused[..., None], np.float32(padding), x)
    zeros = {"output": unused[..., None], "grad(input)": unused[..., None]}
    return dataclasses.replace(probe, args=(x, hx), kwargs={"lengths": lengths}, zeros=zeros)


def torch_nn(kind: str, **options: Any) -> Callable[[], Any]:
    """Return a factory of a module of torch."""
    return lambda: getattr(importlib.import_module("torch.nn"), kind)(FEATURES, HIDDEN, **options)


def torch_ref(kind: str, **options: Any) -> Callable[[], Any]:
    """Return a factory of a module of `torch_ref`, which takes lengths and resets."""
    return lambda: getattr(importlib.import_module("torch_ref"), kind)(FEATURES, HIDDEN, **options)


SIZES = f"{FEATURES} features, {HIDDEN} hidden, {BATCH} rows"
