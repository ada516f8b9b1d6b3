# %% [markdown]
"""What is to be seen in each frame? One label per frame, by one direction and by two (many to many, in step).

    python -m examples.frame_labels

Handwritten digits pass by a slit: a frame is one column of 28 pixels, a video is 120 of them, and every frame is to
be labelled with the digit that is passing, or as blank. At a digit's first columns the past does not tell which one
it is, only the future does. A tagger that reads in both directions has seen it; one that reads forwards, with as
many weights, has to guess.
"""

# %% The imports
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib.figure import Figure

import jaxrnn
import parity
from examples import image_rows
from examples.common import drawing, judging
from examples.common.lesson import Lesson
from examples.common.results import Outcome, Score
from examples.common.training import learn, predict
from examples.image_rows import Images
from jaxrnn.losses import cross_entropy
from jaxrnn.models import Tagger
from jaxrnn.optim import cosine_annealing_lr

# %% The data
STEPS = 120
BLANK = 10
LABELS = (*map(str, range(10)), "blank")
LARGEST_GAP = 8  # blank columns between two digits; there may be none


class Videos(NamedTuple):
    """Columns that pass by, and what each belongs to."""

    frames: np.ndarray  # [N, T, 28]
    labels: np.ndarray  # [N, T]: 0 to 9, or BLANK


def film(images: Images, count: int, rng: np.random.Generator) -> Videos:
    """Return videos of digits drawn from some images, with gaps between them; the last digit may be cut."""
    background = images.pixels.min()
    pictures = images.pixels.reshape(-1, 28, 28).swapaxes(1, 2)  # column by column
    inked = (pictures > background).any(axis=2)
    frames = np.full((count, STEPS, 28), background, np.float32)
    labels = np.full((count, STEPS), BLANK, np.int32)
    for row in range(count):
        start = rng.integers(LARGEST_GAP + 1)
        while start < STEPS:
            drawn = rng.integers(len(pictures))
            first, last = np.flatnonzero(inked[drawn])[[0, -1]]
            place = slice(start, min(start + last + 1 - first, STEPS))
            frames[row, place] = pictures[drawn, first : first + place.stop - start]
            labels[row, place] = images.digits[drawn]
            start = place.stop + rng.integers(LARGEST_GAP + 1)
    return Videos(frames, labels)


def load(seed: int, count: int) -> tuple[Videos, Videos, Videos]:
    """Return `count` videos for training, 100 for validation and 200 for test, each of images of its own."""
    rng = np.random.default_rng(seed)
    train, check, test = image_rows.load(seed)
    return film(train, count, rng), film(check, 100, rng), film(test, 200, rng)


# %% The models and their training
@dataclass(frozen=True)
class Size:
    """What the run costs."""

    videos: int = 2000
    epochs: int = 15
    baseline_frames: int = 10000  # that logistic regression learns from
    hidden: int = 64  # of each of two directions; a single one has 3/2 of it, and so as many weights


SIZES: dict = {
    "small": Size(videos=64, epochs=1, baseline_frames=500, hidden=16),
    "default": Size(),
    "full": Size(videos=10000, epochs=30, hidden=128),
}
ONE, TWO = "one direction", "two directions"


def loss(network, batch):
    """Return the cross-entropy of all frames of a batch."""
    frames, labels = batch
    return cross_entropy(jnp.moveaxis(network(frames), -1, 1), jnp.asarray(labels))


def train(
    name: str, data: Videos, check: Videos, size: Size, seed: int
) -> tuple[Tagger, tuple[int, int, int]]:
    """Return a trained tagger and its sizes: the weights of the best epoch in validation."""
    sizes = 28, size.hidden if name == TWO else size.hidden * 3 // 2, len(LABELS)
    network = Tagger(jaxrnn.LSTM, *sizes, bidirectional=name == TWO, rngs=nnx.Rngs(seed))
    learn(
        network,
        loss,
        data,
        description=f"LSTM, {name}",
        epochs=size.epochs,
        batch_size=32,
        learning_rate=cosine_annealing_lr(5e-3, size.epochs * (len(data.labels) // 32)),
        seed=seed,
        validate=nnx.jit(lambda network: loss(network, check)),
    )
    return network, sizes


# %% The baselines
def windows(frames: np.ndarray, before: int, after: int) -> np.ndarray:
    """Return each frame with some before and after it, [N, T, (before + 1 + after) 28]; outside, all is blank."""
    padding = ((0, 0), (before, after), (0, 0))
    padded = np.pad(frames, padding, constant_values=frames.min())
    shifted = [padded[:, shift : shift + frames.shape[1]] for shift in range(before + 1 + after)]
    return np.concatenate(shifted, axis=-1)


def logistic(data: Videos, test: Videos, before: int, after: int, frames: int) -> np.ndarray:
    """Return what logistic regression says of the test's frames [N, T], from a window around each.

    It learns from as many `frames` of the training part, evenly spread.
    """
    from sklearn.linear_model import LogisticRegression

    few = slice(0, 400)  # videos; their windows are 110 MB
    inputs, labels = windows(data.frames[few], before, after), data.labels[few].ravel()
    drawn = np.linspace(0, labels.size - 1, min(frames, labels.size)).astype(int)
    model = LogisticRegression(C=0.01, max_iter=300)
    model.fit(inputs.reshape(labels.size, -1)[drawn], labels[drawn])
    seen = windows(test.frames, before, after)
    return model.predict(seen.reshape(test.labels.size, -1)).reshape(test.labels.shape)


# %% The figures
def columns_seen(labels: np.ndarray) -> np.ndarray:
    """Return how many columns of its digit, or of its gap, have passed at each frame [N, T], itself included.

    Two equal digits without a gap count as one.
    """
    seen = np.ones(labels.shape, int)
    for t in range(1, labels.shape[1]):
        seen[:, t] = np.where(labels[:, t] == labels[:, t - 1], seen[:, t - 1] + 1, 1)
    return seen


def by_column(test: Videos, answers: Mapping[str, np.ndarray]) -> Figure:
    """Draw how often a digit's frame is labelled right, by how many of its columns have passed."""
    seen, digit = columns_seen(test.labels), test.labels != BLANK
    figure = drawing.new(6.4, 3.6)
    ax = figure.subplots()
    places = np.arange(1, 21)
    for (name, said), style in zip(answers.items(), STYLES, strict=True):
        right = said == test.labels
        ax.plot(places, [100 * right[digit & (seen == k)].mean() for k in places], label=name, **style)
    ax.set_xticks([1, 5, 10, 15, 20])
    ax.set_xlabel("columns of the digit that have passed")
    ax.set_ylabel("frames labelled right (%)")
    ax.set_ylim(0, 102)
    ax.legend(frameon=False, loc="lower right")
    drawing.tidy(ax)
    return figure


STYLES: tuple[dict, ...] = (
    {"color": drawing.ORANGE, "linestyle": "--", "linewidth": 2},
    {"color": drawing.BLUE, "linewidth": 2},
    {"color": drawing.GREY, "linestyle": ":"},
)


def strip(frames: np.ndarray, labels: np.ndarray, logits: Mapping[str, np.ndarray]) -> Figure:
    """Draw a video, and below it what each tagger holds every frame for; a dot is the truth."""
    figure = drawing.new(9.0, 5.6)
    axes = figure.subplots(1 + len(logits), 1, sharex=True, height_ratios=(0.8, *[1] * len(logits)))
    axes[0].imshow(frames.T, cmap="gray", aspect="auto", interpolation="nearest")
    axes[0].set_ylabel("pixel")
    for ax, (name, scores) in zip(axes[1:], logits.items(), strict=True):
        shares = np.asarray(jax.nn.softmax(scores, axis=-1))
        image = ax.imshow(shares.T, cmap=drawing.MAP, aspect="auto", vmin=0, vmax=1, interpolation="nearest")
        ax.plot(labels, ".", color=drawing.VERMILLION, markersize=3)
        ax.set_yticks(range(len(LABELS)), LABELS)
        ax.set_ylabel(name)
    axes[-1].set_xlabel("frame")
    figure.colorbar(image, ax=axes[1:], label="probability (dot: the truth)", shrink=0.7, pad=0.01)
    return figure


# %% The run
AROUND = "logistic regression, 10 before and after"


def run(size: Size, *, seed: int, judged: bool) -> Outcome:
    """Label every frame by an LSTM in one direction and in two, beside logistic regression on a few frames."""
    data, check, test = load(seed, size.videos)
    logits, agreements = {}, []
    for name in (ONE, TWO):
        network, sizes = train(name, data, check, size, seed)
        logits[name] = predict(network, test.frames)
        if judged:
            twin = judging.mirror(network, "Tagger", jaxrnn.LSTM, *sizes, bidirectional=name == TWO)
            probe = parity.Probe("held-out videos", (test.frames[:3],), outputs=("logits",))
            agreements.append(judging.judge(f"LSTM, {name}", network, twin, probe))
    said = {name: scores.argmax(-1) for name, scores in logits.items()}
    baselines = {
        "most frequent label": np.full_like(test.labels, np.bincount(data.labels.ravel()).argmax()),
        "logistic regression, the frame": logistic(data, test, 0, 0, size.baseline_frames),
        "logistic regression, 20 before": logistic(data, test, 20, 0, size.baseline_frames),
        AROUND: logistic(data, test, 10, 10, size.baseline_frames),
    }
    right = {name: 100 * float(np.mean(answer == test.labels)) for name, answer in (said | baselines).items()}
    scores = [
        Score(
            f"LSTM, {name}",
            "frames right (%)",
            right[name],
            baseline,
            right[baseline],
            note="it has not seen what is still to come" if (name, baseline) == (ONE, AROUND) else "",
        )
        for name in (ONE, TWO)
        for baseline in baselines
    ]
    scores.append(Score(f"LSTM, {TWO}", "frames right (%)", right[TWO], f"LSTM, {ONE}", right[ONE]))
    drawn = {f"LSTM, {name}": answer for name, answer in said.items()} | {AROUND: baselines[AROUND]}
    return Outcome(
        scores=tuple(scores),
        agreements=tuple(agreements),
        figures={
            "strip": strip(test.frames[0], test.labels[0], {name: rows[0] for name, rows in logits.items()}),
            "columns": by_column(test, drawn),
        },
        remarks=(f"{data.labels.size} frames for training, {test.labels.size} held out, of other images.",),
    )


LESSON = Lesson("frame_labels", SIZES, run)

# %% tags=["command"]
main = LESSON.command()

if __name__ == "__main__":
    main()
