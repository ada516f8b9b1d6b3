"""chars2vec: words as points, near to each other where their spelling is; two LSTMs with gates of another kind.

Chikin trained it in Keras 2.2, whose LSTM has a *hard* sigmoid for its gates, three straight lines. PyTorch, Flax
and the Keras of today have the smooth one there, and what they call a hard one is another. Nothing in the file says
so: the weights load into any LSTM, and the points are merely off, which a task that they serve may not even show.

So this is a cell of one's own, `HARD_LSTM`: one function and one constant, of which jaxrnn makes a layer with all
that layers have, derivatives included.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxrnn
import parity
from examples import translate
from examples.common import judging, packages
from examples.moved import oracles
from examples.moved.common import (
    Check,
    Findings,
    Mistake,
    Move,
    difference,
    from_keras,
    hdf5,
    in_turn,
    named,
)
from jaxrnn import torch_pickle
from jaxrnn.cells import Cell, LSTMState, Parameters, PreActivations
from jaxrnn.layers.recurrent import RecurrentLayer

FEATURES = 100  # of a word; the package has five networks, from 50 to 300
FOLDER = f"chars2vec-{packages.CHARS2VEC.version}/chars2vec/trained_models/eng_{FEATURES}"
FILE = f"{FOLDER}/weights.h5"
LAYERS = ("lstm_3", "lstm_4")  # as Keras numbered those of this one


# The cell and its layer


def hard_sigmoid(a: jax.Array) -> jax.Array:
    """Return ``min(max(0.2 a + 0.5, 0), 1)``."""
    return jnp.clip(0.2 * a + 0.5, 0, 1)


def hard_lstm_step(pre: PreActivations, state: LSTMState, own: Parameters) -> LSTMState:
    """Long short-term memory as in Keras 1 and 2::

        i, f, o = hard(a_i), hard(a_f), hard(a_o);   g = tanh(a_g)          hard(a) = min(max(0.2 a + 0.5, 0), 1)
        c' = f ⊙ c + i ⊙ g
        h' = o ⊙ tanh(c')

    Rows of the weights in the order i, f, g, o.
    """
    a_i, a_f, a_g, a_o = pre
    c = hard_sigmoid(a_f) * state.c + hard_sigmoid(a_i) * jnp.tanh(a_g)
    return LSTMState(hard_sigmoid(a_o) * jnp.tanh(c), c)


_GATES = ("i", "f", "g", "o")
HARD_LSTM = Cell("HARD_LSTM", _GATES, _GATES, LSTMState, hard_lstm_step)


class HardLSTM(RecurrentLayer):
    """Stacked LSTMs with hard sigmoids, batch first; ``output, (h_n, c_n) = lstm(input, (h_0, c_0))``."""

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, *, rngs: nnx.Rngs, memory: Any = None
    ):
        self._build(
            HARD_LSTM, input_size, hidden_size, num_layers, True, True, 0.0, False,
            rngs=rngs, dtype=None, param_dtype=jnp.float32, precision=None, implementation=None, memory=memory,
        )  # fmt: skip


# The network


class WordEncoder(nnx.Module):
    """The state of two layers behind a word's last letter."""

    def __init__(self, letters: int, features: int, *, rngs: nnx.Rngs):
        self.lstm = HardLSTM(letters, features, 2, rngs=rngs)

    def __call__(self, letters: jax.Array) -> jax.Array:
        """Return vectors [B, E] of words of one-hot letters [B, T, V]."""
        return self.lstm(letters)[0][:, -1]


@dataclass(frozen=True)
class Published:
    """The package's files."""

    weights: Mapping[str, np.ndarray]  # as they are
    letters: Mapping[str, int]  # the place of each character

    def layers(self) -> list[dict[str, np.ndarray]]:
        """Return the weights of both layers, in torch's layout."""
        return [from_keras(self.weights, name) for name in LAYERS]

    def network(self) -> WordEncoder:
        """Return the network with these weights."""
        network = WordEncoder(len(self.letters), FEATURES, rngs=nnx.Rngs(0))
        jaxrnn.load_state_dict(network, named("lstm", *self.layers()))
        network.eval()
        return network

    def one_hot(self, words: Sequence[str]) -> np.ndarray:
        """Return words as letters [B, T, V], filled up in front; a character that is not known is all zeros."""
        longest = max(map(len, words))
        made = np.zeros((len(words), longest, len(self.letters)), np.float32)
        for row, word in zip(made, words, strict=True):
            for place, letter in enumerate(word.lower(), longest - len(word)):
                if letter in self.letters:
                    row[place, self.letters[letter]] = 1
        return made


def published() -> Published:
    """Return what is in the package; its pickle, numbers and characters, runs on a machine that can do nothing."""
    _, letters = torch_pickle.run(packages.CHARS2VEC.read(f"{FOLDER}/model.pkl"), _no_storage)
    return Published(hdf5(packages.CHARS2VEC.read(FILE)), letters)


def _no_storage(identity: Any) -> torch_pickle.Storage:
    raise ValueError(f"model.pkl refers to {identity!r}, but it should hold numbers and characters alone.")


# Another's computation, and words


def by_equations(
    file: Mapping[str, np.ndarray], letters: np.ndarray, gate: oracles.Gate = oracles.hard_sigmoid
) -> np.ndarray:
    """Return vectors [B, E] in float64, from the weights as the file has them."""
    x = letters
    for layer in LAYERS:
        kernel, recurrent, bias = (file[f"{layer}.{name}"] for name in ("kernel", "recurrent_kernel", "bias"))
        x = oracles.lstm(x, kernel, recurrent, bias, gate)
    return x[:, -1]


def words(count: int) -> list[str]:
    """Return words of the CMU dictionary of 6 to 12 letters, drawn at random."""
    known = sorted(word for word in translate.dictionary() if 6 <= len(word) <= 12)
    return [known[n] for n in np.random.default_rng(0).choice(len(known), count, replace=False)]


def mistyped(word: str, rng: np.random.Generator) -> str:
    """Return a word with two neighbours exchanged that differ."""
    places = [n for n in range(len(word) - 1) if word[n] != word[n + 1]]
    n = places[rng.integers(len(places))]
    return word[:n] + word[n + 1] + word[n] + word[n + 2 :]


def recognised(stored: np.ndarray, of_typos: np.ndarray) -> float:
    """Return of how many typos the nearest vector is that of the word meant, in per cent; those come first."""
    apart = (stored**2).sum(-1) - 2 * of_typos @ stored.T  # and a square that all have
    return 100 * float(np.mean(apart.argmin(axis=1) == np.arange(len(of_typos))))


# The run


@nnx.jit
def _vectors(network: WordEncoder, letters: np.ndarray) -> jax.Array:
    return network(jnp.asarray(letters))


def checks(files: Published, network: WordEncoder, letters: np.ndarray) -> tuple[Check, ...]:
    """Return how far others' computations of the same network are from ours."""
    outputs = oracles.onnx_lstm(
        letters,
        files.layers(),
        activations=["HardSigmoid", "Tanh", "Tanh"],
        activation_alpha=[0.2],
        activation_beta=[0.5],
    )
    found, quantity = np.asarray(_vectors(network, letters)), f"vectors of {len(letters)} words"
    return (
        Check("NumPy, float64", quantity, difference(found, by_equations(files.weights, letters))),
        Check("ONNX Runtime", quantity, difference(found, outputs[:, -1])),
    )


def mistakes(files: Published, network: WordEncoder, count: int, among: int) -> tuple[Mistake, ...]:
    """Return how far vectors are off where a step is done otherwise, and which words they then find for typos.

    The vectors that are searched are the network's own, as a database has them that was made with the package.
    """
    known, rng = words(among), np.random.default_rng(1)
    both = files.one_hot([*known, *(mistyped(word, rng) for word in known[:count])])
    exact = by_equations(files.weights, both)
    stored = exact[:among]
    quantities = "error of the vectors (rms, %)", f"typos that find their word, {count} among {among} (%)"

    def off(vectors: np.ndarray, expected: np.ndarray) -> float:
        return 100 * float(np.sqrt(np.mean((vectors - expected) ** 2) / np.mean(expected**2)))

    ours = np.asarray(_vectors(network, both))
    right = off(ours, exact), recognised(stored, ours[among:])
    rows = []
    for done, gate in SIGMOIDS.items():
        vectors = by_equations(files.weights, both, gate)
        wrong = off(vectors, exact), recognised(stored, vectors[among:])
        rows += [Mistake(done, *row) for row in zip(quantities, wrong, right, strict=True)]
    alone = np.concatenate([by_equations(files.weights, files.one_hot([word])) for word in known[:count]])
    return (
        *rows,
        Mistake("words not filled up in front", quantities[0], off(alone, exact[:count]), right[0]),
    )


SIGMOIDS = {
    "the smooth sigmoid, as every LSTM of today has it": oracles.sigmoid,
    "a / 6 + 0.5, the hard sigmoid of Keras 3 and PyTorch": oracles.hard_sigmoid_of_today,
}


def run(small: bool) -> Findings:
    """Turn words into points, find those that were meant by typos, and judge the points."""
    from examples.moved import twins

    files = published()
    network = files.network()
    twin = judging.filled(twins.WordEncoder(len(files.letters), FEATURES), network)
    chosen = words(40 if small else 300)
    letters = files.one_hot(chosen)
    few = files.one_hot(chosen[: 4 if small else 16])
    tensor = judging.tensor(letters)
    timing = in_turn(
        "a word, in a batch (PyTorch's cell is a loop in Python)",
        len(letters),
        lambda: twin(tensor),
        lambda: jax.block_until_ready(_vectors(network, letters)),
    )
    return Findings(
        agreements=tuple(
            judging.judge(
                name, network, twin, parity.Probe(name, (few,), outputs=("vectors",), weight_scale=scale)
            )
            for name, scale in (("its weights", None), ("drawn weights", 1.0))
        ),
        checks=checks(files, network, letters),
        mistakes=mistakes(files, network, *((40, 200) if small else (300, 5000))),
        timings=(timing,),
    )


MOVE = Move(
    packages.CHARS2VEC,
    FILE,
    "Apache-2.0",
    "two LSTMs with hard sigmoids: spelling to a point for a word",
    run,
)
