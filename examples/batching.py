# %% [markdown]
"""How is a long sequence cut into batches? Three ways, and what each lets a network remember.

    python -m examples.batching

Streams side by side: row b of a batch goes on where row b of the batch before ended, so the state may be carried
over, and a network remembers what lies before its window. Consecutive windows: the next row goes on, not the next
batch; whoever carries a state here hands each row the memories of another place. Sliding windows: each step is in
many windows, so that each has its own past in front of it, at many times the work.

A small experiment measures it. Bits come in at random, and each is to be said again five steps later; a window has
eight steps. From a fresh state the first five answers of a window cannot be known.
"""

# %% The imports
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure

import jaxrnn
import parity
from examples.common import drawing, judging
from examples.common.lesson import Lesson
from examples.common.results import Outcome, Score
from jaxrnn.data import batches, consecutive_windows, parallel_streams, sliding_windows
from jaxrnn.losses import cross_entropy
from jaxrnn.models import LanguageModel

# %% The three ways
STREAMS, CONSECUTIVE, SLIDING = "parallel streams", "consecutive windows", "sliding windows"


def cut(sequence: np.ndarray, batch_size: int, steps: int) -> dict[str, np.ndarray]:
    """Return the sequence in batches [K, B, T], in each of the three ways."""
    slid = sliding_windows(
        sequence, steps + 1
    ).inputs  # windows of `steps`; what would be their target is left out
    return {
        STREAMS: parallel_streams(sequence, batch_size, steps),
        CONSECUTIVE: consecutive_windows(sequence, batch_size, steps),
        SLIDING: np.stack([rows for (rows,) in batches((slid,), batch_size, drop_last=True)]),
    }


def may_carry(numbers: np.ndarray) -> bool:
    """Return whether each row of each batch [K, B, T] of step numbers goes on where that row ended before.

    Only then is the state that came out of one batch the one to go into the next.
    """
    return bool((numbers[1:, :, 0] == numbers[:-1, :, -1] + 1).all())


def described(name: str, numbers: np.ndarray) -> str:
    """Return a sentence with the first two batches, what may be carried, and how often a step is computed."""
    first = ", then ".join(
        " and ".join(f"{row[0]}-{row[-1]}" for row in batch) for batch in numbers[:2].tolist()
    )
    often = numbers.size / len(np.unique(numbers))
    carry = "may be carried" if may_carry(numbers) else "must start afresh"
    return f"{name}: rows {first}; the state {carry}; a step is computed {often:.1f} times."


# %% The experiment
DELAY, STEPS = 5, 8
CEILING = 100 * (STEPS - DELAY / 2) / STEPS  # of a fresh state: DELAY of STEPS answers are coin tosses


@dataclass(frozen=True)
class Size:
    """What the run costs."""

    epochs: int = 15
    hidden: int = 24
    bits: int = 8192


SIZES: dict = {
    "small": Size(epochs=1, hidden=8, bits=2048),
    "default": Size(),
    "full": Size(epochs=60, hidden=64, bits=65536),
}
BATCH = 16


class Echo(NamedTuple):
    """Bits in batches, and at each step the bit of `DELAY` steps before."""

    inputs: np.ndarray  # [K, B, T]
    targets: np.ndarray  # [K, B, T]


def echo(way: str, bits: np.ndarray) -> Echo:
    """Return bits and their echoes, cut in one of the three ways."""
    inputs, targets = (cut(part, BATCH, STEPS)[way] for part in (bits[DELAY:], bits[:-DELAY]))
    return Echo(inputs, targets)


@dataclass(frozen=True)
class Habit:
    """How to train: the way to cut, and whether the state is carried."""

    way: str
    carries: bool = False

    @property
    def asked(self) -> slice:
        """The steps whose answers count: of sliding windows the last one, the others have their own windows."""
        return slice(-1, None) if self.way == SLIDING else slice(None)

    @property
    def name(self) -> str:
        """What tables and figures call it."""
        return f"{self.way}, state {'carried' if self.carries else 'fresh'}"


HABITS = (
    Habit(STREAMS, carries=True),
    Habit(CONSECUTIVE, carries=True),
    Habit(CONSECUTIVE),
    Habit(SLIDING),
)


def train(habit: Habit, bits: np.ndarray, size: Size, seed: int) -> LanguageModel:
    """Return a network that was trained to echo."""
    network = LanguageModel(jaxrnn.GRU, 2, 8, size.hidden, rngs=nnx.Rngs(seed))
    data = echo(habit.way, bits)

    def loss(network, batch, state):
        tokens, answers = batch
        logits, after = network(tokens, state)
        asked = jnp.moveaxis(logits[:, habit.asked], -1, 1)
        value = cross_entropy(asked, jnp.asarray(answers)[:, habit.asked])
        return value, after if habit.carries else state

    rule = optax.chain(jaxrnn.optim.clip_grad_norm(1.0), jaxrnn.optim.adam(1e-2))
    jaxrnn.train.fit(
        network,
        nnx.Optimizer(network, rule, wrt=nnx.Param),
        loss,
        lambda epoch: zip(*data, strict=True),
        epochs=passes(habit, size),
        carry=fresh(network),
        description=habit.name,
    )
    return network


def passes(habit: Habit, size: Size) -> int:
    """Return for how many epochs to train, so that every habit costs about as many steps of the network."""
    return -(-size.epochs // STEPS) if habit.way == SLIDING else size.epochs


def fresh(network: LanguageModel) -> jax.Array:
    """Return the state at the start, [L, B, H]: zeros."""
    return jnp.zeros((1, BATCH, network.rnn.hidden_size))


def answers(network: LanguageModel, habit: Habit, data: Echo) -> np.ndarray:
    """Return which answers are right, [K, B, T], with the state carried as it was in training."""
    network.eval()
    state, right = fresh(network), []
    for inputs, targets in zip(*data, strict=True):
        logits, after = _forward(network, inputs, state)
        state = after if habit.carries else state
        right.append(np.asarray(logits).argmax(-1) == targets)
    return np.stack(right)


_forward: Any = nnx.jit(lambda network, tokens, state: network(jnp.asarray(tokens), state))


# %% The figures
def layouts(ways: Mapping[str, np.ndarray]) -> Figure:
    """Draw which step is in which batch and row, and by arrows where the state may go on."""
    figure = drawing.new(8.4, 4.6)
    for ax, (name, numbers) in zip(figure.subplots(len(ways), 1), ways.items(), strict=True):
        shown = numbers[:3]
        count, rows, steps = shown.shape
        for batch, row, step in np.ndindex(*shown.shape):
            number = shown[batch, row, step]
            place = (batch * (steps + 1) + step, row)
            dark = number < 0.42 * numbers.max()
            ax.add_patch(_box(place, number / numbers.max()))
            ax.text(*place, str(number), ha="center", va="center", color="w" if dark else "k")
        if may_carry(numbers):
            for batch, row in np.ndindex(count - 1, rows):
                at = batch * (steps + 1) + steps
                ax.annotate(
                    "", (at + 0.55, row), (at - 0.55, row), arrowprops={"arrowstyle": "->", "lw": 1.8}
                )
        ax.set_xlim(-0.6, count * (steps + 1) - 1.4 + 0.6)
        ax.set_ylim(rows - 0.4, -0.6)
        ax.set_xticks([batch * (steps + 1) + (steps - 1) / 2 for batch in range(count)])
        ax.set_xticklabels([f"batch {batch}" for batch in range(count)])
        ax.set_yticks(range(rows), [f"row {row}" for row in range(rows)])
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title(
            name + (": the state goes on along the arrows" if may_carry(numbers) else ": a fresh state")
        )
    return figure


def _box(place: tuple[float, float], share: float) -> Any:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    corner = (place[0] - 0.5, place[1] - 0.45)
    return Rectangle(corner, 1, 0.9, facecolor=colormaps[drawing.MAP](share), edgecolor="w")


def by_step(right: Mapping[str, np.ndarray]) -> Figure:
    """Draw how often the answer is right at each step of a window."""
    figure = drawing.new(6.8, 3.6)
    ax = figure.subplots()
    for (name, values), style in zip(right.items(), STYLES, strict=True):
        ax.plot(np.arange(1, STEPS + 1), 100 * values.mean(axis=(0, 1)), label=name, **style)
    ax.axvspan(0.5, DELAY + 0.5, color=drawing.GREY, alpha=0.15, linewidth=0)
    ax.text(DELAY / 2 + 0.5, 30, "the bit came in before\nthe window began", ha="center", va="center")
    ax.set_xlim(0.5, STEPS + 0.5)
    ax.set_ylim(0, 105)
    ax.set_xlabel("step of the window")
    ax.set_ylabel("echoes right (%)")
    ax.legend(frameon=False, loc="lower right", fontsize="small")
    drawing.tidy(ax)
    return figure


STYLES: tuple[dict, ...] = (
    {"color": drawing.BLUE, "linewidth": 2, "marker": "o"},
    {"color": drawing.VERMILLION, "linestyle": "--", "marker": "s"},
    {"color": drawing.ORANGE, "linestyle": "-.", "marker": "^"},
)


# %% The run
def run(size: Size, *, seed: int, judged: bool) -> Outcome:
    """Show three ways to cut a sequence into batches, and measure what each lets a network remember."""
    ways = cut(np.arange(36), 3, 4)
    assert [name for name, numbers in ways.items() if may_carry(numbers)] == [STREAMS]
    rng = np.random.default_rng(seed)
    bits, unseen = rng.integers(0, 2, (2, size.bits), dtype=np.int32)
    networks = {habit: train(habit, bits, size, seed) for habit in HABITS}
    right = {habit: answers(network, habit, echo(habit.way, unseen)) for habit, network in networks.items()}
    best, *_, sliding = HABITS
    agreements = []
    if judged:
        twin = judging.mirror(networks[best], "LanguageModel", jaxrnn.GRU, 2, 8, size.hidden)
        tokens = echo(STREAMS, unseen).inputs[1]
        _, state = _forward(networks[best], echo(STREAMS, unseen).inputs[0], fresh(networks[best]))
        probe = parity.Probe("a batch with its state", (tokens, np.array(state)), outputs=("logits", "state"))
        agreements.append(judging.judge(f"GRU, {best.name}", networks[best], twin, probe))
    return Outcome(
        scores=tuple(scores(right, sliding)),
        agreements=tuple(agreements),
        figures={
            "layouts": layouts(ways),
            "echoes": by_step({habit.name: values for habit, values in right.items() if habit != sliding}),
        },
        remarks=tuple(described(name, numbers) for name, numbers in ways.items()),
    )


def scores(right: Mapping[Habit, np.ndarray], sliding: Habit) -> Sequence[Score]:
    """Return how often each habit is right, beside what is possible without a past."""
    metric, possible = "echoes right (%)", "the most from a fresh state"
    made = [
        Score(habit.name, metric, 100 * float(values.mean()), possible, CEILING, note=NOTE)
        for habit, values in right.items()
        if habit != sliding
    ]
    last = 100 * float(right[sliding][:, :, -1].mean())
    return [*made, Score(sliding.name, f"{metric}, last step", last, "a coin", 50.0)]


NOTE = "its state knows nothing of what came before the window"

LESSON = Lesson("batching", SIZES, run)

# %% tags=["command"]
main = LESSON.command()

if __name__ == "__main__":
    main()
