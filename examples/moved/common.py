"""What the moves share: what one finds, files of Keras 2, layouts of Keras and cuDNN, and the time of two calls."""

import dataclasses
import importlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib.figure import Figure

from examples.common import drawing
from examples.common.packages import Package
from examples.common.results import Agreement
from jaxrnn.formats.conventions import to_torch
from jaxrnn.formats.hdf5 import opened
from jaxrnn.formats.weights import stack
from parity.environment import environment

FOLDER = Path(__file__).parents[2] / "docs" / "moved"
KERAS_NAMES = ("kernel", "recurrent_kernel", "bias")  # of an LSTM's weights


@dataclass(frozen=True)
class Check:
    """A moved network beside another computation of the same one.

    quantity: what was compared. difference: the largest, relative to the largest number; or, where it was counted,
    `equal`: how many are the same, of how many.
    """

    oracle: str
    quantity: str
    difference: float | None = None
    equal: tuple[int, int] | None = None


@dataclass(frozen=True)
class Mistake:
    """What goes wrong if a step of the move is left out, or done as one would expect; and the right number."""

    done: str
    quantity: str
    wrong: float
    right: float


@dataclass(frozen=True)
class Timing:
    """Medians of the milliseconds that one example takes in both frameworks, called in turn in one process."""

    task: str
    examples: int  # in a call
    torch_ms: float  # on one core or on all, whichever is faster
    jax_ms: float


@dataclass(frozen=True)
class Findings:
    """What a move found; figures by name, `remarks` in sentences."""

    agreements: tuple[Agreement, ...]
    checks: tuple[Check, ...]
    mistakes: tuple[Mistake, ...]
    timings: tuple[Timing, ...]
    figures: Mapping[str, Figure] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Move:
    """A network of a package; `run(small)` moves it, judges it and says what it found, of few inputs or of all.

    file: of the archive, the one with the weights. network: what it computes, in a line.
    """

    package: Package
    file: str
    licence: str
    network: str
    run: Callable[[bool], Findings]


# As files


def write(name: str, findings: Findings, folder: Path) -> None:
    """Write `NAME.json` and the figures, `FIGURE.png`, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for figure, drawn in findings.figures.items():
        drawing.save(drawn, folder / f"{figure}.png")
    content = {
        "schema": "moved/1",
        "agreements": [dataclasses.asdict(each) for each in findings.agreements],
        "checks": [dataclasses.asdict(each) for each in findings.checks],
        "mistakes": [dataclasses.asdict(each) for each in findings.mistakes],
        "timings": [dataclasses.asdict(each) for each in findings.timings],
        "figures": list(findings.figures),
        "remarks": list(findings.remarks),
        "environment": environment() | {"cores": str(os.cpu_count())},
    }
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def read(name: str, folder: Path) -> tuple[Findings, dict[str, Any]]:
    """Read `NAME.json` back: findings without figures, and the whole content."""
    content = json.loads((folder / f"{name}.json").read_text("utf-8"))

    def made(kind: Any, rows: list[dict[str, Any]]) -> tuple[Any, ...]:
        pairs = ({key: tuple(v) if isinstance(v, list) else v for key, v in row.items()} for row in rows)
        return tuple(kind(**row) for row in pairs)

    findings = Findings(
        agreements=made(Agreement, content["agreements"]),
        checks=made(Check, content["checks"]),
        mistakes=made(Mistake, content["mistakes"]),
        timings=made(Timing, content["timings"]),
        remarks=tuple(content["remarks"]),
    )
    return findings, content


# Files and layouts of other frameworks


def hdf5(content: bytes) -> dict[str, np.ndarray]:
    """Return the weights in an HDF5 file of Keras 2, by layer and weight: "rnn_1.kernel"."""
    try:
        root = opened(content)
    except ModuleNotFoundError as error:
        raise click.ClickException(str(error)) from None
    found: dict[str, np.ndarray] = {}
    for path in root.arrays():
        layer, *_, weight = path.strip("/").split("/")
        found[f"{layer}.{weight.partition(':')[0]}"] = root.array(path)
    return found


def from_keras(weights: Mapping[str, np.ndarray], layer: str) -> dict[str, np.ndarray]:
    """Return a Keras LSTM's weights in torch's layout::

        W_ih = kernelᵀ,    W_hh = recurrent_kernelᵀ,    b_ih = bias,    b_hh = 0

    Keras has one bias where torch has two. Their sum is what matters to the outputs; in training it would learn at
    twice the rate, so that a run that goes on needs half of it for the biases.
    """
    return to_torch("keras", "LSTM", *(weights[f"{layer}.{name}"] for name in KERAS_NAMES))


def from_cudnn(weights: Mapping[str, np.ndarray], layer: str) -> dict[str, np.ndarray]:
    """Return the weights of Keras's `CuDNNLSTM` in torch's layout.

    The bytes are cuDNN's, as torch's are: of each gate a matrix [H, I] and a matrix [H, H], and the biases of both.
    Keras calls the first [I, H] without moving a number, and sets the gates side by side. So each block is taken
    out, and given its shape back; a transpose would be wrong.
    """
    kernel, recurrent, biases = (weights[f"{layer}.{name}"] for name in KERAS_NAMES)
    return to_torch("keras, cuDNN", "LSTM", kernel, recurrent, *np.split(biases, 2))


def named(prefix: str, *layers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights of a stack of cells by torch's names: "lstm.weight_ih_l0"."""
    return {f"{prefix}.{name}": value for name, value in stack(layers).items()}


# Comparing


def difference(found: Any, expected: np.ndarray) -> float:
    """Return the largest difference, relative to the largest expected number."""
    apart = np.abs(np.asarray(found, np.float64) - expected).max()
    return float(apart / np.abs(expected).max())


def in_turn(task: str, examples: int, torch_call: Callable[[], Any], jax_call: Callable[[], Any]) -> Timing:
    """Return the medians of calls made in turn, the first of each left out."""
    torch: Any = importlib.import_module("torch")
    before = torch.get_num_threads()

    def of_torch(threads: int) -> None:
        torch.set_num_threads(threads)
        with torch.no_grad():
            torch_call()

    calls = (jax_call, partial(of_torch, 1), partial(of_torch, os.cpu_count() or 1))
    try:
        turns = [[_seconds(call) for call in calls] for _ in range(1 + REPEATS)]
    finally:
        torch.set_num_threads(before)
    ours, one, all_ = 1000 * np.median(turns[1:], axis=0) / examples
    return Timing(task, examples, float(min(one, all_)), float(ours))


REPEATS = 9


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
