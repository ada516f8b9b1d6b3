"""The unroll in parallel over time, for cells as they are: quasi-DEER with a certificate.

An unroll is the solution of one equation in all its states, ``s_t = step(s_{t-1}, x_t)``. Newton's method solves
it in few iterations, each of them a linear recurrence, which an associative scan computes in log T rounds: DEER
(Lim et al., "Parallelizing non-linear sequential models over the sequence length", ICLR 2024, arXiv 2309.12252). Of
the Jacobians J_t we keep what each unit does to itself, a 1x1 or 2x2 block, as quasi-DEER does (Gonzalez et al.,
"Towards scalable and stable parallelization of nonlinear RNNs", NeurIPS 2024, arXiv 2407.19115), the diagonal of
W_hh in it. W_hh itself remains what it is, dense::

    r_t = step(s_{t-1}, x_t) - s_t              one product for all steps
    δ_t = diag(J_t) δ_{t-1} + r_t               one associative scan
    s_t ← s_t + δ_t                             until r is within the tolerance

The residual r is measured on what is returned. Where it is not within the tolerance after so many iterations, or
is not finite, the result is computed by a loop over time instead: a chaotic network costs time, never accuracy.

The derivative is that of the solved equation, a linear system in the tangents, and transposed in the cotangents.
The same iteration solves both, with a certificate and a loop of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxrnn.cells import Cell, Parameters, State
from jaxrnn.ops import loop
from jaxrnn.ops import precision as precisions
from jaxrnn.ops.planning import target
from jaxrnn.ops.quasi_deer.iteration import Certificate, Limits
from jaxrnn.ops.quasi_deer.recurrence import Marks, Problem, Recurrence, solve
from jaxrnn.ops.reference import layer_by_layer, restart_marks, without_padding

__all__ = ["Certificate", "QuasiDeer", "default_limits"]

# Where products are exact but for rounding, residuals of 2 to 6 units in the last place remain (H = 64 to 512).
ROUNDINGS = 8
ITERATIONS = 64  # in float32; networks as torch initialises them need 11 to 26
TF32, BFLOAT16, BFLOAT16_3X = 2.0**-11, 2.0**-8, 2.0**-16  # what products of float32 round to


@dataclass(frozen=True)
class QuasiDeer:
    """How an unroll is solved in parallel over time; a value of `implementation`, as "quasi_deer" is with defaults.

    tolerance: the largest residual that is accepted, see `Certificate`. By default 8 units in the last place of
        float32 or float64, or one rounding of what the products round their operands to (bfloat16, float16, TF32),
        below which a residual need not fall: `default_limits`.
    max_iterations: by default 64, and twice that in float64.
    report: called as ``report(what, certificate)`` each time that a layer and direction was solved, where ``what``
        is "states", "tangents" or "gradients"; from compiled code too, by `jax.debug.callback`.
    """

    tolerance: float | None = None
    max_iterations: int | None = None
    report: Callable[[str, Certificate], None] | None = None

    def __post_init__(self) -> None:
        if self.tolerance is not None and not self.tolerance > 0:
            raise ValueError(
                f"tolerance={self.tolerance!r} should be positive. Leave it at None for one that suits the dtype."
            )
        if self.max_iterations is not None and not self.max_iterations > 0:
            raise ValueError(
                f"max_iterations={self.max_iterations!r} should be positive. implementation='scan' is the loop."
            )

    def __call__(self, *args: Any, **options: Any) -> tuple[jax.Array, tuple[State, ...]]:
        """Return what `reference.unroll` does, given the same arguments."""
        return self.certified(*args, **options)[:2]

    def certified(
        self,
        cell: Cell,
        layers: Sequence[Parameters],
        x: jax.Array,  # [T, B, I]
        states: Sequence[State],  # one per layer and direction
        valid: jax.Array | None = None,  # bool [T, B, 1]
        resets: jax.Array | None = None,  # bool [T, B, 1]
        *,
        reverse: bool = False,
        bidirectional: bool = False,
        precision: lax.PrecisionLike = None,
    ) -> tuple[jax.Array, tuple[State, ...], tuple[Certificate, ...]]:
        """Return what `reference.unroll` does, and the certificate of each layer and direction.

        The arguments are those of `reference.unroll`, states in `jaxrnn.cells.carry_dtype`.
        """
        certificates = []

        def layer(reverse, params, x, state):
            marks = Marks(valid, restart_marks(resets, reverse))
            h, final, certificate = self._layer(cell, precision, reverse, params, x, state, marks)
            certificates.append(certificate)
            return h, final

        h, ends = layer_by_layer(layer, layers, x, states, reverse=reverse, bidirectional=bidirectional)
        return h, ends, tuple(certificates)

    def _layer(self, cell, precision, reverse, params, x, state, marks):
        """Run one layer in one direction; backwards, time is mirrored."""
        dtype = state.h.dtype
        if x.shape[0] == 0:
            nothing = Certificate(jnp.int32(0), jnp.zeros((), dtype), jnp.array(True))
            return jnp.zeros((0, *state.h.shape), dtype), state, nothing
        layer = loop.layer(cell, params, state)
        ahead = loop.sums_of(cell, precision, layer, joined=False).ahead(without_padding(marks.valid, x))
        if reverse:
            ahead, marks = _mirrored((ahead, marks))
        limits = self._limits(dtype, layer.weight_hh.dtype, precision)
        problem = Problem(cell, precision, limits, self.report)
        states, certificate = solve(problem, Recurrence(layer, ahead, state), marks)
        final = jax.tree.map(lambda s: s[-1], states)
        return _mirrored(states.h) if reverse else states.h, final, certificate

    def _limits(self, *of: Any) -> Limits:
        default = default_limits(*of)
        return Limits(self.tolerance or default.tolerance, self.max_iterations or default.iterations)


def default_limits(dtype: Any, weight_dtype: Any, precision: lax.PrecisionLike = None) -> Limits:
    """Return the limits for states of `dtype`, on the platform that is planned for.

    A product that rounds its operands makes a step a function with jumps: two trajectories that differ by less than
    a rounding go apart by one. So no iteration gets its residual below what the roundings of one product add up to:
    in bfloat16 it stalls at 1e-4 (LSTM, GRU) to 1.4e-3 (RNN) with torch's initialisation, H = 512, and 4e-3 is
    accepted.
    """
    iterations = ITERATIONS * (2 if dtype == jnp.float64 else 1)
    exact = ROUNDINGS * float(jnp.finfo(dtype).eps)
    if jnp.finfo(weight_dtype).bits < 32:
        return Limits(max(exact, float(jnp.finfo(weight_dtype).eps) / 2), iterations)
    rounded = 0.0 if dtype == jnp.float64 else _rounding_of_products(target().platform, precision)
    return Limits(max(exact, rounded), iterations)


def _rounding_of_products(platform: str, precision: lax.PrecisionLike) -> float:
    """Return to what products of float32 round their operands, relatively; 0 where they do not."""
    names = precisions.names(precision)
    if platform == "cpu" or names <= {"highest", "float32"}:
        return 0.0
    if platform == "tpu":
        return BFLOAT16_3X if names <= {"high", "bfloat16_3x"} else BFLOAT16
    return TF32


def _mirrored(tree: Any) -> Any:
    return jax.tree.map(lambda a: jnp.flip(a, 0), tree)
