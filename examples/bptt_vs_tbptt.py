# %% [markdown]
"""What does truncation cost? Backpropagation through windows, against backpropagation through all of time.

    python -m examples.bptt_vs_tbptt

Two classic problems of memory, 48 steps long. Copy: three symbols are shown and, after a pause of nine steps,
asked for. Adding: two of the last eighteen numbers are marked; what is their sum? Truncated backpropagation stops
the gradient every so many steps, while the state goes on. Updates, first weights and data are the same for all
windows, so that what differs is the truncation. Through windows shorter than the lag no network is told what to
keep for the copy: it says what the state happens to echo, half of the symbols. Adding is learned nonetheless, if
more slowly, although its gradient is wrong by up to two thirds: to add a number to what is held is the same at
any lag, and a short window teaches it. A window that covers all lags comes close to all of time, and one that
covers the sequence differs from it by nothing but rounding.
"""

# %% The imports
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

import jaxrnn
import parity
from examples.common import drawing, judging
from examples.common.lesson import Lesson
from examples.common.results import Agreement, Outcome, Score
from jaxrnn.losses import cross_entropy
from jaxrnn.models import Forecaster, LanguageModel

STEPS = 48  # of a sequence


@dataclass(frozen=True)
class Size:
    """What the run costs."""

    updates: int = 600
    every: int = 30  # updates between two looks at the held-out error
    hidden: int = 32
    batch: int = 32
    windows: tuple[int, ...] = (6, 12, 24, STEPS)


SIZES: dict = {
    "small": Size(updates=20, every=10, hidden=8, batch=8, windows=(12, STEPS)),
    "default": Size(),
    "full": Size(updates=10_000, every=200, hidden=64),
}


# %% The problems
class Sequences(NamedTuple):
    """A problem's inputs [B, T, ...], and targets with the same axes."""

    inputs: np.ndarray
    targets: Any


SYMBOLS, SHOWN, PAUSE = 8, 3, 9
CUE = SYMBOLS + 1  # a token; 0 is silence
IGNORED = -100  # as a target
LAG = SHOWN + PAUSE  # steps from a symbol to its copy


def draw_copy(rng: np.random.Generator, rows: int) -> Sequences:
    """Draw symbols that are to be said again when the cue is given, at a sequence's last steps."""
    symbols = rng.integers(1, 1 + SYMBOLS, size=(rows, SHOWN))
    tokens = np.zeros((rows, STEPS), np.int32)
    tokens[:, -LAG - SHOWN : -LAG] = symbols
    tokens[:, -SHOWN:] = CUE
    targets = np.full((rows, STEPS), IGNORED, np.int32)
    targets[:, -SHOWN:] = symbols
    return Sequences(tokens, targets)


MARKED = 9  # steps: one mark is among the last, one among those before


def draw_adding(rng: np.random.Generator, rows: int) -> Sequences:
    """Draw numbers from 0 to 1 of which two are marked; their sum is asked for at the last step."""
    inputs = np.zeros((rows, STEPS, 2), np.float32)
    inputs[..., 0] = rng.uniform(size=(rows, STEPS))
    for start in (STEPS - 2 * MARKED, STEPS - MARKED):
        inputs[np.arange(rows), start + rng.integers(MARKED, size=rows), 1] = 1
    sums = np.repeat(inputs.prod(-1).sum(-1, keepdims=True), STEPS, 1)
    last = np.broadcast_to(np.arange(STEPS) == STEPS - 1, (rows, STEPS))
    return Sequences(inputs, (sums, last))


def copy_loss(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the cross-entropy at every step of a window, 0 where nothing is asked: [B, T]."""
    return cross_entropy(jnp.moveaxis(logits, -1, 1), targets, ignore_index=IGNORED, reduction="none")


def adding_loss(said: jax.Array, targets: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Return the squared error at every step of a window, 0 but at the sequence's last: [B, T]."""
    sums, last = targets
    return jnp.where(last, (said - sums) ** 2, 0)


def copied(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the per cent of the symbols that are said again."""
    asked = targets != IGNORED
    return 100 * jnp.sum(asked & (logits.argmax(-1) == targets)) / jnp.sum(asked)


def squared_error(said: jax.Array, targets: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Return the mean squared error of the sums."""
    return jnp.mean((said[:, 0] - targets[0][:, -1]) ** 2)


@dataclass(frozen=True)
class Problem:
    """What is drawn, by which network it is solved, and how that is judged."""

    draw: Callable[[np.random.Generator, int], Sequences]
    model: Any
    sizes: tuple[int, ...]  # of the model, in front of that of the state
    outputs: tuple[str, ...]
    loss: Callable[[Any, Any], jax.Array]
    score: Callable[[Any, Any], jax.Array]
    metric: str
    guess: tuple[str, float]  # what takes no memory, and its score
    higher_is_better: bool


PROBLEMS = {
    "copy": Problem(
        draw_copy,
        LanguageModel,
        (CUE + 1, 16),
        ("logits", "h"),
        copy_loss,
        copied,
        "symbols copied (%)",
        ("a guess", 100 / SYMBOLS),
        True,
    ),
    "adding": Problem(
        draw_adding,
        Forecaster,
        (2,),
        ("sum", "h"),
        adding_loss,
        squared_error,
        "mean squared error",
        ("always 1, the mean sum", 1 / 6),
        False,
    ),
}


# %% The training
def build(problem: Problem, size: Size, seed: int) -> Any:
    """Return a problem's network before training."""
    return problem.model(jaxrnn.GRU, *problem.sizes, size.hidden, rngs=nnx.Rngs(seed))


def start(rows: int, size: Size) -> jax.Array:
    """Return the state in front of a sequence: zeros, anew, because training gives its memory away."""
    return jnp.zeros((1, rows, size.hidden))


@dataclass
class Trained:
    """A network, and the held-out score after so many updates."""

    network: Any
    updates: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


def train(name: str, window: int, size: Size, seed: int, test: Sequences) -> Trained:
    """Train with gradients that stop every `window` steps; a batch of sequences gives one update in any case."""
    problem = PROBLEMS[name]
    trained = Trained(build(problem, size, seed))
    optimizer = nnx.Optimizer(trained.network, jaxrnn.optim.adam(3e-3), wrt=nnx.Param)
    rng = np.random.default_rng([seed, 1])
    score = nnx.jit(lambda network: problem.score(network(test.inputs)[0], test.targets))

    def look(updates: int) -> None:
        trained.updates.append(updates)
        trained.scores.append(float(score(trained.network)))

    for update in progress(size.updates, f"{name}, window {window}"):
        if update % size.every == 0:
            look(update)
        inputs, targets = problem.draw(rng, size.batch)
        state = start(size.batch, size)
        jaxrnn.truncated_bptt(
            trained.network, optimizer, problem.loss, inputs, targets, state, k1=STEPS, k2=window, time_axis=1
        )
    look(size.updates)
    return trained


def progress(updates: int, description: str) -> Iterable[int]:
    """Count updates, with a bar where somebody sees it."""
    console = Console(stderr=True)
    seen = console.is_terminal or console.is_jupyter
    return track(range(updates), description, console=console, disable=not seen)


# %% What truncation does to a gradient
def biases(name: str, network: Any, size: Size, seed: int) -> list[jaxrnn.TruncationBias]:
    """Return how far gradients by windows are from those by all of time, for all lengths of windows."""
    problem = PROBLEMS[name]
    inputs, targets = problem.draw(np.random.default_rng([seed, 2]), 64)
    state = start(64, size)
    return [
        jaxrnn.truncation_bias(network, problem.loss, inputs, targets, state, k1=window, time_axis=1)
        for window in size.windows
    ]


# %% The figures
COLOURS = drawing.ORANGE, drawing.SKY, drawing.GREEN, drawing.BLACK
DASHES = ":", "-.", "--", "-"
Runs = Mapping[str, Mapping[int, Trained]]  # by problem and window
Biases = Mapping[str, Mapping[str, list[jaxrnn.TruncationBias]]]  # by problem, and when


def curves(runs: Runs) -> Figure:
    """Draw the held-out scores while the networks are trained."""
    figure = drawing.new(9.0, 3.6)
    for ax, (name, trained) in zip(figure.subplots(1, 2), runs.items(), strict=True):
        problem = PROBLEMS[name]
        for (window, run), colour, dash in zip(
            trained.items(), COLOURS[-len(trained) :], DASHES[-len(trained) :], strict=True
        ):
            label = f"{window} steps, all of time" if window == STEPS else f"{window} steps"
            ax.plot(run.updates, run.scores, dash, color=colour, label=label)
        ax.axhline(problem.guess[1], color=drawing.GREY, linewidth=0.8)
        side = "top" if problem.higher_is_better else "bottom"  # where no curve goes
        ax.text(run.updates[-1], problem.guess[1], problem.guess[0], color=drawing.GREY, ha="right", va=side)
        ax.set_title(name, fontsize="medium")
        ax.set_xlabel("updates")
        ax.set_ylabel(f"held-out {problem.metric}")
        drawing.tidy(ax)
    figure.axes[0].set_ylim(0, 100)
    figure.axes[1].set_yscale("log")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        title="the gradient stops every",
        loc="outside right center",
        frameon=False,
        fontsize="small",
    )
    return figure


def bias_figure(found: Biases, size: Size) -> Figure:
    """Draw the relative error of truncated gradients over the length of windows."""
    figure = drawing.new(9.0, 3.4)
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (name, by_time) in zip(axes, found.items(), strict=True):
        for (when, bias), marker, colour in zip(
            by_time.items(), "os", (drawing.SKY, drawing.BLUE), strict=True
        ):
            ax.plot(
                size.windows, [each.relative_error for each in bias], f"-{marker}", color=colour, label=when
            )
        mark_lags(ax, name)
        ax.set_title(name, fontsize="medium")
        ax.set_xlabel("window (steps)")
        ax.set_xticks(size.windows)
        drawing.tidy(ax)
    axes[0].set_ylabel("|truncated - full| / |full|")
    axes[1].legend(frameon=False, fontsize="small")
    return figure


def mark_lags(ax: Axes, name: str) -> None:
    """Shade the lags over which a problem is to be remembered."""
    lags = (LAG - 0.2, LAG + 0.2) if name == "copy" else (0, 2 * MARKED - 1)
    ax.axvspan(*lags, color=drawing.ORANGE, alpha=0.2, linewidth=0, label="lags of the problem")


# %% The run
def run(size: Size, *, seed: int, judged: bool) -> Outcome:
    """Train through windows shorter and longer than the lag, and measure what they do to the gradient."""
    tests = {name: problem.draw(np.random.default_rng([seed, 3]), 1024) for name, problem in PROBLEMS.items()}
    runs = {
        name: {window: train(name, window, size, seed, test) for window in size.windows}
        for name, test in tests.items()
    }
    found = {
        name: {
            "before training": biases(name, build(PROBLEMS[name], size, seed), size, seed),
            "trained through all of time": biases(name, runs[name][STEPS].network, size, seed),
        }
        for name in PROBLEMS
    }
    agreements = [judge(name, runs[name][STEPS].network, tests[name], size) for name in PROBLEMS if judged]
    covered = [bias[-1].relative_error for by_time in found.values() for bias in by_time.values()]
    cosines = {name: by_time["trained through all of time"] for name, by_time in found.items()}
    return Outcome(
        scores=tuple(score for name, trained in runs.items() for score in scores(name, trained)),
        agreements=tuple(agreements),
        figures={"curves": curves(runs), "bias": bias_figure(found, size)},
        remarks=(
            f"With a window of {STEPS} steps, the whole sequence, the gradient's relative error is at most "
            f"{max(covered):.1g}.",
            *(
                f"{name}, trained: the cosine between truncated and full gradient is "
                + ", ".join(
                    f"{each.cosine:.3f} ({window})" for window, each in zip(size.windows, bias, strict=True)
                )
                + "."
                for name, bias in cosines.items()
            ),
        ),
    )


def scores(name: str, trained: Mapping[int, Trained]) -> Iterable[Score]:
    """Yield each window's score beside a guess, and that of all of time beside the best of the windows."""
    problem = PROBLEMS[name]
    best = max if problem.higher_is_better else min
    final = {window: run.scores[-1] for window, run in trained.items()}
    for window, value in final.items():
        note = f"the gradient does not reach back {LAG} steps" if name == "copy" and window <= LAG else ""
        yield Score(
            f"{name}, window {window}", problem.metric, value, *problem.guess, problem.higher_is_better, note
        )
    shorter = best((window for window in final if window < STEPS), key=final.__getitem__)
    baseline = f"window {shorter}"
    note = "a window that covers all lags is as good" if shorter > 2 * MARKED else ""
    yield Score(
        f"{name}, window {STEPS}",
        problem.metric,
        final[STEPS],
        baseline,
        final[shorter],
        problem.higher_is_better,
        note,
    )


def judge(name: str, network: Any, test: Sequences, size: Size) -> Agreement:
    """Judge the network that was trained through all of time."""
    problem = PROBLEMS[name]
    twin = judging.mirror(network, problem.model.__name__, jaxrnn.GRU, *problem.sizes, size.hidden)
    probe = parity.Probe("held-out sequences", (test.inputs[:8],), outputs=problem.outputs)
    return judging.judge(f"{name}, window {STEPS}", network, twin, probe)


LESSON = Lesson("bptt_vs_tbptt", SIZES, run)

# %% tags=["command"]
main = LESSON.command()

if __name__ == "__main__":
    main()
