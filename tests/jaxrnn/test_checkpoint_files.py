"""Named arrays in files: there and back, for torch and from torch, and what is refused."""

import re

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrnn import checkpoint, checkpoint_files, torch_pickle
from tests.jaxrnn.damage import FUZZ, assert_readable_or_refused, damage
from tests.jaxrnn.tagger import DTYPES, assert_same, assert_same_bits, numpy_dict, tagger, torch_tagger

SUFFIXES = [".safetensors", ".npz", ".pt"]


@pytest.mark.essential
@pytest.mark.parametrize("suffix", [*SUFFIXES, ".pth"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_saved_module_reads_back_bit_for_bit(tmp_path, dtype, suffix):
    module = tagger(dtype)
    path = tmp_path / f"model{suffix}"
    checkpoint.save(module, path)
    assert_same_bits(checkpoint_files.read(path), checkpoint.state_dict(module))
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
    assert_same(checkpoint_files.read(tmp_path / "a.pt"), expected)
    assert set(checkpoint_files.read(tmp_path / "b.pt")) == set(expected)
    assert_same(checkpoint_files.read(tmp_path / "c.pt", key="model_state"), after)
    loaded = tagger(dtype, seed=1)
    checkpoint.load_state_dict(loaded, tmp_path / "c.pt", key="model_state")
    assert_same_bits(checkpoint.state_dict(loaded), after)
    with pytest.raises(TypeError, match="key='model_state' names an entry of a file"):
        checkpoint.load_state_dict(loaded, everything, key="model_state")
    with pytest.raises(ValueError, match=re.escape("there is no state dict 'model' in it; name its entry")):
        checkpoint_files.read(tmp_path / "c.pt", key="model")
    with pytest.raises(ValueError, match=re.escape("or --key, one of ['model_state']")):
        checkpoint_files.read(tmp_path / "c.pt")


@pytest.mark.torch
def test_an_entry_within_an_entry_is_named_by_both(torch, tmp_path):
    inner, outer = {"w": torch.ones(2)}, {"w": torch.zeros(3)}
    run = {"ema": {"model": inner, "decay": 0.9}, "model": outer, "a.b": inner, "none": {}}
    run["optimizer"] = {
        "state": {0: {"step": torch.tensor(1.0)}},
        "itself": run,
    }  # an end is found all the same
    torch.save(run, tmp_path / "a.pt")
    np.testing.assert_array_equal(checkpoint_files.read(tmp_path / "a.pt", "ema.model")["w"], [1, 1])
    np.testing.assert_array_equal(checkpoint_files.read(tmp_path / "a.pt", "model")["w"], [0, 0, 0])
    np.testing.assert_array_equal(checkpoint_files.read(tmp_path / "a.pt", "a.b")["w"], [1, 1])
    with pytest.raises(ValueError, match=re.escape("one of ['model', 'a.b', 'ema.model', ")):
        checkpoint_files.read(tmp_path / "a.pt", "ema")


@pytest.mark.torch
def test_files_of_safetensors_for_torch_are_read(torch, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    tensors = torch_tagger(torch, "bfloat16").state_dict()
    safetensors.save_file(tensors, tmp_path / "a.safetensors")
    assert_same_bits(checkpoint_files.read(tmp_path / "a.safetensors"), numpy_dict(tensors))


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
    kinds = [name for name in torch_pickle.DTYPES if not name.startswith("float8")]
    many = [torch.tensor([0, 1, 3]).to(getattr(torch, name)) for name in kinds]
    tensors = {str(index): tensor for index, tensor in enumerate(views + many)}
    torch.save(tensors, tmp_path / "a.pt")
    assert_same(checkpoint_files.read(tmp_path / "a.pt"), numpy_dict(tensors))
    torch.save({"8": torch.ones(3).to(torch.float8_e4m3fn)}, tmp_path / "b.pt")
    np.testing.assert_array_equal(checkpoint_files.read(tmp_path / "b.pt")["8"].astype(np.float32), 1)


def mixed():
    """Arrays of every writable kind and odd shape, under odd names."""
    rng = np.random.default_rng(0)
    arrays = {
        dtype.name: rng.integers(0, 2, (3, 2)).astype(dtype) for dtype in torch_pickle.STORAGES.values()
    }
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
    checkpoint_files.write(mixed(), tmp_path / f"a{suffix}")
    read = checkpoint_files.read(tmp_path / f"a{suffix}")
    assert_same_bits(read, {name: np.asarray(value) for name, value in mixed().items()})


@pytest.mark.torch
@pytest.mark.parametrize("mmap", [True, False])
def test_torch_reads_arrays_of_any_kind(torch, tmp_path, mmap):
    checkpoint_files.write(mixed(), tmp_path / "a.pt")
    read = torch.load(tmp_path / "a.pt", weights_only=True, mmap=mmap)
    assert_same(numpy_dict(read), {name: np.asarray(value) for name, value in mixed().items()})
    assert all(tensor.data_ptr() % 64 == 0 for tensor in read.values() if mmap)


def test_npz_shows_bfloat16_as_marked_integers(tmp_path):
    checkpoint_files.write({"w": np.ones(2, ml_dtypes.bfloat16)}, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert archive.files == ["w|bfloat16"]
        assert archive["w|bfloat16"].dtype == np.uint16
    with pytest.raises(ValueError, match="marks a dtype"):
        checkpoint_files.write({"w|bfloat16": np.ones(2)}, tmp_path / "b.npz")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    checkpoint_files.write({"w": np.ones(2)}, path)
    monkeypatch.setattr("os.fsync", lambda file: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        checkpoint_files.write({"w": np.zeros(2)}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]
    np.testing.assert_array_equal(checkpoint_files.read(path)["w"], 1)


@pytest.mark.parametrize(
    ("mapping", "name", "error", "match"),
    [
        ({"w": np.ones(1)}, "a.bin", ValueError, "suffix '.bin' is not one of"),
        ({"w": np.ones(1)}, "none/a.pt", FileNotFoundError, "create it first"),
        ({"w": [1.0]}, "a.pt", TypeError, "'w': expected a name and an array of numbers, got list"),
        ({3: np.ones(1)}, "a.pt", TypeError, "3: expected a name"),
        ({"w": np.array(["x"])}, "a.npz", TypeError, "array of numbers"),
        ({"a\0b": np.ones(1)}, "a.npz", ValueError, "ends a name at a zero byte"),
        ({"w": np.ones(1, np.uint32)}, "a.pt", TypeError, "uint32 cannot be written to a .pt file"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, mapping, name, error, match):
    with pytest.raises(error, match=match):
        checkpoint_files.write(mapping, tmp_path / name)
    assert not list(tmp_path.iterdir())


# What is in a file, and what is wrong with it


def test_objects_in_an_npz_file_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        checkpoint_files.read(tmp_path / "a.npz")


@FUZZ
@given(data=st.data(), suffix=st.sampled_from(SUFFIXES))
def test_a_damaged_file_is_an_error_and_not_a_crash(tmp_path, data, suffix):
    path = tmp_path / f"a{suffix}"
    checkpoint_files.write(
        {"w": np.arange(6.0, dtype=np.float32), "b": np.ones((2, 3), ml_dtypes.bfloat16)}, path
    )
    path.write_bytes(damage(data, path.read_bytes()))
    assert_readable_or_refused(path)
