"""The table of layouts: there and back for every row, and what cannot be a cell's arrays."""

import numpy as np
import pytest

from jaxrnn.formats.conventions import CONVENTIONS, peepholes, to_library, to_torch
from jaxrnn.formats.weights import kind_of, levels, stack
from tests.jaxrnn.common import draw
from tests.jaxrnn.formats.common import bits

INPUT, HIDDEN = 3, 5
ROWS = {row: convention for row, convention in CONVENTIONS.items() if not convention.reset_before}


def foreign(row, dtype=np.float32, bias=True):
    """Random arrays in a library's layout."""
    convention = CONVENTIONS[row]
    width = len(convention.gates) * HIDDEN
    shapes = [(INPUT, width), (HIDDEN, width)]
    if convention.layout == "rows":
        shapes = [shape[::-1] for shape in shapes]
    sizes = {"two": [width, width], "one": [width], "one and n": [width, HIDDEN]}[convention.biases]
    shapes += [(size,) for size in sizes] if bias else []
    return [draw(n, *shape).astype(dtype) for n, shape in enumerate(shapes)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("row", ROWS, ids=" ".join)
def test_arrays_of_every_library_come_back_bit_for_bit(row, bias):
    arrays = foreign(row, bias=bias)
    cell = to_torch(*row, *arrays)
    back = to_library(*row, cell)
    assert [a.tobytes() for a in back] == [a.tobytes() for a in arrays]
    assert cell["weight_ih"].shape == (len(CONVENTIONS[row].gates) * HIDDEN, INPUT)
    assert ("bias_hh" in cell) == bias


@pytest.mark.parametrize("row", ROWS, ids=" ".join)
def test_only_the_order_of_the_numbers_changes(row):
    arrays = foreign(row)
    cell = to_torch(*row, *arrays)
    for name, array in zip(("weight_ih", "weight_hh"), arrays, strict=False):
        np.testing.assert_array_equal(np.sort(cell[name], None), np.sort(array, None))


def test_each_gate_stands_where_torch_has_it():
    """By hand, for a cell of one feature: ONNX's i, o, f, c are torch's i, f, g, o; z, r, h are r, z, n."""
    cell = to_torch("onnx", "LSTM", np.array([[1.0], [4], [2], [3]]), np.eye(4, 1))
    np.testing.assert_array_equal(cell["weight_ih"].ravel(), [1, 2, 3, 4])
    cell = to_torch("keras", "GRU", np.array([[2.0, 1, 3]]), np.ones((1, 3)))
    np.testing.assert_array_equal(cell["weight_ih"].ravel(), [1, 2, 3])
    np.testing.assert_array_equal(peepholes(np.array([[1.0], [3], [2]]), "onnx", "jaxrnn").ravel(), [1, 2, 3])


def test_the_blocks_of_cudnn_are_those_that_keras_transposes():
    """Keras 2 turned such blocks into its own by ``kernel.T.reshape(kernel.shape, order="F")`` and ``kernel.T``."""
    row = ("keras, cuDNN", "LSTM")
    kernel, recurrent, *biases = foreign(row)
    in_keras = [
        np.hstack([k.T.reshape(k.shape, order="F") for k in np.split(kernel, 4, axis=1)]),
        np.hstack([k.T for k in np.split(recurrent, 4, axis=1)]),
    ]
    expected = to_torch("keras", "LSTM", *in_keras, biases[0])
    actual = to_torch(*row, kernel, recurrent, *biases)
    for name in ("weight_ih", "weight_hh", "bias_ih"):
        np.testing.assert_array_equal(actual[name], expected[name])
    np.testing.assert_array_equal(actual["bias_hh"], biases[1])


@pytest.mark.parametrize("row", [row for row in CONVENTIONS if CONVENTIONS[row].reset_before], ids=" ".join)
def test_a_reset_before_the_product_is_taken_only_where_it_changes_nothing(row):
    arrays = foreign(row)
    with pytest.raises(NotImplementedError, match="reset gate"):
        to_torch(*row, *arrays)
    axis = 0 if CONVENTIONS[row].layout == "rows" else 1
    n = np.moveaxis(arrays[1], axis, 0)[-HIDDEN:]
    n[:] = np.diag(np.diag(n))
    cell = to_torch(*row, *arrays)
    x, h = draw(7, INPUT), draw(8, HIDDEN)
    expected = reset_before(row, arrays, x, h)
    # float64: both sides are the same dozen sums in another order
    np.testing.assert_allclose(reset_after(cell, x, h), expected, rtol=1e-6)


def reset_before(row, arrays, x, h):
    """One step of a GRU with the reset before the product, in float64, spelled out in the library's layout."""
    w, u, *b = (a.astype(np.float64) for a in arrays)
    w, u = (w.T, u.T) if CONVENTIONS[row].layout == "rows" else (w, u)
    a = x @ w + sum(b)
    z, r = (sigmoid((a + h @ u)[k * HIDDEN : (k + 1) * HIDDEN]) for k in (0, 1))
    n = np.tanh(a[-HIDDEN:] + (r * h) @ u[:, -HIDDEN:])
    return (1 - z) * n + z * h


def reset_after(cell, x, h):
    """One step of torch's GRU, in float64."""
    gates_x = cell["weight_ih"].astype(np.float64) @ x + cell["bias_ih"]
    gates_h = cell["weight_hh"].astype(np.float64) @ h + cell["bias_hh"]
    r, z = (sigmoid((gates_x + gates_h)[k * HIDDEN : (k + 1) * HIDDEN]) for k in (0, 1))
    n = np.tanh(gates_x[-HIDDEN:] + r * gates_h[-HIDDEN:])
    return (1 - z) * n + z * h


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        ([(12, 3), (12, 4)], "not those of 4 gates"),
        ([(20, 3), (20, 4)], "not those of 4 gates"),
        ([(20, 3), (20,)], "not those of 4 gates"),
        ([(0, 3), (0, 0)], "not those of 4 gates"),
        ([(20, 0), (20, 5)], "not those of 4 gates"),
        ([(20, 3), (20, 5), (20,)], "not those of 4 gates"),
        ([(20, 3), (20, 5), (20,), (19,)], "not those of 4 gates"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(shapes, match):
    with pytest.raises(ValueError, match=match):
        to_torch("torch", "LSTM", *(np.ones(shape) for shape in shapes))


def test_arrays_that_are_not_floating_point_are_refused():
    with pytest.raises(ValueError, match="not one of floating point"):
        to_torch("torch", "RNN", np.ones((2, 3), int), np.ones((2, 2), int))
    with pytest.raises(ValueError, match=r"\['float32', 'float64'\]"):
        to_torch("torch", "RNN", np.ones((2, 3), np.float32), np.ones((2, 2)))


def test_a_stack_of_cells_comes_apart_again():
    cells = [[to_torch("torch", "GRU", *foreign(("torch", "GRU")))] * 2 for _ in range(3)]
    arrays = stack(cells)
    assert list(arrays)[:4] == ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
    assert {"weight_ih_l2", "bias_hh_l2_reverse"} <= set(arrays)
    apart = levels(arrays)
    assert [[bits(cell) for cell in level] for level in apart] == [
        [bits(cell) for cell in level] for level in cells
    ]
    assert bits(stack([stack([level]) for level in apart])) == bits(arrays)


@pytest.mark.parametrize(
    ("missing", "match"),
    [("weight_ih_l0", "missing"), ("bias_hh_l1", "missing"), ("weight_ih_l0 weight_hh_l0", "missing")],
)
def test_a_layer_that_is_not_whole_is_refused(missing, match):
    arrays = stack([to_torch("torch", "RNN", *foreign(("torch", "RNN")))] * 2)
    for name in missing.split():
        del arrays[name]
    with pytest.raises(ValueError, match=match):
        levels(arrays)
    with pytest.raises(ValueError, match="'weight' is no array of a recurrent layer"):
        levels({"weight": np.ones(3)})


def test_the_kind_of_a_layer_follows_from_its_gates():
    assert [kind_of(np.ones((gates * 5, 5))) for gates in (1, 2, 3, 4)] == ["RNN", None, "GRU", "LSTM"]
    assert kind_of(np.ones((3, 0))) is None
    assert kind_of(np.ones((11, 5))) is None
