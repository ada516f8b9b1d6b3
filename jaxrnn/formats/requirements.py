"""Packages that only some formats need: imported late, and asked for by name where they are missing."""

import importlib
from types import ModuleType


def needed(package: str) -> ModuleType:
    """Return a package, or raise an error that says what to install."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        extra = "peers" if package == "equinox" else "formats"
        raise ModuleNotFoundError(
            f"this needs the package {package}: pip install 'jaxrnn[{extra}]'.", name=package
        ) from error
