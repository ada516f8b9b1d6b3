"""Weights of other libraries: from Keras, ONNX, Flax, Haiku and Equinox, and to ONNX, Flax and Equinox.

`conventions.py` has one table of how each library lays out a cell, from which all conversions follow; the other
files know what a library's files and modules look like. What torch's equations cannot say is refused, with the
reason.
"""

from jaxrnn.formats.equinox_cells import from_equinox, to_equinox
from jaxrnn.formats.flax_cells import from_flax, to_flax
from jaxrnn.formats.haiku_cells import from_haiku
from jaxrnn.formats.onnx_writer import to_onnx
from jaxrnn.formats.reading import read
from jaxrnn.formats.weights import Weights, stack

__all__ = [
    "Weights",
    "from_equinox",
    "from_flax",
    "from_haiku",
    "read",
    "stack",
    "to_equinox",
    "to_flax",
    "to_onnx",
]
