"""`jaxrnn bench`, from the command line to the files."""

import importlib.util
import json

import pytest
from click.testing import CliRunner

from benchmarks import child, machine, plot, runs, timing
from benchmarks.jobs import Job
from jaxrnn.cli import main
from tests.benchmarks.common import MACHINE, record


def bench(*arguments):
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


@pytest.fixture
def here(monkeypatch):
    """Children in this process, short rounds, a small machine: for tests that do not look at times."""
    for module, name, value in (
        (timing, "SHORTEST_ROUND", 0.0),
        (timing, "PAUSE", 0.0),
        (machine, "GEMM", 64),
        (machine, "COPIED", 1024),
        (machine, "BUDGET", 0.0),
    ):
        monkeypatch.setattr(module, name, value)

    def spawn(module, text, allocator):
        if module == "benchmarks.machine":
            return json.loads(json.dumps(machine.describe() | machine.measure_peaks()))
        return json.loads(json.dumps(child.run(Job.from_json(json.loads(text)))))

    monkeypatch.setattr(runs, "spawn", spawn)


def rows(output):
    header, *lines = (line.split("\t") for line in output.splitlines())
    return [dict(zip(header, line, strict=True)) for line in lines]


def check_run(result, tmp_path):
    """What every run must leave behind."""
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert document["schema"] == "jaxrnn-bench/1"
    assert document["command"].startswith("jaxrnn bench --size 2,3,2,4 ")
    assert {"cpu", "usable_cores", "os", "libc", "packages", "variables", "threads", "date"} <= set(
        document["machine"]
    )
    assert document["machine"]["gemm_gflops"] > 0
    (found,) = document["records"]
    assert found["size"]["name"] == "2,3,2,4"
    assert (found["kind"], found["mode"], found["allocator"]) == ("gru", "train", "default")
    shown = [row["contender"] for row in rows(result.stdout)]
    assert shown == [each["name"] for each in found["contenders"]] + list(found["skipped"])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_prints_a_table_and_leaves_its_numbers_and_a_picture(here, tmp_path):
    pytest.importorskip("matplotlib")
    files = ("--json", tmp_path / "a.json", "--plot", tmp_path / "a.png")
    result = bench(
        "--size", "2,3,2,4", "--kind", "gru", "--mode", "train", "--peer", "torch", "--budget", 0, *files
    )
    check_run(result, tmp_path)


@pytest.mark.slow
def test_a_run_in_real_processes_leaves_the_same(tmp_path):
    pytest.importorskip("matplotlib")
    files = ("--json", tmp_path / "a.json", "--plot", tmp_path / "a.png")
    result = bench(
        "--size", "2,3,2,4", "--kind", "gru", "--mode", "train", "--peer", "torch", "--budget", 0, *files
    )
    check_run(result, tmp_path)


def write(path, *records):
    runs.write({"schema": runs.SCHEMA, "command": "", "machine": MACHINE, "records": list(records)}, path)
    return path


def test_several_files_become_one_table_without_measuring(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "run", lambda *args: pytest.fail("measured"))
    one, other = write(tmp_path / "a.json", record()), write(tmp_path / "b.json", record(kind="gru"))
    result = bench("--show", one, other)
    assert result.exit_code == 0, result.output
    assert [(row["kind"], row["contender"]) for row in rows(result.stdout)][::4] == [
        ("lstm", "jaxrnn"),
        ("gru", "jaxrnn"),
    ]


def test_a_job_that_failed_makes_the_exit_code_one(tmp_path):
    path = write(tmp_path / "a.json", record(), record() | {"error": "jaxrnn: the output is off"})
    result = bench("--show", path, "--plot", tmp_path / "a.svg")
    assert result.exit_code == 1
    assert "1 of 2 jobs failed" in result.stderr
    assert "jaxrnn: the output is off" in result.stdout
    assert (tmp_path / "a.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["medum"], "did you mean medium?"),
        (["--size", "1,2"], "for instance 32,128,128,256"),
        (["--kind", "lstn"], "'lstm'"),
        (["--peer", "jax"], "'flax.nnx'"),
        (["stream", "--mode", "train"], "--mode forward"),
        (["--size", "1,2,3,4", "--features", "--peer", "torch"], "leave --peer out"),
        (["course", "long", "--sweep", "T"], "one NAME"),
        (["--plot", "a.gif"], ".png, .svg, .pdf"),
        (["--json", "no/such/folder/a.json"], "create it first"),
        (["--show"], "name some"),
        (["--show", "no-such.json"], "No such file"),
        (["--show", "a.json", "--budget", "3"], "--budget: --show measures nothing"),
    ],
)
def test_wrong_usage_is_refused_before_anything_runs(arguments, words, monkeypatch):
    monkeypatch.setattr(runs, "spawn", lambda *args: pytest.fail("something ran"))
    result = bench(*arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


def test_without_matplotlib_a_plot_is_refused_with_the_remedy(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    result = bench("--plot", "a.png")
    assert result.exit_code == 2
    assert plot.INSTALL in result.stderr


def test_huge_pages_that_the_system_lacks_are_refused(monkeypatch):
    described = machine.describe()
    monkeypatch.setattr(machine, "describe", lambda: described | {"huge_pages": "never"})
    result = bench("course", "--allocator", "all")
    assert result.exit_code == 2
    assert "Leave it at default" in result.stderr


def test_help_is_that_of_the_benchmarks():
    result = bench("--help")
    assert result.exit_code == 0
    assert "--allocator" in result.output
