"""Optimizers and schedules held against torch's, on recorded gradients, and their mutants."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")  # the catalogue of mistakes is written in it

import jaxrnn  # noqa: E402
from parity.cli.prove_optimizers import optim as command  # noqa: E402
from parity.faults.optimizers import OPTIMIZERS, Circumstances  # noqa: E402
from parity.faults.schedules import SCHEDULES  # noqa: E402
from parity.longhand import optimizers as longhand  # noqa: E402
from parity.optimizers import cases as optimizer_cases  # noqa: E402
from parity.optimizers import judge as optimizers  # noqa: E402
from parity.optimizers.replay import NORMS, Replay, designed  # noqa: E402
from parity.oracle.oracle import OracleConflictError  # noqa: E402
from parity.schedules import judge as schedules  # noqa: E402
from parity.selftest import optimizers as mutants  # noqa: E402
from parity.selftest.trial import run_trial  # noqa: E402

ADAM = "Adam(lr=1e-2)"
QUICK = {"adam"}
CASES = [
    pytest.param(case, id=case.id, marks=[] if case.id in QUICK else pytest.mark.slow)
    for case in optimizer_cases.CASES
]
QUICK_MUTANTS = {"O06", "O13"}
TRIALS = [
    pytest.param(
        trial,
        id=f"{trial.id} {trial.case}",
        marks=[] if trial.id in QUICK_MUTANTS or trial.case.startswith("schedule") else pytest.mark.slow,
    )
    for trial in mutants.trials()
]


def make(text=ADAM):
    from parity.optimizers.torch_side import from_text

    return from_text(text)


@pytest.mark.parametrize("case", CASES)
def test_every_optimizer_of_jaxrnn_is_torchs(case):
    result = optimizer_cases.judge_case(case)
    assert result.verdict == "EQUIVALENT", result
    assert all(t.semantic_error is not None and t.rho_rms is not None for t in result.tensors)


@pytest.mark.parametrize("row", schedules.CASES, ids=lambda row: row.id)
def test_every_schedule_of_jaxrnn_is_torchs(row):
    assert schedules.judge_case(row).verdict == "EQUIVALENT"


@pytest.mark.parametrize("trial", TRIALS)
def test_every_mutant_is_found_by_its_gate_and_named(trial):
    outcome = run_trial(trial)
    assert outcome.killed, outcome
    assert outcome.named, outcome.diagnosed


def test_every_optimizer_of_jaxrnn_has_a_case():
    proven = " ".join(case.candidate for case in (*optimizer_cases.CASES, *schedules.CASES))
    optimizers_and_schedules = [name for name in jaxrnn.optim.__all__ if name[0].islower()]
    parts = {
        "chained_lr",  # of schedules, as `sequential_lr`: tests/jaxrnn/optim
        "sequential_lr",
        "cyclic_momentum",
        "clip_gradients",  # what clip_grad_norm is made of
        "total_norm",
        "scale_by_adam",
        "scale_by_momentum",
    }
    assert [
        name for name in optimizers_and_schedules if f".{name}(" not in proven and name not in parts
    ] == []


def test_every_fault_of_optimizers_has_a_mutant():
    tried = {trial.id for trial in mutants.trials()}
    assert {fault.id for fault in (*OPTIMIZERS, *SCHEDULES)} <= tried
    for catalogue in (OPTIMIZERS, SCHEDULES):
        assert len({fault.id for fault in catalogue}) == len(catalogue)


# The spelled-out optimizers -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", optimizer_cases.CASES, ids=lambda case: case.id)
def test_the_spelled_out_optimizers_are_torchs(case):
    pair = case.pair()
    for replay in designed(clip_norm=case.clip_norm, steps=12):
        oracle, found = pair.run(replay, "float64"), longhand.run(pair.setup(replay), replay)
        for name, expected in oracle.items():
            # Both in float64, by the same formulas: some ten roundings a step, of numbers of this size.
            np.testing.assert_allclose(
                found[name], expected, rtol=0, atol=1e-13 * np.max(np.abs(expected)), err_msg=name
            )


@pytest.mark.parametrize("fault", OPTIMIZERS, ids=lambda fault: fault.id)
def test_a_fault_changes_what_its_optimizer_computes(fault):
    """One that changed nothing would explain every candidate."""
    case_id = next(case for id, case, _ in mutants._MUTANTS if id == fault.id)
    case = mutants._CASES[case_id]
    replay = designed("quick", clip_norm=case.clip_norm, steps=12)[0]
    setup = case.pair().setup(replay)
    circumstances = Circumstances(tuple(replay.start), replay.rates, first_bad=5)
    assert fault.possible(setup, circumstances)
    right = longhand.run(setup, replay)
    wrong = longhand.run(fault.change(setup, circumstances), replay, fault.recipe)
    least = 1e-9 if fault.gate == "semantic" else 1e-12  # three digits of a float32 bias correction
    assert max(np.max(np.abs(wrong[n] - right[n])) / np.max(np.abs(right[n])) for n in right) > least


def test_equations_that_are_not_torchs_are_a_conflict_and_judge_nothing(monkeypatch):
    monkeypatch.setitem(longhand.RULES, "Adam", lambda now, g, buffers: g)
    pair = optimizers.OptimizerPair(make())
    with pytest.raises(OracleConflictError, match=r"torch.optim.Adam and its equations"):
        optimizers.gather(pair, designed("quick", steps=4)[0])


def test_torchs_own_digits_widen_the_semantic_limit_only_where_they_are_lost():
    replay = designed("quick", steps=8)[0]
    radam, sgd = (
        optimizers.gather(optimizers.OptimizerPair(make(text)), replay)
        for text in ("RAdam(lr=1e-3)", "SGD(lr=1e-2)")
    )
    floor = 64 * 2.0**-53
    assert all(np.max(limits) <= 4 * floor for limits in sgd.limits.values())
    # From update 6 on: ρ is a difference of two numbers near 2000, over 1 - 0.999ᵗ.
    limits = np.max(list(radam.limits.values()), axis=0)
    assert np.all(limits[:5] <= 16 * floor)
    assert 1e-12 < limits[5] < 1e-9


# What is asked --------------------------------------------------------------------------------------------


def test_the_designed_gradients_hold_what_hides_mistakes():
    wide, drifting = designed(clip_norm=1.0)
    (unclipped, _) = designed()
    sizes = np.concatenate([np.abs(g[g != 0]) for g in unclipped.gradients.values()])
    assert sizes.min() < 1e-12
    assert sizes.max() > 1e3
    assert np.ptp(wide.rates) > 1
    assert drifting.constant_rate
    np.testing.assert_allclose(
        longhand.total_norms(wide.gradients)[:6], NORMS, rtol=1e-6
    )  # rounded to float32
    assert any(not start.any() for start in wide.start.values())
    assert len({start.shape for start in wide.start.values()}) == len(wide.start)


def test_a_replay_says_which_gradients_are_missing():
    with pytest.raises(ValueError, match="expected \\(3, 2\\): one gradient for each rate"):
        Replay("r", {"w": np.zeros(2)}, {"w": np.zeros((2, 2))}, np.ones(3))
    with pytest.raises(ValueError, match="but parameters"):
        Replay("r", {"w": np.zeros(2)}, {"v": np.zeros((3, 2))}, np.ones(3))


def test_a_finished_transformation_is_judged_at_a_constant_rate_and_it_is_said():
    report = optimizers.compare_optimizers(jaxrnn.optim.sgd(1e-2), make("SGD(lr=1e-2)"), probe_set="quick")
    assert report.verdict == "EQUIVALENT"
    assert any("learning rates that change" in note for note in report.cases[0].comparisons[0].notes)


@pytest.mark.slow
def test_hyperparameters_are_found_from_the_updates():
    def candidate(factor):
        return optax.adam(lambda k: 1.001e-2 * factor(k), b2=0.99, eps=1e-7)

    (explanation,) = optimizers.compare_optimizers(candidate, make()).diagnosis.explanations
    for words in (
        "lr=0.01001 instead of 0.01",
        "betas.1=0.99 instead of 0.999",
        "eps=1e-07 instead of 1e-08",
    ):
        assert words in explanation.name


@pytest.mark.slow
def test_what_nothing_explains_is_called_so():
    report = optimizers.compare_optimizers(lambda factor: optax.sgd(lambda k: 1e-2 * factor(k)), make())
    assert report.verdict == "DIVERGENT"
    assert report.diagnosis.explanations == ()
    assert report.diagnosis.tried > 10


@pytest.mark.slow
def test_the_first_bad_step_is_found_where_the_optimizer_forgets():
    from parity.selftest.optimizer_mutants import forgetful

    replay = designed("quick")[0]
    evidence = optimizers.gather(optimizers.OptimizerPair(make()), replay)
    assert optimizers.weigh(forgetful(1e-2, 23), evidence).first_bad == 23


def test_an_exception_in_an_optimizer_is_an_error_and_no_divergence():
    def broken(factor):
        raise ZeroDivisionError("a bug in the optimizer")

    report = optimizers.compare_optimizers(broken, make(), probe_set="quick")
    assert report.exit_code == 2
    assert "a bug in the optimizer" in str(report)


def test_nan_in_the_updates_is_found_before_anything_is_measured():
    nan = optax.stateless(lambda grads, params: {name: g * jnp.nan for name, g in grads.items()})
    report = optimizers.compare_optimizers(nan, make("SGD(lr=1e-2)"), probe_set="quick")
    assert report.verdict == "DIVERGENT"
    assert {tensor.gate for tensor in report.tensors} <= {"structure", "non-finite"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--torch", ADAM], "give both --torch and --optax"),
        (["--torch", "Adam(lr=open('x'))", "--optax", "optax.adam(1e-2)"], "open is not a literal"),
        (["--torch", "Adam(1e-2)", "--optax", "optax.adam(1e-2)"], "name the options, as in Adam(lr=1e-3)"),
        (["--torch", "Optimist()", "--optax", "optax.adam(1e-2)"], "has nothing called 'Optimist'"),
        (["--torch", ADAM, "--optax", "os.system('x')"], "os.system is none of optax.*"),
        (["--torch", ADAM, "--optax", "optax.l2_loss"], "missing"),
        (["--torch", ADAM, "--optax", "optax.constant_schedule(0.1)"], "not an optax.GradientTransformation"),
        (["--torch", ADAM, "--optax", "optax.__loader__.name"], "is not a dotted name"),
    ],
)
def test_wrong_usage_exits_2_and_runs_nothing(tmp_path, arguments, message):
    result = CliRunner().invoke(command, [*arguments, "--report", str(tmp_path / "r.json")])
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "r.json").exists()


def test_the_command_takes_schedulers_too(tmp_path):
    call = ["--torch", "StepLR(step_size=7)", "--report", str(tmp_path / "r.json"), "--optax"]
    assert CliRunner().invoke(command, [*call, "jaxrnn.optim.step_lr(0.3, 7)"]).exit_code == 0
    result = CliRunner().invoke(command, [*call, "optax.exponential_decay(0.3, 8, 0.1, staircase=True)"])
    assert result.exit_code == 1
    assert "none of" in result.output


def test_groups_are_the_same_on_both_sides():
    case = next(case for case in optimizer_cases.CASES if case.id == "adamw-groups")
    setup = case.pair().setup(designed("quick", steps=2)[0])
    assert [group.options["weight_decay"] for group in setup.groups] == [0.1, 0.0]
    assert all("bias" in name for name in setup.groups[1].names)
    frozen = dataclasses.replace(case, frozen=("embedding",)).pair().setup(designed("quick", steps=2)[0])
    assert not any("embedding" in name for group in frozen.groups for name in group.names)
