"""Every Python block in the README and in `docs/` runs, from the top of its page to the bottom."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jaxrnn.common import printed

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page):
    """The page's blocks as programs whose line numbers are those of the page."""
    text = (ROOT / page).read_text("utf-8")
    return ["\n" * text.count("\n", 0, match.start(1)) + match[1] for match in BLOCK.finditer(text)]


def run(page):
    """Run a page, and return what it defined."""
    namespace = {"__name__": page}
    for program in blocks(page):
        exec(compile(program, str(ROOT / page), "exec"), namespace)
    return namespace


def pages():
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        page = str(path.relative_to(ROOT))
        if programs := blocks(page):
            needs_torch = any("import torch" in program for program in programs)
            yield pytest.param(page, marks=[pytest.mark.torch] if needs_torch else [])


@pytest.mark.slow
@pytest.mark.parametrize("page", list(pages()))
def test_the_snippets_of_a_page_run_in_order(page, request, tmp_path, monkeypatch):
    if request.node.get_closest_marker("torch"):
        torch = pytest.importorskip("torch")
        torch.set_num_threads(1)  # small models; the threads of two frameworks would wait for each other
    if any("pipeline" in program for program in blocks(page)):
        pytest.importorskip("grain")
    monkeypatch.setenv("KERAS_BACKEND", "jax")  # it reads this once, when it is imported
    for package in ("keras", "onnxruntime"):
        if any(f"import {package}" in program or f"from {package}" in program for program in blocks(page)):
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)  # what a snippet saves
    run(page)


def test_the_guide_for_migrating_teams_has_snippets():
    assert len(blocks("docs/migrate.md")) > 10


@pytest.mark.slow
@pytest.mark.torch
def test_the_guides_project_moves_by_its_commands_alone(torch, tmp_path):
    text = (ROOT / "docs/migrate.md").read_text("utf-8")
    section = text.partition("## From start to end\n")[2].partition("\n## ")[0]
    names = re.findall(r"`(\w+\.py)`[^`]*\n\n```py\n", section)
    assert names == ["networks.py", "begin.py", "go_on.py"]
    for name, code in zip(names, re.findall(r"^```py\n(.*?)^```$", section, re.M | re.S), strict=True):
        (tmp_path / name).write_text(code, encoding="utf-8")
    commands = re.search(r"^```bash\n(.*?)^```$", section, re.M | re.S)[1]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-ec", commands],
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "EQUIVALENT" in done.stdout
    theirs, ours = ([*map(float, re.findall(r"0\.\d{4}", line))] for line in done.stdout.splitlines()[-2:])
    assert len(theirs) == 6
    assert ours == pytest.approx(theirs, abs=1.5e-4)  # the last of the printed digits
    assert (tmp_path / "net.zip").exists()


@pytest.mark.slow
def test_the_page_on_several_devices_runs_on_four():
    assert printed("tests.docs.on_four_devices") == "4 devices"
