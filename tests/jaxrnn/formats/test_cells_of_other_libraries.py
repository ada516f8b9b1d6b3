"""Cells of Flax, Haiku and Equinox beside the cells here that were made of them, in float64, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jaxrnn
from jaxrnn import formats
from tests.jaxrnn.common import draw
from tests.jaxrnn.formats.common import bits, filled

# float64, one step of a dozen sums in another order; 2e-16 was measured.
CLOSE = {"rtol": 0, "atol": 1e-14}


@pytest.fixture(autouse=True)
def _float64(x64):
    """Both sides compute in float64."""


def random_tree(tree, seed=0):
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(
        structure, [jnp.asarray(draw(seed + n, *leaf.shape) * 0.5) for n, leaf in enumerate(leaves)]
    )


def states(count=2):
    return tuple(jnp.asarray(draw(70 + n, 2, 5)) for n in range(count))


X = draw(50, 2, 3)
SEQUENCE = draw(51, 2, 7, 3)


def assert_same_step(ours, theirs_h, theirs_c=None):
    """Compare the next states, given the same input and state."""
    h, c = states()
    found = ours(X, (h, c)) if theirs_c is not None else ours(X, h)
    expected = (theirs_h, theirs_c) if theirs_c is not None else (theirs_h,)
    for each, other in zip(found if theirs_c is not None else (found,), expected, strict=True):
        np.testing.assert_allclose(each, other, **CLOSE)


LINEN = {
    "SimpleCell": linen.SimpleCell,
    "LSTMCell": linen.LSTMCell,
    "OptimizedLSTMCell": linen.OptimizedLSTMCell,
    "GRUCell": linen.GRUCell,
    "relu": lambda features, **options: linen.SimpleCell(features, activation_fn=jax.nn.relu, **options),
}
NNX = {
    "SimpleCell": nnx.SimpleCell,
    "LSTMCell": nnx.LSTMCell,
    "OptimizedLSTMCell": nnx.OptimizedLSTMCell,
    "GRUCell": nnx.GRUCell,
    "relu": lambda *sizes, **options: nnx.SimpleCell(*sizes, activation_fn=jax.nn.relu, **options),
}


def linen_cell(name):
    cell = LINEN[name](5, param_dtype=jnp.float64)
    carry = cell.initialize_carry(jax.random.key(0), X.shape)
    return cell, random_tree(cell.init(jax.random.key(0), carry, X)["params"])


def nnx_cell(name, seed=0):
    # SimpleCell would compute in float32 unless told
    options = {"dtype": jnp.float64} if name in ("SimpleCell", "relu") else {}
    return filled(NNX[name](3, 5, param_dtype=jnp.float64, rngs=nnx.Rngs(0), **options), np.float64, seed)


def assert_same_as_flax(ours, step):
    """`step` takes and returns a carry of Flax, which has c before h."""
    h, c = states()
    if isinstance(ours, jaxrnn.LSTMCell):
        (c_new, h_new), _ = step((c, h))
        assert_same_step(ours, h_new, c_new)
    else:
        assert_same_step(ours, step(h)[0])


@pytest.mark.parametrize("name", LINEN)
def test_a_cell_of_linen_computes_here_what_it_computes_there(name):
    cell, params = linen_cell(name)
    ours = formats.from_flax(cell, params)
    assert_same_as_flax(ours, lambda carry: cell.apply({"params": params}, carry, X))
    back = formats.to_flax(ours, cell)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    for each, other in zip(jax.tree.leaves(back), jax.tree.leaves(params), strict=True):
        assert np.asarray(each).tobytes() == np.asarray(other).tobytes()


@pytest.mark.parametrize("name", NNX)
def test_a_cell_of_nnx_computes_here_what_it_computes_there(name):
    cell = nnx_cell(name)
    ours = formats.from_flax(cell)
    assert_same_as_flax(ours, lambda carry: cell(carry, X))
    other = nnx_cell(name, seed=10)
    before = jax.tree.leaves(nnx.state(other, nnx.Param))
    back = formats.to_flax(ours, other)
    for each, theirs in zip(*(jax.tree.leaves(nnx.state(m, nnx.Param)) for m in (back, cell)), strict=True):
        assert np.asarray(each).tobytes() == np.asarray(theirs).tobytes()
    after = jax.tree.leaves(nnx.state(other, nnx.Param))
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))  # it is not changed


@pytest.mark.parametrize("time_major", [False, True])
def test_an_rnn_of_flax_around_a_cell_becomes_a_layer(time_major):
    x = SEQUENCE.swapaxes(0, 1) if time_major else SEQUENCE
    rnn = nnx.RNN(nnx_cell("LSTMCell"), time_major=time_major, rngs=nnx.Rngs(0))
    layer = formats.from_flax(rnn)
    assert isinstance(layer, jaxrnn.LSTM)
    assert layer.batch_first != time_major
    np.testing.assert_allclose(layer(x)[0], rnn(x), **CLOSE)
    cell, params = linen_cell("GRUCell")
    whole = linen.RNN(cell, time_major=time_major)
    layer = formats.from_flax(whole, {"cell": params})
    np.testing.assert_allclose(layer(x)[0], whole.apply({"params": {"cell": params}}, x), **CLOSE)


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell"])
def test_the_two_biases_of_torch_are_added_up_for_flax(name):
    """They are all different and not zero here, so that one that is lost would show."""
    ours = filled(getattr(jaxrnn, name)(3, 5, param_dtype=jnp.float64, rngs=nnx.Rngs(0)), np.float64)
    cell, _ = linen_cell(name)
    params = formats.to_flax(ours, cell)
    assert_same_as_flax(ours, lambda carry: cell.apply({"params": params}, carry, X))


def test_a_layer_of_one_level_gives_its_cell_to_flax():
    layer = filled(jaxrnn.LSTM(3, 5, batch_first=True, param_dtype=jnp.float64, rngs=nnx.Rngs(0)), np.float64)
    rnn = nnx.RNN(formats.to_flax(layer, nnx_cell("OptimizedLSTMCell")), rngs=nnx.Rngs(0))
    np.testing.assert_allclose(layer(SEQUENCE)[0], rnn(SEQUENCE), **CLOSE)


def test_a_cell_without_bias_gets_zeros_in_flax():
    ours = filled(jaxrnn.GRUCell(3, 5, bias=False, param_dtype=jnp.float64, rngs=nnx.Rngs(0)), np.float64)
    for cell in (nnx_cell("GRUCell"),):
        theirs = formats.to_flax(ours, cell)
        assert_same_as_flax(ours, lambda carry, theirs=theirs: theirs(carry, X))


# Haiku and Equinox


@pytest.mark.parametrize("core", ["LSTM", "VanillaRNN", "one bias"])
def test_a_core_of_haiku_computes_here_what_it_computes_there(core):
    haiku = pytest.importorskip("haiku")
    h, c = states()
    lstm = core == "LSTM"

    def step(x):
        if lstm:
            return haiku.LSTM(5, name="core")(x, haiku.LSTMState(h, c))[1]
        return haiku.VanillaRNN(5, double_bias=core != "one bias", name="core")(x, h)[1]

    transformed = haiku.transform(step)
    params = random_tree(transformed.init(jax.random.key(0), X))
    new = transformed.apply(params, None, X)
    ours = formats.from_haiku(params, "core")
    if lstm:
        assert_same_step(ours, new.hidden, new.cell)
        # The 1 that Haiku adds by itself is apart, so that no bit of its own bias is lost.
        bias = np.asarray(params["core/linear"]["b"])
        np.testing.assert_array_equal(ours.bias_ih[:5], bias[:5])
        np.testing.assert_array_equal(ours.bias_hh[5:10], 1)
    else:
        assert_same_step(ours, new)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell"])
def test_a_cell_of_equinox_computes_here_what_it_computes_there(name, bias):
    nn = pytest.importorskip("equinox").nn
    cell = random_tree(getattr(nn, name)(3, 5, use_bias=bias, key=jax.random.key(0)))
    ours = formats.from_equinox(cell)
    h, c = states()
    if name == "LSTMCell":
        assert_same_step(ours, *jax.vmap(cell)(X, (h, c)))
    else:
        assert_same_step(ours, jax.vmap(cell)(X, h))
    back = formats.to_equinox(ours, random_tree(cell, seed=9))
    for each, other in zip(jax.tree.leaves(back), jax.tree.leaves(cell), strict=True):
        assert np.asarray(each).tobytes() == np.asarray(other).tobytes()


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell"])
def test_the_two_biases_of_torch_are_added_up_for_equinox(name):
    nn = pytest.importorskip("equinox").nn
    ours = filled(getattr(jaxrnn, name)(3, 5, param_dtype=jnp.float64, rngs=nnx.Rngs(0)), np.float64)
    cell = formats.to_equinox(ours, getattr(nn, name)(3, 5, key=jax.random.key(0)))
    h, c = states()
    if name == "LSTMCell":
        assert_same_step(ours, *jax.vmap(cell)(X, (h, c)))
    else:
        assert_same_step(ours, jax.vmap(cell)(X, h))


def test_cells_of_other_libraries_make_a_stack():
    """Two cells of Flax are the two levels of a layer here."""
    first, second = nnx_cell("LSTMCell"), nnx.LSTMCell(5, 5, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    filled(second, np.float64, seed=30)
    layer = jaxrnn.LSTM(3, 5, num_layers=2, batch_first=True, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    cells = [jaxrnn.state_dict(formats.from_flax(cell)) for cell in (first, second)]
    jaxrnn.load_state_dict(layer, formats.stack(cells))
    expected = nnx.RNN(second, rngs=nnx.Rngs(0))(nnx.RNN(first, rngs=nnx.Rngs(0))(SEQUENCE))
    np.testing.assert_allclose(layer(SEQUENCE)[0], expected, **CLOSE)
    assert len(bits(jaxrnn.state_dict(layer))) == 8


# What is refused


def linen_of(**options):
    return lambda: formats.from_flax(linen.GRUCell(5, **options), {})


def test_a_gru_of_haiku_is_refused_with_the_reason():
    params = {"gru": {"w_i": np.ones((3, 15)), "w_h": np.ones((5, 15)), "b": np.ones(15)}}
    with pytest.raises(NotImplementedError, match="gru is a GRU of Haiku: its reset gate"):
        formats.from_haiku(params, "gru")
    with pytest.raises(ValueError, match="no w and b of 'lstm/linear'"):
        formats.from_haiku(params, "lstm")
    with pytest.raises(ValueError, match="not that of an LSTM"):
        formats.from_haiku({"lstm/linear": {"w": np.ones((4, 16)), "b": np.ones(16)}}, "lstm")


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (linen_of(gate_fn=jax.nn.hard_sigmoid), NotImplementedError, "gate_fn="),
        (linen_of(activation_fn=jax.nn.gelu), NotImplementedError, "activation_fn="),
        (lambda: formats.from_flax(linen.SimpleCell(5, residual=True), {}), NotImplementedError, "residual=True"),
        (lambda: formats.from_flax(linen.MGUCell(5), {}), TypeError, "MGUCell"),
        (lambda: formats.from_flax(linen.GRUCell(5)), TypeError, "pass params=variables"),
        (lambda: formats.from_flax(linen.GRUCell(5), {}), ValueError, "the parameters have no 'ir'"),
        (lambda: formats.from_flax(nnx_cell("GRUCell"), {}), TypeError, "leave out params"),
        (lambda: formats.from_flax(linen.RNN(linen.GRUCell(5), reverse=True), {}), NotImplementedError, "reverse"),
        (lambda: formats.to_flax(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), linen.GRUCell(5)), TypeError, "got Linear"),
        (lambda: formats.from_equinox(np.ones(3)), TypeError, "got numpy.ndarray"),
    ],
)  # fmt: skip
def test_what_torch_or_the_caller_did_not_say_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()


def module(name, *sizes, **options):
    made = getattr(jaxrnn, name)(*sizes, param_dtype=jnp.float64, rngs=nnx.Rngs(0), **options)
    return filled(made, np.float64)


@pytest.mark.parametrize(
    ("make", "like", "error", "match"),
    [
        (lambda: module("GRUCell", 3, 5), "GRUCell", NotImplementedError, "has no bias b_hn"),
        (lambda: module("GRUCell", 3, 5), "LSTMCell", TypeError, "that is LSTM, got GRU"),
        (lambda: module("RNNCell", 3, 5), "relu", TypeError, "that is RNN_RELU, got RNN_TANH"),
        (lambda: module("LSTM", 3, 5, 2), "LSTMCell", ValueError, "2 levels and 1 directions"),
        (lambda: module("LSTM", 3, 5, proj_size=2), "LSTMCell", NotImplementedError, "proj_size"),
        (lambda: module("LSTMCell", 4, 5), "LSTMCell", ValueError, "but the cell of Flax has"),
    ],
)
def test_what_a_cell_of_nnx_cannot_hold_is_refused(make, like, error, match):
    with pytest.raises(error, match=match):
        formats.to_flax(make(), nnx_cell(like))


def test_a_cell_of_linen_of_another_size_is_refused():
    with pytest.raises(ValueError, match="has 4 features, but this one has 5"):
        formats.to_flax(module("LSTMCell", 3, 5), linen.LSTMCell(4))


@pytest.mark.parametrize(("sizes", "bias"), [((4, 5), True), ((3, 5), False)])
def test_what_a_cell_of_equinox_cannot_hold_is_refused(sizes, bias):
    nn = pytest.importorskip("equinox").nn
    like = nn.LSTMCell(*sizes, use_bias=bias, key=jax.random.key(0))
    with pytest.raises(ValueError, match="the cell of Equinox has arrays of shapes"):
        formats.to_equinox(module("LSTMCell", 3, 5), like)


def test_float64_weights_need_64_bits_in_jax():
    cell = nnx_cell("LSTMCell")
    with jax.enable_x64(False), pytest.raises(ValueError, match="jax_enable_x64"):
        formats.from_flax(cell)
