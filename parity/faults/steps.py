"""Mistakes inside one step of an RNN, LSTM, GRU or peephole LSTM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from parity.faults.fault import (
    Fault,
    is_gated,
    is_gru,
    is_lstm,
    is_peephole,
    is_projected,
    is_relu,
    is_tanh,
)
from parity.longhand import recurrent
from parity.longhand.recurrent import Params, Place, State, linear


def activation(
    function: Callable[[Place, Any], Any], gates: str | None = None
) -> dict[str, Callable[..., Any]]:
    """Exchange the activation of some gates."""

    def activate(at: Place, gate: str, z: Any) -> Any:
        wanted = gate in gates if gates is not None else gate not in "gna"
        return function(at, z) if wanted else recurrent.activate(at, gate, z)

    return {"activate": activate}


def hard_sigmoid(at: Place, z: Any) -> Any:
    """Return Keras's and Theano's hard sigmoid."""
    return at.lib.xp.clip(0.2 * z + 0.5, 0.0, 1.0)


def relu6_sigmoid(at: Place, z: Any) -> Any:
    """Torch's and TensorFlow Lite's."""
    return at.lib.xp.clip(z + 3.0, 0.0, 6.0) / 6.0


def rational_tanh(at: Place, z: Any) -> Any:
    """Return the Padé approximant of order 3 over 2."""
    z = at.lib.xp.clip(z, -3.0, 3.0)
    return z * (27.0 + z * z) / (27.0 + 9.0 * z * z)


def fast_sigmoid(at: Place, z: Any) -> Any:
    """Return the sigmoid that needs no exponential."""
    return 0.5 + 0.5 * z / (1.0 + at.lib.xp.abs(z))


def _sigmoid(at: Place, z: Any) -> Any:
    return at.lib.sigmoid(z)


def _tanh(at: Place, z: Any) -> Any:
    return at.lib.xp.tanh(z)


def _relu(at: Place, z: Any) -> Any:
    return at.lib.xp.where(z > 0, z, 0.0 * z)


def _coupled(at: Place, i: Any, f: Any, g: Any, before: Any) -> Any:
    return (1.0 - i) * before + i * g


def cell_clip(limit: float) -> dict[str, Callable[..., Any]]:
    """Clip the cell state."""

    def remember(at: Place, i: Any, f: Any, g: Any, before: Any) -> Any:
        return at.lib.xp.clip(recurrent.remember(at, i, f, g, before), -limit, limit)

    return {"remember": remember}


def projection_clip(limit: float) -> dict[str, Callable[..., Any]]:
    """Clip the projected output."""

    def emit(at: Place, params: Params, o: Any, c: Any) -> Any:
        return at.lib.xp.clip(recurrent.emit(at, params, o, c), -limit, limit)

    return {"emit": emit}


def _no_tanh(at: Place, params: Params, o: Any, c: Any) -> Any:
    return linear(o * c, params["weight_hr"]) if "weight_hr" in params else o * c


def _tanh_after_projection(at: Place, params: Params, o: Any, c: Any) -> Any:
    return at.lib.xp.tanh(recurrent.emit(at, params, o, c))


def _old_peephole(at: Place, params: Params, gate: str, before: Any, after: Any) -> Any:
    return params["weight_ch"]["ifo".index(gate)] * before if "weight_ch" in params else 0.0


def _no_peephole(dropped: str) -> dict[str, Callable[..., Any]]:
    def peephole(at: Place, params: Params, gate: str, before: Any, after: Any) -> Any:
        return 0.0 if gate == dropped else recurrent.peephole(at, params, gate, before, after)

    return {"peephole": peephole}


# GRU ------------------------------------------------------------------------------------------------------


def _h_bias(params: Params) -> Any:
    """Return b_hn, the last third of `bias_hh`."""
    bias = params["bias_hh"]
    return bias[2 * bias.shape[0] // 3 :]


def _reset_before(at: Place, params: Params, r: Any, x_n: Any, h_n: Any, state: State) -> Any:
    weight, bias = params["weight_hh"], params.get("bias_hh")
    rows = weight[2 * weight.shape[0] // 3 :]
    return x_n + linear(r * state["h"], rows, None if bias is None else _h_bias(params))


def _bias_outside(at: Place, params: Params, r: Any, x_n: Any, h_n: Any, state: State) -> Any:
    return x_n + r * (h_n - _h_bias(params)) + _h_bias(params)


def _reset_on_input(at: Place, params: Params, r: Any, x_n: Any, h_n: Any, state: State) -> Any:
    return r * x_n + h_n


def _flipped_mix(at: Place, z: Any, n: Any, before: Any) -> Any:
    return z * n + (1.0 - z) * before


_ACTIVATE = "torch's gates are the logistic sigmoid, its candidate and output tanh"
_TORCH_GRU = "torch computes n = tanh(W_in x + b_in + r ⊙ (W_hn h + b_hn)), h' = (1 - z) ⊙ n + z ⊙ h"

FAULTS: tuple[Fault, ...] = (
    Fault("L10", "hard sigmoid (0.2 x + 0.5) for the gates", _ACTIVATE, activation(hard_sigmoid), is_gated),
    Fault(
        "L11", "hard sigmoid (relu6(x + 3) / 6) for the gates", _ACTIVATE, activation(relu6_sigmoid), is_gated
    ),
    Fault(
        "L12",
        "a rational approximation of tanh",
        _ACTIVATE,
        activation(rational_tanh, "gna"),
        lambda network: not is_relu(network),
    ),
    Fault(
        "L12-sigmoid",
        "a rational approximation of the sigmoid",
        _ACTIVATE,
        activation(fast_sigmoid),
        is_gated,
    ),
    Fault(
        "L13", "sigmoid instead of tanh for the candidate", _ACTIVATE, activation(_sigmoid, "gn"), is_gated
    ),
    Fault(
        "L14",
        "tanh missing on the cell's output: h = o ⊙ c",
        "h' = o ⊙ tanh(c')",
        {"emit": _no_tanh},
        is_lstm,
    ),
    Fault(
        "L17",
        "forget gate coupled to the input gate: f = 1 - i",
        "torch's forget gate has weights of its own",
        {"remember": _coupled},
        is_lstm,
    ),
    *(
        Fault(
            f"L18-{limit:g}",
            f"cell state clipped at {limit:g}",
            "torch does not clip: remove cell_clip",
            cell_clip(limit),
            is_lstm,
            variant=limit != 1.0,
        )
        for limit in (0.5, 1.0, 2.0, 3.0, 5.0)
    ),
    *(
        Fault(
            f"L18-proj-{limit:g}",
            f"projection clipped at {limit:g}",
            "torch does not clip: remove proj_clip",
            projection_clip(limit),
            is_projected,
            variant=limit != 0.5,
        )
        for limit in (0.5, 1.0, 2.0, 3.0, 5.0)
    ),
    Fault(
        "L19",
        "output peephole sees the old cell state",
        "o sees c', after the update",
        {"peephole": _old_peephole},
        is_peephole,
    ),
    *(
        Fault(
            f"L20-{gate}",
            f"peephole of gate {gate} missing",
            f"add w_{gate} ⊙ c to the gate's sum",
            _no_peephole(gate),
            is_peephole,
        )
        for gate in "ifo"
    ),
    Fault(
        "L24",
        "tanh applied to the projection",
        "h' = W_hr (o ⊙ tanh(c'))",
        {"emit": _tanh_after_projection},
        is_projected,
    ),
    Fault("L25", "relu instead of tanh", "nonlinearity='tanh'", activation(_relu, "a"), is_tanh),
    Fault("L25-tanh", "tanh instead of relu", "nonlinearity='relu'", activation(_tanh, "a"), is_relu),
    Fault(
        "G02",
        "reset gate applied before the matrix product (Keras reset_after=False)",
        _TORCH_GRU,
        {"reset": _reset_before},
        is_gru,
    ),
    Fault("G04", "b_hn outside the reset gate", _TORCH_GRU, {"reset": _bias_outside}, is_gru),
    Fault("G05", "reset gate applied to the input's part", _TORCH_GRU, {"reset": _reset_on_input}, is_gru),
    Fault("G06", "z and 1 - z exchanged", _TORCH_GRU, {"mix": _flipped_mix}, is_gru),
)
