"""Compiled programs are dropped between modules: each holds memory maps, of which a process has 65 530."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def fresh_caches():
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    """Float64 in JAX for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def torch():
    """PyTorch; where it is not installed, the test is skipped."""
    return pytest.importorskip("torch")
