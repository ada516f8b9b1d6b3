"""LSTMs by cuDNN on an NVIDIA GPU: the calls themselves, which `test_cudnn.py` emulates."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn import cells, ops
from jaxrnn.ops import cudnn
from tests.jaxrnn.common import draw, rms_error, scalar
from tests.jaxrnn.lstm_stacks import draw_stack, layer_by_layer

pytestmark = pytest.mark.skipif(
    not cudnn._is_there(), reason="needs an NVIDIA GPU and JAX with CUDA; test_cudnn.py emulates the calls"
)

B, T, I, H = 5, 12, 6, 16
LENGTHS = np.array([T, 0, 7, 1, 9])
# IEEE float32: 12 steps of dot products of 16 or fewer numbers, 6e-8 each, and derivatives of that, in some layers.
# TensorFloat32 keeps 10 bits of mantissa, so a factor is off by up to 2^-11 = 5e-4. With every factor rounded like
# that in the emulation, no array is off by more than 6e-4 (root mean square); eight times that.
TOLERANCES = {"highest": 2e-5, "default": 5e-3}
precisions = pytest.mark.parametrize("precision", TOLERANCES)


def run(implementation, precision, params, x, state, **options):
    return ops.unroll(
        cells.LSTM, params, x, state, implementation=implementation, precision=precision, **options
    )


def stack_of(layers, directions, bias):
    # Smaller weights: gates stay where a rounding is not amplified.
    options = {"scale": lambda n: 0.4 + n / 20, "bias": bias, "dtype": jnp.float32}
    return draw_stack(layers, directions, B, T, I, H, **options)


def values_and_gradients(f, *args):
    return jax.jit(lambda *args: (f(*args), jax.grad(scalar(f), argnums=(0, 1, 2))(*args)))(*args)


def assert_close(ours, theirs, tolerance):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert rms_error(a, b) <= tolerance


@precisions
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("layers", "directions"), [(1, 1), (1, 2), (2, 2), (3, 1)])
def test_a_stack_is_that_of_the_reference(layers, directions, bias, lengths, precision):
    args = stack_of(layers, directions, bias)
    options = {"lengths": lengths, "bidirectional": directions == 2, "precision": precision}
    ours = values_and_gradients(partial(cudnn.unroll_layers, **options), *args)
    reference = partial(layer_by_layer, lengths=lengths, directions=directions, precision="highest")
    theirs = values_and_gradients(reference, *args)
    assert_close(ours, theirs, TOLERANCES[precision])


@precisions
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_one_layer_is_that_of_the_reference(reverse, lengths, precision):
    (params,), x, state = stack_of(1, 1, True)
    args = (params, x, jax.tree.map(lambda s: s[0], state))
    options = {"reverse": reverse, "lengths": lengths}
    ours = values_and_gradients(partial(run, "cudnn", precision, **options), *args)
    theirs = values_and_gradients(partial(run, "reference", "highest", **options), *args)
    assert_close(ours, theirs, TOLERANCES[precision])


def test_nothing_in_the_padding_reaches_a_result():
    params, x, state = stack_of(2, 2, True)
    padding = np.arange(T)[:, None] >= LENGTHS[:, None, None]
    f = partial(cudnn.unroll_layers, lengths=LENGTHS, bidirectional=True, precision="highest")
    clean = values_and_gradients(f, params, x, state)
    assert_close(values_and_gradients(f, params, jnp.where(padding, jnp.nan, x), state), clean, 1e-6)


def test_every_kind_of_derivative_works():
    (params,), x, state = stack_of(1, 1, True)
    state = jax.tree.map(lambda s: s[0], state)
    ours, theirs = (partial(run, name, "highest", lengths=LENGTHS) for name in ("cudnn", "reference"))

    def derivatives(f):
        def of_bias(bias):
            return scalar(f)({**params, "bias_hh": bias}, x, state)

        many = jnp.stack([x, 2 * x])
        return (
            jax.jvp(of_bias, (params["bias_hh"],), (params["bias_ih"],)),
            jax.hessian(of_bias)(params["bias_hh"]),
            jax.vmap(f, in_axes=(None, 0, None))(params, many, state),
            jax.vmap(jax.grad(scalar(f)), in_axes=(None, 0, None))(params, many, state),
        )

    assert_close(*(jax.jit(partial(derivatives, f))() for f in (ours, theirs)), 1e-4)  # a second derivative


@precisions
def test_a_layer_is_that_of_torch_on_the_same_gpu(precision, torch):
    if not torch.cuda.is_available():
        pytest.skip("torch is installed without CUDA")
    from flax import nnx  # here, with the layer

    theirs = torch.nn.LSTM(I, H, 2, batch_first=True, bidirectional=True)
    options = {"batch_first": True, "bidirectional": True, "precision": precision, "implementation": "cudnn"}
    ours = jaxrnn.LSTM(I, H, 2, rngs=nnx.Rngs(0), **options)
    jaxrnn.load_state_dict(ours, {n: v.detach().numpy() for n, v in theirs.state_dict().items()})
    theirs = theirs.cuda()
    x = draw(1, B, T, I).astype(np.float32)
    torch.backends.cudnn.allow_tf32 = precision == "default"
    expected = theirs(torch.from_numpy(x).cuda())[0].detach().cpu().numpy()
    assert rms_error(ours(jnp.asarray(x))[0], expected) <= TOLERANCES[precision]
