"""Losses held against torch's: the honest pass, every mutant is found and named, and nothing empty passes."""

import importlib

import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")  # the catalogue of mistakes is written in it

import jaxrnn  # noqa: E402
from parity.cli.prove_losses import loss as command  # noqa: E402
from parity.losses import judge as losses  # noqa: E402
from parity.losses.probes import TASK_NAMES, TASKS, probes_of  # noqa: E402
from parity.selftest import losses as mutants  # noqa: E402
from parity.selftest.trial import run_trial  # noqa: E402

# One of each kind, and what compiles quickly; the rest is run with the slow tests.
QUICK = {"cross_entropy-all", "mse_loss-masked", "huber_loss", "binary_cross_entropy_with_logits", "kl_div"}
CASES = [
    pytest.param(case, id=case.id, marks=[] if case.id in QUICK else pytest.mark.slow)
    for case in losses.CASES
]
QUICK_MUTANTS = {"C05", "C07", "C08", "C09-both", "C11", "C11-swap", "C16", "ratio"}
TRIALS = [
    pytest.param(
        trial, id=f"{trial.id} {trial.case}", marks=[] if trial.id in QUICK_MUTANTS else pytest.mark.slow
    )
    for trial in mutants.trials()
]


@pytest.mark.parametrize("case", CASES)
def test_every_loss_of_jaxrnn_is_torchs(case):
    result = losses.judge_case(case)
    assert result.verdict == "EQUIVALENT", result
    # Values and all gradients, in both tiers: nothing was left out.
    assert all(t.semantic_error is not None and t.rho_rms is not None for t in result.tensors)
    assert any(t.kind == "grad" for t in result.tensors)


@pytest.mark.parametrize("trial", TRIALS)
def test_every_mutant_is_found_by_its_gate_and_named(trial):
    outcome = run_trial(trial)
    assert outcome.killed, outcome
    assert outcome.named, outcome.diagnosed


def test_every_loss_of_jaxrnn_has_a_case():
    proven = {case.candidate.partition("(")[0].rpartition(".")[2] for case in losses.CASES}
    helpers = {"ignore_padding", "masked_mean"}  # no losses of torch's
    assert set(jaxrnn.losses.__all__) - helpers <= proven


def test_every_fault_of_losses_has_a_mutant():
    catalogue = importlib.import_module("parity.faults.losses").FAULTS
    tried = {trial.id for trial in mutants.trials()}
    assert {fault.id for fault in catalogue if not fault.id.endswith("-nll")} <= tried
    assert len({fault.id for fault in catalogue}) == len(catalogue)


def test_a_factor_is_named_by_what_it_stands_for():
    report = losses.compare_losses(lambda x, y: jnp.sum(jnp.abs(x - y)), torch.nn.L1Loss())
    assert report.diagnosis.explanations[0].name == "the reference times the number of elements"


@pytest.mark.slow
def test_another_label_smoothing_is_solved_for():
    report = losses.compare_losses(
        "jaxrnn.losses.cross_entropy(label_smoothing=0.15)", "CrossEntropyLoss(label_smoothing=0.1)"
    )
    assert report.diagnosis.explanations[0].name == "label smoothing of 0.15 instead of 0.1"


def test_a_gradient_that_is_wrong_alone_is_found():
    """The value is right, its derivative half: only the gradients can tell."""

    def halved(x, y):
        value = jnp.mean((x - y) ** 2)
        import jax

        return value / 2 + jax.lax.stop_gradient(value / 2)

    report = losses.compare_losses(halved, torch.nn.MSELoss(), probe_set="quick")
    found = {tensor.name: tensor.verdict for tensor in report.tensors}
    assert found == {"loss": "EQUIVALENT", "grad(input)": "DIVERGENT", "grad(target)": "DIVERGENT"}


def test_functions_of_tensors_are_taken_as_they_are():
    def reference(x, y):
        return ((x - y).abs() ** 1.5).mean()

    def candidate(x, y):
        return jnp.mean(jnp.abs(x - y) ** 1.5)

    assert losses.compare_losses(candidate, reference, task="regression").verdict == "EQUIVALENT"
    with pytest.raises(ValueError, match=r"none of torch's losses: pass task="):
        losses.compare_losses(candidate, reference)


@pytest.mark.parametrize("task", TASK_NAMES)
def test_probes_are_finite_and_the_same_for_the_same_seed(task):
    one, two = (probes_of(task, {"zero_infinity": True}, seed=3) for _ in range(2))
    other = probes_of(task, {"zero_infinity": True}, seed=4)
    assert [probe.name for probe in one] == [probe.name for probe in other]
    for first, second, third in zip(one, two, other, strict=True):
        assert all(np.isfinite(array).all() for array in first.args)
        assert all(np.array_equal(*pair) for pair in zip(first.args, second.args, strict=True))
        assert not np.array_equal(first.args[0], third.args[0])


def test_the_classes_of_the_probes_hold_what_hides_mistakes():
    some, dense, none = probes_of("classification", {"ignore_index": -1})
    assert np.sum(some.args[1] == -1) == 2
    assert np.all(dense.args[1][1] == -1)  # a row without any label that counts
    assert not np.any(none.args[1] == -1)
    assert len(set(dense.args[0].shape)) == 3  # no axis can be taken for another
    assert set(TASKS.values()) <= set(TASK_NAMES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--torch", "MSELoss()"], "give both --torch and --jax"),
        (["--torch", "MSELoss(", "--jax", "jaxrnn.losses.mse_loss()"], "is not a call"),
        (["--torch", "Linear(in_features=1)", "--jax", "jaxrnn.losses.mse_loss()"], "is no loss"),
        (["--torch", "MSELoss(open('x'))", "--jax", "jaxrnn.losses.mse_loss()"], "open is not a literal"),
        (["--torch", "MSELoss(reduction=1+1)", "--jax", "jaxrnn.losses.mse_loss()"], "neither a literal"),
        (["--torch", "MSELoss()", "--jax", "os.system('x')"], "os.system is none of jaxrnn.losses"),
        (["--torch", "MSELoss()", "--jax", "jaxrnn.losses.nothing()"], "has nothing called 'nothing'"),
        (
            ["--torch", "tests.parity.test_loss_pairs:probes_of", "--jax", "jaxrnn.losses.mse_loss()"],
            "--task",
        ),
    ],
)
def test_wrong_usage_exits_2_and_runs_nothing(tmp_path, arguments, message):
    result = CliRunner().invoke(command, [*arguments, "--report", str(tmp_path / "r.json")])
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "r.json").exists()


def test_the_command_exits_1_and_names_the_mistake(tmp_path):
    call = ["--torch", "MSELoss()", "--jax", "optax.l2_loss()", "--report", str(tmp_path / "r.json")]
    assert CliRunner().invoke(command, call).exit_code == 1  # unreduced: another shape
    call[3] = "parity.selftest.loss_mutants:half_squared_error"
    result = CliRunner().invoke(command, call)
    assert result.exit_code == 1
    assert "C07" in result.output
    call[3] = "jaxrnn.losses.mse_loss()"
    assert CliRunner().invoke(command, call).exit_code == 0


def test_an_exception_in_a_loss_is_an_error_and_no_divergence(tmp_path):
    def broken(x, y):
        raise ZeroDivisionError("a bug in the loss")

    report = losses.compare_losses(broken, torch.nn.MSELoss())
    assert report.exit_code == 2
    assert "a bug in the loss" in str(report)
