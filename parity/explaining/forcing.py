"""Teacher forcing: every step of a candidate gets the oracle's inputs, so that errors cannot spread.

All steps of a layer and direction are then independent, and run at once (`jax.vmap` over time).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxrnn.cells import Cell, advance
from parity.explaining.nodes import Observed, Step
from parity.gates import Array
from parity.longhand import jax_arrays, recurrent, surface, torch_modules
from parity.longhand.recurrent import Network, Place
from parity.oracle.evidence import Evidence
from parity.running.jax_side import in_float64
from parity.running.recording import recorded

State = dict[str, jax.Array]
Params = Mapping[str, Any]
Stack = Mapping[tuple[int, int], Params]
_Function = Callable[..., State]  # (place, t, params, x, state)
UserStep = Callable[[Params, jax.Array, State], State]


def forced_steps(
    candidate: nnx.Module,
    evidence: Evidence,
    observed: Observed,
    steps: Mapping[str, UserStep] | None = None,
) -> Iterator[tuple[Step, list[Array]]]:
    """Yield all numbers of every step, both passes, of every recurrent part whose step function is known.

    `steps` brings those of the user's own cells, by the part's name: `step(params, x, state)` returns the next
    state, a dict of `h` [B, H] and, for an LSTM, `c`, as `state` is; `params` has torch's names without suffix.
    """
    with in_float64():
        for name, reference in observed.parts.items():
            network = surface.network_of(reference)
            stack = _stack(evidence, name, network)
            function = _step_function(_find(candidate, name), (steps or {}).get(name), network, stack)
            if function is None:
                continue
            program = jax.jit(_both_passes(function), static_argnums=0)
            for place in stack:
                yield from _run(program, place, stack, (name, *place), observed)


def _run(
    program: Callable[..., list[jax.Array]],
    place: tuple[int, int],
    stack: Stack,
    key: tuple[str, int, int],
    observed: Observed,
) -> Iterator[tuple[Step, list[Array]]]:
    times = sorted(step[3] for step in observed.inputs if step[:3] == key)
    inputs = [observed.inputs[(*key, t)] for t in times]
    x, state, cotangent = jax.tree.map(lambda *arrays: jnp.stack(arrays), *map(tuple, inputs))
    found = program(place, stack[place], jnp.asarray(times), x, state, cotangent)
    for number, t in enumerate(times):
        yield (*key, t), [np.asarray(array[number]) for array in found]


def _both_passes(function: _Function) -> Callable[..., list[jax.Array]]:
    """Return a program that runs all steps [T, ...] at once and returns every number of both passes."""

    def run(
        place: tuple[int, int], params: Params, t: jax.Array, x: jax.Array, state: State, cotangent: State
    ) -> list[jax.Array]:
        def one(t: jax.Array, x: jax.Array, state: State, cotangent: State) -> Any:
            step = partial(function, place, t)
            return jax.vjp(step, params, x, state)[1](cotangent)

        return jax.vmap(recorded(one))(t, x, state, cotangent)

    return run


def _step_function(part: Any, own: UserStep | None, network: Network, stack: Stack) -> _Function | None:
    """Return how a part computes one step; None where nobody says so."""
    if own is not None:
        return lambda place, t, params, x, state: own(params, x, state)
    if hasattr(part, "recipe"):
        recipe = part.recipe

        def spelled_out(place: Any, t: Any, params: Params, x: jax.Array, state: State) -> State:
            at = Place(jax_arrays.LIBRARY, network, recipe, place[0], place[1], t)
            params = recipe.read_weights(at, {**stack, place: params})
            return recurrent.step(at, params, x, recipe.carry(at, state))

        return spelled_out
    cell = getattr(part, "cell", None)
    # A subclass of one's own may do something else with its cell.
    if isinstance(cell, Cell) and type(part).__module__.startswith("jaxrnn."):
        return lambda place, t, params, x, state: advance(cell, params, x, cell.state(**state))._asdict()
    return None


def _find(model: Any, name: str) -> Any:
    """Return the module of that name, if there is one."""
    for key in filter(None, name.split(".")):
        model = getattr(model, key, None)
    return model


def _stack(evidence: Evidence, name: str, network: Network) -> dict[tuple[int, int], dict[str, jax.Array]]:
    """Return a part's weights, in float64, by layer and direction."""
    part = dict(torch_modules.recurrent_parts(evidence.model))[name]
    stack = surface.stack_of(part, network)
    return {
        place: {key: jnp.asarray(value.detach().numpy(), jnp.float64) for key, value in params.items()}
        for place, params in stack.items()
    }
