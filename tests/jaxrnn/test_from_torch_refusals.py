"""What `from_torch` does not know, and what it refuses."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.migration import BatchNorm1d, Conv1d, Embedding, EmbeddingBag, LayerNorm, Sequential
from tests.jaxrnn.common import draw
from tests.jaxrnn.torch_modules import Residual, residual

pytestmark = pytest.mark.torch


@pytest.fixture
def nn(torch):
    return torch.nn


# What is not known


def test_everything_unknown_is_named_in_one_error(nn):
    class Steep(nn.ReLU):
        def forward(self, x):
            return 2 * x

    module = nn.Sequential(
        nn.ModuleDict({"a": nn.Bilinear(2, 2, 2), "b": nn.Embedding(3, 2, max_norm=1.0)}),
        residual()(nn.Sequential(nn.Linear(2, 2), nn.PReLU())),
        Steep(),
    )
    with pytest.raises(NotImplementedError) as raised:
        jaxrnn.from_torch(module)
    assert [line.strip().split(" ")[0] for line in str(raised.value).splitlines() if line[0] == " "] == [
        "0.a:",
        "1:",
        "1.inner.1:",
        "2:",
        "0.b:",
    ]
    assert "torch.nn.modules.activation.PReLU" in str(raised.value)
    assert "register={Bilinear: function, Residual: function, PReLU: function, Steep:" in str(raised.value)
    assert "Embedding max_norm=1.0 is not supported" in str(raised.value)


def test_what_a_registered_class_asks_for_is_named_too(nn):
    def build(module, convert):
        return Residual(convert(module.inner).no_such_attribute)

    with pytest.raises(NotImplementedError, match=r"inner: torch\.nn\.modules\.linear\.Bilinear"):
        jaxrnn.from_torch(residual()(nn.Bilinear(2, 2, 2)), register={residual(): build})
    with pytest.raises(NotImplementedError, match=r"the module itself: .*Bilinear"):
        jaxrnn.from_torch(nn.Bilinear(2, 2, 2))


def test_a_subclass_is_known_while_it_computes_the_same(nn):
    class Wide(nn.Linear):
        def __init__(self, features):
            super().__init__(features, 4 * features)

        def describe(self):
            return "wide"

    class Block(nn.Sequential):
        def __init__(self):
            super().__init__(Wide(2), nn.ReLU6())

    twin = jaxrnn.from_torch(Block())
    assert isinstance(twin, Sequential)
    assert twin[0].out_features == 8

    class Doubled(Wide):
        def __call__(self, x):
            return 2 * super().__call__(x)

    class Causal(nn.Conv1d):
        def _conv_forward(self, x, weight, bias):
            return super()._conv_forward(x, weight, bias)[..., :-2]

    class Positive(nn.Linear):
        @property
        def weight(self):
            return self._parameters["weight"].abs()

    positive = nn.Linear(2, 2)
    positive.__class__ = Positive
    for other in (Doubled(2), Causal(1, 1, 3, padding=2), positive):
        with pytest.raises(NotImplementedError, match="not known"):
            jaxrnn.from_torch(other)


def test_only_modules_of_torch_are_converted(nn):
    with pytest.raises(TypeError, match=r"got OrderedDict\. For a state dict"):
        jaxrnn.from_torch(nn.Linear(1, 1).state_dict())


# What is refused


def hooked(nn, register, hook=lambda *_: None):
    module = nn.Linear(2, 2)
    getattr(module, register)(hook)
    return module


def compiled(module):
    import torch

    return torch.compile(module)


def quantized_linear(nn):
    return pytest.importorskip("torch.ao.nn.quantized.dynamic").Linear(2, 2)


REFUSED = {
    "max_norm=1.0 is not supported": lambda nn: nn.Embedding(3, 2, max_norm=1.0),
    "scale_grad_by_freq=True is not": lambda nn: nn.Embedding(3, 2, scale_grad_by_freq=True),
    "sparse=True is not": lambda nn: nn.EmbeddingBag(3, 2, mode="sum", sparse=True),
    "padding_mode='circular' is not": lambda nn: nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular"),
    "add_bias_kv=True is not": lambda nn: nn.MultiheadAttention(4, 2, add_bias_kv=True),
    "add_zero_attn=True is not": lambda nn: nn.MultiheadAttention(4, 2, add_zero_attn=True),
    "neither relu nor gelu": lambda nn: nn.TransformerEncoderLayer(4, 2, 5, 0.0, activation=lambda x: x),
    "forward hooks": lambda nn: hooked(nn, "register_forward_hook"),
    "forward pre-hooks": lambda nn: hooked(nn, "register_forward_pre_hook"),
    "backward hooks": lambda nn: hooked(nn, "register_full_backward_hook"),
    "backward pre-hooks": lambda nn: hooked(nn, "register_full_backward_pre_hook"),
    "Linear has forward pre-hooks": lambda nn: nn.utils.spectral_norm(nn.Linear(2, 2)),
    "is parametrized": lambda nn: nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
    "is on the meta device": lambda nn: nn.Linear(2, 2, device="meta"),
    "drops with probability 0.5, so pass rngs": lambda nn: nn.GRU(2, 2, 2, dropout=0.5),
    r"quantized\.dynamic\.modules\.linear\.Linear": quantized_linear,
    r"is a wrapper: pass what it compiles, module\._orig_mod": lambda nn: compiled(nn.Linear(2, 2)),
    r"is a wrapper: pass what it spreads, module\.module": lambda nn: nn.DataParallel(nn.Linear(2, 2)),
    "has None as its part 'a'": lambda nn: nn.ModuleDict({"a": None}),
    "LazyLinear": lambda nn: nn.LazyLinear(3),
    "'iter_modules' would hide an attribute": lambda nn: nn.ModuleDict({"iter_modules": nn.ReLU()}),
    "'deterministic' would hide an attribute": lambda nn: nn.ModuleDict({"deterministic": nn.ReLU()}),
}


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_what_would_be_lost_is_refused(nn, why):
    with pytest.raises(NotImplementedError, match=why) as raised:
        jaxrnn.from_torch(nn.Sequential(nn.Sequential(REFUSED[why](nn))))
    assert "\n    0.0: " in str(raised.value) or "\n    0.0." in str(raised.value)


def test_what_has_one_remedy_is_one_line(nn):
    with pytest.raises(NotImplementedError) as raised:
        jaxrnn.from_torch(nn.ModuleList([nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5)), nn.Dropout(0.1)]))
    lines = str(raised.value).splitlines()[2:]
    assert lines[0].startswith("    0, 1.0: Dropout drops with probability 0.5, so pass rngs=nnx.Rngs(seed)")
    assert lines[1].startswith("    2: Dropout drops with probability 0.1")


def test_changes_to_an_instance_are_refused(torch, nn):
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.ModuleList([nn.ReLU()]))
    module[0].forward = lambda x: x
    module[1].weight.register_hook(lambda grad: 2 * grad)
    module[2].extra = nn.Linear(1, 1)
    encoder = nn.TransformerEncoderLayer(4, 2, 5, 0.0)
    encoder.norm1 = nn.Identity()
    module.append(encoder)
    untracked = nn.BatchNorm1d(3)
    untracked.track_running_stats = False
    module.append(untracked)
    with pytest.raises(NotImplementedError) as raised:
        jaxrnn.from_torch(module)
    for why in (
        "0: Linear has a forward set on the instance",
        "1: Linear weight has gradient hooks",
        "2: ModuleList has parts besides those of the list",
        "3: TransformerEncoderLayer norm1 is a torch.nn.modules.linear.Identity in place of",
        "4: BatchNorm1d track_running_stats=False is not supported",
    ):
        assert why in str(raised.value)
    with pytest.raises(NotImplementedError, match="jax_enable_x64"):
        jaxrnn.from_torch(nn.Linear(2, 2, dtype=torch.float64))


# The modules themselves


def test_the_modules_say_what_they_expected():
    x = jnp.ones((2, 3, 4))
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        BatchNorm1d(3)(x[0, 0])
    with pytest.raises(RuntimeError, match="running_mean should contain 3 elements not 4"):
        BatchNorm1d(4)(x)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        BatchNorm1d(3)(x[:1, :, 0])
    with pytest.raises(RuntimeError, match="Given normalized_shape"):
        LayerNorm((4, 3))(x)
    with pytest.raises(RuntimeError, match=r"\[B, 4, L\]"):
        Conv1d(4, 2, 1)(x)
    with pytest.raises(ValueError, match="strided"):
        Conv1d(4, 2, 3, stride=2, padding="same")
    with pytest.raises(ValueError, match="Conv1d input dtype"):
        Conv1d(3, 2, 1)(x.astype(jnp.bfloat16))
    bag, words = EmbeddingBag(5, 2, "max"), np.arange(4)
    for match, args in {
        "offsets has to be None": (words[None], np.zeros(1, int)),
        "offsets has to be a 1D Tensor": (words,),
        r"offsets\[0\] has to be 0": (words, np.ones(1, int)),
        "dimension 3": (words[None, None],),
        "index should be an integer": (x[0],),
        "only supported for mode='sum'": (words[None], None, x[0, :1]),
    }.items():
        with pytest.raises((ValueError, RuntimeError, TypeError, NotImplementedError), match=match):
            bag(*args)
    for module in (Embedding(5, 2), Embedding(5, 2, 0), EmbeddingBag(5, 2), bag):
        for wrong in (-1, 5):
            numbers = np.array([[1, wrong]])
            with pytest.raises(IndexError, match=r"index out of range in self.*5 rows"):
                module(numbers)
            assert np.isnan(nnx.jit(lambda module, x: module(x))(module, numbers)).any()
    with pytest.raises(ValueError, match="per_sample_weights should be of shape"):
        EmbeddingBag(5, 2, "sum")(words[None], None, draw(0, 2, 2))
    with pytest.raises(ValueError, match="mode has to be one of"):
        EmbeddingBag(5, 2, "median")
