"""How right `jaxrnn.plan` is: its memory beside that of a process that ran, its verdicts beside the TPU's compiler.

``python -m benchmarks.planned cpu 20 OUT`` plans random training steps for a CPU and runs each in a fresh process.
``python -m benchmarks.planned tpu 50 OUT`` plans random training steps for TPUs, of lengths near the limit, and
compiles each again as a user would write it, with layers and `jax.jit`, in a process that knows nothing of plans.
Both write JSON as they go.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe

SMALLEST = 200 * 2**20  # bytes of a program that is measured: what an allocator adds is small beside it
LARGEST = 600 * 2**20
GIVEN_UP = 400.0  # seconds of a compilation
NEAR = (0.8, 1.25)  # of the limit
KINDS = ("LSTM", "GRU", "RNN", "PeepholeLSTM")
POLICIES = ("gates", "carry", "h", "segments", "sqrt")
TOPOLOGIES = ("v5e", "v5e", "v5e:2x2", "v6e", "v4", "v5p", "v7x")


def draw(random: np.random.Generator, topologies: tuple[str, ...]) -> dict[str, Any]:
    """Return a random configuration, its steps still to be chosen."""

    def pick(*values: Any) -> Any:
        return values[random.integers(len(values))]

    return {
        "kind": pick(*KINDS),
        "hidden_features": int(pick(128, 192, 256, 384, 512)),
        "batch": int(pick(8, 16, 32, 64)),
        "input_features": int(pick(16, 64, 128)),
        **pick(
            *[{"layers": 1, "bidirectional": False}] * 6,
            {"layers": 2, "bidirectional": False},
            {"layers": 1, "bidirectional": True},
        ),
        "dtype": pick("float32", "bfloat16"),
        "memory": pick(*POLICIES),
        "topology": pick(*topologies),
    }


def guessed_bytes(found: dict[str, Any], steps: int) -> float:
    """Return about what a step needs, by arithmetic: what is kept, outputs and their cotangents, inputs."""
    from jaxrnn.ops.memory import Size, kept_bytes

    network = network_of(found, steps)
    size = Size(
        network.cell, steps, network.batch, network.hidden_features, 0, 2 if network.bidirectional else 1,
        network.layers, network.dtype,
    )  # fmt: skip
    around = 2 * size.directions * network.hidden_features + max(network.input_features, 128)
    width = 2 if network.dtype == "bfloat16" else 4
    return kept_bytes(network.resolved(found["memory"]), size) + steps * network.batch * width * around


def steps_for(found: dict[str, Any], wanted: float) -> int:
    """Return the steps at which the guess reaches so many bytes, a multiple of 64."""
    low, high = 64, 2**26
    while high - low > 64:
        middle = (low + high) // 2
        low, high = (middle, high) if guessed_bytes(found, middle) < wanted else (low, middle)
    return max(low // 64 * 64, 64)


# This machine's CPU ------------------------------------------------------------------------------------------


def cpu(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield configurations with what was planned, and what a process that ran them held."""
    from jaxrnn.plan.compiler import Compiler
    from jaxrnn.plan.topologies import target

    random = np.random.default_rng(seed)
    with Compiler(target("cpu")) as compiler:
        while count:
            found = draw(random, ("cpu",))
            steps = steps_for(found, float(random.uniform(1.2 * SMALLEST, 0.7 * LARGEST)))
            planned = compiler(job_of(found, steps))["device_bytes"]
            if SMALLEST <= planned <= LARGEST:
                count -= 1
                found |= {
                    "steps": steps,
                    "planned_bytes": planned,
                    "measured_bytes": _in_a_process(found, steps),
                }
                yield found | {"ratio": round(planned / found["measured_bytes"], 4)}


def run(found: dict[str, Any]) -> int:
    """Run a training step as a user writes it; return the most memory that it held, arguments included."""
    import jax

    step, arguments = users_step(found)
    compiled = jax.jit(step).lower(*arguments).compile()
    arrays = jax.block_until_ready(jax.tree.map(lambda a: jax.numpy.full(a.shape, 0.01, a.dtype), arguments))
    given = sum(array.nbytes for array in jax.tree.leaves(arrays))
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    jax.block_until_ready(compiled(*arrays))
    return _status("VmHWM") - before + given


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s*(\d+)", Path("/proc/self/status").read_text("utf-8"))
    assert found is not None
    return int(found[1]) * 1024


def _in_a_process(found: dict[str, Any], steps: int) -> int:
    command = [sys.executable, "-m", "benchmarks.planned", "run", json.dumps(found | {"steps": steps})]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout.splitlines()[-1])


# TPUs --------------------------------------------------------------------------------------------------------


def tpu(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield configurations near the limit, with the verdict of a plan and that of the compiler alone."""
    from jaxrnn.plan.compiler import Compiler, CompilerError
    from jaxrnn.plan.topologies import target

    random = np.random.default_rng(seed)
    off: dict[Any, float] = {}
    environment = os.environ | target("v5e").environment
    command = [sys.executable, "-m", "benchmarks.planned", "alone"]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    compilers = {name: Compiler(target(name), GIVEN_UP) for name in dict.fromkeys(TOPOLOGIES)}
    with subprocess.Popen(command, text=True, env=environment, **pipes) as alone:
        assert alone.stdin is not None
        assert alone.stdout is not None
        for _ in range(count):
            found = draw(random, TOPOLOGIES)
            share = float(random.uniform(0.9, 1.1))
            try:
                found |= _near_the_limit(found, compilers[found["topology"]], share, off)
            except CompilerError as error:
                yield found | {"error": str(error)}
                continue
            alone.stdin.write(json.dumps(found) + "\n")
            alone.stdin.flush()
            yield found | {"alone": json.loads(alone.stdout.readline())}
    for compiler in compilers.values():
        compiler.close()


def _near_the_limit(
    found: dict[str, Any], compiler: Any, share: float, off: dict[Any, float]
) -> dict[str, Any]:
    """Return a length that needs about this share of what there is, and what a plan says of it.

    `off` remembers how far the guess was off for configurations alike.
    """
    usable, devices, alike = (
        compiler.target.usable_bytes,
        compiler.target.devices,
        (found["memory"], found["dtype"]),
    )
    steps = steps_for(found, share * usable * devices / off.get(alike, 1.0))
    answer = compiler(job_of(found, steps))
    if not NEAR[0] <= answer["device_bytes"] / usable <= NEAR[1]:
        steps = max(int(steps * share * usable / answer["device_bytes"]) // 64 * 64, 64)
        answer = compiler(job_of(found, steps))
    needed = answer["device_bytes"]
    off[alike] = needed * devices / guessed_bytes(found, steps)
    planned = {"steps": steps, "fits": answer["fits"], "planned_bytes": needed}
    return planned | {"of_the_limit": round(needed / usable, 4)}


def compile_alone(found: dict[str, Any]) -> dict[str, Any]:
    """Compile a training step as a user writes it, without plans; return what the compiler said."""
    import jax
    from jax.experimental import topologies
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from jaxrnn.ops.planning import planning_for

    names = {"v4": "v4:1x1x1", "v5e": "v5e:1x1", "v5p": "v5p:1x1x1", "v6e": "v6e:1x1", "v7x": "tpu7x:1x1x1"}
    options = {"chip_config_name": "megacore"} if found["topology"] == "v4" else {}
    name = names.get(found["topology"], found["topology"])
    devices: Any = topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    mesh = Mesh(np.array(devices), ("rows",))
    step, (params, x) = users_step(found)
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=everywhere), params)
    x = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, PartitionSpec(None, "rows")))
    try:
        with planning_for("tpu", devices[0].device_kind, len(devices)):
            needs: Any = jax.jit(step).lower(params, x).compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            return {"compiled": False}
        return {"error": str(error)[:500]}
    return {"compiled": True, "bytes": needs.temp_size_in_bytes + needs.argument_size_in_bytes}


def alone() -> None:
    """Answer configurations on standard input, a line each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the compiler prints is no answer
    for line in sys.stdin:
        answers.write(json.dumps(compile_alone(json.loads(line))) + "\n")
        answers.flush()


# Both --------------------------------------------------------------------------------------------------------


def job_of(found: dict[str, Any], steps: int) -> Any:
    """Return what a plan compiles for a configuration."""
    from jaxrnn.plan.compiler import Job

    return Job(network_of(found, steps), found["memory"])


def network_of(found: dict[str, Any], steps: int) -> Any:
    """Return a configuration as a plan knows it."""
    from jaxrnn.plan.programs import Network

    names = {field.name for field in dataclasses.fields(Network)} - {"steps"}
    return Network(steps=steps, **{name: value for name, value in found.items() if name in names})


def users_step(found: dict[str, Any]) -> tuple[Any, Any]:
    """Return a training step of a layer, written without plans, and its arguments: weights and abstract inputs."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    import jaxrnn

    layer = getattr(jaxrnn, found["kind"])(
        found["input_features"], found["hidden_features"], found["layers"],
        bidirectional=found["bidirectional"], dtype=jnp.dtype(found["dtype"]), memory=found["memory"],
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    graph, params = nnx.split(layer)

    def loss(params: Any, x: jax.Array) -> jax.Array:
        output, _ = nnx.merge(graph, params)(x)
        return (output.astype(jnp.float32) ** 2).mean()

    shape = found["steps"], found["batch"], found["input_features"]
    return jax.value_and_grad(loss), (params, jax.ShapeDtypeStruct(shape, jnp.dtype(found["dtype"])))


def main(arguments: list[str]) -> None:
    """See the module."""
    what, *rest = arguments
    if what == "run":
        print(run(json.loads(rest[0])))
        return
    if what == "alone":
        alone()
        return
    count, out, *seed = rest
    records: list[dict[str, Any]] = []
    for record in {"cpu": cpu, "tpu": tpu}[what](int(count), int(seed[0]) if seed else 0):
        records.append(record)
        document = {"machine": describe(), "what": what, "records": records}
        Path(out).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(record), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
