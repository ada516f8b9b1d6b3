"""Over several seeds the judge sees errors that are too small for one."""

import numpy as np
import pytest

from parity import seeds
from parity.compare import compare_arrays
from parity.verdict import Comparison

UNIT = 2.0**-24


def compared(seed, error_of, name="1x"):
    """Compare a candidate whose rounding errors are drawn by `error_of(rng, oracle)` with an honest reference."""
    rng = np.random.default_rng(seed)
    oracle = rng.standard_normal((30, 40))

    def rounded(errors):
        return (oracle + errors).astype(np.float32)

    honest = 8 * UNIT * rng.standard_normal(oracle.shape)
    arrays = {"y": rounded(error_of(rng, oracle))}, {"y": rounded(honest)}, {"y": oracle}, {"y": oracle}
    return Comparison(f"{name} #{seed}", compare_arrays(*arrays), 1, probe={"seed": seed})


def judged(error_of, count=8):
    (found,) = seeds.over_seeds([compared(seed, error_of) for seed in range(count)])
    return found


def noise(size):
    return lambda rng, oracle: size * UNIT * rng.standard_normal(oracle.shape)


def test_honest_noise_passes_over_any_number_of_seeds():
    for count in (8, 12):
        found = judged(noise(8), count)
        assert found.verdict == "EQUIVALENT"
        assert found.name == f"1x, {count} seeds"
        (tensor,) = found.tensors
        assert 0.8 < tensor.rho_rms < 1.2
        assert abs(tensor.bias) < 1


def test_an_error_three_times_too_large_passes_one_seed_but_not_eight():
    assert all(compared(seed, noise(24)).verdict == "EQUIVALENT" for seed in range(8))
    (tensor,) = judged(noise(24)).failures
    assert tensor.gate == "inflation"
    assert "by habit" in tensor.message


def test_an_error_of_one_sign_passes_one_seed_but_not_eight():
    def truncated(rng, oracle):
        return 8 * UNIT * (rng.standard_normal(oracle.shape) * 0.3 + 0.8)

    assert all(compared(seed, truncated).verdict == "EQUIVALENT" for seed in range(8))
    (tensor,) = judged(truncated).failures
    assert tensor.gate == "bias"
    assert tensor.bias == pytest.approx(6.4, rel=0.1)


def test_fewer_than_eight_seeds_ask_neither_question():
    assert seeds.over_seeds([compared(seed, noise(8)) for seed in range(7)]) == []
    assert seeds.over_seeds([Comparison("1x")] * 9) == []  # not numbered: one seed


def test_probes_without_errors_in_the_precision_under_test_are_asked_neither_question():
    """The function in float64, and arguments that are refused: each is judged by itself; nothing is left open."""
    wide = np.random.default_rng(0).standard_normal((30, 40))
    in_float64 = compare_arrays({"y": wide}, {"y": wide})
    assert seeds.over_seeds([Comparison(f"1x #{seed}", in_float64, 1) for seed in range(8)]) == []
