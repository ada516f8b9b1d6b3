"""One recurrence, seen as one equation in all its states, and the derivative of its solution."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxrnn.cells import Cell, State, matmul
from jaxrnn.ops.affine import Blocks, affine_scan
from jaxrnn.ops.loop import Layer, sums_of
from jaxrnn.ops.quasi_deer.iteration import Certificate, Limits, iterate
from jaxrnn.ops.reference import select


class Recurrence(NamedTuple):
    """What the states follow from. The tangent of it has the same fields."""

    layer: Layer
    ahead: dict[str, jax.Array]  # {pre-activation: W_ih x + b, [T, B, H]}
    initial: State


class Marks(NamedTuple):
    """Which steps are none, and which begin from zeros: bool [T, B, 1]."""

    valid: jax.Array | None
    restart: jax.Array | None


class Problem(NamedTuple):
    """What does not change while a recurrence is solved."""

    cell: Cell
    precision: lax.PrecisionLike
    limits: Limits
    report: Callable[[str, Certificate], None] | None

    def told(self, what: str, result: tuple[State, Certificate]) -> tuple[State, Certificate]:
        """Return the result, reported."""
        if self.report:
            jax.debug.callback(partial(self.report, what), result[1])
        return result


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def solve(problem: Problem, recurrence: Recurrence, marks: Marks) -> tuple[State, Certificate]:
    """Return the states after all steps, each field [T, B, ...], and the certificate."""
    initial = recurrence.initial
    steps = next(iter(recurrence.ahead.values())).shape[0]

    def residual(states):
        before = entering(initial, states)
        after = jax.tree.map(jnp.subtract, transition(problem, recurrence, marks, before), states)
        return after, diagonal(problem, recurrence, marks, before)

    def sequential():
        def step(state, xs):
            ahead, marks = xs
            state = transition(problem, recurrence._replace(ahead=ahead), marks, state)
            return state, state

        return lax.scan(step, initial, (recurrence.ahead, marks))[1]

    start = jax.tree.map(lambda s: jnp.zeros((steps, *s.shape), s.dtype), initial)
    correction = partial(solve_diagonal, problem, recurrence.layer, marks)
    return problem.told("states", iterate(problem.limits, residual, correction, start, sequential))


@solve.defjvp
def _tangent(problem, primals, tangents):
    """Differentiate the equation where it is solved: ``ds = A ds + b``, A the derivative by the states before."""
    (recurrence, marks), (given, _) = primals, tangents
    states, certificate = solve(problem, recurrence, marks)

    def after(recurrence, states):
        return transition(problem, recurrence, marks, entering(recurrence.initial, states))

    drive = jax.jvp(lambda recurrence: after(recurrence, states), (recurrence,), (given,))[1]
    pushed = jax.linearize(lambda states: after(recurrence, states), states)[1]

    def system(tangent):
        return jax.tree.map(jnp.subtract, tangent, pushed(tangent))

    linear = _Linear(problem, recurrence, marks, entering(recurrence.initial, states))
    tangent = lax.custom_linear_solve(system, drive, linear.solve, linear.solve_transposed)
    none: Any = np.zeros((), jax.dtypes.float0)
    return (states, certificate), (tangent, Certificate(none, jnp.zeros_like(certificate.residual), none))


class _Linear(NamedTuple):
    """The linear system of the tangents, and its transpose, each solved by the iteration that the states are."""

    problem: Problem
    recurrence: Recurrence
    marks: Marks
    before: State  # the states before all steps

    def solve(self, system, drive):
        result = self._iterate(system, drive, self._correction(), self.one_by_one)
        return self.problem.told("tangents", result)[0]

    def solve_transposed(self, system, drive):
        def transposed(function):
            return lambda of: jax.linear_transpose(function, of)(of)[0]

        parts = transposed(self._correction()), transposed(self.one_by_one)
        return self.problem.told("gradients", self._iterate(system, drive, *parts, reverse=True))[0]

    def _iterate(self, system, drive, correction, sequential, reverse=False):
        def residual(states):
            return jax.tree.map(jnp.subtract, drive, system(states)), ()

        return iterate(
            self.problem.limits, residual, lambda _, r: correction(r), jax.tree.map(jnp.zeros_like, drive),
            lambda: sequential(drive), reverse=reverse,
        )  # fmt: skip

    def _correction(self):
        blocks = diagonal(self.problem, self.recurrence, self.marks, self.before)
        return partial(solve_diagonal, self.problem, self.recurrence.layer, self.marks, blocks)

    def one_by_one(self, drive):
        """Solve the system step after step."""
        recurrence = self.recurrence

        def step(tangent, xs):
            drive, ahead, marks, before = xs
            here = partial(transition, self.problem, recurrence._replace(ahead=ahead), marks)
            tangent = jax.tree.map(jnp.add, jax.jvp(here, (before,), (tangent,))[1], drive)
            return tangent, tangent

        nothing = jax.tree.map(jnp.zeros_like, recurrence.initial)
        return lax.scan(step, nothing, (drive, recurrence.ahead, self.marks, self.before))[1]


# One step, or all of them: `ahead`, `marks` and states with or without T ------------------------------------


def entering(initial: State, states: State) -> State:
    """Return the states before all steps, given those after them."""
    return jax.tree.map(lambda first, s: jnp.concatenate([first[None], s[:-1]]), initial, states)


def transition(problem: Problem, recurrence: Recurrence, marks: Marks, entering: State) -> State:
    """Return the states after steps, given those that enter them."""
    cell, layer = problem.cell, recurrence.layer
    pre, before = _before(problem, recurrence, marks, entering)
    new = cell.step(pre, before, layer.own)
    if layer.weight_hr is not None:
        new = new._replace(h=matmul(new.h, layer.weight_hr, problem.precision))
    return select(marks.valid, new, entering, default=True)


def _before(problem, recurrence, marks, entering):
    """Return what the elementwise step is given: pre-activations and state."""
    before = select(marks.restart, jax.tree.map(jnp.zeros_like, entering), entering)
    sums = sums_of(problem.cell, problem.precision, recurrence.layer, joined=False)
    return sums.of_step(recurrence.ahead, before.h), before


def diagonal(problem: Problem, recurrence: Recurrence, marks: Marks, entering: State) -> Blocks:
    """Return how each unit's fields after a step follow from its own before it: ``[i][j]`` is ds'_i / ds_j.

    That is the elementwise step's derivative with the diagonals of W_hh. A projected h belongs to no unit: its
    column is zero, and its row that of h before the projection.
    """
    cell, layer = problem.cell, recurrence.layer
    pre, before = _before(problem, recurrence, marks, entering)
    of_h = {}
    if layer.weight_hr is None:
        hidden = layer.weight_hh.shape[-1]
        square = layer.weight_hh.reshape(cell.gates, hidden, hidden).astype(pre[0].dtype)
        of_h = dict(zip(cell.h_gates, jnp.diagonal(square, axis1=1, axis2=2), strict=True))
    nothing = jnp.zeros_like(pre[0])

    def column(field):
        d_state = cell.state(*(jnp.full_like(s, n == field) for n, s in enumerate(before)))
        d_pre = tuple(nothing + (of_h.get(name, 0) if field == 0 else 0) for name in cell.pre_activations)
        return jax.jvp(lambda pre, state: cell.step(pre, state, layer.own), (pre, before), (d_pre, d_state))[
            1
        ]

    def masked(i, j, factor):
        if marks.restart is not None:
            factor = jnp.where(marks.restart, 0, factor)
        return factor if marks.valid is None else jnp.where(marks.valid, factor, i == j)

    rows = zip(*map(column, range(len(before))), strict=True)
    return [[masked(i, j, factor) for j, factor in enumerate(row)] for i, row in enumerate(rows)]


def solve_diagonal(problem: Problem, layer: Layer, marks: Marks, blocks: Blocks, residual: State) -> State:
    """Return the correction of all states that a residual asks for, were each unit to depend on itself alone."""
    if layer.weight_hr is None:
        return problem.cell.state(*affine_scan(blocks, residual))
    rest = affine_scan([row[1:] for row in blocks[1:]], residual[1:])
    earlier = (jnp.concatenate([jnp.zeros_like(s[:1]), s[:-1]]) for s in rest)
    unprojected = [a * s for a, s in zip(blocks[0][1:], earlier, strict=True)]
    h = residual.h + matmul(jnp.sum(jnp.stack(unprojected), 0), layer.weight_hr, problem.precision)
    if marks.valid is not None:  # padding hands h on
        (h,) = affine_scan([[jnp.where(marks.valid, 0, jnp.ones_like(h[..., :1]))]], [h])
    return problem.cell.state(h, *rest)
