"""The kernels in C++ under the compilers' sanitizers: memory, undefined behaviour, races between threads."""

import shutil
import subprocess
from pathlib import Path

import pytest

from jaxrnn.ops.native import library

COMPILER = shutil.which("g++")
SOURCES = Path(library.__file__).with_name("csrc")
SANITIZERS = {"memory and undefined behaviour": "address,undefined", "races": "thread"}


@pytest.mark.slow
@pytest.mark.skipif(
    not COMPILER or library.why_missing() is not None, reason="g++, or an instruction set, is missing"
)
@pytest.mark.parametrize("sanitizer", SANITIZERS.values(), ids=SANITIZERS)
def test_no_sanitizer_finds_anything(sanitizer, tmp_path):
    """See `native_check.cc`: arrays of exact size, NaN where nothing was given, with one, two and seven threads."""
    files = [
        *sorted(SOURCES.glob("isa_*.cc")),
        SOURCES / "team.cc",
        Path(__file__).with_name("native_check.cc"),
    ]
    options = [
        "-std=c++17",
        "-O1",
        "-g",
        "-Wno-psabi",
        f"-fsanitize={sanitizer}",
        "-fno-sanitize-recover=all",
        "-I",
    ]
    program = tmp_path / "native_check"
    subprocess.run([COMPILER, *options, SOURCES, *files, "-lpthread", "-o", program], check=True, timeout=600)
    done = subprocess.run(
        [program, *library.instruction_sets()], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert done.stdout == f"0 of {220 * len(library.instruction_sets())} cases are wrong\n"
