"""Which precision a product is asked for, by name."""

from typing import Any

import jax
from jax import lax


def asked_for(precision: lax.PrecisionLike) -> Any:
    """Return a precision, or where it is None that of the process (`jax.default_matmul_precision`)."""
    config: Any = jax.config  # its options are not typed
    return config.jax_default_matmul_precision if precision is None else precision


def names(precision: lax.PrecisionLike) -> frozenset[str]:
    """Return what JAX calls the precision of both factors, in small letters; "none" is the device's default."""
    wanted = asked_for(precision)
    both = wanted if isinstance(wanted, tuple | list) else (wanted,)
    return frozenset(str(getattr(each, "name", each)).lower() for each in both)
