"""Who is measured: jaxrnn, and what of its peers is installed; a module for each library."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.contenders.contender import Contender, UnsupportedError
from benchmarks.jobs import Job


@dataclass(frozen=True)
class Peer:
    """A library beside jaxrnn."""

    module: str  # its `contenders(job, x)` yields Contenders and UnsupportedError
    needs: str  # the package
    install: str
    asked: bool = True  # measured where no peer is named


_TORCH, _PEERS = "pip install 'jaxrnn[torch]'", "pip install 'jaxrnn[peers-{}]'"

PEERS = {
    "torch": Peer("torch_nn", "torch", _TORCH),
    "torch.compile": Peer("torch_compile", "torch", _TORCH),
    "flax.nnx": Peer("flax_nnx", "flax", "pip install flax"),
    "flax.linen": Peer("flax_linen", "flax", "pip install flax"),
    "haiku": Peer("haiku_peer", "haiku", _PEERS.format("haiku")),
    "equinox": Peer("equinox_peer", "equinox", _PEERS.format("equinox")),
    "keras": Peer("keras_peer", "keras", _PEERS.format("keras")),
}


def missing(name: str) -> str | None:
    """Say that a peer is not installed, with the remedy; None where it is."""
    peer = PEERS[name]
    if importlib.util.find_spec(peer.needs) is None:
        return f"not installed: {peer.install}"
    return None


def peers_of(job: Job, x: np.ndarray) -> Iterator[tuple[str, Contender | UnsupportedError]]:
    """Yield (name, contender) of every peer of a job; where there is none, why.

    What goes wrong in a peer's own code is one more reason, and ends nothing.
    """
    for name in job.peers:
        reason = missing(name)
        if reason:
            yield name, UnsupportedError(reason)
            continue
        try:
            module = importlib.import_module(f"benchmarks.contenders.{PEERS[name].module}")
            for contender in module.contenders(job, x):
                yield contender.name, contender
        except UnsupportedError as error:
            yield name, error
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            yield name, UnsupportedError(f"failed: {type(error).__name__}: {first}")
