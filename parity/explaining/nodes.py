"""The quantities inside a reference: every gate of every step of its recurrent parts, with their gradients.

The reference's recurrent parts are spelled out in float64 and watched while they compute (`Recipe.note`). What is
noted is a node; the dataflow between nodes is known, because a step's equations are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from parity.gates import Array
from parity.longhand import recurrent, surface, torch_modules
from parity.longhand.recurrent import FAITHFUL, Network, Params, Place, Recipe
from parity.oracle.evidence import Evidence
from parity.running import torch_side
from parity.verdict import Node

Step = tuple[str, int, int, int]  # part, layer, direction, step: a node without its quantity


class Inputs(NamedTuple):
    """What one step of the oracle received, and the cotangent of what it handed on."""

    x: Array  # [B, I]
    state: dict[str, Array]  # each [B, ...]
    cotangent: dict[str, Array]


@dataclass(frozen=True)
class Observed:
    """The nodes of one run, in the order of computation: values and cotangents [B, H], and rows not yet ended."""

    values: dict[Node, Array]
    cotangents: dict[Node, Array]
    rows: dict[Step, Array]  # bool [B]
    inputs: dict[Step, Inputs]
    parts: dict[str, nn.Module]  # the recurrent layers and cells of the reference

    def parents(self, node: Node) -> Iterator[Node]:
        """Yield the nodes that a node is computed from."""
        yield from (
            parent
            for parent in _parents(node, surface.network_of(self.parts[node.part]))
            if parent in self.values
        )

    def quantities(self, step: Step) -> list[str]:
        """Return the names of what a step computes, in order."""
        return self._quantities[step]

    @cached_property
    def _quantities(self) -> dict[Step, list[str]]:
        found: dict[Step, list[str]] = {}
        for node in self.values:
            found.setdefault(node[:4], []).append(node.quantity)
        return found

    def children(self, node: Node) -> list[Node]:
        """Return the nodes that are computed from a node: those that its cotangent is computed from."""
        return self._children.get(node, [])

    @cached_property
    def _children(self) -> dict[Node, list[Node]]:
        found: dict[Node, list[Node]] = {}
        for node in self.values:
            for parent in self.parents(node):
                found.setdefault(parent, []).append(node)
        return found


def observe(evidence: Evidence) -> Observed:
    """Run the reference in float64 and watch its recurrent parts; a model without any has no nodes."""
    watched: dict[Node, torch.Tensor] = {}
    received: dict[Step, tuple[torch.Tensor, dict[str, torch.Tensor]]] = {}
    valid: dict[Step, torch.Tensor] = {}

    def recipe_of(part: str, network: Network) -> Recipe:
        def step(at: Place) -> Step:
            return part, at.layer, at.direction, int(at.step)

        def note(at: Place, quantity: str, value: torch.Tensor) -> torch.Tensor:
            if quantity == "c'":
                value = value.clone()  # so that its cotangent is only what comes back from the next step
            watched[Node(*step(at), quantity)] = value
            return value

        def sums(at: Place, params: Params, x: torch.Tensor, h: torch.Tensor) -> Any:
            before = received[step(at)][1]
            received[step(at)] = (x, before)
            return recurrent.sums(at, params, x, h)

        def carry(at: Place, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            received[step(at)] = (torch.empty(0), state)
            return state

        def hold(at: Place, rows: torch.Tensor, after: Any, before: Any) -> Any:
            valid[step(at)] = rows
            return recurrent.hold(at, rows, after, before)

        return dataclasses.replace(FAITHFUL, note=note, sums=sums, carry=carry, hold=hold)

    model = torch_modules.plant(evidence.model, recipe_of)
    gradients = torch_side.gradients_of(model, evidence.probe, "float64", watched)
    values = {node: value.detach().numpy() for node, value in watched.items() if node.quantity != "c'"}
    inputs = {}
    for step, (x, state) in received.items():
        ends = {name: gradients[Node(*step, "c'" if name == "c" else name)] for name in state}
        arrays = {name: part.detach().numpy() for name, part in state.items()}
        inputs[step] = Inputs(x.detach().numpy(), arrays, ends)
    rows = {s: valid[s].numpy() if s in valid else np.ones(len(inputs[s].x), bool) for s in inputs}
    cotangents = {node: gradients[node] for node in values}
    return Observed(values, cotangents, rows, inputs, torch_modules.recurrent_parts(evidence.model))


def _parents(node: Node, network: Network) -> Iterator[Node]:
    """Yield what a node is computed from, according to the equations of its step, in this network."""
    gates, quantity = network.gates, node.quantity
    before = node._replace(step=node.step + (1 if node.direction else -1))
    if quantity.startswith("z_"):
        yield before._replace(quantity="h")
        yield from (node._replace(layer=node.layer - 1, direction=d, quantity="h") for d in (0, 1))
        if network.kind == "PEEPHOLE_LSTM" and quantity != "z_g":
            yield node._replace(quantity="c") if quantity == "z_o" else before._replace(quantity="c")
        if quantity == "z_n":
            yield node._replace(quantity="r")
    elif quantity in gates:
        yield node._replace(quantity=f"z_{quantity}")
    elif quantity == "c":
        yield from (node._replace(quantity=gate) for gate in "ifg")
        yield before
    elif "LSTM" in network.kind:
        yield from (node._replace(quantity=name) for name in "oc")
    elif network.kind == "GRU":
        yield from (node._replace(quantity=name) for name in "zn")
        yield before
    else:
        yield node._replace(quantity="a")
