"""Weights of other libraries from files, whatever the kind."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrnn.formats.keras_files import read_h5, read_keras
from jaxrnn.formats.onnx_reader import read_onnx
from jaxrnn.formats.weights import Weights


def read(
    path: str | os.PathLike[str], *, assume: Mapping[str, Any] | None = None, layers: Sequence[str] = ()
) -> Weights:
    """Return the weights in a file of Keras or an ONNX model, in torch's terms; nothing in the file is run::

        weights = jaxrnn.formats.read("model.keras")
        weights.layers["lstm"]  # LSTM(3, 5, batch_first=True): its kind, sizes and options
        weights.arrays  # {"lstm.weight_ih_l0": ..., "dense.weight": ...}

    The suffix says the kind: .h5, .hdf5, .keras or .onnx. One bias b of Keras becomes ``bias_ih = b`` and
    ``bias_hh = 0``.

    * `assume`: what a file of Keras with weights only does not say, such as ``{"recurrent_activation":
      "sigmoid"}``. The error that asks for it lists what is needed; nothing is guessed.
    * `layers`: the names of those to convert, in place of all.

    Raises NotImplementedError that names every layer torch's equations cannot say, with the reason, and ValueError
    for a file that is damaged, of another kind, or does not say enough.
    """
    suffix = Path(path).suffix
    if suffix not in _READERS:
        raise ValueError(
            f"{path}: suffix {suffix!r} is not one of {list(SUFFIXES)}; rename the file. Checkpoints of torch are "
            "read by jaxrnn.load_state_dict."
        )
    content = Path(path).read_bytes()
    try:
        return _READERS[suffix](content, assume or {}, layers)
    except ModuleNotFoundError:
        raise
    except Exception as error:
        if type(error) in (NotImplementedError, ValueError):  # said here, and about this file
            raise type(error)(f"{path}: {error}") from None
        # Whatever a parser says of a damaged file.
        raise ValueError(f"{path}: damaged or of another kind ({error}); write it again.") from error


_READERS: dict[str, Callable[[bytes, Mapping[str, Any], Sequence[str]], Weights]] = {
    ".h5": read_h5,
    ".hdf5": read_h5,
    ".keras": read_keras,
    ".onnx": read_onnx,
}
SUFFIXES = tuple(_READERS)
