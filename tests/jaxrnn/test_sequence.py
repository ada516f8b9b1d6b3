"""`jaxrnn.sequence` beside `torch.nn.utils.rnn`: the same bits and the same layout."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrnn import sequence as ours
from jaxrnn.lengths import check_lengths, length_mask
from jaxrnn.sequence import PackedSequence, pack_padded_sequence, pad_packed_sequence
from tests.jaxrnn.ragged import draw, needs_torch, packed, theirs, torch

# Every example may be a new shape, and a new shape is compiled: few examples, and no deadline for each.
few = settings(max_examples=15, deadline=None)
ragged = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def same(mine, torchs):
    """Bit for bit, dtype included."""
    if torchs is None:
        return mine is None
    mine, torchs = np.asarray(mine), torchs.numpy()
    return mine.dtype == torchs.dtype and np.array_equal(mine, torchs)


def same_packed(mine, torchs):
    return all(same(getattr(mine, name), value) for name, value in torchs._asdict().items())


# ---------------------------------------------------------------------------------------------- torch beside


class TestTheSameAsTorch:
    pytestmark = needs_torch

    @pytest.mark.parametrize("batch_first", [False, True])
    @pytest.mark.parametrize(("enforce_sorted", "lengths"), [(True, [5, 4, 2, 1]), (False, [2, 5, 1, 4])])
    @pytest.mark.parametrize("rest", [(), (2, 3)])
    @pytest.mark.parametrize("dtype", ["float32", "int32", "float16", "bool"])
    def test_packing_and_padding_give_torchs_bits(self, batch_first, enforce_sorted, lengths, rest, dtype):
        x = draw(4, 6, *rest, dtype=dtype) if batch_first else draw(6, 4, *rest, dtype=dtype)
        mine = ours.pack_padded_sequence(x, lengths, batch_first, enforce_sorted)
        torchs = theirs.pack_padded_sequence(torch.from_numpy(x), lengths, batch_first, enforce_sorted)
        assert same_packed(mine, torchs)
        for options in ((), (True,), (False, 7), (True, -1.5 if "float" in dtype else 1, 9)):
            padded, mine_lengths = ours.pad_packed_sequence(mine, *options)
            torchs_padded, torchs_lengths = theirs.pad_packed_sequence(torchs, *options)
            assert same(padded, torchs_padded)
            assert np.array_equal(mine_lengths, torchs_lengths)  # int32, not int64: JAX's integers
        assert all(map(same, ours.unpack_sequence(mine), theirs.unpack_sequence(torchs)))

    def test_rows_of_equal_length_keep_their_order(self):
        lengths = np.random.default_rng(0).integers(1, 5, 40)
        x = torch.from_numpy(draw(40, 5, 2))
        # Not enforce_sorted=False: torch's own sort is not stable, its order of equals varies with the CPU.
        order = torch.sort(torch.from_numpy(lengths), descending=True, stable=True).indices
        torchs = theirs.pack_padded_sequence(x[order], lengths[order], batch_first=True)
        mine = ours.pack_padded_sequence(x.numpy(), lengths, batch_first=True, enforce_sorted=False)
        assert same(mine.data, torchs.data)
        assert same(mine.batch_sizes, torchs.batch_sizes)
        assert same(mine.sorted_indices, order)

    @pytest.mark.parametrize("enforce_sorted", [False, True])
    def test_the_layout_of_torch_is_read_and_given_back(self, enforce_sorted):
        lengths = np.random.default_rng(1).integers(1, 5, 40)
        lengths = np.sort(lengths)[::-1].copy() if enforce_sorted else lengths
        x = torch.from_numpy(draw(40, 5, 2))
        torchs = theirs.pack_padded_sequence(x, torch.from_numpy(lengths), True, enforce_sorted)
        mine = PackedSequence.from_torch_layout(*torchs)
        assert same_packed(mine, torchs)  # equal lengths in torch's order, whatever it is
        assert same(mine.padded[:, :4], theirs.pad_packed_sequence(torchs, batch_first=True)[0])
        fresh = ours.pack_padded_sequence(x.numpy(), lengths, True, enforce_sorted)
        assert np.array_equal(mine.lengths, fresh.lengths)
        assert np.array_equal(mine.padded, fresh.padded[:, :4])
        assert same_packed(dataclasses.replace(mine, padded=-mine.padded), torchs._replace(data=-torchs.data))

    def test_either_index_of_torch_is_enough(self):
        torchs = theirs.pack_padded_sequence(torch.from_numpy(draw(3, 4, 2)), [2, 4, 1], True, False)
        for sorted_indices, unsorted_indices in ((torchs[2], None), (None, torchs[3])):
            mine = PackedSequence.from_torch_layout(*torchs[:2], sorted_indices, unsorted_indices)
            assert same_packed(mine, torchs)

    @pytest.mark.parametrize("batch_first", [False, True])
    @pytest.mark.parametrize("padding_side", ["left", "right"])
    @pytest.mark.parametrize("rest", [(), (3,)])
    @pytest.mark.parametrize(
        ("dtype", "value"), [("float32", -1.5), ("int32", -1.7), ("bool", 1), ("float16", np.inf)]
    )
    def test_stacking_sequences_gives_torchs_bits(self, batch_first, padding_side, rest, dtype, value):
        sequences = [draw(n, *rest, dtype=dtype, seed=n) for n in (2, 5, 0, 3)]
        expected = theirs.pad_sequence(
            list(map(torch.from_numpy, sequences)), batch_first, value, padding_side
        )
        assert same(ours.pad_sequence(sequences, batch_first, value, padding_side), expected)
        assert same(
            ours.pad_sequence(map(jnp.asarray, sequences), batch_first, value, padding_side), expected
        )

    @pytest.mark.parametrize(("enforce_sorted", "lengths"), [(True, [5, 3, 3]), (False, [2, 5, 1])])
    def test_packing_sequences_gives_torchs_layout(self, enforce_sorted, lengths):
        sequences = [draw(n, 3, seed=n) for n in lengths]
        torchs = theirs.pack_sequence(list(map(torch.from_numpy, sequences)), enforce_sorted)
        assert same_packed(ours.pack_sequence(sequences, enforce_sorted), torchs)
        assert same_packed(
            ours.pack_sequence(iter(sequences), enforce_sorted), torchs
        )  # torch: "an empty list"

    @pytest.mark.parametrize("batch_first", [False, True])
    def test_unpadding_gives_torchs_rows(self, batch_first):
        x, lengths = draw(3, 4, 2), np.array([4, 0, 2])
        expected = theirs.unpad_sequence(torch.from_numpy(x), torch.from_numpy(lengths), True)
        rows = ours.unpad_sequence(x if batch_first else x.swapaxes(0, 1), lengths, batch_first)
        assert all(map(same, rows, expected))

    def test_inverting_a_permutation_gives_torchs_inverse(self):
        permutation = np.array([2, 0, 3, 1])
        assert same(
            ours.invert_permutation(permutation), theirs.invert_permutation(torch.from_numpy(permutation))
        )
        assert ours.invert_permutation(None) is theirs.invert_permutation(None) is None

    def test_gradients_are_those_of_torch(self):
        x, lengths, cotangent = draw(3, 5, 2), [2, 5, 1], draw(8, 2, seed=1)
        leaf = torch.from_numpy(x).requires_grad_()
        data = theirs.pack_padded_sequence(leaf, lengths, True, False).data
        (expected,) = torch.autograd.grad((data**2 * torch.from_numpy(cotangent)).sum(), leaf)

        def loss(x):
            return (pack_padded_sequence(x, lengths, True, False).data ** 2 * cotangent).sum()

        assert same(jax.grad(loss)(x), expected)
        assert same(jax.jit(jax.grad(loss))(x), expected)  # known lengths stay known inside jit


# ---------------------------------------------------------------------------------------------- the pytree


def test_a_packed_sequence_is_a_pytree():
    for sequence in (
        packed(ours, jnp.asarray),
        PackedSequence.from_torch_layout(draw(3), [2, 1], np.array([1, 0])),
    ):
        leaves, structure = jax.tree.flatten(sequence)
        again = jax.tree.unflatten(structure, leaves)
        assert again.enforce_sorted == sequence.enforce_sorted
        assert np.array_equal(again.data, sequence.data)
        assert jax.tree.structure(jax.tree.map(lambda _: object(), sequence)) == structure
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(sequence)]
    assert paths == [".padded", ".lengths", ".order"]


def test_a_packed_sequence_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        packed(ours, jnp.asarray).lengths = None


def test_a_packed_sequence_of_numpy_leaves_works():
    sequence = pack_padded_sequence(draw(3, 5, 2), [2, 5, 1], True, False)
    fetched = jax.device_get(sequence)
    assert isinstance(fetched.padded, np.ndarray)
    assert np.array_equal(fetched.data, sequence.data)
    assert np.array_equal(pad_packed_sequence(fetched)[0], pad_packed_sequence(sequence)[0])


# ------------------------------------------------------------------------------------------- round trips


@few
@given(
    lengths=ragged,
    extra=st.integers(0, 2),
    batch_first=st.booleans(),
    value=st.sampled_from([0.0, -3.5, np.nan]),
)
def test_padding_a_pack_gives_the_valid_steps_back(lengths, extra, batch_first, value):
    x = draw(len(lengths), max(lengths) + extra, 2)
    given_x = x if batch_first else x.swapaxes(0, 1)
    sequence = pack_padded_sequence(given_x, lengths, batch_first, enforce_sorted=False)
    padded, again = pad_packed_sequence(sequence, True, value)
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    assert again.tolist() == lengths
    assert np.array_equal(
        padded, np.where(mask[..., None], x[:, : max(lengths)], np.float32(value)), equal_nan=True
    )
    assert np.array_equal(length_mask(lengths, max(lengths)), mask)
    restored = PackedSequence.from_torch_layout(
        sequence.data, sequence.batch_sizes, sequence.sorted_indices, sequence.unsorted_indices
    )
    assert np.array_equal(restored.padded, sequence.padded[:, : max(lengths)])
    assert restored.lengths.tolist() == lengths


@few
@given(lengths=ragged, order=st.sampled_from([True, False]))
def test_unpacking_gives_the_sequences_back(lengths, order):
    lengths = sorted(lengths, reverse=True) if order else lengths
    sequences = [draw(n, 2, seed=i) for i, n in enumerate(lengths)]
    for back in (
        ours.unpack_sequence(ours.pack_sequence(sequences, enforce_sorted=order)),
        ours.unpad_sequence(ours.pad_sequence(sequences), lengths),
    ):
        assert all(np.array_equal(a, b) for a, b in zip(back, sequences, strict=True))


@few
@given(permutation=st.integers(1, 8).flatmap(lambda n: st.permutations(range(n))))
def test_a_permutation_undone_is_the_identity(permutation):
    permutation = np.array(permutation)
    inverse = ours.invert_permutation(permutation)
    assert np.array_equal(permutation[inverse], np.arange(len(permutation)))
    assert np.array_equal(inverse[permutation], np.arange(len(permutation)))


# ------------------------------------------------------------------------------------- the caller's arrays


@pytest.mark.parametrize("batch_first", [False, True])
def test_no_array_of_the_caller_is_changed_or_shared(batch_first):
    # JAX may share the memory of a NumPy array aligned to 64 bytes (device_put does): here every row is.
    memory = np.zeros(3 * 3 * 64 + 16, np.float32)
    start = -(memory.ctypes.data // 4) % 16
    x, lengths = memory[start : start + 3 * 3 * 64].reshape(3, 3, 64), np.array([3, 2, 1], np.int32)
    x[:] = draw(3, 3, 64)
    before = x.copy(), lengths.copy()
    sequence = pack_padded_sequence(x, lengths, batch_first)
    results = [
        sequence.padded,
        sequence.lengths,
        sequence.data,
        *pad_packed_sequence(sequence, batch_first),
        *ours.unpad_sequence(x, lengths, batch_first),  # torch transposes x in place
        ours.pad_sequence(list(x), batch_first),
        ours.pad_sequence([x[0]], batch_first),
        check_lengths(lengths, 3, 3),
        PackedSequence.from_torch_layout(x[0], np.array([3]), lengths - 1).padded,
    ]
    copies = [np.array(result) for result in results]
    assert x.shape == before[0].shape
    assert np.array_equal(x, before[0])
    assert np.array_equal(lengths, before[1])
    x[:], lengths[:] = -1, 0
    assert all(np.array_equal(result, copy) for result, copy in zip(results, copies, strict=True))
