"""Mistakes in how the weights of an RNN, LSTM, GRU or peephole LSTM are read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from parity.faults.fault import (
    Fault,
    is_gru,
    is_lstm,
    is_peephole,
    is_square,
)
from parity.longhand import recurrent
from parity.longhand.recurrent import Params, Place

Stack = Mapping[tuple[int, int], Params]
Read = Callable[[Place, dict[str, Any]], Params]


def reading(change: Read) -> dict[str, Callable[..., Any]]:
    """Exchange how the parameters of one layer and direction are read."""

    def read_weights(at: Place, stack: Stack) -> Params:
        return change(at, dict(recurrent.read_weights(at, stack)))

    return {"read_weights": read_weights}


def blocks(at: Place, array: Any) -> dict[str, Any]:
    """Cut rows into those of each gate."""
    size = array.shape[0] // len(at.network.gates)
    return {gate: array[n * size : (n + 1) * size] for n, gate in enumerate(at.network.gates)}


def change_blocks(change: Callable[[str, str, Any], Any], *names: str) -> Read:
    """Return a reading that changes gates' rows: `change(name of the parameter, gate, rows)`."""

    def read(at: Place, params: dict[str, Any]) -> Params:
        for name in [name for name in names if name in params]:
            cut = blocks(at, params[name])
            params[name] = at.lib.xp.concat([change(name, gate, rows) for gate, rows in cut.items()])
        return params

    return read


_ROWS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def reordered(order: str) -> dict[str, Callable[..., Any]]:
    """Take the rows of the weights for those of the gates in another order."""

    def read(at: Place, params: dict[str, Any]) -> Params:
        for name in [name for name in _ROWS if name in params]:
            cut = list(blocks(at, params[name]).values())
            params[name] = at.lib.xp.concat([cut[order.index(gate)] for gate in at.network.gates])
        return params

    return reading(read)


def _orders(gates: str, named: Mapping[str, tuple[str, str]], other: str, possible: Any) -> list[Fault]:
    """Make a fault of every order of the gates but torch's."""
    faults = []
    for order in map("".join, itertools.permutations(gates)):
        if order == gates:
            continue
        id, note = named.get(order, (f"{other}-{order}", ""))
        faults.append(
            Fault(
                id,
                f"gate order: rows read as {', '.join(order)}{note}",
                f"the rows of torch's weights and biases are in the order {', '.join(gates)}: reorder them",
                reordered(order),
                possible,
                variant=order not in named,
            )
        )
    return faults


def _without(name: str) -> Read:
    def read(at: Place, params: dict[str, Any]) -> Params:
        return {key: value for key, value in params.items() if key != name}

    return read


def _times(factor: float, *names: str) -> Read:
    def read(at: Place, params: dict[str, Any]) -> Params:
        return {key: factor * value if key in names else value for key, value in params.items()}

    return read


def _transposed(name: str, gate: str, rows: Any) -> Any:
    return rows.T if rows.shape[0] == rows.shape[1] else rows


def _zeroed(gate: str) -> Callable[[str, str, Any], Any]:
    return lambda name, at_gate, rows: 0.0 * rows if at_gate == gate else rows


def _shifted(gate: str) -> Callable[[str, str, Any], Any]:
    return lambda name, at_gate, rows: rows + 1.0 if at_gate == gate else rows


def _peephole_rows(*order: int) -> Read:
    def read(at: Place, params: dict[str, Any]) -> Params:
        rows = [params["weight_ch"][n] for n in order]
        return {**params, "weight_ch": at.lib.xp.stack(rows)}

    return read


_ADD_IT = "add b_hn inside the reset gate: n = tanh(W_in x + b_in + r ⊙ (W_hn h + b_hn))"
_BOTH = "add both biases: torch has b_ih and b_hh"

FAULTS: tuple[Fault, ...] = (
    *_orders(
        "ifgo",
        {
            "iofg": ("L01", " (ONNX)"),
            "igfo": ("L02", " (f and g swapped; TensorFlow's i, j, f, o)"),
            "figo": ("L03", " (i and f swapped)"),
        },
        "L01",
        is_lstm,
    ),
    Fault("L04", "bias_hh dropped", _BOTH, reading(_without("bias_hh"))),
    Fault("L04-ih", "bias_ih dropped", _BOTH, reading(_without("bias_ih"))),
    Fault("L05", "bias_hh counted twice", "add each bias once", reading(_times(2.0, "bias_hh"))),
    Fault("L05-ih", "bias_ih counted twice", "add each bias once", reading(_times(2.0, "bias_ih"))),
    Fault(
        "L05-both",
        "both biases counted twice",
        "add each bias once",
        reading(_times(2.0, "bias_ih", "bias_hh")),
    ),
    Fault(
        "L06",
        "forget bias of 1 added at run time or on loading",
        "torch adds no constant: remove unit_forget_bias",
        reading(change_blocks(_shifted("f"), "bias_hh")),
        is_lstm,
    ),
    Fault(
        "L07",
        "W_hh used without transposing it",
        "torch computes h W_hhᵀ: transpose each gate's block",
        reading(change_blocks(_transposed, "weight_hh")),
        is_square,
    ),
    Fault(
        "L21",
        "peephole rows read as i, o, f (ONNX)",
        "the rows of weight_ch are in the order i, f, o",
        reading(_peephole_rows(0, 2, 1)),
        is_peephole,
    ),
    *_orders("rzn", {"zrn": ("G01", " (Keras, ONNX)")}, "G01", is_gru),
    Fault(
        "G03",
        "b_hn missing (as in flax.nnx.GRUCell)",
        _ADD_IT,
        reading(change_blocks(_zeroed("n"), "bias_hh")),
        is_gru,
    ),
)
