"""Recurrent layers in plain PyTorch, with the constructors, names and shapes of `torch.nn`.

They are what other implementations are read against and measured with, so they are written for clarity.
Beyond `torch.nn` they take ragged batches as `lengths`, sequences that begin inside a row as `resets`, and
dropout masks made by the caller.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_ref import cells, checks
from torch_ref.cells import Cell, Parameters, State
from torch_ref.ops import restart_marks, unroll, valid_steps


class _Recurrent(nn.Module):
    """What the layers share: named parameters, and unrolls stacked over layers and directions."""

    def _configure(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        *,
        proj_size: int = 0,
        **factory: Any,
    ) -> None:
        checks.check_dropout(dropout, num_layers)
        self.cell = cell
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self.suffixes = ("", "_reverse") if bidirectional else ("",)
        self.output_size = len(self.suffixes) * (proj_size or hidden_size)  # D*R
        for layer in range(num_layers):
            width = input_size if layer == 0 else self.output_size
            shapes = cell.parameter_shapes(width, hidden_size, bias, proj_size)
            for suffix in self.suffixes:
                for name, shape in shapes.items():
                    parameter = nn.Parameter(torch.empty(shape, **factory))
                    self.register_parameter(f"{name}_l{layer}{suffix}", parameter)
        self.parameter_names = tuple(shapes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter anew."""
        cells.draw_uniform(self, self.hidden_size)

    def forward(
        self,
        input: Tensor,
        hx: Any = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        resets: Tensor | None = None,
        dropout_masks: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Any]:
        """Return the last layer's outputs and the final state: `(output, h_n)` or `(output, (h_n, c_n))`.

        `input` is [T, B, I], [B, T, I] if `batch_first`, or [T, I]; `output` is alike, with D*R features. The
        states are [L*D, B, R] (c has H features), at index `layer * D + direction`; without B if `input` is.

        * `lengths` [B], in 0..T: steps at and beyond a row's length leave its state alone, their output is
          zero, and nothing in the padding reaches a result or a gradient. A length of 0 returns `hx`.
        * `resets`, bool [T, B] or [B, T] as `input`, marks the steps at which a new sequence begins: no state
          crosses a mark, in either direction. What lies behind a mark starts from zeros, not from `hx`.
        * `dropout_masks`, for training mode: what to keep, True or False, of the output of every layer but
          the last, in that output's shape. Without them they are drawn with the generator's next numbers,
          as in `torch.nn`.
        """
        checks.check_input(input, self.input_size, self.batch_first)
        batched = input.dim() == 3
        x = self._time_major(input)
        starts = self._initial_states(hx, x, batched)
        valid = marks = masks = None
        if lengths is not None:
            lengths = torch.as_tensor(lengths, device=x.device)
            checks.check_lengths(lengths, x.shape[1:2] if batched else (), len(x))
            valid = valid_steps(lengths.reshape(x.shape[1]), len(x))
            x = torch.where(valid[..., None], x, 0.0)  # not x * valid: 0 * NaN is NaN
        if resets is not None:
            checks.check_mask("resets", resets, input.shape[:-1])
            marks = self._time_major(resets[..., None])[..., 0]
        if dropout_masks is not None:
            shape = (*input.shape[:-1], self.output_size)
            checks.check_dropout_masks(dropout_masks, self.num_layers - 1 if self._drops else 0, shape)
            masks = [self._time_major(mask) for mask in dropout_masks]
        output, ends = self._run(x, starts, valid, marks, masks)
        join = torch.stack if batched else torch.cat
        states = tuple(join(parts) for parts in zip(*ends, strict=True))
        return self._callers_layout(output, batched), states if len(states) > 1 else states[0]

    def _run(
        self,
        x: Tensor,
        starts: Sequence[State],
        valid: Tensor | None,
        marks: Tensor | None,
        masks: Sequence[Tensor] | None,
    ) -> tuple[Tensor, list[State]]:
        """Return the last layer's output [T, B, D*R] and the final state of every layer and direction."""
        ends: list[State] = []
        for layer in range(self.num_layers):
            outputs = []
            for suffix in self.suffixes:
                reverse = suffix == "_reverse"
                params = self.layer_parameters(layer, suffix)
                restart = None if marks is None else restart_marks(marks, valid, reverse)
                output, end = unroll(self.cell, params, x, starts[len(ends)], valid, restart, reverse=reverse)
                outputs.append(output)
                ends.append(end)
            x = torch.cat(outputs, dim=-1)
            if self._drops and layer < self.num_layers - 1:
                x = self._drop(x, None if masks is None else masks[layer])
        return x, ends

    @property
    def _drops(self) -> bool:
        return self.training and self.dropout > 0

    def _drop(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """Return `x` with some elements zeroed, a share p on average, and the others divided by 1 - p."""
        if keep is None:
            return F.dropout(x, self.dropout)
        scale = 1.0 / (1.0 - self.dropout) if self.dropout < 1.0 else 0.0
        return x * (keep.to(x.dtype) * scale)

    def layer_parameters(self, layer: int, suffix: str = "") -> Parameters:
        """Return the parameters of one layer and direction, under the names that the cell knows."""
        return {name: getattr(self, f"{name}_l{layer}{suffix}") for name in self.parameter_names}

    def _initial_states(self, hx: Any, x: Tensor, batched: bool) -> list[State]:
        """Return the state that every layer and direction starts from: those in `hx`, else zeros."""
        count = self.num_layers * len(self.suffixes)
        rows = x.shape[1:2] if batched else ()
        widths = self.cell.state_features(self.hidden_size, self.proj_size)
        shapes = [(count, *rows, width) for width in widths]
        if hx is None:
            parts = tuple(x.new_zeros(shape) for shape in shapes)
        else:
            parts = cells.unpack_hx(self.cell, hx)
        for name, part, shape in zip(self.cell.state._fields, parts, shapes, strict=True):
            checks.check_state(name, part, shape)
        if not batched:
            parts = tuple(part.unsqueeze(1) for part in parts)
        return [self.cell.state(*state) for state in zip(*parts, strict=True)]

    def _time_major(self, a: Tensor) -> Tensor:
        """Return `a`, [T, B, I], [B, T, I] or [T, I], as [T, B, I]."""
        if a.dim() == 2:
            return a.unsqueeze(1)
        return a.transpose(0, 1) if self.batch_first else a

    def _callers_layout(self, a: Tensor, batched: bool) -> Tensor:
        """Undo `_time_major`."""
        if not batched:
            return a.squeeze(1)
        return a.transpose(0, 1) if self.batch_first else a

    def extra_repr(self) -> str:
        """Describe the layer as `torch.nn` does: the sizes, then what is not the default."""
        usual = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0}
        usual["bidirectional"] = False
        changed = [f"{name}={getattr(self, name)}" for name in usual if getattr(self, name) != usual[name]]
        return ", ".join([str(self.input_size), str(self.hidden_size), *changed])


class RNN(_Recurrent):
    """Elman network, `torch.nn.RNN`; the step is `cells.tanh_step` or `cells.relu_step`."""

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
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.nonlinearity = nonlinearity
        self._configure(
            cells.elman(nonlinearity), input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, device=device, dtype=dtype,
        )  # fmt: skip


class LSTM(_Recurrent):
    """Long short-term memory, `torch.nn.LSTM`; the step is `cells.lstm_step`.

    `proj_size` > 0 projects h to R = `proj_size` features.
    """

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
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._configure(
            cells.LSTM, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            proj_size=proj_size, device=device, dtype=dtype,
        )  # fmt: skip


class GRU(_Recurrent):
    """Gated recurrent unit, `torch.nn.GRU`; the step is `cells.gru_step`."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._configure(
            cells.GRU, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            device=device, dtype=dtype,
        )  # fmt: skip


class PeepholeLSTM(_Recurrent):
    """LSTM whose gates see the cell state, which `torch.nn` lacks; the step is `cells.peephole_lstm_step`.

    Every layer and direction has a `weight_ch_l{k}{suffix}` [3, H], its rows in the order i, f, o.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._configure(
            cells.PEEPHOLE_LSTM, input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, device=device, dtype=dtype,
        )  # fmt: skip


class MinGRU(_Recurrent):
    """Minimal GRU, which `torch.nn` lacks; the step is `cells.min_gru_step`.

    Its parameters are `weight_ih_l{k}{suffix}` [2*H, I] and `bias_ih_l{k}{suffix}`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._configure(
            cells.MIN_GRU, input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, device=device, dtype=dtype,
        )  # fmt: skip


class MinLSTM(_Recurrent):
    """Minimal LSTM, which `torch.nn` lacks; the step is `cells.min_lstm_step`.

    Its parameters are `weight_ih_l{k}{suffix}` [3*H, I] and `bias_ih_l{k}{suffix}`; its one state is h.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._configure(
            cells.MIN_LSTM, input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, device=device, dtype=dtype,
        )  # fmt: skip
