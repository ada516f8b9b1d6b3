"""A peer's cell or layer as the judge can run it: parameters under torch's names, the peer's own arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from parity.gates import Array
from parity.probe import Probe
from parity.running.jax_side import in_float64

Weights = Mapping[
    str, jax.Array
]  # by torch's names, without `_l0`; the reverse direction's end in `_reverse`


@dataclass(frozen=True)
class Peer:
    """A network of another library.

    hold: torch's weights as the peer's own parameters, by the peer's names. call: what the peer computes with its
    own parameters, taken and returned in torch's shapes.
    """

    hold: Callable[[Weights], dict[str, jax.Array]]
    call: Callable[..., Any]  # (own parameters, input, hx, further arrays by keyword)


class Wrapped(nnx.Module):
    """A peer under torch's names, so that gradients flow through the map back to torch's parameters."""

    def __init__(self, peer: Peer, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.peer = peer
        self.names = tuple(shapes)
        for name, shape in shapes.items():
            setattr(self, name, nnx.Param(jnp.zeros(shape)))

    def __call__(self, input: Any, hx: Any = None, **kwargs: Any) -> Any:
        """Call the peer as torch would be called."""
        weights = {name: getattr(self, name).get_value() for name in self.names}
        return self.peer.call(self.peer.hold(short(weights)), input, hx, **kwargs)


def wrap(peer: Peer, reference: Any) -> Wrapped:
    """Return the peer with parameters of the names and shapes of a torch module."""
    return Wrapped(peer, {name: tuple(value.shape) for name, value in reference.named_parameters()})


def short(weights: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Return the weights of a layer under the names that a cell has: `weight_ih` for `weight_ih_l0`."""
    return {name.replace("_l0", ""): value for name, value in weights.items()}


def gates(weights: Weights, order: str, suffix: str = "") -> dict[str, dict[str, jax.Array]]:
    """Return torch's parameters by gate: `gates(w, "ifgo")["f"]["weight_ih"]`."""
    names = [name for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if name + suffix in weights]
    parts = {name: jnp.split(weights[name + suffix], len(order)) for name in names}
    return {gate: {name: parts[name][at] for name in names} for at, gate in enumerate(order)}


# What one bias changes in training ------------------------------------------------------------------------


def learning_shares(peer: Peer, weights: Mapping[str, Array], probe: Probe) -> dict[str, tuple[float, ...]]:
    """Return how far a step of SGD moves the peer's own parameters, in units of torch's step, where that is not 1.

    If the peer holds `p = J w`, torch moves p by `J Jᵀ g` where the peer moves it by `g`, its own gradient. A bias
    that stands for two of torch's moves by half of what the two do together.
    """
    with in_float64():
        held = {name: jnp.asarray(value, jnp.float64) for name, value in short(weights).items()}  # type: ignore[arg-type]
        args = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), probe.args)
        kwargs = {name: jnp.asarray(value) for name, value in probe.kwargs.items()}

        def loss(own: Any) -> jax.Array:
            outputs = jax.tree.leaves(peer.call(own, *args, **kwargs))
            return sum(
                (jnp.vdot(leaf, probe.cotangent(str(k), leaf.shape)) for k, leaf in enumerate(outputs)),
                start=jnp.zeros([]),
            )

        own, pullback = jax.vjp(peer.hold, held)
        gradient = jax.grad(loss)(own)
        moved = jax.jvp(peer.hold, (held,), pullback(gradient))[1]
        found = {name: _shares(np.asarray(gradient[name]), np.asarray(moved[name])) for name in own}
    return {name: shares for name, shares in found.items() if shares not in ((1.0,), ())}


def _shares(own: Array, torchs: Array) -> tuple[float, ...]:
    places = (torchs != 0.0) & np.isfinite(torchs) & np.isfinite(own)  # NaN in padding reaches gradients
    return tuple(sorted({round(float(share), 6) for share in (own[places] / torchs[places])}))
