# %% [markdown]
"""How far back does a gradient reach? Vanishing gradients, measured in networks while they learn.

    python -m examples.vanishing_gradients

A symbol, then distraction for 20 to 40 steps: which symbol was it? What a network holds of the symbol is measured
as in Graves' figure of the vanishing gradient (2012, fig. 4.1), but in real networks while they are trained: the
norm of the derivative of the state h_t by the first input, at every t. Before training it fades in all cells,
gates or not; that it does not where a bias opens the LSTM's forget gates is initialisation. The rest is learned.
Two things to notice: where short delays are asked too, even the plain RNN finds its way to long ones, through
gradients that explode, and sooner where they are clipped; and a network may recall a symbol although its gradient
has vanished, because a state that nothing can disturb has a derivative near zero (Bengio et al., 1994).
"""

# %% The imports
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

import jaxrnn
import parity
from examples.common import drawing, judging
from examples.common.lesson import Lesson
from examples.common.results import Outcome, Score
from jaxrnn.losses import cross_entropy
from jaxrnn.models import Classifier


@dataclass(frozen=True)
class Size:
    """What the run costs. All sizes ask for delays of up to 40 steps."""

    steps: int = 1500  # of the optimizer
    looks: int = 30  # at the network while it is trained
    hidden: int = 32
    batch: int = 64


SIZES: dict = {
    "small": Size(steps=30, looks=3, hidden=8, batch=16),
    "default": Size(),
    "full": Size(steps=15_000, looks=60, hidden=64),
}


# %% The data
SYMBOLS, DISTRACTORS = 8, 4
FEATURES = SYMBOLS + DISTRACTORS
SHORTEST, LONGEST = 20, 40  # delays: steps from the symbol to the question


class Recall(NamedTuple):
    """Sequences to be read to the end of each; the question is which symbol came first."""

    inputs: np.ndarray  # [B, 1 + LONGEST, features], one of them 1 at a time
    lengths: np.ndarray  # [B], one more than the delay
    symbols: np.ndarray  # [B]


def draw(rng: np.random.Generator, rows: int, shortest: int = SHORTEST) -> Recall:
    """Draw symbols, the distractors behind them, and delays from `shortest` to `LONGEST`."""
    symbols = rng.integers(SYMBOLS, size=rows)
    shown = rng.integers(SYMBOLS, FEATURES, size=(rows, 1 + LONGEST))
    shown[:, 0] = symbols
    inputs = np.eye(FEATURES, dtype=np.float32)[shown]
    return Recall(inputs, rng.integers(1 + shortest, 2 + LONGEST, size=rows), symbols)


# %% What is measured
@nnx.jit
def sensitivity(network: Any, inputs: np.ndarray) -> jax.Array:
    """Return the norm of the derivative of h_t by the first input, for every t, as a mean over the rows: [T].

    One pass in forward mode for each feature of the input gives the derivatives of all states at once.
    """
    first, rest = inputs[:, :1], inputs[:, 1:]

    def along(feature: jax.Array) -> jax.Array:
        tangent = jnp.broadcast_to(feature, first.shape)
        return jax.jvp(lambda x: network.rnn(jnp.concatenate([x, rest], 1))[0], (first,), (tangent,))[1]

    jacobian = jax.vmap(along)(jnp.eye(FEATURES))  # [I, B, T, H]
    return jnp.sqrt((jacobian**2).sum((0, 3))).mean(0)


@nnx.jit
def recalled(network: Any, recall: Recall, delay: Any) -> jax.Array:
    """Return the share of the symbols that are recalled after a delay, the same for all rows."""
    logits = network(recall.inputs, jnp.full(len(recall.inputs), 1 + delay))
    return (logits.argmax(-1) == recall.symbols).mean()


class Norms(NamedTuple):
    """The norms of the gradients of the steps so far, as a part of an optimizer's state."""

    values: jax.Array  # [steps]
    steps: jax.Array


def record_norms(steps: int) -> optax.GradientTransformation:
    """Return a link of an optimizer's chain that passes gradients on and keeps their norms."""

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Norms]:
        values = state.values.at[state.steps].set(optax.tree.norm(gradients))
        return gradients, Norms(values, state.steps + 1)

    return optax.GradientTransformation(lambda params: Norms(jnp.zeros(steps), jnp.int32(0)), update)


# %% The training
@dataclass(frozen=True)
class Trial:
    """A cell, and how it is trained."""

    cell: str
    forget_bias: float = 0.0  # is added to that of the LSTM's forget gate before training
    shortest: int = SHORTEST
    clip: float | None = 1.0


OPEN, EASY, LOOSE = "LSTM, forget gates open", "RNN, short delays too", "RNN, short delays too, no clipping"
TRIALS = {
    "RNN": Trial("RNN"),
    "GRU": Trial("GRU"),
    "LSTM": Trial("LSTM"),
    "PeepholeLSTM": Trial("PeepholeLSTM"),
    OPEN: Trial("LSTM", forget_bias=3.0),
    EASY: Trial("RNN", shortest=0),
    LOOSE: Trial("RNN", shortest=0, clip=None),
}


JUDGED = EASY, "GRU", OPEN, "PeepholeLSTM"  # each cell once


@dataclass
class Trained:
    """A network, and what was seen of it while it learned."""

    network: Classifier
    looks: list[np.ndarray] = field(default_factory=list)  # sensitivities [T], the first before training
    checks: tuple[float, ...] = ()  # losses on held-out symbols, one for every look after the first
    norms: np.ndarray = field(default_factory=lambda: np.zeros(0))  # of the gradients, before clipping


def build(trial: Trial, size: Size, seed: int) -> Classifier:
    """Return a network before training."""
    network = Classifier(getattr(jaxrnn, trial.cell), FEATURES, size.hidden, SYMBOLS, rngs=nnx.Rngs(seed))
    if trial.forget_bias:
        forget = slice(size.hidden, 2 * size.hidden)  # the gates are i, f, g, o
        rnn: Any = network.rnn
        rnn.bias_ih_l0[...] = rnn.bias_ih_l0[...].at[forget].add(trial.forget_bias)
    return network


def loss(network: Any, recall: Recall) -> jax.Array:
    """Return the cross-entropy of a batch."""
    return cross_entropy(network(recall.inputs, recall.lengths), recall.symbols)


def train(name: str, size: Size, seed: int) -> Trained:
    """Train on sequences that are drawn anew at every step; the weights of the best look stay."""
    trial = TRIALS[name]
    trained = Trained(build(trial, size, seed))
    check = draw(np.random.default_rng([seed, 1]), 256, trial.shortest)

    def batches(look: int) -> Iterator[Recall]:
        rng = np.random.default_rng([seed, 2, look])
        return (draw(rng, size.batch, trial.shortest) for _ in range(size.steps // size.looks))

    def look(network: Classifier) -> jax.Array:
        trained.looks.append(np.asarray(sensitivity(network, check.inputs[:16])))
        return validate(network)

    validate = nnx.jit(lambda network: loss(network, check))
    validate(trained.network)
    look(trained.network)
    clipping = [] if trial.clip is None else [jaxrnn.optim.clip_grad_norm(trial.clip)]
    rule = optax.chain(record_norms(size.steps), *clipping, jaxrnn.optim.adam(3e-3))
    optimizer = nnx.Optimizer(trained.network, rule, wrt=nnx.Param)
    history = jaxrnn.train.fit(
        trained.network, optimizer, loss, batches, epochs=size.looks, validate=look, description=name
    )
    trained.checks = history.validation_loss
    trained.norms = np.asarray(optimizer.opt_state[0].values)
    trained.network.eval()
    return trained


# %% The figures
STYLES: dict[str, dict[str, Any]] = {
    **drawing.CELL_STYLES,
    OPEN: {"color": drawing.SKY, "linestyle": "-"},
    EASY: {"color": drawing.VERMILLION, "linestyle": "--"},
    LOOSE: {"color": drawing.BLACK, "linestyle": ":"},
}


def maps(trials: Mapping[str, Trained], size: Size) -> Figure:
    """Draw each network's sensitivity to the symbol: how long after it, and how far in the training."""
    figure = drawing.new(9.0, 5.2)
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    colours = LogNorm(1e-6, 10, clip=True)
    steps = np.linspace(0, size.steps, size.looks + 1)
    for ax, name in zip(axes.flat, (name for name in trials if name != LOOSE), strict=True):
        seen = np.array(trials[name].looks).T  # [T, looks]
        image = ax.pcolormesh(
            steps, np.arange(len(seen)), seen, cmap=drawing.MAP, norm=colours, shading="nearest"
        )
        ax.set_title(name, fontsize="medium")
    for ax in axes[-1]:
        ax.set_xlabel("training step")
    for ax in axes[:, 0]:
        ax.set_ylabel("steps after the symbol")
    label = "norm of the derivative of h by the symbol"
    figure.colorbar(image, ax=axes, label=label, extend="both", shrink=0.8)
    return figure


def reach(trials: Mapping[str, Trained], shares: Mapping[str, np.ndarray], delays: np.ndarray) -> Figure:
    """Draw the sensitivity before training and at its end, and the share recalled, over the steps in between."""
    figure = drawing.new(9.0, 4.4)
    axes = figure.subplots(1, 3)
    lines = []
    for name, style in STYLES.items():
        for ax, look in zip(axes[:2], (0, -1), strict=True):
            if name not in (LOOSE, EASY) or look:
                line = ax.semilogy(np.maximum(trials[name].looks[look], 1e-16), **style)
        axes[2].plot(delays, 100 * shares[name], label=name, **style)
        lines.append(line[0])
    axes[2].axhline(100 / SYMBOLS, color=drawing.GREY, linewidth=0.8)
    axes[2].text(delays[-1], 100 / SYMBOLS + 1, "chance", color=drawing.GREY, ha="right")
    axes[0].set_title("before training", fontsize="medium")
    axes[1].set_title("at its end", fontsize="medium")
    axes[2].set_title("what the network can do", fontsize="medium")
    axes[0].set_ylabel("norm of the derivative of h by the symbol")
    axes[2].set_ylabel("held-out symbols recalled (%)")
    axes[1].sharey(axes[0])
    for ax in axes:
        ax.set_xlabel("steps after the symbol")
        drawing.tidy(ax)
    figure.legend(lines, list(STYLES), loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    return figure


def norms(trials: Mapping[str, Trained]) -> Figure:
    """Draw the norms of the gradients, step by step, with clipping and without."""
    figure = drawing.new(9.0, 3.2)
    axes = figure.subplots(1, 2, sharey=True)
    for ax, name in zip(axes, (EASY, LOOSE), strict=True):
        ax.semilogy(trials[name].norms, color=drawing.BLUE, linewidth=0.6)
        ax.set_title(f"{EASY}, clipped to 1" if name == EASY else name, fontsize="medium")
        ax.axhline(1, color=drawing.VERMILLION, linestyle="--", linewidth=1)
        ax.set_xlabel("training step")
        drawing.tidy(ax)
    axes[0].set_ylabel("gradient's norm before clipping")
    return figure


# %% The run
def steps_to_learn(trained: Trained, size: Size) -> str:
    """Return the training step of the first look at which the loss is below a tenth of what guessing costs."""
    below = np.flatnonzero(np.array(trained.checks) < 0.1 * np.log(SYMBOLS))
    return str((1 + below[0]) * size.steps // size.looks) if below.size else "never"


def run(size: Size, *, seed: int, judged: bool) -> Outcome:
    """Train cells to recall a symbol after a delay, and measure how far back their gradients reach."""
    test = draw(np.random.default_rng([seed, 3]), 1024)
    delays = np.arange(0, LONGEST + 1, 4)
    trials = {name: train(name, size, seed) for name in TRIALS}
    shares = {
        name: np.array([recalled(trained.network, test, delay) for delay in delays])
        for name, trained in trials.items()
    }
    agreements = []
    for name, trained in trials.items():
        if judged and name in JUDGED:
            sizes = FEATURES, size.hidden, SYMBOLS
            twin = judging.mirror(trained.network, "Classifier", getattr(jaxrnn, TRIALS[name].cell), *sizes)
            probe = parity.Probe("held-out symbols", (test.inputs[:8], test.lengths[:8]), outputs=("logits",))
            agreements.append(judging.judge(name, trained.network, twin, probe))
    metric = f"recalled after {LONGEST} steps (%)"
    constant = 100 * float(np.bincount(test.symbols).max()) / len(test.symbols)
    baseline = "always the most frequent symbol"
    scores = [
        Score(name, metric, 100 * float(share[-1]), baseline, constant, note="nothing was learned")
        for name, share in shares.items()
    ]
    first = {name: trained.looks[0][LONGEST] for name, trained in trials.items()}
    before = ", ".join(f"{first[name]:.0e} ({name})" for name in (*drawing.CELL_STYLES, OPEN))
    largest = {name: float(trials[name].norms.max()) for name in (EASY, LOOSE)}
    learned = " and ".join(f"{steps_to_learn(trials[name], size)} ({name})" for name in (EASY, LOOSE))
    return Outcome(
        scores=tuple(scores),
        agreements=tuple(agreements),
        figures={"maps": maps(trials, size), "reach": reach(trials, shares, delays), "norms": norms(trials)},
        remarks=(
            f"Before training, the derivative by a symbol {LONGEST} steps ago has the norm {before}.",
            f"The largest norm of a gradient is {largest[EASY]:.3g} where it is clipped to 1 afterwards, "
            f"{largest[LOOSE]:.3g} where it is not.",
            f"Steps until the loss is below a tenth of a guess's: {learned}.",
        ),
    )


LESSON = Lesson("vanishing_gradients", SIZES, run)

# %% tags=["command"]
main = LESSON.command()

if __name__ == "__main__":
    main()
