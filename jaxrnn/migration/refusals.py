"""What a torch module may have been given that nothing here could do: it is refused, never ignored.

Modules of torch are looked at from outside: their classes are known by name, and torch is not imported.
"""

import inspect
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp

_HOOKS = {
    "_forward_hooks": "forward hooks",
    "_forward_pre_hooks": "forward pre-hooks",
    "_backward_hooks": "backward hooks",
    "_backward_pre_hooks": "backward pre-hooks",
}
# Modules around another one, and where that is.
_WRAPPERS = {
    "torch._dynamo.eval_frame.OptimizedModule": "pass what it compiles, module._orig_mod",
    "torch.jit._script.RecursiveScriptModule": "pass the module that it was scripted from",
    "torch.jit._trace.TopLevelTracedModule": "pass the module that was traced",
    "torch.nn.parallel.data_parallel.DataParallel": "pass what it spreads, module.module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "pass what it spreads, module.module",
}
# What a subclass may change without computing anything else.
_HARMLESS = {"reset_parameters", "extra_repr"}
_DECISIVE = {"__call__", "__getattr__", "__getattribute__"}


def name_of(kind: type) -> str:
    """Return the qualified name of a class, "torch.nn.modules.rnn.LSTM"."""
    return f"{kind.__module__}.{kind.__qualname__}"


def is_module(value: Any) -> bool:
    """Return whether a value is a module of torch."""
    return "torch.nn.modules.module.Module" in map(name_of, type(value).__mro__)


def known_as(kind: type, known: Any) -> str | None:
    """Return the name in `known` of a class or of its base, if it computes what that base computes, or None.

    A subclass may have a constructor and methods of its own, but none in the place of one that the base has.
    """
    for position, base in enumerate(kind.__mro__):
        if name_of(base) in known:
            before = kind.__mro__[:position]
            own = {name for each in before for name in vars(each)}
            changed = [name for name in own if hasattr(base, name) or name in _annotations(base)]
            return None if any(map(_decides, changed)) else name_of(base)
    return None


def _annotations(kind: type) -> set[str]:
    """Return the names that a class promises its instances, "weight" for a Linear."""
    return {name for base in kind.__mro__ for name in inspect.get_annotations(base)}


def _decides(name: str) -> bool:
    special = name.startswith("__") and name.endswith("__")
    return name in _DECISIVE if special else name not in _HARMLESS


def refused_features(module: Any) -> Iterator[str]:
    """Yield, with the remedy, what a module of torch has on it that would be lost. Its parts are not looked at."""
    for attribute, words in _HOOKS.items():
        if getattr(module, attribute, None):
            yield (
                f"has {words}, which would not run (weight_norm, spectral_norm and pruning of torch.nn.utils are "
                "such): remove them first, by remove_weight_norm and the like or by the handle's remove()"
            )
    if "parametrizations" in module._modules:
        yield (
            "is parametrized: call torch.nn.utils.parametrize.remove_parametrizations(module, name) first, which "
            "leaves the weight that it computes"
        )
    if wrapper := _WRAPPERS.get(name_of(type(module))):
        yield f"is a wrapper: {wrapper}"
    elif "forward" in vars(module):
        yield "has a forward set on the instance: write a class with this forward, and register it"
    tensors = {**module._parameters, **module._buffers}
    for name, tensor in tensors.items():
        if tensor is not None:
            yield from (f"{name} {why}" for why in _refused_tensor(tensor))


def _refused_tensor(tensor: Any) -> Iterator[str]:
    if getattr(tensor, "_backward_hooks", None):
        yield "has gradient hooks, which would not run: remove them first"
    if tensor.device.type == "meta":
        yield "is on the meta device and has no values: load them first"
    if str(tensor.dtype) == "torch.float64" and not _has_float64():
        yield (
            "is float64, which JAX has only with 64 bits: call jax.config.update('jax_enable_x64', True), or "
            "convert the module with float()"
        )


def _has_float64() -> bool:
    return jnp.asarray(0.0).dtype == jnp.float64
