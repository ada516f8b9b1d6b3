"""What the tests of `torch_ref` share: NumPy draws, and every number of a forward and a backward pass."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

T, B, I, H, PROJ = 5, 3, 4, 6, 2

# The two sides do the same few hundred float64 operations in another order, each off by at most 1.1e-16.
SAME = 1e-12


def draw(seed: int, *shape: int) -> Tensor:
    """Return standard normal numbers in float64, from NumPy's generator."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def fill(module: nn.Module, seed: int = 0) -> Any:
    """Fill every parameter of `module` with normal draws, wide enough that gates leave their linear part.

    Returns it, in float64.
    """
    module.double()
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            parameter.copy_(draw(1000 * seed + index, *parameter.shape) * 1.3 / H**0.5)
    return module


def draw_states(model: Any, rows: int | None, seed: int = 50) -> list[Tensor]:
    """Return random initial states for a layer, `[h]` or `[h, c]`, unbatched where `rows` is None."""
    count = model.num_layers * (2 if model.bidirectional else 1)
    batch = () if rows is None else (rows,)
    widths = [getattr(model, "proj_size", 0) or model.hidden_size]
    if "LSTM" in type(model).__name__:
        widths.append(model.hidden_size)
    return [draw(seed + index, count, *batch, width) for index, width in enumerate(widths)]


def as_hx(states: Sequence[Tensor] | None) -> Any:
    """Return states as PyTorch's layers take them."""
    if states is None:
        return None
    return states[0] if len(states) == 1 else tuple(states)


def trace(
    model: nn.Module,
    x: Tensor,
    states: Sequence[Tensor] | None = None,
    call: Callable[..., tuple[Tensor, Any]] | None = None,
) -> dict[str, Tensor]:
    """Return output, final states, and the gradients of x, initial states and parameters."""
    leaves = {"x": x.clone().requires_grad_()}
    if states is not None:
        leaves |= {f"{n}0": s.clone().requires_grad_() for n, s in zip("hc", states, strict=False)}
    started = None if states is None else as_hx(list(leaves.values())[1:])
    output, final = (call or model)(leaves["x"], started)
    final = final if isinstance(final, tuple) else (final,)
    numbers = {"output": output} | {f"{n}_n": s for n, s in zip("hc", final, strict=False)}
    cotangents = [draw(90 + index, *value.shape) for index, value in enumerate(numbers.values())]
    leaves |= dict(model.named_parameters())
    gradients = torch.autograd.grad(list(numbers.values()), list(leaves.values()), cotangents)
    numbers |= {f"d {name}": g for name, g in zip(leaves, gradients, strict=True)}
    return {name: value.detach() for name, value in numbers.items()}


def rms_error(actual: Tensor, expected: Tensor) -> float:
    """Return the root mean square of the difference, relative to that of `expected`."""
    assert actual.shape == expected.shape
    actual, expected = actual.detach().double(), expected.detach().double()
    difference, size = float((actual - expected).norm()), float(expected.norm())
    return difference / size if size > 0 else difference


def assert_same(
    actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = SAME
) -> None:
    """Assert that two traces hold the same names, and the same numbers up to rounding."""
    assert list(actual) == list(expected)
    errors = {name: rms_error(actual[name], expected[name]) for name in expected}
    worst = {name: error for name, error in errors.items() if not error <= tolerance}
    assert not worst
