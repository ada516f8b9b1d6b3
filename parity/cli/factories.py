"""Factories by name, `package.module:name` or `FILE.py:name`: imported, or refused in plain words.

Neither framework is needed: a reference is captured where there is no JAX, a candidate where there is no torch.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import click

LISTED = 20  # names of a module, where one is asked for that it does not have


def load_factory(option: str, spec: str) -> Callable[..., Any]:
    """Import what `package.module:factory` or `FILE.py:factory` names.

    A module is looked for in the current folder first, as by `python -m`; what a file imports, beside it.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise click.UsageError(f"{option} {spec}: write it as package.module:factory or as FILE.py:factory.")
    if place.endswith(".ipynb"):
        raise click.UsageError(
            f"{option} {spec}: a notebook is not imported, as all of its cells would run; put the class "
            "into a .py file."
        )
    try:
        module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    except _NotFoundError as error:
        raise click.UsageError(f"{option} {spec}: {error}") from error
    except Exception as error:  # whatever a user's module raises
        raise click.UsageError(f"{option} {spec}: cannot be imported: {_in_words(error)}") from error
    try:
        factory = getattr(module, name)
    except AttributeError as error:
        raise click.UsageError(
            f"{option} {spec}: {place} has no {name!r}. {_offered(module, name)}"
        ) from error
    if not callable(factory):
        raise click.UsageError(f"{option} {spec}: {name} is a {type(factory).__name__}, not a factory.")
    return factory


def load_model(option: str, spec: str) -> Callable[[], Any]:
    """Import a factory of models; one that needs `rngs` and nothing else is given `nnx.Rngs(0)`."""
    factory = load_factory(option, spec)
    needed = _needed(factory)
    if needed == ["rngs"]:
        return lambda: factory(rngs=_rngs())
    if needed:
        role, name = option.lstrip("-"), spec.rpartition(":")[2]
        given = ", ".join(f"{each}=nnx.Rngs(0)" if each == "rngs" else f"{each}=..." for each in needed)
        raise click.UsageError(
            f"{option} {spec}: {name} needs {', '.join(needed)}. Name a factory that takes no arguments, such as\n"
            f"    def {role}(): return {name}({given})\n"
            f"    {option} FILE.py:{role}"
        )
    return factory


def _needed(factory: Callable[..., Any]) -> list[str]:
    """Return the arguments without which a function or a class cannot be called."""
    is_class = isinstance(factory, type)
    try:  # the metaclass of flax's modules hides the signature of the class, but not of its __init__
        signature = inspect.signature(factory.__init__ if is_class else factory)
    except (TypeError, ValueError):
        return []  # it is known to C alone; the call will say what it needs
    parameters = list(signature.parameters.values())[1 if is_class else 0 :]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is each.empty and each.kind not in variadic]


def _rngs() -> Any:
    from flax import nnx

    return nnx.Rngs(0)


# Modules and files ----------------------------------------------------------------------------------------


class _NotFoundError(Exception):
    """There is no such module or file; the message says what to write instead."""


def _import_module(name: str) -> ModuleType:
    _search_first(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # it is there, and imports another that is not
        raise _NotFoundError(
            f"there is no module {error.name!r} in {os.getcwd()} or among what is installed; "
            "a file is named by its path, as FILE.py:NAME."
        ) from error


def _import_file(path: Path) -> ModuleType:
    """Import a file, once, with its folder in front, as `python FILE.py` does."""
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [each.name for each in path.parent.glob("*.py")])
        hint = f"did you mean {', '.join(near)}?" if near else "give its path from the current folder."
        raise _NotFoundError(f"there is no file {path.absolute()}; {hint}")
    path = path.resolve()
    name = path.stem
    if name in sys.modules and not _is_from(path, sys.modules[name]):
        name = str(path.with_suffix(""))  # another file or package already has the short name
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None  # of every .py file
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    _search_first(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_from(path: Path, module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve() == path


def _search_first(folder: str) -> None:
    """Let modules be found in a folder before all others, also by what a factory imports when it is called."""
    if folder in sys.path:
        sys.path.remove(folder)
    sys.path.insert(0, folder)


def _offered(module: ModuleType, name: str) -> str:
    """Say which public classes and functions a module has, those first that are called nearly so."""
    public = {
        each: value
        for each, value in vars(module).items()
        if not each.startswith("_")
        and f"{getattr(value, '__module__', None)}.".startswith(f"{module.__name__}.")
    }
    classes = [each for each, value in public.items() if isinstance(value, type)]
    functions = [each for each, value in public.items() if inspect.isroutine(value)]
    kinds = [
        f"the {kind} {', '.join(found[:LISTED])}" + ", ..." * (len(found) > LISTED)
        for kind, found in (("classes", classes), ("functions", functions))
        if found
    ]
    near = difflib.get_close_matches(name, [*classes, *functions])
    hint = f"Did you mean {', '.join(near)}? " if near else ""
    return f"{hint}It has {' and '.join(kinds)}." if kinds else "It has no public class or function."


def _in_words(error: Exception) -> str:
    """Put what a module raised into words, with the line in a file that raised it."""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if os.path.isfile(each.filename)]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames[1:] else ""
    inside = (
        "; a file of a package is named as package.module:NAME" if "relative import" in str(error) else ""
    )
    return f"{type(error).__name__}: {error}{place}{inside}."
