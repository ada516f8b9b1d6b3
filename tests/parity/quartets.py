"""Synthetic arrays for one name, honest unless a test spoils them. NumPy only."""

import numpy as np
import pytest

from parity.compare import compare_arrays
from parity.gates import rms

U = 2.0**-24


def draw(seed, shape=(5, 7)):
    return np.random.default_rng(seed).standard_normal(shape)


def noisy(oracle, seed, units=1.0):
    """An honest float32 result: every element off by up to `units` of roundoff of the tensor's size."""
    noise = np.random.default_rng(seed).uniform(-1, 1, oracle.shape)
    return (oracle + units * U * rms(oracle[np.isfinite(oracle)]) * noise).astype(np.float32)


def judged(candidate=None, *, oracle=None, reference=None, candidate64=None, **options):
    """Judge one tensor called x; what is not given is honest."""
    oracle = draw(0) if oracle is None else oracle
    reference = noisy(oracle, 1) if reference is None else reference
    candidate = noisy(oracle, 2) if candidate is None else candidate
    candidate64 = oracle.copy() if candidate64 is None else candidate64
    named = {name: {"x": value} for name, value in options.items()}
    (result,) = compare_arrays({"x": candidate}, {"x": reference}, {"x": oracle}, {"x": candidate64}, **named)
    return result


def with_value(array, value, index=(1, 2)):
    array = array.copy()
    array[index] = value
    return array


def nearly(value, rel):
    """pytest.approx adds 1e-12 by default, more than a whole limit in float64."""
    return pytest.approx(value, rel=rel, abs=0.0)
