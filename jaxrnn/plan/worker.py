"""The process that compiles: `python -m jaxrnn.plan.worker TARGET` answers jobs, one line of JSON each."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxrnn.ops.memory import Memory
from jaxrnn.ops.planning import planning_for
from jaxrnn.plan import counting, profile
from jaxrnn.plan.compiler import Answer, Job
from jaxrnn.plan.loops import collectives
from jaxrnn.plan.programs import AXIS, Network, Program
from jaxrnn.plan.topologies import Target, target

_NEEDED = re.compile(r"\((\d+(?:\.\d+)?)([KMGT])\) exceeds available HBM")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def compile_job(job: Job, for_target: Target) -> Answer:
    """Trace and compile a training step; return what it needs.

    fits: whether the compiler took it, and where it refuses nothing itself (a CPU, a GPU) whether it needs no more
    than there is. device_bytes, of one device: arguments, results, temporary memory and the program; where the
    compiler refused, what it says is needed. host_bytes: of the host's memory. compile_seconds: tracing and
    compiling. flops, streamed_bytes: see `counting.count`, of one device. collectives: instructions inside loops
    that wait for other devices. cycles: of the static profile.
    """
    mesh = Mesh(np.array(for_target.described()), (AXIS,))
    work = _work(job, for_target, mesh)
    step = job.program.lower(job.memory, mesh)
    began = time.perf_counter()
    try:
        function = step.function if hasattr(step.function, "lower") else jax.jit(step.function)
        compiled = function.lower(*step.arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed = _NEEDED.search(str(error))
        found: Answer = {
            "fits": False,
            "device_bytes": int(float(needed[1]) * _UNITS[needed[2]]) if needed else None,
            "refusal": str(error).splitlines()[0],
        }
        return found | {"compile_seconds": time.perf_counter() - began, **work}
    seconds = time.perf_counter() - began
    needs = compiled.memory_analysis()
    device = (
        needs.argument_size_in_bytes + needs.output_size_in_bytes + needs.temp_size_in_bytes
        + needs.generated_code_size_in_bytes - needs.alias_size_in_bytes
    )  # fmt: skip
    host = needs.host_argument_size_in_bytes + needs.host_output_size_in_bytes + needs.host_temp_size_in_bytes
    text = compiled.as_text()
    found = {
        "fits": for_target.platform == "tpu" or device <= for_target.usable_bytes,
        "device_bytes": device,
        "host_bytes": host - needs.host_alias_size_in_bytes,
        "compile_seconds": seconds,
        "collectives": sum(n for (_, depth), n in collectives(text).items() if depth),
    }
    return found | work | {"cycles": profile.cycles(text)}


def _work(job: Job, for_target: Target, mesh: Mesh) -> Answer:
    """Count a step on one device, and as a multiple of one that computes nothing twice, where that is known."""

    def counted(program: Program, memory: Any, mesh: Mesh) -> counting.Work:
        step = program.lower(memory, mesh)
        return counting.count(jax.make_jaxpr(step.function)(*step.arguments), for_target.on_chip_bytes)

    if not isinstance(job.program, Network):
        work = counted(job.program, job.memory, mesh)
        shares = {"flops": work.flops // mesh.size, "streamed_bytes": work.streamed_bytes // mesh.size}
        return shares | {"exact": work.exact, "recompute": None, "implementation": [chosen(work)]}
    alone = Mesh(mesh.devices.ravel()[:1], (AXIS,))
    program = job.program.shared_by(mesh.size)
    # A budget is one for the whole batch: what it meant there is what is counted here.
    policy = job.program.resolved(job.memory)
    work = counted(program, policy, alone)
    with planning_for("cpu"):  # no kernel there, which would compute gates again whatever is kept
        least = counted(program, Memory(), alone)
    directions = 2 if job.program.bidirectional else 1
    return work._asdict() | {
        "recompute": work.flops / least.flops, "implementation": [chosen(work)] * directions
    }  # fmt: skip


def chosen(work: counting.Work) -> str:
    """Return how a step computes its recurrences, as it was traced; directions are alike."""
    return "pallas" if work.kernels else "scan"


def main(arguments: list[str]) -> None:
    """Answer jobs, one line each, until there are no more."""
    (name,) = arguments
    for_target = target(name)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what compilers print is no answer
    devices = for_target.described()
    kind = devices[0].device_kind if for_target.platform == "tpu" else None
    with planning_for(for_target.platform, kind, len(devices)):
        for line in sys.stdin:
            try:
                answer = compile_job(Job.from_json(json.loads(line)), for_target)
            except Exception as error:  # whatever a compiler or a factory raises is for the one who asked
                answer = {"error": f"{type(error).__name__}: {error}"[:2000]}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
