"""Step by step, a layer returns what it returns for the whole sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from tests.jaxrnn.common import draw, rms_error

B, T, I, H = 3, 7, 5, 4
LAYERS = {
    "rnn": (jaxrnn.RNN, {}),
    "gru": (jaxrnn.GRU, {"num_layers": 2}),
    "lstm": (jaxrnn.LSTM, {"num_layers": 2, "batch_first": True}),
    "projected": (jaxrnn.LSTM, {"proj_size": 2, "num_layers": 3}),
    "peephole": (jaxrnn.PeepholeLSTM, {"bias": False}),
    "minimal": (jaxrnn.MinGRU, {"num_layers": 2}),
    "dropout": (jaxrnn.GRU, {"num_layers": 2, "dropout": 0.5}),
}


def build(name, **more):
    cls, options = LAYERS[name]
    return cls(I, H, rngs=nnx.Rngs(0), param_dtype=jnp.float64, **options, **more)


@pytest.mark.essential
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", LAYERS)
def test_step_by_step_is_the_whole_sequence(name):
    layer, x = build(name), jnp.asarray(draw(1, B, T, I))
    step, state, outputs = jaxrnn.stream(layer), None, []
    for t in range(T):
        y, state = step(x[:, t], state)
        outputs.append(y)
    layer.eval()
    expected, final = layer(x if layer.batch_first else x.swapaxes(0, 1))
    assert rms_error(jnp.stack(outputs, 1 if layer.batch_first else 0), expected) < 1e-14
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(final), strict=True):
        assert rms_error(ours, theirs) < 1e-14


@pytest.mark.usefixtures("x64")
def test_a_single_row_needs_no_batch_axis():
    layer, x = build("lstm"), jnp.asarray(draw(1, T, I))
    step, state = jaxrnn.stream(layer), None
    for each in x:
        y, state = step(each, state)
    expected, final = layer(x)
    assert rms_error(y, expected[-1]) < 1e-14
    assert [s.shape for s in state] == [s.shape for s in final] == [(2, H), (2, H)]


def test_the_layer_may_change_afterwards():
    layer = jaxrnn.GRU(I, H, 2, dropout=0.5, rngs=nnx.Rngs(0))
    step, x = jaxrnn.stream(layer), jnp.asarray(draw(1, B, I), jnp.float32)
    before, _ = step(x)
    layer.weight_hh_l0[...] = jnp.zeros_like(layer.weight_hh_l0[...])
    layer.bias_ih_l0[...] = layer.bias_ih_l0[...] + 1
    assert np.array_equal(step(x)[0], before)
    assert rms_error(step(x[:1])[0], before[:1]) < 1e-6  # compiled afterwards
    assert not np.array_equal(jaxrnn.stream(layer)(x)[0], before)
    assert not layer.deterministic  # it still drops where it is trained


def test_it_is_compiled_once(monkeypatch):
    calls = []
    original = jaxrnn.GRU.__call__
    monkeypatch.setattr(jaxrnn.GRU, "__call__", lambda *a, **k: calls.append(1) or original(*a, **k))
    step, state = jaxrnn.stream(jaxrnn.GRU(I, H, rngs=nnx.Rngs(0))), None
    for _ in range(20):
        _, state = step(jnp.ones((B, I)), state)
    assert len(calls) == 2  # without a state, and with one


def test_what_cannot_be_streamed_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"one direction.*Call the layer on whole windows instead"):
        jaxrnn.stream(jaxrnn.LSTM(I, H, bidirectional=True, rngs=nnx.Rngs(0)))
    with pytest.raises(TypeError, match=r"got LSTMCell. A cell is one step already: jax.jit it"):
        jaxrnn.stream(jaxrnn.LSTMCell(I, H, rngs=nnx.Rngs(0)))
    step = jaxrnn.stream(jaxrnn.GRU(I, H, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"one time step, \[B, 5\] or \[5\], got \(3, 7, 5\)"):
        step(jnp.ones((B, T, I)))
