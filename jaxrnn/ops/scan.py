"""The fast unroll: what does not depend on the state happens outside the loop, a chunk of steps at a time.

Forward, ``W_ih x + b`` is one matrix product for many steps (or, where that is cheaper, part of the product that
the step makes anyway), and only ``W_hh h`` and the elementwise step stay inside. Backward likewise: the loop
carries the state's cotangent alone, and the gradients of W_ih, W_hh, W_hr, of the biases and of x are products over
the steps of a chunk, taken while what they multiply is still in the cache.

There is no hand-written backward pass. The recurrence has one custom *tangent* rule for every cell (`_tangent`), in
which each parameter's tangent enters as a product taken outside the inner loop::

    da_t = [dW_ih x_t + W_ih dx_t + db + dW_hh h_{t-1}]  +  W_hh dh_{t-1}
            outside, all t of a chunk at once               inside, t by t
    ds_t = J_t (da_t, ds_{t-1})                             elementwise, `Derivative.tangent`

JAX transposes this into exactly the backward pass described above: a loop over chunks that carries the gradients of
the parameters, and in it a loop over steps. So reverse mode, forward mode, `vmap` and second derivatives all come
from the same few lines, where `jax.custom_vjp` would lose forward mode.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxrnn.cells import Cell, Derivative, Parameters, Residuals, State, matmul
from jaxrnn.ops.planning import Plan, choose
from jaxrnn.ops.reference import select


class Recurrence(NamedTuple):
    """What is unrolled. The tangent of it has the same fields."""

    x: jax.Array  # [T, B, I]
    weight_ih: jax.Array  # [G*H, I]
    weight_hh: jax.Array  # [G*H, R]
    weight_hr: jax.Array | None  # [R, H]
    bias: dict[str, jax.Array]  # {pre-activation: [H]}, empty for a cell without bias
    own: dict[str, jax.Array]
    state: State
    valid: jax.Array | None  # bool [T, B, 1]
    restart: jax.Array | None  # bool [T, B, 1]


class Chunk(NamedTuple):
    """What is sliced along time for a chunk of the linearised recurrence, each array [K, B, ...]."""

    x: jax.Array
    dx: jax.Array | None
    valid: jax.Array | None
    restart: jax.Array | None
    start: jax.Array  # its first step, [] of int


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
    plan: Plan | None = None,
) -> tuple[jax.Array, State]:
    """Return every step's ``h`` [T, B, R] and the final state, as `reference.unroll` does."""
    steps, rows, features = x.shape
    if steps == 0:
        return jnp.zeros((0, *state.h.shape), state.h.dtype), state
    plan = plan or choose(cell, steps, rows, features, params["weight_ih"].shape[0] // cell.gates)
    inputs = Recurrence(
        x,
        params["weight_ih"],
        params["weight_hh"],
        params.get("weight_hr"),
        _biases(cell, params, state),
        cell.own_parameters(params),
        state,
        valid,
        restart,
    )
    plan = plan._replace(chunk=min(plan.chunk, steps))
    rest = steps % plan.chunk
    if rest == 0:
        return recur(cell, plan, reverse, precision, inputs)
    main, tail = _split(inputs, steps - rest)
    parts = [(plan, main), (plan._replace(chunk=rest), tail)]
    outputs = []
    for part_plan, part in reversed(parts) if reverse else parts:
        h, state = recur(cell, part_plan, reverse, precision, part._replace(state=state))
        outputs.append(h)
    return jnp.concatenate(outputs[::-1] if reverse else outputs), state


def _split(inputs: Recurrence, steps: int) -> tuple[Recurrence, Recurrence]:
    """Cut time in two. `lax.split` is transposed into one concatenation, slices would be into sums."""
    sizes = (steps, inputs.x.shape[0] - steps)

    def cut(array: jax.Array | None) -> Any:
        return (None, None) if array is None else lax.split(array, sizes)

    parts = zip(cut(inputs.x), cut(inputs.valid), cut(inputs.restart), strict=True)
    main, tail = (inputs._replace(x=x, valid=valid, restart=restart) for x, valid, restart in parts)
    return main, tail


def _biases(cell: Cell, params: Parameters, state: State) -> dict[str, jax.Array]:
    """Return one bias per pre-activation, the sum of those of both products."""
    biases: dict[str, jax.Array] = {}
    for gates, name in ((cell.x_gates, "bias_ih"), (cell.h_gates, "bias_hh")):
        if name not in params:
            continue
        for gate, block in zip(gates, jnp.split(params[name].astype(state.h.dtype), cell.gates), strict=True):
            biases[gate] = biases[gate] + block if gate in biases else block
    return biases


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3))
def recur(
    cell: Cell, plan: Plan, reverse: bool, precision: lax.PrecisionLike, inputs: Recurrence
) -> tuple[jax.Array, State]:
    """Return every step's ``h`` [T, B, R] and the final state; the plan's chunk divides T."""
    h, final, _ = _run(cell, plan, reverse, precision, inputs, derivative=None)
    return h, final


# The loop --------------------------------------------------------------------------------------------------


def _run(
    cell: Cell,
    plan: Plan,
    reverse: bool,
    precision: lax.PrecisionLike,
    inputs: Recurrence,
    derivative: Derivative | None,
) -> tuple[jax.Array, State, tuple[jax.Array, ...]]:
    """Run the loop; return also what the derivative keeps of each step, `_packed` where the plan says so."""
    zeros = jax.tree.map(jnp.zeros_like, inputs.state)
    packed = plan.packed and inputs.weight_hr is None
    output = derivative.output if packed and derivative is not None else None  # then h is not written
    sums = (_joined if plan.joined else _hoisted)(cell, precision, inputs)

    def step(state, xs):
        ahead, valid, restart = xs
        before = select(restart, zeros, state)
        pre = sums.of_step(ahead, before.h)
        new = cell.step(pre, before, inputs.own)
        kept = derivative.keep(pre, before, inputs.own) if derivative else ()
        if inputs.weight_hr is not None:
            new = new._replace(h=matmul(new.h, inputs.weight_hr, precision))
        after = select(valid, new, state, default=True)
        return after, (None if output else after.h, _packed(kept) if packed else kept)

    def chunk(state, xs):
        x, valid, restart = xs
        xs = (sums.ahead(x), valid, restart)
        return lax.scan(step, state, xs, reverse=reverse, unroll=plan.unroll)

    xs = (inputs.x, inputs.valid, inputs.restart)
    count = 1 if plan.joined else inputs.x.shape[0] // plan.chunk
    final, (h, kept) = _scan_chunks(chunk, inputs.state, _cut(xs, count), reverse)
    if output:
        h = output(_unpacked(kept, inputs), inputs.own)
    return h, final, kept


def _packed(kept: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Return what a step leaves behind as one array: where each write is a kernel, one is better than many."""
    return (jnp.concatenate(kept, axis=-1),) if len(kept) > 1 else kept


def _unpacked(kept: tuple[jax.Array, ...], inputs: Recurrence) -> tuple[jax.Array, ...]:
    """Return the arrays of what may have been packed, each as wide as the state."""
    if inputs.weight_hr is not None:  # then nothing is packed, since the state is not as wide as the gates
        return kept
    width = inputs.state.h.shape[-1]
    return tuple(part for array in kept for part in jnp.split(array, array.shape[-1] // width, axis=-1))


class _Sums(NamedTuple):
    """How the pre-activations come about."""

    ahead: Callable[[jax.Array], Any]  # of x [K, B, I], what is computed before the loop over these steps
    of_step: Callable[[Any, jax.Array], tuple[jax.Array, ...]]  # of that and h, the pre-activations of a step


def _joined(cell: Cell, precision: lax.PrecisionLike, inputs: Recurrence) -> _Sums:
    """One product per step, ``[x, h] [W_ih, W_hh]ᵀ``, for a cell whose two products enter the same sums."""
    weights = jnp.concatenate([inputs.weight_ih, inputs.weight_hh], axis=1).T
    bias = _wide_bias(cell, inputs)

    def of_step(x, h):
        product = matmul(jnp.concatenate([x, h.astype(x.dtype)], axis=-1), weights, precision, axis=0) + bias
        return tuple(jnp.split(product, cell.gates, -1))

    return _Sums(lambda x: x, of_step)


def _hoisted(cell: Cell, precision: lax.PrecisionLike, inputs: Recurrence) -> _Sums:
    """``W_ih x + b`` for all steps of a chunk, and ``W_hh h`` in the loop.

    One array per gate: slicing gates out of one wide array inside the loop stops XLA's CPU compiler from
    vectorising the exponentials.
    """
    weight_ih, weight_hh, bias = inputs.weight_ih.T, inputs.weight_hh.T, _wide_bias(cell, inputs)
    late = {name: block for name, block in inputs.bias.items() if name not in cell.x_gates}

    def ahead(x):
        product = matmul(x, weight_ih, precision, axis=0) + bias
        return dict(zip(cell.x_gates, jnp.split(product, cell.gates, -1), strict=True))

    def of_step(ahead, h):
        blocks = jnp.split(matmul(h, weight_hh, precision, axis=0), cell.gates, -1)
        blocks = [b + late[name] if name in late else b for name, b in zip(cell.h_gates, blocks, strict=True)]
        return cell.sum_blocks(ahead, tuple(blocks))

    return _Sums(ahead, of_step)


def _wide_bias(cell: Cell, inputs: Recurrence) -> jax.Array | float:
    return jnp.concatenate([inputs.bias[name] for name in cell.x_gates]) if inputs.bias else 0.0


def _cut(xs: Any, count: int) -> Any:
    """Cut the steps of arrays [T, ...] into [count, T / count, ...]."""
    return jax.tree.map(lambda a: a.reshape(count, a.shape[0] // count, *a.shape[1:]), xs)


def _scan_chunks(chunk: Any, carry: Any, pieces: Any, reverse: bool) -> tuple[Any, Any]:
    """Scan over chunks; return results [count, K, ...] as [T, ...]."""
    if jax.tree.leaves(pieces)[0].shape[0] == 1:
        return chunk(carry, jax.tree.map(lambda a: a[0], pieces))
    carry, ys = lax.scan(chunk, carry, pieces, reverse=reverse)
    return carry, jax.tree.map(lambda a: a.reshape(a.shape[0] * a.shape[1], *a.shape[2:]), ys)


# The linearised loop ---------------------------------------------------------------------------------------


@partial(recur.defjvp, symbolic_zeros=True)
def _tangent(cell, plan, reverse, precision, primals, tangents):
    (inputs,), (given,) = primals, tangents
    derivative = cell.linearisation()
    h, final, kept = _run(cell, plan, reverse, precision, inputs, derivative)
    d = jax.tree.map(lambda t: None if _is_zero(t) else t, given, is_leaf=_is_zero)
    d_state, d_own = jax.tree.map(_instantiate, (given.state, given.own), is_leaf=_is_zero)
    left = _Left(kept, h if derivative.output is None or inputs.weight_hr is not None else None)

    # Of all steps, only what is closed over and what is in `Chunk` is kept for the backward pass. Without the
    # checkpoint, partial evaluation would compute and store whatever else does not depend on a tangent.
    @partial(jax.checkpoint, prevent_cse=False)
    def chunk(d_state, piece):
        here = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, piece.start, plan.chunk), left)
        kept = _unpacked(here.kept, inputs)
        unprojected = derivative.output(kept, inputs.own) if derivative.output else here.h
        after = unprojected if here.h is None else here.h
        assert after is not None
        assert unprojected is not None
        before = _before(after, _entering(derivative, inputs, left, piece, reverse), piece, reverse)
        residuals = Residuals(kept, before, after)
        drive = _drive(cell, derivative, precision, inputs, d, piece, residuals)
        d_projected = None if d.weight_hr is None else matmul(unprojected, d.weight_hr, precision)
        steps = (drive, d_projected, residuals, piece.valid, piece.restart)
        step = _linear_step(cell, derivative, precision, inputs, d_own)
        return lax.scan(step, d_state, steps, reverse=reverse, unroll=plan.unroll)

    count = inputs.x.shape[0] // plan.chunk
    starts = plan.chunk * jnp.arange(count)
    x, dx, valid, restart = _cut((inputs.x, d.x, inputs.valid, inputs.restart), count)
    pieces = Chunk(x, dx, valid, restart, starts)
    d_final, dh = _scan_chunks(chunk, d_state, pieces, reverse)
    return (h, final), (dh, d_final)


class _Left(NamedTuple):
    """What the loop has left behind of all steps, each [T, B, ...]."""

    kept: tuple[jax.Array, ...]  # `Derivative.keep` of each step
    h: jax.Array | None  # after each step, where it does not follow from `kept`


def _linear_step(
    cell: Cell, derivative: Derivative, precision: lax.PrecisionLike, inputs: Recurrence, d_own: Any
) -> Any:
    """Return the body of the linearised loop."""

    # With this checkpoint, the factors of the linear map are computed where they are used, not stored beforehand.
    @partial(jax.checkpoint, prevent_cse=False)
    def linear_step(weight_hh, weight_hr, own, d_own, d_state, xs):
        (wide, only_x), d_projected, residuals, valid, restart = xs
        before = select(restart, jax.tree.map(jnp.zeros_like, d_state), d_state)
        sums = _sum(matmul(before.h, weight_hh, precision), wide)
        blocks = dict(zip(cell.h_gates, jnp.split(sums, cell.gates, -1), strict=True)) | only_x
        nothing = jnp.zeros_like(blocks[cell.h_gates[0]])
        d_pre = tuple(blocks.get(name, nothing) for name in cell.pre_activations)
        new = derivative.tangent(residuals, d_pre, before, own, d_own)
        if weight_hr is not None:
            new = new._replace(h=_sum(matmul(new.h, weight_hr, precision), d_projected))
        return select(valid, new, d_state, default=True)

    def step(d_state, xs):
        d_state = linear_step(inputs.weight_hh, inputs.weight_hr, inputs.own, d_own, d_state, xs)
        return d_state, d_state.h

    return step


def _drive(
    cell: Cell,
    derivative: Derivative,
    precision: lax.PrecisionLike,
    inputs: Recurrence,
    d: Recurrence,
    piece: Chunk,
    residuals: Residuals,
) -> tuple[jax.Array | None, dict[str, jax.Array]]:
    """Return all that enters the sums of a chunk without waiting for its loop.

    That is one wide array [K, B, G*H] in the order of `Cell.h_gates`, and {name: [K, B, H]} for the pre-activations
    in which h has no part; None where there is nothing.
    """
    alike = cell.x_gates == cell.h_gates
    wide = from_x = None
    if alike and d.weight_ih is not None and d.weight_hh is not None:  # in reverse: one gradient of both
        both = jnp.concatenate([piece.x, residuals.h_before.astype(piece.x.dtype)], axis=-1)
        wide = matmul(both, jnp.concatenate([d.weight_ih, d.weight_hh], axis=1), precision)
    else:
        from_x = None if d.weight_ih is None else matmul(piece.x, d.weight_ih, precision)
        wide = None if d.weight_hh is None else matmul(residuals.h_before, d.weight_hh, precision)
    if piece.dx is not None:
        from_x = _sum(matmul(piece.dx, inputs.weight_ih, precision), from_x)

    blocks: dict[str, jax.Array] = {}
    only_x: dict[str, jax.Array] = {}
    if derivative.own_drive and None not in d.own.values():
        blocks = derivative.own_drive(residuals, d.own)
    if alike:
        wide = _sum(from_x, wide)
    elif from_x is not None:
        for name, block in zip(cell.x_gates, jnp.split(from_x, cell.gates, -1), strict=True):
            (blocks if name in cell.h_gates else only_x)[name] = block
    if blocks:
        zeros = jnp.zeros_like(next(iter(blocks.values())))
        wide = _sum(jnp.concatenate([blocks.get(name, zeros) for name in cell.h_gates], axis=-1), wide)
    biases = {name: bias for name, bias in d.bias.items() if bias is not None}
    if biases:
        zero = jnp.zeros_like(next(iter(biases.values())))
        rows = residuals.h_before.shape[:-1]
        wide = _sum(_repeat(jnp.concatenate([biases.get(name, zero) for name in cell.h_gates]), rows), wide)
        for name in biases.keys() - cell.h_gates:
            only_x[name] = _sum(_repeat(biases[name], rows), only_x.get(name))
    return wide, only_x


def _before(after: jax.Array, entering: jax.Array, piece: Chunk, reverse: bool) -> jax.Array:
    """Return the h [K, B, R] with which each step of a chunk begins, given that after each step."""
    if piece.valid is not None:  # before its first valid step, a row is still as it was
        after = jnp.where(piece.valid, after, entering)
    if reverse:
        before = jnp.concatenate([after[1:], entering[None]])
    else:
        before = jnp.concatenate([entering[None], after[:-1]])
    return before if piece.restart is None else jnp.where(piece.restart, 0, before)


def _entering(
    derivative: Derivative, inputs: Recurrence, left: _Left, piece: Chunk, reverse: bool
) -> jax.Array:
    """Return the h [B, R] with which a chunk begins."""
    steps, first = inputs.x.shape[0], inputs.state.h
    previous = piece.start + piece.x.shape[0] if reverse else piece.start - 1
    inside = (previous >= 0) & (previous < steps)

    def of_previous(array: jax.Array) -> jax.Array:
        return lax.dynamic_index_in_dim(array, jnp.clip(previous, 0, steps - 1), keepdims=False)

    if left.h is not None:
        h = of_previous(left.h)
    else:
        assert derivative.output is not None
        h = derivative.output(_unpacked(jax.tree.map(of_previous, left.kept), inputs), inputs.own)
        if inputs.valid is not None:
            inside = inside & of_previous(inputs.valid)
    return jnp.where(inside, h, first)


def _sum(a: jax.Array | None, b: jax.Array | None) -> Any:
    return b if a is None else a if b is None else a + b


def _repeat(vector: jax.Array, rows: tuple[int, ...]) -> jax.Array:
    return jnp.broadcast_to(vector, (*rows, *vector.shape))


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero)


def _instantiate(tangent: Any) -> jax.Array:
    return jnp.zeros(tangent.shape, tangent.dtype) if _is_zero(tangent) else tangent
