"""What the recurrent layers share: torch's calling conventions around `jaxrnn.ops.unroll`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrnn import checks
from jaxrnn.cells import Cell
from jaxrnn.dropout import drop
from jaxrnn.init import recurrent_uniform
from jaxrnn.lengths import check_lengths
from jaxrnn.linear_cells import LinearCell
from jaxrnn.ops import QuasiDeer, unroll_layers
from jaxrnn.ops import memory as memory_policies
from jaxrnn.ops.memory import Memory, Size
from jaxrnn.sequence import PackedSequence


class RecurrentLayer(nnx.Module):
    """What all recurrent layers share; each constructor calls `_build`."""

    proj_size = 0
    weight_ih_l0: nnx.Param  # there in every layer; the other parameters follow from the cell

    def _build(
        self,
        cell: Cell | LinearCell,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        *,
        rngs: nnx.Rngs,
        dtype: Any,
        param_dtype: Any,
        precision: jax.lax.PrecisionLike,
        implementation: str | QuasiDeer | None,
        memory: Any,
    ) -> None:
        checks.check_flags(bias=bias, batch_first=batch_first)
        dropout = checks.check_dropout(dropout, num_layers)
        checks.check_sizes(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        checks.check_projection(self.proj_size, hidden_size)
        self.cell, self.mode = cell, cell.name
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bool(bidirectional)
        self.dropout, self.deterministic = dropout, False
        self.dtype, self.precision, self.implementation = dtype, precision, implementation
        self.memory = memory_policies.check(memory)
        for layer in range(num_layers):
            for suffix in self._suffixes:
                for name, shape in self._shapes(layer).items():
                    value = recurrent_uniform(rngs.params(), shape, hidden_size, param_dtype)
                    setattr(self, f"{name}_l{layer}{suffix}", nnx.Param(value))
        self.rngs = rngs.dropout.fork() if dropout > 0 and num_layers > 1 else None

    def __call__(
        self,
        input: jax.Array | PackedSequence,
        hx: Any = None,
        *,
        lengths: Any = None,
        resets: jax.Array | None = None,
        dropout_masks: Sequence[jax.Array] | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
    ) -> tuple[Any, Any]:
        """Return ``output, h_n`` (an LSTM: ``output, (h_n, c_n)``).

        * `lengths`: int [B], 0 to T. Steps beyond a row's length leave its state alone, their output is zero, and
          what the padding holds reaches neither a result nor a gradient. The reverse direction starts at the
          row's own last step. Length 0 returns the initial state. Compiled code cannot look at the values: there, a
          length beyond T counts as T.
        * `resets`: bool, the input's shape without features: True where a new sequence begins inside a row.
          It starts from zeros, and no direction carries anything across.
        * `dropout_masks`: for each layer but the last, which of its outputs to keep, in the layout of the output.
        * `rngs`: draws the masks, in place of the layer's own stream.

        A `PackedSequence` brings its own lengths and returns as one.
        """
        if isinstance(input, PackedSequence):
            return self._call_packed(input, hx, lengths, resets, dropout_masks, rngs)
        x = checks.check_array("input", input)
        batched = x.ndim != 2
        time_axis = 1 if self.batch_first and batched else 0
        checks.check_input(self._kind, x.shape, self.input_size, time_axis=time_axis)
        x = checks.check_dtype(x, self.dtype, self._compute_dtype)
        states = self._initial_states(hx, x.shape[1 - time_axis] if batched else None)
        if not batched:
            states = tuple(s[:, None] for s in states)

        def batch_major(a: jax.Array) -> jax.Array:
            return a[None] if not batched else a if self.batch_first else jnp.swapaxes(a, 0, 1)

        x = batch_major(x)
        if lengths is not None:
            lengths = check_lengths(lengths if batched else [lengths], *x.shape[:2])
        if resets is not None:
            resets = batch_major(self._checked_resets(resets, input.shape[:-1]))
        masks = self._dropout_masks(dropout_masks, rngs, input.shape[:-1], batch_major)
        output, states = self._run(x, states, lengths, resets, masks)
        if not batched:
            return output[0], self._returned(tuple(s[:, 0] for s in states))
        return output if self.batch_first else jnp.swapaxes(output, 0, 1), self._returned(states)

    def _call_packed(self, packed, hx, lengths, resets, dropout_masks, rngs):
        if lengths is not None or resets is not None:
            name = "lengths" if lengths is not None else "resets"
            raise ValueError(
                f"{name}= was given with a PackedSequence, which brings its own lengths. "
                f"Pass packed.padded and packed.lengths instead, with {name}=."
            )
        if packed.padded.ndim != 3:
            raise RuntimeError(
                f"input must have 2 dimensions, got {packed.padded.ndim - 1}. Pack an input with a feature axis: "
                "(time, batch, features), or (batch, time, features) with batch_first."
            )
        checks.check_input(self._kind, packed.padded.shape, self.input_size, time_axis=1)
        x = checks.check_dtype(packed.padded, self.dtype, self._compute_dtype)
        states = self._initial_states(hx, x.shape[0], permuted=not packed.enforce_sorted)
        masks = self._dropout_masks(dropout_masks, rngs, x.shape[:2], lambda mask: mask)
        output, states = self._run(x, states, packed.lengths, None, masks)
        return dataclasses.replace(packed, padded=output), self._returned(states)

    def _run(self, x, states, lengths, resets, masks):
        """Return the last layer's outputs [B, T, D*R] and all final states [L*D, B, features]."""
        policy = self._memory_policy(x)
        given = [self.cell.state(*fields) for fields in zip(*states, strict=True)]
        finals: list[Any] = []
        # Layers between which nothing happens are given together: they may share a loop over time, or a call.
        groups = [[layer] for layer in range(self.num_layers)] if masks else [range(self.num_layers)]
        for group in groups:
            places = [(layer, direction) for layer in group for direction in range(len(self._suffixes))]
            x, final = unroll_layers(
                self.cell,
                [self._parameters(layer, self._suffixes[direction]) for layer, direction in places],
                x,
                [given[layer * len(self._suffixes) + direction] for layer, direction in places],
                lengths=lengths,
                resets=resets,
                bidirectional=self.bidirectional,
                precision=self.precision,
                implementation=self.implementation,
                memory=policy,
            )
            finals.extend(final)
            if masks and group[0] < self.num_layers - 1:
                x = drop(x, masks[group[0]], self.dropout)
        return x, tuple(jnp.stack(field) for field in zip(*finals, strict=True))

    def _memory_policy(self, x: jax.Array) -> Memory:
        """Return what to keep for the backward pass: a budget is one for the whole layer."""
        if isinstance(self.cell, LinearCell):
            return Memory()
        rows, steps, _ = x.shape
        sizes = self.hidden_size, self.proj_size, len(self._suffixes), self.num_layers
        return memory_policies.resolve(self.memory, Size(self.cell, steps, rows, *sizes, x.dtype))

    def _dropout_masks(self, given, rngs, layout, batch_major):
        """Return one keep-mask [B, T, D*R] per layer but the last, or nothing where nothing is dropped."""
        wanted, shape = self.num_layers - 1, (*layout, self._output_features)
        if given is None:
            if not self.drops:
                return []
            keys = _keys(rngs if rngs is not None else self.rngs, wanted)
            return [batch_major(jax.random.bernoulli(key, 1 - self.dropout, shape)) for key in keys]
        if not self.drops:
            raise ValueError(
                "dropout_masks were given, but this layer drops nothing: it needs dropout > 0, num_layers > 1 and "
                "training mode (call train())."
            )
        masks = [checks.check_array("dropout_masks", mask).astype(bool) for mask in given]
        if len(masks) != wanted or any(mask.shape != shape for mask in masks):
            raise ValueError(
                f"dropout_masks should be {wanted} arrays shaped like the layer's output, {shape}, one for each "
                f"layer but the last; got {[mask.shape for mask in masks]}."
            )
        return [batch_major(mask) for mask in masks]

    def _checked_resets(self, resets: Any, shape: tuple[int, ...]) -> jax.Array:
        marks = checks.check_array("resets", resets)
        if marks.dtype != bool:
            raise TypeError(
                f"resets should be of dtype bool, got: {marks.dtype}. Compare: resets != 0 if 1 marks a start."
            )
        if marks.shape != tuple(shape):
            raise ValueError(
                f"resets should have the input's shape without features, {tuple(shape)}, got {marks.shape}."
            )
        return marks

    def _initial_states(self, hx: Any, rows: int | None, *, permuted: bool = False) -> tuple[jax.Array, ...]:
        """Return the initial states: checked if given, zeros if not."""
        batch = () if rows is None else (rows,)
        count = self.num_layers * len(self._suffixes)
        sizes = [(count, *batch, f) for f in self.cell.state_features(self.hidden_size, self.proj_size)]
        if hx is None:
            return tuple(jnp.zeros(size, self._compute_dtype) for size in sizes)
        states = checks.check_hidden(self.mode, hx, expects_cell_state=len(sizes) == 2)
        checks.check_hidden_ranks(states, batched=rows is not None)
        checks.check_hidden_size(states, sizes, permuted=permuted)
        return tuple(
            checks.check_state_dtype(name, state, self.dtype, self._compute_dtype)
            for name, state in zip(("hx", "hx[1]"), states, strict=False)
        )

    def _parameters(self, layer: int, suffix: str) -> dict[str, jax.Array]:
        names = self._shapes(layer)
        return {n: getattr(self, f"{n}_l{layer}{suffix}")[...].astype(self._compute_dtype) for n in names}

    def _shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        features = self.input_size if layer == 0 else self._output_features
        return self.cell.parameter_shapes(
            features, self.hidden_size, bias=self.bias, projected_features=self.proj_size
        )

    def _returned(self, states: tuple[jax.Array, ...]) -> Any:
        return states if len(states) > 1 else states[0]

    @property
    def _suffixes(self) -> tuple[str, ...]:
        return ("", "_reverse") if self.bidirectional else ("",)

    @property
    def _output_features(self) -> int:
        return len(self._suffixes) * (self.proj_size or self.hidden_size)

    @property
    def _compute_dtype(self) -> Any:
        return jnp.dtype(self.dtype or self.weight_ih_l0.dtype)

    @property
    def _kind(self) -> str:
        """The name torch's messages use."""
        return self.mode.split("_")[0] if self.mode.startswith("RNN") else type(self).__name__

    @property
    def drops(self) -> bool:
        """Whether a call drops anything between the layers."""
        return self.dropout > 0 and self.num_layers > 1 and self.training

    @property
    def training(self) -> bool:
        """Whether the layer drops; `train()` and `eval()` switch it."""
        return not self.deterministic

    @property
    def all_weights(self) -> list[list[nnx.Param]]:
        """The parameters, one list per layer and direction."""
        return [
            [getattr(self, f"{name}_l{layer}{suffix}") for name in self._shapes(layer)]
            for layer in range(self.num_layers)
            for suffix in self._suffixes
        ]

    def reset_parameters(self, rngs: nnx.Rngs) -> None:
        """Draw all parameters anew from torch's distribution."""
        for weights in self.all_weights:
            for weight in weights:
                weight[...] = recurrent_uniform(rngs.params(), weight.shape, self.hidden_size, weight.dtype)

    def flatten_parameters(self) -> None:
        """Do nothing, as torch does where cuDNN is not used: XLA lays out weights itself."""

    def extra_repr(self) -> str:
        """Return the constructor's arguments as torch prints them: defaults are left out."""
        shown = [f"{self.input_size}, {self.hidden_size}"]
        if self.proj_size:
            shown.append(f"proj_size={self.proj_size}")
        shown += [
            f"{name}={getattr(self, name)}"
            for name, default in _SHOWN.items()
            if getattr(self, name, default) != default
        ]
        return ", ".join(shown)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    __str__ = __repr__


_SHOWN = {
    "num_layers": 1,
    "nonlinearity": "tanh",  # torch does not show it, so two different layers print alike
    "bias": True,
    "batch_first": False,
    "dropout": 0.0,
    "bidirectional": False,
}


def _keys(stream: Any, count: int) -> list[jax.Array]:
    """Return a key for each dropout mask."""
    if isinstance(stream, jax.Array):
        return list(jax.random.split(stream, count))
    draw = stream.dropout if isinstance(stream, nnx.Rngs) else stream
    return [draw() for _ in range(count)]
