"""Documents: how they come about, and that what is read is what was written."""

import json
import sys

import pytest

from benchmarks import runs
from benchmarks.jobs import Job
from benchmarks.sizes import Size
from tests.benchmarks.common import MACHINE, TINY, record


@pytest.fixture
def document():
    return {
        "schema": runs.SCHEMA,
        "command": "jaxrnn bench",
        "machine": MACHINE,
        "records": [record(), record(kind="gru")],
    }


def test_what_is_read_is_what_was_written(document, tmp_path):
    runs.write(document, tmp_path / "a.json")
    assert runs.read(tmp_path / "a.json") == document
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    runs.write(document | {"records": []}, tmp_path / "a.json")
    assert runs.read(tmp_path / "a.json")["records"] == []


def test_a_job_survives_the_way_to_its_process():
    job = Job(
        Size("odd", 1, 1, 2, 4, calls=5), "gru", "forward", "hugetlb", peers=("torch", "keras"), threads=2
    )
    assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job


@pytest.mark.parametrize(
    ("text", "word"),
    [("{", "not JSON"), ("[]", "schema"), ('{"schema": "jaxrnn-bench/0"}', "expected 'jaxrnn-bench/1'")],
)
def test_a_file_that_is_no_document_is_refused(text, word, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=word):
        runs.read(tmp_path / "a.json")


def test_the_allocator_is_an_environment_variable_of_the_child(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=2:glibc.malloc.check=0")
    assert runs.environment("default")["GLIBC_TUNABLES"] == "glibc.malloc.check=0"
    assert runs.environment("hugetlb")["GLIBC_TUNABLES"] == "glibc.malloc.check=0:glibc.malloc.hugetlb=1"
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0:glibc.malloc.trim_threshold=1")
    kept = runs.environment("kept")["GLIBC_TUNABLES"].split(":")
    assert [name.partition("=")[0].removeprefix("glibc.malloc.") for name in kept] == [
        "check", "mmap_threshold", "trim_threshold", "arena_max"
    ]  # fmt: skip


def test_no_compiled_program_is_taken_from_an_earlier_run():
    assert runs.environment("default")["JAX_ENABLE_COMPILATION_CACHE"] == "false"


def test_the_bound_is_what_products_and_traffic_alone_would_take():
    found = runs.bound({"flops": 2e9, "traffic_bytes": 3e9}, MACHINE)
    assert found["bound_ms"] == pytest.approx(20.0)
    assert found["memory_ms"] == pytest.approx(300.0)


def test_a_job_that_fails_leaves_its_last_word_and_the_others_run(monkeypatch):
    def spawn(module, text, allocator):
        if module == "benchmarks.machine":
            return dict(MACHINE)
        if json.loads(text)["kind"] == "gru":
            raise runs.ChildError("jaxrnn: the output is off")
        return record()

    monkeypatch.setattr(runs, "spawn", spawn)
    saved = []
    jobs = [Job(TINY, "gru"), Job(TINY, "lstm")]
    document = runs.run(jobs, "", lambda text: None, lambda found: saved.append(len(found["records"])))
    assert document["records"][0]["error"] == "jaxrnn: the output is off"
    assert document["records"][1]["bound_ms"] > 0
    assert saved == [1, 2]


def test_the_last_word_of_a_process_is_the_error(tmp_path, monkeypatch):
    (tmp_path / "dies.py").write_text("import sys; print('why', file=sys.stderr); sys.exit('the last word')")
    (tmp_path / "killed.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(runs.ChildError, match=r"^the last word$"):
        runs.spawn("dies", "", "default")
    if sys.platform != "win32":
        with pytest.raises(runs.ChildError, match="killed by signal 9"):
            runs.spawn("killed", "", "default")
