"""The reference's side of a comparison, computed once: it serves any number of candidates and hypotheses."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from parity import gates
from parity.faults.substitution import Function, functions_called
from parity.gates import Array, Quartet, ReferenceError
from parity.oracle import oracle as oracles
from parity.probe import Probe, parameter_names
from parity.running import torch_side
from parity.trace import AMPLIFYING, Trace


@dataclass(frozen=True)
class Evidence:
    """What the reference answers to one probe.

    `model` holds the weights that the probe asks for, `measured` is its run in the precision under test, `oracle`
    the one in float64, and `redrawn` its error as found from several draws.
    """

    model: nn.Module
    probe: Probe
    measured: Trace
    oracle: Trace
    redrawn: Mapping[str, ReferenceError]
    description: str

    @property
    def weights(self) -> dict[str, Array]:
        """The parameters, by name."""
        return torch_side.parameters(self.model)

    @property
    def gradients(self) -> dict[str, Array]:
        """The gradients from which every optimizer step of the comparison is taken."""
        return {name: self.measured[f"grad({name})"] for name in self.weights}

    @cached_property
    def limits(self) -> dict[str, float]:
        """The semantic limit of each array, relative to its size."""
        found = {}
        for name, array in self.measured.of_kind(*AMPLIFYING).items():
            quartet = Quartet(None, array, self.oracle[name], None, redrawn=self.redrawn.get(name))
            if quartet.size() > 0.0 and quartet.precision is not None:
                found[name] = gates.semantic_limit(quartet)
        return found

    def answer(self) -> Trace:
        """Run the reference on the probe once more, in the precision under test."""
        return torch_side.run(self.model, self.probe, self.probe.dtype)

    @cached_property
    def functions(self) -> set[Function]:
        """The functions of torch that the reference calls."""
        return functions_called(self.answer)

    def redraw(self) -> Iterator[tuple[Probe, dict[str, Array], Trace]]:
        """Yield the same question with other roundings: probe, weights, and what the oracle answers."""
        for probe, weights in oracles.moves(self.model, self.probe):
            model = torch_side.with_weights(self.model, weights)
            yield probe, weights, torch_side.run(model, probe, "float64").of_kind(*AMPLIFYING)

    @property
    def notes(self) -> tuple[str, ...]:
        """What this comparison cannot see."""
        notes = []
        zero = [name for name in self.measured.of_kind("param") if not self.measured[name].any()]
        if zero:
            notes.append(
                f"parameters that are zero hide bugs: {', '.join(zero)}; use a Probe with a weight_scale"
            )
        buffers = [name for name, _ in self.model.named_buffers()]
        if buffers:
            notes.append(f"buffers are not compared: {', '.join(buffers)}")
        return tuple(notes)


def complete(probe: Probe, reference: nn.Module) -> Probe:
    """Return the probe with the names of arguments and outputs that the reference's class implies."""
    if probe.arg_names is None:
        probe = dataclasses.replace(probe, arg_names=parameter_names(reference.forward))
    if probe.outputs is None and hasattr(reference, "num_layers"):  # a recurrent layer without a cell state
        probe = dataclasses.replace(probe, outputs=("output", "h_n"))
    return probe


def gather(reference: nn.Module, probe: Probe) -> Evidence:
    """Run the reference on a probe, in the precision under test and in float64.

    Raises ValueError when the probe names outputs that the reference does not return, and
    `oracle.OracleConflictError` when two implementations of the reference disagree.
    """
    declared, probe = probe.outputs, complete(probe, reference)
    if probe.weight_scale is not None:
        reference = torch_side.with_weights(reference, probe.weights(torch_side.parameters(reference)))
    measured = torch_side.run(reference, probe, probe.dtype)
    if declared is not None and not set(declared) <= set(measured):
        found = list(measured.of_kind("output", "state"))
        raise ValueError(f"the probe names the outputs {list(declared)}, but the reference returns {found}.")
    gradients = {name: measured[f"grad({name})"] for name in torch_side.parameters(reference)}
    oracle = oracles.consult(reference, probe, measured, gradients)
    return Evidence(reference, probe, measured, oracle.trace, oracle.redrawn, oracle.description)
