"""Tiny tensors: a second thread costs more than it brings."""

import importlib.util

import pytest


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    if importlib.util.find_spec("torch") is None:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
