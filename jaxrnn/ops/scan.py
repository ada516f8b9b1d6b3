"""The fast unroll: what does not depend on the state happens outside the loop, a chunk of steps at a time.

Forward, ``W_ih x + b`` is one matrix product for many steps (or, where that is cheaper, part of the product that
the step makes anyway), and only ``W_hh h`` and the elementwise step stay inside. Backward likewise: the loop
carries the state's cotangent alone, and the gradients of W_ih, W_hh, W_hr, of the biases and of x are products over
the steps of a chunk, taken while what they multiply is still in the cache.

There is no hand-written backward pass. The recurrence has one custom *tangent* rule for every cell, in which each
parameter's tangent enters as a product taken outside the inner loop (`jaxrnn.ops.linearised`)::

    da_t = [dW_ih x_t + W_ih dx_t + db + dW_hh h_{t-1}]  +  W_hh dh_{t-1}
            outside, all t of a chunk at once               inside, t by t
    ds_t = J_t (da_t, ds_{t-1})                             elementwise, `Derivative.tangent`

JAX transposes this into exactly the backward pass described above: a loop over chunks that carries the gradients of
the parameters, and in it a loop over steps. So reverse mode, forward mode, `vmap` and second derivatives all come
from the same few lines, where `jax.custom_vjp` would lose forward mode.

Several layers may advance in one loop. Then what one layer hands to the next is never stored, and neither is its
cotangent: both live for one step, in the cache. So may both directions of a bidirectional layer: the products of a
step are then twice the work, with half as many pauses between them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxrnn.cells import Cell, Parameters, State
from jaxrnn.ops import linearised, loop
from jaxrnn.ops.loop import Forward, Recurrence
from jaxrnn.ops.memory import Memory
from jaxrnn.ops.planning import Plan, choose
from jaxrnn.ops.reference import in_both_directions, one_by_one, restart_marks
from jaxrnn.ops.segments import cut_in_two, in_segments

Outputs = tuple[tuple[jax.Array, ...], tuple[tuple[State, ...], ...]]
# Of a cell, a plan, reverse, precision and inputs, of steps that the chunk divides: what `recur` returns.
Recur = Callable[[Cell, Plan, tuple[bool, ...], lax.PrecisionLike, tuple[Recurrence, ...]], Outputs]


def by_loop(forward: Forward = loop.run) -> Recur:
    """Return the recurrence whose gradients are those of the linearised loop, however the forward loop is run."""

    def run(cell, plan, reverse, precision, inputs):
        return recur(cell, plan, reverse, precision, forward, inputs)

    return run


def unroll(
    cell: Cell,
    layers: Sequence[Parameters],
    x: jax.Array,  # [T, B, I]
    states: Sequence[State],  # one per layer and direction
    valid: jax.Array | None,  # bool [T, B, 1]
    resets: jax.Array | None,  # bool [T, B, 1]
    *,
    reverse: bool = False,
    bidirectional: bool = False,
    precision: lax.PrecisionLike,
    memory: Memory | None = None,
    platform: str | None = None,
    plan: Plan | None = None,
    planner: Callable[..., Plan] | None = None,
    run: Recur | None = None,
) -> tuple[jax.Array, tuple[State, ...]]:
    """Return every step's ``h`` [T, B, R] of the last layer and all final states, as `reference.unroll` does.

    `planner` makes the plan, where none is given, in place of `planning.choose`; `run` is another way to compute
    a recurrence.
    """
    if x.shape[0] == 0:
        width = states[-1].h.shape[-1] * (2 if bidirectional else 1)
        return jnp.zeros((0, x.shape[1], width), states[-1].h.dtype), tuple(states)
    call = _Call(cell, precision, memory or Memory(), platform, plan, planner or choose, run or by_loop())
    time = {reverse: (valid, restart_marks(resets, reverse)) for reverse in (False, True)}
    if bidirectional:
        return in_both_directions(partial(call.both, time), layers, x, states)
    return call.segments(reverse, layers, x, states, *time[reverse])


class _Call(NamedTuple):
    """What the loops of one unroll have in common."""

    cell: Cell
    precision: lax.PrecisionLike
    memory: Memory
    platform: str | None
    plan: Plan | None
    planner: Callable[..., Plan]
    run: Recur

    def segments(self, reverse, layers, x, states, valid, restart):
        """Run layers in one direction, segment by segment where the memory policy says so."""

        def run(states, pieces):
            h, finals = self.stack(reverse, layers, pieces[0], states, *pieces[1:])
            return finals, h, ()

        finals, h, _ = in_segments(
            run, tuple(states), (x, valid, restart), self.memory.segments,
            reverse=reverse, offload=self.memory.offload,
        )  # fmt: skip
        return h, finals

    def stack(self, reverse, layers, x, states, valid, restart):
        """Run layers in one direction, together or one after the other."""
        plan = self._planned(layers, x, ragged=valid is not None)
        if len(layers) == 1 or plan.together:
            parameters = tuple(map(partial(loop.layer, self.cell), layers, states))
            inputs = Recurrence(x, parameters, tuple(states), valid, restart)
            (h,), (finals,) = self._unroll(plan, (reverse,), (inputs,))
            return h, finals
        finals = ()
        for params, state in zip(layers, states, strict=True):
            x, final = self.stack(reverse, [params], x, [state], valid, restart)
            finals += final
        return x, finals

    def both(self, time, layers, x, states):
        """Run the two directions of a layer, beside each other or one after the other."""
        plan = self._planned(layers, x, directions=2, ragged=time[False][0] is not None)
        if self.memory.segments or not plan.beside:
            return one_by_one(lambda reverse, *of_one: self.segments(reverse, *of_one, *time[reverse]))(
                layers, x, states
            )
        ahead, back = (
            Recurrence(x, (loop.layer(self.cell, params, state),), (state,), *time[reverse])
            for reverse, params, state in zip((False, True), layers, states, strict=True)
        )
        # The loop goes forward; what runs backwards is mirrored in time, before and after.
        (h, mirrored), finals = self._unroll(plan, (False, True), (ahead, _mirrored(back)))
        return (h, jnp.flip(mirrored, 0)), finals

    def _unroll(self, plan, reverse, inputs):
        return _unroll(self.run, self.cell, plan, reverse, self.precision, inputs)

    def _planned(self, layers, x, *, directions=1, ragged):
        steps, rows, features = x.shape
        size = steps, rows, features, layers[0]["weight_ih"].shape[0] // self.cell.gates
        options = {"layers": len(layers) // directions, "directions": directions, "ragged": ragged}
        plan = self.plan or self.planner(self.cell, *size, self.platform, keep=self.memory.keep, **options)
        return plan._replace(chunk=min(plan.chunk, steps))


def _mirrored(inputs: Recurrence) -> Recurrence:
    x, valid, restart = jax.tree.map(partial(jnp.flip, axis=0), (inputs.x, inputs.valid, inputs.restart))
    return inputs._replace(x=x, valid=valid, restart=restart)


def _unroll(
    run: Recur,
    cell: Cell,
    plan: Plan,
    reverse: tuple[bool, ...],
    precision: lax.PrecisionLike,
    inputs: tuple[Recurrence, ...],
) -> Outputs:
    """Return what `run` does, for any number of steps."""
    steps, states = inputs[0].x.shape[0], tuple(one.states for one in inputs)
    rest = steps % plan.chunk
    if rest == 0:
        return run(cell, plan, reverse, precision, inputs)
    main, tail = zip(*(_split(one, steps - rest) for one in inputs), strict=True)
    parts = [(plan, main), (plan._replace(chunk=rest), tail)]
    outputs = []
    for part_plan, part in reversed(parts) if reverse[0] else parts:
        part = tuple(one._replace(states=entering) for one, entering in zip(part, states, strict=True))
        h, states = run(cell, part_plan, reverse, precision, part)
        outputs.append(h)
    in_order = outputs[::-1] if reverse[0] else outputs
    return tuple(map(jnp.concatenate, zip(*in_order, strict=True))), states


def _split(inputs: Recurrence, steps: int) -> tuple[Recurrence, Recurrence]:
    """Cut time in two."""
    parts = cut_in_two((inputs.x, inputs.valid, inputs.restart), steps)
    main, tail = (inputs._replace(x=x, valid=valid, restart=restart) for x, valid, restart in parts)
    return main, tail


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3, 4))
def recur(
    cell: Cell,
    plan: Plan,
    reverse: tuple[bool, ...],
    precision: lax.PrecisionLike,
    forward: Forward,
    inputs: tuple[Recurrence, ...],
) -> Outputs:
    """Return, of each recurrence, its last layer's h [T, B, R] and all its final states; the chunk divides T.

    `reverse` says which of them run from their last step to the first. The loop does as the first one; the arrays
    of one that differs come, and go, mirrored in time.
    """
    h, finals, _ = forward(cell, plan, reverse, precision, inputs, None)
    return _as_outputs(h, inputs), finals


@partial(recur.defjvp, symbolic_zeros=True)
def _jvp(cell, plan, reverse, precision, forward, primals, tangents):
    (inputs,), (given,) = primals, tangents
    h, finals, left = forward(cell, plan, reverse, precision, inputs, cell.linearisation())
    tangent = linearised.tangent(cell, plan, reverse, precision, inputs, given, left)
    return (_as_outputs(h, inputs), finals), tangent


def _as_outputs(h: tuple[jax.Array, ...], inputs: tuple[Recurrence, ...]) -> tuple[jax.Array, ...]:
    return tuple(array.astype(loop.output_dtype(one)) for array, one in zip(h, inputs, strict=True))
