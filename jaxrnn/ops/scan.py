"""The fast unroll: everything that does not depend on the state happens outside the loop.

Forward, ``W_ih x + b`` is one matrix product over all steps, and only ``W_hh h`` and the elementwise step
stay inside. Backward likewise: the loop carries the state's cotangent alone, and the gradients of W_ih, W_hh,
W_hr, of the biases and of x are products over all steps, taken after it.

There is no hand-written backward pass. The recurrence has one custom *tangent* rule for every cell
(`_tangent`), in which each parameter's tangent enters as a product taken outside the loop::

    da_t = [dW_ih x_t + W_ih dx_t + db] + [dW_hh h_{t-1}]  +  W_hh dh_{t-1}
            outside, all t at once         outside              inside, t by t
    ds_t = J_t (da_t, ds_{t-1})                                 elementwise, `Derivative.tangent`

JAX transposes this into exactly the backward pass described above. So reverse mode, forward mode, `vmap` and
second derivatives all come from the same few lines, where `jax.custom_vjp` would lose forward mode.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxrnn.cells import Cell, Parameters, Residuals, State, add_bias, matmul
from jaxrnn.ops.reference import select


class Recurrence(NamedTuple):
    """What enters the loop."""

    gates_x: dict[str, jax.Array]  # {pre-activation: [T, B, H]}: the part that does not depend on the state
    bias_h: dict[str, jax.Array]  # {pre-activation: [H]} for those that have no part in `gates_x`
    weight_hh: jax.Array  # [G*H, R]
    weight_hr: jax.Array | None  # [R, H]
    own: dict[str, jax.Array]
    state: State
    valid: jax.Array | None  # bool [T, B, 1]
    restart: jax.Array | None  # bool [T, B, 1]


class Kept(NamedTuple):
    """What the loop leaves behind for the linearised loop, each [T, B, ...]."""

    step: tuple[jax.Array, ...]  # `Derivative.keep`
    unprojected: jax.Array | None  # h before the projection


def unroll(
    cell: Cell,
    params: Parameters,
    x: jax.Array,  # [T, B, I]
    state: State,
    valid: jax.Array | None,  # bool [T, B, 1]
    restart: jax.Array | None,  # bool [T, B, 1]
    *,
    reverse: bool,
    precision: lax.PrecisionLike,
) -> tuple[jax.Array, State]:
    """Return every step's ``h`` [T, B, R] and the final state, as `reference.unroll` does."""
    gates_x, bias_h = project(cell, params, x, precision)
    own, weight_hr = cell.own_parameters(params), params.get("weight_hr")
    inputs = Recurrence(gates_x, bias_h, params["weight_hh"], weight_hr, own, state, valid, restart)
    return recur(cell, reverse, precision, inputs)


def project(
    cell: Cell, params: Parameters, x: jax.Array, precision: lax.PrecisionLike
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Return ``W_ih x`` plus the biases of the same sums, and the biases that only ``W_hh h`` has.

    One array per gate: slicing gates out of one wide array inside the loop stops XLA's CPU compiler from
    vectorising the exponentials.
    """
    product = add_bias(matmul(x, params["weight_ih"], precision), params.get("bias_ih"))
    gates_x = dict(zip(cell.x_gates, jnp.split(product, cell.gates, -1), strict=True))
    bias_h = {}
    if "bias_hh" in params:
        blocks = jnp.split(params["bias_hh"].astype(product.dtype), cell.gates)
        for name, block in zip(cell.h_gates, blocks, strict=True):
            if name in gates_x:
                gates_x[name] = gates_x[name] + block
            else:
                bias_h[name] = block
    return gates_x, bias_h


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def recur(
    cell: Cell, reverse: bool, precision: lax.PrecisionLike, inputs: Recurrence
) -> tuple[jax.Array, State]:
    """Return every step's ``h`` [T, B, R] and the final state."""
    h, final, _ = _run(cell, reverse, precision, inputs, keep=None)
    return h, final


def _run(
    cell: Cell, reverse: bool, precision: lax.PrecisionLike, inputs: Recurrence, keep: Any
) -> tuple[jax.Array, State, Any]:
    """Run the loop; return also a `Kept` of what `keep` returns for each step."""
    zeros = jax.tree.map(jnp.zeros_like, inputs.state)

    def step(state, xs):
        gates_x, valid, restart = xs
        before = select(restart, zeros, state)
        blocks = _recurrent_blocks(cell, inputs.weight_hh, inputs.bias_h, before.h, precision)
        pre = cell.sum_blocks(gates_x, blocks)
        new = cell.step(pre, before, inputs.own)
        kept = Kept(keep(pre, before, inputs.own), None) if keep else None
        if inputs.weight_hr is not None:
            kept = kept._replace(unprojected=new.h) if kept else None
            new = new._replace(h=matmul(new.h, inputs.weight_hr, precision))
        after = select(valid, new, state, default=True)
        return after, (after.h, kept)

    final, (h, kept) = lax.scan(
        step, inputs.state, (inputs.gates_x, inputs.valid, inputs.restart), reverse=reverse
    )
    return h, final, kept


def _recurrent_blocks(cell, weight_hh, bias_h, h, precision):
    blocks = jnp.split(matmul(h, weight_hh, precision), cell.gates, -1)
    return tuple(
        block + bias_h[name] if name in bias_h else block
        for name, block in zip(cell.h_gates, blocks, strict=True)
    )


@partial(recur.defjvp, symbolic_zeros=True)
def _recur_jvp(cell, reverse, precision, primals, tangents):
    (inputs,), (d_inputs,) = primals, tangents
    derivative = cell.linearisation()
    h, final, kept = _run(cell, reverse, precision, inputs, derivative.keep)
    steps = Residuals(kept.step, _shift(h, inputs.state.h, inputs.restart, reverse), h)
    drive = _drive(cell, precision, steps.h_before, d_inputs)
    d_projected = None
    if d_inputs.weight_hr is not None and not _is_zero(d_inputs.weight_hr):
        d_projected = matmul(kept.unprojected, d_inputs.weight_hr, precision)
    d_state, d_own = jax.tree.map(_instantiate, (d_inputs.state, d_inputs.own), is_leaf=_is_zero)

    # Without the checkpoint, partial evaluation would store every factor of the linear map for every step;
    # with it, the factors are computed from the residuals where they are used.
    @partial(jax.checkpoint, prevent_cse=False)
    def linear_step(weight_hh, weight_hr, own, d_own, d_state, xs):
        drive, d_projected, residuals, valid, restart = xs
        before = select(restart, jax.tree.map(jnp.zeros_like, d_state), d_state)
        blocks = _recurrent_blocks(cell, weight_hh, {}, before.h, precision)
        d_pre = cell.sum_blocks(_with_zeros(cell, drive, blocks[0]), blocks)
        new = derivative.tangent(residuals, d_pre, before, own, d_own)
        if weight_hr is not None:
            dh = matmul(new.h, weight_hr, precision)
            new = new._replace(h=dh if d_projected is None else dh + d_projected)
        return select(valid, new, d_state, default=True)

    def step(d_state, xs):
        d_state = linear_step(inputs.weight_hh, inputs.weight_hr, inputs.own, d_own, d_state, xs)
        return d_state, d_state.h

    xs = (drive, d_projected, steps, inputs.valid, inputs.restart)
    d_final, dh = lax.scan(step, d_state, xs, reverse=reverse)
    return (h, final), (dh, d_final)


def _drive(cell, precision, h_before, d_inputs: Recurrence) -> dict[str, jax.Array]:
    """Return, per pre-activation, the sum [T, B, H] of all that does not wait for the loop."""
    drive = {name: d for name, d in d_inputs.gates_x.items() if not _is_zero(d)}

    def add(name, d):
        drive[name] = drive[name] + d if name in drive else d

    if not _is_zero(d_inputs.weight_hh):
        blocks = jnp.split(matmul(h_before, d_inputs.weight_hh, precision), cell.gates, -1)
        for name, block in zip(cell.h_gates, blocks, strict=True):
            add(name, block)
    for name, d in d_inputs.bias_h.items():
        if not _is_zero(d):
            add(name, jnp.broadcast_to(d, (*h_before.shape[:-1], d.shape[0])))
    return drive


def _with_zeros(cell: Cell, drive: dict[str, jax.Array], like: jax.Array) -> dict[str, jax.Array]:
    """Return `drive` with zeros for the sums that no tangent reaches and no ``W_hh h`` fills."""
    return {name: jnp.zeros_like(like) for name in cell.x_gates if name not in cell.h_gates} | drive


def _shift(h: jax.Array, h0: jax.Array, restart: jax.Array | None, reverse: bool) -> jax.Array:
    """Return the ``h`` each step started from (at padding, where nobody looks, some other state)."""
    before = jnp.concatenate([h[1:], h0[None]]) if reverse else jnp.concatenate([h0[None], h[:-1]])
    return before if restart is None else jnp.where(restart, 0, before)


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero)


def _instantiate(tangent: Any) -> jax.Array:
    return jnp.zeros(tangent.shape, tangent.dtype) if _is_zero(tangent) else tangent
