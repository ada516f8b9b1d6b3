"""What the tests of other libraries' weights share: Keras with random weights, and layers here with them."""

import os
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import formats
from tests.jaxrnn.common import draw

# What a file of Keras with weights only does not say of a recurrent layer with tanh.
AS_TORCH = {"activation": "tanh", "recurrent_activation": "sigmoid", "go_backwards": False}


@cache
def keras() -> Any:
    """Keras on JAX; where it is not installed, the test is skipped."""
    os.environ["KERAS_BACKEND"] = "jax"  # it reads this once, when it is imported
    return pytest.importorskip("keras")


def randomised(model: Any, seed: int = 0) -> Any:
    """Give every array of a model of Keras normal draws: wide enough for the gates, and no bias is zero."""
    model.set_weights([draw(seed + n, *each.shape) * 0.5 for n, each in enumerate(model.get_weights())])
    return model


def sequential(*layers: Any, features: Any = (7, 3), dtype: Any = None) -> Any:
    """A model of Keras with random weights."""
    return randomised(keras().Sequential([keras().layers.Input(features, dtype=dtype), *layers]))


def saved(model: Any, path: Any) -> Any:
    """Write a model to a file of the kind that its name says, and return its path."""
    if str(path).endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    return path


def layer_of(weights: formats.Weights, name: str) -> Any:
    """Construct a layer of this library as its description says, and give it its weights."""
    kind, sizes, options, _ = weights.layers[name]
    arrays = part(weights.arrays, name)
    dtype = next(iter(arrays.values())).dtype
    layer = getattr(jaxrnn, kind)(*sizes, **options, rngs=nnx.Rngs(0), param_dtype=dtype)
    jaxrnn.load_state_dict(layer, arrays)
    return layer


def part(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """The arrays of one layer, without its name."""
    return {key.removeprefix(f"{name}."): a for key, a in arrays.items() if key.startswith(f"{name}.")}


def bits(arrays: dict[str, np.ndarray]) -> dict[str, tuple]:
    """What two dicts of arrays have to share to be the same, bit for bit."""
    return {name: (a.dtype, a.shape, np.asarray(a).tobytes()) for name, a in arrays.items()}


def filled(module: nnx.Module, dtype: Any = np.float32, seed: int = 0) -> Any:
    """Fill every parameter of a module of this library or of Flax with normal draws."""
    leaves, tree = jax.tree.flatten(nnx.state(module, nnx.Param))
    drawn = [jnp.asarray(draw(seed + n, *leaf.shape) * 0.5, dtype) for n, leaf in enumerate(leaves)]
    nnx.update(module, jax.tree.unflatten(tree, drawn))
    return module
