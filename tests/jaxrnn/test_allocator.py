"""Memory that is needed at every call is not given back between the calls."""

import platform
import subprocess
import sys

import pytest

import jaxrnn

PAGE_FAULTS = """
import resource, statistics, sys
import jax, jax.numpy as jnp
from flax import nnx
import jaxrnn

if sys.argv[1] == "kept":
    assert jaxrnn.keep_memory() is True
layer = jaxrnn.LSTM(1, 32, 2, rngs=nnx.Rngs(0))
structure, weights = nnx.split(layer)
step = jax.jit(jax.grad(lambda weights, x: jnp.square(nnx.merge(structure, weights)(x)[0]).mean()))
x = jnp.ones((40, 1026, 1))
faults = []
for _ in range(25):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(step(weights, x))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(statistics.median(faults[5:]))
"""


def page_faults(how):
    """Return those of a typical step: with memory kept, there still are steps at which the heap grows."""
    command = [sys.executable, "-c", PAGE_FAULTS, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives memory back")
def test_a_training_step_faults_its_memory_in_once_and_not_at_each_call():
    given_back, kept = page_faults("given back"), page_faults("kept")
    assert given_back > 5000  # 60 MB, in pages of 4 KiB
    assert kept < given_back / 4


def test_without_glibc_nothing_is_done(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert jaxrnn.keep_memory() is False
