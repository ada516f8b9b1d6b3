"""Weights by PyTorch's names: out of any Flax NNX module, into it, and to and from files.

`jaxrnn.torch_names` says what a parameter is called in torch, `jaxrnn.checkpoint_files` what a file looks like.
"""

import difflib
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxrnn.checkpoint_files import as_numpy, read, write
from jaxrnn.torch_names import Parameter, entries, parameters, quoted


class IncompatibleKeys(NamedTuple):
    """The names that `load_state_dict(..., strict=False)` could not match, as torch reports them."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def state_dict(module: nnx.Pytree) -> dict[str, np.ndarray]:
    """Return the parameters and buffers of a module by torch's names, as NumPy copies in torch's layout.

    The order is torch's: a module's own parameters, then those of its parts, each as it was set in
    ``__init__``. (Flax sorts the attributes of a module by name in `nnx.jit`, `nnx.clone` and `nnx.merge`;
    the order within recurrent layers and Flax's own modules survives that.) A tied parameter is listed under
    each of its names. What is neither an `nnx.Param` nor, in `jaxrnn.torch_names`, `Frozen` or a `Buffer`, such
    as random streams, is left out.

    Raises NotImplementedError for a kind of module whose names or layout would be wrong in torch.
    """
    return {parameter.name: parameter.value() for parameter in entries(module)}


def save(module: nnx.Pytree, path: str | os.PathLike[str]) -> None:
    """Write the `state_dict` of a module to a .safetensors, .npz, .pt or .pth file, whole or not at all."""
    write(state_dict(module), path)


def load_state_dict(
    module: nnx.Pytree,
    source: Mapping[str, Any] | str | os.PathLike[str],
    strict: bool = True,
    *,
    key: str | None = None,
) -> IncompatibleKeys:
    """Copy parameters and buffers into a module by torch's names; everything or, on an error, nothing.

    `source` maps names to NumPy arrays, JAX arrays or torch tensors, or is the path of a file for `read`; if that
    holds more than a state dict, `key` says which entry is one, "model_state" or "ema.model".
    Values are cast to the dtype of the module's parameter, as torch does; a value that is not floating point
    is refused where the parameter is. With ``strict=False`` names without a partner are returned and left
    alone; wrong shapes are an error all the same.

    Raises RuntimeError, in torch's words, naming everything that does not fit and what may have happened.
    """
    if key is not None:
        if not isinstance(source, str | os.PathLike):
            raise TypeError(f"key={key!r} names an entry of a file; of a mapping, pass that entry.")
        source = read(source, key)
    return _load(module, entries(module), source, strict)


def load_parameters(module: nnx.Pytree, source: Mapping[str, Any] | str | os.PathLike[str]) -> None:
    """Copy what is trained into a module by torch's names, strictly, and leave the rest of its state alone."""
    _load(module, parameters(module), source, strict=True)


def _load(module: nnx.Pytree, ours: list[Parameter], source: Any, strict: bool) -> IncompatibleKeys:
    checkpoint = _as_checkpoint(source)
    names = [parameter.name for parameter in ours]
    missing = [name for name in names if name not in checkpoint]
    unexpected = [name for name in checkpoint if name not in names]
    fitted, problems = _fit(ours, checkpoint)
    if strict and unexpected:
        problems.insert(0, f"Unexpected key(s) in state_dict: {quoted(unexpected)}. ")
    if strict and missing:
        problems.insert(0, f"Missing key(s) in state_dict: {quoted(missing)}. ")
    if problems:
        text = f"Error(s) in loading state_dict for {type(module).__name__}:\n\t" + "\n\t".join(problems)
        remedies = _remedies(names, list(checkpoint), missing, unexpected) if strict else []
        raise RuntimeError("\nTo do: ".join([text, *remedies]))
    arrays = [parameter.placed(value) for parameter, value in fitted]
    for (parameter, _), array in zip(fitted, arrays, strict=True):
        parameter.variable.set_value(array)
    return IncompatibleKeys(missing, unexpected)


# What a checkpoint may hold, and what may be wrong with it


def _as_checkpoint(source: Any) -> Mapping[str, Any]:
    if isinstance(source, str | os.PathLike):
        return read(source)
    if not isinstance(source, Mapping):
        raise TypeError(f"Expected a mapping of names to arrays or a path, got {type(source).__name__}.")
    nested = [str(name) for name, value in source.items() if isinstance(value, Mapping)]
    if nested:
        raise TypeError(
            f"The checkpoint is nested: pass one of its entries {quoted(nested)}, the state dict."
        )
    return source


def _fit(
    ours: list[Parameter], checkpoint: Mapping[str, Any]
) -> tuple[list[tuple[Parameter, np.ndarray]], list[str]]:
    """Return the parameters found in the checkpoint with their values, and what is wrong with the others."""
    fitted: list[tuple[Parameter, np.ndarray]] = []
    problems: list[str] = []
    for parameter in ours:
        if parameter.name in checkpoint:
            try:
                fitted.append((parameter, _fitting(parameter, checkpoint[parameter.name])))
            except ValueError as error:
                problems.append(str(error))
    first: dict[int, tuple[str, np.ndarray]] = {}
    for parameter, value in fitted:
        name, other = first.setdefault(id(parameter.variable), (parameter.name, value))
        if other is not value and other.tobytes() != value.tobytes():
            problems.append(f"{name} and {parameter.name} are one tied parameter, but their values differ.")
    return fitted, problems


def _fitting(parameter: Parameter, source: Any) -> np.ndarray:
    value = as_numpy(source)
    name, dtype = parameter.name, parameter.dtype
    if value is None:
        raise ValueError(
            f'While copying the parameter named "{name}", expected torch.Tensor or Tensor-like object from '
            f"checkpoint but received {type(source)}"
        )
    if value.shape != parameter.shape:
        raise ValueError(
            f"size mismatch for {name}: copying a param with shape torch.Size({list(value.shape)}) from "
            f"checkpoint, the shape in current model is torch.Size({list(parameter.shape)})."
        )
    kinds = (jnp.floating, jnp.complexfloating, jnp.integer, jnp.bool_)
    if any(jnp.issubdtype(dtype, kind) != jnp.issubdtype(value.dtype, kind) for kind in kinds):
        raise ValueError(
            f"dtype mismatch for {name}: {value.dtype} does not become {dtype}; convert it first."
        )
    if jnp.issubdtype(dtype, jnp.integer) and np.any(value.astype(dtype) != value):
        raise ValueError(f"{name}: the values do not fit into {dtype}.")
    return value


# A part of a name, and what to construct where only the model has it, and where only the checkpoint has it.
_ARGUMENTS = {
    "_reverse": ("bidirectional=False", "bidirectional=True"),
    "weight_hr": ("proj_size=0", "the proj_size of the checkpoint"),
    "weight_ch": ("an LSTM, not a PeepholeLSTM", "a PeepholeLSTM, not an LSTM"),
    "bias": ("bias=False", "bias=True"),
}


def _remedies(ours: list[str], theirs: list[str], missing: list[str], unexpected: list[str]) -> list[str]:
    """Guess from the names what to do: strip a prefix, change a constructor argument, rename."""
    if prefix := _only_prefix(theirs, ours):
        return [
            f"every name in the checkpoint starts with {prefix!r}: strip it, name.removeprefix({prefix!r})."
        ]
    if prefix := _only_prefix(ours, theirs):
        return [f"the checkpoint is of the model's {prefix[:-1]!r} alone: load it into that part."]
    advice = [
        f"{name!r} may be {close!r} in the checkpoint."
        for name in missing[:5]
        for close in difflib.get_close_matches(name, unexpected, n=1)
    ]
    if not {*ours} & {*theirs}:
        return advice
    for part, (only_ours, only_theirs) in _ARGUMENTS.items():
        here, there = (any(part in name for name in names) for names in (ours, theirs))
        if here != there:
            advice.append(
                f"to match the checkpoint, construct the model with {only_ours if here else only_theirs}."
            )
    if _layers(ours) != _layers(theirs):
        advice.append(f"to match the checkpoint, construct the model with num_layers={_layers(theirs)}.")
    return advice


def _only_prefix(names: list[str], others: list[str]) -> str:
    """Return "first." when every name starts with it and some other would match without it, else ""."""
    prefix = names[0].partition(".")[0] + "." if names else ""
    alike = all(name.startswith(prefix) for name in names)
    return prefix if alike and {name.removeprefix(prefix) for name in names} & {*others} else ""


def _layers(names: list[str]) -> int:
    return 1 + max((int(layer) for name in names for layer in re.findall(r"_ih_l(\d+)", name)), default=-1)
