"""What a training step launches on accelerators that are not here: compiled for them ahead of time, and counted.

Needs the compilers of the extra `aot`; where one is missing, its tests are skipped.
"""

import importlib.util

import jax
import pytest

from jaxrnn.ops.pallas_gpu import OLDEST_JAX
from tests.jaxrnn import kernels_ahead
from tests.jaxrnn.common import printed

pytestmark = [pytest.mark.slow, pytest.mark.aot]

COMPILERS = {"h100": "jax_plugins.xla_cuda13", "v5e": "libtpu"}
# JAX's own derivative of an LSTM's loop launches 23 kernels per step.
KERNELS_PER_STEP = 6.0
STEPS = 256


def installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def counted(device, cell, dtype="float32", implementation="scan", rows=16, hidden=512, steps=STEPS):
    if not installed(COMPILERS[device]):
        pytest.skip(f"no compiler for {device}: pip install 'jaxrnn[aot]'")
    size = f"{rows},{steps},64,{hidden}"
    return printed("benchmarks.ahead", device, cell, size, dtype, implementation)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cell", ["LSTM", "PEEPHOLE_LSTM", "GRU", "TANH"])
def test_an_h100_launches_at_most_six_kernels_per_step(cell, dtype):
    found = counted("h100", cell, dtype)
    assert found["kernels_per_step"] <= KERNELS_PER_STEP
    assert all(loop["updates"] <= 2 for loop in found["loops"])  # of a round of eight steps


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_on_an_h100_long_sequences_are_cut_into_chunks_that_save_memory_and_launch_little(cell):
    rows, steps, hidden = 16, 1024, 768
    found = counted("h100", cell, rows=rows, hidden=hidden, steps=steps)
    assert found["plan"]["chunk"] < steps
    assert found["kernels_per_step"] <= KERNELS_PER_STEP
    # gates and states kept, outputs and their cotangents; the sums of all steps would be another four or three
    assert found["temporary_bytes"] <= 9 * 4 * rows * steps * hidden


def test_by_cudnn_a_training_step_is_two_calls_and_little_around_them():
    if not installed(COMPILERS["h100"]):
        pytest.skip("no compiler for h100: pip install 'jaxrnn[aot]'")
    programs = printed("tests.jaxrnn.cudnn_ahead")
    for program in programs.values():
        assert program["calls"] == [1, 1]
        assert program["loops"] == 0
    # packing and unpacking parameters, masks, zeros, the loss; two orders and two gathers more in reverse
    assert programs["forward"]["kernels"] <= 16
    assert programs["reverse"]["kernels"] <= 24


# Cell, batch, features: what the persistent kernel is meant for, and sizes near its limits of memory and registers.
PERSISTENT = {
    "bfloat16": [
        ("LSTM", 8, 256), ("LSTM", 16, 512), ("LSTM", 64, 384), ("LSTM", 1024, 256), ("PEEPHOLE_LSTM", 64, 512),
        ("GRU", 32, 512), ("GRU", 1024, 256), ("TANH", 64, 768), ("TANH", 1024, 512), ("RELU", 16, 1024),
    ],
    "float16": [("LSTM", 16, 512), ("GRU", 64, 256)],
    "float32": [("LSTM", 16, 352), ("PEEPHOLE_LSTM", 64, 256), ("GRU", 1024, 256), ("TANH", 64, 512)],
}  # fmt: skip


@pytest.mark.skipif(jax.__version_info__ < OLDEST_JAX, reason=f"the kernel needs JAX {OLDEST_JAX}")
@pytest.mark.parametrize("dtype", PERSISTENT)
def test_for_an_h100_the_persistent_kernel_fits_into_registers_and_shared_memory(dtype):
    for cell, rows, hidden in PERSISTENT[dtype]:
        found = counted("h100", cell, dtype, "pallas", rows, hidden)
        (kernel,) = found["kernels"]
        assert kernel["spilled_bytes"] == 0, (cell, rows, hidden, found)
        assert kernel["registers"] <= 255
        assert kernel["shared_bytes"] <= 232448


@pytest.mark.skipif(jax.__version_info__ < OLDEST_JAX, reason=f"the kernel needs JAX {OLDEST_JAX}")
@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_with_the_persistent_kernel_only_the_backward_loop_launches_anything(cell):
    found = counted("h100", cell, "bfloat16", "pallas")
    assert len(found["loops"]) == 1
    assert found["kernels_per_step"] <= KERNELS_PER_STEP / 2 + 0.5


# Per cell: instructions of a step, forward and backward, and writes of residuals in the forward loop.
ON_TPU = {"LSTM": (9, 8, 6), "PEEPHOLE_LSTM": (9, 8, 6), "GRU": (9, 11, 5), "TANH": (4, 5, 1)}


@pytest.mark.parametrize("cell", ON_TPU)
def test_a_tpu_multiplies_once_per_step_of_each_loop_and_keeps_little(cell):
    forward, backward = counted("v5e", cell)["loops"]
    in_forward, in_backward, updates = ON_TPU[cell]
    assert (forward["products"], backward["products"]) == (1, 1)
    assert forward["kernels"] <= in_forward
    assert backward["kernels"] <= in_backward
    assert forward["updates"] <= updates


# Hidden features that the kernels serve in every case; a v7x has half the fast memory of a v5e.
SERVED = {"v5e": 880, "v7x": 630}


@pytest.mark.parametrize("case", range(len(kernels_ahead.CASES)))
@pytest.mark.parametrize("chip", SERVED)
def test_the_widest_network_that_a_tpus_kernels_serve_compiles(chip, case):
    """And its training step is two kernels; four where a rest of the steps needs its own."""
    if not installed(COMPILERS["v5e"]):
        pytest.skip("no compiler for TPUs: pip install 'jaxrnn[aot]'")
    found = printed("tests.jaxrnn.kernels_ahead", chip, str(case))
    assert found["hidden"] > SERVED[chip]
    assert found["kernels"] in (2, 4)


# Microseconds of a kernel's step at 1.5 GHz, forward and both; and the steps of the scan: at others, the
# compiler aborts over a GRU, or keeps in VMEM what long texts must fetch.
PROFILED = {
    "LSTM": (0.45, 1.15, 8192), "PEEPHOLE_LSTM": (0.46, 1.15, 8192),
    "GRU": (0.36, 0.88, 512), "TANH": (0.17, 0.39, 512),
}  # fmt: skip


@pytest.mark.parametrize("cell", PROFILED)
def test_a_tpus_kernels_are_many_times_cheaper_than_its_scan_by_the_static_profile(cell):
    if not installed(COMPILERS["v5e"]):
        pytest.skip("no compiler for TPUs: pip install 'jaxrnn[aot]'")
    forward, both, steps = PROFILED[cell]
    found = printed("tests.jaxrnn.cycles_ahead", cell, str(steps))
    kernels, scan = found["kernels"], found["scan"]
    trained = kernels["forward"] + kernels["backward"]
    assert kernels["forward"] <= forward * 1500
    assert trained <= both * 1500
    assert scan["forward"] >= 8 * kernels["forward"]
    assert scan["training"] >= 10 * trained


FITTING = [
    "gates, 100 thousand", "carry, 600 thousand", "h, 900 thousand", "segments, 419 million",
    "two levels, a thousand million", "enwik8", "enwik8, offloaded",
]  # fmt: skip


def test_how_far_exact_backpropagation_reaches_on_one_v5e():
    if not installed(COMPILERS["v5e"]):
        pytest.skip("no compiler for v5e: pip install 'jaxrnn[aot]'")
    programs = printed("tests.jaxrnn.long_ahead")
    for name in FITTING:
        assert programs[name]["device_bytes"] < 15.75 * 2**30, name
    assert "RESOURCE_EXHAUSTED" in programs["plain scan, 100 thousand"]["error"]

    # One exact gradient through 100 million bytes, and what of it waits on the host.
    here, offloaded = programs["enwik8"], programs["enwik8, offloaded"]
    assert here["device_bytes"] < 2**30
    assert here["host_bytes"] == 0
    bounds = 12_500_992 // 2048 * 8 * 2 * 512 * 2  # h and c at each, in bfloat16
    assert bounds <= offloaded["host_bytes"] <= 1.1 * bounds
