"""The recurrence: a cell applied along time, one whole step after another."""

import torch
from torch import Tensor

from torch_ref import cells
from torch_ref.cells import Cell, Parameters, State


def unroll(
    cell: Cell,
    params: Parameters,
    x: Tensor,
    state: State,
    valid: Tensor | None = None,
    restart: Tensor | None = None,
    *,
    reverse: bool = False,
) -> tuple[Tensor, State]:
    """Return every step's output [T, B, R] for `x` [T, B, I], and the final state.

    Where `restart` [T, B] is True the step starts from zeros. Where `valid` [T, B] is False the step leaves
    the state alone and its output is zero, so a reversed row needs no re-indexing: it waits at its padding,
    then runs.
    """
    gates_x = cells.project(params, x)
    outputs: list[Tensor] = []
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        if restart is not None:
            state = select(restart[t], zeros_like(state), state)
        new = cell.step(params, gates_x[t], state)
        state = new if valid is None else select(valid[t], new, state)
        outputs.append(state.h)
    h = torch.stack(outputs[::-1] if reverse else outputs)
    return (h if valid is None else torch.where(valid[..., None], h, 0.0)), state


def select(condition: Tensor, chosen: State, otherwise: State) -> State:
    """Return the rows of `chosen` where `condition` [B] holds, elsewhere those of `otherwise`."""
    pairs = zip(chosen, otherwise, strict=True)
    return type(chosen)(*(torch.where(condition[:, None], a, b) for a, b in pairs))


def zeros_like(state: State) -> State:
    """Return the state of a sequence that has not begun."""
    return type(state)(*(torch.zeros_like(part) for part in state))


def restart_marks(resets: Tensor, valid: Tensor | None, reverse: bool) -> Tensor:
    """Return the steps [T, B] that start from zeros, given those at which a sequence begins.

    Running backwards, the border before step t is crossed on entering step t - 1. A mark in the padding
    means nothing.
    """
    marks = resets if valid is None else resets & valid
    return torch.cat([marks[1:], torch.zeros_like(marks[:1])]) if reverse else marks


def valid_steps(lengths: Tensor, steps: int) -> Tensor:
    """Return bool [T, B]: True at the steps before each row's end."""
    return torch.arange(steps, device=lengths.device)[:, None] < lengths
