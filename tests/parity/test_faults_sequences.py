"""What faults make of ragged rows and of consecutive calls, checked by numbers that need no diagnosis."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parity.faults import RECURRENT  # noqa: E402
from parity.longhand import recurrent, torch_modules  # noqa: E402
from parity.longhand.arrays import library_of  # noqa: E402
from parity.longhand.recurrent import FAITHFUL, Call, Network, Place  # noqa: E402
from parity.running import torch_side  # noqa: E402
from parity.selftest.subject import subject  # noqa: E402

pytestmark = pytest.mark.torch
BY_ID = {fault.id: fault for fault in RECURRENT}
BATCH, STEPS, FEATURES, HIDDEN = 4, 6, 2, 3
LENGTHS = np.array([6, 0, 2, 4])
NETWORK = Network("LSTM", HIDDEN, directions=2)


def answer(id=None, lengths=LENGTHS, padding=0.0):
    """Return output [T, B, 2 H] and final states of a network with a fault, on NumPy arrays."""
    rng = np.random.default_rng(0)
    shapes = {
        "weight_ih": (4 * HIDDEN, FEATURES),
        "weight_hh": (4 * HIDDEN, HIDDEN),
        "bias_ih": (4 * HIDDEN,),
        "bias_hh": (4 * HIDDEN,),
    }
    stack = {
        (0, direction): {name: rng.standard_normal(shape) for name, shape in shapes.items()}
        for direction in (0, 1)
    }
    x = rng.standard_normal((STEPS, BATCH, FEATURES))
    if lengths is not None:
        x[np.arange(STEPS)[:, None] >= lengths[None, :]] = padding
    start = tuple(rng.standard_normal((2, BATCH, HIDDEN)) for _ in "hc")
    recipe = FAITHFUL if id is None else BY_ID[id].recipe(NETWORK)
    return recurrent.run(NETWORK, stack, Call(x, start, lengths), recipe), start


@pytest.mark.parametrize(
    "id", ["S09-empty", "S09-empty-raw", "S09-none", "S10-on", "S10-on-raw", "S10-repeated", "S11-one"]
)
def test_rows_without_lengths_are_not_touched_by_faults_of_lengths(id):
    (found, states), _ = answer(id, lengths=None)
    (expected, others), _ = answer(lengths=None)
    for one, other in zip((found, *states), (expected, *others), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("id", ["S09-empty", "S09-empty-raw"])
def test_a_state_picked_at_its_length_is_right_where_rows_are_not_empty(id):
    (found, states), _ = answer(id, padding=3.0)
    (expected, others), _ = answer(padding=3.0)
    np.testing.assert_array_equal(found, expected)  # outputs are masked
    full = LENGTHS > 0
    for one, other in zip(states, others, strict=True):
        np.testing.assert_allclose(one[:, full], other[:, full], rtol=1e-14)
        assert np.all(np.abs(one[:, ~full] - other[:, ~full]) > 1e-3)


def test_an_empty_rows_state_depends_on_the_padding_only_where_it_is_raw():
    clean, raw = (
        [answer(id, padding=p)[0][1][0][:, 1] for p in (1.0, 2.0)] for id in ("S09-empty", "S09-empty-raw")
    )
    np.testing.assert_array_equal(*clean)
    assert np.all(raw[0] != raw[1])


def test_an_empty_row_keeps_its_initial_state_but_with_the_fault():
    (_, right), start = answer()
    (_, wrong), _ = answer("S09-none")
    for one, other, initial in zip(right, wrong, start, strict=True):
        np.testing.assert_array_equal(one[:, 1], initial[:, 1])
        assert not other[:, 1].any()
        np.testing.assert_array_equal(one[:, [0, 2, 3]], other[:, [0, 2, 3]])


def test_repeated_outputs_are_the_states_at_which_rows_have_ended():
    (output, (h_n, _)), _ = answer("S10-repeated", padding=3.0)
    (expected, _), start = answer(padding=3.0)
    for row, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(output[:length, row], expected[:length, row])
        after = np.broadcast_to(h_n[0, row], (STEPS - length, HIDDEN))
        np.testing.assert_array_equal(output[length:, row, :HIDDEN], after)
        # The reverse direction waits at its padding with the state that it will begin with.
        before = np.broadcast_to(start[0][1, row], (STEPS - length, HIDDEN))
        np.testing.assert_array_equal(output[length:, row, HIDDEN:], before)


def test_outputs_of_a_state_that_runs_on_are_right_until_a_row_has_ended():
    (output, _), _ = answer("S10-on-raw", padding=3.0)
    (expected, _), _ = answer(padding=3.0)
    ended = np.arange(STEPS)[:, None] >= LENGTHS[None, :]
    np.testing.assert_allclose(output[~ended], expected[~ended], rtol=1e-14)
    assert not expected[ended].any()
    assert np.all(output[ended] != 0.0)


def test_each_row_is_turned_by_itself_and_back_again():
    recipe = BY_ID["S09-empty"].recipe(NETWORK)
    series = np.arange(STEPS * BATCH * 1.0).reshape(STEPS, BATCH, 1)
    at = Place(library_of(series), NETWORK, recipe, direction=1)
    turned = recipe.turn(at, series, LENGTHS)
    for row, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(turned[:length, row], series[:length, row][::-1])
    np.testing.assert_array_equal(recipe.turn_back(at, turned, LENGTHS), series)


# Consecutive calls


def planted(id):
    evidence = subject("windows").evidence[0]
    fault = BY_ID[id]
    model = torch_modules.plant(evidence.model, lambda name, network: fault.recipe(network))
    return (
        torch_side.run(model, evidence.probe, "float64"),
        torch_side.run(model, evidence.probe, "float64"),
        evidence,
    )


@pytest.mark.parametrize("id", ["S18", "S18-anew", "S18-cut"])
def test_a_layer_remembers_from_call_to_call_and_not_from_run_to_run(id):
    first, second, evidence = planted(id)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    assert any(np.max(np.abs(first[name] - evidence.oracle[name])) > 1e-3 for name in first)


def test_only_the_calls_that_a_fault_is_about_are_changed_by_it():
    changed = {}
    for id in ("S18", "S18-anew", "S18-cut"):
        found, _, evidence = planted(id)
        outputs = evidence.oracle.of_kind("output")
        changed[id] = [name for name in outputs if np.max(np.abs(found[name] - outputs[name])) > 1e-9]
    assert changed == {"S18": ["output.1"], "S18-anew": ["output.3"], "S18-cut": []}


def test_a_faithful_layer_remembers_nothing_of_its_calls():
    model = torch_modules.plant(torch.nn.LSTM(FEATURES, HIDDEN), lambda name, network: FAITHFUL)
    model(torch.ones(STEPS, BATCH, FEATURES))
    assert not hasattr(model, "left")
