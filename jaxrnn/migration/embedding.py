"""Embedding with a padding index, and EmbeddingBag, as in `torch.nn`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxrnn import checks
from jaxrnn.init import TorchDraws
from jaxrnn.lengths import is_traced
from jaxrnn.torch_names import Parameter


class Embedding(nnx.Module):
    """Rows of a table, as `torch.nn.Embedding`; the row `padding_idx` is looked up, but gets no gradient.

    `weight` is [num_embeddings, embedding_dim]; with `rngs` it is drawn as torch does, normal numbers with zeros in
    the row of padding, else it is zero until it is loaded. A number that names no row is an IndexError, as in
    torch; in compiled code, where values are not known, its row is NaN. (`nnx.Embed` takes -1 for the last row.)
    Not there: `max_norm`, `scale_grad_by_freq`, `sparse`.
    """

    torch_order = ("weight",)

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        rngs: nnx.Rngs | None = None,
        param_dtype: Any = jnp.float32,
    ):
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        shape = num_embeddings, embedding_dim
        weight = jnp.zeros(shape, param_dtype)
        if rngs is not None:
            weight = jax.random.normal(rngs.params(), shape, param_dtype)
            weight = weight if padding_idx is None else weight.at[padding_idx].set(0)
        self.weight = nnx.Param(weight)

    def __call__(self, input: Int[Array, "*S"]) -> Float[Array, "*S E"]:
        """Return the rows that the input names."""
        input = _indices(input, self.num_embeddings)
        if self.padding_idx is None:
            return jnp.take(self.weight[...], input, axis=0)
        return _rows(self.weight[...], input, input == self.padding_idx % self.num_embeddings)

    def drawn_like_torch(self, draws: TorchDraws, members: list[Parameter]) -> dict[str, np.ndarray]:
        """Return what torch draws: normal numbers, and then zeros in the row of padding."""
        values = draws.like(nnx.Embed, members)
        for value in values.values():
            if self.padding_idx is not None:
                value[self.padding_idx] = 0
        return values


class EmbeddingBag(nnx.Module):
    """Sums, means or maxima of rows of a table, as `torch.nn.EmbeddingBag`; `padding_idx` counts for nothing.

    An empty bag is zero. `weight` is [num_embeddings, embedding_dim], zero until it is loaded. Numbers that name
    no row are as for `Embedding`. Where several
    rows of a bag share the maximum, the first gets the gradient, as in torch.
    Not there: `max_norm`, `scale_grad_by_freq`, `sparse`.
    """

    torch_order = ("weight",)

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        mode: str = "mean",
        *,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        param_dtype: Any = jnp.float32,
    ):
        if mode not in ("sum", "mean", "max"):
            raise ValueError(f"mode has to be one of sum, mean or max, got {mode!r}.")
        self.num_embeddings, self.embedding_dim, self.mode = num_embeddings, embedding_dim, mode
        self.include_last_offset, self.padding_idx = include_last_offset, padding_idx
        self.weight = nnx.Param(jnp.zeros((num_embeddings, embedding_dim), param_dtype))

    def __call__(
        self,
        input: Int[Array, "..."],
        offsets: Int[Array, " B"] | None = None,
        per_sample_weights: Float[Array, "..."] | None = None,
    ) -> Float[Array, "B E"]:
        """Return one row for each bag.

        * `input`: [B, N], bags of one size, or [N] with `offsets` [B], where each bag begins; with
          `include_last_offset` [B + 1], and the last one is where the last bag ends.
        * `per_sample_weights`: shaped like `input`, what rows are multiplied by; for "sum" only.
        """
        input = _indices(input, self.num_embeddings)
        self._check_weights(input, per_sample_weights)
        bag, bags = self._bags(input, offsets)
        indices = input.reshape(-1)
        counts = bag < bags
        if self.padding_idx is not None:
            counts &= indices != self.padding_idx
        rows = _rows(self.weight[...], indices, ~counts)
        if self.mode == "max":
            return _maxima(rows, bag, counts, bags)
        scale = counts.astype(rows.dtype)
        if per_sample_weights is not None:
            scale = jnp.where(counts, per_sample_weights.reshape(-1), 0)
        total = jax.ops.segment_sum(jnp.where(counts[:, None], rows * scale[:, None], 0), bag, bags)
        if self.mode == "sum":
            return total
        sizes = jax.ops.segment_sum(counts.astype(rows.dtype), bag, bags)
        return total / jnp.maximum(sizes, 1)[:, None]

    def _bags(self, input: Array, offsets: Any) -> tuple[Array, int]:
        """Return the bag of each index, and how many bags there are; beyond the last one is no bag."""
        if input.ndim == 2:
            if offsets is not None:
                raise ValueError(
                    "if input is 2D, then offsets has to be None, as input is treated is a mini-batch of fixed "
                    "length sequences. Leave the offsets out, or flatten the input."
                )
            return jnp.repeat(jnp.arange(input.shape[0]), input.shape[1]), input.shape[0]
        if input.ndim != 1:
            raise ValueError(f"input has to be 1D or 2D Tensor, but got Tensor of dimension {input.ndim}.")
        if offsets is None or np.ndim(offsets) != 1:
            raise ValueError("offsets has to be a 1D Tensor: where in the 1D input each bag begins.")
        offsets = _indices(offsets)
        if not is_traced(offsets) and offsets.size and int(offsets[0]) != 0:
            raise RuntimeError(
                f"offsets[0] has to be 0, i.e., the first sequence in the mini-batch has to start from position "
                f"0. However, got {int(offsets[0])}; give the first bag all indices in front of the second."
            )
        bag = jnp.searchsorted(offsets, jnp.arange(input.size), side="right") - 1
        return bag, offsets.size - self.include_last_offset

    def _check_weights(self, input: Array, weights: Any) -> None:
        if weights is None:
            return
        if self.mode != "sum":
            raise NotImplementedError(
                f"embedding_bag: per_sample_weights was not None. per_sample_weights is only supported for "
                f"mode='sum' (got mode='{self.mode}'). Leave the weights out."
            )
        if weights.shape != input.shape or weights.dtype != self.weight.dtype:
            raise ValueError(
                f"per_sample_weights should be of shape {input.shape} and {self.weight.dtype}, as input and "
                f"weight are; got {weights.shape} and {weights.dtype}."
            )


def _indices(value: Any, rows: int | None = None) -> Array:
    """Return integers as an array; with `rows`, they are numbers of so many rows."""
    array = checks.check_array("input", value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"An index should be an integer, got {array.dtype}; convert it with astype(int).")
    return array if rows is None else checks.check_rows("input", value, rows)


def _rows(weight: Array, indices: Array, constant: Array) -> Array:
    """Return rows of a table, some of them as constants."""
    rows = jnp.take(weight, indices, axis=0)
    return jnp.where(constant[..., None], jax.lax.stop_gradient(rows), rows)


def _maxima(rows: Array, bag: Array, counts: Array, bags: int) -> Array:
    if not rows.shape[0]:
        return jnp.zeros((bags, rows.shape[1]), rows.dtype)
    values = jnp.where(counts[:, None], jax.lax.stop_gradient(rows), -jnp.inf)
    top = jax.ops.segment_max(values, bag, bags)
    is_top = (values == top[bag]) & counts[:, None]
    places = jnp.where(is_top, jnp.arange(len(bag))[:, None], len(bag))
    first = jax.ops.segment_min(places, bag, bags)  # len(bag), or more, in a bag that is empty
    found = jnp.take_along_axis(rows, jnp.minimum(first, len(bag) - 1), axis=0)
    found = jnp.where(first < len(bag), found, 0)
    return jnp.where(jnp.isnan(top), jnp.nan, found)
