"""Files as Keras 2 wrote them, made by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.jaxrnn.common import draw

Named = list[tuple[str, np.ndarray]]


def old_file(path: Path, layers: dict[str, Named], config: Any = None) -> Path:
    """Write the arrays of layers by Keras' names for them, with the model's configuration or without."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        group = file if config is None else file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in layers]
        for name, arrays in layers.items():
            inner = group.create_group(name)
            inner.attrs["weight_names"] = [key.encode() for key, _ in arrays]
            for key, array in arrays:
                inner[key] = array
        if config is not None:
            file.attrs["model_config"] = json.dumps(config)
    return path


def arrays_of_lstm(name: str, bias: int = 20, seed: int = 0) -> Named:
    """Random arrays of an LSTM of 3 features and 5 units."""
    shapes: dict[str, tuple[int, ...]] = {"kernel": (3, 20), "recurrent_kernel": (5, 20), "bias": (bias,)}
    return [(f"{name}/{key}:0", draw(seed + n, *shape)) for n, (key, shape) in enumerate(shapes.items())]


def lstm_config(**settings: Any) -> dict[str, Any]:
    """The configuration of a Sequential of one LSTM called lstm."""
    known = {"name": "lstm", "units": 5, "use_bias": True, "activation": "tanh", "go_backwards": False}
    layer = {"class_name": "LSTM", "config": known | {"recurrent_activation": "sigmoid"} | settings}
    return {"class_name": "Sequential", "config": {"name": "model", "layers": [layer]}}
