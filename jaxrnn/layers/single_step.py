"""RNNCell, LSTMCell, GRUCell and PeepholeLSTMCell: one step, for loops of one's own."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrnn import cells, checks
from jaxrnn.cells import Cell
from jaxrnn.checks import torch_keywords
from jaxrnn.init import recurrent_uniform
from jaxrnn.layers.rnn import NONLINEARITIES


class SingleStepLayer(nnx.Module):
    """What the four cells share; each constructor calls `_build`.

    Input [B, I] or [I]; every state [B, H] or [H], zeros if omitted.
    """

    weight_ih: nnx.Param
    nonlinearity = "tanh"

    def _build(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        bias: bool,
        *,
        rngs: nnx.Rngs,
        dtype: Any,
        param_dtype: Any,
        precision: jax.lax.PrecisionLike,
    ) -> None:
        checks.check_flags(bias=bias)
        checks.check_sizes(input_size=input_size, hidden_size=hidden_size)
        self.cell, self.input_size, self.hidden_size, self.bias = cell, input_size, hidden_size, bias
        self.dtype, self.precision = dtype, precision
        for name, shape in self._shapes.items():
            setattr(self, name, nnx.Param(recurrent_uniform(rngs.params(), shape, hidden_size, param_dtype)))
        if not bias:
            self.bias_ih = self.bias_hh = None

    def __call__(self, input: jax.Array, hx: Any = None) -> Any:
        """Return the next state: h, or (h, c) for the LSTMs."""
        kind = type(self).__name__
        x = checks.check_array("input", input)
        checks.check_cell_input(kind, x, self.input_size)
        compute_dtype = jnp.dtype(self.dtype or self.weight_ih.dtype)
        x = checks.check_dtype(x, self.dtype, compute_dtype)
        state = self._state(kind, hx, x.shape[:-1], compute_dtype)
        params = {name: getattr(self, name)[...].astype(compute_dtype) for name in self._shapes}
        new = _advance(self.cell, self.precision, params, x, state)
        return tuple(new) if len(new) > 1 else new.h  # a plain tuple, so that it can be a scan's carry

    def _state(self, kind: str, hx: Any, batch: tuple[int, ...], dtype: Any) -> cells.State:
        count = len(self.cell.state._fields)
        if hx is None:
            return self.cell.state(*[jnp.zeros((*batch, self.hidden_size), dtype)] * count)
        states = checks.check_hidden(kind, hx, expects_cell_state=count == 2)
        checks.check_cell_hidden(kind, states, batch, self.hidden_size)
        return self.cell.state(
            *(checks.check_state_dtype(f"hidden{n}", s, self.dtype, dtype) for n, s in enumerate(states))
        )

    @property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return self.cell.parameter_shapes(self.input_size, self.hidden_size, bias=self.bias)

    def reset_parameters(self, rngs: nnx.Rngs) -> None:
        """Draw all parameters anew from torch's distribution."""
        for name in self._shapes:
            weight = getattr(self, name)
            weight[...] = recurrent_uniform(rngs.params(), weight.shape, self.hidden_size, weight.dtype)

    def extra_repr(self) -> str:
        """Return the constructor's arguments as torch prints them: defaults are left out."""
        shown = f"{self.input_size}, {self.hidden_size}"
        if not self.bias:
            shown += ", bias=False"
        if self.nonlinearity != "tanh":
            shown += f", nonlinearity={self.nonlinearity}"
        return shown

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    __str__ = __repr__


@partial(jax.jit, static_argnums=(0, 1), inline=True)
def _advance(cell, precision, params, x, state):
    """One step, carried in float32 and returned in the dtype of `x`; a missing batch axis is no obstacle."""
    carried = jax.tree.map(lambda s: s.astype(cells.carry_dtype(s.dtype)), state)
    return jax.tree.map(lambda s: s.astype(x.dtype), cells.advance(cell, params, x, carried, precision))


class RNNCell(SingleStepLayer):
    """One step of `jaxrnn.RNN`, as `torch.nn.RNNCell`: ``h = cell(input, h)``."""

    @torch_keywords
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        rngs: nnx.Rngs,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
    ):
        if nonlinearity not in NONLINEARITIES:  # torch notices in the first step only
            raise RuntimeError(f"Unknown nonlinearity: {nonlinearity}. Select from 'tanh' or 'relu'.")
        self.nonlinearity = nonlinearity
        self._build(
            NONLINEARITIES[nonlinearity], input_size, hidden_size, bias,
            rngs=rngs, dtype=dtype, param_dtype=param_dtype, precision=precision,
        )  # fmt: skip


class LSTMCell(SingleStepLayer):
    """One step of `jaxrnn.LSTM`, as `torch.nn.LSTMCell`: ``h, c = cell(input, (h, c))``."""

    @torch_keywords
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
    ):
        self._build(
            cells.LSTM, input_size, hidden_size, bias,
            rngs=rngs, dtype=dtype, param_dtype=param_dtype, precision=precision,
        )  # fmt: skip


class GRUCell(SingleStepLayer):
    """One step of `jaxrnn.GRU`, as `torch.nn.GRUCell`: ``h = cell(input, h)``."""

    @torch_keywords
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
    ):
        self._build(
            cells.GRU, input_size, hidden_size, bias,
            rngs=rngs, dtype=dtype, param_dtype=param_dtype, precision=precision,
        )  # fmt: skip


class PeepholeLSTMCell(SingleStepLayer):
    """One step of `jaxrnn.PeepholeLSTM`: ``h, c = cell(input, (h, c))``; ``weight_ch`` holds the peepholes."""

    @torch_keywords
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
    ):
        self._build(
            cells.PEEPHOLE_LSTM, input_size, hidden_size, bias,
            rngs=rngs, dtype=dtype, param_dtype=param_dtype, precision=precision,
        )  # fmt: skip
