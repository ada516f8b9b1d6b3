"""Torch's distributions, and torch's very bits from its seeds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import checkpoint, init

SEEDS = [0, 1, 1234, 2**32 - 1, 2**40 + 7]  # torch seeds its CPU generator with the low 32 bits


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def rngs():
    return nnx.Rngs(99)


RECURRENT = [
    ("RNN", (3, 5), {}),
    ("RNN", (3, 5), {"num_layers": 3, "nonlinearity": "relu", "bidirectional": True}),
    ("GRU", (3, 5), {"num_layers": 2}),
    ("GRU", (7, 4), {"num_layers": 3, "bias": False, "bidirectional": True}),
    ("LSTM", (3, 5), {}),
    ("LSTM", (4, 6), {"num_layers": 3, "bidirectional": True}),
    ("LSTM", (4, 6), {"num_layers": 2, "proj_size": 2, "bidirectional": True}),
    ("LSTM", (30, 40), {"num_layers": 2}),
    ("RNNCell", (3, 5), {}),
    ("GRUCell", (3, 5), {}),
    ("LSTMCell", (3, 5), {}),
    ("LSTMCell", (3, 5), {"bias": False}),
]
IDS = [f"{name}-{index}" for index, (name, _, _) in enumerate(RECURRENT)]


def assert_bits(module, twin):
    """Every parameter, by name and bit for bit."""
    ours, theirs = checkpoint.state_dict(module), twin.state_dict()
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        value = value.numpy()
        assert ours[name].dtype == value.dtype
        assert ours[name].tobytes() == value.tobytes(), f"{name}: {(ours[name] != value).sum()} differ"


@pytest.mark.torch
@pytest.mark.parametrize(("name", "sizes", "options"), RECURRENT, ids=IDS)
def test_recurrent_layers_get_torchs_bits(torch, name, sizes, options):
    module = getattr(jaxrnn, name)(*sizes, **options, rngs=rngs())
    for seed in SEEDS:
        torch.manual_seed(seed)
        twin = getattr(torch.nn, name)(*sizes, **options)
        assert init.like_torch(module, seed) is module
        assert_bits(module, twin)


@pytest.mark.torch
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": 5, "vdim": 7}], ids=str)
def test_attention_gets_torchs_bits(torch, options):
    module = jaxrnn.MultiheadAttention(6, 2, **options, rngs=rngs())
    for seed in SEEDS:
        torch.manual_seed(seed)
        twin = torch.nn.MultiheadAttention(6, 2, **options)
        assert_bits(init.like_torch(module, seed), twin)


@pytest.mark.torch
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("features", [(1, 1), (7, 3), (64, 33)])
def test_linear_gets_torchs_bits(torch, features, bias):
    module = nnx.Linear(*features, use_bias=bias, rngs=rngs())
    for seed in SEEDS:
        torch.manual_seed(seed)
        twin = torch.nn.Linear(*features, bias=bias)
        assert_bits(init.like_torch(module, seed), twin)


@pytest.mark.torch
@pytest.mark.parametrize("kernel", [(3,), (3, 5), (2, 3, 2)])
def test_convolutions_get_torchs_bits(torch, kernel):
    module = nnx.Conv(3, 4, kernel, rngs=rngs())
    for seed in SEEDS:
        torch.manual_seed(seed)
        twin = getattr(torch.nn, f"Conv{len(kernel)}d")(3, 4, kernel)
        assert_bits(init.like_torch(module, seed), twin)


def test_a_convolution_is_drawn_within_torchs_bound():
    module = init.torch_conv(3, 50, (3, 5), padding=1, rngs=rngs())
    for parameter in (module.kernel, module.bias):
        assert 0.95 < np.abs(parameter[...]).max() * np.sqrt(3 * 3 * 5) <= 1
    assert module(jnp.ones((1, 6, 7, 3))).shape == (1, 6, 5, 50)


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_embeddings_get_torchs_bits(torch, dtype):
    """Torch draws fewer than 16 numbers one by one, in pairs over the ends of tensors, and more in blocks."""
    sizes = [(1, 1), (3, 1), (5, 3), (2, 8), (17, 1), (6, 5), (1, 3), (50, 41)]

    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            made = (torch.nn.Embedding(*size, dtype=getattr(torch, dtype)) for size in sizes)
            self.parts = torch.nn.ModuleList([*made, torch.nn.Linear(3, 2, dtype=getattr(torch, dtype))])

    class Ours(nnx.Module):
        def __init__(self):
            given = {"rngs": rngs(), "param_dtype": jnp.dtype(dtype)}
            made = (nnx.Embed(*size, **given) for size in sizes)
            self.parts = nnx.List([*made, nnx.Linear(3, 2, **given)])

    with jax.enable_x64(True):
        module = Ours()
    for seed in SEEDS:
        torch.manual_seed(seed)
        assert_bits(init.like_torch(module, seed), Theirs())


@pytest.mark.torch
def test_a_large_embedding_gets_torchs_bits(torch):
    """A million numbers: one in a thousand differs if a single product is rounded on its own."""
    module = nnx.Embed(2**14, 64, rngs=rngs())
    torch.manual_seed(3)
    assert_bits(init.like_torch(module, 3), torch.nn.Embedding(2**14, 64))


class Model(nnx.Module):
    def __init__(self, dtype=jnp.float32):
        given = {"rngs": rngs(), "param_dtype": dtype}
        self.z = nnx.Linear(3, 4, **given)
        self.norm = nnx.LayerNorm(4, **given)
        self.rnn = jaxrnn.LSTM(4, 5, num_layers=2, proj_size=3, bidirectional=True, **given)
        self.drop = nnx.Dropout(0.5, rngs=rngs())
        self.cells = nnx.List([jaxrnn.GRUCell(6, 5, **given) for _ in range(11)])
        self.head = nnx.Sequential(nnx.Linear(5, 4, **given), nnx.relu, nnx.RMSNorm(4, **given))
        self.shared = self.z
        self.a = nnx.Linear(4, 1, **given)


def torch_model(torch, dtype):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.z = torch.nn.Linear(3, 4, dtype=dtype)
            self.norm = torch.nn.LayerNorm(4, dtype=dtype)
            self.rnn = torch.nn.LSTM(4, 5, num_layers=2, proj_size=3, bidirectional=True, dtype=dtype)
            self.drop = torch.nn.Dropout(0.5)
            self.cells = torch.nn.ModuleList([torch.nn.GRUCell(6, 5, dtype=dtype) for _ in range(11)])
            self.head = torch.nn.Sequential(
                torch.nn.Linear(5, 4, dtype=dtype), torch.nn.ReLU(), torch.nn.RMSNorm(4, dtype=dtype)
            )
            self.shared = self.z
            self.a = torch.nn.Linear(4, 1, dtype=dtype)

    return Model()


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_nested_model_gets_torchs_bits(torch, dtype):
    with jax.enable_x64(True):
        module = Model(jnp.dtype(dtype))
    for seed in SEEDS:
        torch.manual_seed(seed)
        twin = torch_model(torch, getattr(torch, dtype))
        assert_bits(init.like_torch(module, seed), twin)


@pytest.mark.torch
def test_peepholes_are_drawn_in_registration_order(torch):
    module = init.like_torch(jaxrnn.PeepholeLSTM(3, 5, rngs=rngs()), 7)
    torch.manual_seed(7)
    for name, value in checkpoint.state_dict(module).items():
        drawn = torch.empty(value.shape).uniform_(-(5**-0.5), 5**-0.5)
        assert drawn.numpy().tobytes() == value.tobytes(), name
    assert name == "weight_ch_l0"


def test_the_bits_do_not_change_without_torch():
    """A few values of torch 2.13, for where torch is not installed."""
    module = init.like_torch(nnx.Linear(2, 2, rngs=rngs()), 0)
    # torch.manual_seed(0); torch.nn.Linear(2, 2)
    np.testing.assert_array_equal(module.kernel[...].T, np.float32(TORCH_LINEAR_WEIGHT))
    np.testing.assert_array_equal(module.bias[...], np.float32(TORCH_LINEAR_BIAS))


TORCH_LINEAR_WEIGHT = [[-0.005293981172144413, 0.37932288646698], [-0.5819807648658752, -0.5203874707221985]]
TORCH_LINEAR_BIAS = [-0.27234524488449097, 0.1896158903837204]


def test_the_order_of_layers_survives_jit_and_that_of_models_is_asked_for():
    layer = jaxrnn.LSTM(3, 4, 2, rngs=rngs())
    expected = checkpoint.state_dict(init.like_torch(layer, 5))
    nnx.jit(lambda layer: None)(layer)
    for name, value in checkpoint.state_dict(init.like_torch(layer, 5)).items():
        np.testing.assert_array_equal(value, expected[name])
    with pytest.raises(ValueError, match="Model: the order in which its parts were built is lost"):
        init.like_torch(nnx.clone(Model()), 5)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_torch_does_not_have_is_refused(seed):
    with pytest.raises(ValueError, match="outside 0"):
        init.like_torch(nnx.Linear(1, 1, rngs=rngs()), seed)


class OwnParameter(nnx.Module):
    def __init__(self):
        self.hidden_size = 3
        self.weight_ih = nnx.Param(jnp.ones(3))
        self.scale = nnx.Param(jnp.ones(3))


class Tied(nnx.Module):
    def __init__(self):
        self.a, self.b = (nnx.Linear(2, 2, rngs=rngs()) for _ in range(2))
        self.b.kernel = self.a.kernel


@pytest.mark.parametrize(
    ("module", "match"),
    [
        (lambda: nnx.ConvTranspose(3, 2, (3,), rngs=rngs()), "^0: flax's ConvTranspose has no translation"),
        (OwnParameter, r"^0\.\w+ belongs to a OwnParameter"),
        (Tied, "^0.b.bias shares a tied parameter"),
        (lambda: nnx.Linear(3, 2, param_dtype=jnp.bfloat16, rngs=rngs()), "^0.weight is bfloat16"),
    ],
)
def test_what_cannot_be_reproduced_is_named_and_left_alone(module, match):
    module = nnx.List([module(), nnx.Linear(2, 2, rngs=rngs())])
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(module)))
    with pytest.raises(NotImplementedError, match=match):
        init.like_torch(module, 0)
    jax.tree.map(np.testing.assert_array_equal, before, nnx.to_pure_dict(nnx.state(module)))


def test_recurrent_uniform_fills_torchs_interval():
    drawn = np.asarray(init.recurrent_uniform(jax.random.key(0), (100, 100), 25, jnp.float32))
    assert drawn.dtype == np.float32
    assert -0.2 <= drawn.min() < -0.1999  # 10 000 draws: the extremes miss the end by 4e-5 on average
    assert 0.1999 < drawn.max() < 0.2
    assert abs(drawn.mean()) < 5e-3  # 4 standard errors
    assert abs(drawn.std() - 0.2 / np.sqrt(3)) < 3e-3
    assert init.recurrent_uniform(jax.random.key(0), (0, 2), 0).shape == (0, 2)
