"""Mistakes in attention, norms, activations and the plumbing of tokens, as substitutions of torch's functions."""

from __future__ import annotations

from parity.faults.functions import activations, attention, indices, norms, search, tokens, tying
from parity.faults.substitution import Substitution

FAULTS: tuple[Substitution, ...] = (
    *attention.FAULTS,
    *norms.FAULTS,
    *activations.FAULTS,
    *indices.FAULTS,
    *tokens.FAULTS,
    *search.FAULTS,
    *tying.FAULTS,
)
