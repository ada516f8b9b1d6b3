"""Attention of one head follows its equations, ignores what is hidden, and refuses what it cannot mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from tests.jaxrnn.common import draw

B, T, S, E, F, V = 3, 4, 5, 6, 7, 2
SIZES = {"AdditiveAttention": (E, F), "BilinearAttention": (E, F), "DotAttention": (E, E)}
HIDDEN = np.arange(S) >= np.array([S, 0, 2])[:, None]


def module(kind, seed=0, **options):
    made = getattr(jaxrnn, kind)(*SIZES[kind], **options, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    weights = jaxrnn.state_dict(made)
    drawn = {name: draw(seed + n, *value.shape) for n, (name, value) in enumerate(weights.items())}
    jaxrnn.load_state_dict(made, drawn)
    return made, drawn


def inputs(kind):
    sizes = (B, T, E), (B, S, SIZES[kind][1]), (B, S, V)
    return [draw(10 + n, *size) for n, size in enumerate(sizes)]


def numbers(made, arrays, mask=None):
    """Contexts, weights, and the gradients of inputs and parameters."""
    graph, params, rest = nnx.split(made, nnx.Param, ...)

    def run(params, arrays):
        results = nnx.merge(graph, params, rest)(*arrays, mask)
        return sum((r * draw(20, *r.shape)).sum() for r in results), results

    gradients, results = jax.grad(run, (0, 1), has_aux=True)(params, [jnp.asarray(a) for a in arrays])
    return [*results, *gradients[1]], jaxrnn.state_dict(nnx.merge(graph, gradients[0], rest))


def scores(kind, weights, q, k):
    """One query and one key, as the papers write it."""
    if kind == "AdditiveAttention":
        w_q, w_k, v = (weights[f"{name}_proj.weight"] for name in ("query", "key", "score"))
        return (v @ np.tanh(w_q @ q + w_k @ k)).item()
    return q @ (weights["key_proj.weight"] @ k if kind == "BilinearAttention" else k)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", SIZES)
def test_contexts_and_weights_follow_from_the_equations(kind):
    (made, weights), (query, keys, values) = module(kind), inputs(kind)
    contexts, found = made(*map(jnp.asarray, (query, keys, values)), jnp.asarray(HIDDEN))
    for b in range(B):
        open_keys = np.flatnonzero(~HIDDEN[b])
        for t in range(T):
            e = np.exp([scores(kind, weights, query[b, t], keys[b, s]) for s in open_keys])
            expected = np.zeros(S)
            expected[open_keys] = e / e.sum() if len(open_keys) else []
            np.testing.assert_allclose(found[b, t], expected, rtol=1e-11)
            np.testing.assert_allclose(contexts[b, t], expected @ values[b], rtol=1e-11, atol=1e-13)


@pytest.mark.usefixtures("x64")
@pytest.mark.torch
@pytest.mark.parametrize("mask", [None, HIDDEN], ids=["open", "hidden"])
@pytest.mark.parametrize("kind", SIZES)
def test_values_and_gradients_are_those_of_the_mirror(torch, kind, mask):
    import torch_ref

    (made, weights), arrays = module(kind), inputs(kind)
    twin = getattr(torch_ref, kind)(*SIZES[kind]).double()
    twin.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    given = [torch.tensor(a, requires_grad=True) for a in arrays]
    results = twin(*given, None if mask is None else torch.tensor(mask))
    sum((r * torch.tensor(draw(20, *r.shape))).sum() for r in results).backward()
    ours, of_parameters = numbers(made, arrays, mask)
    theirs = [r.detach() for r in results] + [a.grad for a in given]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
    assert set(of_parameters) == set(weights)
    for name, parameter in twin.named_parameters():
        np.testing.assert_allclose(of_parameters[name], parameter.grad, rtol=1e-11, atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", SIZES)
def test_what_is_hidden_even_nan_reaches_neither_a_result_nor_a_gradient(kind):
    (made, _), arrays = module(kind), inputs(kind)
    poisoned = [arrays[0], *(np.where(HIDDEN[..., None], np.nan, a) for a in arrays[1:])]
    (first, d_first), (second, d_second) = (numbers(made, given, HIDDEN) for given in (arrays, poisoned))
    for a, b in zip([*first, *d_first.values()], [*second, *d_second.values()], strict=True):
        assert np.isfinite(b).all()
        np.testing.assert_array_equal(a, b)
    assert not np.asarray(first[3])[HIDDEN].any()  # the gradient of the keys
    assert not np.asarray(first[0])[1].any()  # the contexts of the row that sees nothing


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", SIZES)
def test_one_query_is_as_many_and_keys_are_projected_once(kind):
    (made, _), (query, keys, values) = module(kind), map(jnp.asarray, inputs(kind))
    contexts, weights = made(query, keys, values, HIDDEN)
    projected = made.project_keys(keys)
    for t in range(T):
        for context, weight in (
            made(query[:, t], keys, values, HIDDEN),
            made.attend(query[:, t], projected, values, HIDDEN),
        ):
            np.testing.assert_allclose(context, contexts[:, t], rtol=1e-12, atol=1e-15)
            np.testing.assert_allclose(weight, weights[:, t], rtol=1e-12)


def test_the_hidden_layer_of_the_additive_score_has_a_size_of_its_own():
    made = jaxrnn.AdditiveAttention(E, F, 9, rngs=nnx.Rngs(0))
    shapes = {name: value.shape for name, value in jaxrnn.state_dict(made).items()}
    assert shapes == {
        "query_proj.weight": (9, E),
        "key_proj.weight": (9, F),
        "score_proj.weight": (1, 9),
    }
    assert np.abs(made.query_proj.kernel[...]).max() <= E**-0.5  # torch's bound


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"got 6 of a query and 7 of a key\. BilinearAttention maps"):
        jaxrnn.DotAttention(E, F)
    made = jaxrnn.AdditiveAttention(E, F, rngs=nnx.Rngs(0))
    query, keys = jnp.ones((B, E)), jnp.ones((B, S, F))
    for arguments, message in [
        ((query[:, :5], keys, keys), r"query should be \[B, 6\], or \[B, T, 6\]"),
        ((query[:2], keys, keys), "need one batch size"),
        ((query, keys, keys[:, :2]), "keys and values one length"),
        (
            (query, keys, keys, jnp.ones((B, S))),
            "boolean, of shape .3, 5., True where a key is padding; got float32",
        ),
        ((query, keys, keys, jnp.ones((B, T), bool)), r"got bool, \(3, 4\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            made(*arguments)
