"""Options: what no command would heed is refused, with what to do instead; and what the commands share."""

import json

import click
import pytest
from click.testing import CliRunner

pytest.importorskip("torch")

from parity import cli
from parity.cli import prove_losses, prove_optimizers, shared
from parity.cli.reporting import Publisher
from parity.verdict import CaseResult
from tests.parity.example_reports import divergent, equivalent

ADAM = ("--torch", "Adam(lr=1e-2)", "--optax", "jaxrnn.optim.adam(1e-2)")
SCHEDULE = ("--torch", "StepLR(step_size=7)", "--optax", "jaxrnn.optim.step_lr(0.3, 7)")
MODELS = ("--reference", "tests.parity.pairs:torch_gru", "--candidate", "tests.parity.pairs:gru")
DUMP = ("capture", "reference", "lstm_cell", "-o", "dump")


def invoke(*arguments):
    return CliRunner().invoke(cli.main, arguments, catch_exceptions=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("optim", "--clip-norm", "1"), "--clip-norm: each row of jaxrnn.optim's table clips as it says"),
        (("optim", "--clip-value", "1"), "--clip-value: each row"),
        (("optim", "--clip-norm", "1", "--clip-value", "1"), "--clip-norm, --clip-value: each row"),
        (("optim", *SCHEDULE, "--clip-norm", "1"), "--clip-norm: a schedule clips and draws nothing"),
        (("optim", *SCHEDULE, "--clip-value", "1"), "--clip-value: a schedule"),
        (("optim", *SCHEDULE, "--seed", "0"), "--seed: a schedule"),
        (("optim", *SCHEDULE, "--probe", "designed"), "--probe: a schedule"),
        (
            ("loss", "--task", "regression"),
            "--task: each loss of jaxrnn.losses has its own task; give a pair",
        ),
        (("check", *MODELS, "--port", "--own-weights", "--input", "input=5,9,3"), "give one"),
        (
            ("check", *MODELS, "--port", "--probe", "quick", "--inputs", "tests.parity.pairs:inputs_tuple"),
            "--probe: neither inputs nor weights are drawn",
        ),
        ((*DUMP, "--dtype", "float16"), "a CASE brings its own inputs"),
        ((*DUMP, "--input", "x=5,9,3"), "a CASE brings its own inputs"),
        ((*DUMP, "--own-weights"), "a CASE brings its own inputs"),
    ],
)
def test_an_option_that_nothing_would_heed_is_refused_with_the_remedy(
    tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "parity-report.json").exists()
    assert not (tmp_path / "dump").exists()


@pytest.mark.slow
def test_the_same_options_are_heeded_where_they_have_a_meaning(tmp_path, monkeypatch):
    """The clipping of torch's side alone makes a pair diverge; a drawn seed of its own does not."""
    monkeypatch.chdir(tmp_path)
    assert invoke("optim", *ADAM, "--probe", "quick", "--seed", "3").exit_code == 0
    assert invoke("optim", *ADAM, "--probe", "quick", "--clip-norm", "1e-3").exit_code == 1
    assert invoke("optim", *ADAM, "--probe", "quick", "--clip-value", "1e-6").exit_code == 1
    pair = ("loss", "--torch", "MSELoss()", "--jax", "jaxrnn.losses.mse_loss()", "--probe", "quick")
    wrong = invoke(*pair, "--task", "log_ctc")
    assert wrong.exit_code == 2  # asked what CTC is asked, torch's loss cannot answer
    assert "Invalid value" not in wrong.output
    assert invoke(*pair, "--task", "regression").exit_code == 0


@pytest.mark.parametrize("seed", ["0", "7"])
def test_the_table_of_losses_is_judged_with_the_probe_and_seed_that_were_given(tmp_path, monkeypatch, seed):
    asked = []

    def judge(case, probe_set, seed):
        asked.append((case.id, probe_set, seed))
        return equivalent(case.id)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prove_losses.losses, "judge_case", judge)
    monkeypatch.setattr(prove_losses.losses, "CASES", prove_losses.losses.CASES[:2])
    assert invoke("loss", "--probe", "quick", "--seed", seed).exit_code == 0
    assert asked == [(case.id, "quick", int(seed)) for case in prove_losses.losses.CASES]


def test_the_table_of_optimizers_says_of_each_row_that_torch_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prove_optimizers, "torch_missing", lambda: "torch not installed; pip install it")
    monkeypatch.setattr(prove_optimizers.optimizer_cases, "CASES", ())
    result = invoke("optim")
    assert result.exit_code == 4
    rows = json.loads((tmp_path / "parity-report.json").read_text())["cases"]
    assert [row["id"] for row in rows] == [case.id for case in prove_optimizers.schedules.CASES]
    assert {row["not_run"] for row in rows} == {"torch not installed; pip install it"}


def test_no_trajectory_of_an_older_run_survives_and_none_is_promised_in_vain(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("train", "lstm", "--trajectory", "nowhere/t.json")
    assert result.exit_code == 2
    assert "create it first" in " ".join(result.output.split())
    (tmp_path / "t.json").write_text("{}")
    monkeypatch.setattr(cli.train_runs, "_run", lambda *_: 1 / 0)
    assert invoke("train", "lstm", "--trajectory", "t.json").exit_code == 2
    assert not (tmp_path / "t.json").exists()


# What the commands share


def test_an_option_counts_as_given_only_if_the_command_line_states_it():
    @click.command()
    @shared.draw_options
    def command(**options):
        click.echo(json.dumps([options, shared.given("probe_set", "seed", "other")]))

    default = CliRunner().invoke(command, [])
    assert json.loads(default.output) == [{"probe_set": "designed", "seed": 0}, {}]
    stated = CliRunner().invoke(command, ["--seed", "0"])  # given, though it is the default
    assert json.loads(stated.output) == [{"probe_set": "designed", "seed": 0}, {"seed": "--seed"}]
    assert CliRunner().invoke(command, ["--seed", "-1"]).exit_code == 2
    assert CliRunner().invoke(command, ["--probe", "some"]).exit_code == 2


def test_rows_are_chosen_once_each_in_the_order_named():
    rows = [CaseResult(id) for id in ("lstm", "gru", "rnn")]
    assert shared.choose("case", [], rows, "") == rows
    assert shared.choose("case", ["rnn", "lstm", "rnn"], rows, "") == [rows[2], rows[0]]
    with pytest.raises(click.UsageError, match="no case is called 'lstn'; did you mean lstm"):
        shared.choose("case", ["lstn"], rows, "look it up.")
    with pytest.raises(click.UsageError, match=r"no case is called 'q'; look it up\."):
        shared.choose("case", ["q"], rows, "look it up.")


def test_progress_counts_what_is_done_and_names_what_is_at_work():
    with shared.show_progress(3) as steps:
        (task,) = steps.progress.tasks
        seen = [(item, task.description, task.completed) for item in steps.through("ab", str.upper)]
        assert seen == [("a", "A", 0), ("b", "B", 1)]
        assert (task.completed, task.total) == (2, 3)
        steps.reach(3)
        assert task.finished
    with shared.show_progress() as steps:
        assert steps.progress.tasks[0].total is None


def test_a_finished_command_writes_says_and_exits_by_what_was_found(tmp_path, capsys):
    publisher = Publisher(None, tmp_path / "r.json", None, None, None, verbose=False)
    drawn = []
    with pytest.raises(SystemExit) as stop:
        publisher.finish(iter([divergent()]), 0.0, sections=lambda: drawn.append(1), said=["and so on"])
    assert stop.value.code == 1
    assert capsys.readouterr().out.endswith("and so on\n")
    assert drawn == []  # nothing is drawn where no page is asked for
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["verdict"] == "DIVERGENT"
    assert "python" in report["environment"]
    with pytest.raises(SystemExit) as stop:
        publisher.finish([equivalent()], 0.0)
    assert stop.value.code == 0
