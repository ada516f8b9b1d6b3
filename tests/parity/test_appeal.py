"""A rare draw is drawn again before it is called a difference; what is wrong is wrong on every draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("torch")

import jaxrnn
from parity import gates, weighing
from parity.cases import CASES
from parity.compare import candidate_errors
from parity.designed import FEATURES, HIDDEN
from parity.oracle.evidence import gather


def probe_of(id, name, seed):
    case = next(case for case in CASES if case.id == id)
    return case, next(probe for probe in case.probes("designed", seed) if probe.name == name)


@pytest.mark.parametrize(
    ("id", "name", "seed", "tensor"),
    [
        ("lstm_unbatched", "4x", 14, "grad(h_0)"),
        ("rnn_cell_tanh", "4x", 31, "grad(h_0)"),
    ],
)
def test_the_largest_errors_of_honest_tensors_pass(id, name, seed, tensor):
    """Found among 100 102 tensors: saturated gates, whose tanh XLA computes less accurately than torch."""
    case, probe = probe_of(id, name, seed)
    comparison = weighing.try_probe(case.candidate(), case.reference(), probe).comparison
    assert comparison.verdict == "EQUIVALENT"


def test_a_rare_draw_is_drawn_again_and_passes():
    """A candidate that is off on these inputs alone, as a rounding error that happens to be amplified."""
    case, probe = probe_of("gru_plain", "1x", 0)
    evidence = gather(case.reference(), probe)
    size = float(np.abs(evidence.measured["output"]).sum())

    class Unlucky(jaxrnn.GRU):
        def __call__(self, *args, **kwargs):
            output, h_n = super().__call__(*args, **kwargs)
            here = jnp.abs(jnp.sum(jnp.abs(output)) - size) < 2e-6 * size
            return output + jnp.where(here & (output.dtype == jnp.float32), 2.0**-17, 0.0), h_n

    comparison = weighing.weigh(Unlucky(FEATURES, HIDDEN, rngs=nnx.Rngs(0)), evidence).comparison
    assert comparison.verdict == "EQUIVALENT", comparison.failures
    assert any("drawn again" in note and "output" in note for note in comparison.notes)


def test_a_candidate_that_is_a_little_too_coarse_stays_divergent():
    """Outputs on a grid of 2^-16: forty times the reference's error, on every draw."""

    class Coarse(jaxrnn.GRU):
        def __call__(self, *args, **kwargs):
            output, h_n = super().__call__(*args, **kwargs)
            if output.dtype == jnp.float32:
                output += jax.lax.stop_gradient(jnp.round(output * 2.0**16) / 2.0**16 - output)
            return output, h_n

    case, probe = probe_of("gru_plain", "1x", 0)
    candidate = Coarse(FEATURES, HIDDEN, rngs=nnx.Rngs(0))
    comparison = weighing.try_probe(candidate, case.reference(), probe).comparison
    failure = comparison.failures[0]
    assert (failure.name, failure.gate, failure.verdict) == ("output", "numeric", "DIVERGENT")
    assert 1 < failure.rho_rms / failure.rho_limits[0] < weighing.FAR
    assert any("drawn again" in note for note in comparison.notes)


def test_what_is_far_off_is_not_drawn_again(monkeypatch):
    class Wrong(jaxrnn.GRU):
        def __call__(self, *args, **kwargs):
            output, h_n = super().__call__(*args, **kwargs)
            return output * 1.001, h_n

    def never(*args):
        raise AssertionError("drawn again")

    monkeypatch.setattr(weighing, "candidate_errors", never)
    case, probe = probe_of("gru_plain", "1x", 0)
    judgement = weighing.weigh(Wrong(FEATURES, HIDDEN, rngs=nnx.Rngs(0)), gather(case.reference(), probe))
    assert judgement.comparison.verdict == "DIVERGENT"


def test_the_median_of_the_draws_counts_and_nan_in_one_draw_fails_all():
    oracle = np.random.default_rng(0).standard_normal(50)

    def draws(sizes):
        for size in sizes:
            yield {"y": (oracle + size).astype(np.float32)}, {"y": oracle}, {"y": oracle}

    found = candidate_errors(draws([1e-3] * 2 + [1e-6] * 6))["y"]
    assert found.rms == pytest.approx(1e-6, rel=0.1)
    assert np.isnan(candidate_errors(draws([1e-6] * 7 + [np.nan]))["y"].rms)
    assert not gates.passes(np.nan, 4.0)
