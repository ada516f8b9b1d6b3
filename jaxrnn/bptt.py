"""Backpropagation through time over sequences that do not fit into memory at once: exact, and truncated."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from jaxrnn.lengths import check_lengths, length_mask
from jaxrnn.ops.memory import check_segments
from jaxrnn.ops.segments import cut_in_two, in_segments

Tree = Any  # of arrays
# Of inputs and a state (and lengths=, resets=): outputs and the next state.
Model = Callable[..., tuple[Tree, Tree]]
# Of outputs and targets: a loss per element, or their sum.
Loss = Callable[[Tree, Tree], jax.Array]


def scan_loss(
    model: Model,
    loss: Loss,
    inputs: Tree,
    targets: Tree,
    state: Tree = None,
    *,
    segments: int | tuple[int, ...] | None = None,
    offload: bool = False,
    lengths: Any = None,
    resets: jax.Array | None = None,
    reduction: str = "mean",
    time_axis: int = 0,
) -> tuple[jax.Array, Tree]:
    """Return the loss of a whole sequence and the final state, computed segment by segment.

    Its gradient is that of plain backpropagation through time, to rounding, but neither outputs nor their
    cotangents exist for more than one segment: what is kept is the state at each bound, T / K of them. Each segment
    is computed twice, see `jaxrnn.ops.segments`. Example, a language model over bytes::

        def loss(model, tokens, state):
            return jaxrnn.scan_loss(model, cross_entropy, tokens[:-1], tokens[1:], state, segments=1024)

        (value, state), gradients = nnx.value_and_grad(loss, has_aux=True)(model, tokens, state)

    * `model`: an `nnx.Module` or a function, ``model(inputs, state) -> (outputs, state)``, which all of this
      library's layers are. Random streams and other state of a module go on from segment to segment.
    * `loss`: of the outputs and targets of a segment, one number per element (torch's ``reduction="none"``); a
      scalar counts as their sum, and needs ``reduction="sum"``.
    * `inputs`, `targets`: arrays, or trees of them, with time along `time_axis`; integers too. Time first saves a
      copy, as do lengths that divide T.
    * `state`: where the sequence begins. With None, the first segment is given None, and is compiled by itself.
    * `segments`: steps of a segment, or of segments within segments, the outermost first; by default √T.
    * `offload`: keep the states at the (outermost) bounds in the host's memory.
    * `lengths`, int [B], and `resets`, bool [T, B], are handed to the model in pieces, by name. Losses beyond a
      row's length do not count, whatever they are; `loss` must then return [T, B, ...], as the layout is.
    * `reduction`: "mean" of all elements that count, or "sum".
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction={reduction!r} is not one of 'mean', 'sum'.")
    pieces = _pieces(inputs, targets, resets, time_axis)
    steps = len(jax.tree.leaves(pieces)[0])
    cuts = check_segments(math.isqrt(max(steps - 1, 0)) + 1 if segments is None else segments)
    if lengths is not None:
        lengths = check_lengths(lengths, jax.tree.leaves(pieces)[0].shape[1], steps)
    call, weights, changing = _taken_apart(model)
    segment = partial(_segment, call, loss, lengths, reduction, time_axis)

    def run(carried, piece):
        total, count, carried = segment(weights, carried, piece)
        return carried, (), (total, count)

    carried, totals = _Carried(jnp.int32(0), changing, state), []
    if state is None and steps > cuts[-1]:
        first, pieces = cut_in_two(pieces, cuts[-1])
        carried, _, total = jax.checkpoint(run)(carried, first)
        totals.append(total)
    elif state is None:
        cuts = ()
    carried, _, total = in_segments(run, carried, pieces, cuts, offload=offload)
    totals.append(total)
    _put_back(model, carried.changing)
    value, count = jax.tree.map(lambda *parts: sum(parts), *totals)
    return value / count if reduction == "mean" else value, carried.state


def truncated_bptt(
    model: nnx.Module,
    optimizer: nnx.Optimizer,
    loss: Loss,
    inputs: Tree,
    targets: Tree,
    state: Tree,
    *,
    k1: int,
    k2: int | None = None,
    resets: jax.Array | None = None,
    time_axis: int = 0,
) -> tuple[jax.Array, Tree]:
    """Train by truncated backpropagation through time; return the losses of all windows and the final state.

    BPTT(k2; k1) of Williams & Peng (1990): every `k1` steps the parameters are updated, by the gradient of the mean
    loss of these steps, which flows back through the last `k2` steps and no further. All windows are one compiled
    program, compiled once for a `loss` defined once. `model` and `optimizer` are updated in place; `state` is given
    up (donated) for the one that is returned.

    * `k2`, by default `k1`. Above `k1` it is a multiple of it: each update runs the last k2 steps again, from the
      state that stood before them, with the weights as they are now. Below, `k1` is a multiple of it, and the
      gradient stops every k2 steps.
    * `state` begins the sequence, and no gradient reaches what came before it; `resets`, bool like the inputs
      without features, marks where a new document begins inside a row.
    * `k1` divides T. The other arguments are those of `scan_loss`.

    With k1 = k2 = T this is one step of full backpropagation through time.
    """
    pieces = _pieces(inputs, targets, resets, time_axis)
    windows = _windows(pieces, k1, k2)
    structure, arrays = nnx.split((model, optimizer))
    losses, arrays, state = _train(structure, loss, windows, time_axis, arrays, state, pieces)
    nnx.update((model, optimizer), arrays)
    return losses, state


class TruncationBias(NamedTuple):
    """What truncation does to a gradient, over all parameters: 0 and 1 where it does nothing."""

    relative_error: float  # |truncated - full| / |full|
    cosine: float  # of the angle between the two


def truncation_bias(
    model: nnx.Module,
    loss: Loss,
    inputs: Tree,
    targets: Tree,
    state: Tree,
    *,
    k1: int,
    k2: int | None = None,
    resets: jax.Array | None = None,
    time_axis: int = 0,
) -> TruncationBias:
    """Return how far the gradient of `truncated_bptt` is from that of full backpropagation, at the present weights.

    The gradients of all windows are added up without an update between them, and compared with that of the whole
    sequence, by `scan_loss`.
    """
    pieces = _pieces(inputs, targets, resets, time_axis)
    windows = _windows(pieces, k1, k2)
    call, weights, changing = _taken_apart(model)

    def full(weights):
        def whole(x, state, **options):
            return call(weights, changing, x, state, **options)[1:]

        value, _ = scan_loss(
            whole, loss, inputs, targets, state, segments=windows.length, resets=resets, time_axis=time_axis
        )
        return value

    @jax.jit
    def compare(weights):
        truncated = _mean_gradient(call, loss, windows, time_axis, weights, changing, state, pieces)
        exact = jax.grad(full)(weights)
        error = jax.tree.map(jnp.subtract, truncated, exact)
        norms = [optax.tree.norm(tree) for tree in (error, truncated, exact)]
        return norms[0] / norms[2], optax.tree.vdot(truncated, exact) / (norms[1] * norms[2])

    return TruncationBias(*map(float, compare(weights)))


class _Windows(NamedTuple):
    """How a sequence is cut for truncated backpropagation."""

    number: int  # T / k1
    length: int  # k1
    parts: int  # in which a window is run: those before it, and itself, or parts of it
    part_length: int
    all_count: (
        bool  # the losses of all parts count, and no gradient passes between them; else those of the last
    )


def _windows(pieces: Tree, k1: int, k2: int | None) -> _Windows:
    steps, k2 = len(jax.tree.leaves(pieces)[0]), k1 if k2 is None else k2
    for name, value in (("k1", k1), ("k2", k2)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} should be a positive number of steps, got {value!r}.")
    if steps % k1:
        raise ValueError(
            f"k1={k1} does not divide the {steps} steps of the sequence. Train on the first {steps - steps % k1}, "
            "and on the rest, from the state that is returned, with a k1 of its own."
        )
    long, short = max(k1, k2), min(k1, k2)
    if k2 < steps and long % short:
        raise ValueError(f"the larger of k1={k1} and k2={k2} should be a multiple of the other.")
    number = steps // k1
    if k2 < k1:
        return _Windows(number, k1, k1 // k2, k2, all_count=True)
    return _Windows(number, k1, min(-(-k2 // k1), number), k1, all_count=False)


def _window_loss(
    call: Any,
    loss: Loss,
    windows: _Windows,
    time_axis: int,
    weights: Tree,
    carried: Tree,
    pieces: Tree,
    number: Any,
) -> tuple[jax.Array, tuple[Tree, Tree]]:
    """Return a window's mean loss, what the next one begins with, and the state after it."""
    length, parts, part_length, all_count = windows[1:]
    segment = partial(_segment, call, loss, None, "mean", time_axis, weights)
    start = number * length - (0 if all_count else (parts - 1) * part_length)

    def part(carried, index):
        at = start + index * part_length
        piece = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, jnp.maximum(at, 0), part_length), pieces)
        if all_count:
            carried = carried._replace(state=lax.stop_gradient(carried.state))
        total, count, after = segment(carried, piece)
        # Before the sequence there is nothing: the first windows have fewer parts.
        after = jax.tree.map(lambda new, old: jnp.where(at >= 0, new, old), after, carried)
        return after, (total, count, after.state)

    carried = _Carried(jnp.int32(0), *carried)
    (_, changing, state), (totals, counts, ends) = lax.scan(part, carried, jnp.arange(parts))
    if not all_count:
        totals, counts = totals[-1:], counts[-1:]
    first = jax.tree.map(lambda states: states[-1 if all_count else 0], ends)
    return totals.sum() / counts.sum(), lax.stop_gradient(((changing, first), state))


@partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=5)
def _train(structure, loss, windows, time_axis, arrays, state, pieces):
    """Return the losses of all windows, the arrays of model and optimizer after them, and the state."""

    def window(carried, number):
        arrays, (start, _) = carried
        model, optimizer = nnx.merge(structure, arrays)
        call, weights, changing = _taken_apart(model, optimizer.wrt)
        objective = partial(_window_loss, call, loss, windows, time_axis)
        gradient = jax.value_and_grad(objective, has_aux=True)
        (value, ((changing, start), state)), grads = gradient(weights, (changing, start), pieces, number)
        nnx.update(model, changing)
        optimizer.update(model, grads)
        return (nnx.state((model, optimizer)), (start, state)), value

    carried = arrays, (state, state)
    (arrays, (_, state)), losses = lax.scan(window, carried, jnp.arange(windows.number))
    return losses, arrays, state


def _mean_gradient(call, loss, windows, time_axis, weights, changing, state, pieces):
    """Return the mean over all windows of their truncated gradients."""
    gradient = jax.grad(partial(_window_loss, call, loss, windows, time_axis), has_aux=True)

    def window(carried, number):
        start, gradients = carried
        grads, (start, _) = gradient(weights, start, pieces, number)
        return (start, jax.tree.map(jnp.add, gradients, grads)), None

    carried = (changing, state), jax.tree.map(jnp.zeros_like, weights)
    _, total = lax.scan(window, carried, jnp.arange(windows.number))[0]
    return jax.tree.map(lambda g: g / windows.number, total)


# What a model and its arrays are cut into ------------------------------------------------------------------


def _taken_apart(model: Model, wrt: Any = nnx.Param) -> tuple[Any, Tree, Tree]:
    """Return a function of (weights, changing, *arguments), and both: parameters, and all other state."""
    if not isinstance(model, nnx.Module):
        return (lambda weights, changing, *args, **options: (changing, *model(*args, **options))), (), ()
    structure = nnx.graphdef(model)
    weights, changing = nnx.state(model, wrt), nnx.state(model, nnx.Not(wrt))

    def call(weights, changing, *args, **options):
        module: Any = nnx.merge(structure, weights, changing)
        outputs, state = module(*args, **options)
        return nnx.state(module, nnx.Not(wrt)), outputs, state

    return call, weights, changing


def _put_back(model: Model, changing: Tree) -> None:
    if isinstance(model, nnx.Module) and jax.tree.leaves(changing):
        nnx.update(model, changing)


def _pieces(inputs: Tree, targets: Tree, resets: Any, time_axis: int) -> tuple[Tree, ...]:
    """Return inputs, targets and resets with time as their first axis."""
    given = {"inputs": inputs, "targets": targets, "resets": resets}
    sizes = {
        f"{name}{jax.tree_util.keystr(path)}": jnp.shape(array)
        for name, tree in given.items()
        for path, array in jax.tree_util.tree_leaves_with_path(tree)
    }
    short = {name: shape for name, shape in sizes.items() if len(shape) <= time_axis}
    if short:
        raise ValueError(f"all arrays should have a time axis, number {time_axis}, got {short}.")
    steps = {shape[time_axis] for shape in sizes.values()}
    if len(steps) != 1 or steps == {0}:
        raise ValueError(
            "inputs, targets and resets should have the same number of steps, at least one, "
            f"along axis {time_axis}, got {sizes}."
        )
    return jax.tree.map(lambda a: jnp.moveaxis(jnp.asarray(a), time_axis, 0), (inputs, targets, resets))


class _Carried(NamedTuple):
    """What goes on from segment to segment."""

    at: jax.Array  # steps so far, [] of int32
    changing: Tree  # the model's random streams and whatever else is no parameter
    state: Tree


def _segment(call, loss, lengths, reduction, time_axis, weights, carried, piece):
    """Return the sum of a segment's losses, how many there are, and what goes on to the next."""
    steps = len(jax.tree.leaves(piece)[0])
    inputs, targets, resets = jax.tree.map(partial(jnp.moveaxis, source=0, destination=time_axis), piece)
    options = {} if resets is None else {"resets": resets}
    if lengths is not None:
        options["lengths"] = here = jnp.clip(lengths - carried.at, 0, steps)
    changing, outputs, state = call(weights, carried.changing, inputs, carried.state, **options)
    after = _Carried(carried.at + steps, changing, state)
    losses = loss(outputs, targets)
    if losses.ndim == 0 and (reduction == "mean" or lengths is not None):
        what = 'reduction="mean"' if lengths is None else "lengths"
        raise ValueError(
            f"loss returned one number for a segment, and {what} cannot tell how many losses are in it. Let it "
            "return one for each step and row, or their sum, with reduction='sum' and without lengths."
        )
    count = jnp.asarray(losses.size, jnp.float32)
    if lengths is not None:
        valid = jnp.moveaxis(length_mask(here, steps), 1, time_axis)
        if losses.shape[:2] != valid.shape:
            raise ValueError(
                f"loss returned {losses.shape}, but with lengths it should begin with {valid.shape}."
            )
        each = losses.size // max(valid.size, 1)
        losses = jnp.where(valid.reshape(*valid.shape, *[1] * (losses.ndim - 2)), losses, 0)
        count = jnp.sum(valid, dtype=jnp.float32) * each
    dtype = jnp.promote_types(losses.dtype, jnp.float32)
    return jnp.sum(losses, dtype=dtype), count.astype(dtype), after
