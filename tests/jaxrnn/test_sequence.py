"""`jaxrnn.sequence` beside `torch.nn.utils.rnn`: the same bits, the same errors, and what torch cannot do."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrnn import sequence as ours
from jaxrnn.sequence import (
    PackedSequence,
    check_lengths,
    length_mask,
    pack_padded_sequence,
    pad_packed_sequence,
)

try:
    import torch
    from torch.nn.utils import rnn as theirs
except ModuleNotFoundError:
    torch = theirs = None

needs_torch = [pytest.mark.torch, pytest.mark.skipif(torch is None, reason="compares with PyTorch")]

# Every example may be a new shape, and a new shape is compiled: few examples, and no deadline for each.
few = settings(max_examples=15, deadline=None)
ragged = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def draw(*shape, dtype="float32", seed=0):
    """Values that differ everywhere and are zero nowhere: no two steps can be mistaken for each other."""
    values = np.random.default_rng(seed).permutation(np.prod(shape, dtype=int)) + 1
    return (values / 4 if np.issubdtype(dtype, np.floating) else values).reshape(shape).astype(dtype)


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
    def test_packing_and_padding(self, batch_first, enforce_sorted, lengths, rest, dtype):
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
    def test_stacking_sequences(self, batch_first, padding_side, rest, dtype, value):
        sequences = [draw(n, *rest, dtype=dtype, seed=n) for n in (2, 5, 0, 3)]
        expected = theirs.pad_sequence(
            list(map(torch.from_numpy, sequences)), batch_first, value, padding_side
        )
        assert same(ours.pad_sequence(sequences, batch_first, value, padding_side), expected)
        assert same(
            ours.pad_sequence(map(jnp.asarray, sequences), batch_first, value, padding_side), expected
        )

    @pytest.mark.parametrize(("enforce_sorted", "lengths"), [(True, [5, 3, 3]), (False, [2, 5, 1])])
    def test_packing_sequences(self, enforce_sorted, lengths):
        sequences = [draw(n, 3, seed=n) for n in lengths]
        torchs = theirs.pack_sequence(list(map(torch.from_numpy, sequences)), enforce_sorted)
        assert same_packed(ours.pack_sequence(sequences, enforce_sorted), torchs)
        assert same_packed(
            ours.pack_sequence(iter(sequences), enforce_sorted), torchs
        )  # torch: "an empty list"

    @pytest.mark.parametrize("batch_first", [False, True])
    def test_unpadding(self, batch_first):
        x, lengths = draw(3, 4, 2), np.array([4, 0, 2])
        expected = theirs.unpad_sequence(torch.from_numpy(x), torch.from_numpy(lengths), True)
        rows = ours.unpad_sequence(x if batch_first else x.swapaxes(0, 1), lengths, batch_first)
        assert all(map(same, rows, expected))

    def test_inverting_a_permutation(self):
        permutation = np.array([2, 0, 3, 1])
        assert same(
            ours.invert_permutation(permutation), theirs.invert_permutation(torch.from_numpy(permutation))
        )
        assert ours.invert_permutation(None) is theirs.invert_permutation(None) is None

    def test_gradients(self):
        x, lengths, cotangent = draw(3, 5, 2), [2, 5, 1], draw(8, 2, seed=1)
        leaf = torch.from_numpy(x).requires_grad_()
        data = theirs.pack_padded_sequence(leaf, lengths, True, False).data
        (expected,) = torch.autograd.grad((data**2 * torch.from_numpy(cotangent)).sum(), leaf)

        def loss(x):
            return (pack_padded_sequence(x, lengths, True, False).data ** 2 * cotangent).sum()

        assert same(jax.grad(loss)(x), expected)
        assert same(jax.jit(jax.grad(loss))(x), expected)  # known lengths stay known inside jit


def float_batch(array):
    return array(draw(2, 3, 2))


# Each call is made with torch's functions and tensors and with ours: `m` has the functions, `a` makes arrays.
WRONG = {
    "unsorted": lambda m, a: m.pack_padded_sequence(float_batch(a), [2, 3], True),
    "unsorted with zero": lambda m, a: m.pack_padded_sequence(float_batch(a), [0, 3], True),
    "zero": lambda m, a: m.pack_padded_sequence(float_batch(a), [3, 0], True),
    "zero, not sorted": lambda m, a: m.pack_padded_sequence(float_batch(a), [0, 3], True, False),
    "zero and unsorted": lambda m, a: m.pack_padded_sequence(a(draw(3, 3, 2)), [1, 3, 0], True),
    "negative": lambda m, a: m.pack_padded_sequence(float_batch(a), [3, -1], True),
    "too few": lambda m, a: m.pack_padded_sequence(float_batch(a), [3], True),
    "too many": lambda m, a: m.pack_padded_sequence(float_batch(a), [3, 2, 1], True),
    "none": lambda m, a: m.pack_padded_sequence(float_batch(a), [], True),
    "matrix of lengths": lambda m, a: m.pack_padded_sequence(float_batch(a), a(np.array([[3, 2]])), True),
    "one number": lambda m, a: m.pack_padded_sequence(float_batch(a), 3, True),
    "no rows": lambda m, a: m.pack_padded_sequence(a(draw(0, 3, 2)), [], True),
    "no steps": lambda m, a: m.pack_padded_sequence(a(draw(2, 0, 2)), [0, 0], True),
    "no features": lambda m, a: m.pack_padded_sequence(a(draw(2, 3, 0)), [3, 1], True),
    "one axis": lambda m, a: m.pack_padded_sequence(a(draw(3)), [3], True),
    "no axis": lambda m, a: m.pack_padded_sequence(a(draw()), [1]),
    "a list to pack": lambda m, a: m.pack_padded_sequence([[1, 2]], [2]),
    "a list to pad": lambda m, a: m.pad_packed_sequence([1]),
    "an array to pad": lambda m, a: m.pad_packed_sequence(3),
    "None to unpack": lambda m, a: m.unpack_sequence(None),
    "total_length too small": lambda m, a: m.pad_packed_sequence(packed(m, a), total_length=2),
    "total_length negative": lambda m, a: m.pad_packed_sequence(packed(m, a), total_length=-1),
    "total_length half": lambda m, a: m.pad_packed_sequence(packed(m, a), total_length=2.5),
    "total_length float": lambda m, a: m.pad_packed_sequence(packed(m, a), total_length=3.5),
    "padding_value None": lambda m, a: m.pad_packed_sequence(packed(m, a), True, None),
    "pad nothing": lambda m, a: m.pad_sequence([]),
    "pad nothing upwards": lambda m, a: m.pad_sequence([], padding_side="up"),
    "pad a number": lambda m, a: m.pad_sequence(5),
    "pad upwards": lambda m, a: m.pad_sequence([a(draw(2))], padding_side="up"),
    "pad lists": lambda m, a: m.pad_sequence([a(draw(2)), [1]]),
    "pad no axis": lambda m, a: m.pad_sequence([a(draw())]),
    "pad with None": lambda m, a: m.pad_sequence([a(draw(2))], True, None),
    "pack a number": lambda m, a: m.pack_sequence(5),
    "pack nothing": lambda m, a: m.pack_sequence([]),
    "pack no axis": lambda m, a: m.pack_sequence([a(draw())]),
    "pack unsorted": lambda m, a: m.pack_sequence([a(draw(1)), a(draw(2))]),
    "pack an empty one": lambda m, a: m.pack_sequence([a(draw(1)), a(draw(0))]),
    "pack unlike": lambda m, a: m.pack_sequence([a(draw(2, 2)), a(draw(1, 3))]),
    "unpad with too few": lambda m, a: m.unpad_sequence(float_batch(a), a(np.array([3])), True),
    "unpad with too many": lambda m, a: m.unpad_sequence(float_batch(a), a(np.array([3, 1, 1])), True),
    "unpad one axis": lambda m, a: m.unpad_sequence(a(draw(3)), a(np.array([1]))),
    "no batch sizes": lambda m, a: m.pad_packed_sequence(m.layout(a(draw(0, 2)), a(np.zeros(0, np.int64)))),
    "permute a list": lambda m, a: m.invert_permutation([1, 0]),
    "permute floats": lambda m, a: m.invert_permutation(a(draw(2))),
    "permute outside": lambda m, a: m.invert_permutation(a(np.array([2, 0, 5]))),
    "permute negative": lambda m, a: m.invert_permutation(a(np.array([-1, 0, 1]))),
    "permute a matrix": lambda m, a: m.invert_permutation(a(np.array([[1, 0]]))),
}
UNLIKE = [
    ((2, 2), (3, 3)),
    ((2, 2), (3, 5, 2)),
    ((2, 1), (3, 4)),
    ((2, 2, 3), (2, 4, 5)),
    ((2, 2, 3), (5, 3)),
    ((4,), (2, 3)),
    ((2, 2), (1, 1, 2, 2)),
    ((2, 2), (0, 3)),
    ((3,), (3, 1)),
]
OVERFLOWS = [
    ("int8", 300),
    ("int8", 127.9),
    ("int32", np.nan),
    ("int32", np.inf),
    ("int32", 2**40),
    ("uint8", -300),
    ("float16", 1e6),
    ("float32", 1e300),
]


def packed(module, array):
    return module.pack_padded_sequence(float_batch(array), [3, 2], True)


def error_of(call, *arguments):
    with pytest.raises(Exception) as caught:  # noqa: PT011  (which one it is, torch decides)
        call(*arguments)
    return type(caught.value), str(caught.value)


def modules():
    names = [name for name in dir(ours) if name.endswith(("_sequence", "_permutation"))]
    mine = SimpleNamespace(
        **{name: getattr(ours, name) for name in names}, layout=PackedSequence.from_torch_layout
    )
    torchs = SimpleNamespace(**{name: getattr(theirs, name) for name in names}, layout=theirs.PackedSequence)
    return mine, torchs


class TestTheErrorsOfTorch:
    """Its exception, its text, and then one sentence on what to do."""

    pytestmark = needs_torch

    @staticmethod
    def check(call):
        mine, torchs = modules()
        kind, text = error_of(call, torchs, torch.from_numpy)
        for array in (np.asarray, jnp.asarray):
            mine_kind, mine_text = error_of(call, mine, array)
            assert mine_kind is kind
            assert mine_text.startswith(text.rstrip("."))
            assert len(mine_text) > len(text) + 20  # the remedy

    @pytest.mark.parametrize("name", WRONG)
    def test_text_and_remedy(self, name):
        self.check(WRONG[name])

    @pytest.mark.parametrize(("first", "second"), UNLIKE)
    def test_sequences_of_unequal_trailing_shape(self, first, second):
        self.check(lambda m, a: m.pad_sequence([a(draw(*first)), a(draw(*second))]))

    @pytest.mark.parametrize(("dtype", "value"), OVERFLOWS)
    def test_padding_value_out_of_range(self, dtype, value):
        def stack(m, a):
            return m.pad_sequence([a(draw(2, dtype=dtype)), a(draw(1, dtype=dtype))], True, value)

        def repad(m, a):
            return m.pad_packed_sequence(
                m.pack_padded_sequence(a(draw(2, 2, dtype=dtype)), [2, 1]), True, value
            )

        mine, torchs = modules()
        for call in (stack, repad):
            for kind, text in (error_of(call, torchs, torch.from_numpy), error_of(call, mine, np.asarray)):
                assert kind is RuntimeError
                assert text.startswith("value cannot be converted to type ")  # then C++'s name, or NumPy's

    def test_a_packed_sequence_of_torch_is_pointed_to_the_conversion(self):
        torchs = packed(modules()[1], torch.from_numpy)
        for call in (ours.pad_packed_sequence, ours.unpack_sequence):
            with pytest.raises(TypeError, match="from_torch_layout"):
                call(torchs)


# ------------------------------------------------------------------------------- where torch says nothing


@pytest.mark.parametrize(
    ("lengths", "kind", "text"),
    [
        ([4, 2], ValueError, r"lengths\[0\] is 4, but must be from 0 to 3.*batch_first"),
        ([3.0, 2.0], TypeError, "lengths must be integers, but got dtype float64"),
        (np.array([3, 2], np.float32), TypeError, "dtype float32"),
        ([True, True], TypeError, "dtype bool"),
        (None, TypeError, "dtype object"),
        ("32", TypeError, "must be integers"),
    ],
)
def test_bad_lengths_raise(lengths, kind, text):
    for call in (
        lambda: pack_padded_sequence(draw(2, 3, 2), lengths, True),
        lambda: ours.unpad_sequence(draw(2, 3, 2), lengths, True),
        lambda: length_mask(lengths, 3),
        lambda: check_lengths(lengths, 2, 3),
    ):
        with pytest.raises(kind, match=text):
            call()


def test_lengths_may_be_zero_except_in_a_pack():
    assert check_lengths([0, 3], 2, 3).tolist() == [0, 3]
    with pytest.raises(ValueError, match=r"lengths\[1\] is -1, but must be from 0 to 3"):
        check_lengths([0, -1], 2, 3)
    with pytest.raises(RuntimeError, match=r"greater than 0.*which accepts 0"):
        check_lengths([0, 3], 2, 3, allow_zero=False)


def test_missing_lengths_drop_no_rows():
    with pytest.raises(RuntimeError, match=r"Expected `len\(lengths\)`"):  # torch packs the first row alone
        pack_padded_sequence(draw(2, 3, 2), [3], True, enforce_sorted=False)


@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, jnp.array, *map(np.dtype, ["int8", "uint8", "int64", "uint64"])]
)
def test_lengths_come_in_any_integer_kind(kind):
    given_lengths = np.array([3, 0], kind) if isinstance(kind, np.dtype) else kind([3, 0])
    checked = check_lengths(given_lengths, 2, 3)
    assert isinstance(checked, jax.Array)
    assert checked.dtype == jnp.int32
    assert checked.tolist() == [3, 0]


def test_a_list_of_traced_lengths_is_a_vector_of_lengths():
    mask = jax.jit(lambda n: length_mask([n, 2, 0], 3))(1)
    assert mask.tolist() == [[True, False, False], [True, True, False], [False, False, False]]


def test_traced_lengths_are_clipped():
    def masked(lengths):
        return check_lengths(lengths, 3, 4), length_mask(lengths, 4)

    for kind in (np.int8, np.int32):
        checked, mask = jax.jit(masked)(np.array([-2, 3, 100], kind))
        assert checked.tolist() == [0, 3, 4]
        assert mask.sum(axis=1).tolist() == [0, 3, 4]
    with pytest.raises(TypeError, match="float32"):
        jax.jit(masked)(np.ones(3, np.float32))
    with pytest.raises(RuntimeError, match="batch_size=3"):
        jax.jit(masked)(np.ones(2, np.int32))


@pytest.mark.parametrize(
    ("first", "second"),
    [((2, 4), (3, 1)), ((2, 2), (2,)), ((3, 2, 2), (1,))],
    ids=["ones", "vector", "scalar"],
)
def test_sequences_are_not_broadcast(first, second):
    with pytest.raises(RuntimeError, match="differ in length only"):  # torch repeats the smaller one
        ours.pad_sequence([draw(*first), draw(*second)])


def test_the_first_dtype_holds_all_sequences_or_says_so():
    stacked = ours.pad_sequence([draw(2), draw(1, dtype="int32")], batch_first=True)
    assert stacked.dtype == jnp.float32
    with pytest.raises(
        TypeError, match=r"Sequence 1 is float32.*int32.*one dtype"
    ):  # torch truncates to integers
        ours.pad_sequence([draw(2, dtype="int32"), draw(1)])


@pytest.mark.parametrize(
    ("given_dtype", "dtype"), [("float64", "float32"), ("int64", "int32"), ("bfloat16", "bfloat16")]
)
def test_arrays_get_the_dtype_that_jax_gives_them(given_dtype, dtype):
    x = draw(2, 3, 2).astype(jnp.dtype(given_dtype))
    sequence = pack_padded_sequence(x, [3, 1], True)
    restored = PackedSequence.from_torch_layout(np.asarray(sequence.data).astype(x.dtype), [2, 1, 1])
    stacked = ours.pad_sequence([x[0], x[1, :1]], batch_first=True)
    assert {a.dtype for a in (sequence.data, restored.padded, stacked)} == {jnp.dtype(dtype)}
    assert np.array_equal(restored.padded, sequence.padded)
    assert np.array_equal(stacked, sequence.padded)
    assert np.array_equal(stacked[0], x[0].astype(dtype))


def test_an_unsigned_padding_value_does_not_wrap():
    sequence = pack_padded_sequence(draw(2, 2, dtype="uint8"), [2, 1])
    with pytest.raises(RuntimeError, match="from 0 to 255, not -1"):  # torch pads with 255
        pad_packed_sequence(sequence, padding_value=-1)
    with pytest.raises(RuntimeError, match="without overflow"):
        pad_packed_sequence(packed(ours, jnp.asarray), padding_value=1j)


def test_a_repeated_index_is_no_permutation():
    with pytest.raises(ValueError, match="repeats an index"):
        ours.invert_permutation(np.array([2, 0, 0]))


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        (([2, 2],), "add up to the length of data"),
        (([1, 2, 2],), "never grow"),
        (([3, 2, 0],), "must be positive"),
        (([2.0, 2.0, 1.0],), "vector of integers"),
        (([2, 2, 1], np.array([1, 0]), np.array([0, 1])), "not the inverse"),
        (([2, 2, 1], np.array([1, 0, 2])), "batch_sizes starts with 2"),
        (([2, 2, 1], np.array([1, 1])), "repeats an index"),
    ],
)
def test_a_layout_that_is_no_batch_raises(layout, text):
    with pytest.raises(ValueError, match=text):
        PackedSequence.from_torch_layout(draw(5, 2), *layout)


# ------------------------------------------------------------------------------------------ transformations


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
