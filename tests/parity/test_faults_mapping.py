"""Mistakes in carrying weights over are found in the parameters themselves, and called by their names."""

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")

from parity.faults.mapping import diagnose_parameters
from parity.selftest import mapping as selftest
from parity.selftest.trial import run_trial

pytestmark = pytest.mark.torch

RNG = np.random.default_rng(0)
REFERENCE = {
    "lstm.weight_ih_l0": RNG.standard_normal((28, 7)).astype(np.float32),
    "lstm.bias_ih_l0": RNG.standard_normal(28).astype(np.float32),
    "lstm.bias_hh_l0": RNG.standard_normal(28).astype(np.float32),
    "gru.weight_hh_l0": RNG.standard_normal((15, 5)).astype(np.float32),
    "fc.weight": RNG.standard_normal((5, 5)).astype(np.float32),
    "fc.bias": RNG.standard_normal(5).astype(np.float32),
}


def changed(**changes):
    return {**REFERENCE, **{name.replace("__", "."): array for name, array in changes.items()}}


@pytest.mark.parametrize("trial", list(selftest.trials()), ids=lambda trial: f"{trial.id} {trial.name}")
def test_the_mistake_is_killed_by_its_gate_and_called_by_its_name(trial):
    outcome = run_trial(trial)
    assert outcome.error is None
    assert outcome.killed, outcome
    assert outcome.named, outcome.diagnosed


def test_right_parameters_get_no_diagnosis():
    assert diagnose_parameters(REFERENCE, REFERENCE) == []
    assert selftest.judge_weights(lambda weights: weights).verdict == "EQUIVALENT"


def test_weights_that_were_copied_stay_when_the_reference_is_trained():
    assert selftest.judge_shared(lambda tensor: jnp.array(tensor.numpy(), copy=True)).verdict == "EQUIVALENT"


def test_only_what_moved_with_the_reference_is_called_shared():
    became = {name: array - np.float32(0.1) for name, array in REFERENCE.items()}
    wrong = changed(fc__bias=became["fc.bias"], fc__weight=-REFERENCE["fc.weight"])
    found = diagnose_parameters(wrong, REFERENCE, became)
    assert [each.id for each in found] == ["T05", "T09"]
    assert found[0].name.startswith("fc.bias: ")
    assert [each.id for each in diagnose_parameters(wrong, REFERENCE)] == ["T09", "T10"]


def test_the_explanation_names_the_parameters_and_what_to_do():
    (found,) = diagnose_parameters(changed(fc__weight=REFERENCE["fc.weight"].T), REFERENCE)
    assert found.name == "fc.weight: transposed"
    assert "kernel" in found.fix
    assert found.misfit == 0.0


def test_two_mistakes_are_told_apart():
    wrong = changed(fc__weight=-REFERENCE["fc.weight"], fc__bias=np.zeros(5, np.float32))
    found = diagnose_parameters(wrong, REFERENCE)
    assert [(each.id, each.name.partition(":")[0]) for each in found] == [
        ("T09", "fc.weight"),
        ("T07", "fc.bias"),
    ]


@pytest.mark.parametrize(("order", "id"), [("zrn", "G01"), ("nrz", "G01-nrz"), ("rnz", "G01-rnz")])
def test_gates_of_a_gru_are_recognised(order, id):
    blocks = dict(zip("rzn", np.split(REFERENCE["gru.weight_hh_l0"], 3), strict=True))
    wrong = changed(gru__weight_hh_l0=np.concatenate([blocks[gate] for gate in order]))
    (found,) = diagnose_parameters(wrong, REFERENCE)
    assert found.id == id
    assert ", ".join(order) in found.name


def test_a_permutation_that_moves_no_block_is_not_called_a_gate_order():
    rows = np.arange(28)
    rows[[3, 20]] = rows[[20, 3]]
    (found,) = diagnose_parameters(
        changed(lstm__weight_ih_l0=REFERENCE["lstm.weight_ih_l0"][rows]), REFERENCE
    )
    assert (found.id, found.name) == ("T11", "lstm.weight_ih_l0: axis 0 in another order")


def test_folding_either_way_round_is_recognised():
    total = REFERENCE["lstm.bias_ih_l0"] + REFERENCE["lstm.bias_hh_l0"]
    nothing = np.zeros_like(total)
    for held, empty in (("ih", "hh"), ("hh", "ih")):
        wrong = changed(**{f"lstm__bias_{held}_l0": total, f"lstm__bias_{empty}_l0": nothing})
        (found,) = diagnose_parameters(wrong, REFERENCE)
        assert found.id == "L26"


def test_a_zero_bias_beside_an_unfolded_one_is_not_called_folded():
    (found,) = diagnose_parameters(changed(lstm__bias_hh_l0=np.zeros(28, np.float32)), REFERENCE)
    assert found.id == "T07"


def test_noise_is_called_by_its_size_only():
    wrong = REFERENCE["fc.weight"] + np.float32(1e-3) * RNG.standard_normal((5, 5)).astype(np.float32)
    (found,) = diagnose_parameters(changed(fc__weight=wrong), REFERENCE)
    assert found.id == "T00"
    assert "25 of 25" in found.name


def test_nan_in_a_parameter_is_reported_and_not_explained():
    wrong = REFERENCE["fc.weight"].copy()
    wrong[0, 0] = np.nan
    (found,) = diagnose_parameters(changed(fc__weight=wrong), REFERENCE)
    assert found.id == "T00"
