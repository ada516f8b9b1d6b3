"""Files of `torch.save` that are damaged, of another kind, or hostile."""

import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrnn import checkpoint_files, torch_file, torch_pickle
from tests.jaxrnn.damage import FUZZ, assert_readable_or_refused, damage


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
        checkpoint_files.read(tmp_path / "a.pt")
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
    names = dict(torch_pickle._NAMES)
    for whole in (
        b"\x80\x04" + program + b".",
        b"\x80\x04" + program + b"0}.",
        b"\x80\x04}\x8c\x01w" + program + b"s.",
    ):
        refused(tmp_path, torch_zip(whole), "damaged|never run|opcode")
    assert names == torch_pickle._NAMES
    assert torch_pickle._tensor.__defaults__ == (None,)


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
    np.testing.assert_array_equal(checkpoint_files.read(tmp_path / "good.pt")["w"], [0, 1])
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
def test_whole_modules_and_repeated_storages_of_torch_are_refused(torch, tmp_path):
    content = io.BytesIO()
    torch.save(torch.nn.Linear(1, 1), content)
    refused(tmp_path, content.getvalue(), r"'torch\.nn\.modules\.linear\.Linear'.*state_dict\(\)")
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
        checkpoint_files.read(tmp_path / "a.pt", key)


@FUZZ
@given(data=st.data())
def test_a_damaged_pickle_is_an_error_and_not_a_crash(tmp_path, data):
    program = damage(data, torch_file._program({"w": np.ones((2, 2), np.float32)}, ["FloatStorage"]))
    path = tmp_path / "a.pt"
    path.write_bytes(torch_zip(program, BYTES))
    assert_readable_or_refused(path)
