"""The errors of `torch.nn.utils.rnn` in `jaxrnn.sequence`, and errors where torch says nothing."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import sequence as ours
from jaxrnn.lengths import check_lengths, length_mask
from jaxrnn.sequence import PackedSequence, pack_padded_sequence, pad_packed_sequence
from tests.jaxrnn.ragged import draw, float_batch, needs_torch, packed, theirs, torch

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
    def test_torchs_text_comes_first_and_a_remedy_follows(self, name):
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


# Where torch says nothing


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
def test_bad_lengths_raise_in_every_call(lengths, kind, text):
    for call in (
        lambda: pack_padded_sequence(draw(2, 3, 2), lengths, True),
        lambda: ours.unpad_sequence(draw(2, 3, 2), lengths, True),
        lambda: length_mask(lengths, 3),
        lambda: check_lengths(lengths, 2, 3),
    ):
        with pytest.raises(kind, match=text):
            call()


def test_missing_lengths_drop_no_rows():
    with pytest.raises(RuntimeError, match=r"Expected `len\(lengths\)`"):  # torch packs the first row alone
        pack_padded_sequence(draw(2, 3, 2), [3], True, enforce_sorted=False)


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
