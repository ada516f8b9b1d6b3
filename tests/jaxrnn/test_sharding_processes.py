"""Two processes, each with its own rows, take the training step of one."""

import json
import os
import socket
import subprocess
import sys

import pytest

from tests.jaxrnn.common import rms_error

MODULE = [sys.executable, "-m", "tests.jaxrnn.two_processes"]
# Two processes would write to one cache of compiled programs at once.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def started(*arguments):
    return subprocess.Popen(
        [*MODULE, *map(str, arguments)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def found(processes):
    """Return what each process printed last; end them all where one fails."""
    try:
        results = []
        for process in processes:
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err[-2000:]
            results.append(json.loads([line for line in out.splitlines() if line.startswith("{")][-1]))
        return results
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
def test_two_processes_take_the_step_of_one():
    port = free_port()
    first, second = found([started(process, port) for process in range(2)])
    (alone,) = found([started()])
    assert (first["devices here"], second["devices here"], alone["devices here"]) == (2, 2, 4)
    for way in ("rows", "time", "units"):
        assert first[way] == second[way]
        for one, other in zip(first[way], alone[way], strict=True):
            assert rms_error(one, other) <= 1e-6  # float32, four shards summed in another order
