"""What is said of the machine and of a process is true of them."""

import subprocess
import sys

import numpy as np

from benchmarks.machine import peak_bytes

MEGABYTE = 2**20


def test_peak_memory_is_that_of_the_program_and_not_of_the_one_that_started_it():
    held = np.ones(300 * MEGABYTE, np.uint8)
    assert peak_bytes() > held.size
    code = "from benchmarks.machine import peak_bytes; print(peak_bytes())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(child.stdout) < 200 * MEGABYTE


def test_peak_memory_counts_what_was_given_back():
    before = peak_bytes()
    np.ones(before + 100 * MEGABYTE, np.uint8)
    assert peak_bytes() > before + 100 * MEGABYTE
