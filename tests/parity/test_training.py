"""Training runs: what passes, what leaves the envelope, what does not train, and the first bad step."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner
from flax import nnx

import jaxrnn
from parity.cli.train_runs import train as command
from parity.optimizers.judge import OptimizerPair
from parity.training import cases as training_cases
from parity.training.judge import compare_training
from parity.training.trajectory import LIMIT, judge_trajectory

STEPS = 40


# The envelope ---------------------------------------------------------------------------------------------


def runs(growth=0.05):
    """Gold, and a null ensemble whose distance from it grows e-fold in 1 / growth steps."""
    rng = np.random.default_rng(0)
    gold = 1.0 + 9.0 * np.exp(-0.05 * np.arange(STEPS))
    noise = 1e-6 * np.exp(growth * np.arange(STEPS)) * rng.uniform(0.5, 1.0, (5, STEPS))
    return gold, noise


def test_a_run_as_near_as_honest_ones_passes():
    gold, noise = runs()
    found = judge_trajectory(gold, gold * (1 + noise[0]), gold * (1 - 2 * noise[1]), gold * (1 + noise[2:]))
    assert found.verdict == "EQUIVALENT"
    assert found.horizon == STEPS
    assert found.largest < LIMIT


def test_a_run_that_leaves_the_envelope_is_told_from_where():
    gold, noise = runs()
    candidate = gold * (1 + noise[1])
    candidate[17:] *= 1 + 1e-4
    found = judge_trajectory(gold, gold * (1 + noise[0]), candidate, gold * (1 + noise[2:]))
    assert (found.verdict, found.first_outside) == ("DIVERGENT", 18)


def test_chaos_beyond_the_horizon_is_no_mistake():
    gold, noise = runs(growth=0.4)
    candidate = gold * (1 + noise[1])
    candidate[-3:] *= 2
    found = judge_trajectory(gold, gold * (1 + noise[0]), candidate, gold * (1 + noise[2:]))
    assert found.horizon < STEPS - 3
    assert found.verdict == "EQUIVALENT"


def test_nan_never_stays_inside_the_envelope():
    gold, noise = runs()
    candidate = gold.copy()
    candidate[9] = np.nan
    found = judge_trajectory(gold, gold * (1 + noise[0]), candidate, gold * (1 + noise[2:]))
    assert (found.verdict, found.first_outside) == ("DIVERGENT", 10)


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        (lambda gold: (gold, gold, np.zeros(STEPS)), "DIVERGENT", "gradients are zero"),
        (lambda gold: (gold, np.full(STEPS, gold[0]), None), "DIVERGENT", "never moves"),
        (
            lambda gold: (np.full(STEPS, 2.0), np.full(STEPS, 2.0), None),
            "INCONCLUSIVE",
            "nothing was trained",
        ),
        (lambda gold: (np.where(np.arange(STEPS) > 20, np.nan, gold), gold, None), "INCONCLUSIVE", "finite"),
    ],
)
def test_a_run_that_does_not_train_compares_nothing(change, verdict, words):
    gold, noise = runs()
    gold, candidate, norms = change(gold)
    found = judge_trajectory(gold, gold * (1 + noise[0]), candidate, gold * (1 + noise[2:]), norms)
    assert found.verdict == verdict
    assert words in found.message


def test_an_ensemble_that_is_chaos_at_once_decides_nothing():
    gold, noise = runs()
    found = judge_trajectory(gold, gold, gold, gold * (1 + 1e6 * noise[2:]))
    assert found.verdict == "INCONCLUSIVE"
    assert "chaos after" in found.message


# Whole runs -----------------------------------------------------------------------------------------------


class JaxLine(nnx.Module):
    def __init__(self):
        self.fc = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return jnp.tanh(self.fc(x))


def jax_loss(model, batch):
    return jnp.mean((model(batch[0]) - batch[1]) ** 2)


def batches():
    rng = np.random.default_rng(0)
    return [tuple(rng.standard_normal((5, n)).astype(np.float32) for n in (3, 2)) for _ in range(4)]


def compare(optimizer, loss=jax_loss, steps=STEPS, **options):
    torch = pytest.importorskip("torch")
    from parity.optimizers.torch_side import from_text

    class Line(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(3, 2)

        def forward(self, x):
            return torch.tanh(self.fc(x))

    def torch_loss(model, batch):
        return ((model(batch[0]) - batch[1]) ** 2).mean()

    torch.manual_seed(0)
    pair = OptimizerPair(from_text("Adam(lr=1e-2)"))
    return compare_training(
        JaxLine(), Line(), batches(), (loss, torch_loss), (optimizer, pair), steps, ensemble=4, **options
    )


def test_the_same_training_is_the_same_and_says_so_in_json():
    result = compare(jaxrnn.optim.adam(1e-2))
    assert result.verdict == "EQUIVALENT", result
    assert result.first_bad is None
    assert [case.verdict for case in result.cases()] == ["EQUIVALENT"] * 3
    written = json.loads(result.to_json())
    assert (written["schema"], written["verdict"]) == ("parity-training/1", "EQUIVALENT")
    assert len(written["trajectory"]["gold"]) == len(written["trajectory"]["envelope"]) == STEPS
    assert len(written["trajectory"]["ensemble"]) == 4


def test_a_wrong_loss_is_wrong_from_the_first_step_though_the_optimizer_is_right():
    result = compare(jaxrnn.optim.adam(1e-2), lambda model, batch: 1.001 * jax_loss(model, batch), steps=8)
    assert result.verdict == "DIVERGENT"
    assert result.replay.verdict == "EQUIVALENT"
    assert (result.first_bad, result.trajectory.first_outside) == (1, 1)


@pytest.mark.slow
def test_the_first_step_that_is_wrong_by_itself_is_found():
    from parity.selftest.optimizer_mutants import forgetful

    result = compare(forgetful(1e-2, 14)(lambda k: 1.0), every=10)
    assert result.first_bad == 14
    assert [e.id for e in result.replay.diagnosis.explanations] == ["O28"]


@pytest.mark.torch
def test_an_exception_leaves_an_error_and_no_verdict():
    def broken(model, batch):
        raise ZeroDivisionError("a bug in the loss")

    result = compare(jaxrnn.optim.sgd(1e-2), broken, steps=5)
    assert result.verdict == "ERROR"
    assert "a bug in the loss" in result.error
    with pytest.raises(ValueError, match="expected at least 5 steps"):
        compare(jaxrnn.optim.sgd(1e-2), steps=1)


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("case", training_cases.CASES, ids=lambda case: case.id)
def test_a_registered_run_stays_in_the_envelope(case):
    result = training_cases.judge_case(case, steps=240)
    assert result.verdict == "EQUIVALENT", result
    # The loss falls a lot, so that there is something to compare.
    assert result.trajectory.gold[-1] < 0.2 * result.trajectory.gold[0]
    assert all(not each.notes for each in result.cases())  # clipped and unclipped steps


@pytest.mark.slow
@pytest.mark.torch
def test_optaxs_adam_leaves_the_envelope_and_is_named():
    clipped = "optax.chain(jaxrnn.optim.clip_grad_norm(1.0), optax.adam(1e-2))"
    case = next(case for case in training_cases.CASES if case.id == "lstm")
    result = training_cases.judge_case(case, steps=60, ensemble=6, candidate=clipped)
    assert result.trajectory.verdict == "DIVERGENT"
    assert result.trajectory.first_outside < 25
    assert [e.id for e in result.replay.diagnosis.explanations] == ["O06"]
    assert result.cases()[-1].diagnosis == result.replay.diagnosis


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lstn"], "did you mean lstm"),
        (["--optax", "optax.adam(1e-2)"], "name it"),
        (["lstm", "--optax", "os.getcwd()"], "is none of optax"),
        (["lstm", "gru", "--trajectory", "t.json"], "--trajectory is of one case"),
        (["lstm", "--steps", "2"], "is not in the range"),
    ],
)
def test_wrong_usage_exits_2_and_trains_nothing(tmp_path, arguments, message):
    result = CliRunner().invoke(command, [*arguments, "--report", str(tmp_path / "r.json")])
    assert result.exit_code == 2
    assert message in result.output
