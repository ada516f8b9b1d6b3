"""What a finished twin takes from its torch module by name: values, dtypes, ties, what is frozen, and the modes."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from jaxrnn.checkpoint import load_state_dict
from jaxrnn.migration.table import dtype_of
from jaxrnn.torch_names import Frozen, Parameter, entries, parts


def fill(twin: nnx.Module, module: Any) -> None:
    """Give a twin the weights, buffers, ties and modes of a module; what does not match is one error."""
    tensors = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    found = entries(twin)
    _check_ties(found, tensors)
    for entry in found:
        if entry.name in tensors and jnp.issubdtype(entry.dtype, jnp.floating):
            dtype = dtype_of(tensors[entry.name])
            entry.variable.set_value(entry.variable.get_value().astype(dtype))
    load_state_dict(twin, module.state_dict())
    _tie(found, tensors)
    _set_modes(twin, "", {name: part.training for name, part in module.named_modules(remove_duplicate=False)})


def _check_ties(found: list[Parameter], tensors: Mapping[str, Any]) -> None:
    """Raise where one tensor would have to lie in two ways."""
    first: dict[int, Parameter] = {}
    for entry in found:
        if entry.name not in tensors:
            continue
        other = first.setdefault(id(tensors[entry.name]), entry)
        if other.layout is not entry.layout:
            raise NotImplementedError(
                f"{other.name} and {entry.name} are one tied parameter in torch, but "
                f"{type(other.owner).__name__} and {type(entry.owner).__name__} keep it in different layouts, so "
                "it cannot be one here. Untie them in torch (give one of them a clone, torch.nn.Parameter("
                "weight.detach().clone())), or register a module that uses the weight in both places."
            )


def _tie(found: list[Parameter], tensors: Mapping[str, Any]) -> None:
    """Make one variable of what is one tensor in torch, and freeze what torch does not train."""
    variables: dict[int, nnx.Variable] = {}
    for entry in found:
        tensor = tensors[entry.name]
        if id(tensor) not in variables:
            frozen = isinstance(entry.variable, nnx.Param) and not tensor.requires_grad
            variables[id(tensor)] = Frozen(entry.variable.get_value()) if frozen else entry.variable
        variable = variables[id(tensor)]
        if variable is not entry.variable:
            if isinstance(entry.owner, nnx.List | list):
                entry.owner[int(entry.attribute)] = variable
            elif isinstance(entry.owner, dict):
                entry.owner[entry.attribute] = variable
            else:
                setattr(entry.owner, entry.attribute, variable)


def _set_modes(node: Any, name: str, training: Mapping[str, bool], around: bool = True) -> None:
    """Put every part into the mode of the torch module of its name, or of the one around it."""
    around = training.get(name, around)
    if isinstance(node, nnx.Module):
        for switch in ("deterministic", "use_running_average"):
            if switch in vars(node):
                setattr(node, switch, not around)
    for part, child in parts(node):
        if isinstance(child, nnx.Pytree | list | tuple | dict) and not isinstance(child, nnx.Variable):
            _set_modes(child, f"{name}.{part}" if name else str(part), training, around)
