"""The configuration of a model of Keras: which layers there are, and what is within which."""

from collections.abc import Mapping
from typing import Any

MODELS = {"Sequential", "Functional", "Model"}
DEEPEST = 16  # models within models


def entry_of(entry: Any) -> tuple[str, str, Mapping[str, Any]]:
    """Return class, name and settings of a layer in a configuration."""
    kind, config = str(entry["class_name"]), entry["config"]
    module = str(entry.get("module") or "keras")
    if module.partition(".")[0] != "keras" or ">" in str(entry.get("registered_name")):
        kind = f"{module}.{kind}"  # somebody's own, whatever it is called
    if isinstance(config, list):  # a Sequential before Keras 2.2.3
        config = {"layers": config}
    shape = (entry.get("build_config") or {}).get("input_shape")
    if isinstance(shape, list):
        config = config | {"rank": len(shape)}
    return kind, str(config.get("name", entry.get("name", kind.lower()))), config


def is_model(kind: str, config: Mapping[str, Any]) -> bool:
    """Return whether a layer is itself a model that lists its layers."""
    return kind in MODELS and "layers" in config


def wrapped(kind: str, config: Mapping[str, Any]) -> list[Any]:
    """Return the entries of what a layer wraps, the two directions or the cells."""
    if kind == "Bidirectional":
        forward = config["layer"]
        return [forward, config.get("backward_layer") or forward]
    if kind == "TimeDistributed":
        return [config["layer"]]
    if kind == "RNN":
        cell = config["cell"]
        return cell["config"]["cells"] if cell["class_name"] == "StackedRNNCells" else [cell]
    return []


def described_layers(config: Any) -> list[Any]:
    """Return the entries of a model's layers."""
    kind, _, settings = entry_of(config)
    if not is_model(kind, settings):
        raise ValueError(
            f"the model is a {kind}, whose configuration does not list layers; save weights only, "
            "model.save_weights('a.weights.h5'), and convert these"
        )
    return list(settings["layers"])
