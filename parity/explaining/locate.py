"""Finds where a candidate leaves the reference: the first layer, direction, step and gate that differ.

The candidate needs no hooks. Every number that it computes is recorded (`parity.running.recording`), and each
quantity of the reference (`parity.explaining.nodes`) is looked up among them: it is *present* if all its values
are. What the candidate calls it, how it is laid out, fused or stacked, does not matter. A quantity that is absent,
while all that it is computed from is present, is where the two part.

A candidate may be right and yet never hold some quantity, because it computes what follows in another way. Such a
quantity is *vouched for* by what follows from it and is present.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from parity.explaining.forcing import UserStep, forced_steps
from parity.explaining.nodes import Observed, observe
from parity.gates import Array, rms
from parity.oracle.evidence import Evidence
from parity.running.jax_side import record
from parity.running.recording import Values
from parity.verdict import AGREES, Divergence, Node

Sources = Callable[[Node], Iterable[Node]]


def first_divergence(
    candidate: Any,
    evidence: Evidence,
    observed: Observed | None = None,
    steps: Mapping[str, UserStep] | None = None,
) -> Divergence | None:
    """Return where the candidate's forward pass parts from the reference's, or else its backward pass.

    None where the reference has no recurrent part to look into. `steps`: see `forcing.forced_steps`.
    """
    observed = observed or observe(evidence)
    if not observed.values:
        return None
    numbers = Values(record(candidate, evidence.probe, evidence.weights))
    forward, backward = (
        {node: _distance(array[observed.rows[node[:4]]], numbers) for node, array in arrays.items()}
        for arrays in (observed.values, observed.cotangents)
    )
    forced = _forced(candidate, evidence, observed, steps)
    places = _roots(observed.values, forward, observed, observed.parents)
    if places:
        wrong = _first_in_step(forced[0], observed.parents)
        return Divergence("forward", places, wrong, forward, forced[0])
    places = _roots(observed.cotangents, backward, observed, observed.children)
    wrong = _first_in_step(forced[1], observed.children)
    return Divergence("backward" if places else "none", places, wrong, backward, forced[1])


def _first_in_step(distances: Mapping[Node, float], sources: Sources) -> tuple[Node, ...]:
    """Return what differs in a step although all that it follows from in this step agrees."""
    differing = {node for node, distance in distances.items() if not distance <= AGREES}
    return tuple(
        node
        for node in distances
        if node in differing and not any(s[:4] == node[:4] and s in differing for s in sources(node))
    )


def _roots(
    quantities: Mapping[Node, Array], distances: Mapping[Node, float], observed: Observed, sources: Sources
) -> tuple[Node, ...]:
    """Return what is absent although all that it follows from is present or vouched for."""
    present = {node for node, distance in distances.items() if distance <= AGREES}
    # Nothing but zeros is found everywhere, and vouches for nothing.
    telling = (node for node in present if quantities[node][observed.rows[node[:4]]].any())
    sound = present | {source for node in telling for source in sources(node)}
    return tuple(node for node in quantities if node not in sound and sound.issuperset(sources(node)))


def _forced(
    candidate: Any, evidence: Evidence, observed: Observed, steps: Mapping[str, UserStep] | None
) -> tuple[dict[Node, float], dict[Node, float]]:
    """Return the distances, forward and backward, of every quantity when every step gets the oracle's inputs."""
    found: tuple[dict[Node, float], dict[Node, float]] = ({}, {})
    for step, numbers in forced_steps(candidate, evidence, observed, steps):
        values = Values(numbers)
        for distances, arrays in zip(found, (observed.values, observed.cotangents), strict=True):
            for quantity in observed.quantities(step):
                node = Node(*step, quantity)
                distances[node] = _distance(arrays[node][observed.rows[step]], values)
    return found


def _distance(wanted: Array, numbers: Values) -> float:
    """Return how far an array is from what is among some numbers, relative to its size; zeros are always there."""
    size = rms(wanted)
    return float(numbers.distance(wanted).max() / size) if size > 0.0 else 0.0
