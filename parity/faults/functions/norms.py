"""Mistakes in layer, batch, group and RMS norms, and in standard deviations and medians."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from parity.faults.functions.called import (
    BATCH_NORM,
    GROUP_NORM,
    LAYER_NORM,
    MEDIAN,
    RMS_NORM,
    STD,
    VAR,
    Function,
    Functions,
    each,
)
from parity.faults.substitution import Substitution

Tensor = torch.Tensor
Divisor = Callable[[Tensor, float], Tensor]  # (variance, eps) -> what the centred input is divided by
Variance = Callable[[Tensor, Any], Tensor]  # (input, axes) -> variance along them, axes kept


def root_of_sum(variance: Tensor, eps: float) -> Tensor:
    """Return ``sqrt(v + eps)``, as torch does."""
    return torch.sqrt(variance + eps)


def root_plus_eps(variance: Tensor, eps: float) -> Tensor:
    """Return ``sqrt(v) + eps``."""
    return torch.sqrt(variance) + eps


def biased(input: Tensor, axes: Any) -> Tensor:
    """Return the mean square deviation, as torch's norms do."""
    return (input - input.mean(axes, keepdim=True)).square().mean(axes, keepdim=True)


def unbiased(input: Tensor, axes: Any) -> Tensor:
    """Return the variance with n - 1."""
    return input.var(axes, keepdim=True, correction=1)


def fast(input: Tensor, axes: Any) -> Tensor:
    """Return ``E[x²] - E[x]²``, which cancels where the mean is large (Flax's `use_fast_variance`)."""
    return input.square().mean(axes, keepdim=True) - input.mean(axes, keepdim=True).square()


def layer_norm(
    variance: Variance = biased, divisor: Divisor = root_of_sum, eps_of: Callable[[float], float] = float
) -> Function:
    """Return `F.layer_norm` made of parts."""

    def norm(
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
        *ignored: Any,
    ) -> Tensor:
        axes = tuple(range(-len(normalized_shape), 0))
        centred = input - input.mean(axes, keepdim=True)
        return _affine(centred / divisor(variance(input, axes), eps_of(eps)), weight, bias)

    return norm


def group_norm(
    variance: Variance = biased, divisor: Divisor = root_of_sum, eps_of: Callable[[float], float] = float
) -> Function:
    """Return `F.group_norm` made of parts."""

    def norm(
        input: Tensor,
        num_groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        grouped = input.unflatten(1, (num_groups, -1)).flatten(2)
        centred = grouped - grouped.mean(2, keepdim=True)
        scaled = (centred / divisor(variance(grouped, 2), eps_of(eps))).reshape(input.shape)
        weight, bias = (_along_second(part, input.ndim) for part in (weight, bias))
        return _affine(scaled, weight, bias)

    return norm


def rms_norm(divisor: Divisor = root_of_sum, eps_of: Callable[[float], float] = float) -> Function:
    """Return `F.rms_norm` made of parts; an `eps` of None is the machine epsilon of the input's type."""

    def norm(
        input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
    ) -> Tensor:
        axes = tuple(range(-len(normalized_shape), 0))
        eps = torch.finfo(input.dtype).eps if eps is None else eps
        return _affine(input / divisor(input.square().mean(axes, keepdim=True), eps_of(eps)), weight, None)

    return norm


def batch_norm(
    variance: Variance = biased,
    divisor: Divisor = root_of_sum,
    eps_of: Callable[[float], float] = float,
    momentum_of: Callable[[float], float] = float,
    running: Variance = unbiased,
    mode: Callable[[bool], bool] = bool,
) -> Function:
    """Return `F.batch_norm` made of parts; it updates the running statistics in place, as torch's does."""

    def norm(
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        axes = (0, *range(2, input.ndim))
        training = mode(training)
        mean, spread = input.mean(axes, keepdim=True), variance(input, axes)
        if training and running_mean is not None and running_var is not None:
            part = momentum_of(momentum)
            with torch.no_grad():
                running_mean.lerp_(mean.flatten(), part)
                running_var.lerp_(running(input, axes).flatten(), part)
        if not training and running_mean is not None and running_var is not None:
            mean, spread = (_along_second(part, input.ndim) for part in (running_mean, running_var))
        weight, bias = (_along_second(part, input.ndim) for part in (weight, bias))
        return _affine((input - mean) / divisor(spread, eps_of(eps)), weight, bias)

    return norm


def _affine(scaled: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    scaled = scaled if weight is None else scaled * weight
    return scaled if bias is None else scaled + bias


def _along_second(part: Any, axes: int) -> Any:
    return None if part is None else part.view(1, -1, *[1] * (axes - 2))


def eps_of_all(value: float) -> dict[Function, Function]:
    """Return every norm with another eps."""

    def eps(own: float) -> float:
        return value

    return {
        **each((LAYER_NORM, layer_norm(eps_of=eps)), (BATCH_NORM, batch_norm(eps_of=eps))),
        **each((GROUP_NORM, group_norm(eps_of=eps)), (RMS_NORM, rms_norm(eps_of=eps))),
    }


def momentum(value: float) -> dict[Function, Function]:
    """Return batch norm with another momentum."""
    return dict(each((BATCH_NORM, batch_norm(momentum_of=lambda own: value))))


# The norms of an LSTM's gates --------------------------------------------------------------------------------

GATES = 4


def _of_gates(change: Callable[..., Tensor]) -> Function:
    """Exchange `F.layer_norm` where it norms the sums of all gates: `change(input, weight, bias, width, eps)`."""

    def norm(
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
        *ignored: Any,
    ) -> Tensor:
        (width,) = normalized_shape
        if width % GATES:
            return torch.layer_norm(input, normalized_shape, weight, bias, eps)
        return change(input, weight, bias, width, eps)

    return norm


def _gate_by_gate(input: Tensor, weight: Any, bias: Any, width: int, eps: float) -> Tensor:
    gates = input.unflatten(-1, (GATES, -1))
    return _affine(torch.layer_norm(gates, gates.shape[-1:], eps=eps).flatten(-2), weight, bias)


def _bias_before(input: Tensor, weight: Any, bias: Any, width: int, eps: float) -> Tensor:
    return torch.layer_norm(input if bias is None else input + bias, (width,), weight, None, eps)


def _shared_gain(input: Tensor, weight: Any, bias: Any, width: int, eps: float) -> Tensor:
    shared = None if weight is None else weight[: width // GATES].repeat(GATES)
    return torch.layer_norm(input, (width,), shared, bias, eps)


def _divided_by(divisor: Divisor, variance: Variance = biased) -> dict[Function, Function]:
    return {
        **each((LAYER_NORM, layer_norm(variance, divisor)), (BATCH_NORM, batch_norm(variance, divisor))),
        **each((GROUP_NORM, group_norm(variance, divisor)), (RMS_NORM, rms_norm(divisor))),
    }


# Statistics ------------------------------------------------------------------------------------------------


def _with_correction(function: Function, correction: int) -> Function:
    def spread(input: Tensor, dim: Any = None, *flags: Any, keepdim: bool = False, **options: Any) -> Tensor:
        unbiased = isinstance(dim, bool)  # torch.std(x, unbiased)
        return function(input, None if unbiased else dim, correction=correction, keepdim=keepdim)

    return spread


def _median_of_two(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    if dim is None:
        return torch.quantile(input.flatten(), 0.5)
    ordered = input.sort(dim)
    low, high = (input.shape[dim] - 1) // 2, input.shape[dim] // 2
    values = 0.5 * (ordered.values.select(dim, low) + ordered.values.select(dim, high))
    return torch.return_types.median(
        (values.unsqueeze(dim) if keepdim else values, ordered.indices.select(dim, low))
    )


def _fault(id: str, name: str, fix: str, instead: dict[Function, Function], **options: Any) -> Substitution:
    return Substitution(id, name, fix, tuple(instead), instead, **options)


def _only(
    functions: Functions, instead: Function, id: str, name: str, fix: str, **options: Any
) -> Substitution:
    return Substitution(id, name, fix, functions, instead, **options)


_EPS = "torch's norms have eps=1e-5 (RMSNorm: the machine epsilon of the type); Flax's 1e-6: pass epsilon="
_MOMENTUM = "torch: new = (1 - momentum) old + momentum batch; Flax's momentum is 1 minus torch's"
_BIASED = "normalise with the variance over n; only the running variance is over n - 1"
_N12 = "torch's std and var divide by n - 1 (ddof=1); its median of an even number is the lower of the two"

FAULTS: tuple[Substitution, ...] = (
    _fault("N01", "eps of the norm is 1e-6 (Flax)", _EPS, eps_of_all(1e-6)),
    *(
        _fault(f"N01-{value:g}", f"eps of the norm is {value:g}", _EPS, eps_of_all(value), variant=True)
        for value in (1e-3, 1e-5, 1e-8, 1e-12, 0.0, float(torch.finfo(torch.float32).eps))
    ),
    _fault("N02", "norm divides by the unbiased deviation", _BIASED, _divided_by(root_of_sum, unbiased)),
    _fault("N03", "eps added outside the root", "sqrt(variance + eps)", _divided_by(root_plus_eps)),
    _fault(
        "N03-unbiased",
        "norm divides by std(n - 1) + eps",
        "sqrt(variance + eps), variance over n",
        _divided_by(root_plus_eps, unbiased),
    ),
    _only(
        LAYER_NORM,
        _of_gates(_gate_by_gate),
        "L28",
        "layer norm of each of four gates by itself",
        "norm the sums of all gates together, over 4 H features",
    ),
    _only(
        LAYER_NORM,
        _of_gates(_bias_before),
        "L28-bias",
        "layer norm's bias added before the norm",
        "norm first: (x - E[x]) / sqrt(Var[x] + eps) w + b",
    ),
    _only(
        LAYER_NORM,
        _of_gates(_shared_gain),
        "L28-gain",
        "layer norm's gain shared by four gates",
        "each gate has a gain of its own: the norm's weight has 4 H elements",
    ),
    _only(
        BATCH_NORM,
        batch_norm(momentum_of=lambda own: 1.0 - own),
        "N05",
        "batch norm's momentum read as 1 - momentum (Flax)",
        _MOMENTUM,
    ),
    _only(
        BATCH_NORM,
        batch_norm(momentum_of=lambda own: 0.01),
        "N05-flax",
        "batch norm's momentum is Flax's default of 0.99 (torch: 0.01)",
        _MOMENTUM,
        variant=True,
    ),
    _only(
        BATCH_NORM,
        batch_norm(running=biased),
        "N05-biased",
        "running variance over n (Flax), not n - 1",
        "multiply the batch variance that enters the running one by n / (n - 1)",
    ),
    _only(
        BATCH_NORM,
        batch_norm(running=biased, momentum_of=lambda own: 0.01),
        "N05-both",
        "running variance over n, with Flax's default momentum",
        _MOMENTUM,
        variant=True,
    ),
    _only(
        BATCH_NORM,
        batch_norm(mode=lambda training: not training),
        "N05-mode",
        "batch norm uses the running statistics in training, or the batch's in evaluation",
        "call .train() or .eval() on both models",
    ),
    _only(STD, _with_correction(torch.std, 0), "N12", "standard deviation over n (NumPy's ddof=0)", _N12),
    _only(VAR, _with_correction(torch.var, 0), "N12-var", "variance over n (NumPy's ddof=0)", _N12),
    _only(MEDIAN, _median_of_two, "N12-median", "median of an even number is the mean of the two", _N12),
)
