"""Every Python block in the README and in `docs/` runs, from the top of its page to the bottom."""

import re
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
def test_the_page_on_several_devices_runs_on_four():
    assert printed("tests.docs.on_four_devices") == "4 devices"
