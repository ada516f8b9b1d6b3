"""Sequential and ModuleDict with the part names of `torch.nn`; a ModuleList is an `nnx.List`."""

from collections.abc import Iterator, Mapping
from typing import Any

from flax import nnx

_TAKEN = {"torch_order", "deterministic", "use_running_average"}  # the last two by `train()` and `eval()`


class _Named(nnx.Module):
    """Modules as attributes that are called as in torch, in torch's order."""

    def _take(self, parts: Mapping[str, nnx.Module]) -> None:
        hidden = [name for name in parts if hasattr(type(self), name) or name in _TAKEN]
        if hidden:
            raise ValueError(
                f"a part called {hidden[0]!r} would hide an attribute of nnx.Module: rename it, in torch too"
            )
        self.torch_order = tuple(parts)
        for name, part in parts.items():
            setattr(self, name, part)

    def __len__(self) -> int:
        return len(self.torch_order)


class Sequential(_Named):
    """One module after the other, as `torch.nn.Sequential`.

    Unlike `nnx.Sequential`, it hands a tuple on as one argument, and parts may have names, `model.conv`: give the
    parts one by one, or one mapping of names to them.
    """

    def __init__(self, *parts: Any):
        named = len(parts) == 1 and isinstance(parts[0], Mapping)
        self._take(parts[0] if named else {str(number): part for number, part in enumerate(parts)})

    def __call__(self, input: Any) -> Any:
        """Return what the last part makes of what the others made of the input."""
        for part in self:
            input = part(input)
        return input

    def __getitem__(self, index: int) -> Any:
        return getattr(self, self.torch_order[index])

    def __iter__(self) -> Iterator[Any]:
        return (getattr(self, name) for name in self.torch_order)


class ModuleDict(_Named):
    """Modules by name, as `torch.nn.ModuleDict`; they are attributes too."""

    def __init__(self, parts: Mapping[str, nnx.Module]):
        self._take(parts)

    def __getitem__(self, name: str) -> Any:
        if name not in self.torch_order:
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.torch_order)

    def __contains__(self, name: object) -> bool:
        return name in self.torch_order
