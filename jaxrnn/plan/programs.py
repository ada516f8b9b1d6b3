"""What a plan compiles: a training step of one layer, of a language model over bytes, or of the user's own."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrnn import cells, layers
from jaxrnn.bptt import scan_loss
from jaxrnn.cells import Cell
from jaxrnn.ops import memory as memory_policies
from jaxrnn.ops.memory import Memory

CELLS = {"LSTM": cells.LSTM, "GRU": cells.GRU, "RNN": cells.TANH, "PeepholeLSTM": cells.PEEPHOLE_LSTM}
KINDS = tuple(CELLS)
DTYPES = ("float32", "bfloat16", "float16")
AXIS = "data"  # of the mesh: its chips share the batch


class Step(NamedTuple):
    """A function and what it is called with, as for ``jax.jit(function).lower(*arguments)``."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Network:
    """A recurrent layer, or with `vocabulary` a language model: embedding, layer, readout, by `scan_loss`.

    The step planned is a loss of all outputs and its gradient with respect to all weights, without an optimizer's
    update: Adam holds twice the parameters' bytes more. Inputs are [T, B, I] in `dtype`, or tokens [T, B] of one
    byte each where the vocabulary allows.
    """

    kind: str
    hidden_features: int
    batch: int
    steps: int
    input_features: int = 64  # of the embedding, where there is a vocabulary
    layers: int = 1
    bidirectional: bool = False
    vocabulary: int | None = None
    dtype: str = "float32"
    param_dtype: str = "float32"

    def check(self, devices: int) -> None:
        """Raise `ValueError` for what no compiler need be asked about."""
        for name in ("hidden_features", "batch", "steps", "input_features", "layers", "vocabulary"):
            value = getattr(self, name)
            if name == "vocabulary" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} should be a positive whole number, got {value!r}.")
        for name, known in (("kind", KINDS), ("dtype", DTYPES), ("param_dtype", DTYPES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(known)}.")
        if self.batch % devices:
            raise ValueError(
                f"batch={self.batch} cannot be shared by {devices} devices: take a multiple of {devices}."
            )
        if self.vocabulary is not None and self.bidirectional:
            raise ValueError(
                "bidirectional: a language model reads one way, and so does scan_loss. Leave vocabulary out."
            )

    @property
    def cell(self) -> Cell:
        """What happens in one step."""
        return CELLS[self.kind]

    def resolved(self, memory: Any) -> Memory:
        """Return the policy that `memory` means here."""
        directions = 2 if self.bidirectional else 1
        size = memory_policies.Size(
            self.cell,
            self.steps,
            self.batch,
            self.hidden_features,
            0,
            directions,
            self.layers,
            jnp.dtype(self.dtype),
        )
        return memory_policies.resolve(memory_policies.check(memory), size)

    def lower(self, memory: Any, mesh: Mesh) -> Step:
        """Return the training step with a memory policy, its batch shared by the devices of a mesh."""
        make = self._language_model if self.vocabulary else self._recurrent_layer
        return make(memory, mesh)

    def shared_by(self, devices: int) -> Network:
        """Return what one of so many devices computes."""
        return replace(self, batch=self.batch // devices)

    def _layer(self, memory: Any) -> Any:
        options = {
            "dtype": jnp.dtype(self.dtype),
            "param_dtype": jnp.dtype(self.param_dtype),
            "memory": memory,
        }
        make = getattr(layers, self.kind)
        return nnx.eval_shape(
            lambda: make(
                self.input_features, self.hidden_features, self.layers, bidirectional=self.bidirectional,
                rngs=nnx.Rngs(0), **options,
            )
        )  # fmt: skip

    def _recurrent_layer(self, memory: Any, mesh: Mesh) -> Step:
        structure, weights = nnx.split(self._layer(memory))

        def loss(weights: Any, x: jax.Array) -> jax.Array:
            h, _ = nnx.merge(structure, weights)(x)
            return jnp.mean(jnp.square(h.astype(jnp.float32)))

        x = _shaped(mesh, (self.steps, self.batch, self.input_features), self.dtype, batch_axis=1)
        return Step(jax.value_and_grad(loss), (_replicated(mesh, weights), x))

    def _language_model(self, memory: Any, mesh: Mesh) -> Step:
        policy = self.resolved(memory)
        # In segments, the loss is taken where the outputs are; as one segment, nothing is computed twice.
        segments = policy.segments or (self.steps,)
        structure, weights = nnx.split(nnx.eval_shape(lambda: _Bytes(self, Memory(policy.keep))))

        def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
            wide, whole = logits.astype(jnp.float32), targets.astype(jnp.int32)
            return optax.softmax_cross_entropy_with_integer_labels(wide, whole)

        def loss(weights: Any, x: jax.Array, y: jax.Array, state: Any) -> Any:
            model = nnx.merge(structure, weights)
            return scan_loss(model, cross_entropy, x, y, state, segments=segments, offload=policy.offload)

        tokens = _shaped(mesh, (self.steps, self.batch), self._token_dtype(), batch_axis=1)
        shape = (self.layers, self.batch, self.hidden_features)
        state = _shaped(mesh, shape, self.dtype, batch_axis=1)
        states = (state, state) if "LSTM" in self.kind else state
        gradient = jax.value_and_grad(loss, has_aux=True)
        return Step(gradient, (_replicated(mesh, weights), tokens, tokens, states))

    def _token_dtype(self) -> str:
        assert self.vocabulary is not None
        sizes = {2**8: "uint8", 2**16: "uint16"}
        return next((name for size, name in sizes.items() if self.vocabulary <= size), "int32")


class _Bytes(nnx.Module):
    """A language model: embedding, recurrent layer, readout."""

    def __init__(self, of: Network, memory: Memory):
        rngs = nnx.Rngs(0)
        dtypes: Any = {"dtype": jnp.dtype(of.dtype), "param_dtype": jnp.dtype(of.param_dtype)}
        assert of.vocabulary is not None
        self.embed = nnx.Embed(of.vocabulary, of.input_features, rngs=rngs, **dtypes)
        make = getattr(layers, of.kind)
        self.layer = make(
            of.input_features, of.hidden_features, of.layers, memory=memory, rngs=rngs, **dtypes
        )
        self.head = nnx.Linear(of.hidden_features, of.vocabulary, rngs=rngs, **dtypes)

    def __call__(self, tokens: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        h, state = self.layer(self.embed(tokens.astype(jnp.int32)), state)
        return self.head(h), state


@dataclass(frozen=True)
class Custom:
    """A step of the user's: ``factory(steps, memory, mesh) -> (function, arguments)``, given as pkg.mod:factory.

    * `steps` and `memory` are those of the plan, `memory` as it would be given to a layer.
    * `mesh` has one axis, "data", over the topology's devices.
    * `function` is what is compiled, a function or a `jax.jit` of one; `arguments` a tuple of trees of arrays or
      `jax.ShapeDtypeStruct`. Those with a sharding on `mesh` keep it; all others are on every device.
    """

    factory: str
    steps: int

    def check(self, devices: int) -> None:
        """Raise `ValueError` for what no compiler need be asked about."""
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or self.steps < 1:
            raise ValueError(f"steps should be a positive whole number, got {self.steps!r}.")
        if not all(self.factory.rpartition(":")[::2]):
            raise ValueError(f"step={self.factory!r} should name a function, as package.module:factory.")

    def lower(self, memory: Any, mesh: Mesh) -> Step:
        """Call the factory."""
        made = load(self.factory)(self.steps, memory, mesh)
        if not (isinstance(made, tuple) and len(made) == 2 and callable(made[0])):
            raise TypeError(f"{self.factory} should return (function, arguments), got {type(made).__name__}.")
        function, arguments = made
        return Step(function, jax.tree.map(lambda a: _placed(mesh, a), tuple(arguments)))


Program = Network | Custom


def to_json(program: Program) -> dict[str, Any]:
    """Return a program in plain types."""
    return asdict(program)


def from_json(fields: dict[str, Any]) -> Program:
    """Read what `to_json` returned."""
    return Custom(**fields) if "factory" in fields else Network(**fields)


def factory_name(step: str | Callable[..., Any]) -> str:
    """Return the name by which another process can import a function."""
    if isinstance(step, str):
        return step
    module, name = getattr(step, "__module__", None), getattr(step, "__qualname__", "<locals>")
    if module in (None, "__main__") or "<" in name or "." in name:
        raise ValueError(
            f"step={step!r} cannot be imported by the process that compiles. Define it at the top of a module, and "
            "give it, or its name as 'package.module:factory' or 'file.py:factory'."
        )
    return f"{module}:{name}"


def load(name: str) -> Callable[..., Any]:
    """Return the function that "package.module:factory" or "file.py:factory" names."""
    module, _, attribute = name.rpartition(":")
    if module.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(module).stem, module)
        if spec is None or spec.loader is None:
            raise ImportError(f"{module} is no Python file.")
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = loaded
        spec.loader.exec_module(loaded)
    else:
        loaded = importlib.import_module(module)
    return getattr(loaded, attribute)


# Abstract arrays on a mesh -----------------------------------------------------------------------------------


def _shaped(mesh: Mesh, shape: tuple[int, ...], dtype: Any, *, batch_axis: int) -> jax.ShapeDtypeStruct:
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * batch_axis, AXIS))
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=sharding)


def _replicated(mesh: Mesh, tree: Any) -> Any:
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)


def _placed(mesh: Mesh, array: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(array, "sharding", None)
    if not (isinstance(sharding, NamedSharding) and sharding.mesh == mesh):
        sharding = NamedSharding(mesh, PartitionSpec())
    aval = jax.typeof(array) if not isinstance(array, jax.ShapeDtypeStruct) else array
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=sharding)
