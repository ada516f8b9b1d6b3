"""Training and prediction as the lessons do them: shuffled batches, Adam, a bar with the losses."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxrnn
from jaxrnn.train import History


def learn(
    network: nnx.Module,
    loss: Callable[[Any, tuple[np.ndarray, ...]], jax.Array],
    arrays: Sequence[np.ndarray],
    *,
    description: str,
    epochs: int,
    batch_size: int,
    learning_rate: optax.ScalarOrSchedule,
    clip: float | None = 1.0,
    seed: int = 0,
    validate: Callable[[Any], Any] | None = None,
    patience: int | None = None,
) -> History:
    """Train a network in place by Adam on shuffled batches of rows of `arrays`, and return the history.

    The gradient's norm is clipped to `clip`. With `validate` (lower is better) the best epoch's weights are kept.
    """
    adam = jaxrnn.optim.adam(learning_rate)
    rule = adam if clip is None else optax.chain(jaxrnn.optim.clip_grad_norm(clip), adam)
    return jaxrnn.train.fit(
        network,
        nnx.Optimizer(network, rule, wrt=nnx.Param),
        loss,
        lambda epoch: jaxrnn.data.batches(arrays, batch_size, shuffle_seed=seed, epoch=epoch, drop_last=True),
        epochs=epochs,
        validate=validate,
        patience=patience,
        description=description,
    )


def predict(network: nnx.Module, *arrays: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """Return a network's outputs for rows of arrays, batch by batch, in evaluation mode.

    The last batch is filled up with its own first row, so that one program serves all.
    """
    network.eval()
    rows, outputs = len(arrays[0]), []
    for start in range(0, rows, batch_size):
        order = np.arange(start, start + batch_size)
        order[order >= rows] = start
        outputs.append(np.asarray(_forward(network, *(array[order] for array in arrays))))
    return np.concatenate(outputs)[:rows]


_forward: Any = nnx.jit(lambda network, *arrays: network(*(jnp.asarray(array) for array in arrays)))


def padded(rows: Sequence[Sequence[int]], length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return sequences of tokens as an array [B, T], zeros behind their ends, and their lengths [B]."""
    lengths = np.array([len(row) for row in rows], np.int32)
    tokens = np.zeros((len(rows), length or int(lengths.max())), np.int32)
    for place, row in zip(tokens, rows, strict=True):
        place[: len(row)] = row
    return tokens, lengths


def chunks(count: int, size: int) -> Iterator[slice]:
    """Yield slices of `size` rows, the last one shorter."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
