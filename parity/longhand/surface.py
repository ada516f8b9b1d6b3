"""torch's calling conventions around the spelled-out network; they serve modules of either framework alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parity.longhand import recurrent
from parity.longhand.arrays import library_of
from parity.longhand.recurrent import Call, Network, Place, Recipe

LAYERS = {"RNN", "LSTM", "GRU", "PeepholeLSTM"}
CELLS = {"RNNCell", "LSTMCell", "GRUCell", "PeepholeLSTMCell"}
_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "weight_ch")
_CELL_KINDS = {"LSTMCell": "LSTM", "GRUCell": "GRU", "PeepholeLSTMCell": "PEEPHOLE_LSTM"}


def recurrent_name(module: Any) -> str | None:
    """Return which recurrent layer or cell of torch a module is, subclasses included; None for all others."""
    names = [base.__name__ for base in type(module).__mro__]
    return next((name for name in names if name in LAYERS | CELLS and hasattr(module, "hidden_size")), None)


def network_of(module: Any) -> Network:
    """Return what a module's attributes say about its network."""
    name = recurrent_name(module)
    if name in CELLS:
        kind = _CELL_KINDS.get(name) or f"RNN_{module.nonlinearity.upper()}"
        return Network(kind, module.hidden_size)
    return Network(
        getattr(module, "mode", None) or module.cell.name,
        module.hidden_size,
        module.num_layers,
        2 if module.bidirectional else 1,
        getattr(module, "proj_size", 0),
        module.batch_first,
        module.dropout,
    )


def stack_of(module: Any, network: Network) -> dict[tuple[int, int], dict[str, Any]]:
    """Return a layer's or cell's parameters by (layer, direction), under the names that a cell knows."""
    if recurrent_name(module) in CELLS:
        return {(0, 0): _parameters(module, "")}
    return {
        (layer, direction): _parameters(module, f"_l{layer}{'_reverse' if direction else ''}")
        for layer in range(network.layers)
        for direction in range(network.directions)
    }


def call_layer(
    module: Any,
    recipe: Recipe,
    input: Any,
    hx: Any = None,
    lengths: Any = None,
    resets: Any = None,
    masks: Sequence[Any] | None = None,
) -> tuple[Any, Any]:
    """Return `output, h_n` or `output, (h_n, c_n)`, as torch's layers do."""
    network = network_of(module)
    lib = library_of(input)
    at = Place(lib, network, recipe)
    batched = len(input.shape) == 3

    def time_major(array: Any) -> Any:
        return recipe.layout(at, array) if batched else array[:, None]

    x = time_major(input)
    given = _states(network, lib.xp, x, hx, batched)
    call = Call(
        x,
        recipe.resume(at, given, getattr(module, "left", None)),
        lengths if lengths is None or batched else lib.xp.reshape(lengths, (1,)),
        None if resets is None else time_major(resets[..., None])[..., 0],
        [time_major(mask) for mask in masks or ()],
    )
    output, states = recurrent.run(network, stack_of(module, network), call, recipe)
    if recipe.resume is not recurrent.resume:
        object.__setattr__(module, "left", states)  # past Flax's check of what a module may hold
    if not batched:
        return output[:, 0], _as_torch(tuple(part[:, 0] for part in states))
    return recipe.layout(at, output), _as_torch(states)


def call_cell(module: Any, recipe: Recipe, input: Any, hx: Any = None) -> Any:
    """Return `h` or `(h, c)` after one step, as torch's cells do."""
    network = network_of(module)
    lib = library_of(input)
    at = Place(lib, network, recipe, step=0)
    x = input if len(input.shape) == 2 else input[None]
    given = _states(network, lib.xp, x[None], hx, batched=len(input.shape) == 2, cell=True)
    before = recipe.carry(at, recipe.start(at, given))
    params = recipe.read_weights(at, stack_of(module, network))
    after = recurrent.step(at, params, x, before)
    states = tuple(after[name] for name in network.states)
    return _as_torch(states if len(input.shape) == 2 else tuple(part[0] for part in states))


def _parameters(module: Any, suffix: str) -> dict[str, Any]:
    found = {name: getattr(module, name + suffix, None) for name in _NAMES}
    return {name: _value(parameter) for name, parameter in found.items() if parameter is not None}


def _value(parameter: Any) -> Any:
    """Return the array in an `nnx.Param`; torch's parameters are arrays themselves."""
    return parameter.get_value() if hasattr(parameter, "get_value") else parameter


def _states(network: Network, xp: Any, x: Any, hx: Any, batched: bool, cell: bool = False) -> tuple[Any, ...]:
    """Return the initial states, each [L*D, B, features]."""
    if hx is None:
        count = network.layers * network.directions
        return tuple(xp.zeros((count, x.shape[1], width), dtype=x.dtype) for width in network.widths)
    parts = hx if isinstance(hx, tuple | list) else (hx,)
    if cell:
        parts = tuple(part[None] for part in parts)
    return tuple(parts) if batched else tuple(part[:, None] for part in parts)


def _as_torch(states: tuple[Any, ...]) -> Any:
    return states if len(states) > 1 else states[0]
