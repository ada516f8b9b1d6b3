"""Files that `torch.save` wrote before PyTorch 1.6: read like later ones, and as little trusted."""

import pickle
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrnn import checkpoint_files, torch_file
from jaxrnn.torch_legacy_file import START
from tests.jaxrnn.damage import FUZZ, assert_readable_or_refused, damage
from tests.jaxrnn.test_torch_file import refused

VALUES = np.array([1.5, -2.0, 3.25, 0.0], np.float32)
NUMBERS = VALUES.tobytes()


def legacy(
    version=1001,
    little_endian=True,
    storage="FloatStorage",
    elements=4,
    view=b"N",
    key="0",
    listed=("0",),
    counted=4,
    numbers=NUMBERS,
):
    """A file of one tensor [4], called w, that says whatever it is told to."""
    reference = [
        torch_file._text("storage"),
        torch_file._global("torch", storage),
        torch_file._text(key),
        torch_file._text("cuda:0"),
        torch_file._int(elements),
        view,
    ]
    tensor = torch_file._global("torch._utils", "_rebuild_tensor_v2") + b"(" + torch_file._tuple(reference)
    tensor += b"Q" + torch_file._int(0) + b"".join([torch_file._tuple([torch_file._int(n)]) for n in (4, 1)])
    content = [START, pickle.dumps(version, 2), pickle.dumps({"little_endian": little_endian}, 2)]
    content += [b"\x80\x02}" + torch_file._text("w") + tensor + b"\x89}tRs."]
    content += [pickle.dumps(list(listed), 2), struct.pack("<q", counted), numbers]
    return b"".join(content)


def test_a_file_from_a_gpu_of_long_ago_is_read_without_torch(tmp_path):
    (tmp_path / "a.pt").write_bytes(legacy())
    found = checkpoint_files.read(tmp_path / "a.pt")
    assert list(found) == ["w"]
    np.testing.assert_array_equal(found["w"], VALUES)


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int64", "uint8", "bool"])
def test_what_torch_writes_in_the_old_format_is_read_as_in_the_new(torch, tmp_path, dtype):
    torch.manual_seed(0)
    whole = (3 * torch.randn(6, 5)).to(getattr(torch, dtype))
    state = {"whole": whole, "part": whole[1:4, ::2].T, "empty": whole[:0], "one": whole[2, 3]}
    for name, zipped in (("old.pt", False), ("new.pt", True)):
        torch.save({"model_state": state, "step": 3}, tmp_path / name, _use_new_zipfile_serialization=zipped)
    old, new = (checkpoint_files.read(tmp_path / name, key="model_state") for name in ("old.pt", "new.pt"))
    assert list(old) == list(new) == list(state)
    for name, array in old.items():
        assert array.dtype == new[name].dtype
        assert array.shape == tuple(state[name].shape)
        assert array.tobytes() == new[name].tobytes()
    assert np.shares_memory(old["whole"], old["part"])


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (START, "damaged"),
        (START + b"rest", "damaged"),
        (legacy(version=1000), "version is 1000"),
        (legacy(little_endian=False), "big-endian"),
        (legacy(elements=10**12), "claims more bytes than the file has"),
        (legacy(elements=-4), "claims more bytes than the file has"),
        (legacy(elements=3), "reach outside a storage of 3"),
        (legacy(view=b"K\x00K\x00K\x04\x87"), "view of another"),
        (legacy(storage="float32"), "refers to something that is no storage"),
        (legacy(listed=()), "not the storages"),
        (legacy(listed=("0", "0")), "not the storages"),
        (legacy(listed=("1",)), "not the storages"),
        (legacy(counted=5), "has 5 elements"),
        (legacy(numbers=NUMBERS[:-1]), "15 bytes"),
        (legacy(numbers=b""), "0 bytes"),
    ],
)
def test_a_damaged_old_file_says_what_is_wrong(tmp_path, content, match):
    refused(tmp_path, content, match)


def test_a_tensor_before_the_saved_object_is_refused(tmp_path):
    tensor = legacy().split(pickle.dumps({"little_endian": True}, 2))[1]
    refused(tmp_path, START + tensor, "before the saved object")


def test_a_storage_of_two_types_is_refused(tmp_path):
    program = [
        b"\x80\x02](",
        *(
            torch_file._tuple(
                [
                    torch_file._text("storage"),
                    torch_file._global("torch", kind),
                    torch_file._text("0"),
                    torch_file._text("cpu"),
                    torch_file._int(4),
                    b"N",
                ]
            )
            + b"Q"
            for kind in ("FloatStorage", "IntStorage")
        ),
        b"e.",
    ]
    head = START + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    refused(tmp_path, head + b"".join(program), "two things at once")


def test_an_old_file_runs_no_code_of_its_own(tmp_path):
    call = b"\x80\x02cposix\nmkdir\n" + torch_file._tuple([torch_file._text(str(tmp_path / "made"))]) + b"R."
    refused(tmp_path, START + pickle.dumps(1001, 2) + call, "posix.mkdir")
    assert not (tmp_path / "made").exists()


@FUZZ
@given(data=st.data())
def test_damage_to_an_old_file_is_an_error_and_not_a_crash(tmp_path, data):
    path = tmp_path / "a.pt"
    path.write_bytes(START + damage(data, legacy()[len(START) :]))
    assert_readable_or_refused(path)
