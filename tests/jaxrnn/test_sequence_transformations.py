"""`jaxrnn.sequence` under `jit`, `vmap` and `grad`: one program for all lengths, and no NaN out of the padding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import sequence as ours
from jaxrnn.sequence import pack_padded_sequence, pad_packed_sequence
from tests.jaxrnn.ragged import draw, packed


def sines(x, lengths):
    """Pack, work on the valid steps, pad: NaN wherever padding leaks."""
    sequence = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(dataclasses.replace(sequence, padded=jnp.sin(sequence.padded)), True)[0]


def expected_sines(x, lengths):
    mask = np.arange(x.shape[1]) < np.asarray(lengths)[:, None]
    return np.where(mask[..., None], np.sin(x), 0)


def with_nan_padding(x, lengths):
    return np.where((np.arange(x.shape[1]) < np.asarray(lengths)[:, None])[..., None], x, np.float32(np.nan))


def test_batches_of_any_lengths_run_one_program():
    traces = []

    @jax.jit
    def run(x, lengths):
        traces.append(x.shape)
        return sines(x, lengths)

    x = draw(3, 5, 2)
    for lengths in ([5, 1, 2], [1, 1, 1], [2, 5, 5], [0, 3, 0]):
        # 1e-6: float32, the sines of two libraries.
        np.testing.assert_allclose(run(x, np.array(lengths)), expected_sines(x, lengths), atol=1e-6)
    assert traces == [(3, 5, 2)]


def test_a_packed_sequence_crosses_jit_and_keeps_its_layout():
    sequence = pack_padded_sequence(draw(3, 5, 2), [2, 5, 1], True, False)
    doubled = jax.jit(lambda s: dataclasses.replace(s, padded=2 * s.padded))(sequence)
    assert doubled.enforce_sorted is False
    assert np.array_equal(doubled.data, 2 * sequence.data)
    assert np.array_equal(doubled.sorted_indices, [1, 0, 2])


def test_known_lengths_truncate_and_traced_lengths_keep_the_shape():
    x, lengths = draw(5, 2, 3), np.array([3, 2])

    def repad(x, lengths, **options):
        return pad_packed_sequence(pack_padded_sequence(x, lengths), **options)[0]

    assert repad(x, lengths).shape == (3, 2, 3)
    assert jax.jit(lambda x: repad(x, lengths))(x).shape == (3, 2, 3)
    assert jax.jit(repad)(x, lengths).shape == (5, 2, 3)
    assert jax.jit(lambda x, n: repad(x, n, total_length=7))(x, lengths).shape == (7, 2, 3)
    assert np.array_equal(jax.jit(repad)(x, lengths)[:3], repad(x, lengths))
    with pytest.raises(ValueError, match=r"max sequence length being 5.*traced lengths count as the whole"):
        jax.jit(lambda x, n: repad(x, n, total_length=4))(x, lengths)
    with pytest.raises(TypeError, match=r"must be int.*cannot be traced"):
        jax.jit(lambda x, n: repad(x, lengths, total_length=n))(x, 7)


@pytest.mark.parametrize("name", ["data", "batch_sizes", "sorted_indices", "unsorted_indices"])
@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_the_layout_of_traced_lengths_raises(name, enforce_sorted):
    sequence = pack_padded_sequence(draw(2, 3, 2), [3, 2], True, enforce_sorted)
    with pytest.raises(
        TypeError, match=rf"PackedSequence\.{name} .*Use \.padded \[B, T, \.\.\.\] and \.lengths"
    ):
        jax.jit(lambda s: getattr(s, name))(sequence)


def test_a_list_of_traced_lengths_sequences_raises():
    with pytest.raises(TypeError, match="list of sequences"):
        jax.jit(ours.unpack_sequence)(packed(ours, jnp.asarray))
    with pytest.raises(TypeError, match="list of sequences"):
        jax.jit(lambda x, n: ours.unpad_sequence(x, n, True))(draw(2, 3), np.array([1, 2]))


def test_traced_lengths_that_break_the_promise_of_order_are_found_afterwards():
    pack = jax.jit(lambda x, n: pack_padded_sequence(x, n, True))
    with pytest.raises(RuntimeError, match="sorted in decreasing order"):
        _ = pack(draw(2, 3, 2), np.array([1, 3])).data


def test_a_traced_zero_length_is_an_empty_row():
    x = draw(3, 4, 2)
    sequence = jax.jit(lambda x, n: pack_padded_sequence(x, n, True, False))(x, np.array([2, 0, 4]))
    assert sequence.batch_sizes.tolist() == [2, 2, 1, 1]
    assert sequence.sorted_indices.tolist() == [2, 0, 1]
    assert np.array_equal(sequence.data, [x[2, 0], x[0, 0], x[2, 1], x[0, 1], x[2, 2], x[2, 3]])
    assert [row.shape for row in ours.unpack_sequence(sequence)] == [(2, 2), (0, 2), (4, 2)]
    assert np.array_equal(pad_packed_sequence(sequence, True)[0][1], np.zeros((4, 2)))


def test_vmap_is_a_loop():
    x, lengths = draw(4, 3, 5, 2), np.random.default_rng(0).integers(0, 6, (4, 3))
    looped = [expected_sines(*pair) for pair in zip(x, lengths, strict=True)]
    # 1e-6: float32, the sines of two libraries.
    np.testing.assert_allclose(jax.vmap(sines)(x, lengths), looped, atol=1e-6)
    stacked = jax.vmap(lambda x, n: pack_padded_sequence(x, n, True, False))(x, lengths)
    with pytest.raises(TypeError, match="stacked"):
        _ = stacked.data
    with pytest.raises(TypeError, match="stacked"):
        pad_packed_sequence(stacked)
    second = jax.tree.map(lambda leaf: leaf[1], stacked)
    assert np.array_equal(second.batch_sizes, (lengths[1] > np.arange(lengths[1].max())[:, None]).sum(axis=1))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_nan_padding_reaches_neither_value_nor_gradient(transform):
    lengths = np.array([2, 5, 1])
    clean = draw(3, 5, 2)
    x = with_nan_padding(clean, lengths)
    assert np.isnan(x).sum() == 14
    weights = draw(3, 5, 2, seed=1)

    def loss(x, lengths):
        return (sines(x, lengths) * weights).sum()

    value, gradient = transform(jax.value_and_grad(loss))(x, lengths)
    # 1e-5: float32 sums of 16 terms of size up to 8.
    np.testing.assert_allclose(value, (expected_sines(clean, lengths) * weights).sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient, np.where(np.isnan(x), 0, np.cos(clean) * weights), atol=1e-5)
    assert np.array_equal(gradient[np.isnan(x)], np.zeros(14))  # exactly


def test_second_derivatives_and_forward_mode_go_through():
    lengths, x = np.array([2, 1]), with_nan_padding(draw(2, 2, 1), [2, 1])
    hessian = jax.hessian(lambda x: sines(x, lengths).sum())(x).reshape(4, 4)
    # 1e-6: float32, the sines of two libraries.
    np.testing.assert_allclose(hessian, np.diag(np.nan_to_num(-np.sin(x)).ravel()), atol=1e-6)


def test_gradients_reach_stacked_and_unpacked_sequences():
    sequences = [jnp.asarray(draw(n, 2, seed=n)) for n in (3, 1, 2)]

    def loss(sequences):
        rows = ours.unpack_sequence(ours.pack_sequence(sequences, enforce_sorted=False))
        rows += ours.unpad_sequence(ours.pad_sequence(sequences), [3, 1, 2])
        return sum((i + 1) * (row**2).sum() for i, row in enumerate(rows))

    for i, gradient in enumerate(jax.jit(jax.grad(loss))(sequences)):
        # 1e-6 relative: one rounding each of a few products.
        np.testing.assert_allclose(gradient, 2 * (2 * i + 5) * sequences[i], rtol=1e-6)


def test_a_traced_permutation_is_inverted():
    permutation = jnp.array([2, 0, 3, 1])
    assert jax.jit(ours.invert_permutation)(permutation).tolist() == [1, 3, 0, 2]
    eager = ours.invert_permutation(permutation)
    assert isinstance(eager, jax.Array)
    assert eager.tolist() == [1, 3, 0, 2]
