"""RNN, LSTM, GRU and PeepholeLSTM: whole sequences, stacked, in one or both directions."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrnn import cells
from jaxrnn.checks import torch_keywords
from jaxrnn.layers.recurrent import RecurrentLayer
from jaxrnn.ops import QuasiDeer


class RNN(RecurrentLayer):
    """Vanilla (Elman) network, as `torch.nn.RNN`::

        h_t = act(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)        act = tanh or relu

    ``output, h_n = rnn(input, h_0)``. See `jaxrnn.layers` for shapes and options.
    """

    @torch_keywords
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        rngs: nnx.Rngs,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
        implementation: str | QuasiDeer | None = None,
        memory: Any = None,
    ):
        if nonlinearity not in NONLINEARITIES:
            raise ValueError(
                f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'. "
                "Fourth by position is nonlinearity here, but bias in LSTM and GRU."
            )
        self.nonlinearity = nonlinearity
        self._build(
            NONLINEARITIES[nonlinearity],
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            rngs=rngs, dtype=dtype, param_dtype=param_dtype, precision=precision, implementation=implementation,
            memory=memory,
        )  # fmt: skip


NONLINEARITIES = {"tanh": cells.TANH, "relu": cells.RELU}


class LSTM(RecurrentLayer):
    """Long short-term memory, as `torch.nn.LSTM`; the equations are at `jaxrnn.cells.lstm_step`.

    ``output, (h_n, c_n) = lstm(input, (h_0, c_0))``. With `proj_size` the hidden state is projected to that many
    features by ``weight_hr``; the cell state keeps H. See `jaxrnn.layers` for shapes and options.
    """

    @torch_keywords
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        rngs: nnx.Rngs,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
        implementation: str | QuasiDeer | None = None,
        memory: Any = None,
    ):
        self.proj_size = proj_size
        self._build(
            cells.LSTM,
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            rngs=rngs, dtype=dtype, param_dtype=param_dtype, precision=precision, implementation=implementation,
            memory=memory,
        )  # fmt: skip


class GRU(RecurrentLayer):
    """Gated recurrent unit, as `torch.nn.GRU`; the equations are at `jaxrnn.cells.gru_step`.

    ``output, h_n = gru(input, h_0)``. See `jaxrnn.layers` for shapes and options.
    """

    @torch_keywords
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        rngs: nnx.Rngs,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
        implementation: str | QuasiDeer | None = None,
        memory: Any = None,
    ):
        self._build(
            cells.GRU,
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            rngs=rngs, dtype=dtype, param_dtype=param_dtype, precision=precision, implementation=implementation,
            memory=memory,
        )  # fmt: skip


class PeepholeLSTM(RecurrentLayer):
    """LSTM with diagonal peepholes; the equations are at `jaxrnn.cells.peephole_lstm_step`.

    As `LSTM` without `proj_size`, and with one more parameter per layer and direction: ``weight_ch_l{k}`` [3, H],
    rows for the input, forget and output gate. torch has no such layer; `torch_ref.PeepholeLSTM` is its mirror.
    """

    @torch_keywords
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        rngs: nnx.Rngs,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
        implementation: str | QuasiDeer | None = None,
        memory: Any = None,
    ):
        self._build(
            cells.PEEPHOLE_LSTM,
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            rngs=rngs, dtype=dtype, param_dtype=param_dtype, precision=precision, implementation=implementation,
            memory=memory,
        )  # fmt: skip
