"""What can be planned for: chips, what is published of them, and how their compilers are asked.

Peaks (dense, bfloat16) and bandwidths are those of Google's and NVIDIA's own pages:

* TPUs: https://cloud.google.com/tpu/docs/v4, v5e, v5p, v6e and tpu7x, tables "key chip specifications";
* H100 SXM: https://www.nvidia.com/en-us/data-center/h100, without sparsity; TensorFloat32 has half of bfloat16's.

`usable_bytes` of a TPU is what its compiler grants a program (libtpu 0.0.52): it refuses what needs more, and says
so, "exceeds available HBM (15.75G)". `on_chip_bytes` is what can stay beside the units that multiply: VMEM of a TPU
(`jax._src.tpu_info`), L2 of an H100.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIB = 2**30
MIB = 2**20

# An H100 SXM as XLA asks for it: sizes from NVIDIA's data sheet and the CUDA programming guide (compute
# capability 9.0).
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  memory_bandwidth: 3352000000000 l2_cache_size: 52428800 device_memory_size: 84929347584
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
_H100_BYTES = 84929347584
# libtpu asks for the machine that it is not on, and keeps others from a device that it does not use.
LIBTPU = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
# Without a device nothing can be tuned; Triton's products have no choice that XLA takes untuned for every shape.
CUDA = {"XLA_FLAGS": "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"}


@dataclass(frozen=True)
class Chip:
    """A chip as its maker describes it. A device of JAX is one of `cores` equal parts of it."""

    name: str
    usable_bytes: int  # of a device
    peak_flops: float  # of the chip, per second, bfloat16
    bandwidth: float  # of the chip's memory, bytes per second
    on_chip_bytes: int  # of a device
    compiler: str  # the name libtpu knows it by
    dimensions: int = 2  # of a slice
    cores: int = 1
    clock: float = 0.0  # cycles per second, as libtpu's static profile counts them
    options: tuple[tuple[str, str], ...] = ()

    @property
    def one(self) -> str:
        """The slice of one chip."""
        return "x".join(["1"] * self.dimensions)


_MEGACORE = (("chip_config_name", "megacore"),)  # both cores of a v4 are one device, as on Cloud TPUs
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", int(30.75 * GIB), 275e12, 1228e9, 32 * MIB, "v4", 3, clock=1.05e9, options=_MEGACORE),
        Chip("v5e", int(15.75 * GIB), 197e12, 819e9, 128 * MIB, "v5e", clock=1.5e9),
        Chip("v5p", int(95.73 * GIB), 459e12, 2765e9, 128 * MIB, "v5p", 3, clock=1.75e9),
        Chip("v6e", int(31.24 * GIB), 918e12, 1638e9, 128 * MIB, "v6e", clock=1.75e9),
        Chip("v7x", int(94.74 * GIB), 2307e12, 7380e9, 64 * MIB, "tpu7x", 3, cores=2, clock=2.0e9),
    )
}
_SLICE = re.compile(r"\d+(x\d+)*")
INSTALL = {
    "tpu": "libtpu, the compiler for TPUs, is not installed (no TPU is needed): pip install 'jaxrnn[aot]'",
    "gpu": "the CUDA plug-in, the compiler for GPUs, is not installed (no GPU is needed): "
    "pip install 'jaxrnn[aot]'",
}


PACKAGES = {"tpu": ("libtpu",), "gpu": ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12"), "cpu": ("jax",)}


class MissingCompilerError(RuntimeError):
    """The compiler for a topology is not installed."""


@dataclass(frozen=True)
class Target:
    """Devices to compile for: a slice of TPUs, an H100, or this machine's CPU."""

    name: str
    platform: str  # as the planner of unrolls knows it: "tpu", "gpu" or "cpu"
    devices: int
    usable_bytes: int  # of a device
    usable_is: str  # what the limit is
    peak_flops: float | None = None  # of a device, per second; None: nobody published it
    bandwidth: float | None = None
    on_chip_bytes: int = 0
    chip: Chip | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What the compiling process's environment must hold before JAX starts there."""
        flags = {"tpu": LIBTPU, "gpu": CUDA, "cpu": {}}[self.platform]
        if "XLA_FLAGS" in flags and os.environ.get("XLA_FLAGS"):
            flags = flags | {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {flags['XLA_FLAGS']}"}
        return {"JAX_PLATFORMS": "cpu", **flags}

    def peak(self, dtype: str) -> float | None:
        """Return the peak of products in a dtype: float32 is bfloat16 on a TPU, TensorFloat32 on an H100."""
        if self.peak_flops is None or self.platform == "tpu" or dtype != "float32":
            return self.peak_flops
        return self.peak_flops / 2

    def check_compiler(self) -> None:
        """Raise `MissingCompilerError`, with the remedy, where the package that compiles is not installed."""
        if not any(map(_is_installed, PACKAGES[self.platform])):
            raise MissingCompilerError(f"{self.name}: {INSTALL[self.platform]}")

    def described(self) -> list[Any]:
        """Return the devices to compile for, described to this process's JAX; none is initialised."""
        if self.platform == "cpu":
            import jax

            return jax.devices("cpu")[:1]
        from jax.experimental import topologies

        if self.chip is None:
            options: dict[str, Any] = {"platform": "cuda", "target_config": H100, "topology": "1x1x1"}
        else:
            name = f"{self.chip.compiler}:{self.name.partition(':')[2]}"
            options = {"platform": "tpu", "topology_name": name, **dict(self.chip.options)}
        return topologies.get_topology_desc(**options).devices


def target(name: str) -> Target:
    """Return what a name like "v5e", "v5e:4x4", "h100" or "cpu" means; a chip alone is a slice of one."""
    if name == "cpu":
        return Target("cpu", "cpu", 1, machine_bytes(), "this machine's memory")
    if name == "h100":
        share = float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", 0.75))
        return Target(
            "h100", "gpu", 1, int(share * _H100_BYTES), f"{share:.0%} of the device, which JAX takes",
            989.4e12, 3352e9, 50 * MIB,
        )  # fmt: skip
    kind, _, shape = name.partition(":")
    if kind not in CHIPS:
        raise ValueError(_unknown(name, kind))
    chip = CHIPS[kind]
    sides = [int(side) for side in shape.split("x")] if _SLICE.fullmatch(shape) else []
    if shape and (len(sides) != chip.dimensions or 0 in sides):
        raise ValueError(
            f"topology={name!r}: slices of {kind} have {chip.dimensions} sides, for instance "
            f"{kind}:{'x'.join(['2'] * 2 + ['1'] * (chip.dimensions - 2))}; {kind} alone is one chip."
        )
    chips = 1
    for side in sides:
        chips *= side
    return Target(
        f"{kind}:{shape or chip.one}", "tpu", chips * chip.cores, chip.usable_bytes, "what its compiler grants",
        chip.peak_flops / chip.cores, chip.bandwidth / chip.cores, chip.on_chip_bytes, chip,
    )  # fmt: skip


def _unknown(name: str, kind: str) -> str:
    known = [*CHIPS, "h100", "cpu"]
    near = difflib.get_close_matches(kind, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return (
        f"topology={name!r} is not known.{hint} There are {', '.join(known)}, and slices of TPUs such as v5e:4x4 "
        "and v5p:2x2x1."
    )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor is its package
        return False


def machine_bytes() -> int:
    """Return the memory that a process here may use: the machine's, or what its control group allows."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [pages]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text("utf-8").strip()
        except OSError:
            continue
        if text.isdigit():
            limits.append(int(text))
    return min(limits)
