"""A whole torch module at once: `from_torch` and the modules that it builds where neither Flax nor the rest of
this package has one with torch's semantics.

`walk.py` goes through the tree, `table.py` and `transformers.py` say what each class becomes, `refusals.py` what
is refused, `weights.py` copies values, ties and modes. The modules have torch's names for parameters and buffers.
`optimizers.py` lets a run that began in torch go on.
"""

from jaxrnn.migration.activations import Activation
from jaxrnn.migration.containers import ModuleDict, Sequential
from jaxrnn.migration.convolution import Conv1d
from jaxrnn.migration.embedding import Embedding, EmbeddingBag
from jaxrnn.migration.normalization import BatchNorm1d, LayerNorm
from jaxrnn.migration.optimizers import optimizer_from_torch, optimizer_to_torch
from jaxrnn.migration.walk import from_torch

__all__ = [
    "Activation",
    "BatchNorm1d",
    "Conv1d",
    "Embedding",
    "EmbeddingBag",
    "LayerNorm",
    "ModuleDict",
    "Sequential",
    "from_torch",
    "optimizer_from_torch",
    "optimizer_to_torch",
]
