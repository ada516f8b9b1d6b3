"""The designed probes keep their rules, and what is drawn does not depend on who asks."""

import numpy as np
import pytest

from parity import designed
from parity.designed import CellCall, LayerCall, forecasters
from parity.gates import PRECISIONS
from parity.probe import JITTER_AT_LEAST, Probe, jittered

DEEP = LayerCall(states=2, layers=2, directions=2, batch_first=True, ragged=True)
SHAPES = {
    "rnn.weight_hh_l0": (28, 7),
    "rnn.bias_hh_l0": (28,),
    "rnn.weight_ch_l0": (3, 7),
    "norm.weight": (7,),
}
PARAMETERS = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}


def test_no_two_dimensions_are_alike():
    sizes = [
        designed.BATCH, designed.STEPS, designed.FEATURES, designed.HIDDEN, designed.PROJECTED,
        designed.PREDICTED, 2 * designed.HIDDEN, 2 * designed.PROJECTED,
    ]  # fmt: skip
    assert len(set(sizes)) == len(sizes)


@pytest.mark.parametrize("seed", range(5))
def test_ragged_rows_have_the_full_length_a_duplicate_and_garbage_in_the_padding(seed):
    probes = DEEP.probes("designed", seed)
    assert [probe.weight_scale for probe in probes] == [1.0, 4.0, 0.1]
    for probe in probes:
        lengths, x = probe.kwargs["lengths"], probe.args[0]
        assert sorted(lengths)[1:] == [4, 6, 6, 9]
        assert min(lengths) == (0 if probe.weight_scale < 1 else 1)
        padding = np.arange(9)[None, :] >= lengths[:, None]
        assert np.isfinite(x[~padding]).all()
        garbage = x[padding]
        assert np.isnan(garbage).all() if probe.weight_scale < 1 else (np.abs(garbage) > 3).any()
        np.testing.assert_array_equal(probe.zeros["output"][..., 0], padding)


def test_rows_are_not_sorted_by_length_for_every_seed():
    orders = {tuple(DEEP.probes("quick", seed)[0].kwargs["lengths"]) for seed in range(5)}
    assert len(orders) > 1


def test_all_weights_are_drawn_and_none_is_zero():
    weights = Probe(weight_scale=1.0).weights(PARAMETERS)
    assert {name: value.shape for name, value in weights.items()} == SHAPES
    for value in weights.values():
        assert value.dtype == np.float32
        assert np.all(value != 0)
    assert abs(weights["norm.weight"].mean() - 1) < 0.5
    # 1.3 / sqrt(7), within three standard errors of 196 draws
    assert abs(weights["rnn.weight_hh_l0"].std() - 0.49) < 3 * 0.49 / np.sqrt(2 * 196)


def test_the_scale_multiplies_all_weights_but_a_norms():
    one, four = (Probe(weight_scale=scale).weights(PARAMETERS) for scale in (1.0, 4.0))
    np.testing.assert_array_equal(four["rnn.bias_hh_l0"], 4 * one["rnn.bias_hh_l0"])
    np.testing.assert_array_equal(four["norm.weight"], one["norm.weight"])


def test_draws_depend_on_seed_name_and_shape_and_not_on_order():
    probe = Probe(weight_scale=1.0)
    backwards = probe.weights(dict(reversed(PARAMETERS.items())))
    for name, value in probe.weights(PARAMETERS).items():
        np.testing.assert_array_equal(value, backwards[name])
    assert np.any(probe.cotangent("h_n", (3,)) != probe.cotangent("output", (3,)))
    assert np.any(Probe(seed=1).cotangent("h_n", (3,)) != Probe(seed=2).cotangent("h_n", (3,)))


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_everything_is_rounded_to_the_precision_under_test(dtype):
    probe = Probe(dtype=dtype, weight_scale=1.0)
    for value in (
        probe.cotangent("y", (50,)),
        probe.weights(PARAMETERS)["norm.weight"],
        probe.rounded(np.ones(3)),
    ):
        assert value.dtype.name == dtype
        np.testing.assert_array_equal(value.astype(np.float64).astype(value.dtype), value)
    assert probe.rounded(np.arange(3)).dtype == np.int64


def test_jitter_moves_every_number_a_little_and_leaves_the_rest_alone():
    probe = DEEP.probes("quick", 0)[0]
    weights = Probe(weight_scale=1.0).weights(PARAMETERS)
    moved, moved_weights = jittered(probe, weights, 1)
    again, _ = jittered(probe, weights, 1)
    np.testing.assert_array_equal(again.args[0], moved.args[0])
    np.testing.assert_array_equal(moved.kwargs["lengths"], probe.kwargs["lengths"])
    for before, after in [(probe.args[0], moved.args[0]), (probe.args[1][1], moved.args[1][1]),
                          *((weights[name], moved_weights[name]) for name in weights)]:  # fmt: skip
        change = np.abs(after.astype(np.float64) / before - 1)
        assert (change <= JITTER_AT_LEAST + 2.0**-24).all()  # and the rounding afterwards
        assert (change > 0).mean() > 0.9


def test_states_are_not_zero_and_rows_differ():
    for probe in (*DEEP.probes("designed", 0), *CellCall(2).probes("designed", 0)):
        assert all(np.all(state != 0) for state in probe.args[1])
        assert set(probe.batch_axes) <= set(probe.outputs)


def test_masks_and_resets_have_both_values_and_the_inputs_layout():
    probe = LayerCall(layers=3, resets=True, masks=True).probes("quick", 0)[0]
    assert probe.args[0].shape == (9, 5, 3)
    assert probe.kwargs["resets"].shape == (9, 5)
    assert [mask.shape for mask in probe.kwargs["dropout_masks"]] == [(9, 5, 7)] * 2
    for mask in (probe.kwargs["resets"], *probe.kwargs["dropout_masks"]):
        assert mask.any()
        assert not mask.all()


def test_stock_windows_are_real_scaled_and_all_different():
    pytest.importorskip("bokeh_sampledata")
    windows = forecasters.stock_windows()
    assert windows.shape == (28, 19, 1)
    assert windows.dtype == np.float32
    assert len(np.unique(windows[:, :, 0], axis=0)) == 28
    assert (
        np.abs(windows).max() < 10
    )  # the scaler saw the training part only; the test part may leave [-1, 1]


def test_own_weights_are_not_drawn():
    with pytest.raises(ValueError, match="weight_scale is None"):
        Probe().weights(PARAMETERS)
