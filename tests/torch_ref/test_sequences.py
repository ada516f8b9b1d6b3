"""Padding, and sequences that begin inside a row: what `lengths` and `resets` mean."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch_ref  # noqa: E402
from tests.torch_ref.common import (  # noqa: E402
    PROJ,
    SAME,
    B,
    H,
    I,
    T,
    as_hx,
    assert_same,
    draw,
    draw_states,
    fill,
    rms_error,
    trace,
)

pytestmark = pytest.mark.torch

LAYERS = {
    "RNN tanh": lambda **o: torch_ref.RNN(I, H, **o),
    "RNN relu": lambda **o: torch_ref.RNN(I, H, nonlinearity="relu", **o),
    "GRU": lambda **o: torch_ref.GRU(I, H, **o),
    "LSTM": lambda **o: torch_ref.LSTM(I, H, **o),
    "LSTM projected": lambda **o: torch_ref.LSTM(I, H, proj_size=PROJ, **o),
    "PeepholeLSTM": lambda **o: torch_ref.PeepholeLSTM(I, H, **o),
}
every_layer = pytest.mark.parametrize("kind", LAYERS)
LENGTHS = [3, 0, 5]


def make(kind, **options):
    return fill(LAYERS[kind](num_layers=2, bidirectional=True, **options))


def forward_half(layer):
    """Return which of the layers * directions states are those of a forward direction."""
    return torch.tensor([True, False] * layer.num_layers)[:, None]


@every_layer
def test_each_row_gives_what_it_gives_alone(kind):
    layer = make(kind)
    x, states = draw(7, T, B, I), draw_states(layer, B)
    output, final = layer(x, as_hx(states), lengths=LENGTHS)
    final = final if isinstance(final, tuple) else (final,)
    for b, length in enumerate(LENGTHS):
        assert not output[length:, b].any()
        own = [state[:, b] for state in states]
        if length > 0:
            alone, own = layer(x[:length, b], as_hx(own))
            own = list(own) if isinstance(own, tuple) else [own]
            assert rms_error(output[:length, b], alone) <= SAME
        for actual, expected in zip(final, own, strict=True):
            assert rms_error(actual[:, b], expected) <= (SAME if length else 0)  # length 0: the bits of hx


@every_layer
@pytest.mark.parametrize("filler", [np.nan, np.inf, 1e30])
def test_nothing_in_the_padding_reaches_a_result_or_a_gradient(kind, filler):
    layer = make(kind, batch_first=True, dropout=0.5)
    x, states = draw(7, B, T, I), draw_states(layer, B)
    padded, marks = x.clone(), draw(8, B, T) > 0
    padding = torch.arange(T) >= torch.tensor(LENGTHS)[:, None]
    padded[padding] = filler
    masks = [draw(9, B, T, layer.output_size) > 0]

    def call(marks, masks):
        return lambda x, hx: layer(x, hx, lengths=LENGTHS, resets=marks, dropout_masks=masks)

    expected = trace(layer, x, states, call(marks, masks))
    other_marks, other_masks = marks ^ padding, [masks[0] ^ padding[..., None]]
    actual = trace(layer, padded, states, call(other_marks, other_masks))
    for name, value in actual.items():
        assert value.isfinite().all(), name
        assert torch.equal(value, expected[name]), name
    assert not actual["d x"][padding].any()
    assert actual["d x"][~padding].all()


@every_layer
def test_full_lengths_change_nothing(kind):
    layer = make(kind)
    x, states = draw(7, T, B, I), draw_states(layer, B)
    full = trace(layer, x, states, lambda x, hx: layer(x, hx, lengths=torch.full((B,), T)))
    assert_same(full, trace(layer, x, states), tolerance=0)


def segments_of(marks):
    """Return the (begin, end) of the sequences in a row, given its marks."""
    borders = [0, *[t for t in range(1, len(marks)) if marks[t]], len(marks)]
    return list(itertools.pairwise(borders))


def run_segments(layer, x, hx, marks, length):
    """Run the sequences of one row [T, I] one by one; return output [T, D*R] and the final state."""
    states = [hx] if isinstance(hx, torch.Tensor) else list(hx)
    zeros = [torch.zeros_like(state) for state in states]
    forward = forward_half(layer)
    outputs, lasts = [], states
    firsts: list[torch.Tensor] = []
    segments = segments_of(marks[:length])
    for begin, end in segments:
        # Going forward, hx enters the row's first sequence unless that is marked; going backward, its last.
        ahead = states if begin == 0 and not marks[0] else zeros
        behind = states if end == length else zeros
        starts = [torch.where(forward, a, b) for a, b in zip(ahead, behind, strict=True)]
        output, lasts = layer(x[begin:end], as_hx(starts))
        lasts = list(lasts) if isinstance(lasts, tuple) else [lasts]
        firsts = firsts or lasts
        outputs.append(output)
    final = [torch.where(forward, last, first) for last, first in zip(lasts, firsts, strict=True)]
    padding = outputs[0].new_zeros(len(x) - length, outputs[0].shape[1])
    return torch.cat([*outputs, padding]), final


@every_layer
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_resets_give_what_the_sequences_give_one_by_one(kind, ragged, batch_first):
    layer, steps = make(kind, batch_first=batch_first), 7
    rows = {  # where sequences begin: nowhere, inside, at once, everywhere, at the row's end
        (): 7, (2, 5): 6, (0, 3): 4, tuple(range(7)): 5, (6,): 6, (1,): 1,
    }  # fmt: skip
    marks = torch.zeros(len(rows), steps, dtype=torch.bool)
    for b, begins in enumerate(rows):
        marks[b, list(begins)] = True
    lengths = list(rows.values()) if ragged else [steps] * len(rows)
    x, states = draw(7, len(rows), steps, I), draw_states(layer, len(rows))

    def together(x, hx):
        x, resets = (x, marks) if batch_first else (x.transpose(0, 1), marks.T)
        output, final = layer(x, hx, resets=resets, lengths=lengths if ragged else None)
        return output if batch_first else output.transpose(0, 1), final

    def one_by_one(x, hx):
        parts = [hx] if isinstance(hx, torch.Tensor) else hx
        runs = [
            run_segments(layer, x[b], as_hx([part[:, b] for part in parts]), marks[b], lengths[b])
            for b in range(len(rows))
        ]
        outputs, finals = zip(*runs, strict=True)
        return torch.stack(outputs), as_hx([torch.stack(f, dim=1) for f in zip(*finals, strict=True)])

    assert_same(trace(layer, x, states, together), trace(layer, x, states, one_by_one))


def test_an_unbatched_input_takes_everything_without_the_batch_axis():
    layer = make("PeepholeLSTM", dropout=0.5)
    x, states = draw(7, T, 1, I), draw_states(layer, 1)
    marks = torch.tensor([False, False, True, False, False])
    mask = draw(9, T, 1, layer.output_size) > 0

    def alone(x, hx):
        hx = tuple(part[:, 0] for part in hx)
        output, final = layer(x[:, 0], hx, lengths=4, resets=marks, dropout_masks=[mask[:, 0]])
        return output[:, None], tuple(part[:, None] for part in final)

    def batched(x, hx):
        return layer(x, hx, lengths=[4], resets=marks[:, None], dropout_masks=[mask])

    assert_same(trace(layer, x, states, alone), trace(layer, x, states, batched), tolerance=0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"lengths": [1, 2, T + 1]}, ValueError, r"lengths: expected 0\.\.5.*\[1, 2, 6\]"),
        ({"lengths": [1, 2, -1]}, ValueError, r"lengths: expected 0\.\.5"),
        ({"lengths": [1, 2]}, ValueError, r"lengths: .*\(3,\), got \(2,\)"),
        ({"lengths": [1.0, 2.0, 3.0]}, TypeError, "lengths: expected integers, got torch.float32"),
        ({"resets": torch.zeros(B, T, dtype=torch.bool)}, ValueError, r"resets: .*\(5, 3\).*got \(3, 5\)"),
        ({"resets": torch.zeros(T, B)}, TypeError, "resets: expected a bool tensor"),
        ({"dropout_masks": []}, ValueError, "dropout_masks: expected 1, .* got 0"),
        ({"dropout_masks": [torch.ones(T, B, 2 * H)]}, TypeError, r"dropout_masks\[0\]: expected a bool"),
        ({"dropout_masks": [torch.ones(T, B, H) > 0]}, ValueError, r"dropout_masks\[0\]: .*\(5, 3, 12\)"),
        ({"hx": torch.zeros(4, 1, H)}, RuntimeError, r"hx: expected h of shape \(4, 3, 6\), got \(4, 1, 6\)"),
        ({"hx": torch.zeros(1, B, H)}, RuntimeError, r"hx: expected h of shape \(4, 3, 6\), got \(1, 3, 6\)"),
        ({"hx": (torch.zeros(4, B, H),) * 2}, RuntimeError, r"hx: GRU expects 1 tensor\(s\), \(h\), got 2"),
    ],
)
def test_what_would_give_a_wrong_number_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        make("GRU", dropout=0.5)(draw(7, T, B, I), **arguments)


@pytest.mark.parametrize(
    ("shape", "error", "message"),
    [
        ((T, B, I + 1), RuntimeError, "must be equal to input_size. Expected 4, got 5"),
        ((T, B, I, 1), ValueError, "2D or 3D, got 4D"),
        ((0, B, I), RuntimeError, "sequence length to be larger than 0"),
    ],
)
def test_an_input_of_another_shape_is_refused(shape, error, message):
    with pytest.raises(error, match=message):
        make("GRU")(draw(7, *shape))


def test_an_lstm_wants_both_states():
    with pytest.raises(RuntimeError, match=r"hx: LSTM expects 2 tensor\(s\), \(h, c\), got 1"):
        make("LSTM")(draw(7, T, B, I), draw(8, 4, B, H))
    with pytest.raises(RuntimeError, match=r"hx: expected c of shape \(3, 6\), got \(1, 6\)"):
        torch_ref.LSTMCell(I, H).double()(draw(7, B, I), (draw(8, B, H), draw(9, 1, H)))


def test_masks_that_nothing_would_use_are_refused():
    masks = [torch.ones(T, B, 2 * H) > 0]
    for layer in (
        make("GRU", dropout=0.5).eval(),
        make("GRU"),
        torch_ref.GRU(I, H, bidirectional=True).double(),
    ):
        with pytest.raises(ValueError, match=r"this layer drops nothing: .* training mode"):
            layer(draw(7, T, B, I), dropout_masks=masks)


@pytest.mark.parametrize("dropout", [1.5, -0.1, True])
def test_a_dropout_that_is_no_probability_is_refused(dropout):
    with pytest.raises(ValueError, match=rf"in range \[0, 1\] .* got {dropout}"):
        torch_ref.GRU(I, H, 2, dropout=dropout)


def test_an_unknown_nonlinearity_is_refused():
    with pytest.raises(ValueError, match=r"Unknown nonlinearity 'sigmoid'\. Select from 'tanh' or 'relu'"):
        torch_ref.RNN(I, H, nonlinearity="sigmoid")


def test_a_batch_of_no_rows_gives_no_rows():
    output, (h_n, c_n) = make("LSTM projected")(draw(7, T, 0, I), lengths=torch.zeros(0, dtype=torch.int64))
    assert (output.shape, h_n.shape, c_n.shape) == ((T, 0, 2 * PROJ), (4, 0, PROJ), (4, 0, H))
