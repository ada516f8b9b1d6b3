"""Attention gives the numbers of `torch.nn.MultiheadAttention`, and refuses what it cannot mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from tests.jaxrnn.common import draw

B, L, S, E, HEADS = 3, 4, 5, 6, 2
KINDS = [{}, {"bias": False}, {"kdim": 3, "vdim": 7}, {"kdim": 3}]


def hidden(seed, *shape):
    mask = draw(seed, *shape) > 1
    mask[..., 0] = False
    return mask


EMPTY = hidden(5, B, S)
EMPTY[1] = True
MASKS = {
    "none": {},
    "padding": {"key_padding_mask": hidden(5, B, S)},
    "both": {"attn_mask": hidden(6, L, S), "key_padding_mask": hidden(5, B, S)},
    "every head": {"attn_mask": hidden(7, B * HEADS, L, S)},
    "floating": {"attn_mask": draw(8, L, S), "key_padding_mask": draw(9, B, S)},
}


def module(kind, **options):
    made = jaxrnn.MultiheadAttention(E, HEADS, **kind, **options, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    values = jaxrnn.state_dict(made)
    drawn = {name: draw(20 + n, *value.shape) for n, (name, value) in enumerate(values.items())}
    jaxrnn.load_state_dict(made, drawn)
    return made


def inputs(kind, rows=B, queries=L, keys=S):
    sizes = (rows, queries, E), (rows, keys, kind.get("kdim", E)), (rows, keys, kind.get("vdim", E))
    return [draw(n, *size) for n, size in enumerate(sizes)]


def of_jax(made, arrays, **options):
    """Return results and gradients of inputs, and gradients of parameters by torch's names."""
    graph, params, rest = nnx.split(made, nnx.Param, ...)

    def run(params, arrays):
        results = [r for r in nnx.merge(graph, params, rest)(*arrays, **options) if r is not None]
        return sum((r * draw(10, *r.shape)).sum() for r in results), results

    gradients, results = jax.grad(run, (0, 1), has_aux=True)(params, [jnp.asarray(a) for a in arrays])
    return [*results, *gradients[1]], jaxrnn.state_dict(nnx.merge(graph, gradients[0], rest))


def of_torch(torch, kind, weights, arrays, **options):
    theirs = torch.nn.MultiheadAttention(E, HEADS, **kind, dtype=torch.float64)
    theirs.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    given = [torch.tensor(a, requires_grad=True) for a in arrays]
    options = {n: torch.tensor(v) if isinstance(v, np.ndarray) else v for n, v in options.items()}
    results = [r for r in theirs(*given, **options) if r is not None]
    sum((r * torch.tensor(draw(10, *r.shape))).sum() for r in results).backward()
    found = [r.detach().numpy() for r in results] + [a.grad.numpy() for a in given]
    return found, {name: p.grad.numpy() for name, p in theirs.named_parameters()}


def assert_torchs(torch, kind, arrays, made, **options):
    theirs = of_torch(
        torch, kind | {"batch_first": made.batch_first}, jaxrnn.state_dict(made), arrays, **options
    )
    ours = of_jax(made, arrays, **options)
    for a, b in zip(ours[0], theirs[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
    assert list(jaxrnn.state_dict(made)) == list(theirs[1])
    for name, gradient in theirs[1].items():
        np.testing.assert_allclose(ours[1][name], gradient, rtol=1e-11, atol=1e-12, err_msg=name)


@pytest.mark.usefixtures("x64")
@pytest.mark.torch
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_outputs_weights_and_gradients_are_those_of_torch(torch, kind, mask):
    made = module(kind, batch_first=True)
    assert_torchs(torch, kind, inputs(kind), made, average_attn_weights=False, **MASKS[mask])


@pytest.mark.usefixtures("x64")
@pytest.mark.torch
@pytest.mark.parametrize(("rows", "queries", "keys"), [(1, L, S), (B, 1, S), (B, L, 1), (1, 1, 1)])
def test_one_row_one_query_and_one_key_are_nothing_special(torch, rows, queries, keys):
    assert_torchs(torch, {}, inputs({}, rows, queries, keys), module({}, batch_first=True))


@pytest.mark.usefixtures("x64")
@pytest.mark.torch
def test_time_may_lead_and_the_batch_be_missing(torch):
    assert_torchs(torch, {}, [np.swapaxes(a, 0, 1) for a in inputs({})], module({}))
    one = {"key_padding_mask": hidden(5, S), "attn_mask": hidden(7, HEADS, L, S)}
    assert_torchs(torch, {}, [a[0] for a in inputs({})], module({}), **one)


@pytest.mark.usefixtures("x64")
@pytest.mark.torch
def test_without_weights_a_query_that_may_look_nowhere_sees_zeros_as_in_torch(torch):
    made, options = module({}, batch_first=True), {"need_weights": False, "key_padding_mask": EMPTY}
    assert_torchs(torch, {}, inputs({}), made, **options)
    output, _ = made(*map(jnp.asarray, inputs({})), **options)
    np.testing.assert_array_equal(output[1], np.broadcast_to(made.out_proj.bias[...], (L, E)))


@pytest.mark.usefixtures("x64")
@pytest.mark.torch
def test_with_weights_it_is_nan_as_in_torch_and_other_rows_are_not(torch):
    made, arrays = module({}, batch_first=True), inputs({})
    ours, _ = of_jax(made, arrays, key_padding_mask=EMPTY)
    theirs, _ = of_torch(
        torch, {"batch_first": True}, jaxrnn.state_dict(made), arrays, key_padding_mask=EMPTY
    )
    for a, b in zip(ours[:2], theirs[:2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
        assert np.isnan(a[1]).all()
        assert np.isfinite(np.delete(a, 1, 0)).all()


@pytest.mark.usefixtures("x64")
def test_a_hidden_key_reaches_neither_a_result_nor_a_gradient():
    made, arrays = module({}, batch_first=True), inputs({})
    padding = MASKS["padding"]["key_padding_mask"]
    changed = [arrays[0], *(np.where(padding[:, :, None], 100 * a, a) for a in arrays[1:])]
    (first, _), (second, _) = (of_jax(made, a, key_padding_mask=padding) for a in (arrays, changed))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
    assert not np.any(np.asarray(first[3])[padding])  # the gradient of keys


@pytest.mark.usefixtures("x64")
def test_dropout_zeroes_weights_by_a_given_mask_or_by_a_draw():
    made, arrays = module({"dropout": 0.25}, batch_first=True), [jnp.asarray(a) for a in inputs({})]
    keep = draw(30, B, HEADS, L, S) > 0
    output, weights = made(*arrays, average_attn_weights=False, dropout_mask=jnp.asarray(keep))
    made.eval()
    calm, undropped = made(*arrays, average_attn_weights=False)
    np.testing.assert_allclose(weights, np.where(keep, undropped / 0.75, 0), rtol=1e-12)
    assert np.abs(output - calm).max() > 0.1
    with pytest.raises(ValueError, match="nothing is dropped"):
        made(*arrays, dropout_mask=jnp.asarray(keep))
    made.train()
    drawn = np.asarray(made(*arrays, average_attn_weights=False)[1])
    assert 0.1 < np.mean(drawn == 0) < 0.4
    assert np.any(drawn != made(*arrays, average_attn_weights=False)[1])
    with pytest.raises(ValueError, match=r"should be of shape \(3, 2, 4, 5\)"):
        made(*arrays, dropout_mask=jnp.ones((B, L, S), bool))


WRONG = [
    ({"attn_mask": np.zeros((L, S + 1), bool)}, RuntimeError, "The shape of the 2D attn_mask is"),
    ({"attn_mask": np.zeros((B, L, S), bool)}, RuntimeError, "The shape of the 3D attn_mask is"),
    ({"attn_mask": np.zeros((L, S), np.int32)}, TypeError, "only bool and floating types of attn_mask"),
    ({"key_padding_mask": np.zeros((B + 1, S), bool)}, ValueError, "key_padding_mask should be of shape"),
    ({"is_causal": True}, RuntimeError, "Need attn_mask if specifying the is_causal hint"),
    (
        {"is_causal": True, "attn_mask": np.zeros((L, S), bool)},
        ValueError,
        "is the causal mask, but it is another",
    ),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG)
def test_a_mask_that_does_not_fit_is_refused(options, error, message):
    made = jaxrnn.MultiheadAttention(E, HEADS, batch_first=True, rngs=nnx.Rngs(0))
    with pytest.raises(error, match=message):
        made(*(jnp.asarray(a, jnp.float32) for a in inputs({})), **options)


def test_the_causal_mask_may_come_with_torchs_hint():
    made = jaxrnn.MultiheadAttention(E, HEADS, batch_first=True, rngs=nnx.Rngs(0))
    arrays = [jnp.asarray(a, jnp.float32) for a in inputs({})]
    mask = np.triu(np.ones((L, S), bool), 1)
    with_hint, _ = made(*arrays, attn_mask=mask, is_causal=True)
    np.testing.assert_array_equal(with_hint, made(*arrays, attn_mask=mask)[0])
    floating = jnp.where(mask, -jnp.inf, 0.0)
    np.testing.assert_array_equal(with_hint, made(*arrays, attn_mask=floating, is_causal=True)[0])


def test_a_floating_mask_does_not_widen_half_precision():
    made = jaxrnn.MultiheadAttention(E, HEADS, batch_first=True, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16)
    arrays = [jnp.asarray(a, jnp.bfloat16) for a in inputs({})]
    output, weights = made(*arrays, attn_mask=jnp.zeros((L, S), jnp.float32))
    assert output.dtype == weights.dtype == jnp.bfloat16


def test_inputs_that_do_not_fit_are_refused():
    made = jaxrnn.MultiheadAttention(E, HEADS, batch_first=True, rngs=nnx.Rngs(0))
    x = jnp.ones((B, S, E))
    for arrays, message in [
        ((x[..., :5], x, x), "expecting embedding dimension of 6, but got 5"),
        ((x, x[:1], x[:1]), "one batch size"),
        ((x, x, x[:, :2]), "key and value one length"),
        ((x[0], x, x), "unbatched 2D or batched 3D"),
        ((x[None],) * 3, "jax.vmap"),
        ((x, x[:, :0], x[:, :0]), "There are no keys"),
        ((x.astype(jnp.float16),) * 3, "does not match weight dtype"),
    ]:
        with pytest.raises(ValueError, match=message):
            made(*arrays)


def test_constructors_that_mean_nothing_are_refused():
    for arguments, options, error, message in [
        ((6, 4), {}, ValueError, "embed_dim must be divisible by num_heads"),
        ((0, 1), {}, ValueError, "must be greater than 0"),
        ((6, 2), {"dropout": 1.5}, ValueError, r"in range \[0, 1\]"),
        ((6, 2), {"add_zero_attn": True}, TypeError, "unexpected keyword argument 'add_zero_attn'"),
    ]:
        with pytest.raises(error, match=message):
            jaxrnn.MultiheadAttention(*arguments, **options, rngs=nnx.Rngs(0))
