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
cotangent: both live for one step, in the cache.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxrnn.cells import Cell, Parameters, State
from jaxrnn.ops import linearised, loop
from jaxrnn.ops.loop import Forward, Recurrence
from jaxrnn.ops.planning import Plan, choose


def unroll(
    cell: Cell,
    layers: Sequence[Parameters],
    x: jax.Array,  # [T, B, I]
    states: Sequence[State],  # one per layer
    valid: jax.Array | None,  # bool [T, B, 1]
    restart: jax.Array | None,  # bool [T, B, 1]
    *,
    reverse: bool,
    precision: lax.PrecisionLike,
    plan: Plan | None = None,
    forward: Forward = loop.run,
) -> tuple[jax.Array, tuple[State, ...]]:
    """Return every step's ``h`` [T, B, R] of the last layer and all final states, as `reference.unroll` does.

    `forward` is another way to run the loop; gradients are those of the linearised loop all the same.
    """
    steps, rows, features = x.shape
    if steps == 0:
        return jnp.zeros((0, *states[-1].h.shape), states[-1].h.dtype), tuple(states)
    size = steps, rows, features, layers[0]["weight_ih"].shape[0] // cell.gates
    chosen = plan or choose(cell, *size, layers=len(layers), ragged=valid is not None)
    if len(layers) > 1 and not chosen.together:
        finals: tuple[State, ...] = ()
        for params, state in zip(layers, states, strict=True):
            x, final = unroll(
                cell, [params], x, [state], valid, restart,
                reverse=reverse, precision=precision, plan=plan, forward=forward,
            )  # fmt: skip
            finals += final
        return x, finals
    parameters = (loop.layer(cell, params, state) for params, state in zip(layers, states, strict=True))
    inputs = Recurrence(x, tuple(parameters), tuple(states), valid, restart)
    return _unroll(cell, chosen._replace(chunk=min(chosen.chunk, steps)), reverse, precision, forward, inputs)


def _unroll(
    cell: Cell, plan: Plan, reverse: bool, precision: lax.PrecisionLike, forward: Forward, inputs: Recurrence
) -> tuple[jax.Array, tuple[State, ...]]:
    steps, states = inputs.x.shape[0], inputs.states
    rest = steps % plan.chunk
    if rest == 0:
        return recur(cell, plan, reverse, precision, forward, inputs)
    main, tail = _split(inputs, steps - rest)
    parts = [(plan, main), (plan._replace(chunk=rest), tail)]
    outputs = []
    for part_plan, part in reversed(parts) if reverse else parts:
        h, states = recur(cell, part_plan, reverse, precision, forward, part._replace(states=states))
        outputs.append(h)
    return jnp.concatenate(outputs[::-1] if reverse else outputs), states


def _split(inputs: Recurrence, steps: int) -> tuple[Recurrence, Recurrence]:
    """Cut time in two. `lax.split` is transposed into one concatenation, slices would be into sums."""
    sizes = (steps, inputs.x.shape[0] - steps)

    def cut(array: jax.Array | None) -> Any:
        return (None, None) if array is None else lax.split(array, sizes)

    parts = zip(cut(inputs.x), cut(inputs.valid), cut(inputs.restart), strict=True)
    main, tail = (inputs._replace(x=x, valid=valid, restart=restart) for x, valid, restart in parts)
    return main, tail


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3, 4))
def recur(
    cell: Cell, plan: Plan, reverse: bool, precision: lax.PrecisionLike, forward: Forward, inputs: Recurrence
) -> tuple[jax.Array, tuple[State, ...]]:
    """Return the last layer's h [T, B, R] and the final states of all; the plan's chunk divides T."""
    h, finals, _ = forward(cell, plan, reverse, precision, inputs, None)
    return h, finals


@partial(recur.defjvp, symbolic_zeros=True)
def _jvp(cell, plan, reverse, precision, forward, primals, tangents):
    (inputs,), (given,) = primals, tangents
    h, finals, left = forward(cell, plan, reverse, precision, inputs, cell.linearisation())
    return (h, finals), linearised.tangent(cell, plan, reverse, precision, inputs, given, left)
