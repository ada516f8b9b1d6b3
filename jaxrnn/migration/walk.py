"""`from_torch`: a tree of torch's modules becomes one of Flax's, part by part, with all its weights."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from flax import nnx

from jaxrnn.migration.refusals import is_module, known_as, name_of, refused_features
from jaxrnn.migration.table import Tools
from jaxrnn.migration.transformers import TABLE
from jaxrnn.migration.weights import fill

Convert: TypeAlias = Callable[[Any], nnx.Module]
Registered: TypeAlias = Callable[[Any, Convert], nnx.Module]


def from_torch(
    module: Any, *, register: Mapping[type, Registered] | None = None, rngs: nnx.Rngs | None = None
) -> Any:
    """Return the twin of a torch module: a tree of NNX modules that computes the same, with the same weights::

        twin = jaxrnn.from_torch(torch.nn.Sequential(torch.nn.Conv1d(3, 8, 5), torch.nn.ReLU()))

    Parts have torch's names, so `jaxrnn.state_dict(twin)` is torch's, bit for bit, with its dtypes and the
    buffers; each part is in the mode, training or evaluation, that it has in torch. A module used in two places
    is one module here, a tied parameter one variable. A parameter that does not require a gradient becomes a
    `jaxrnn.torch_names.Frozen`, which is no `nnx.Param`. torch itself is not needed to use the twin.

    * `register`: what to do with classes of one's own, ``{TheirClass: function}``. ``function(module, convert)``
      returns an `nnx.Module`; ``convert(part)`` converts a part of the module. For a class that `jaxrnn port` has
      written, ``{TheirClass: lambda module, convert: Ported(..., rngs=nnx.Rngs(0))}``. What is returned needs the
      parameters of the torch module by torch's names, then their values are copied, and a
      `jaxrnn.torch_names.Buffer` for each buffer. A subclass of a class that is known is another class as soon as
      it has a `forward` of its own.
    * `rngs`: whose "dropout" stream draws the masks; needed where something drops.

    Raises NotImplementedError that lists every part that is not known, and every part that does what cannot be
    done here, with the remedies.
    """
    if not is_module(module):
        raise TypeError(
            f"from_torch converts a torch.nn.Module, got {type(module).__name__}. For a state dict, construct "
            "the model and call jaxrnn.load_state_dict."
        )
    conversion = _Conversion(module, _checked(register), rngs)
    twin = conversion.convert(module)
    conversion.raise_problems()
    try:
        fill(twin, module)
    except RuntimeError as error:
        if register:
            error.add_note(
                "What a registered function returns needs an nnx.Param by torch's name for each parameter, and a "
                "jaxrnn.torch_names.Buffer for each buffer."
            )
        raise
    return twin


def _checked(register: Any) -> Mapping[type, Registered]:
    wrong = [key for key, made in (register or {}).items() if not (isinstance(key, type) and callable(made))]
    if wrong:
        raise TypeError(
            f"register maps classes to functions(module, convert); that of {wrong[0]!r} is not such a pair."
        )
    return register or {}


class _Placeholder(nnx.Module):
    """Stands for a part that has no twin, until all such parts are found."""


class _Conversion:
    """One walk through a tree: what became of each module, and what is wrong with any."""

    def __init__(self, root: Any, register: Mapping[type, Registered], rngs: nnx.Rngs | None):
        self.root, self.register = root, register
        self.paths = {id(part): path for path, part in root.named_modules()}
        self.twins: dict[int, nnx.Module] = {}
        self.originals: list[Any] = []  # kept alive, or another object might get the id of a module
        self.unknown: dict[str, type] = {}
        self.refused = [
            (path, type(part), why) for path, part in root.named_modules() for why in refused_features(part)
        ]
        self.not_built = {path for path, *_ in self.refused}
        # Parameters get torch's values in the end; what is drawn for them matters to nobody.
        streams = {} if rngs is None else {"dropout": rngs.dropout()}
        self.tools = Tools(self.convert, self._kind, nnx.Rngs(params=0, **streams), rngs is not None)

    def convert(self, module: Any) -> nnx.Module:
        """Return the twin of a module, the same one each time."""
        if not is_module(module):
            raise TypeError(f"convert takes a torch.nn.Module, got {type(module).__name__}.")
        if id(module) not in self.twins:
            self.originals.append(module)
            self.twins[id(module)] = self._twin(module)
        return self.twins[id(module)]

    def raise_problems(self) -> None:
        """Raise one error that names all that stands in the way."""
        text = []
        if self.unknown:
            kinds = list(dict.fromkeys(kind.__name__ for kind in self.unknown.values()))
            text += ["These modules are not known:"]
            text += [f"    {path}: {name_of(kind)}" for path, kind in self.unknown.items()]
            text += [
                f"To do: pass register={{{', '.join(f'{kind}: function' for kind in kinds)}}}, where "
                "function(module, convert) returns an nnx.Module and convert(part) converts a part of the module."
            ]
        if self.refused:
            text += ["These modules do what cannot be done here:"]
            alike: dict[str, list[str]] = {}
            for path, kind, why in self.refused:
                alike.setdefault(f"{kind.__name__} {why}", []).append(self._shown(path))
            text += [f"    {', '.join(paths)}: {why}." for why, paths in alike.items()]
        if text:
            raise NotImplementedError(
                "\n".join([f"from_torch cannot convert {type(self.root).__name__}.", *text])
            )

    def _twin(self, module: Any) -> nnx.Module:
        before = len(self.unknown) + len(self.refused)
        kind = self._kind(module)
        refused = self.paths.get(id(module)) in self.not_built
        if type(module) in self.register:
            return _Placeholder() if refused else self._registered(module, before)
        if kind is None and not refused:
            self.unknown[self._path(module)] = type(module)
        if kind is None or refused:  # what is not known among its parts belongs to the same error
            for name, part in module.named_children():
                if name != "parametrizations":
                    self.convert(part)
            return _Placeholder()
        try:
            return TABLE[kind](module, self.tools)
        except (NotImplementedError, ValueError) as error:
            if len(self.unknown) + len(self.refused) == before:
                self.refused.append((self._path(module), type(module), str(error).rstrip(".")))
            return _Placeholder()

    def _registered(self, module: Any, before: int) -> nnx.Module:
        name = type(module).__name__
        try:
            twin = self.register[type(module)](module, self.convert)
        except Exception as error:
            if len(self.unknown) + len(self.refused) > before:
                return _Placeholder()  # it may have failed because a part of it is one
            error.add_note(
                f"In the function registered for {name}, at {self._path(module)}; it is called with the module and "
                f"a function that converts its parts, and makes the twin: lambda module, convert: Ours{name}(..., "
                "rngs=nnx.Rngs(0))."
            )
            raise
        if not isinstance(twin, nnx.Module):
            raise TypeError(
                f"{self._path(module)}: the function registered for {name} returned a {type(twin).__name__}, "
                "not an nnx.Module."
            )
        return twin

    def _kind(self, module: Any) -> str | None:
        return None if type(module) in self.register else known_as(type(module), TABLE)

    def _path(self, module: Any) -> str:
        return self._shown(self.paths.get(id(module), "a part outside of the tree"))

    def _shown(self, path: str) -> str:
        return path or "the module itself"
