"""Cells: the derivatives written by hand are those of the equations, and shapes are torch's."""

import jax
import jax.numpy as jnp
import pytest

from jaxrnn import cells
from jaxrnn.cells import Residuals, automatic_derivative
from tests.jaxrnn.common import CELLS, draw, rms_error

B, H = 3, 5
WITH_DERIVATIVE = [cell for cell in CELLS.values() if cell.derivative]


def drawn(cell, seed):
    """Return pre-activations, state and own parameters of one step."""
    rows = iter(range(seed, seed + 20))
    pre = tuple(jnp.asarray(draw(next(rows), B, H)) for _ in cell.pre_activations)
    state = cell.state(*(jnp.asarray(draw(next(rows), B, H)) for _ in cell.state._fields))
    return pre, state, {name: jnp.asarray(draw(next(rows), n, H)) for name, n in cell.own}


def tangent(cell, derivative, point, direction):
    pre, state, own = point
    residuals = Residuals(derivative.keep(pre, state, own), state.h, cell.step(pre, state, own).h)
    d_pre, d_state, d_own = direction
    if derivative.own_drive:
        drive = derivative.own_drive(residuals, d_own)
        d_pre = tuple(d + drive.get(name, 0) for name, d in zip(cell.pre_activations, d_pre, strict=True))
    return derivative.tangent(residuals, d_pre, d_state, own, d_own)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("cell", WITH_DERIVATIVE, ids=str)
def test_a_derivative_written_by_hand_agrees_with_the_automatic_one(cell):
    point, direction = drawn(cell, 0), drawn(cell, 50)
    by_hand = tangent(cell, cell.derivative, point, direction)
    automatic = tangent(cell, automatic_derivative(cell), point, direction)
    for ours, theirs in zip(by_hand, automatic, strict=True):
        assert rms_error(ours, theirs) < 1e-15 * 10  # a dozen roundings of 1.1e-16 each


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("cell", CELLS.values(), ids=str)
def test_the_output_computed_from_what_is_kept_is_that_of_the_step(cell):
    pre, state, own = drawn(cell, 0)
    for derivative in {cell.linearisation(), automatic_derivative(cell)}:
        if derivative.output:
            recovered = derivative.output(derivative.keep(pre, state, own), own)
            assert rms_error(recovered, cell.step(pre, state, own).h) < 1e-15


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("cell", CELLS.values(), ids=str)
def test_the_automatic_derivative_agrees_with_finite_differences(cell):
    point, direction = drawn(cell, 0), drawn(cell, 50)
    exact = tangent(cell, automatic_derivative(cell), point, direction)
    size = 1e-6
    ahead, behind = (
        cell.step(*jax.tree.map(lambda p, d, s=s: p + s * size * d, point, direction)) for s in (1, -1)
    )
    for ours, a, b in zip(exact, ahead, behind, strict=True):
        assert (
            rms_error(ours, (a - b) / (2 * size)) < 1e-8
        )  # central differences: error of order size**2 + u/size


@pytest.mark.parametrize("cell", CELLS.values(), ids=str)
def test_a_gate_of_one_keeps_what_the_literature_says_it_keeps(cell):
    pre, state, own = drawn(cell, 0)
    names = cell.pre_activations
    if cell is cells.GRU:  # z = 1 keeps the old state (Haiku's z is the other way round)
        pre = tuple(jnp.full_like(p, 50.0) if n == "z" else p for n, p in zip(names, pre, strict=True))
        assert rms_error(cell.step(pre, state, own).h, state.h) == 0
    elif "f" in names:  # f = 1, i = 0 keep the cell state
        extremes = {"f": 500.0, "i": -500.0}
        pre = tuple(
            jnp.full_like(p, extremes[n]) if n in extremes else p for n, p in zip(names, pre, strict=True)
        )
        assert rms_error(cell.step(pre, state, own).c, state.c) == 0


def test_the_output_gate_of_the_peephole_lstm_sees_the_new_cell_state():
    pre, state, own = drawn(cells.PEEPHOLE_LSTM, 0)
    new = cells.PEEPHOLE_LSTM.step(pre, state, own)
    o = jax.nn.sigmoid(pre[3] + own["weight_ch"][2] * new.c)
    assert rms_error(new.h, o * jnp.tanh(new.c)) < 1e-7
    stale = jax.nn.sigmoid(pre[3] + own["weight_ch"][2] * state.c)
    assert rms_error(stale * jnp.tanh(new.c), new.h) > 1e-2


def test_parameter_shapes_are_torchs_in_torchs_order():
    shapes = cells.LSTM.parameter_shapes(3, 5, projected_features=2)
    assert list(shapes.items()) == [
        ("weight_ih", (20, 3)),
        ("weight_hh", (20, 2)),
        ("bias_ih", (20,)),
        ("bias_hh", (20,)),
        ("weight_hr", (2, 5)),
    ]
    assert list(cells.PEEPHOLE_LSTM.parameter_shapes(3, 5, bias=False)) == [
        "weight_ih",
        "weight_hh",
        "weight_ch",
    ]
