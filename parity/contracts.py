"""Precision contracts: what both sides promise to compute in, and whether this machine lets them keep it.

A verdict compares like with like. By their defaults the frameworks do not: on NVIDIA's GPUs torch runs recurrent
layers in TF32 and `nn.Linear` in IEEE float32, JAX multiplies in TF32 on a GPU and in bfloat16 on a TPU. A contract
pins both for the time of a run; one that cannot be kept is not judged.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parity.probe import Probe

# Settings that break a promise of IEEE float32 from outside, with the values that do so.
_BREAKING = {"NVIDIA_TF32_OVERRIDE": "1", "XLA_FLAGS": "--xla_cpu_enable_fast_math=true"}


@dataclass(frozen=True)
class Contract:
    """A precision under test."""

    name: str
    promise: str
    settings: Mapping[str, Any]  # fields of a `Probe`

    def apply(self, probe: Probe) -> Probe:
        """Return the probe under this contract."""
        return dataclasses.replace(probe, **self.settings)

    def broken(self) -> str | None:
        """Return what keeps this machine from it, with the remedy; `None` where nothing does."""
        for name, value in _BREAKING.items():
            if value in os.environ.get(name, "").split() and self.name != "tf32":
                return f"contract {self.name}: {name} sets {value}; unset it"
        if self.name == "tf32" and not _has_tensor_cores():
            return "contract tf32: needs an NVIDIA GPU in both frameworks; on this machine use ieee_f32"
        return None


CONTRACTS: Mapping[str, Contract] = {
    contract.name: contract
    for contract in (
        Contract(
            "ieee_f32", "float32, every product in IEEE float32", {"dtype": "float32", "matmul": "ieee"}
        ),
        Contract(
            "tf32", "float32, operands of products rounded to 11 bits", {"dtype": "float32", "matmul": "tf32"}
        ),
        Contract("bf16", "weights, inputs and products in bfloat16", {"dtype": "bfloat16", "matmul": "ieee"}),
        Contract("f16", "weights, inputs and products in float16", {"dtype": "float16", "matmul": "ieee"}),
        Contract(
            "f64",
            "float64 alone: the same function, whatever its rounding",
            {"dtype": "float32", "matmul": "ieee", "tiers": ("semantic",)},
        ),
    )
}


def contract_of(name: str) -> Contract:
    """Return the contract of that name.

    Raises ValueError for any other name.
    """
    if name not in CONTRACTS:
        raise ValueError(f"contract={name!r} is not one of {list(CONTRACTS)}.")
    return CONTRACTS[name]


def _has_tensor_cores() -> bool:
    from parity.running import jax_side, torch_side

    return jax_side.has_gpu() and torch_side.has_gpu()
