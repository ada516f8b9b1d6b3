"""What a fault is: a name, the part that is wrong, where it can occur, and how to repair it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from parity.longhand.recurrent import FAITHFUL, Network, Place, Recipe


@dataclass(frozen=True)
class Fault:
    """One mistake in a recurrent network.

    parts: the exchanged parts of the recipe, by name. possible: whether a network can have it.
    gate: the gate that is meant to find it. variant: it is one of many of its kind, tried in a diagnosis.
    """

    id: str
    name: str
    fix: str
    parts: Mapping[str, Callable[..., Any]] = field(repr=False)
    possible: Callable[[Network], bool] = field(default=lambda network: True, repr=False)
    gate: str = "semantic"
    variant: bool = False

    def recipe(self, network: Network) -> Recipe:
        """Return how a network computes that has this fault; faithfully, where it cannot have it."""
        return dataclasses.replace(FAITHFUL, **self.parts) if self.possible(network) else FAITHFUL

    def confined(self, where: Callable[[Place], bool]) -> Fault:
        """Return the fault as it is where only some layers or directions have it."""

        def chosen(name: str, wrong: Callable[..., Any]) -> Callable[..., Any]:
            right = getattr(FAITHFUL, name)
            return lambda at, *args: (wrong if where(at) else right)(at, *args)

        parts = {name: chosen(name, wrong) for name, wrong in self.parts.items()}
        return dataclasses.replace(self, parts=parts)


def is_lstm(network: Network) -> bool:
    """Tell an LSTM, with peepholes or without."""
    return "LSTM" in network.kind


def is_peephole(network: Network) -> bool:
    """Tell an LSTM with peepholes."""
    return network.kind == "PEEPHOLE_LSTM"


def is_gru(network: Network) -> bool:
    """Tell a GRU."""
    return network.kind == "GRU"


def is_gated(network: Network) -> bool:
    """Tell an LSTM or a GRU."""
    return is_lstm(network) or is_gru(network)


def is_tanh(network: Network) -> bool:
    """Tell a vanilla RNN with tanh."""
    return network.kind == "RNN_TANH"


def is_relu(network: Network) -> bool:
    """Tell a vanilla RNN with a rectifier."""
    return network.kind == "RNN_RELU"


def is_projected(network: Network) -> bool:
    """Tell an LSTM with a projection."""
    return network.projected > 0


def is_square(network: Network) -> bool:
    """Tell a network whose `weight_hh` has square blocks."""
    return not is_projected(network)


def is_square_lstm(network: Network) -> bool:
    """Tell an LSTM whose h and c are of one size."""
    return is_lstm(network) and is_square(network)


def is_bidirectional(network: Network) -> bool:
    """Tell a network with two directions."""
    return network.directions == 2


def is_deep_and_bidirectional(network: Network) -> bool:
    """Tell a network with two directions and several layers."""
    return is_bidirectional(network) and network.layers > 1
