"""Hidden units spread over devices: for recurrent weights beyond the memory of one."""

import dataclasses
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import jax
from flax import nnx
from jax import lax
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh, PartitionSpec

from jaxrnn import checks
from jaxrnn.cells import Cell, Derivative, Residuals
from jaxrnn.layers.recurrent import RecurrentLayer
from jaxrnn.lengths import check_lengths
from jaxrnn.linear_cells import LinearCell
from jaxrnn.sequence import PackedSequence
from jaxrnn.sharding.common import check_divides, check_mesh, lay, on_each


class HiddenSharded(nnx.Module):
    """A layer whose hidden units are spread over the devices along an axis of a mesh.

    Of D devices, each owns H / D units: their rows of all weights and biases, their gates and their ``c``, forward
    and backward. Every unit reads all of h, so an all-gather of ``h`` [B, H] ends each step and, going back, a
    reduce-scatter of its cotangent begins it: the only collectives in the loops over steps. Example::

        mesh = jax.make_mesh((4,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
        with jax.default_device(jax.local_devices(backend="cpu")[0]):  # no chip need hold all of it
            layer = jaxrnn.LSTM(1024, 16384, rngs=rngs)
        wide = jaxrnn.sharding.HiddenSharded(layer, mesh)
        output, (h, c) = wide(x)
        jaxrnn.save(wide.gathered(), "wide.safetensors")

    A call takes the layer's arguments, but for packed sequences, and returns what the layer returns: ``output`` and
    h whole on every device, the state's other fields spread along their features. Parameters have the layer's names
    and are seen gate-major, [G*H, I] as [G, H, I], since a device's units are a part of each gate. An optimizer
    does not notice; `gathered` returns the layer with torch's shapes.

    It pays where weights do not fit into the fast memory of one chip: a collective per step costs more than the
    product that it shares out while that one is small (`docs/scaling.md`).

    Raises:
        ValueError: hidden units that the devices cannot share evenly.
        NotImplementedError: a layer with `proj_size`, of which h is a sum over all units, one whose
            `implementation` takes all steps in one call, or a MinGRU or MinLSTM.
    """

    def __init__(self, layer: RecurrentLayer, mesh: Mesh, *, axis: str = "model"):
        check_mesh(mesh, axis)
        if isinstance(layer.cell, LinearCell):
            raise NotImplementedError(
                f"{type(layer).__name__} has no product with h whose weights could be spread. Spread rows "
                "(data_parallel) or time (wavefront) instead."
            )
        if layer.proj_size:
            raise NotImplementedError(
                f"proj_size={layer.proj_size}: a projected h is a sum over all units, of which each device has a "
                "part. Spread rows instead (data_parallel), or use a layer without projection."
            )
        if layer.implementation not in (None, "scan", "reference"):
            raise NotImplementedError(
                f"implementation={layer.implementation!r} takes all steps in one call, in which nothing can be "
                "gathered. Leave it at None."
            )
        check_divides("hidden_size", layer.hidden_size, mesh, axis, "Choose a multiple.")
        self.mesh, self.axis = mesh, axis
        self.layer = nnx.clone(layer)
        for name, per_gate in _parameters(layer):
            value = getattr(layer, name)[...]
            by_gate = value.reshape(layer.cell.gates, -1, *value.shape[1:]) if per_gate else value
            setattr(self.layer, name, nnx.Param(lay(by_gate, mesh, PartitionSpec(None, axis))))

    def __call__(
        self, input: Any, hx: Any = None, *, lengths: Any = None, resets: jax.Array | None = None
    ) -> tuple[jax.Array, Any]:
        """Return what the layer returns."""
        if isinstance(input, PackedSequence):
            raise TypeError("HiddenSharded takes arrays. Pass packed.padded with lengths=packed.lengths.")
        x = checks.check_array("input", input)
        time_axis = int(self.layer.batch_first)
        rows = x.shape[1 - time_axis] if x.ndim == 3 else None
        states = self.layer._initial_states(hx, rows)
        if lengths is not None and rows is not None:
            lengths = check_lengths(lengths, rows, x.shape[time_axis])
        structure, *arrays = nnx.split(self.layer, nnx.Param, ...)
        output, finals, rest = _run(structure, self.mesh, self.axis, *arrays, x, states, lengths, resets)
        nnx.update(self.layer, rest)
        return output, self.layer._returned(finals)

    def gathered(self) -> RecurrentLayer:
        """Return the layer with its parameters as they are now, in torch's layout and in the host's memory.

        Of several processes, all have to ask, and each gets the whole.
        """
        layer, host = nnx.clone(self.layer), jax.local_devices(backend="cpu")[0]
        for name, per_gate in _parameters(layer):
            value = process_allgather(getattr(layer, name)[...], tiled=True)
            setattr(layer, name, nnx.Param(jax.device_put(_flat(value) if per_gate else value, host)))
        return layer


def _flat(by_gate: Any) -> Any:
    """Return [G, H, ...] as [G*H, ...]."""
    return by_gate.reshape(-1, *by_gate.shape[2:])


def _parameters(layer: RecurrentLayer) -> Iterator[tuple[str, bool]]:
    """Yield the names of a layer's parameters, and whether one has rows for each gate."""
    assert not isinstance(layer.cell, LinearCell)
    own = {name for name, _ in layer.cell.own}
    for number in range(layer.num_layers):
        for suffix in layer._suffixes:
            for name in layer._shapes(number):
                yield f"{name}_l{number}{suffix}", name not in own


@partial(jax.jit, static_argnums=(0, 1, 2))
def _run(structure, mesh, axis, weights, rest, x, states, *options):
    whole, by_unit = PartitionSpec(), PartitionSpec(None, axis)
    of_states = (whole, *(PartitionSpec(*[None] * (field.ndim - 1), axis) for field in states[1:]))
    in_specs, out_specs = (by_unit, whole, whole, of_states, whole, whole), (whole, of_states, whole)
    run = on_each(partial(_in_shard, structure, mesh.shape[axis], axis), mesh, axis, in_specs, out_specs)
    return run(weights, rest, x, states, *options)


def _in_shard(structure, devices, axis, weights, rest, x, states, lengths, resets):
    layer = nnx.merge(structure, weights, rest)
    for name, per_gate in _parameters(layer):
        value = getattr(layer, name)[...]
        setattr(layer, name, nnx.Param(_flat(value) if per_gate else value))
    layer.cell = _of_units(layer.cell, devices, axis)
    layer.implementation = (
        layer.implementation or "scan"
    )  # a kernel for all steps could not gather between them
    output, final = layer(x, layer._returned(states), lengths=lengths, resets=resets)
    final = final if isinstance(final, tuple) else (final,)
    return output, final, nnx.state(layer, nnx.Not(nnx.Param))


# What a device computes: the step of its units, on all of h ---------------------------------------------------


@dataclasses.dataclass(frozen=True, repr=False)
class _OfUnits(Cell):
    """A cell of which a device computes a part of the units; ``h`` is whole, the rest of the state a part."""

    devices: int = 1

    def state_features(self, hidden_features: int, projected_features: int = 0) -> tuple[int, ...]:
        h, *rest = super().state_features(hidden_features, projected_features)
        return (h, *(features // self.devices for features in rest))


@cache  # the same cell for the same request, so that compiled programs are found again
def _of_units(cell: Cell, devices: int, axis: str) -> Cell:
    """Return the cell that computes a device's units of `cell`, and gathers all units' h after each step."""
    derivative = cell.linearisation()

    def mine(h):
        width = h.shape[-1] // devices
        return lax.dynamic_slice_in_dim(h, lax.axis_index(axis) * width, width, axis=-1)

    def all_of(h):
        return lax.all_gather(h, axis, axis=h.ndim - 1, tiled=True)

    def seen(state):  # by the elementwise step, which knows a unit's own h alone
        return state._replace(h=mine(state.h))

    def seen_residuals(residuals):
        return Residuals(residuals.kept, mine(residuals.h_before), mine(residuals.h_after))

    def step(pre, state, own):
        after = cell.step(pre, seen(state), own)
        return after._replace(h=all_of(after.h))

    def tangent(residuals, d_pre, d_state, own, d_own):
        after = derivative.tangent(seen_residuals(residuals), d_pre, seen(d_state), own, d_own)
        return after._replace(h=all_of(after.h))

    output, own_drive = derivative.output, derivative.own_drive
    spread = Derivative(
        keep=lambda pre, state, own: derivative.keep(pre, seen(state), own),
        tangent=tangent,
        output=output and (lambda kept, own: all_of(output(kept, own))),
        own_drive=own_drive and (lambda residuals, d_own: own_drive(seen_residuals(residuals), d_own)),
    )
    fields = {field.name: getattr(cell, field.name) for field in dataclasses.fields(Cell)}
    return _OfUnits(**fields | {"step": step, "derivative": spread}, devices=devices)
