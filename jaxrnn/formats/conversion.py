"""What `jaxrnn convert` does: any kind of file in, torch's names, any kind of file out that can hold them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrnn import checkpoint_files
from jaxrnn.formats import onnx_writer, reading
from jaxrnn.formats.conventions import Arrays
from jaxrnn.formats.weights import Weights, kind_of

_WRAPPERS = ("module.", "_orig_mod.")  # DataParallel's, torch.compile's


def parsed(assumed: Sequence[str]) -> dict[str, Any]:
    """Return ``{"go_backwards": False}`` for the words ``go_backwards=false``."""
    settings: dict[str, Any] = {}
    for words in assumed:
        key, mark, value = words.partition("=")
        if not mark:
            raise ValueError(f"--assume {words}: expected KEY=VALUE, such as recurrent_activation=sigmoid.")
        settings[key] = {"true": True, "false": False, "-1": -1}.get(value, value)
    return settings


def read(
    source: Path, key: str | None, layers: Sequence[str], assume: Mapping[str, Any]
) -> tuple[Weights, dict[str, Any]]:
    """Return the weights in a file of any kind, and the assumptions that are left for what is written."""
    if source.suffix in reading.SUFFIXES:
        if key is not None:
            raise ValueError(
                f"{source}: only a checkpoint has a key; leave it out, or name layers with --layer."
            )
        return reading.read(source, assume=assume, layers=layers), {}
    return Weights(_chosen(checkpoint_files.read(source, key), layers), {}), dict(assume)


def _chosen(arrays: dict[str, Any], layers: Sequence[str]) -> dict[str, Any]:
    for layer in layers:
        if not any(name.startswith(f"{layer}.") for name in arrays):
            parts = list(dict.fromkeys(name.rpartition(".")[0] for name in arrays))
            raise ValueError(f"there is no layer {layer!r}, of {parts}.")
    prefixes = tuple(f"{layer}." for layer in layers)
    return {name: array for name, array in arrays.items() if not layers or name.startswith(prefixes)}


def strip(weights: Weights, prefix: str) -> Weights:
    """Return weights without a prefix that every name has."""
    other = [name for name in weights.arrays if not name.startswith(prefix)]
    if other:
        raise ValueError(
            f"{other[0]!r} does not start with {prefix!r}, so that is not stripped from any name."
        )
    arrays = {name.removeprefix(prefix): array for name, array in weights.arrays.items()}
    layers = {
        f"{name}.".removeprefix(prefix).removesuffix("."): text for name, text in weights.layers.items()
    }
    return Weights(arrays, layers, weights.left_out)


def wrapper(arrays: Arrays) -> str | None:
    """Return the prefix of a wrapper around a whole model, if every name has it."""
    found = [prefix for prefix in _WRAPPERS if arrays and all(name.startswith(prefix) for name in arrays)]
    return found[0] if found else None


def write(weights: Weights, target: Path, assume: Mapping[str, Any]) -> None:
    """Write weights to a file of the kind its suffix names; an .onnx model holds one recurrent layer."""
    if target.suffix != ".onnx":
        if assume:
            raise ValueError(f"nothing depends on {sorted(assume)}; leave the assumption out.")
        checkpoint_files.write(weights.arrays, target)
        return
    prefixes = {name.rpartition(".")[0] for name in weights.arrays}
    if len(prefixes) != 1:
        raise ValueError(
            f"{target}: a model of ONNX is made of one recurrent layer, but there are {sorted(prefixes)}; choose "
            "one with --layer."
        )
    (prefix,) = prefixes
    arrays = {name.rpartition(".")[2]: array for name, array in weights.arrays.items()}
    try:
        layer = onnx_writer.Layer(arrays, **_options(weights, prefix, arrays, assume))
        onnx_writer.write(layer, target)
    except ValueError as error:
        raise ValueError(f"{target}: {error}") from None


def _options(weights: Weights, prefix: str, arrays: Arrays, assume: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the arrays of a layer do not say: its nonlinearity, and the order of its axes."""
    if prefix in weights.layers:
        said = weights.layers[prefix].options
        return {name: said[name] for name in ("nonlinearity", "batch_first") if name in said}
    unknown = sorted(set(assume) - {"activation", "batch_first"})
    if unknown:
        raise ValueError(f"nothing depends on {unknown}; leave the assumption out.")
    options = {"batch_first": bool(assume.get("batch_first", False))}
    first = next((array for name, array in arrays.items() if name.startswith("weight_hh")), None)
    if first is not None and kind_of(first) == "RNN":
        if assume.get("activation") not in ("tanh", "relu"):
            raise ValueError(
                "the file does not say tanh or relu of the RNN: pass --assume activation=tanh, or relu."
            )
        return options | {"nonlinearity": assume["activation"]}
    if "activation" in assume:
        raise ValueError("only an RNN has a choice of activation; leave the assumption out.")
    return options
