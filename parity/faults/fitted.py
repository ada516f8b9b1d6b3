"""Mistakes with a number in them: an eps, a scale, a slope that is another one than the reference's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from parity.faults.functions import activations, attention, norms
from parity.faults.functions.called import (
    BATCH_NORM,
    DIVIDE,
    DOT_ATTENTION,
    ELU,
    GROUP_NORM,
    LAYER_NORM,
    LEAKY_RELU,
    MASKED_FILL,
    MULTI_HEAD,
    RMS_NORM,
    SOFTPLUS,
    WHERE,
    Functions,
    each,
)
from parity.faults.substitution import Function, Substitution, exchanging

GRID = 15  # numbers that are tried before a search begins


@dataclass(frozen=True)
class Fitted:
    """A family of faults, one for each value of a number.

    made: what is called instead, given the number. own: the number that a call of the reference has, given the
    call's arguments; None where it has none. bounds: where the number is looked for; both of one sign are searched
    by their logarithms. stepwise: the model changes in steps with the number; whole and half ones are tried.
    """

    id: str
    what: str
    fix: str
    functions: Functions = field(repr=False)
    made: Callable[[float], Mapping[Function, Function]] = field(repr=False)
    own: Callable[..., float | None] = field(repr=False)
    bounds: tuple[float, float]
    stepwise: bool = False

    def make(self, value: float) -> Substitution:
        """Return the fault with this number."""
        name = f"{self.what} is {value:.17g}"
        return Substitution(self.id, name, self.fix, self.functions, self.made(value))

    @property
    def by_logarithm(self) -> bool:
        """Whether the number is looked for by its logarithm."""
        return self.bounds[0] * self.bounds[1] > 0 and not self.stepwise

    @property
    def grid(self) -> list[float]:
        """The places at which the search begins."""
        low, high = sorted(map(self.encoded, self.bounds))
        count = round(2 * (high - low)) + 1 if self.stepwise else GRID
        return [low + (high - low) * n / (count - 1) for n in range(count)]

    def encoded(self, value: float) -> float:
        """Return what is searched along."""
        return math.log(abs(value)) if self.by_logarithm else value

    def decoded(self, place: float) -> float:
        """Return the number at a place of the search."""
        return math.copysign(math.exp(place), self.bounds[0]) if self.by_logarithm else place


def _of_norm(eps_at: int) -> Callable[..., float | None]:
    def own(*args: Any, eps: float | None = None, **options: Any) -> float | None:
        return args[eps_at] if len(args) > eps_at else eps

    return own


def _momentum(*args: Any, momentum: float | None = None, **options: Any) -> float | None:
    return args[6] if len(args) > 6 else momentum


def _factor(*args: Any, scale: float | None = None, **options: Any) -> float | None:
    if len(args) > 1 and isinstance(args[1], int | float):
        return 1.0 / args[1]
    return scale if scale is not None else args[0].shape[-1] ** -0.5


def _fill(*args: Any, **options: Any) -> float | None:
    value = args[2] if len(args) > 2 else options.get("value")
    return float(value) if isinstance(value, int | float) else -math.inf


def _second(name: str) -> Callable[..., float | None]:
    def own(*args: Any, **options: Any) -> float | None:
        return args[1] if len(args) > 1 else options.get(name)

    return own


def _third(*args: Any, threshold: float = 20.0, **options: Any) -> float | None:
    return args[2] if len(args) > 2 else threshold


def _eps(functions: Functions, eps_at: int, what: str) -> Fitted:
    fix = f"give the {what} the reference's eps"
    return Fitted(
        "F-eps", f"eps of {what}", fix, functions, _eps_only(functions), _of_norm(eps_at), (1e-13, 1e-1)
    )


def _eps_only(functions: Functions) -> Callable[[float], Mapping[Function, Function]]:
    def made(value: float) -> Mapping[Function, Function]:
        return {function: norms.eps_of_all(value)[function] for function in functions}

    return made


_ATTENTION = (*DIVIDE, *DOT_ATTENTION, *MULTI_HEAD)
_MASKED = (*MASKED_FILL, *WHERE, *DOT_ATTENTION, *MULTI_HEAD)

FAMILIES: tuple[Fitted, ...] = (
    _eps(LAYER_NORM, 4, "layer_norm"),
    _eps(BATCH_NORM, 7, "batch_norm"),
    _eps(GROUP_NORM, 4, "group_norm"),
    _eps(RMS_NORM, 3, "rms_norm"),
    Fitted(
        "F-momentum",
        "momentum of batch_norm",
        "torch's momentum is the share of the new batch, Flax's that of the old statistics",
        BATCH_NORM,
        norms.momentum,
        _momentum,
        (0.0, 1.0),
    ),
    Fitted(
        "F-scale",
        "factor of the attention's scores",
        "multiply the scores with the reference's factor",
        _ATTENTION,
        attention.scaling,
        _factor,
        (1e-3, 10.0),
    ),
    Fitted(
        "F-fill",
        "masked scores: the number in their place",
        "jnp.where(keep, scores, -jnp.inf)",
        _MASKED,
        attention.filling,
        _fill,
        (-1e3, -1e-1),
    ),
    Fitted(
        "F-threshold",
        "threshold of softplus",
        "torch's softplus is linear above 20",
        SOFTPLUS,
        lambda value: dict(each((SOFTPLUS, activations.softplus_threshold(value)))),
        _third,
        (1.0, 40.0),
        stepwise=True,
    ),
    Fitted(
        "F-slope",
        "slope of leaky_relu",
        "jax.nn.leaky_relu(x, negative_slope=...) as in the reference",
        LEAKY_RELU,
        lambda value: dict(each((LEAKY_RELU, activations.leaky_relu(value)))),
        _second("negative_slope"),
        (0.0, 1.0),
    ),
    Fitted(
        "F-alpha",
        "alpha of elu",
        "jax.nn.elu(x, alpha=...) as in the reference",
        ELU,
        lambda value: dict(each((ELU, activations.elu(value)))),
        _second("alpha"),
        (1e-2, 10.0),
    ),
)


def own_value(family: Fitted, call: Callable[[], Any]) -> float | None:
    """Return the number that the reference has; None where it calls none of the functions."""
    found: list[float | None] = []

    class Recording(Substitution):
        def call(self, function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            if function in family.functions:
                found.append(family.own(*args, **kwargs))
            return function(*args, **kwargs)

    with exchanging(Recording("", "", "", family.functions, torch.clone)):
        call()
    return next((value for value in found if value is not None), None)
