"""MinGRU and MinLSTM: layers without a recurrent product, computed in parallel over time."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrnn import linear_cells
from jaxrnn.checks import torch_keywords
from jaxrnn.layers.recurrent import RecurrentLayer


class MinGRU(RecurrentLayer):
    """Minimal GRU of Feng et al. (2024), arXiv 2410.01201: another network than the GRU, not a faster one::

        z_t = σ(W_z x_t + b_z)
        h_t = (1 - z_t) ⊙ h_{t-1} + z_t ⊙ (W_n x_t + b_n)

    Its gates see the input alone and nothing multiplies h, so that one layer cannot compute what depends on its own
    state; depth has to. In return all steps are one projection and one associative scan, exact, without iterations.
    These are the equations of the paper's section 3.1, not its variant in log space, whose candidate is positive.

    ``output, h_n = gru(input, h_0)``, with the shapes and options of `jaxrnn.layers`, but for `implementation` and
    `memory`: there is one way to compute it. ``weight_ih_l{k}`` [2*H, I] and ``bias_ih_l{k}``, rows z, n, are drawn
    as those of the other layers. torch has no such layer; `torch_ref.MinGRU` is its mirror.
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
    ):
        self._build(
            linear_cells.MIN_GRU,
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            rngs=rngs, dtype=dtype, param_dtype=param_dtype, precision=precision, implementation=None, memory=None,
        )  # fmt: skip


class MinLSTM(RecurrentLayer):
    """Minimal LSTM of Feng et al. (2024), arXiv 2410.01201: another network than the LSTM, not a faster one::

        f_t, i_t = σ(W_f x_t + b_f), σ(W_i x_t + b_i)
        h_t = f_t / (f_t + i_t) ⊙ h_{t-1} + i_t / (f_t + i_t) ⊙ (W_g x_t + b_g)

    Of an LSTM it lacks the recurrent product, the output gate, c and both tanhs; the two gates are normalised to
    add up to one. What is said of `MinGRU` holds for it, too. ``output, h_n = lstm(input, h_0)``: its state is h
    alone. ``weight_ih_l{k}`` [3*H, I] and ``bias_ih_l{k}`` have rows f, i, g. `torch_ref.MinLSTM` is its mirror.
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
    ):
        self._build(
            linear_cells.MIN_LSTM,
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            rngs=rngs, dtype=dtype, param_dtype=param_dtype, precision=precision, implementation=None, memory=None,
        )  # fmt: skip
