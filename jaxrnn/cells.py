"""What one recurrent network does in one step, as values.

A `Cell` is elementwise apart from two products: ``W_ih x`` and ``W_hh h`` (and the LSTM's projection). Those
are the seam where every implementation plugs in, so a cell only says what happens to the *pre-activations*,
the sums that enter its nonlinearities::

    pre[name] = (W_ih x + b_ih)[rows of name] + (W_hh h + b_hh)[rows of name]

A new cell is one function, one constant, one twin in `torch_ref.cells` and one parity case.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import sigmoid

Parameters = Mapping[str, jax.Array]
PreActivations = tuple[jax.Array, ...]  # each [B, H], in the order of `Cell.pre_activations`


class HiddenState(NamedTuple):
    """What flows through time in a vanilla RNN and in a GRU."""

    h: jax.Array  # [B, H]


class LSTMState(NamedTuple):
    """What flows through time in an LSTM; ``h`` has R features when the cell projects."""

    h: jax.Array  # [B, R]
    c: jax.Array  # [B, H]


State = Any  # one of the NamedTuples above, or a new cell's own: the first field is `h`, the output


class Step(Protocol):
    """The elementwise part of a step: arrays [B, H] in, the next state out."""

    def __call__(self, pre: PreActivations, state: State, own: Parameters) -> State:
        """Return the state after the step, before any projection."""


class Residuals(NamedTuple):
    """What a linearised step may look at."""

    kept: tuple[jax.Array, ...]  # what `Derivative.keep` returned for this step, each [B, H]
    h_before: jax.Array  # [B, R]
    h_after: jax.Array  # [B, R]


@dataclass(frozen=True)
class Derivative:
    """The derivative of a step, written by hand as a linear map.

    JAX transposes the map itself, so one definition serves forward and reverse mode.

    keep: what each step leaves behind, of its pre-activations, state and own parameters.
    tangent: of `Residuals`, the tangents of pre-activations and state, the own parameters and their tangents: the
        tangent of the state after the step, before any projection.
    output: of what was kept and the own parameters: ``h`` before any projection, for any number of steps at once.
        None where it does not follow from them; then it is stored.
    own_drive: of `Residuals` and the tangents of the own parameters: what these add to the tangents of
        pre-activations, {name: [B, H]}, for any number of steps at once. None where `tangent` sees to it.
    """

    keep: Callable[[PreActivations, State, Parameters], tuple[jax.Array, ...]]
    tangent: Callable[[Residuals, PreActivations, State, Parameters, Parameters], State]
    output: Callable[[tuple[jax.Array, ...], Parameters], jax.Array] | None = None
    own_drive: Callable[[Residuals, Parameters], dict[str, jax.Array]] | None = None


@dataclass(frozen=True, repr=False)
class Cell:
    """One recurrent network, seen from one step.

    `x_gates` and `h_gates` name the pre-activation that each block of H rows of ``weight_ih`` and of
    ``weight_hh`` is added to. They differ where a cell keeps the two parts apart, as the GRU does.
    """

    name: str
    x_gates: tuple[str, ...]
    h_gates: tuple[str, ...]
    state: type[Any]  # a NamedTuple, see `State`
    step: Step
    own: tuple[tuple[str, int], ...] = ()  # (name, rows) of parameters [rows, H] that the step itself reads
    derivative: Derivative | None = None  # None: `jax.jvp` of the step
    reads_h: bool = True  # False: step and derivative know h by its product with W_hh alone

    def __repr__(self) -> str:
        return f"<cell {self.name}>"

    @property
    def gates(self) -> int:
        """G, the number of blocks of H rows in ``weight_ih`` and ``weight_hh``."""
        return len(self.x_gates)

    @property
    def joinable(self) -> bool:
        """Whether both products enter the same sums, so that ``[x, h] [W_ih, W_hh]ᵀ`` is one."""
        return self.x_gates == self.h_gates

    @property
    def pre_activations(self) -> tuple[str, ...]:
        """The names of the sums that the step receives, in its order."""
        return tuple(dict.fromkeys(self.x_gates + self.h_gates))

    def parameter_shapes(
        self, input_features: int, hidden_features: int, *, bias: bool = True, projected_features: int = 0
    ) -> dict[str, tuple[int, ...]]:
        """Return {name: shape} in PyTorch's order of registration."""
        rows = self.gates * hidden_features
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, input_features),
            "weight_hh": (rows, projected_features or hidden_features),
        }
        if bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        if projected_features:
            shapes["weight_hr"] = (projected_features, hidden_features)
        return shapes | {name: (count, hidden_features) for name, count in self.own}

    def state_features(self, hidden_features: int, projected_features: int = 0) -> tuple[int, ...]:
        """Return the number of features of each field of the state."""
        rest = len(self.state._fields) - 1
        return (projected_features or hidden_features, *[hidden_features] * rest)

    def own_parameters(self, params: Parameters) -> dict[str, jax.Array]:
        """Return the parameters that only the elementwise step reads."""
        return {name: params[name] for name, _ in self.own}

    def sum_blocks(self, x_blocks: Mapping[str, jax.Array], h_blocks: PreActivations) -> PreActivations:
        """Return the pre-activations, given both products cut into blocks of H columns."""
        pre = dict(x_blocks)
        for name, block in zip(self.h_gates, h_blocks, strict=True):
            pre[name] = pre[name] + block if name in pre else block
        return tuple(pre[name] for name in self.pre_activations)

    def linearisation(self) -> Derivative:
        """Return the hand-written derivative, or the automatic one."""
        return self.derivative or automatic_derivative(self)


def automatic_derivative(cell: Cell) -> Derivative:
    """Return the derivative of a step by `jax.jvp`, keeping its pre-activations and state."""
    step, count = cell.step, len(cell.pre_activations)

    def keep(pre, state, own):
        return (*pre, *state)

    def tangent(residuals, d_pre, d_state, own, d_own):
        pre, state = residuals.kept[:count], cell.state(*residuals.kept[count:])
        return jax.jvp(step, (pre, state, own), (d_pre, d_state, d_own))[1]

    def output(kept, own):
        return step(kept[:count], cell.state(*kept[count:]), own).h

    return Derivative(keep, tangent, output)


# One whole step ------------------------------------------------------------------------------------------


def carry_dtype(dtype: Any) -> Any:
    """Return the dtype in which a state is carried through time: float32 for the half-precision types.

    The recurrence rounds its state T times; in bfloat16 that costs 3 to 5 times the error (and the products
    below accumulate in this dtype on every accelerator anyway).
    """
    return jnp.promote_types(dtype, jnp.float32)


def matmul(
    x: jax.Array, weight: jax.Array, precision: lax.PrecisionLike = None, *, axis: int = 1
) -> jax.Array:
    """Return ``x Wᵀ`` [..., rows], multiplied in the dtype of `weight`, summed in its carry dtype.

    `axis` is that of the features of `x` in the weight: 1 in torch's layout, 0 in one that was transposed.
    """
    return lax.dot_general(
        x.astype(weight.dtype),
        weight,
        (((x.ndim - 1,), (axis,)), ((), ())),
        precision=precision,
        preferred_element_type=carry_dtype(weight.dtype),
    )


def add_bias(x: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Return ``x + bias``, or `x` for a cell without bias."""
    return x if bias is None else x + bias.astype(x.dtype)


def advance(
    cell: Cell, params: Parameters, x: jax.Array, state: State, precision: lax.PrecisionLike = None
) -> State:
    """Return the state after one step on `x` [B, I], with nothing hoisted, fused or saved.

    `params` holds ``weight_ih`` [G*H, I], ``weight_hh`` [G*H, R] and, where the cell has them, ``bias_ih``,
    ``bias_hh`` [G*H], ``weight_hr`` [R, H] and the cell's own.
    """
    gates_x = add_bias(matmul(x, params["weight_ih"], precision), params.get("bias_ih"))
    gates_h = add_bias(matmul(state.h, params["weight_hh"], precision), params.get("bias_hh"))
    x_blocks = dict(zip(cell.x_gates, jnp.split(gates_x, cell.gates, -1), strict=True))
    pre = cell.sum_blocks(x_blocks, tuple(jnp.split(gates_h, cell.gates, -1)))
    new = cell.step(pre, state, cell.own_parameters(params))
    if "weight_hr" in params:
        new = new._replace(h=matmul(new.h, params["weight_hr"], precision))
    return new


# Vanilla RNN ---------------------------------------------------------------------------------------------


def tanh_step(pre: PreActivations, state: HiddenState, own: Parameters) -> HiddenState:
    """Elman network (1990)::

    h' = tanh(W_ih x + b_ih + W_hh h + b_hh)
    """
    (a,) = pre
    return HiddenState(jnp.tanh(a))


def _tanh_tangent(residuals, d_pre, d_state, own, d_own):
    h = residuals.h_after
    return HiddenState((1 - h * h) * d_pre[0])


def relu_step(pre: PreActivations, state: HiddenState, own: Parameters) -> HiddenState:
    """Elman network with a rectifier::

        h' = max(0, W_ih x + b_ih + W_hh h + b_hh)

    The derivative at 0 is 0, as in PyTorch.
    """
    (a,) = pre
    return HiddenState(jax.nn.relu(a))


def _relu_tangent(residuals, d_pre, d_state, own, d_own):
    return HiddenState(jnp.where(residuals.h_after > 0, d_pre[0], 0))


def _keep_nothing(pre, state, own):
    return ()


# Long short-term memory ----------------------------------------------------------------------------------


def lstm_step(pre: PreActivations, state: LSTMState, own: Parameters) -> LSTMState:
    """Long short-term memory with a forget gate::

        i, f, o = σ(a_i), σ(a_f), σ(a_o);   g = tanh(a_g)
        c' = f ⊙ c + i ⊙ g
        h' = o ⊙ tanh(c')

    Rows of the weights in the order i, f, g, o. Hochreiter & Schmidhuber (1997); forget gate by Gers et al.
    (2000); with ``weight_hr``, h' is projected to R features: Sak et al. (2014), arXiv 1402.1128.
    """
    a_i, a_f, a_g, a_o = pre
    c = sigmoid(a_f) * state.c + sigmoid(a_i) * jnp.tanh(a_g)
    return LSTMState(sigmoid(a_o) * jnp.tanh(c), c)


def _lstm_keep(pre, state, own):
    a_i, a_f, a_g, a_o = pre
    return sigmoid(a_i), sigmoid(a_f), jnp.tanh(a_g), sigmoid(a_o), state.c


def _lstm_tangent(residuals, d_pre, d_state, own, d_own):
    i, f, g, o, c = residuals.kept
    d_i, d_f, d_g, d_o = d_pre
    squashed = jnp.tanh(f * c + i * g)  # cheaper to compute again than to keep
    dc = _lstm_cell_tangent(residuals.kept, (d_i, d_f, d_g), d_state.c)
    dh = (squashed * o * (1 - o)) * d_o + (o * (1 - squashed * squashed)) * dc
    return LSTMState(dh, dc)


def _lstm_cell_tangent(kept, d_pre, d_c):
    i, f, g, _, c = kept
    d_i, d_f, d_g = d_pre
    return f * d_c + (c * f * (1 - f)) * d_f + (g * i * (1 - i)) * d_i + (i * (1 - g * g)) * d_g


def _lstm_output(kept, own):
    i, f, g, o, c = kept
    return o * jnp.tanh(f * c + i * g)


def peephole_lstm_step(pre: PreActivations, state: LSTMState, own: Parameters) -> LSTMState:
    """LSTM whose gates see the cell state through diagonal "peepholes"::

        i = σ(a_i + w_i ⊙ c)
        f = σ(a_f + w_f ⊙ c)
        c' = f ⊙ c + i ⊙ tanh(a_g)
        o = σ(a_o + w_o ⊙ c')
        h' = o ⊙ tanh(c')

    The output gate sees the *new* cell state. ``weight_ch`` [3, H] holds w_i, w_f, w_o in this order (ONNX's
    input P has i, o, f). Gers & Schmidhuber, "Recurrent nets that time and count" (2000). PyTorch has none.
    """
    a_i, a_f, a_g, a_o = pre
    w_i, w_f, w_o = own["weight_ch"].astype(state.c.dtype)
    c = sigmoid(a_f + w_f * state.c) * state.c + sigmoid(a_i + w_i * state.c) * jnp.tanh(a_g)
    return LSTMState(sigmoid(a_o + w_o * c) * jnp.tanh(c), c)


def _peephole_lstm_keep(pre, state, own):
    a_i, a_f, a_g, a_o = pre
    w_i, w_f, w_o = own["weight_ch"].astype(state.c.dtype)
    i, f, g = sigmoid(a_i + w_i * state.c), sigmoid(a_f + w_f * state.c), jnp.tanh(a_g)
    return i, f, g, sigmoid(a_o + w_o * (f * state.c + i * g)), state.c


def _peephole_lstm_tangent(residuals, d_pre, d_state, own, d_own):
    i, f, g, o, c = residuals.kept
    w_i, w_f, w_o = own["weight_ch"].astype(c.dtype)
    d_i, d_f, d_g, d_o = d_pre
    as_lstm = (d_i + w_i * d_state.c, d_f + w_f * d_state.c, d_g)
    dc = _lstm_cell_tangent(residuals.kept, as_lstm, d_state.c)
    squashed = jnp.tanh(f * c + i * g)
    dh = (squashed * o * (1 - o)) * (d_o + w_o * dc) + (o * (1 - squashed * squashed)) * dc
    return LSTMState(dh, dc)


def _peephole_lstm_own_drive(residuals, d_own):
    i, f, g, _, c = residuals.kept
    d_i, d_f, d_o = d_own["weight_ch"].astype(c.dtype)
    return {"i": d_i * c, "f": d_f * c, "o": d_o * (f * c + i * g)}


# Gated recurrent unit ------------------------------------------------------------------------------------


def gru_step(pre: PreActivations, state: HiddenState, own: Parameters) -> HiddenState:
    """Gated recurrent unit::

        r, z = σ(a_r), σ(a_z)
        n = tanh(n_x + r ⊙ n_h)          n_x = W_in x + b_in;   n_h = W_hn h + b_hn
        h' = (1 - z) ⊙ n + z ⊙ h

    Rows of the weights in the order r, z, n. The reset gate multiplies n_h, bias included, as in cuDNN and
    `torch.nn.GRU`, not h as in Cho et al. (2014), arXiv 1406.1078. z = 1 keeps the old state.
    """
    a_r, a_z, n_x, n_h = pre
    z = sigmoid(a_z)
    n = jnp.tanh(n_x + sigmoid(a_r) * n_h)
    return HiddenState((1 - z) * n + z * state.h)


def _gru_keep(pre, state, own):
    a_r, a_z, n_x, n_h = pre
    r = sigmoid(a_r)
    return r, sigmoid(a_z), jnp.tanh(n_x + r * n_h), n_h


def _gru_tangent(residuals, d_pre, d_state, own, d_own):
    r, z, n, n_h = residuals.kept
    d_r, d_z, d_nx, d_nh = d_pre
    dn = (1 - n * n) * (d_nx + r * d_nh + (n_h * r * (1 - r)) * d_r)
    return HiddenState((1 - z) * dn + ((residuals.h_before - n) * z * (1 - z)) * d_z + z * d_state.h)


_IFGO = ("i", "f", "g", "o")

TANH = Cell("RNN_TANH", ("a",), ("a",), HiddenState, tanh_step, (), Derivative(_keep_nothing, _tanh_tangent))
RELU = Cell("RNN_RELU", ("a",), ("a",), HiddenState, relu_step, (), Derivative(_keep_nothing, _relu_tangent))
LSTM = Cell(
    "LSTM", _IFGO, _IFGO, LSTMState, lstm_step, (), Derivative(_lstm_keep, _lstm_tangent, _lstm_output),
    reads_h=False,
)  # fmt: skip
GRU = Cell(
    "GRU", ("r", "z", "n_x"), ("r", "z", "n_h"), HiddenState, gru_step, (), Derivative(_gru_keep, _gru_tangent)
)  # fmt: skip
PEEPHOLE_LSTM = Cell(
    "PEEPHOLE_LSTM", _IFGO, _IFGO, LSTMState, peephole_lstm_step, (("weight_ch", 3),),
    Derivative(_peephole_lstm_keep, _peephole_lstm_tangent, _lstm_output, _peephole_lstm_own_drive),
    reads_h=False,
)  # fmt: skip
