"""What a module that can be built holds: which options its recurrent layers have, and where its classes are."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax import nnx

from jaxrnn.doctor.program import Facts
from jaxrnn.doctor.values import RECURRENT
from jaxrnn.plan.programs import load
from jaxrnn.source import check_exists

OPTIONS = ("num_layers", "batch_first", "dropout", "bidirectional")
_FRAMEWORKS = frozenset(("torch", "jaxrnn", "flax", "torch_ref"))


@dataclass(frozen=True)
class Built:
    """What was learned of a module: the files of its classes, and the options of its recurrent layers."""

    files: tuple[Path, ...]
    facts: Facts


def build(name: str) -> Built:
    """Build the module that ``package.module:factory`` or ``file.py:factory`` returns, and look at it.

    Raises FileNotFoundError for a file that is not there, ValueError for what cannot be imported or called, and
    TypeError for what returns no module.
    """
    factory = _factory(name)
    try:
        module = factory()
    except Exception as error:  # whatever a factory raises is for the one who wrote it
        raise ValueError(
            f"{name}(): {type(error).__name__}: {error}. Name a function without arguments that returns the module."
        ) from error
    holders = list(_modules(name, module))
    return Built(_files(name, factory, holders), _facts(holders))


def _factory(name: str) -> Any:
    module, _, attribute = name.rpartition(":")
    if module.endswith((".py", ".ipynb")):
        check_exists(Path(module))
    if module.endswith(".ipynb"):
        raise ValueError(f"{name}: a notebook is read as a whole, and nothing of it is built. Name {module}.")
    try:
        return load(name)
    except Exception as error:  # whatever the user's module raises
        raise ValueError(f"{name}: {_why_not(module, attribute, error)}.") from error


def _why_not(module: str, attribute: str, error: Exception) -> str:
    """Return why a factory could not be loaded, and what to do."""
    loaded = sys.modules.get(Path(module).stem if module.endswith(".py") else module)
    if isinstance(error, AttributeError) and loaded is not None and error.obj is loaded:
        names = [each for each, value in vars(loaded).items() if _may_build(value, loaded.__name__)]
        return f"there is no {attribute!r} in {module}; at its top are {names}"
    if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
        return f"there is no module {error.name!r}; run from the folder of its package, or give a path"
    shown = f"{type(error).__name__}: {error}"
    return f"cannot be imported ({shown}); see that it can, and run from the folder of its package"


def _may_build(value: Any, module: str) -> bool:
    """Tell a function, or a class of modules, that a module has of its own."""
    if getattr(value, "__module__", None) != module:
        return False
    return inspect.isfunction(value) or (
        inspect.isclass(value) and (hasattr(value, "named_modules") or issubclass(value, nnx.Module))
    )


def _modules(name: str, module: Any) -> Iterator[Any]:
    if callable(getattr(module, "named_modules", None)):
        yield from (each for _, each in module.named_modules())
    elif isinstance(module, nnx.Module):
        yield from (each for _, each in nnx.iter_modules(module))
    else:
        raise TypeError(
            f"{name}() returned a {type(module).__name__}; expected a torch.nn.Module or an nnx.Module."
        )


def _files(name: str, factory: Any, holders: list[Any]) -> tuple[Path, ...]:
    """Return the file of the factory and those of the modules' classes, without the frameworks' own."""
    module = name.rpartition(":")[0]
    files = [Path(module)] if module.endswith(".py") else []
    for each in (factory, *map(type, holders)):
        owner = getattr(each, "__module__", None) or ""
        found = getattr(sys.modules.get(owner), "__file__", None)
        if owner.partition(".")[0] not in _FRAMEWORKS and found and not inspect.isbuiltin(each):
            files.append(Path(found))
    return tuple({path.resolve(): path for path in reversed(files)}.values())[::-1]


def _facts(holders: list[Any]) -> Facts:
    """Return {(class, attribute): options} of recurrent layers; what two objects disagree on is left out."""
    found: Facts = {}
    for holder in holders:
        children = dict(holder.named_children()) if hasattr(holder, "named_children") else vars(holder)
        for attribute, child in children.items():
            kind = _kind(child)
            if kind is None:
                continue
            options = {"class": kind} | {option: getattr(child, option) for option in OPTIONS}
            key = (type(holder).__name__, attribute)
            agreed = found.get(key, options).items()
            found[key] = {option: value for option, value in agreed if options.get(option) == value}
    return {key: options for key, options in found.items() if "class" in options}


def _kind(child: Any) -> str | None:
    """Return the name by which the rules know a recurrent layer, also one of a subclass."""
    for cls in type(child).__mro__:
        package = cls.__module__.partition(".")[0]
        if cls.__name__ in RECURRENT and package in ("torch", "jaxrnn", "torch_ref"):
            return f"{'torch.nn' if package == 'torch' else package}.{cls.__name__}"
    return None
