"""Random trees of modules go from torch to JAX, to a file, and back to torch, bit for bit."""

import copy
from collections import OrderedDict

import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxrnn
from jaxrnn.torch_names import Frozen, entries
from tests.jaxrnn.torch_modules import bits

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

small, flag = st.integers(1, 3), st.booleans()
dropout = st.sampled_from([0.0, 0.5])


def leaves():
    """Return modules of each kind that has parameters or a mode, and one that has neither."""
    made = torch.nn
    return st.one_of(
        st.builds(made.Linear, small, small, bias=flag),
        st.builds(made.RNN, small, small, num_layers=small, bias=flag, bidirectional=flag, batch_first=flag),
        st.builds(made.GRU, small, small, num_layers=st.just(2), dropout=dropout),
        st.builds(made.LSTM, small, st.just(3), num_layers=small, proj_size=st.integers(0, 2)),
        st.builds(made.LSTMCell, small, small, bias=flag),
        st.builds(made.Embedding, st.just(4), small, padding_idx=st.sampled_from([None, 0, 3])),
        st.builds(made.EmbeddingBag, st.just(4), small, mode=st.sampled_from(["sum", "mean", "max"])),
        st.builds(made.LayerNorm, st.lists(small, min_size=1, max_size=3), elementwise_affine=flag),
        st.builds(made.BatchNorm1d, small, affine=flag, track_running_stats=flag),
        st.builds(made.Conv1d, small, small, small, bias=flag, padding=st.sampled_from([0, 1, "same"])),
        st.builds(made.MultiheadAttention, st.just(4), st.just(2), bias=flag, kdim=small),
        st.builds(made.TransformerEncoderLayer, st.just(4), st.just(2), small, dropout, norm_first=flag),
        st.builds(made.Dropout, dropout),
        st.builds(made.GELU, st.sampled_from(["none", "tanh"])),
    )


def nested(parts):
    """A container of such modules; a name may look like any other."""
    names = st.text("ab_1é", min_size=1, max_size=3)
    made = torch.nn
    return st.one_of(
        st.lists(parts, max_size=3).map(lambda found: made.Sequential(*found)),
        st.dictionaries(names, parts, max_size=3).map(lambda found: made.Sequential(OrderedDict(found))),
        st.dictionaries(names, parts, max_size=3).map(made.ModuleDict),
        st.lists(parts, max_size=12).map(made.ModuleList),
    )


trees = st.recursive(leaves(), nested, max_leaves=6)


def scrambled(module, dtype, seed):
    """Give a module random bits of a dtype (NaNs, too), modes, and parameters that are not trained."""
    module, rng = module.to(getattr(torch, dtype)), np.random.default_rng(seed)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            flat = tensor.view(-1).view(torch.uint8)[: None if tensor.is_floating_point() else 4]
            flat.copy_(torch.from_numpy(rng.integers(0, 127, flat.shape).astype(np.uint8)))
    for part in module.modules():
        part.training = bool(rng.integers(2))
    for parameter in module.parameters():
        parameter.requires_grad_(bool(rng.integers(4)))
    return module


def check_round_trip(module, dtype, seed, folder):
    module = scrambled(module, dtype, seed)
    twin = jaxrnn.from_torch(module, rngs=nnx.Rngs(seed))
    named = jaxrnn.state_dict(twin)
    assert list(named) == list(module.state_dict())
    assert bits(named) == bits(module.state_dict())
    frozen = {entry.name for entry in entries(twin) if isinstance(entry.variable, Frozen)}
    given = dict(module.named_parameters())
    assert frozen == {name for name, parameter in given.items() if not parameter.requires_grad}
    jaxrnn.save(twin, folder / "twin.pt")
    back = copy.deepcopy(module)
    with torch.no_grad():
        for tensor in back.state_dict().values():
            tensor.zero_()
    back.load_state_dict(torch.load(folder / "twin.pt", weights_only=True))
    assert bits(back.state_dict()) == bits(module.state_dict())
    again = nnx.clone(twin)  # which sorts attributes
    assert bits(jaxrnn.state_dict(again)) == bits(module.state_dict())


ARGUMENTS = (trees, st.sampled_from(["float32", "bfloat16", "float16"]), st.integers(0, 9))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("twins")


@pytest.mark.essential
@settings(max_examples=20, deadline=None)
@given(*ARGUMENTS)
def test_a_random_tree_comes_back_bit_for_bit(folder, module, dtype, seed):
    check_round_trip(module, dtype, seed, folder)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(*ARGUMENTS)
def test_many_random_trees_come_back_bit_for_bit(folder, module, dtype, seed):
    check_round_trip(module, dtype, seed, folder)
