"""The `jaxrnn` command."""

import numpy as np
import pytest
from click.testing import CliRunner

from jaxrnn import checkpoint_files
from jaxrnn.cli import main

WEIGHTS = {
    "weight_ih_l0": np.arange(6, dtype=np.float32).reshape(2, 3),
    "[red]odd\x1b[0m": np.ones((), np.float16),
}


def run(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture
def source(tmp_path):
    checkpoint_files.write(WEIGHTS, tmp_path / "in.npz")
    return tmp_path / "in.npz"


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".npz"])
def test_convert_keeps_every_bit_and_lists_what_it_wrote(source, suffix):
    target = source.with_name(f"out{suffix}")
    result = run("convert", source, target)
    assert result.exit_code == 0, result.output
    read = checkpoint_files.read(target)
    assert {name: value.tobytes() for name, value in read.items()} == {
        name: value.tobytes() for name, value in WEIGHTS.items()
    }
    for shown in ("weight_ih_l0", "(2, 3)", "float32", "[red]odd\\x1b", "()", "float16"):
        assert shown in result.output
    assert "\x1b" not in result.output


def test_convert_never_overwrites_unless_told_to(source):
    target = source.with_name("out.pt")
    target.write_text("precious")
    result = run("convert", source, target)
    assert result.exit_code == 2
    assert "--overwrite" in result.stderr
    assert target.read_text() == "precious"
    assert run("convert", source, target, "--overwrite").exit_code == 0
    assert set(checkpoint_files.read(target)) == set(WEIGHTS)
    assert run("convert", target, target, "--overwrite").exit_code == 0
    assert set(checkpoint_files.read(target)) == set(WEIGHTS)


@pytest.mark.torch
def test_convert_takes_the_entry_named_by_key(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"model_state": {"w": torch.ones(2)}, "epoch": 3}, tmp_path / "in.pt")
    result = run("convert", tmp_path / "in.pt", tmp_path / "out.npz")
    assert result.exit_code == 2
    assert "one of ['model_state']" in result.stderr
    result = run("convert", tmp_path / "in.pt", tmp_path / "out.npz", "--key", "model_state")
    assert result.exit_code == 0
    np.testing.assert_array_equal(checkpoint_files.read(tmp_path / "out.npz")["w"], 1)


@pytest.mark.parametrize(
    ("name", "content", "target", "says"),
    [
        ("a.pt", None, "out.npz", "No such file"),
        ("a.pt", b"hello", "out.npz", "not a file of torch.save"),
        ("a.npz", b"hello", "out.pt", "damaged or of another kind"),
        ("a.safetensors", b"", "out.pt", "damaged or of another kind"),
        ("a.bin", b"hello", "out.pt", "suffix '.bin' is not one of"),
        ("in.npz", None, "out.txt", "suffix '.txt' is not one of"),
        ("in.npz", None, "none/out.pt", "no such folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(source, name, content, target, says):
    if content is not None:
        source.with_name(name).write_bytes(content)
    result = run("convert", source.with_name(name), source.parent / target)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1
    assert says in result.stderr
    assert not (source.parent / target).exists()


def test_help_names_the_commands():
    assert "convert" in run("--help").output
    assert "--key" in run("convert", "-h").output
