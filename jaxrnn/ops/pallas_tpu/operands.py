"""What both kernels read, and how a recurrence becomes that: arrays padded to whole registers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn.cells import State
from jaxrnn.ops.loop import Recurrence
from jaxrnn.ops.pallas_tpu.blocks import Blocks, Specs, pack_marks


class Operands(NamedTuple):
    """What both kernels read. T and B are whole numbers of blocks, H is one of registers."""

    x: Any  # [T, B, I]
    w_x: Any  # [I, G*H]
    w_h: Any  # [H, G*H]
    bias: Any  # float32 [1, G*H], of the sums that x enters, or None
    late: dict[str, Any]  # {pre-activation: float32 [1, H]}, of the other sums
    own: dict[str, Any]  # {name: float32 [rows, H]}
    state: State  # float32, each [B, H]
    valid: Any  # int32 [tiles, T, words], see `pack_marks`, or None
    restart: Any  # int32 [tiles, T, words], or None


def pack(blocks: Blocks, inputs: Recurrence) -> Operands:
    """Return what the kernels read of a recurrence of one layer."""
    (layer,), (state,), cell = inputs.layers, inputs.states, blocks.cell
    extra = -inputs.x.shape[1] % blocks.rows

    def wide(array: jax.Array, axis: int) -> jax.Array:
        return pad_features(array, blocks.hidden, cell.gates, axis)

    def marks(array: jax.Array | None) -> jax.Array | None:
        return None if array is None else pack_marks(pad_rows(array, extra, 1), blocks.rows)

    w_h = pad_features(layer.weight_hh, blocks.hidden, 1, 1)
    narrow = {name: pad_features(bias, blocks.hidden, 1, 0)[None] for name, bias in layer.bias.items()}
    return Operands(
        x=pad_rows(inputs.x, extra, 1),
        w_x=wide(layer.weight_ih, 0).T,
        w_h=wide(w_h, 0).T,
        bias=jnp.concatenate([narrow[name] for name in cell.x_gates], -1) if narrow else None,
        late={name: bias for name, bias in narrow.items() if name not in cell.x_gates},
        own={
            name: pad_features(array, blocks.hidden, 1, 1).astype(jnp.float32)
            for name, array in layer.own.items()
        },
        state=jax.tree.map(lambda s: pad_rows(pad_features(s, blocks.hidden, 1, 1), extra, 0), state),
        valid=marks(inputs.valid),
        restart=marks(inputs.restart),
    )


def specs_of(specs: Specs, operands: Operands) -> Operands:
    """Return how what both kernels read is cut."""

    def words(marks):
        return None if marks is None else specs.words(marks)

    whole = jax.tree.map(lambda a: specs.whole(a.shape), operands)
    return whole._replace(
        x=specs.along_time(operands.x.shape[-1]),
        state=jax.tree.map(lambda s: specs.per_row(s.shape[-1]), operands.state),
        valid=words(operands.valid),
        restart=words(operands.restart),
    )


def pad_features(array: jax.Array, hidden: int, groups: int, axis: int) -> jax.Array:
    """Pad each of `groups` groups of features along an axis to `hidden`, with zeros."""
    before, after = array.shape[:axis], array.shape[axis + 1 :]
    features = array.shape[axis] // groups
    if features == hidden:
        return array
    cut = array.reshape(*before, groups, features, *after)
    widths = [(0, 0)] * (axis + 1) + [(0, hidden - features)] + [(0, 0)] * len(after)
    return jnp.pad(cut, widths).reshape(*before, groups * hidden, *after)


def cut_features(array: jax.Array, features: int, groups: int, axis: int) -> jax.Array:
    """Undo `pad_features`."""
    before, after = array.shape[:axis], array.shape[axis + 1 :]
    padded = array.shape[axis] // groups
    if features == padded:
        return array
    cut = array.reshape(*before, groups, padded, *after)
    kept = jax.lax.slice_in_dim(cut, 0, features, axis=axis + 1)
    return kept.reshape(*before, groups * features, *after)


def pad_rows(array: jax.Array, extra: int, axis: int) -> jax.Array:
    """Add rows of zeros."""
    if extra == 0:
        return array
    return jnp.pad(array, [(0, extra) if n == axis else (0, 0) for n in range(array.ndim)])
