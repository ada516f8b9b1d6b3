"""A trained model as one file that runs without its class: StableHLO by `jax.export`, its weights beside it."""

import io
import json
import os
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from jaxrnn.checkpoint_files import read_npz, write_npz
from jaxrnn.dropout import dropping
from jaxrnn.migration.normalization import BatchNorm1d
from jaxrnn.training_state import from_store, pure, to_store
from jaxrnn.whole_files import write_whole

FORMAT = 1
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_PARTS = ("manifest.json", "program", "weights.npz")


class ExportedModel(NamedTuple):
    """A program and its weights; call it with the inputs that it was exported for."""

    program: jax.export.Exported
    weights: Mapping[str, Any]  # by dotted path in the model
    versions: Mapping[str, str]  # of the packages that it was exported with

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs as text: "float32[batch,20,3]", where a name stands for any size."""
        count = len(self.weights)
        return tuple(
            str(aval).removeprefix("ShapedArray(").rstrip(")") for aval in self.program.in_avals[count:]
        )

    def __call__(self, *inputs: Any) -> Any:
        """Return what the model would."""
        return self.program.call(dict(self.weights), *inputs)

    def __repr__(self) -> str:
        """Return what it takes, and where it runs, in one line."""
        return (
            f"ExportedModel({', '.join(self.inputs)}; {len(self.weights)} weights; "
            f"{', '.join(self.program.platforms)}; JAX {self.versions.get('jax')})"
        )


def export(
    model: nnx.Module, path: str | os.PathLike[str], *inputs: Any, platforms: tuple[str, ...] | None = None
) -> None:
    """Write a model's forward pass and its weights to a file for `load_exported`.

    * `inputs`: arrays, or `jax.ShapeDtypeStruct`, in the model's order. Sizes that may vary are symbols::

          batch, time = jax.export.symbolic_shape("batch, time")
          jaxrnn.export(model, "net.zip", jax.ShapeDtypeStruct((batch, time, 3), "float32"))

    * `platforms`: "cpu", "cuda", "rocm", "tpu", one or several; by default this one.

    The file is a zip of the program, as `jax.export` serialises it, the weights as .npz, and a manifest in JSON.
    JAX promises to read programs of versions up to six months older.

    An existing file is replaced, at once and whole.

    Raises ValueError for a model that would drop, or normalise by its batch: call `eval()`; TypeError for what is
    no model, or no input.
    """
    _check(model, inputs, platforms)
    if active := _dropping_now(model):
        raise ValueError(f"{active[0] or 'the model'} drops, by random numbers: call model.eval() first.")
    if normalising := _normalising_by_batch(model):
        raise ValueError(f"{normalising[0] or 'the model'} normalises by its batch: call model.eval() first.")
    structure, state = nnx.split(model)
    template = pure(model)
    weights = to_store(template)

    def forward(weights: Mapping[str, Any], *inputs: Any) -> Any:
        own = jax.tree.map(lambda leaf: leaf, state)  # variables of this trace
        nnx.replace_by_pure_dict(own, from_store(weights, template))
        return nnx.merge(structure, own)(*inputs)

    shapes = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in weights.items()}
    program = jax.export.export(jax.jit(forward), platforms=platforms)(shapes, *inputs)
    packages = {name: version(name) for name in ("jaxrnn", "jax", "flax")}
    manifest = {"format": FORMAT, "versions": packages, "platforms": list(program.platforms)}
    arrays = io.BytesIO()
    write_npz({name: np.asarray(value) for name, value in weights.items()}, arrays)
    contents = json.dumps(manifest, indent=1).encode(), bytes(program.serialize()), arrays.getvalue()

    def write(file: Any) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in zip(_PARTS, contents, strict=True):
                archive.writestr(name, content)

    write_whole(path, write)


def load_exported(path: str | os.PathLike[str]) -> ExportedModel:
    """Return the model in a file of `export`; neither its class nor Flax is needed to run it.

    Raises ValueError for a file that is damaged, of another kind, or beyond what this version of JAX reads.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            manifest, program, arrays = (archive.read(name) for name in _PARTS)
        told = json.loads(manifest)
        versions = {str(name): str(value) for name, value in told["versions"].items()}
        number = told["format"]
    except (KeyError, TypeError, AttributeError, zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ValueError(f"{path}: damaged, or no file of jaxrnn.export ({error}).") from error
    if number != FORMAT:
        raise ValueError(
            f"{path}: is of format {number}, written by jaxrnn {versions.get('jaxrnn')}; this one reads {FORMAT}. "
            "Export it again, or use that version."
        )
    try:
        exported = jax.export.deserialize(bytearray(program))
        weights = read_npz(io.BytesIO(arrays))
    except Exception as error:  # whatever a parser says of damaged bytes, or of a version it does not know
        raise ValueError(
            f"{path}: JAX {jax.__version__} cannot read a program of JAX {versions.get('jax')} ({error}); it "
            "is damaged, or too old or too new. Export it again."
        ) from error
    return ExportedModel(exported, weights, versions)


def _check(model: Any, inputs: tuple[Any, ...], platforms: tuple[str, ...] | None) -> None:
    """Raise for what is no model, no input or no platform."""
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"export writes an nnx.Module, got {type(model).__module__}.{type(model).__name__}; jaxrnn.from_torch "
            "makes one of a module of torch."
        )
    for number, each in enumerate(inputs):
        if not all(hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in jax.tree.leaves(each)):
            raise TypeError(
                f"input {number} is {each!r}; give an array, or jax.ShapeDtypeStruct((8, 20, 3), 'float32')."
            )
    if unknown := [platform for platform in platforms or () if platform not in _PLATFORMS]:
        raise ValueError(f"platforms: {unknown[0]!r} is not one of {list(_PLATFORMS)}.")


def _normalising_by_batch(model: nnx.Module) -> list[str]:
    return [
        ".".join(map(str, path))
        for path, part in nnx.iter_modules(model)
        if isinstance(part, nnx.BatchNorm | BatchNorm1d) and not part.use_running_average
    ]


def _dropping_now(model: nnx.Module) -> list[str]:
    flaxs = [
        ".".join(map(str, path))
        for path, part in nnx.iter_modules(model)
        if isinstance(part, nnx.Dropout) and part.rate > 0 and not part.deterministic
    ]
    return [*dropping(model), *flaxs]
