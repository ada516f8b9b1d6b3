"""Where a run takes place: versions, precisions, devices, threads; read back, never assumed."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "jaxrnn")
# Settings that change numbers behind a program's back.
VARIABLES = ("XLA_FLAGS", "JAX_DEFAULT_MATMUL_PRECISION", "NVIDIA_TF32_OVERRIDE", "JAX_PLATFORMS")

# What a product of float32 arrays is unless a program asks for more, where it is less than float32.
_DEFAULTS = {"tpu": "default: one pass in bfloat16", "gpu": "default: TF32"}


def environment() -> dict[str, str]:
    """Return names and values. What is not loaded is described by its version only: nothing is imported."""
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    found |= {name: _version(name) for name in PACKAGES}
    if "jax" in sys.modules:
        found |= _jax()
    if "torch" in sys.modules:
        found |= _torch()
    return found | {name: os.environ[name] for name in VARIABLES if name in os.environ}


def one_line(found: dict[str, str]) -> str:
    """Return the part of the environment that decides about numbers."""
    wanted = (
        "jax",
        "jax device",
        "x64",
        "matmul precision",
        "matmul precision outside",
        "flax",
        "torch",
        "torch threads",
        "numpy",
        "python",
    )
    return " | ".join(f"{name} {found[name]}" for name in wanted if name in found)


def _jax() -> dict[str, str]:
    import jax

    device = jax.devices()[0]
    outside = jax.config.jax_default_matmul_precision or "default"  # type: ignore[attr-defined]
    return {
        "jax device": f"{device.platform} ({device.device_kind})",
        "x64": "on" if jax.config.jax_enable_x64 else "off (on in the float64 runs)",  # type: ignore[attr-defined]
        "matmul precision": "highest (pinned)",
        "matmul precision outside": _DEFAULTS[device.platform]
        if outside == "default" and device.platform in _DEFAULTS
        else outside,
    }


def _torch() -> dict[str, str]:
    import torch

    return {
        "torch threads": str(torch.get_num_threads()),
        "torch cudnn rnn precision": torch.backends.cudnn.rnn.fp32_precision,  # type: ignore[attr-defined]
        "torch cuda matmul precision": torch.backends.cuda.matmul.fp32_precision,
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
