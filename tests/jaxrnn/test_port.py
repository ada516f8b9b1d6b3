"""What `jaxrnn port` writes computes what the original does: rule by rule, class by class, and in training."""

import importlib
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
import parity
from jaxrnn.port import port_file, port_source
from jaxrnn.port.functions import FUNCTIONS
from jaxrnn.port.methods import METHODS
from tests.jaxrnn.common import draw, executed
from tests.jaxrnn.port_snippets import STATEMENTS, TENSORS

pytestmark = pytest.mark.torch

SOURCES = Path(__file__).parent / "port_sources"
IMPORTS = """
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Variable
"""


def module_of(code: str) -> types.SimpleNamespace:
    """Return what code binds, as attributes."""
    return types.SimpleNamespace(**executed(code))


def original(name: str) -> Any:
    """Return a module of the tests' own sources."""
    return importlib.import_module(f"tests.jaxrnn.port_sources.{name}")


def ported(name: str) -> types.SimpleNamespace:
    """Return what is made of it, all of which has to be translated."""
    result = port_file(SOURCES / f"{name}.py")
    assert not result.untranslated
    return module_of(result.code)


def flat(value: Any) -> list[np.ndarray]:
    """Return all numbers of a result."""
    if isinstance(value, list | tuple):
        return [array for each in value for array in flat(each)]
    if hasattr(value, "detach"):
        value = value.detach().numpy()
    return [] if value is None else [np.asarray(value)]


POSITIVE = np.abs(draw(3, 3, 4)) + 0.1


def both_ways(source: str, torch: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return what a function f of x gives in JAX, ported, and in torch."""
    result = port_source(IMPORTS + source, ["f"])
    assert not result.untranslated
    x = np.asarray(POSITIVE, np.float32)
    theirs = module_of(IMPORTS + source).f(torch.from_numpy(x))
    return flat(module_of(result.code).f(jnp.asarray(x))), flat(theirs)


def assert_close(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    """Compare elementary functions of float32: a few units in the last place."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert a.dtype.kind == b.dtype.kind
        np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=2e-6, atol=1e-6)


@pytest.mark.essential
@pytest.mark.parametrize("line", TENSORS.strip().splitlines())
@pytest.mark.filterwarnings("ignore:.*")  # of float64, which JAX without x64 makes float32
def test_a_translated_line_computes_what_torchs_line_computes(torch, line):
    assert_close(*both_ways(f"def f(x):\n    return {line}\n", torch))


@pytest.mark.parametrize("name", STATEMENTS)
def test_translated_statements_compute_what_torchs_statements_compute(torch, name):
    body = "\n".join(f"    {line}" for line in STATEMENTS[name].splitlines())
    assert_close(*both_ways(f"def f(x):\n{body}\n    return y\n", torch))


def test_every_rule_for_functions_and_methods_is_tried_by_a_line():
    losses = {name for name in FUNCTIONS if name.startswith("torch.nn.") and name[9:10].isupper()}
    for name in FUNCTIONS.keys() - losses - {"torch.save"}:  # which a script does, in test_port_scripts.py
        short = name.removeprefix("torch.nn.functional.")
        called = {f"{name}(", f"F.{short}(", f"{name.removeprefix('torch.autograd.')}("}
        assert any(call in TENSORS for call in called), name
    for name in METHODS:
        assert f".{name}(" in TENSORS + "".join(STATEMENTS.values()), name


LENGTHS = np.array([4, 7, 2], np.int32)
CLASSES: dict[str, tuple[str, str, tuple, Any]] = {
    "the notebook's RNN": ("lecture", "RNN", (1, 8, 2, 1), lambda f, i: (f(4, 5, 1),)),
    "the notebook's LSTM": ("lecture", "LSTM", (1, 8, 2, 1), lambda f, i: (f(4, 5, 1),)),
    "linear maps in a loop": ("tutorials", "NameClassifier", (5, 6, 3), lambda f, i: (f(4, 2, 5),)),
    "packed": ("tutorials", "PackedClassifier", (11, 4, 5, 3), lambda f, i: (i(11, 3, 7), LENGTHS)),
    "an LSTM by name": ("tutorials", "LanguageModel", ("LSTM", 11, 4, 5, 2), lambda f, i: (i(11, 6, 3),)),
    "a GRU by name": ("tutorials", "LanguageModel", ("GRU", 11, 4, 5, 2), lambda f, i: (i(11, 6, 3),)),
    "an RNN by name": ("tutorials", "LanguageModel", ("RNN", 11, 4, 5, 2), lambda f, i: (i(11, 6, 3),)),
    "attention": ("tutorials", "Seq2Seq", (9, 8), lambda f, i: (i(9, 5, 3), i(8, 4, 3))),
    "a transformer": ("tutorials", "TransformerModel", (9, 8, 2, 16, 2), lambda f, i: (i(9, 5, 3),)),
    "convolutions": ("tutorials", "ConvTower", (3, 8), lambda f, i: (f(4, 6, 3),)),
    "detached": ("tutorials", "Detached", (3, 4), lambda f, i: (f(5, 2, 3),)),
    "dropout by a function": ("tutorials", "DroppedAgain", (4,), lambda f, i: (f(2, 3, 4),)),
    "devices handed on": ("tutorials", "PlacedAgain", (4,), lambda f, i: (f(5, 2, 4),)),
    "a cell by hand": ("tutorials", "CellByHand", (4, 6), lambda f, i: (f(2, 3, 4),)),
}
QUICK = ("the notebook's RNN", "the notebook's LSTM", "packed", "detached")


def pair(torch: Any, name: str) -> tuple[Any, Any]:
    """Return a class's object in JAX and in torch, with the same weights, in evaluation mode."""
    file, kind, args, _ = CLASSES[name]
    torch.manual_seed(0)
    theirs = getattr(original(file), kind)(*args).eval()
    ours = getattr(ported(file), kind)(*args, rngs=nnx.Rngs(0))
    jaxrnn.load_state_dict(ours, theirs.state_dict())
    ours.eval()
    return ours, theirs


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in CLASSES]
)
def test_a_ported_class_is_equivalent_to_its_original(torch, name):
    random = np.random.default_rng(1)
    inputs = CLASSES[name][3](
        lambda *shape: random.standard_normal(shape).astype(np.float32),
        lambda high, *shape: random.integers(0, high, shape).astype(np.int32),
    )
    report = parity.compare(*pair(torch, name), parity.Probe(name, inputs))
    assert report.verdict == "EQUIVALENT", report
    assert report.compared > 10


@pytest.mark.parametrize("name", ["the notebook's RNN", "convolutions", "packed"])
def test_a_fresh_ported_network_has_torchs_very_weights(torch, name):
    file, kind, args, _ = CLASSES[name]
    torch.manual_seed(5)
    theirs = getattr(original(file), kind)(*args)
    ours = jaxrnn.init.like_torch(getattr(ported(file), kind)(*args, rngs=nnx.Rngs(0)), seed=5)
    for key, value in theirs.state_dict().items():
        np.testing.assert_array_equal(jaxrnn.state_dict(ours)[key], value.numpy())


def test_dropout_by_a_function_drops_at_its_rates_in_training_alone(torch):
    model = ported("tutorials").DroppedAgain(4, rngs=nnx.Rngs(0))
    rates = [getattr(model, f"dropout_{number}").p for number in (2, 3, 4)]
    assert rates == [0.75, 0.5, 0.125]  # the first as the class sets it after its base did
    x = jnp.ones((64, 16, 4))
    first, second = model(x), model(x)
    # The last line adds 2 or 0 to what 0.5, 0.5, 0.75 and 0.125 leave of numbers below one.
    untouched = np.isin(np.asarray(first), [0.0, 2.0])
    left = 0.5 * 0.5 * 0.25 * 0.875
    # The share of 4096 draws is within four standard deviations.
    assert abs(untouched.mean() - (1 - left)) < 4 * np.sqrt(left * (1 - left) / untouched.size)
    assert (first != second).any()
    model.eval()
    np.testing.assert_array_equal(model(x), model(x))


# Training ------------------------------------------------------------------------------------------------------


def windows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return windows [B, T, 1] of a wave, and what follows."""
    random = np.random.default_rng(seed)
    waves = np.sin(random.uniform(0, 6, (16, 1)) + 0.4 * np.arange(13))[..., None]
    waves = waves + 0.05 * random.standard_normal(waves.shape)
    return waves[:, :-1].astype(np.float32), waves[:, -1].astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["the notebook's RNN", "the notebook's LSTM"])
def test_the_notebooks_networks_train_in_lock_step_with_their_originals(torch, name):
    from parity.training.judge import compare_training

    def ours(model, batch):
        return jaxrnn.losses.mse_loss(model(batch[0])[0], batch[1])

    def theirs(model, batch):
        return torch.nn.functional.mse_loss(model(batch[0])[0], batch[1])

    result = compare_training(
        *pair(torch, name),
        [windows(0), windows(1)],
        (ours, theirs),
        (jaxrnn.optim.adam(0.01), lambda parameters: torch.optim.Adam(parameters.values(), lr=0.01)),
        60,
    )
    assert result.verdict == "EQUIVALENT", result


@pytest.mark.parametrize("name", ["the notebook's RNN", "the notebook's LSTM"])
def test_the_notebooks_training_cell_gives_the_losses_of_its_original(torch, x64, name):
    ours, theirs = pair(torch, name)
    theirs, x, y = theirs.double(), *(array.astype(np.float64) for array in windows(0))
    wide = jaxrnn.state_dict(ours)
    graph, state = nnx.split(ours)
    ours = nnx.merge(graph, widened(state))
    jaxrnn.load_state_dict(ours, {key: value.astype(np.float64) for key, value in wide.items()})
    torch.set_default_dtype(torch.float64)
    try:
        expected = original("lecture").train(theirs, torch.from_numpy(x), torch.from_numpy(y), 25, 0.01)
    finally:
        torch.set_default_dtype(torch.float32)
    found = ported("lecture").train(ours, x, y, 25, 0.01)
    # 25 steps of Adam, whose first divides a gradient by its size, from roundings of 1e-16.
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert found[-1] < 0.7 * found[0]
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(jaxrnn.state_dict(ours)[key], value.numpy(), rtol=1e-8, atol=1e-9)


def widened(state: Any) -> Any:
    """Return a state with its floats in float64."""
    return jax.tree.map(lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a, state)
