# %% [markdown]
"""From which language does a surname come? A network that reads it letter by letter (many to one).

    python -m examples.names

The classic first exercise with recurrent networks. A GRU reads the characters of a surname and is asked for its
language at the end. Beside it stands logistic regression on the counts of all groups of one to three characters,
which knows which letters stand together but not in what order the groups come.
"""

# %% The imports
import ast
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

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

# %% The data
LOCALES = {
    "Croatian": ("hr_HR",),
    "Dutch": ("nl_NL",),
    "English": ("en_US",),
    "Estonian": ("et_EE",),
    "Finnish": ("fi_FI",),
    "French": ("fr_FR", "fr_BE"),
    "German": ("de_DE", "de_AT"),
    "Irish": ("ga_IE",),
    "Italian": ("it_IT",),
    "Slovak": ("sk_SK",),
    "Spanish": ("es_ES",),
    "Swedish": ("sv_SE",),
}
LANGUAGES = tuple(LOCALES)


class Names(NamedTuple):
    """Surnames as tokens, padded, with the lengths and the languages' numbers."""

    texts: list[str]
    tokens: np.ndarray  # [N, T]
    lengths: np.ndarray  # [N]
    languages: np.ndarray  # [N]


def surnames(locale: str) -> set[str]:
    """Return the surnames that the package faker has for a locale; its source is parsed, not run."""
    source = packages.FAKER.read(f"faker/providers/person/{locale}/__init__.py").decode()
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and str(getattr(node.targets[0], "id", "")).startswith("last_names"):
            texts = (part.value for part in ast.walk(node.value) if isinstance(part, ast.Constant))
            found |= {text for text in texts if isinstance(text, str) and text.replace(" ", "").isalpha()}
    return found


def load(seed: int) -> tuple[tuple[Names, Names, Names], str]:
    """Return surnames for training, validation and test (70, 10, 20 %), and the alphabet; token 0 is padding.

    A name that several languages have is left out: there is no telling.
    """
    per_language = [set().union(*map(surnames, locales)) for locales in LOCALES.values()]
    languages = Counter(name for names in per_language for name in names)
    rows = [
        (name, number)
        for number, names in enumerate(per_language)
        for name in sorted(names)
        if languages[name] == 1
    ]
    alphabet = "".join(sorted({letter for name, _ in rows for letter in name}))
    tokens, lengths = padded([[1 + alphabet.index(letter) for letter in name] for name, _ in rows])
    order = np.random.default_rng(seed).permutation(len(rows))
    ends = round(0.7 * len(rows)), round(0.8 * len(rows))
    parts = (order[: ends[0]], order[ends[0] : ends[1]], order[ends[1] :])
    numbers = np.array([number for _, number in rows], np.int32)
    names = [Names([rows[n][0] for n in part], tokens[part], lengths[part], numbers[part]) for part in parts]
    return (names[0], names[1], names[2]), alphabet


# %% The model and its training
@dataclass(frozen=True)
class Size:
    """What the run costs."""

    epochs: int = 12
    hidden: int = 128
    rows: int | None = None  # of the training part


SIZES: dict = {
    "small": Size(epochs=2, hidden=16, rows=512),
    "default": Size(),
    "full": Size(epochs=40, hidden=256),
}


def loss(network, batch):
    """Return the cross-entropy of a batch of names."""
    tokens, lengths, languages = batch
    return cross_entropy(network(tokens, lengths), jnp.asarray(languages))


def train(names: Names, check: Names, sizes: tuple[int, ...], size: Size, seed: int) -> TextClassifier:
    """Return a trained network: the weights of the epoch with the lowest validation loss."""
    network = TextClassifier(jaxrnn.GRU, *sizes, dropout=0.3, rngs=nnx.Rngs(seed))
    network.train()
    held_out = (check.tokens, check.lengths, check.languages)
    validate = nnx.jit(lambda network: loss(network, held_out))
    learn(
        network,
        loss,
        [array[: size.rows] for array in names[1:]],
        description="GRU",
        epochs=size.epochs,
        batch_size=64,
        learning_rate=3e-3,
        seed=seed,
        validate=validate,
    )
    return network


# %% The baselines
def groups_of_letters(names: Names, test: Names, rows: int | None) -> np.ndarray:
    """Return what logistic regression on counts of one to three letters says of the test's names."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    counts = CountVectorizer(analyzer="char_wb", ngram_range=(1, 3))
    model = make_pipeline(counts, LogisticRegression(max_iter=1000))
    return model.fit(names.texts[:rows], names.languages[:rows]).predict(test.texts)


# %% The figure
def confusion(truth: np.ndarray, said: np.ndarray) -> Figure:
    """Draw which language was said for which, in per cent of each language's names."""
    counts = np.zeros((len(LANGUAGES), len(LANGUAGES)))
    np.add.at(counts, (truth, said), 1)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = drawing.new(6.4, 5.4)
    ax = figure.subplots()
    image = ax.imshow(shares, cmap=drawing.MAP, vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 5:
            ax.text(column, row, f"{share:.0f}", ha="center", va="center", color="w" if share < 50 else "k")
    ax.set_xticks(range(len(LANGUAGES)), LANGUAGES, rotation=45, ha="right")
    ax.set_yticks(range(len(LANGUAGES)), LANGUAGES)
    ax.set_xlabel("said by the GRU")
    ax.set_ylabel("language of the surname")
    figure.colorbar(image, label="share of the language's held-out surnames (%)", shrink=0.8)
    return figure


# %% The run
NOTE = "which letters stand together says most of it, and 8313 names are few to learn it from"


def run(size: Size, *, seed: int, judged: bool) -> Outcome:
    """Train a GRU to tell a surname's language, beside logistic regression on groups of letters."""
    (names, check, test), alphabet = load(seed)
    sizes = 1 + len(alphabet), 32, size.hidden, len(LANGUAGES)
    network = train(names, check, sizes, size, seed)
    said = predict(network, test.tokens, test.lengths).argmax(-1)
    counted = groups_of_letters(names, test, size.rows)
    accuracy = [100 * float(np.mean(answer == test.languages)) for answer in (said, counted)]
    majority = 100 * float(np.mean(test.languages == Counter(names.languages.tolist()).most_common(1)[0][0]))
    agreements = []
    if judged:
        twin = judging.mirror(network, "TextClassifier", jaxrnn.GRU, *sizes)
        probe = parity.Probe("held-out surnames", (test.tokens[:32], test.lengths[:32]), outputs=("logits",))
        agreements.append(judging.judge("GRU", network, twin, probe))
    metric = "accuracy (%)"
    return Outcome(
        scores=(
            Score("GRU", metric, accuracy[0], "most frequent language", majority),
            Score("GRU", metric, accuracy[0], "groups of letters", accuracy[1], note=NOTE),
        ),
        agreements=tuple(agreements),
        figures={"confusion": confusion(test.languages, said)},
        remarks=(f"{len(names.texts)} surnames for training, {len(test.texts)} held out.",),
    )


LESSON = Lesson("names", SIZES, run)

# %% tags=["command"]
main = LESSON.command()

if __name__ == "__main__":
    main()
