"""Factories by name: from modules and from files, and what is said where one cannot be imported or called."""

import json
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from parity import cli
from parity.cli.factories import load_factory, load_model

THEIRS = """
import torch


class Reader(torch.nn.Module):
    def __init__(self, hidden_size=7):
        super().__init__()
        self.rnn = torch.nn.GRU(3, hidden_size, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]


def train(model, epochs):
    pass
"""
OURS = """
import jaxrnn
from flax import nnx


class Reader(nnx.Module):
    def __init__(self, hidden_size=7, *, rngs: nnx.Rngs):
        self.rnn = jaxrnn.GRU(3, hidden_size, batch_first=True, rngs=rngs)

    def __call__(self, x):
        return self.rnn(x)[0]


class Sized(Reader):
    def __init__(self, hidden_size, rngs):
        super().__init__(hidden_size, rngs=rngs)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty current folder; what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def write(name, text):
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refusal(spec, option="--reference", load=load_model):
    with pytest.raises(click.UsageError) as caught:
        load(option, spec)
    return caught.value.message


# Files


def test_a_file_is_named_by_its_path_and_imports_what_lies_beside_it():
    write("nets/sizes_of_mine.py", "HIDDEN = 7\n")
    write("nets/made.py", "from sizes_of_mine import HIDDEN\ndef make(): return HIDDEN\n")
    assert load_model("--reference", "nets/made.py:make")() == 7
    assert load_model("--reference", f"{Path('nets/made.py').absolute()}:make")() == 7


def test_what_a_factory_imports_when_it_is_called_lies_beside_its_file():
    write("nets/sizes_of_mine.py", "HIDDEN = 7\n")
    write("nets/made.py", "def make():\n    from sizes_of_mine import HIDDEN\n    return HIDDEN\n")
    assert load_model("--reference", "nets/made.py:make")() == 7


def test_files_of_one_name_in_two_folders_are_two_modules():
    for number, name in enumerate(("theirs", "ours")):
        write(f"{name}/networks_of_two.py", f"def make(): return {number}\n")
    made = [load_model("--reference", f"{name}/networks_of_two.py:make")() for name in ("theirs", "ours")]
    assert made == [0, 1]


def test_a_file_is_run_once_however_many_names_are_asked_of_it():
    write("once.py", "class A: pass\nclass B(A): pass\n")
    assert issubclass(load_factory("--candidate", "once.py:B"), load_factory("--reference", "./once.py:A"))
    assert load_factory("--candidate", "once:A") is load_factory("--candidate", "once.py:A")


def test_a_file_does_not_take_the_place_of_a_module_of_its_name():
    write("json.py", "def make(): return 'mine'\n")
    assert load_model("--reference", "json.py:make")() == "mine"
    assert sys.modules["json"] is json


def test_a_file_that_is_not_there_is_named_with_those_like_it():
    write("networks.py", "")
    assert refusal("netwroks.py:Reader") == (
        f"--reference netwroks.py:Reader: there is no file {Path('netwroks.py').absolute()}; "
        "did you mean networks.py?"
    )
    assert "give its path from the current folder" in refusal("elsewhere/of.py:Reader")


def test_a_module_that_is_not_there_is_told_from_one_that_fails():
    said = refusal("no_such_package.networks:Reader")
    assert "there is no module 'no_such_package' in" in said
    assert "a file is named by its path, as FILE.py:NAME" in said
    write("imports_too_much.py", "\nimport no_such_package\n")
    for spec in ("imports_too_much:Reader", "imports_too_much.py:Reader"):
        said = refusal(spec)
        assert "cannot be imported: ModuleNotFoundError: No module named 'no_such_package'" in said
        assert "imports_too_much.py:2)" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1 +\n", "SyntaxError: invalid syntax"),
        ("\n\nraise RuntimeError('no data')\n", "RuntimeError: no data"),
        ("from .layers import Reader\n", "a file of a package is named as package.module:NAME"),
    ],
)
def test_what_a_file_raises_is_said_and_the_file_can_be_tried_again(text, words):
    write("broken.py", text)
    assert words in refusal("broken.py:make")
    # Of another size: Python tells a file that has changed by its size and its second.
    write("broken.py", "def make():\n    return 'mended now'\n\n\nDONE = True\n")
    assert load_model("--reference", "broken.py:make")() == "mended now"


def test_a_wrong_name_is_answered_with_the_names_that_are_there():
    write("nets.py", "import os\nclass Reader: pass\ndef train(): pass\ndef _hidden(): pass\nSIZE = 3\n")
    assert refusal("nets.py:Raeder") == (
        "--reference nets.py:Raeder: nets.py has no 'Raeder'. Did you mean Reader? "
        "It has the classes Reader and the functions train."
    )
    assert refusal("nets.py:q").endswith("has no 'q'. It has the classes Reader and the functions train.")
    assert "SIZE is a int, not a factory" in refusal("nets.py:SIZE")
    write("empty.py", "")
    assert "It has no public class or function." in refusal("empty.py:make")


@pytest.mark.parametrize("spec", ["nonsense", "nets.py", ":make", "nets.py:"])
def test_a_name_without_its_two_parts_is_refused_with_how_to_write_it(spec):
    assert "write it as package.module:factory or as FILE.py:factory" in refusal(spec)


# What a factory needs


def test_a_notebook_is_refused_with_what_to_do_instead():
    with pytest.raises(
        click.UsageError, match=r"lab\.ipynb:Net: a notebook is not imported.*into a \.py file"
    ):
        load_factory("--reference", "lab.ipynb:Net")


def test_a_flax_class_that_needs_rngs_alone_is_given_them():
    from flax import nnx

    write("ours.py", OURS)
    made = load_model("--candidate", "ours.py:Reader")()
    expected = load_factory("--candidate", "ours.py:Reader")(rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(made.rnn.weight_hh_l0[...], expected.rnn.weight_hh_l0[...])


def test_other_arguments_are_named_with_a_factory_that_gives_them():
    write("ours.py", OURS)
    assert refusal("ours.py:Sized", "--candidate") == (
        "--candidate ours.py:Sized: Sized needs hidden_size, rngs. "
        "Name a factory that takes no arguments, such as\n"
        "    def candidate(): return Sized(hidden_size=..., rngs=nnx.Rngs(0))\n"
        "    --candidate FILE.py:candidate"
    )


def test_the_reference_too_says_what_it_needs():
    pytest.importorskip("torch")
    write("theirs.py", THEIRS.replace("hidden_size=7", "hidden_size"))
    assert "def reference(): return Reader(hidden_size=...)\n" in refusal("theirs.py:Reader")
    assert "train needs model, epochs." in refusal("theirs.py:train")


def test_defaults_and_arguments_of_any_number_are_no_needs():
    write("made.py", "def make(size=3, *args, deep=True, **options): return size\n")
    assert load_model("--reference", "made.py:make")() == 3


# The command


@pytest.mark.parametrize(
    ("option", "code"), [(None, 0), pytest.param("--port", 0, marks=pytest.mark.slow), ("--own-weights", 1)]
)
def test_two_classes_in_files_are_checked_as_they_are(option, code):
    """Whatever `rngs` draw is replaced by drawn weights or by the reference's, but for --own-weights."""
    pytest.importorskip("torch")
    write("theirs.py", THEIRS)
    write("ours.py", OURS)
    models = ("--reference", "theirs.py:Reader", "--candidate", "ours.py:Reader")
    options = ("--input", "x=5,9,3", "--probe", "quick") if option is None else ("--input", "x=5,9,3", option)
    result = CliRunner().invoke(cli.main, ["check", *models, *options], catch_exceptions=False)
    assert result.exit_code == code, result.output


def test_the_help_says_what_becomes_of_the_weights_that_rngs_draw():
    said = " ".join(CliRunner().invoke(cli.main, ["check", "--help"]).output.split())
    for words in (
        "PKG.MOD:NAME or FILE.py:NAME",
        "is given nnx.Rngs(0)",
        "With --own-weights they would stay",
    ):
        assert words in said
