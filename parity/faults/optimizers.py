"""Mistakes in optimizers, as exchanged parts of the spelled-out ones, and in learning rate schedules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.gates import Array
from parity.longhand import optimizers as longhand
from parity.longhand.optimizers import ADAMS, FAITHFUL, Buffers, Group, Now, Recipe, Setup


@dataclass(frozen=True)
class Circumstances:
    """What a mistake may depend on beside the optimizer: all parameters there are, and the first bad step."""

    names: tuple[str, ...]
    rates: Array
    first_bad: int | None = None  # from 1


Change = Callable[[Setup, Circumstances], Setup]


@dataclass(frozen=True, eq=False)
class OptimizerFault:
    """One mistake in an optimizer.

    parts: the exchanged parts of the recipe. change: how the optimizer was built instead. possible: whether an
    optimizer can have it. gate: the one that is meant to find it; a mistake in precision shows in the precision
    under test only.
    """

    id: str
    name: str
    fix: str
    parts: Mapping[str, Callable[..., Any]] = field(default_factory=dict, repr=False)
    change: Change = field(default=lambda setup, circumstances: setup, repr=False)
    possible: Callable[[Setup, Circumstances], bool] = field(
        default=lambda setup, circumstances: True, repr=False
    )
    gate: str = "semantic"

    @property
    def recipe(self) -> Recipe:
        """How an optimizer computes that has this fault."""
        return dataclasses.replace(FAITHFUL, **self.parts)

    def joined(self, other: OptimizerFault) -> OptimizerFault:
        """Return both faults at once."""

        def change(setup: Setup, circumstances: Circumstances) -> Setup:
            return other.change(self.change(setup, circumstances), circumstances)

        return OptimizerFault(
            f"{self.id}+{other.id}",
            f"{self.name}; and {other.name}",
            f"{self.fix}; {other.fix}",
            {**self.parts, **other.parts},
            change,
            gate=self.gate,
        )


# Where a fault is possible ---------------------------------------------------------------------------------


def _of(*kinds: str) -> Callable[[Setup, Circumstances], bool]:
    return lambda setup, circumstances: setup.kind in kinds


def _with(*options: str) -> Callable[[Setup, Circumstances], bool]:
    return lambda setup, circumstances: all(setup.has(option) for option in options)


def _both(*tests: Callable[[Setup, Circumstances], bool]) -> Callable[[Setup, Circumstances], bool]:
    return lambda setup, circumstances: all(test(setup, circumstances) for test in tests)


def _clips(setup: Setup, circumstances: Circumstances) -> bool:
    return setup.clip_norm is not None


def _accumulates(setup: Setup, circumstances: Circumstances) -> bool:
    return setup.every > 1


def _has_groups(setup: Setup, circumstances: Circumstances) -> bool:
    return len(setup.groups) > 1


def _has_frozen(setup: Setup, circumstances: Circumstances) -> bool:
    return bool(_frozen(setup, circumstances))


def _varies(setup: Setup, circumstances: Circumstances) -> bool:
    return setup.kind != "Rprop" and bool(np.any(circumstances.rates != circumstances.rates[0]))


def _heavy_ball(setup: Setup, circumstances: Circumstances) -> bool:
    return setup.has("momentum") and not setup.has("nesterov") and setup.kind == "SGD"


# How an optimizer was built instead ------------------------------------------------------------------------


def _with_options(**options: Any) -> Change:
    def change(setup: Setup, circumstances: Circumstances) -> Setup:
        groups = (dataclasses.replace(group, options={**group.options, **options}) for group in setup.groups)
        return dataclasses.replace(setup, groups=tuple(groups))

    return change


def _other_decay(setup: Setup, circumstances: Circumstances) -> Setup:
    kind = {"Adam": "AdamW", "AdamW": "Adam"}.get(setup.kind, setup.kind)
    toggled = not setup.options.get("decoupled_weight_decay", False)
    return dataclasses.replace(
        _with_options(decoupled_weight_decay=toggled if kind == setup.kind else False)(setup, circumstances),
        kind=kind,
    )


def _one_group(setup: Setup, circumstances: Circumstances) -> Setup:
    names = tuple(name for group in setup.groups for name in group.names)
    return dataclasses.replace(setup, groups=(Group(names, setup.options),))


def _inverted(setup: Setup, circumstances: Circumstances) -> Setup:
    options = [group.options for group in setup.groups][::-1]
    groups = (Group(group.names, each) for group, each in zip(setup.groups, options, strict=True))
    return dataclasses.replace(setup, groups=tuple(groups))


def _frozen(setup: Setup, circumstances: Circumstances) -> tuple[str, ...]:
    trained = {name for group in setup.groups for name in group.names}
    return tuple(name for name in circumstances.names if name not in trained)


def _unfrozen(setup: Setup, circumstances: Circumstances) -> Setup:
    first = setup.groups[0]
    first = Group((*first.names, *_frozen(setup, circumstances)), first.options)
    return dataclasses.replace(setup, groups=(first, *setup.groups[1:]))


def _forgetful(setup: Setup, circumstances: Circumstances) -> Setup:
    return dataclasses.replace(setup, forgets=(circumstances.first_bad or 1,))


# The wrong parts -------------------------------------------------------------------------------------------


def _eps_inside(now: Now, v: Array) -> Array:
    return np.sqrt(v + now["eps"])


def _eps_before_correction(now: Now, v: Array) -> Array:
    return np.sqrt(v) + now["eps"] / np.sqrt(now.correction(now["betas"][1]))


def _eps_after_correction(now: Now, m: Array, v: Array, length: Any, longest: Any) -> Array:
    r = np.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
    return m * r / (np.sqrt(v / now.correction(now["betas"][1])) + now["eps"])


def _none(now: Now, decay: Any, t: int) -> Any:
    return now.float(1.0)


def _late(now: Now) -> int:
    return now.t + 1


def _in_float32(now: Now, decay: Any, t: int) -> Any:
    """As optax has it: a difference of float32 numbers, of which three digits remain."""
    return now.float(np.float32(1) - np.float32(decay) ** np.float32(t))


def _undamped(now: Now, d: Array, buffers: Buffers) -> Array:
    return _momentum(now, d, buffers, dampening=0.0)


def _first_damped(now: Now, d: Array, buffers: Buffers) -> Array:
    return _momentum(now, d, buffers, first_share=1 - now["dampening"])


def _other_nesterov(now: Now, d: Array, buffers: Buffers) -> Array:
    return _momentum(now, d, buffers, nesterov=not now.options.get("nesterov"))


def _rate_inside(now: Now, d: Array, buffers: Buffers) -> Array:
    return _momentum(now, now.lr * d, buffers) / now.lr


def _momentum(
    now: Now,
    d: Array,
    buffers: Buffers,
    dampening: Any = None,
    nesterov: bool | None = None,
    first_share: Any = 1.0,
) -> Array:
    factor = now["momentum"]
    dampening = now.options.get("dampening", 0.0) if dampening is None else dampening
    nesterov = now.options.get("nesterov", False) if nesterov is None else nesterov
    buf = buffers.get("momentum_buffer")
    buf = first_share * d if buf is None else factor * buf + (1 - dampening) * d
    buffers["momentum_buffer"] = buf
    return d + factor * buf if nesterov else buf


def _decay_later(now: Now, p: Array, d: Array, buffers: Buffers) -> Array:
    return -now.lr * (d + now["weight_decay"] * p)


def _not_decayed(now: Now, g: Array, p: Array) -> Array:
    return g


def _uphill(now: Now, p: Array, d: Array, buffers: Buffers) -> Array:
    return -longhand.apply(now, p, d, buffers)


def _uphill_without_rate(now: Now, p: Array, d: Array, buffers: Buffers) -> Array:
    return d


def _largest_corrected(now: Now, v: Array, buffers: Buffers) -> Array:
    v = v / now.correction(now["betas"][1])
    v = buffers["max_exp_avg_sq"] = np.maximum(buffers.get("max_exp_avg_sq", 0.0), v)
    return v


def _largest_uncorrected(now: Now, v: Array, buffers: Buffers) -> Array:
    v = buffers["max_exp_avg_sq"] = np.maximum(buffers.get("max_exp_avg_sq", 0.0), v)
    return v


def _not_largest(now: Now, v: Array, buffers: Buffers) -> Array:
    return v / now.correction(now["betas"][1])


def _constant_momentum(now: Now, t: int) -> Any:
    return now["betas"][0]


def _rss_root(now: Now, v: Array) -> Array:
    return np.where(v > 0, np.sqrt(v + 1e-7), np.inf)


def _own_eps_inside(now: Now, v: Array) -> Array:
    return np.where(v > 0, np.sqrt(v + now["eps"]), np.inf)


def _sum_from_a_tenth(now: Now) -> Any:
    return now.float(0.1)


def _stale(now: Now, g: Array, buffers: Buffers) -> Array:
    """As optax has it: what is taken is the step found before, unless the sign has just changed."""
    before = buffers.get("stale", np.zeros_like(g))
    size = buffers.get("step_size", np.full_like(g, now.lr))
    sign = np.sign(g * before)
    shrink, grow = now["etas"]
    sized = np.clip(size * np.where(sign > 0, grow, shrink), *now["step_sizes"])
    size = np.where(sign == 0, size, sized)
    buffers.update(stale=np.where(sign < 0, 0.0, size * np.sign(g)), step_size=size)
    return np.where(sign < 0, 0.0, before)


def _clip_without_eps(setup: Setup, gradients: Mapping[str, Array]) -> dict[str, Array]:
    norms = longhand.total_norms(gradients)
    return longhand.clip_by_value(setup, longhand.clip_by_norm(setup, gradients, norms, 0.0))


def _clip_each(setup: Setup, gradients: Mapping[str, Array]) -> dict[str, Array]:
    return _clip_parts(setup, gradients, [(name,) for name in gradients], 1e-6)


def _clip_each_without_eps(setup: Setup, gradients: Mapping[str, Array]) -> dict[str, Array]:
    return _clip_parts(setup, gradients, [(name,) for name in gradients], 0.0)


def _clip_groups(setup: Setup, gradients: Mapping[str, Array]) -> dict[str, Array]:
    return _clip_parts(setup, gradients, [group.names for group in setup.groups], 1e-6)


def _clip_parts(
    setup: Setup, gradients: Mapping[str, Array], parts: list[tuple[str, ...]], eps: float
) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for names in parts:
        part = {name: gradients[name] for name in names}
        found |= longhand.clip_by_norm(setup, part, longhand.total_norms(part), eps)
    return longhand.clip_by_value(setup, {name: found[name] for name in gradients})


def _no_norm(setup: Setup, gradients: Mapping[str, Array]) -> dict[str, Array]:
    return longhand.clip_by_value(setup, gradients)


def _clip_updates(setup: Setup, updates: dict[str, Array]) -> dict[str, Array]:
    stacked = {name: value[None] for name, value in updates.items()}
    clipped = longhand.clip_by_norm(setup, stacked, longhand.total_norms(stacked), 1e-6)
    return {name: value[0] for name, value in clipped.items()}


def _averaged(setup: Setup, gradients: Mapping[str, Array]) -> dict[str, Array]:
    return {name: g / setup.every for name, g in longhand.accumulated(setup, gradients).items()}


def _last_only(setup: Setup, gradients: Mapping[str, Array]) -> dict[str, Array]:
    return {name: g[setup.every - 1 :: setup.every] for name, g in gradients.items()}


def _rate_before(setup: Setup, rates: Array) -> Array:
    return np.concatenate([rates[:1], rates[:-1]])


def _rate_after(setup: Setup, rates: Array) -> Array:
    return np.concatenate([rates[1:], rates[-1:]])


_TORCH_EXACT = "use the optimizer of jaxrnn.optim; it is torch's"
_CLIP = "optax.chain(jaxrnn.optim.clip_grad_norm(max_norm), optimizer)"
_ADAM_LIKE = _of("Adam", "AdamW", "NAdam")

OPTIMIZERS: tuple[OptimizerFault, ...] = (
    OptimizerFault(
        "C17-averaged",
        "accumulated gradients are averaged (optax.MultiSteps), not summed",
        "optax.MultiSteps(..., use_grad_mean=False): backward() adds to p.grad",
        {"accumulated": _averaged},
        possible=_accumulates,
    ),
    OptimizerFault(
        "C17-last",
        "gradients are not accumulated: the last one replaces those before",
        "add up the gradients of all micro-batches before the update",
        {"accumulated": _last_only},
        possible=_accumulates,
    ),
    OptimizerFault(
        "O01",
        "eps under the root (optax's eps_root)",
        "eps=, not eps_root=: torch adds it to the root",
        {"root": _eps_inside},
        possible=_ADAM_LIKE,
    ),
    OptimizerFault(
        "O02",
        "eps on the other side of the bias correction",
        _TORCH_EXACT,
        {"root": _eps_before_correction, "rectified": _eps_after_correction},
        possible=_of("Adam", "AdamW", "NAdam", "RAdam"),
    ),
    OptimizerFault(
        "O03",
        "weight decay 1e-4, optax.adamw's default, instead of torch's",
        "pass weight_decay=1e-2, torch's default",
        change=_with_options(weight_decay=1e-4),
        possible=_both(_of("AdamW"), _with("weight_decay")),
    ),
    OptimizerFault(
        "O04",
        "weight decay coupled where torch decouples it, or the other way round",
        "adam(weight_decay=) is coupled, adamw(weight_decay=) decoupled",
        change=_other_decay,
        possible=_both(_of("Adam", "AdamW", "NAdam", "RAdam"), _with("weight_decay")),
    ),
    OptimizerFault(
        "O05",
        "no bias correction",
        "divide the means by 1 - bᵗ",
        {"correction": _none},
        possible=_of("Adam", "AdamW", "Adamax"),
    ),
    OptimizerFault(
        "O05-late",
        "the bias correction counts one update too many",
        "t is 1 at the first update",
        {"count": _late},
        possible=_of("Adam", "AdamW", "Adamax"),
    ),
    OptimizerFault(
        "O06",
        "the bias correction 1 - bᵗ is a difference of float32 numbers (optax)",
        "jaxrnn.optim.adam computes it as -expm1(t log b)",
        {"correction": _in_float32},
        possible=_of(*ADAMS),
        gate="numeric",
    ),
    OptimizerFault(
        "O07",
        "dampening ignored",
        "jaxrnn.optim.sgd(dampening=)",
        {"momentum": _undamped},
        possible=_with("momentum", "dampening"),
    ),
    OptimizerFault(
        "O07-first",
        "the first momentum buffer is damped",
        "torch's first buffer is the gradient itself",
        {"momentum": _first_damped},
        possible=_with("momentum", "dampening"),
    ),
    OptimizerFault(
        "O08",
        "heavy ball instead of Nesterov's momentum",
        "nesterov=True",
        {"momentum": _other_nesterov},
        possible=_with("momentum", "nesterov"),
    ),
    OptimizerFault(
        "O08-nesterov",
        "Nesterov's momentum instead of the heavy ball",
        "nesterov=False",
        {"momentum": _other_nesterov},
        possible=_heavy_ball,
    ),
    OptimizerFault(
        "O09",
        "weight decay after the momentum",
        "optax.add_decayed_weights before the momentum: torch adds the decay to the gradient",
        {"decayed": _not_decayed, "apply": _decay_later},
        possible=_both(_of("SGD", "RMSprop"), _with("momentum", "weight_decay")),
    ),
    OptimizerFault(
        "O10",
        "RMSprop decays by 0.9, optax's default, instead of 0.99",
        "decay=0.99",
        change=_with_options(alpha=0.9),
        possible=_of("RMSprop"),
    ),
    OptimizerFault(
        "O11",
        "RMSprop's eps under the root",
        "eps_in_sqrt=False",
        {"plain_root": _eps_inside},
        possible=_of("RMSprop"),
    ),
    OptimizerFault(
        "O12",
        "the learning rate is inside the momentum buffer",
        "scale by the learning rate after the momentum",
        {"momentum": _rate_inside},
        possible=_both(_with("momentum"), _varies),
    ),
    OptimizerFault(
        "O13",
        "the norm is clipped without torch's + 1e-6",
        _CLIP,
        {"clip": _clip_without_eps},
        possible=_clips,
    ),
    OptimizerFault(
        "O14", "the norm of each array is clipped by itself", _CLIP, {"clip": _clip_each}, possible=_clips
    ),
    OptimizerFault(
        "O14-each",
        "the norm of each array is clipped by itself, without torch's + 1e-6",
        _CLIP,
        {"clip": _clip_each_without_eps},
        possible=_clips,
    ),
    OptimizerFault(
        "O14-groups",
        "the norm of each parameter group is clipped by itself",
        _CLIP,
        {"clip": _clip_groups},
        possible=_both(_clips, _has_groups),
    ),
    OptimizerFault(
        "O14-after",
        "the update is clipped, not the gradient",
        f"{_CLIP}, in this order",
        {"clip": _no_norm, "joined": _clip_updates},
        possible=_clips,
    ),
    OptimizerFault("O14-none", "gradients are not clipped", _CLIP, {"clip": _no_norm}, possible=_clips),
    OptimizerFault(
        "O15",
        "Adagrad's sum starts at 0.1, eps is 1e-7 and under the root (optax)",
        _TORCH_EXACT,
        {"start_of_sum": _sum_from_a_tenth, "plain_root": _rss_root},
        possible=_of("Adagrad"),
    ),
    OptimizerFault(
        "O15-start",
        "Adagrad's sum starts at 0.1",
        "initial_accumulator_value=0",
        {"start_of_sum": _sum_from_a_tenth},
        possible=_of("Adagrad"),
    ),
    OptimizerFault(
        "O15-eps",
        "Adagrad's eps is 1e-7 and under the root",
        _TORCH_EXACT,
        {"plain_root": _rss_root},
        possible=_of("Adagrad"),
    ),
    OptimizerFault(
        "O15-root",
        "Adagrad's eps, torch's own, under the root",
        "optax's eps is under the root: no value of it is torch's; use jaxrnn.optim.adagrad",
        {"plain_root": _own_eps_inside},
        possible=_of("Adagrad"),
    ),
    OptimizerFault(
        "O16",
        "AMSGrad takes the largest corrected moment (optax.amsgrad)",
        _TORCH_EXACT,
        {"largest": _largest_corrected},
        possible=_with("amsgrad"),
    ),
    OptimizerFault(
        "O16-raw",
        "AMSGrad's moment is not corrected (optax.amsgrad(bias_correction_nu=False))",
        _TORCH_EXACT,
        {"largest": _largest_uncorrected},
        possible=_with("amsgrad"),
    ),
    OptimizerFault(
        "O16-ignored",
        "amsgrad ignored",
        "jaxrnn.optim.adam(amsgrad=True)",
        {"largest": _not_largest},
        possible=_with("amsgrad"),
    ),
    OptimizerFault(
        "O17",
        "NAdam's momentum is constant (optax.nadam)",
        _TORCH_EXACT,
        {"nadam_momentum": _constant_momentum},
        possible=_of("NAdam"),
    ),
    OptimizerFault(
        "O18",
        "Adadelta climbs, and without a learning rate (optax.adadelta())",
        "optax.adadelta(1.0): the sign comes with the rate",
        {"apply": _uphill_without_rate},
        possible=_of("Adadelta"),
    ),
    OptimizerFault(
        "O18-sign",
        "the update has the wrong sign: it climbs",
        "scale by minus the learning rate",
        {"apply": _uphill},
    ),
    OptimizerFault(
        "O19",
        "Rprop takes the step found before (optax.rprop)",
        "jaxrnn.optim.rprop; optax pull request 1725",
        {"rprop": _stale},
        possible=_of("Rprop"),
    ),
    OptimizerFault(
        "O23",
        "the learning rate is that of the update before",
        "the schedule receives 0 at the first update",
        {"rate": _rate_before},
        possible=_varies,
    ),
    OptimizerFault(
        "O23-ahead",
        "the learning rate is that of the update after",
        "the schedule receives 0 at the first update",
        {"rate": _rate_after},
        possible=_varies,
    ),
    OptimizerFault(
        "O25",
        "all parameters have the options of the first group",
        "optax.multi_transform, with a group for every parameter",
        change=_one_group,
        possible=_has_groups,
    ),
    OptimizerFault(
        "O25-inverted",
        "the groups' options are exchanged: an inverted mask",
        "optax.multi_transform, with a group for every parameter",
        change=_inverted,
        possible=_has_groups,
    ),
    OptimizerFault(
        "O26",
        "frozen parameters are trained",
        'optax.multi_transform({..., "frozen": optax.set_to_zero()}, labels)',
        change=_unfrozen,
        possible=_has_frozen,
    ),
    OptimizerFault(
        "O28",
        "the optimizer forgets its state: it starts anew",
        "save and restore the optimizer's state with the parameters",
        change=_forgetful,
        possible=lambda setup, circumstances: (circumstances.first_bad or 1) > 1,
    ),
)
