"""Runs a Flax NNX module on a probe: outputs, states, gradients, one optimizer step. The module is not touched."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxrnn import checkpoint, optim, torch_names
from parity.gates import Array
from parity.probe import LEARNING_RATE, Probe
from parity.running.products import rounded_products
from parity.running.recording import recorded
from parity.trace import Entry, Trace, name_inputs, name_outputs, output_kind

MATMUL_PRECISION = {"ieee": "highest", "tf32": "tensorfloat32"}


def parameters(module: nnx.Module) -> dict[str, Array]:
    """Return the parameters by torch's names and in torch's layout."""
    return {parameter.name: parameter.value() for parameter in torch_names.parameters(module)}


def paths(module: nnx.Module) -> dict[str, str]:
    """Return the Flax path behind each torch name, for instance `fc.weight` -> `fc.kernel`.

    Each parameter of a copy is filled with its own number, and the number read back by torch's name.
    """
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)  # type: ignore[misc]
    flat = nnx.to_flat_state(params)
    marked = nnx.from_flat_state(
        [
            (path, value.replace(np.full(value.shape, number, np.float32)))
            for number, (path, value) in enumerate(flat)
        ]
    )
    names = [".".join(map(str, path)) for path, _ in flat]
    numbers = parameters(nnx.merge(graphdef, marked, rest))
    return {name: names[int(mark.flat[0])] if mark.size else name for name, mark in numbers.items()}


def with_weights(module: nnx.Module, weights: Mapping[str, Array]) -> nnx.Module:
    """Return a copy of the module that holds these weights (by torch's names); strict."""
    module = nnx.clone(module)
    checkpoint.load_parameters(module, weights)
    return module


def run(module: nnx.Module, probe: Probe, dtype: str, replayed: Mapping[str, Array] | None = None) -> Trace:
    """Return the trace of one call, computed in `dtype` with weights and inputs rounded to `probe.dtype`.

    The scalar that is differentiated is the sum over floating outputs of `<output, cotangent>`. The optimizer's
    step is taken from the gradients `replayed` (by torch's names and in torch's layout), by default this run's
    own. Matrix products run as the probe says on every device, never by its default.

    Raises RuntimeError when the outputs depend on random numbers: nothing could be compared then.
    """
    with _x64(dtype), jax.default_matmul_precision(_matmul(probe, dtype)):
        module = _widened(module) if dtype == "float64" else module
        graphdef, params, rest = nnx.split(module, nnx.Param, ...)  # type: ignore[misc]
        params, rest = (_rounded(state, probe.dtype, dtype) for state in (params, rest))
        call = _Call.of(probe, dtype)
        forward, program = _compiled(graphdef, call.signature)
        shapes, _ = jax.eval_shape(forward, params, call.floating, rest, call.others)
        cotangents = _cotangents(shapes, probe)
        gradients = None if replayed is None else _as_state(graphdef, params, rest, replayed)

        def result(rest: Any) -> _Result:
            return _Result(*program(params, call.floating, rest, call.others, cotangents, gradients))

        found = result(rest)
        _require_no_luck(module, rest, found, result)

        def torch_names(tree: Any) -> dict[str, Array]:
            return parameters(nnx.merge(graphdef, tree, rest))

        own = paths(module)
        entries = {name: Entry(value, "param", own[name]) for name, value in torch_names(params).items()}
        for name, value in name_outputs(found.outputs, probe.outputs).items():
            entries[name] = Entry(np.asarray(value), output_kind(name), name)
        for name, value in torch_names(found.gradients[0]).items():
            entries[f"grad({name})"] = Entry(value, "grad", f"grad({own[name]})")
        for name, value in call.named(found.gradients[1], probe).items():
            entries[f"grad({name})"] = Entry(np.asarray(value), "grad", f"grad({name})")
        for name, value in torch_names(found.stepped).items():
            entries[f"step({name})"] = Entry(value, "step", f"step({own[name]})")
    return Trace(entries)


def reservations(module: nnx.Module, probe: Probe) -> tuple[str, ...]:
    """Say which products keep to less than the IEEE float32 that the probe asks for: only defaults are pinned."""
    if (probe.matmul, probe.dtype) != ("ieee", "float32"):
        return ()
    with jax.default_matmul_precision(_matmul(probe, probe.dtype)):
        graphdef, params, rest = nnx.split(module, nnx.Param, ...)  # type: ignore[misc]
        call = _Call.of(probe, probe.dtype)
        forward, _ = _passes(graphdef, call.signature)
        found = rounded_products(jax.make_jaxpr(forward)(params, call.floating, rest, call.others))
    if not found.rounded:
        return ()
    return (
        f"IEEE float32 in {found.rounded} of {found.products} products of the candidate's forward pass, whose own "
        f"precision={' or '.join(found.precisions)} was not overruled: a CPU ignores it, a TPU or GPU rounds their "
        "operands; judge there, or leave it to jax.default_matmul_precision",
    )


def answer(module: nnx.Module, probe: Probe) -> dict[str, Array]:
    """Return the outputs of one call in float64, outside `jit`; what the module raises is raised."""
    with in_float64():
        graphdef, params, rest = nnx.split(_widened(module), nnx.Param, ...)  # type: ignore[misc]
        params, rest = (_rounded(state, probe.dtype, "float64") for state in (params, rest))
        call = _Call.of(probe, "float64")
        forward, _ = _passes(graphdef, call.signature)
        outputs, _ = forward(params, call.floating, rest, call.others)
        return {name: np.asarray(value) for name, value in name_outputs(outputs, probe.outputs).items()}


def record(module: nnx.Module, probe: Probe, weights: Mapping[str, Array]) -> list[Array]:
    """Return every number that the module and its backward pass compute on a probe in float64, in no order."""
    with in_float64():
        graphdef, params, rest = nnx.split(_widened(with_weights(module, weights)), nnx.Param, ...)  # type: ignore[misc]
        params, rest = (_rounded(state, probe.dtype, "float64") for state in (params, rest))
        call = _Call.of(probe, "float64")
        forward, recording = _recording(graphdef, call.signature)
        shapes, _ = jax.eval_shape(forward, params, call.floating, rest, call.others)
        cotangents = _cotangents(shapes, probe)
        return [np.asarray(a) for a in recording(params, call.floating, rest, call.others, cotangents)]


def _cotangents(shapes: Any, probe: Probe) -> list[jax.Array]:
    """Return the directions in which the floating outputs are differentiated."""
    return [
        jnp.asarray(probe.cotangent(name, leaf.shape), leaf.dtype)
        for name, leaf in name_outputs(shapes, probe.outputs).items()
        if _is_floating(leaf)
    ]


class _Result(NamedTuple):
    """What one run of the compiled program returns."""

    outputs: Any
    drawn: Any  # how many random numbers each stream of the module has given, afterwards
    gradients: tuple[Any, list[jax.Array]]  # of the parameters, of the floating inputs
    stepped: Any


class _Signature(NamedTuple):
    """What is static in a call: the nesting of its arguments and its plain Python values. Hashable."""

    tree: jax.tree_util.PyTreeDef
    places: tuple[str, ...]  # per leaf: "floating", "other" or "static"
    static: tuple[tuple[type, Any], ...]  # with their types, because 1 == True

    def fill(self, floating: list[Any], others: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        sources = {
            "floating": iter(floating),
            "other": iter(others),
            "static": (value for _, value in self.static),
        }
        return jax.tree.unflatten(self.tree, [next(sources[place]) for place in self.places])


class _Call(NamedTuple):
    """The arguments of one call: floating arrays to differentiate, other arrays, and the rest."""

    signature: _Signature
    floating: list[jax.Array]
    others: list[jax.Array]

    @classmethod
    def of(cls, probe: Probe, dtype: str) -> _Call:
        leaves, tree = jax.tree.flatten((probe.args, dict(probe.kwargs)))
        floating, others, static, places = [], [], [], []
        for leaf in leaves:
            if not isinstance(leaf, np.ndarray):
                static.append((type(leaf), leaf))
                places.append("static")
            elif leaf.dtype.kind in "iub":
                others.append(jnp.asarray(leaf))
                places.append("other")
            else:
                floating.append(jnp.asarray(probe.rounded(leaf), jnp.dtype(dtype)))
                places.append("floating")
        return cls(_Signature(tree, tuple(places), tuple(static)), floating, others)

    def named(self, gradients: list[jax.Array], probe: Probe) -> dict[str, jax.Array]:
        """Put the gradients back where the floating inputs were, and name them as torch's side does."""
        nothing = tuple((kind, None) for kind, _ in self.signature.static)
        blank = self.signature._replace(static=nothing)
        args, kwargs = blank.fill(gradients, [None] * len(self.others))
        return name_inputs(args, kwargs, probe.arg_names or ())


@functools.lru_cache(maxsize=64)
def _compiled(graphdef: Any, signature: _Signature) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the forward function and the whole compiled program; the probes of one case share them."""
    optimizer = optim.adam(LEARNING_RATE)
    forward, both_passes = _passes(graphdef, signature)

    @jax.jit
    def program(
        params: Any, floating: Any, rest: Any, others: Any, cotangents: Any, replayed: Any
    ) -> tuple[Any, ...]:
        outputs, drawn, gradients = both_passes(params, floating, rest, others, cotangents)
        taken = gradients[0] if replayed is None else replayed
        updates, _ = optimizer.update(taken, optimizer.init(params), params)
        return outputs, drawn, gradients, optax.apply_updates(params, updates)

    return forward, program


@functools.lru_cache(maxsize=16)
def _recording(graphdef: Any, signature: _Signature) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the forward function and the compiled program that returns all that both passes compute."""
    forward, both_passes = _passes(graphdef, signature)
    return forward, jax.jit(recorded(both_passes))


def _passes(graphdef: Any, signature: _Signature) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the forward pass, and forward and backward pass, as functions of arrays."""

    def forward(params: Any, floating: Any, rest: Any, others: Any) -> tuple[Any, Any]:
        args, kwargs = signature.fill(floating, others)
        module = nnx.merge(graphdef, params, rest, copy=True)  # its random streams move on
        outputs = module(*args, **kwargs)
        return outputs, nnx.state(module, nnx.RngCount)

    def both(params: Any, floating: Any, rest: Any, others: Any, cotangents: Any) -> tuple[Any, Any, Any]:
        def differentiable(params: Any, floating: Any) -> tuple[list[Any], Any]:
            outputs, drawn = forward(params, floating, rest, others)
            leaves = name_outputs(outputs).values()
            return [leaf for leaf in leaves if _is_floating(leaf)], (outputs, drawn)

        _, pullback, (outputs, drawn) = jax.vjp(differentiable, params, floating, has_aux=True)
        return outputs, drawn, pullback(cotangents)

    return forward, both


def _require_no_luck(module: nnx.Module, rest: Any, found: _Result, result: Callable[[Any], _Result]) -> None:
    """Where random numbers were drawn, the outputs must not depend on them (Flax draws its zero states)."""
    before = jax.tree.leaves(nnx.filter_state(rest, nnx.RngCount))
    if all(np.array_equal(*pair) for pair in zip(before, jax.tree.leaves(found.drawn), strict=True)):
        return
    moved = jax.tree.map(lambda leaf: leaf + 1000 if leaf.dtype == jnp.uint32 else leaf, rest)
    pairs = zip(jax.tree.leaves(found.outputs), jax.tree.leaves(result(moved).outputs), strict=True)
    if all(np.array_equal(*pair, equal_nan=True) for pair in pairs):
        return
    raise RuntimeError(
        f"{type(module).__name__} drew random numbers that change its outputs, so two runs cannot agree; call "
        ".eval(), which is --eval of parity check, or pass the dropout masks (dropout_masks=) to both models."
    )


def _as_state(graphdef: Any, params: Any, rest: Any, values: Mapping[str, Array]) -> Any:
    """Put values by torch's names into the shape of the parameters' state."""
    holder = nnx.merge(graphdef, params, rest, copy=True)  # `params` keep their own values
    checkpoint.load_parameters(holder, values)
    return nnx.state(holder, nnx.Param)


def _rounded(state: Any, held: str, computed: str) -> Any:
    def cast(leaf: Any) -> Any:
        if not _is_floating(leaf):
            return leaf
        return jnp.asarray(leaf).astype(jnp.dtype(held)).astype(jnp.dtype(computed))

    return jax.tree.map(cast, state)


def _widened(module: nnx.Module) -> nnx.Module:
    """Return a copy whose modules compute in float64, as torch's `.double()` does.

    Some of Flax's modules (`nnx.Embed`) fix their `dtype` to that of their first weights, unasked.
    """
    module = nnx.clone(module)
    for _, part in nnx.iter_modules(module):
        if vars(part).get("dtype") is not None and jnp.issubdtype(part.dtype, jnp.floating):  # type: ignore[attr-defined]
            part.dtype = jnp.float64  # type: ignore[attr-defined]
    return module


def has_gpu() -> bool:
    """Tell whether JAX computes on a GPU."""
    return jax.devices()[0].platform == "gpu"


def _matmul(probe: Probe, dtype: str) -> str:
    return MATMUL_PRECISION[probe.matmul if dtype != "float64" else "ieee"]


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Let JAX compute in float64, with matrix products in full precision."""
    with jax.enable_x64(True), jax.default_matmul_precision(MATMUL_PRECISION["ieee"]):
        yield


def _x64(dtype: str) -> contextlib.AbstractContextManager[Any]:
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


def _is_floating(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)
