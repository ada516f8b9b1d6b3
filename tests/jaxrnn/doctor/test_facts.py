"""What a module that was built says about its program."""

from pathlib import Path

import pytest

from jaxrnn.doctor import build, examine, read

HERE = Path(__file__).parent


def findings(name):
    built = build(name)
    return [each.rule.id for each in examine([read(path) for path in built.files], [built])]


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:dropout option adds dropout")
@pytest.mark.parametrize(
    ("factory", "rules"),
    [
        ("bidirectional", ["last-step-of-bidirectional"]),
        ("plain", []),
        ("of_steps", ["batch-first-mismatch"]),
        ("dropping", ["dropout-of-one-layer"]),
        ("Pair", []),  # of its two encoders one is bidirectional, and what they disagree on is not known
    ],
)
def test_a_module_that_was_built_says_what_its_text_does_not(factory, rules, torch):
    assert findings(f"tests.jaxrnn.doctor.models:{factory}") == rules


@pytest.mark.torch
def test_without_the_module_nothing_of_it_is_known(torch):
    assert examine([read(HERE / "models.py")]) == []


@pytest.mark.torch
def test_a_factory_may_stand_in_a_file_that_is_no_module(torch):
    assert findings(f"{HERE / 'models.py'}:bidirectional") == ["last-step-of-bidirectional"]


def test_a_module_of_flax_says_the_same():
    assert findings("tests.jaxrnn.doctor.nnx_models:bidirectional") == ["one-direction-of-state"]
    assert findings("tests.jaxrnn.doctor.nnx_models:plain") == []


@pytest.mark.torch
def test_the_options_of_each_layer_are_read_off_the_module(torch):
    built = build("tests.jaxrnn.doctor.models:bidirectional")
    assert built.files == (HERE / "models.py",)
    assert built.facts == {
        ("Encoder", "rnn"): {
            "class": "torch.nn.LSTM",
            "num_layers": 1,
            "batch_first": True,
            "dropout": 0.0,
            "bidirectional": True,
        }
    }


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        (
            "tests.jaxrnn.doctor.models:nothing",
            ValueError,
            r"there is no 'nothing' in tests\.jaxrnn\.doctor\.models; at its top are "
            r"\['Encoder', 'Pair', 'bidirectional', 'plain'",
        ),
        (f"{HERE / 'models.py'}:nothing", ValueError, r"there is no 'nothing' in /.*models\.py; .*'Encoder'"),
        ("tests.jaxrnn.doctor.nowhere:make", ValueError, "there is no module 'tests.jaxrnn.doctor.nowhere'"),
        ("nowhere.at.all:make", ValueError, "there is no module 'nowhere'; run from the folder"),
        ("nowhere.py:make", FileNotFoundError, r"nowhere\.py: No such file; check the path"),
        ("tests.jaxrnn.doctor.models:needs_an_argument", ValueError, "a function without arguments"),
        ("tests.jaxrnn.doctor.models:raises", ValueError, "KeyError: 'no such data set'"),
        ("tests.jaxrnn.doctor.models:no_module", TypeError, "returned a int; expected a torch.nn.Module"),
    ],
)
def test_what_cannot_be_built_says_why(name, error, says, torch):
    with pytest.raises(error, match=says):
        build(name)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import nowhere.at.all", r"cannot be imported \(ModuleNotFoundError: No module named 'nowhere'"),
        ("import math; math.nothing", r"cannot be imported \(AttributeError: module 'math' has no attribute"),
        ("def make(:", r"cannot be imported \(SyntaxError"),
    ],
)
def test_a_file_that_cannot_be_imported_says_what_it_raises(text, says, tmp_path):
    path = tmp_path / "raising.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        build(f"{path}:nothing")


def test_a_notebook_is_not_built(tmp_path):
    path = tmp_path / "lecture.ipynb"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"a notebook is read as a whole, .* Name .*lecture\.ipynb"):
        build(f"{path}:Net")
