"""What the tests of ragged sequences share: torch where it is installed, and unmistakable arrays."""

import numpy as np
import pytest

try:
    import torch
    from torch.nn.utils import rnn as theirs
except ModuleNotFoundError:
    torch = theirs = None

needs_torch = [pytest.mark.torch, pytest.mark.skipif(torch is None, reason="compares with PyTorch")]


def draw(*shape, dtype="float32", seed=0):
    """Values that differ everywhere and are zero nowhere: no two steps can be mistaken for each other."""
    values = np.random.default_rng(seed).permutation(np.prod(shape, dtype=int)) + 1
    return (values / 4 if np.issubdtype(dtype, np.floating) else values).reshape(shape).astype(dtype)


def float_batch(array):
    return array(draw(2, 3, 2))


def packed(module, array):
    return module.pack_padded_sequence(float_batch(array), [3, 2], True)
