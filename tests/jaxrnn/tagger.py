"""A model with one of each kind of part, here and in torch, and what its weights are compared with."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxrnn
from jaxrnn import checkpoint, torch_names
from jaxrnn.checkpoint_files import as_numpy

DTYPES = ["float32", "float64", "bfloat16", "float16"]


class Tagger(nnx.Module):
    """One of each: what has torch's names already, and what is translated."""

    def __init__(self, dtype=jnp.float32):
        given = {"rngs": nnx.Rngs(0), "param_dtype": dtype}
        self.words = nnx.Embed(11, 4, **given)
        self.encoder = jaxrnn.LSTM(4, 5, num_layers=2, bidirectional=True, proj_size=3, **given)
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
        self.decoder = jaxrnn.GRU(6, 5, **given)
        self.norm = nnx.LayerNorm(5, **given)
        self.head = nnx.Sequential(nnx.Linear(5, 3, **given), nnx.relu, nnx.Linear(3, 2, **given))
        self.parts = nnx.List([nnx.RMSNorm(5, **given), nnx.Linear(2, 2, use_bias=False, **given)])
        self.temperature = nnx.Param(jnp.ones((), dtype))


def torch_tagger(torch, dtype="float32"):
    class Tagger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.words = torch.nn.Embedding(11, 4)
            self.encoder = torch.nn.LSTM(4, 5, num_layers=2, bidirectional=True, proj_size=3)
            self.dropout = torch.nn.Dropout(0.5)
            self.decoder = torch.nn.GRU(6, 5)
            self.norm = torch.nn.LayerNorm(5)
            self.head = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
            self.parts = torch.nn.ModuleList([torch.nn.RMSNorm(5), torch.nn.Linear(2, 2, bias=False)])
            self.temperature = torch.nn.Parameter(torch.ones(()))

    twin = Tagger().to(getattr(torch, dtype))
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.copy_(torch.from_numpy(rng.standard_normal(parameter.shape)))
    return twin


def tagger(dtype="float32", seed=0):
    """A tagger with random values; made without running Flax's initialisers, which takes a while."""
    with jax.enable_x64(True):
        return draw(nnx.eval_shape(lambda: Tagger(jnp.dtype(dtype))), seed)


def draw(module, seed=0):
    """Give every parameter of a module random values."""
    rng = np.random.default_rng(seed)
    found = torch_names.parameters(module)
    checkpoint.load_state_dict(module, {p.name: rng.standard_normal(p.shape).astype(p.dtype) for p in found})
    return module


def assert_same(actual, expected):
    assert list(actual) == list(expected)
    assert_same_bits(actual, expected)


def assert_same_bits(actual, expected):
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype, name
        assert actual[name].shape == value.shape, name
        assert actual[name].tobytes() == value.tobytes(), name


def numpy_dict(tensors):
    return {name: as_numpy(tensor).copy() for name, tensor in tensors.items()}
