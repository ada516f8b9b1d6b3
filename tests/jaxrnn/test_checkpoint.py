"""Weights by torch's names: through modules, mappings and files, and what is refused."""

import io
import os
import pickle
import re
import struct
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jaxrnn
from jaxrnn import checkpoint, torch_file

SUFFIXES = [".safetensors", ".npz", ".pt"]
DTYPES = ["float32", "float64", "bfloat16", "float16"]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


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
    found = checkpoint.parameters(module)
    checkpoint.load_state_dict(module, {p.name: rng.standard_normal(p.shape).astype(p.dtype) for p in found})
    return module


def lstm(*args, **options):
    return jaxrnn.LSTM(*args, **options, rngs=nnx.Rngs(0))


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
    return {name: checkpoint.as_numpy(tensor).copy() for name, tensor in tensors.items()}


# Modules and mappings


@pytest.mark.torch
def test_names_shapes_and_order_are_torchs(torch):
    ours = checkpoint.state_dict(Tagger())
    assert [(name, value.shape) for name, value in ours.items()] == [
        (name, tuple(value.shape)) for name, value in torch_tagger(torch).state_dict().items()
    ]


@pytest.mark.torch
@pytest.mark.parametrize("dtype", DTYPES)
def test_torchs_weights_arrive_bit_for_bit(torch, dtype):
    twin, module = torch_tagger(torch, dtype), tagger(dtype)
    assert checkpoint.load_state_dict(module, twin.state_dict()) == ([], [])
    assert_same_bits(checkpoint.state_dict(module), numpy_dict(twin.state_dict()))
    kernel = np.asarray(module.head.layers[0].kernel[...])
    np.testing.assert_array_equal(kernel.T.astype(np.float64), twin.head[0].weight.detach().double().numpy())


def test_what_is_not_a_parameter_has_no_name():
    module = nnx.Sequential(nnx.Dropout(0.5, rngs=nnx.Rngs(0)), nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    module.counter = nnx.Variable(jnp.zeros(3))
    assert list(checkpoint.state_dict(module)) == ["1.weight", "1.bias"]


def test_parts_in_plain_lists_and_dicts_have_names():
    class Model(nnx.Module):
        def __init__(self):
            self.rows = nnx.data([nnx.Linear(1, 2, rngs=nnx.Rngs(0)) for _ in range(11)])
            self.by_name = nnx.Dict(b=nnx.Param(jnp.ones(1)), a=nnx.Param(jnp.ones(1)))

    names = list(checkpoint.state_dict(Model()))
    assert names[::2] == [f"rows.{index}.weight" for index in range(11)] + ["by_name.b"]
    assert names[-1] == "by_name.a"


def test_jit_does_not_reorder_the_names_of_a_layer():
    layer = lstm(3, 4, 12, proj_size=2, bidirectional=True)
    before = list(checkpoint.state_dict(layer))
    nnx.jit(lambda layer: None)(layer)
    assert list(vars(layer)) == sorted(vars(layer))  # Flax sorted the attributes
    assert list(checkpoint.state_dict(layer)) == before
    assert before[:6] == [f"{name}_l0" for name in checkpoint._RECURRENT_ORDER[:5]] + ["weight_ih_l0_reverse"]


@pytest.mark.parametrize(
    "part",
    [
        lambda rngs: nnx.Conv(2, 3, (3,), rngs=rngs),
        lambda rngs: nnx.BatchNorm(2, use_bias=False, use_scale=False, rngs=rngs),
        lambda rngs: nnx.MultiHeadAttention(2, 4, rngs=rngs),
        lambda rngs: nnx.LSTMCell(2, 3, rngs=rngs),
        lambda rngs: nnx.LinearGeneral(2, (3, 4), rngs=rngs),
        lambda rngs: nnx.LoRALinear(2, 3, lora_rank=1, rngs=rngs),
    ],
)
def test_a_module_whose_names_would_be_wrong_is_refused(part):
    part = part(nnx.Rngs(0))
    with pytest.raises(NotImplementedError, match=rf"^1\.0: flax's {type(part).__name__} has no translation"):
        checkpoint.state_dict(nnx.List([nnx.Linear(1, 1, rngs=nnx.Rngs(0)), nnx.List([part])]))


def test_a_subclass_is_translated_like_its_base():
    class Head(nnx.Linear):
        pass

    assert checkpoint.state_dict(Head(3, 2, rngs=nnx.Rngs(0)))["weight"].shape == (2, 3)


def test_two_parameters_of_one_name_are_refused():
    with pytest.raises(ValueError, match=re.escape('would be called "a.b"')):
        checkpoint.state_dict(
            nnx.Dict({"a.b": nnx.Param(jnp.ones(1)), "a": nnx.Dict(b=nnx.Param(jnp.ones(1)))})
        )


def test_a_module_that_contains_itself_is_refused():
    module = nnx.Dict(a=nnx.Dict())
    module.a.back = module
    with pytest.raises(ValueError, match=r"a\.back contains itself"):
        checkpoint.state_dict(module)


def test_only_modules_have_a_state_dict():
    with pytest.raises(TypeError, match="Expected a Flax NNX module, got dict"):
        checkpoint.state_dict({"a": nnx.Param(jnp.ones(1))})
    with pytest.raises(TypeError, match="abstract"):
        checkpoint.state_dict(nnx.eval_shape(lambda: lstm(2, 3)))


def tied():
    class Tied(nnx.Module):
        def __init__(self):
            self.a = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
            self.b = nnx.Linear(3, 3, rngs=nnx.Rngs(1))
            self.b.kernel = self.a.kernel

    return Tied()


def test_a_tied_parameter_has_both_names_and_one_value():
    module = tied()
    named = checkpoint.state_dict(module)
    assert list(named) == ["a.weight", "a.bias", "b.weight", "b.bias"]
    doubled = {name: 2 * value for name, value in named.items()}
    checkpoint.load_state_dict(module, doubled)
    assert module.a.kernel is module.b.kernel
    assert_same(checkpoint.state_dict(module), doubled)
    doubled["b.weight"] = named["b.weight"]
    with pytest.raises(RuntimeError, match=r"a\.weight and b\.weight are one tied parameter"):
        checkpoint.load_state_dict(module, doubled)


def test_a_state_dict_is_a_copy_both_ways():
    module = lstm(2, 3)
    named = checkpoint.state_dict(module)
    before = {name: value.copy() for name, value in named.items()}
    module.weight_ih_l0.set_value(jax.jit(lambda w: w + 1, donate_argnums=0)(module.weight_ih_l0[...]))
    assert_same(named, before)
    checkpoint.load_state_dict(module, named)
    named["weight_ih_l0"][:] = 7
    assert_same(checkpoint.state_dict(module), before)


@pytest.mark.torch
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("source", DTYPES)
def test_values_are_cast_as_torch_casts_them(torch, source, dtype):
    rng = np.random.default_rng(0)
    # Normal, tiny and huge: rounding, subnormals of float16 and overflow to inf, and NaN.
    weights = rng.standard_normal((6, 50)) * 10.0 ** rng.uniform(-9, 6, (6, 50))
    weights[0, 0] = np.nan
    theirs = torch.from_numpy(weights).to(getattr(torch, source))
    twin = torch.nn.Linear(50, 6, bias=False, dtype=getattr(torch, dtype))
    twin.load_state_dict({"weight": theirs})
    with jax.enable_x64(True):
        module = nnx.Linear(50, 6, use_bias=False, param_dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))
    checkpoint.load_state_dict(module, {"weight": theirs})
    ours = checkpoint.state_dict(module)["weight"]
    assert ours.dtype == dtype
    np.testing.assert_array_equal(ours.astype(np.float64), twin.weight.detach().double().numpy())


def test_a_float64_parameter_stays_float64_and_devices_are_kept():
    with jax.enable_x64(True):
        module = nnx.Linear(2, 3, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        module.bias.set_value(jax.device_put(module.bias[...], jax.devices()[0]))
    value = np.full((3, 2), 1 + 2.0**-40)
    checkpoint.load_state_dict(module, {"weight": value, "bias": value[:, 0]})
    assert_same(checkpoint.state_dict(module), {"weight": value, "bias": value[:, 0].copy()})
    assert module.bias[...].committed
    assert not module.kernel[...].committed


def test_an_abstract_module_gets_its_values():
    module = nnx.eval_shape(lambda: lstm(2, 3))
    named = checkpoint.state_dict(draw(lstm(2, 3)))
    checkpoint.load_state_dict(module, named)
    assert_same(checkpoint.state_dict(module), named)


# What does not fit


@pytest.mark.torch
@pytest.mark.parametrize(
    ("saved", "model"),
    [
        ({"num_layers": 2}, {}),
        ({}, {"num_layers": 2}),
        ({"bidirectional": True}, {}),
        ({}, {"bidirectional": True}),
        ({"bias": False}, {"bias": True}),
        ({"proj_size": 2}, {}),
        ({}, {"proj_size": 2, "num_layers": 3, "bias": False}),
    ],
)
def test_the_error_has_torchs_words(torch, saved, model):
    source = torch.nn.LSTM(3, 4, **saved).state_dict()
    with pytest.raises(RuntimeError) as theirs:
        torch.nn.LSTM(3, 5, **model).load_state_dict(source)
    module = lstm(3, 5, **model)
    before = checkpoint.state_dict(module)
    with pytest.raises(RuntimeError) as ours:
        checkpoint.load_state_dict(module, source)
    text, _, remedy = str(ours.value).partition("\nTo do: ")
    assert text == str(theirs.value)
    assert remedy
    assert_same(checkpoint.state_dict(module), before)  # not even the weights that fit


@pytest.mark.parametrize(
    ("saved", "model", "remedy"),
    [
        ({"num_layers": 2}, {}, "num_layers=2"),
        ({}, {"num_layers": 3}, "num_layers=1"),
        ({"bidirectional": True}, {}, "bidirectional=True"),
        ({}, {"bidirectional": True}, "bidirectional=False"),
        ({"bias": False}, {}, "bias=False"),
        ({}, {"bias": False}, "bias=True"),
        ({"proj_size": 2}, {}, "proj_size of the checkpoint"),
        ({}, {"proj_size": 2}, "proj_size=0"),
    ],
)
def test_the_error_names_the_argument_that_differs(saved, model, remedy):
    with pytest.raises(RuntimeError) as raised:
        checkpoint.load_state_dict(lstm(3, 4, **model), checkpoint.state_dict(lstm(3, 4, **saved)))
    advice = str(raised.value).split("\nTo do: ")[1:]
    assert advice == [f"to match the checkpoint, construct the model with {advice[0].split(' with ')[1]}"]
    assert remedy in advice[0]


def test_the_error_guesses_prefixes_and_new_names():
    named = checkpoint.state_dict(lstm(3, 4))
    parallel = {f"module.{name}": value for name, value in named.items()}
    with pytest.raises(RuntimeError, match=r"name\.removeprefix\('module\.'\)"):
        checkpoint.load_state_dict(lstm(3, 4), parallel)
    with pytest.raises(RuntimeError, match="the checkpoint is of the model's 'rnn' alone"):
        checkpoint.load_state_dict(nnx.Dict(rnn=lstm(3, 4)), named)
    head = nnx.Dict(linear=nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    renamed = {
        name.replace("linear", "linear1"): value for name, value in checkpoint.state_dict(head).items()
    }
    with pytest.raises(RuntimeError, match=r"'linear\.weight' may be 'linear1\.weight' in the checkpoint"):
        checkpoint.load_state_dict(head, renamed)


def test_peepholes_tell_the_two_lstms_apart():
    peephole = jaxrnn.PeepholeLSTM(3, 4, rngs=nnx.Rngs(0))
    with pytest.raises(RuntimeError, match="construct the model with a PeepholeLSTM, not an LSTM"):
        checkpoint.load_state_dict(lstm(3, 4), checkpoint.state_dict(peephole))


def test_not_strict_loads_what_matches_and_returns_the_rest():
    module, named = lstm(3, 4), checkpoint.state_dict(draw(lstm(3, 4)))
    other = named | {"extra": np.ones(2)}
    del other["bias_hh_l0"]
    before = checkpoint.state_dict(module)
    keys = checkpoint.load_state_dict(module, other, strict=False)
    assert keys == checkpoint.IncompatibleKeys(missing_keys=["bias_hh_l0"], unexpected_keys=["extra"])
    assert_same(checkpoint.state_dict(module), named | {"bias_hh_l0": before["bias_hh_l0"]})


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (np.ones((16, 4)), "size mismatch for weight_ih_l0: .*torch.Size.*16, 4.* torch.Size.*16, 3"),
        (np.ones((16, 3), np.int32), "dtype mismatch for weight_ih_l0: int32 does not become float32"),
        (np.ones((16, 3), bool), "dtype mismatch"),
        (np.ones((16, 3), complex), "dtype mismatch"),
        (np.ones((16, 3)).astype("V2"), "dtype mismatch"),
        ([[1.0] * 3] * 16, "received <class 'list'>"),
        (None, "received <class 'NoneType'>"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_value_of_the_wrong_kind_changes_nothing(value, error, strict):
    module = lstm(3, 4)
    before = checkpoint.state_dict(module)
    with pytest.raises(RuntimeError, match=error):
        checkpoint.load_state_dict(
            module, checkpoint.state_dict(draw(lstm(3, 4))) | {"weight_ih_l0": value}, strict
        )
    assert_same(checkpoint.state_dict(module), before)


def test_a_nested_or_unnamed_source_is_refused():
    named = checkpoint.state_dict(lstm(3, 4))
    with pytest.raises(TypeError, match='pass one of its entries "model_state"'):
        checkpoint.load_state_dict(lstm(3, 4), {"model_state": named, "epoch": 3}, strict=False)
    with pytest.raises(TypeError, match="got list"):
        checkpoint.load_state_dict(lstm(3, 4), list(named.items()))


# Files


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".pth"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_saved_module_reads_back_bit_for_bit(tmp_path, dtype, suffix):
    module = tagger(dtype)
    path = tmp_path / f"model{suffix}"
    checkpoint.save(module, path)
    assert_same_bits(checkpoint.read(path), checkpoint.state_dict(module))
    other = tagger(dtype, seed=1)
    checkpoint.load_state_dict(other, path)
    assert_same(checkpoint.state_dict(other), checkpoint.state_dict(module))


@pytest.mark.torch
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_weights_come_back_to_torch_bit_for_bit(torch, tmp_path, dtype, suffix):
    twin, module = torch_tagger(torch, dtype), tagger(dtype)
    checkpoint.load_state_dict(module, twin.state_dict())
    path = tmp_path / f"model{suffix}"
    checkpoint.save(module, path)
    other = torch_tagger(torch, dtype)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(in_torch(torch, path))
    for (name, ours), theirs in zip(other.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def in_torch(torch, path):
    """Read a file as somebody would who has PyTorch and not this library."""
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True)
    if path.suffix == ".safetensors":
        return pytest.importorskip("safetensors.torch").load_file(path)
    tensors = {}
    for name, array in np.load(path, allow_pickle=False).items():
        stem, _, mark = name.partition("|")
        tensors[stem] = (
            torch.from_numpy(array.view(np.int16)).view(torch.bfloat16) if mark else torch.tensor(array)
        )
    return tensors


@pytest.mark.torch
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_files_of_torch_are_read(torch, tmp_path, dtype, protocol):
    twin = torch_tagger(torch, dtype)
    expected = numpy_dict(twin.state_dict())
    torch.save(twin.state_dict(), tmp_path / "a.pt", pickle_protocol=protocol)
    torch.save(dict(twin.named_parameters()), tmp_path / "b.pt", pickle_protocol=protocol)
    optimizer = torch.optim.Adam(twin.parameters())
    sum(parameter.sum() for parameter in twin.parameters()).backward()
    optimizer.step()
    everything = {
        "epoch": 3,
        "model_state": twin.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "loss": [1.5, None, True, -7, 2**40, "ü"],
        "meta": (torch.Size([2]), torch.device("cuda", 1), torch.float32),
    }
    after = numpy_dict(twin.state_dict())
    torch.save(everything, tmp_path / "c.pt", pickle_protocol=protocol)
    assert_same(checkpoint.read(tmp_path / "a.pt"), expected)
    assert set(checkpoint.read(tmp_path / "b.pt")) == set(expected)
    assert_same(checkpoint.read(tmp_path / "c.pt", key="model_state"), after)
    with pytest.raises(ValueError, match=re.escape("or --key, one of ['model_state']")):
        checkpoint.read(tmp_path / "c.pt")


@pytest.mark.torch
def test_files_of_safetensors_for_torch_are_read(torch, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    tensors = torch_tagger(torch, "bfloat16").state_dict()
    safetensors.save_file(tensors, tmp_path / "a.safetensors")
    assert_same_bits(checkpoint.read(tmp_path / "a.safetensors"), numpy_dict(tensors))


@pytest.mark.torch
def test_views_and_every_dtype_are_read_as_torch_sees_them(torch, tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    views = [
        base.T,
        base[1:, ::2],
        base[2],
        base[:, 3:],
        torch.tensor(3.0),
        torch.zeros(0, 4),
        torch.zeros(3, 0),
    ]
    kinds = [name for name in torch_file.DTYPES if not name.startswith("float8")]
    many = [torch.tensor([0, 1, 3]).to(getattr(torch, name)) for name in kinds]
    tensors = {str(index): tensor for index, tensor in enumerate(views + many)}
    torch.save(tensors, tmp_path / "a.pt")
    assert_same(checkpoint.read(tmp_path / "a.pt"), numpy_dict(tensors))
    torch.save({"8": torch.ones(3).to(torch.float8_e4m3fn)}, tmp_path / "b.pt")
    np.testing.assert_array_equal(checkpoint.read(tmp_path / "b.pt")["8"].astype(np.float32), 1)


def mixed():
    """Arrays of every writable kind and odd shape, under odd names."""
    rng = np.random.default_rng(0)
    arrays = {dtype.name: rng.integers(0, 2, (3, 2)).astype(dtype) for dtype in torch_file.STORAGES.values()}
    del arrays["complex128"]  # safetensors has none
    return arrays | {
        "": np.ones(1),
        "file": np.float32(3),
        "a/ü.npy": np.zeros((0, 3)),
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "strided": np.arange(6)[::2],
    }


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_arrays_of_any_kind_survive_a_file(tmp_path, suffix):
    checkpoint.write(mixed(), tmp_path / f"a{suffix}")
    read = checkpoint.read(tmp_path / f"a{suffix}")
    assert_same_bits(read, {name: np.asarray(value) for name, value in mixed().items()})


@pytest.mark.torch
@pytest.mark.parametrize("mmap", [True, False])
def test_torch_reads_arrays_of_any_kind(torch, tmp_path, mmap):
    checkpoint.write(mixed(), tmp_path / "a.pt")
    read = torch.load(tmp_path / "a.pt", weights_only=True, mmap=mmap)
    assert_same(numpy_dict(read), {name: np.asarray(value) for name, value in mixed().items()})
    assert all(tensor.data_ptr() % 64 == 0 for tensor in read.values() if mmap)


def test_npz_shows_bfloat16_as_marked_integers(tmp_path):
    checkpoint.write({"w": np.ones(2, ml_dtypes.bfloat16)}, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert archive.files == ["w|bfloat16"]
        assert archive["w|bfloat16"].dtype == np.uint16
    with pytest.raises(ValueError, match="marks a dtype"):
        checkpoint.write({"w|bfloat16": np.ones(2)}, tmp_path / "b.npz")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    checkpoint.write({"w": np.ones(2)}, path)
    monkeypatch.setattr("os.fsync", lambda file: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        checkpoint.write({"w": np.zeros(2)}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]
    np.testing.assert_array_equal(checkpoint.read(path)["w"], 1)


@pytest.mark.parametrize(
    ("mapping", "name", "error", "match"),
    [
        ({"w": np.ones(1)}, "a.bin", ValueError, "suffix '.bin' is not one of"),
        ({"w": np.ones(1)}, "none/a.pt", FileNotFoundError, "create it first"),
        ({"w": [1.0]}, "a.pt", TypeError, "'w': expected a name and an array of numbers, got list"),
        ({3: np.ones(1)}, "a.pt", TypeError, "3: expected a name"),
        ({"w": np.array(["x"])}, "a.npz", TypeError, "array of numbers"),
        ({"w": np.ones(1, np.uint32)}, "a.pt", TypeError, "uint32 cannot be written to a .pt file"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, mapping, name, error, match):
    with pytest.raises(error, match=match):
        checkpoint.write(mapping, tmp_path / name)
    assert not list(tmp_path.iterdir())


# Files that are damaged, of another kind, or hostile


def torch_zip(program, records=(), folder="archive", compression=zipfile.ZIP_STORED):
    """A file like torch.save's around a pickle of our own."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        archive.writestr(f"{folder}/data.pkl", program)
        for name, record in dict(records).items():
            archive.writestr(f"{folder}/{name}", record)
    return content.getvalue()


def tensor_program(size=(2,), stride=(1,), offset=0, elements=4, storage="FloatStorage", key="0"):
    """A pickle of one tensor that says whatever it is told to."""
    ints = [torch_file._tuple(map(torch_file._int, values)) for values in (size, stride)]
    reference = [
        torch_file._text("storage"),
        torch_file._global("torch", storage),
        torch_file._text(key),
        torch_file._text("cpu"),
        torch_file._int(elements),
    ]
    function = torch_file._global("torch._utils", "_rebuild_tensor_v2")
    arguments = torch_file._tuple(reference) + b"Q" + torch_file._int(offset) + b"".join(ints) + b"\x89}"
    return b"\x80\x02}" + torch_file._text("w") + function + b"(" + arguments + b"tRs."


class Exploit:
    """Pickles as a call that leaves a trace."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def refused(tmp_path, content, match):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(pickle.UnpicklingError, match=match) as raised:
        checkpoint.read(tmp_path / "a.pt")
    assert str(raised.value).startswith(str(tmp_path / "a.pt"))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("function", [os.mkdir, exec], ids=["os", "exec"])
def test_a_pickle_that_calls_the_system_does_not_run(tmp_path, function, protocol):
    trace = tmp_path / "ran"
    argument = {os.mkdir: str(trace), exec: f"import os; os.mkdir({str(trace)!r})"}[function]
    program = pickle.dumps({"w": Exploit(function, argument)}, protocol)
    refused(tmp_path, torch_zip(program), "code in a file is never run|opcode")
    assert not trace.exists()
    pickle.loads(program)
    assert trace.exists()  # so it would have run


TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
EVIL = {
    "getattr": b"cbuiltins\ngetattr\n",
    "an old name of builtins": b"c__builtin__\neval\n",
    "a dotted name": b"\x8c\x0ctorch._utils\x8c\x1e_rebuild_tensor_v2.__globals__\x93",
    "a name with a space": b"ctorch _utils\n_rebuild_tensor_v2\n",
    "torch.load": b"ctorch\nload\n",
    "numpy": b"cnumpy.core.multiarray\n_reconstruct\n",
    "a whole module": b"ctorch.nn.modules.rnn\nLSTM\n",
    "state for a function": TENSOR + b"}\x8c\x08__code__N" + b"sb",
    "slots for a function": TENSOR + b"N}\x8c\x0c__defaults__)s\x86b",
    "state for a class": b"ctorch\nFloatStorage\n}\x8c\x05dtypeNsb",
    "a new object": b"ctorch\nFloatStorage\n)\x81",
    "a call of a dtype": b"ctorch\nfloat32\n)R",
    "a call of a string": b"\x8c\x02os)R",
    "a call with a list": TENSOR + b"]R",
    "too few arguments": TENSOR + b")R",
    "an instance": b"(ios\nsystem\n",
    "an extension": b"\x82\x01",
    "a text persistent id": b"Pdata\n",
    "a persistent id that is no storage": b"\x8c\x01xQ",
    "a tensor for a key": b"}}Ns",
    "a tuple for a key": b"})Ns",
    "an unknown memo slot": b"h\x09",
    "an empty stack": b"0",
    "too deep a tuple": b"\x87",
    "a set": b"\x8f",
    "a parameter without a tensor": b"ctorch._utils\n_rebuild_parameter\nN\x88}\x87R",
}


@pytest.mark.parametrize("program", EVIL.values(), ids=EVIL)
def test_a_pickle_can_do_nothing_but_hold_tensors(tmp_path, program):
    names = dict(torch_file._NAMES)
    for whole in (
        b"\x80\x04" + program + b".",
        b"\x80\x04" + program + b"0}.",
        b"\x80\x04}\x8c\x01w" + program + b"s.",
    ):
        refused(tmp_path, torch_zip(whole), "damaged|never run|opcode")
    assert names == torch_file._NAMES
    assert torch_file._tensor.__defaults__ == (None,)


BYTES = {"data/0": np.arange(4, dtype=np.float32).tobytes()}


@pytest.mark.parametrize(
    ("tensor", "match"),
    [
        ({"size": (5,)}, "reach outside"),
        ({"offset": 3}, "reach outside"),
        ({"stride": (4,)}, "reach outside"),
        ({"size": (2, 2), "stride": (3, 1)}, "reach outside"),
        ({"size": (2**62, 2**62), "stride": (0, 0)}, "repeats its storage"),
        ({"size": (2**31 - 1,), "stride": (0,)}, "repeats its storage"),
        ({"size": (2**40,)}, "reach outside"),
        ({"offset": -1}, "damaged"),
        ({"size": (-2,)}, "damaged"),
        ({"stride": (-1,), "offset": 3}, "damaged"),
        ({"size": (2, 2)}, "2 sizes and 1 strides"),
        ({"size": (1,) * 70, "stride": (1,) * 70}, "70 sizes"),
        ({"elements": 2**50}, "16 bytes, not"),
        ({"storage": "DoubleStorage"}, "16 bytes, not"),
        ({"key": "../0"}, "no record"),
        ({"key": "1"}, "no record"),
    ],
)
def test_a_tensor_cannot_reach_outside_its_storage(tmp_path, tensor, match):
    (tmp_path / "good.pt").write_bytes(torch_zip(tensor_program(), BYTES))
    np.testing.assert_array_equal(checkpoint.read(tmp_path / "good.pt")["w"], [0, 1])
    refused(tmp_path, torch_zip(tensor_program(**tensor), BYTES), match)


def test_records_cannot_claim_more_than_the_file(tmp_path):
    compressed = torch_zip(
        tensor_program(elements=2**20), {"data/0": bytes(2**22)}, compression=zipfile.ZIP_DEFLATED
    )
    assert len(compressed) < 2**16
    refused(tmp_path, compressed, "compressed")
    content = bytearray(torch_zip(tensor_program(), BYTES))
    size_in_directory = content.rindex(b"PK\x01\x02") + 20
    content[size_in_directory : size_in_directory + 8] = struct.pack("<II", 2**31, 2**31)
    refused(tmp_path, bytes(content), "more bytes than it has")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "not a file of torch.save"),
        (b"hello", "not a file of torch.save"),
        (torch_file._LEGACY_START + b"rest", "before 1.6"),
        (torch_zip(b"", folder="a/b"), "no data.pkl"),
        (torch_zip(b""), "damaged"),
        (torch_zip(b"\x80\x02}"), "damaged"),
        (torch_zip(b"\x80\x02}.", {"constants.pkl": b""}), "TorchScript"),
        (torch_zip(b"\x80\x02}.", {"byteorder": b"big"}), "big-endian"),
        (torch_zip(tensor_program(), BYTES)[:-30], "damaged"),
        (torch_zip(tensor_program(), BYTES).replace(BYTES["data/0"], b"x" * 16), "damaged"),
    ],
)
def test_other_kinds_of_file_are_named(tmp_path, content, match):
    refused(tmp_path, content, match)


@pytest.mark.torch
def test_whole_modules_and_old_files_of_torch_are_refused(torch, tmp_path):
    content = io.BytesIO()
    torch.save(torch.nn.Linear(1, 1), content)
    refused(tmp_path, content.getvalue(), r"'torch\.nn\.modules\.linear\.Linear'.*state_dict\(\)")
    content = io.BytesIO()
    torch.save(torch.nn.Linear(1, 1).state_dict(), content, _use_new_zipfile_serialization=False)
    refused(tmp_path, content.getvalue(), "before 1.6")
    content = io.BytesIO()
    torch.save({"w": torch.ones(1).expand(3)}, content)
    refused(tmp_path, content.getvalue(), r"\.contiguous\(\)")


@pytest.mark.parametrize(
    ("program", "key", "match"),
    [
        (b"\x80\x02K\x01.", None, "holds a int"),
        (b"\x80\x02}\x8c\x01wK\x01s.", None, r"no entry of the file is a state dict, of \['w'\]"),
        (tensor_program(), "model", "leave out the key"),
        (b"\x80\x02}\x8c\x01m" + tensor_program()[2:-1] + b"s.", None, r"one of \['m'\]"),
        (b"\x80\x02}\x8c\x01m" + tensor_program()[2:-1] + b"s.", "n", r"one of \['m'\]"),
    ],
)
def test_the_state_dict_in_a_file_is_never_guessed(tmp_path, program, key, match):
    (tmp_path / "a.pt").write_bytes(torch_zip(program, BYTES))
    with pytest.raises(ValueError, match=match):
        checkpoint.read(tmp_path / "a.pt", key)


def test_objects_in_an_npz_file_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        checkpoint.read(tmp_path / "a.npz")


def assert_readable_or_refused(path):
    try:
        message = f"{path}: {len(checkpoint.read(path))} arrays"
    except (ValueError, pickle.UnpicklingError) as error:
        message = str(error)
    assert message.startswith(f"{path}: ")


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(data=st.data(), suffix=st.sampled_from(SUFFIXES))
def test_a_damaged_file_is_an_error_and_not_a_crash(tmp_path, data, suffix):
    path = Path(tmp_path / f"a{suffix}")
    checkpoint.write({"w": np.arange(6.0, dtype=np.float32), "b": np.ones((2, 3), ml_dtypes.bfloat16)}, path)
    path.write_bytes(damage(data, path.read_bytes()))
    assert_readable_or_refused(path)


@FUZZ
@given(data=st.data())
def test_a_damaged_pickle_is_an_error_and_not_a_crash(tmp_path, data):
    program = damage(data, torch_file._program({"w": np.ones((2, 2), np.float32)}, ["FloatStorage"]))
    path = tmp_path / "a.pt"
    path.write_bytes(torch_zip(program, BYTES))
    assert_readable_or_refused(path)


def damage(data, content):
    """Cut a file short, or overwrite a few bytes of it."""
    content = bytearray(content)
    if data.draw(st.booleans()):
        return bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    return bytes(content)
