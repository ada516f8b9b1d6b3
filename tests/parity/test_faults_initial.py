"""Weights that are not drawn as torch draws them are found over many draws, and their distribution is named."""

import jax
import numpy as np
import pytest

pytest.importorskip("torch")

from parity.faults.initial import INITIAL, as_torch
from parity.selftest import initial as selftest
from parity.selftest.trial import run_trial

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("trial", list(selftest.trials()), ids=lambda trial: trial.id)
def test_the_mutant_is_killed_by_its_gate_and_called_by_its_name(trial):
    outcome = run_trial(trial)
    assert outcome.killed, outcome
    assert outcome.named, outcome.diagnosed


def test_new_layers_of_jaxrnn_are_drawn_as_torch_draws_them():
    result = selftest.judge_initial(selftest.of_jaxrnn)
    assert (result.verdict, result.diagnosis) == ("EQUIVALENT", None)
    assert {tensor.name for tensor in result.tensors} == set(selftest.SHAPES)


def test_a_distribution_that_is_in_no_catalogue_gets_no_name():
    def normal(key):
        """Return numbers of torch's deviation that are not uniform."""
        deviation = (3 * selftest.HIDDEN) ** -0.5
        return {
            part: deviation * jax.random.normal(jax.random.fold_in(key, n), shape)
            for n, (part, shape) in enumerate(selftest.SHAPES.items())
        }

    result = selftest.judge_initial(normal)
    assert {tensor.gate for tensor in result.tensors} == {"distribution"}
    assert result.diagnosis.explanations == ()


def test_one_wrong_parameter_is_found_among_right_ones():
    def new(key):
        drawn = selftest.of_jaxrnn(key)
        return {**drawn, "bias_hh": 1.1 * drawn["bias_hh"]}

    result = selftest.judge_initial(new)
    assert [tensor.name for tensor in result.tensors if tensor.verdict == "DIVERGENT"] == ["bias_hh"]


def test_orthogonal_matrices_are_told_from_normal_ones_by_the_norms_of_their_rows():
    """Their elements look normal; the rows of a normal matrix have norms that differ."""
    rng = np.random.default_rng(1)
    shape, hidden = selftest.SHAPES["weight_hh"], selftest.HIDDEN
    flax = next(fault for fault in INITIAL if fault.id == "N13")
    orthogonal = np.stack([flax.draws["weight_hh"](rng, shape, hidden) for _ in range(64)])
    normal = hidden**-0.5 * rng.standard_normal((64, *shape))
    np.testing.assert_allclose(np.linalg.norm(orthogonal, axis=-1), 1.0, rtol=1e-12)
    assert selftest._smirnov(orthogonal.ravel(), normal.ravel()) < 1.0
    assert selftest._distance(orthogonal, normal) > 1.0


def test_honest_samples_stay_far_from_the_limit():
    """A billionth of them may reach it; of a hundred none comes near."""
    rng = np.random.default_rng(2)
    shape, hidden = selftest.SHAPES["bias_hh"], selftest.HIDDEN
    pairs = [
        [np.stack([as_torch(rng, shape, hidden) for _ in range(8)]) for _ in range(2)] for _ in range(100)
    ]
    assert max(selftest._distance(*pair) for pair in pairs) < 0.8


def test_every_fault_of_the_catalogue_has_a_mutant():
    assert {fault.id for fault in INITIAL} == set(selftest.MUTANTS)
    assert all(set(fault.draws) == set(selftest.SHAPES) for fault in INITIAL)
