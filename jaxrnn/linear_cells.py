"""Recurrent networks whose gates see the input alone, so that a step is linear in the state, as values.

A `LinearCell` says how a step's pre-activations ``W x + b`` become the two coefficients of ::

    h' = keep ⊙ h + add

With no product of h in it, a whole sequence is one projection and one associative scan: `jaxrnn.ops.linear`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.nn import log_sigmoid, sigmoid

from jaxrnn.cells import HiddenState, PreActivations


@dataclass(frozen=True, repr=False)
class LinearCell:
    """One linear recurrent network, seen from one step.

    `x_gates` names the blocks of H rows of ``weight_ih``. `coefficients` maps them, each [..., H], to `keep` and
    `add`.
    """

    name: str
    x_gates: tuple[str, ...]
    coefficients: Callable[[PreActivations], tuple[jax.Array, jax.Array]]
    state: type[Any] = HiddenState

    def __repr__(self) -> str:
        return f"<linear cell {self.name}>"

    @property
    def gates(self) -> int:
        """G, the number of blocks of H rows in ``weight_ih``."""
        return len(self.x_gates)

    def parameter_shapes(
        self, input_features: int, hidden_features: int, *, bias: bool = True, projected_features: int = 0
    ) -> dict[str, tuple[int, ...]]:
        """Return {name: shape} in the order of registration; nothing multiplies the state or projects it."""
        rows = self.gates * hidden_features
        weights: dict[str, tuple[int, ...]] = {"weight_ih": (rows, input_features)}
        return weights | ({"bias_ih": (rows,)} if bias else {})

    def state_features(self, hidden_features: int, projected_features: int = 0) -> tuple[int, ...]:
        """Return the number of features of each field of the state."""
        return (hidden_features,)


def min_gru_coefficients(pre: PreActivations) -> tuple[jax.Array, jax.Array]:
    """Return `keep` and `add` of the minGRU::

        z = σ(a_z)
        h' = (1 - z) ⊙ h + z ⊙ a_n

    Rows of the weight in the order z, n. Feng et al., "Were RNNs All We Needed?" (2024), arXiv 2410.01201, section
    3.1. Of a GRU it lacks W_hh, the reset gate, and the tanh; here, as there, z = 1 forgets, where a GRU's keeps.
    """
    a_z, a_n = pre
    return sigmoid(-a_z), sigmoid(a_z) * a_n


def min_lstm_coefficients(pre: PreActivations) -> tuple[jax.Array, jax.Array]:
    """Return `keep` and `add` of the minLSTM::

        f, i = σ(a_f), σ(a_i)
        h' = f / (f + i) ⊙ h + i / (f + i) ⊙ a_g

    Rows of the weight in the order f, i, g. Feng et al. (2024), arXiv 2410.01201, section 3.2. Of an LSTM it lacks
    W_hh, the output gate, both tanhs and c: its one state is h.
    """
    a_f, a_i, a_g = pre
    ratio = log_sigmoid(a_f) - log_sigmoid(a_i)  # f / (f + i) = σ(log f - log i), also where both underflow
    return sigmoid(ratio), sigmoid(-ratio) * a_g


MIN_GRU = LinearCell("MIN_GRU", ("z", "n"), min_gru_coefficients)
MIN_LSTM = LinearCell("MIN_LSTM", ("f", "i", "g"), min_lstm_coefficients)
