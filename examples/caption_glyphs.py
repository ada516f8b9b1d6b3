# %% [markdown]
"""What is this character called? From an image to its name, word by word (one to many).

    python -m examples.caption_glyphs

An image goes in, a sentence comes out: "latin capital letter n with cedilla". Convolutions look at a character in
one of the fonts that come with matplotlib, an LSTM writes the name that Unicode gives it, by beam search or
greedily, and with attention each word has a place in the image that it looks at. What is held out are fonts, and of
some characters every image: their names were never seen as a whole, and have to be put together from words. Beside
the network stands the name of the nearest training image, which cannot say anything new. (Nobody can be right
always: Latin, Greek and Cyrillic have letters that look the same.)
"""

# %% The imports
import unicodedata
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

import jaxrnn
import parity
from examples.common import drawing, judging
from examples.common.lesson import Lesson
from examples.common.results import Agreement, Outcome, Score
from examples.common.training import learn, padded
from jaxrnn.losses import cross_entropy, masked_mean
from jaxrnn.models import Captioner, Decoded, beam_search, greedy, shift_right

# %% The data
FONTS = {
    "train": (
        *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
        *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
        "DejaVuSerif",
    ),
    "validation": ("DejaVuSerif-BoldItalic",),
    "test": ("DejaVuSerif-Bold", "DejaVuSerif-Italic"),
}
FOLDER = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
PAD, BOS, EOS = 0, 1, 2
SIDE, POINTS = 32, 22  # of an image in pixels, and the size of a character in it


class Glyphs(NamedTuple):
    """Images of characters and their names; as tokens, padded, each with EOS at its end."""

    names: list[str]
    images: np.ndarray  # [N, 1, H, W], 0 to 1
    target: np.ndarray  # [N, T]
    lengths: np.ndarray  # [N], EOS included


class Data(NamedTuple):
    """What is learned from, what chooses the epoch, what is held out: other fonts, and in them new characters."""

    train: Glyphs
    validation: Glyphs
    fonts: Glyphs
    characters: Glyphs
    words: list[str]  # of which the first is token 3


def first(glyphs: Glyphs, count: int) -> Glyphs:
    """Return the first few."""
    names, *arrays = glyphs
    return Glyphs(names[:count], *(array[:count] for array in arrays))


def name_of(character: str) -> str:
    """Return Unicode's name in lower case, its hyphens as blanks."""
    return unicodedata.name(character).lower().replace("-", " ")


def characters() -> list[str]:
    """Return what every font has a drawing and Unicode a name for: letters, digits, punctuation and symbols.

    A name must be of words that other names have too.
    """
    drawn = [
        set(FT2Font(str(FOLDER / f"{font}.ttf")).get_charmap()) for fonts in FONTS.values() for font in fonts
    ]
    known = map(chr, sorted(set.intersection(*drawn)))
    named = [c for c in known if unicodedata.name(c, None) and unicodedata.category(c)[0] in "LNPS"]
    uses = Counter(word for c in named for word in set(name_of(c).split()))
    return [c for c in named if min(uses[word] for word in name_of(c).split()) > 3]


def draw(character: str, font: Any) -> np.ndarray:
    """Return a character in white on black, at its place on the line."""
    image = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(image).text((SIDE / 2, 0.72 * SIDE), character, 255, font, anchor="ms")
    return np.asarray(image, np.float32)[None] / 255


def load(size: "Size", seed: int) -> Data:
    """Return the glyphs, a tenth of the characters held out from what is learned."""
    known = characters()
    order = np.random.default_rng(seed).permutation(len(known))[: size.characters]
    new = {known[n] for n in order[: len(order) // 10]}
    old = [known[n] for n in sorted(order) if known[n] not in new]
    words = sorted({word for c in old for word in name_of(c).split()})
    new = {c for c in new if set(name_of(c).split()) <= set(words)}
    number = {word: 3 + place for place, word in enumerate(words)}

    def glyphs(part: str, drawn: Sequence[str], learned: Set[bytes] = frozenset()) -> Glyphs:
        opened = [ImageFont.truetype(str(FOLDER / f"{font}.ttf"), POINTS) for font in FONTS[part]]
        pairs = [(name_of(c), draw(c, font)) for font in opened for c in drawn]
        pairs = [(name, image) for name, image in pairs if image.tobytes() not in learned]
        names = [name for name, _ in pairs]
        tokens = padded([[*(number[word] for word in name.split()), EOS] for name in names], LONGEST)
        return Glyphs(names, np.stack([image for _, image in pairs]), *tokens)

    train = glyphs("train", old)
    learned = {image.tobytes() for image in train.images}  # the fonts share their arrows, for example
    validation, fonts = (glyphs(part, old, learned) for part in ("validation", "test"))
    return Data(train, validation, fonts, glyphs("test", sorted(new), learned), words)


LONGEST = 12  # tokens of a name
SEARCH: dict[str, Any] = {"bos": BOS, "eos": EOS, "max_length": LONGEST}


# %% The model and its training
@dataclass(frozen=True)
class Size:
    """What the run costs."""

    characters: int = 1200
    epochs: int = 18
    hidden: int = 128
    features: tuple[int, ...] = (16, 32, 64)
    width: int = 4  # of the beam search


SIZES: dict = {
    "small": Size(characters=80, epochs=1, hidden=16, features=(4, 8), width=2),
    "default": Size(),
    "full": Size(characters=3000, epochs=40, hidden=256, features=(32, 64, 128)),
}
NAME = "LSTM with attention"


def sizes(data: Data, size: Size) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what the class of the network is called with."""
    options = {"channels": 1, "features": size.features, "attention": jaxrnn.AdditiveAttention}
    return (jaxrnn.LSTM, 3 + len(data.words), size.hidden // 2, size.hidden), options


def loss(network, batch):
    """Return the mean cross-entropy of a word, each predicted from those before it; padding does not count."""
    images, target, lengths = batch
    target = jnp.asarray(target)
    logits = network(jnp.asarray(images), shift_right(target, BOS))
    each = cross_entropy(logits.swapaxes(1, 2), target, reduction="none")
    return masked_mean(each, lengths=jnp.asarray(lengths))


def train(data: Data, size: Size, seed: int) -> Captioner:
    """Return a trained network: the weights of the epoch with the lowest validation loss."""
    args, options = sizes(data, size)
    network = Captioner(*args, **options, rngs=nnx.Rngs(seed))
    network.train()
    steps = size.epochs * (len(data.train.names) // 64)
    validate = nnx.jit(lambda network: loss(network, data.validation[1:]))
    learn(
        network,
        loss,
        data.train[1:],
        description=NAME,
        epochs=size.epochs,
        batch_size=64,
        learning_rate=optax.warmup_cosine_decay_schedule(0.0, 4e-3, steps // 10, steps),
        seed=seed,
        validate=validate,
    )
    network.eval()
    return network


# %% Captions, and the baseline
def search(network: Captioner, glyphs: Glyphs, width: int | None) -> Decoded:
    """Return captions, greedily or, with a width, the best of a beam search."""
    if width is None:
        return greedy(network, glyphs.images, **SEARCH)
    found = beam_search(network, glyphs.images, **SEARCH, width=width)
    return Decoded(found.tokens[:, 0], found.lengths[:, 0], found.log_probs[:, 0])


def in_words(decoded: Decoded, words: Sequence[str]) -> list[str]:
    """Return decoded tokens as names."""
    rows = zip(np.asarray(decoded.tokens), np.asarray(decoded.lengths), strict=True)
    return [" ".join(words[t - 3] for t in row[:length] if t > EOS) for row, length in rows]


def nearest(train: Glyphs, glyphs: Glyphs) -> list[str]:
    """Return the names of the training images with the smallest squared distance."""
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(1).fit(train.images.reshape(len(train.names), -1), train.names)
    return list(model.predict(glyphs.images.reshape(len(glyphs.names), -1)))


def right(said: Sequence[str], glyphs: Glyphs) -> float:
    """Return how many names are right to the last word, in per cent."""
    return 100 * float(np.mean([mine == true for mine, true in zip(said, glyphs.names, strict=True)]))


def words_found(said: Sequence[str], glyphs: Glyphs) -> float:
    """Return how much of the words said and true agrees, in per cent: the mean F1 of each name's words."""
    scores = []
    for mine, true in zip(said, glyphs.names, strict=True):
        common = sum((Counter(mine.split()) & Counter(true.split())).values())
        scores.append(2 * common / (len(mine.split()) + len(true.split())))
    return 100 * float(np.mean(scores))


# %% The figures
def samples(glyphs: Glyphs, said: Sequence[str], rows: int = 6) -> Figure:
    """Draw held-out characters with what was said of them, wrong names in another colour and with the right one."""
    shown = np.linspace(0, len(glyphs.names) - 1, 2 * rows).astype(int)
    figure = drawing.new(9.0, 0.75 * rows)
    for ax, n in zip(figure.subplots(rows, 2).ravel(), shown, strict=True):
        ax.imshow(glyphs.images[n, 0], cmap="gray_r")
        ax.set_axis_off()
        correct = said[n] == glyphs.names[n]
        text = said[n] if correct else f"{said[n]}\n(it is: {glyphs.names[n]})"
        color = drawing.BLACK if correct else drawing.VERMILLION
        ax.text(SIDE + 3, SIDE / 2, text, va="center", fontsize="small", color=color)
        ax.set_xlim(0, 9 * SIDE)
    return figure


def looks(network: Captioner, glyphs: Glyphs, words: Sequence[str], n: int) -> Figure:
    """Draw where in the image the network looks for each word of a name."""
    target = jnp.asarray(glyphs.target[n : n + 1])
    weights = np.asarray(
        network.attention_weights(jnp.asarray(glyphs.images[n : n + 1]), shift_right(target, BOS))
    )[0]
    length, places = int(glyphs.lengths[n]), round(weights.shape[-1] ** 0.5)
    figure = drawing.new(1.5 * (length + 1), 1.9)
    axes = figure.subplots(1, length + 1)
    axes[0].imshow(glyphs.images[n, 0], cmap="gray_r")
    axes[0].set_title("the image", fontsize="small")
    for ax, token, weight in zip(axes[1:], np.asarray(target)[0], weights, strict=False):
        image = ax.imshow(
            weight.reshape(places, places), cmap=drawing.MAP, vmin=0, vmax=1, extent=(0, SIDE, SIDE, 0)
        )
        ax.imshow(glyphs.images[n, 0], cmap="gray_r", alpha=0.25)
        ax.set_title("end" if token == EOS else words[token - 3], fontsize="small")
    for ax in axes:
        ax.set_xticks([])
        ax.set_yticks([])
    figure.colorbar(image, ax=axes, label="weight of the place", shrink=0.8)
    return figure


# %% The comparison with PyTorch
def agreement(network: Captioner, data: Data, size: Size) -> Agreement:
    """Judge the trained network, and compare what both frameworks decode, token for token, for a few images."""
    args, options = sizes(data, size)
    twin = judging.mirror(network, "Captioner", *args, **options)
    few = first(data.fonts, 24)
    beams = beam_search(network, few.images, **SEARCH, width=size.width).tokens
    greedily = search(network, few, None).tokens
    identical = judging.same_tokens(twin, (few.images,), greedily, beams, width=size.width, **SEARCH)
    shifted = np.asarray(shift_right(jnp.asarray(few.target[:12]), BOS))
    probe = parity.Probe("glyphs in other fonts", (few.images[:12], shifted), outputs=("logits",))
    return judging.judge(NAME, network, twin, probe, identical=identical)


# %% The run
def run(size: Size, *, seed: int, judged: bool) -> Outcome:
    """Train a network to name characters in fonts that it has not seen, and characters that it has not seen."""
    data = load(size, seed)
    network = train(data, size, seed)
    scores, remarks, said = [], [], {}
    for part, glyphs in (("other fonts", data.fonts), ("other fonts, new characters", data.characters)):
        said[part] = in_words(search(network, glyphs, size.width), data.words)
        simple = in_words(search(network, glyphs, None), data.words)
        closest = nearest(data.train, glyphs)
        model, other = f"{NAME}, {part}", "nearest training image"
        for metric, measure in (("names right (%)", right), ("words right (F1, %)", words_found)):
            mine, its = measure(said[part], glyphs), measure(closest, glyphs)
            scores.append(Score(model, metric, mine, other, its, note=COPIED))
        remarks.append(f"{part}: {right(simple, glyphs):.1f} % of the names right greedily.")
    glyphs = data.characters
    middle = int(np.argsort(glyphs.lengths, kind="stable")[len(glyphs.names) // 2])
    return Outcome(
        scores=tuple(scores),
        agreements=(agreement(network, data, size),) if judged else (),
        figures={
            "samples": samples(glyphs, said["other fonts, new characters"]),
            "attention": looks(network, glyphs, data.words, middle),
        },
        remarks=(
            f"{len(data.train.names)} images of {len(data.train.names) // len(FONTS['train'])} characters for "
            f"training, {len(data.fonts.names)} of the same characters in other fonts and {len(glyphs.names)} of "
            f"new characters held out; {len(data.words)} words.",
            *remarks,
        ),
    )


COPIED = "of a character that it has seen, a font alike has the whole name to copy"
LESSON = Lesson("caption_glyphs", SIZES, run)

# %% tags=["command"]
main = LESSON.command()

if __name__ == "__main__":
    main()
