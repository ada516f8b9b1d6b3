"""Recurrent cells in plain PyTorch: what happens in one step, as equations.

A step is a pure function `step(params, gates_x, state) -> state`. What does not depend on the state comes in
computed: `gates_x = project(params, x)`. In the equations ``x_i`` is gate i's block of ``W_ih x + b_ih`` and
``h_i`` that of ``W_hh h + b_hh``. Any axes, or none, may stand in place of B.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Parameters = Mapping[str, Tensor]  # one cell's, as `Cell.parameter_shapes` lists them


class HiddenState(NamedTuple):
    """What flows through time in an Elman network and in a GRU."""

    h: Tensor  # [B, H]


class LSTMState(NamedTuple):
    """What flows through time in an LSTM; ``h`` has R features when the cell projects."""

    h: Tensor  # [B, R]
    c: Tensor  # [B, H]


State = Any  # one of the NamedTuples above; the first field is `h`, the output
Step = Callable[[Parameters, Tensor, Any], Any]


def project(params: Parameters, x: Tensor) -> Tensor:
    """Return ``W_ih x + b_ih``, what the input adds to the pre-activations: [..., I] -> [..., G*H]."""
    return F.linear(x, params["weight_ih"], params.get("bias_ih"))


def recur(params: Parameters, h: Tensor) -> Tensor:
    """Return ``W_hh h + b_hh``, what the state adds to the pre-activations: [..., R] -> [..., G*H]."""
    return F.linear(h, params["weight_hh"], params.get("bias_hh"))


def tanh_step(params: Parameters, gates_x: Tensor, state: HiddenState) -> HiddenState:
    """Elman network::

        h' = tanh(W_ih x + b_ih + W_hh h + b_hh)

    Elman (1990), "Finding structure in time", Cognitive Science 14.
    """
    return HiddenState(torch.tanh(gates_x + recur(params, state.h)))


def relu_step(params: Parameters, gates_x: Tensor, state: HiddenState) -> HiddenState:
    """Elman network with a rectifier::

    h' = max(0, W_ih x + b_ih + W_hh h + b_hh)
    """
    return HiddenState(torch.relu(gates_x + recur(params, state.h)))


def gru_step(params: Parameters, gates_x: Tensor, state: HiddenState) -> HiddenState:
    """Gated recurrent unit, gate rows r, z, n::

        r = σ(x_r + h_r)
        z = σ(x_z + h_z)
        n = tanh(x_n + r ⊙ h_n)
        h' = (1 - z) ⊙ n + z ⊙ h

    Cho et al. (2014), https://arxiv.org/abs/1406.1078, in the variant of cuDNN and `torch.nn.GRU`: the reset
    gate multiplies ``h_n = W_hn h + b_hn``, bias included, where the paper's multiplies ``h``.
    """
    x_r, x_z, x_n = gates_x.chunk(3, dim=-1)
    h_r, h_z, h_n = recur(params, state.h).chunk(3, dim=-1)
    r = torch.sigmoid(x_r + h_r)
    z = torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + r * h_n)
    return HiddenState((1 - z) * n + z * state.h)


def lstm_step(params: Parameters, gates_x: Tensor, state: LSTMState) -> LSTMState:
    """Long short-term memory, gate rows i, f, g, o::

        i = σ(x_i + h_i)
        f = σ(x_f + h_f)
        g = tanh(x_g + h_g)
        o = σ(x_o + h_o)
        c' = f ⊙ c + i ⊙ g
        h' = o ⊙ tanh(c')           with a projection: h' = W_hr (o ⊙ tanh(c'))

    Hochreiter & Schmidhuber (1997), Neural Computation 9(8); the forget gate is by Gers, Schmidhuber &
    Cummins (2000), Neural Computation 12(10); the projection by Sak, Senior & Beaufays (2014),
    https://arxiv.org/abs/1402.1128, here without their peepholes, as in `torch.nn.LSTM`.
    """
    x_i, x_f, x_g, x_o = gates_x.chunk(4, dim=-1)
    h_i, h_f, h_g, h_o = recur(params, state.h).chunk(4, dim=-1)
    i = torch.sigmoid(x_i + h_i)
    f = torch.sigmoid(x_f + h_f)
    g = torch.tanh(x_g + h_g)
    o = torch.sigmoid(x_o + h_o)
    c = f * state.c + i * g
    h = o * torch.tanh(c)
    if "weight_hr" in params:
        h = F.linear(h, params["weight_hr"])
    return LSTMState(h, c)


def peephole_lstm_step(params: Parameters, gates_x: Tensor, state: LSTMState) -> LSTMState:
    """LSTM whose gates see the cell state, gate rows i, f, g, o and peephole rows i, f, o::

        i = σ(x_i + h_i + w_ci ⊙ c)
        f = σ(x_f + h_f + w_cf ⊙ c)
        g = tanh(x_g + h_g)
        c' = f ⊙ c + i ⊙ g
        o = σ(x_o + h_o + w_co ⊙ c')
        h' = o ⊙ tanh(c')

    Gers & Schmidhuber (2000), "Recurrent nets that time and count", IJCNN. The output gate sees the *new*
    cell state, as in the paper and in ONNX. `torch.nn` has no such layer.
    """
    x_i, x_f, x_g, x_o = gates_x.chunk(4, dim=-1)
    h_i, h_f, h_g, h_o = recur(params, state.h).chunk(4, dim=-1)
    w_ci, w_cf, w_co = params["weight_ch"]
    i = torch.sigmoid(x_i + h_i + w_ci * state.c)
    f = torch.sigmoid(x_f + h_f + w_cf * state.c)
    g = torch.tanh(x_g + h_g)
    c = f * state.c + i * g
    o = torch.sigmoid(x_o + h_o + w_co * c)
    return LSTMState(o * torch.tanh(c), c)


def min_gru_step(params: Parameters, gates_x: Tensor, state: HiddenState) -> HiddenState:
    """Minimal GRU, gate rows z, n::

        z = σ(x_z)
        h' = (1 - z) ⊙ h + z ⊙ x_n

    Feng et al. (2024), "Were RNNs All We Needed?", https://arxiv.org/abs/2410.01201, section 3.1. Its gates see the
    input alone.
    """
    x_z, x_n = gates_x.chunk(2, dim=-1)
    z = torch.sigmoid(x_z)
    return HiddenState((1 - z) * state.h + z * x_n)


def min_lstm_step(params: Parameters, gates_x: Tensor, state: HiddenState) -> HiddenState:
    """Minimal LSTM, gate rows f, i, g::

        f, i = σ(x_f), σ(x_i)
        h' = f / (f + i) ⊙ h + i / (f + i) ⊙ x_g

    Feng et al. (2024), https://arxiv.org/abs/2410.01201, section 3.2. Its one state is h.
    """
    x_f, x_i, x_g = gates_x.chunk(3, dim=-1)
    f, i = torch.sigmoid(x_f), torch.sigmoid(x_i)
    return HiddenState(f / (f + i) * state.h + i / (f + i) * x_g)


@dataclass(frozen=True)
class Cell:
    """A recurrent network seen from one step: the step, its state, and what its parameters look like."""

    name: str
    gates: int  # G, the number of blocks of H rows in weight_ih and weight_hh
    state: type[HiddenState] | type[LSTMState]
    step: Step
    peepholes: int = 0
    recurs: bool = True  # False: nothing multiplies the state, so there is no weight_hh

    def parameter_shapes(
        self, input_size: int, hidden_size: int, bias: bool, proj_size: int = 0
    ) -> dict[str, tuple[int, ...]]:
        """Return {name: shape} in PyTorch's order of registration."""
        rows = self.gates * hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, input_size),
            "weight_hh": (rows, proj_size or hidden_size),
        }
        if bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        if not self.recurs:
            shapes = {name: shape for name, shape in shapes.items() if name.endswith("_ih")}
        if proj_size:
            shapes["weight_hr"] = (proj_size, hidden_size)
        if self.peepholes:
            shapes["weight_ch"] = (self.peepholes, hidden_size)
        return shapes

    def state_features(self, hidden_size: int, proj_size: int = 0) -> tuple[int, ...]:
        """Return the number of features of each field of the state."""
        rest = len(self.state._fields) - 1
        return (proj_size or hidden_size, *[hidden_size] * rest)


TANH = Cell("RNN_TANH", 1, HiddenState, tanh_step)
RELU = Cell("RNN_RELU", 1, HiddenState, relu_step)
LSTM = Cell("LSTM", 4, LSTMState, lstm_step)
GRU = Cell("GRU", 3, HiddenState, gru_step)
PEEPHOLE_LSTM = Cell("PEEPHOLE_LSTM", 4, LSTMState, peephole_lstm_step, peepholes=3)
MIN_GRU = Cell("MIN_GRU", 2, HiddenState, min_gru_step, recurs=False)
MIN_LSTM = Cell("MIN_LSTM", 3, HiddenState, min_lstm_step, recurs=False)


def elman(nonlinearity: str) -> Cell:
    """Return the Elman cell with the activation 'tanh' or 'relu'."""
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
    return TANH if nonlinearity == "tanh" else RELU


def draw_uniform(module: nn.Module, hidden_size: int) -> None:
    """Draw every parameter from ``U(-k, k)``, ``k = 1/sqrt(H)``, in the order of registration.

    `torch.nn` does the same: after the same `torch.manual_seed` both hold the same bits.
    """
    k = 1.0 / math.sqrt(hidden_size)
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -k, k)


def unpack_hx(cell: Cell, hx: Any) -> tuple[Tensor, ...]:
    """Return the tensors in PyTorch's ``hx``: ``h``, or a tuple or list ``(h, c)`` for the LSTMs."""
    count = len(cell.state._fields)
    parts = (hx,) if isinstance(hx, Tensor) else tuple(hx)
    if len(parts) != count:
        fields = ", ".join(cell.state._fields)
        raise RuntimeError(f"hx: {cell.name} expects {count} tensor(s), ({fields}), got {len(parts)}.")
    return parts


class _CellModule(nn.Module):
    """What the four cell classes share: the parameters of one cell, and one step with them."""

    def _configure(self, cell: Cell, input_size: int, hidden_size: int, bias: bool, **factory: Any) -> None:
        self.cell = cell
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        shapes = cell.parameter_shapes(input_size, hidden_size, bias)
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape, **factory)))
        if not bias:  # as in torch.nn, the attributes exist and are None
            self.register_parameter("bias_ih", None)
            self.register_parameter("bias_hh", None)
        self.parameter_names = tuple(shapes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter anew."""
        draw_uniform(self, self.hidden_size)

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """Return the state after one step on `input` [B, I] or [I], from `hx` or else from zeros.

        The state is ``h``, or ``(h, c)`` for the LSTMs, each [B, H] or [H].
        """
        shape = (*input.shape[:-1], self.hidden_size)
        fields = self.cell.state._fields
        parts = [input.new_zeros(shape) for _ in fields] if hx is None else unpack_hx(self.cell, hx)
        for name, part in zip(fields, parts, strict=True):
            if part.shape != shape:  # a smaller state would broadcast into a wrong number
                raise RuntimeError(f"hx: expected {name} of shape {shape}, got {tuple(part.shape)}.")
        params = {name: getattr(self, name) for name in self.parameter_names}
        state = self.cell.step(params, project(params, input), self.cell.state(*parts))
        return state.h if len(state) == 1 else tuple(state)

    def extra_repr(self) -> str:
        """Describe the cell as `torch.nn` does: the sizes, then what is not the default."""
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class RNNCell(_CellModule):
    """One step of an Elman network: ``(input [B, I], h [B, H]) -> h' [B, H]``; see `tanh_step`."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.nonlinearity = nonlinearity
        self._configure(elman(nonlinearity), input_size, hidden_size, bias, device=device, dtype=dtype)

    def extra_repr(self) -> str:
        """Describe the cell, and its activation where it is not tanh."""
        usual = self.nonlinearity == "tanh"
        return super().extra_repr() + ("" if usual else f", nonlinearity={self.nonlinearity}")


class LSTMCell(_CellModule):
    """One step of an LSTM: ``(input [B, I], (h [B, H], c [B, H])) -> (h', c')``; see `lstm_step`."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._configure(LSTM, input_size, hidden_size, bias, device=device, dtype=dtype)


class GRUCell(_CellModule):
    """One step of a GRU: ``(input [B, I], h [B, H]) -> h' [B, H]``; see `gru_step`."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._configure(GRU, input_size, hidden_size, bias, device=device, dtype=dtype)


class PeepholeLSTMCell(_CellModule):
    """One step of a peephole LSTM, with the signature of `LSTMCell`; see `peephole_lstm_step`.

    ``weight_ch`` is [3, H], its rows in the order i, f, o.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._configure(PEEPHOLE_LSTM, input_size, hidden_size, bias, device=device, dtype=dtype)
