"""A job: what one child process measures, and what goes to it and comes back as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from benchmarks.sizes import Size, flops, traffic

OURS = "jaxrnn"  # the contender that the others are compared with
_NEVER = 2**40  # bytes
# By name, what is put into GLIBC_TUNABLES: huge pages; and memory that the process keeps, however much it is.
ALLOCATORS = {
    "default": (),
    "hugetlb": ("glibc.malloc.hugetlb=1",),
    "kept": (
        f"glibc.malloc.mmap_threshold={_NEVER}",
        f"glibc.malloc.trim_threshold={_NEVER}",
        "glibc.malloc.arena_max=1",
    ),
}


@dataclasses.dataclass(frozen=True)
class Job:
    """One size, network and mode."""

    size: Size
    kind: str  # of `benchmarks.sizes.KINDS`
    mode: str = "train"  # or "forward"
    allocator: str = "default"  # of `ALLOCATORS`
    features: bool = False  # jaxrnn alone, plain and with lengths, resets and a projection
    peers: tuple[str, ...] = ()  # of `benchmarks.contenders.PEERS`
    budget: float = 20.0  # seconds of timed rounds
    seed: int = 0  # of weights, inputs, order and intervals
    threads: int = 1  # of torch

    @property
    def train(self) -> bool:
        """Whether a training step is measured."""
        return self.mode == "train"

    @property
    def stream(self) -> bool:
        """Whether single calls are measured, between which the caller holds the state."""
        return self.size.calls > 1

    def inputs(self) -> np.ndarray:
        """Return x [T, B, I], in a stream that of all its calls; the same for every contender."""
        size = self.size
        shape = (size.steps * size.calls, size.batch, size.input_features)
        return np.random.default_rng(self.seed).standard_normal(shape, np.float32)

    def flops(self, projected_features: int = 0) -> int:
        """Return the floating-point operations of the matrix products."""
        return (3 if self.train else 1) * flops(self.size, self.kind, projected_features)

    def traffic(self) -> int:
        """Return the bytes that must be moved."""
        return (2 if self.train else 1) * traffic(self.size, self.kind)

    def to_json(self) -> dict[str, Any]:
        """Return the job in plain types."""
        return dataclasses.asdict(self) | {"peers": list(self.peers)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Job:
        """Read what `to_json` returned."""
        return cls(**fields | {"size": Size(**fields["size"]), "peers": tuple(fields["peers"])})

    def __str__(self) -> str:
        extra = [self.allocator] * (self.allocator != "default") + ["features"] * self.features
        return " ".join([self.size.name, self.kind, self.mode, *extra])
