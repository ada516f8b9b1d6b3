"""Independent implementations that an oracle must agree with before it judges anything.

* `torch.nn` itself, where the reference is a layer of `torch_ref` that restates one of its layers: in float64,
  states and gradients included;
* the spelled-out network (`longhand.recurrent`) in place of every recurrent layer and cell of a model: likewise;
* where the reference is a recurrent layer, the same equations in NumPy, in float64, outputs and states;
* and ONNX Runtime, where it is installed and its operator has all that it is asked: in float32, likewise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from parity.gates import Array, is_float
from parity.longhand import recurrent, surface, torch_modules
from parity.longhand.recurrent import FAITHFUL, Call, Network
from parity.oracle import onnx_runtime
from parity.probe import Probe
from parity.running import torch_side
from parity.trace import map_leaves

_TWINS = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
# Dropout is not among them: where it is active, masks are injected and there is no twin.
_OPTIONS = ("num_layers", "bias", "batch_first", "bidirectional", "proj_size", "nonlinearity")
_ONLY_OURS = ("resets", "dropout_masks")  # arguments that torch.nn does not have


class Testimony(NamedTuple):
    """What a witness computes: every array in float64, or some arrays in float32."""

    witness: str
    arrays: Mapping[str, Array]
    precise: bool = True


def testimonies(reference: nn.Module, probe: Probe, gradients: Mapping[str, Array]) -> Iterator[Testimony]:
    """Yield what each witness that knows the reference says."""
    other = twin(reference)
    if other is not None and _understood_by_torch(probe):
        trace = torch_side.run(other, probe, "float64", gradients)
        yield Testimony(f"torch.nn.{type(other).__name__}", trace)
    if torch_modules.recurrent_parts(reference):
        planted = torch_modules.plant(reference, lambda name, network: FAITHFUL)
        yield Testimony("long-hand equations", torch_side.run(planted, probe, "float64", gradients))
    network = _layer_of(reference)
    call = None if network is None else _call(network, probe)
    if network is None or call is None:
        return
    stack = {
        place: {name: value.detach().cpu().numpy() for name, value in params.items()}
        for place, params in surface.stack_of(reference, network).items()
    }
    wide_stack, wide_call = map_leaves(lambda leaf: _given(leaf, probe), (stack, tuple(call)))
    yield Testimony("long-hand NumPy", _named(network, *recurrent.run(network, wide_stack, Call(*wide_call))))
    if probe.dtype == "float32" and onnx_runtime.is_installed() and onnx_runtime.knows(network, call):
        yield Testimony(
            "ONNX Runtime", _named(network, *onnx_runtime.run(network, stack, call)), precise=False
        )


def twin(module: nn.Module) -> nn.Module | None:
    """Return the `torch.nn` layer that a `torch_ref` layer restates, with the same weights; or None."""
    kind = type(module).__name__
    if not type(module).__module__.startswith("torch_ref.") or kind not in _TWINS:
        return None
    options = {name: getattr(module, name) for name in _OPTIONS if hasattr(module, name)}
    if kind != "LSTM":
        options.pop("proj_size", None)
    other = getattr(nn, kind)(module.input_size, module.hidden_size, **options)
    return torch_side.with_weights(other, torch_side.parameters(module))


def _understood_by_torch(probe: Probe) -> bool:
    """torch.nn has no resets and no injected masks, and refuses to pack an empty row."""
    if any(probe.kwargs.get(name) is not None for name in _ONLY_OURS):
        return False
    lengths = probe.kwargs.get("lengths")
    return lengths is None or bool(np.all(lengths > 0))


def _layer_of(reference: nn.Module) -> Network | None:
    """Return the network of a recurrent layer, None for any other model."""
    is_layer = surface.recurrent_name(reference) in surface.LAYERS
    return surface.network_of(reference) if is_layer else None


def _given(leaf: Any, probe: Probe) -> Any:
    """Return a leaf with the numbers that the reference is given, in float64."""
    if not isinstance(leaf, np.ndarray) or not is_float(leaf):
        return leaf
    return probe.rounded(leaf).astype(np.float64)


def _named(network: Network, output: Array, states: tuple[Array, ...]) -> dict[str, Array]:
    return {"output": _layout(network, output), **dict(zip(("h_n", "c_n"), states, strict=False))}


def _call(network: Network, probe: Probe) -> Call | None:
    """Return a layer's arguments, time first; None where there is no batch axis or an unknown argument."""
    given = dict(zip(("input", "hx"), probe.args, strict=False)) | dict(probe.kwargs)
    x, hx = given.pop("input", None), given.pop("hx", None)
    if not isinstance(x, np.ndarray) or x.ndim != 3 or given.keys() - {"lengths", "resets", "dropout_masks"}:
        return None
    x = _layout(network, x)
    shape = (network.layers * network.directions, x.shape[1])
    start = tuple(np.zeros((*shape, width), np.float32) for width in network.widths)
    if hx is not None:
        start = hx if isinstance(hx, tuple) else (hx,)
    lengths = given.get("lengths")
    if lengths is not None:
        x = np.where(np.arange(len(x))[:, None, None] < lengths[None, :, None], x, 0)  # it may be NaN
    resets, masks = given.get("resets"), given.get("dropout_masks") or ()
    return Call(
        x,
        start,
        lengths,
        None if resets is None else _layout(network, resets),
        [_layout(network, mask) for mask in masks],
    )


def _layout(network: Network, array: Array) -> Array:
    return np.swapaxes(array, 0, 1) if network.batch_first else array
