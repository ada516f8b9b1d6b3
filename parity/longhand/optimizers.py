"""PyTorch's optimizers written out as equations, in NumPy, with every part exchangeable.

They say what an optimizer with one known mistake would do with some recorded gradients. `FAITHFUL` is torch's: the
tests hold it against `torch.optim`. All parameters of a group are one vector; `buffers` keeps what an optimizer
remembers, under torch's names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.gates import Array
from parity.optimizers.replay import Replay

Buffers = dict[str, Any]
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """Some parameters that share their options; `options` has torch's names, `lr` among them."""

    names: tuple[str, ...]
    options: Options


@dataclass(frozen=True)
class Setup:
    """An optimizer as it was built: its class's name, its groups, and how gradients are clipped before it.

    Parameters in no group are frozen. `forgets`: steps (from 1) before which it loses all that it remembers.
    `every`: how many gradients are accumulated for one update.
    """

    kind: str
    groups: tuple[Group, ...]
    clip_norm: float | None = None
    clip_value: float | None = None
    forgets: tuple[int, ...] = ()
    every: int = 1

    @property
    def options(self) -> Options:
        """The first group's options."""
        return self.groups[0].options if self.groups else {}

    def has(self, option: str) -> bool:
        """Whether an option is there and neither zero nor False, in any group."""
        return any(bool(group.options.get(option)) for group in self.groups)


@dataclass(frozen=True)
class Now:
    """Where a run is: the update's number, from 1, a group's options and learning rate, and the array's type."""

    t: int
    options: Options
    lr: float
    kind: str
    recipe: Recipe
    float: Callable[[Any], Any]

    def __getitem__(self, option: str) -> Any:
        value = self.options[option]
        return tuple(map(self.float, value)) if isinstance(value, tuple | list) else self.float(value)

    def correction(self, decay: Any) -> Any:
        """Return what a mean that started at 0 is divided by, `1 - decayᵗ`."""
        return self.recipe.correction(self, decay, self.recipe.count(self))


# The parts -----------------------------------------------------------------------------------------------


def accumulated(setup: Setup, gradients: Mapping[str, Array]) -> dict[str, Array]:
    """Return the gradient of each update, the sum of `every` of them; what is left over makes none."""
    return {name: _grouped(g, setup.every).sum(axis=1) for name, g in gradients.items()}


def _grouped(gradients: Array, every: int) -> Array:
    """Return `[steps, ...]` as `[updates, every, ...]`."""
    updates = len(gradients) // every
    return gradients[: updates * every].reshape(updates, every, *gradients.shape[1:])


def clip(setup: Setup, gradients: Mapping[str, Array]) -> dict[str, Array]:
    """Return gradients times `min(1, max_norm / (norm + 1e-6))`, the norm that of all; then clipped by value."""
    return clip_by_value(setup, clip_by_norm(setup, gradients, total_norms(gradients), 1e-6))


def clip_by_norm(setup: Setup, gradients: Mapping[str, Array], norms: Array, eps: float) -> dict[str, Array]:
    """Scale gradients whose norms, one for each step, are too large."""
    if setup.clip_norm is None:
        return dict(gradients)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.minimum(1.0, setup.clip_norm / (norms + eps))
    share = np.where(np.isnan(share), 1.0, share)
    return {name: g * share.reshape(-1, *[1] * (g.ndim - 1)) for name, g in gradients.items()}


def clip_by_value(setup: Setup, gradients: Mapping[str, Array]) -> dict[str, Array]:
    """Return gradients with elements within ± the threshold."""
    if setup.clip_value is None:
        return dict(gradients)
    return {name: np.clip(g, -setup.clip_value, setup.clip_value) for name, g in gradients.items()}


def total_norms(gradients: Mapping[str, Array]) -> Array:
    """Return the norm of all gradients together, for each step."""
    return np.sqrt(sum(np.sum(g.reshape(len(g), -1) ** 2, axis=1) for g in gradients.values()))


def count(now: Now) -> int:
    """Return the number of the update, from 1."""
    return now.t


def correction(now: Now, decay: Any, t: int) -> Any:
    """Return `1 - decayᵗ`."""
    return 1 - decay**t


def is_decoupled(kind: str, options: Options) -> bool:
    """Tell whether weight decay acts on the parameter, not on the gradient."""
    return kind == "AdamW" or bool(options.get("decoupled_weight_decay"))


def decayed(now: Now, g: Array, p: Array) -> Array:
    """Return the gradient with coupled weight decay."""
    if "weight_decay" not in now.options or is_decoupled(now.kind, now.options):
        return g
    return g + now["weight_decay"] * p


def apply(now: Now, p: Array, d: Array, buffers: Buffers) -> Array:
    """Return `-lr (d + weight_decay p)`, the decay only where it is decoupled; Rprop has no rate."""
    if now.kind == "Rprop":
        return -d
    step = -now.float(now.lr) * d
    if is_decoupled(now.kind, now.options):
        step = step - now.float(now.lr) * now["weight_decay"] * p
    return step


def means(now: Now, g: Array, buffers: Buffers) -> tuple[Array, Array]:
    """Return Adam's moments."""
    b1, b2 = now["betas"]
    m = b1 * buffers.get("exp_avg", 0.0) + (1 - b1) * g
    v = b2 * buffers.get("exp_avg_sq", 0.0) + (1 - b2) * g * g
    buffers.update(exp_avg=m, exp_avg_sq=v)
    return m, v


def largest(now: Now, v: Array, buffers: Buffers) -> Array:
    """Return AMSGrad's second moment: the largest so far, and then corrected."""
    if not now.options.get("amsgrad"):
        return v / now.correction(now["betas"][1])
    v = buffers["max_exp_avg_sq"] = np.maximum(buffers.get("max_exp_avg_sq", 0.0), v)
    return v / now.correction(now["betas"][1])


def root(now: Now, v: Array) -> Array:
    """Return `√v + eps`, of a corrected second moment."""
    return np.sqrt(v) + now["eps"]


def momentum(now: Now, d: Array, buffers: Buffers) -> Array:
    """Return the heavy ball of SGD and RMSprop; the first buffer is undamped."""
    factor, damped = now["momentum"], now.float(now.options.get("dampening", 0.0))
    if factor == 0:
        return d
    first = "momentum_buffer" not in buffers
    # RMSprop's buffer starts at zero, which is the same.
    buf = d if first else factor * buffers["momentum_buffer"] + (1 - damped) * d
    buffers["momentum_buffer"] = buf
    return d + factor * buf if now.options.get("nesterov") else buf


def nadam_momentum(now: Now, t: int) -> Any:
    """Return NAdam's momentum at update t."""
    return now["betas"][0] * (1 - now.float(0.5) * now.float(0.96) ** (t * now["momentum_decay"]))


def rectified(now: Now, m: Array, v: Array, length: Any, longest: Any) -> Array:
    """Return RAdam's step where its moving average is long enough: eps before the correction of v."""
    r = np.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
    return m * r * np.sqrt(now.correction(now["betas"][1])) / (np.sqrt(v) + now["eps"])


def start_of_sum(now: Now) -> Any:
    """Return Adagrad's first sum of squares."""
    return now["initial_accumulator_value"]


def plain_root(now: Now, v: Array) -> Array:
    """Return `√v + eps` of RMSprop and Adagrad."""
    return np.sqrt(v) + now["eps"]


def rate(setup: Setup, rates: Array) -> Array:
    """Return by what the learning rates are multiplied at each update."""
    return rates


def joined(setup: Setup, updates: dict[str, Array]) -> dict[str, Array]:
    """Return the updates of all parameters, before they are applied."""
    return updates


# The optimizers -------------------------------------------------------------------------------------------


def _adam(now: Now, g: Array, buffers: Buffers) -> Array:
    m, v = means(now, g, buffers)
    second = now.recipe.largest(now, v, buffers)
    return m / now.correction(now["betas"][0]) / now.recipe.root(now, second)


def _adamax(now: Now, g: Array, buffers: Buffers) -> Array:
    b1, b2 = now["betas"]
    m = buffers["exp_avg"] = b1 * buffers.get("exp_avg", 0.0) + (1 - b1) * g
    u = buffers["exp_inf"] = np.maximum(b2 * buffers.get("exp_inf", 0.0), np.abs(g) + now["eps"])
    return m / now.correction(b1) / u


def _nadam(now: Now, g: Array, buffers: Buffers) -> Array:
    m, v = means(now, g, buffers)
    t = now.recipe.count(now)
    here, following = (now.recipe.nadam_momentum(now, n) for n in (t, t + 1))
    product = buffers["mu_product"] = buffers.get("mu_product", now.float(1.0)) * here
    second = now.recipe.root(now, v / now.correction(now["betas"][1]))
    return ((1 - here) / (1 - product) * g + following / (1 - product * following) * m) / second


def _radam(now: Now, g: Array, buffers: Buffers) -> Array:
    m, v = means(now, g, buffers)
    b1, b2 = now["betas"]
    t, longest = now.recipe.count(now), 2 / (1 - b2) - 1
    length = longest - 2 * t * b2**t / (1 - b2**t)
    m = m / now.correction(b1)
    return now.recipe.rectified(now, m, v, length, longest) if length > 5 else m


def _sgd(now: Now, g: Array, buffers: Buffers) -> Array:
    return now.recipe.momentum(now, g, buffers)


def _rmsprop(now: Now, g: Array, buffers: Buffers) -> Array:
    alpha = now["alpha"]
    v = buffers["square_avg"] = alpha * buffers.get("square_avg", 0.0) + (1 - alpha) * g * g
    if now.options["centered"]:
        m = buffers["grad_avg"] = alpha * buffers.get("grad_avg", 0.0) + (1 - alpha) * g
        v = v - m * m
    return now.recipe.momentum(now, g / now.recipe.plain_root(now, v), buffers)


def _adagrad(now: Now, g: Array, buffers: Buffers) -> Array:
    total = buffers["sum"] = buffers.get("sum", now.recipe.start_of_sum(now)) + g * g
    return g / now.recipe.plain_root(now, total) / (1 + (now.t - 1) * now["lr_decay"])


def _adadelta(now: Now, g: Array, buffers: Buffers) -> Array:
    rho, eps = now["rho"], now["eps"]
    v = buffers["square_avg"] = rho * buffers.get("square_avg", 0.0) + (1 - rho) * g * g
    moved = buffers.get("acc_delta", now.float(0.0))
    d = np.sqrt(moved + eps) / np.sqrt(v + eps) * g
    buffers["acc_delta"] = rho * moved + (1 - rho) * d * d
    return d


def rprop(now: Now, g: Array, buffers: Buffers) -> Array:
    """Return Rprop's step; it knows the learning rate of the first update only."""
    shrink, grow = now["etas"]
    before = buffers.get("prev", np.zeros_like(g))
    size = buffers.get("step_size", np.full_like(g, now.lr))
    agreement = np.sign(g) * np.sign(before)
    size = np.clip(
        size * np.where(agreement > 0, grow, np.where(agreement < 0, shrink, now.float(1.0))),
        *now["step_sizes"],
    )
    g = np.where(agreement < 0, now.float(0.0), g)
    buffers.update(prev=g, step_size=size)
    return np.sign(g) * size


def _rprop(now: Now, g: Array, buffers: Buffers) -> Array:
    return now.recipe.rprop(now, g, buffers)


RULES: dict[str, Callable[[Now, Array, Buffers], Array]] = {
    "Adam": _adam,
    "AdamW": _adam,
    "Adamax": _adamax,
    "NAdam": _nadam,
    "RAdam": _radam,
    "SGD": _sgd,
    "RMSprop": _rmsprop,
    "Adagrad": _adagrad,
    "Adadelta": _adadelta,
    "Rprop": _rprop,
}
ADAMS = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam")


@dataclass(frozen=True)
class Recipe:
    """The parts of which an optimizer is made."""

    accumulated: Callable[..., dict[str, Array]] = accumulated
    clip: Callable[..., dict[str, Array]] = clip
    count: Callable[..., Any] = count
    correction: Callable[..., Any] = correction
    decayed: Callable[..., Array] = decayed
    apply: Callable[..., Array] = apply
    largest: Callable[..., Array] = largest
    root: Callable[..., Array] = root
    momentum: Callable[..., Array] = momentum
    nadam_momentum: Callable[..., Any] = nadam_momentum
    rectified: Callable[..., Array] = rectified
    start_of_sum: Callable[..., Any] = start_of_sum
    plain_root: Callable[..., Array] = plain_root
    rprop: Callable[..., Array] = rprop
    rate: Callable[..., Array] = rate
    joined: Callable[..., dict[str, Array]] = joined


FAITHFUL = Recipe()


@dataclass
class _State:
    """What a group's run has come to."""

    group: Group
    p: Array
    gradients: Array  # [steps, elements]
    buffers: Buffers = field(default_factory=dict)


def run(setup: Setup, replay: Replay, recipe: Recipe = FAITHFUL, dtype: Any = np.float64) -> dict[str, Array]:
    """Return every parameter after every step, `[steps, *shape]`."""
    start = {name: np.asarray(value, dtype) for name, value in replay.start.items()}
    gradients = {name: np.asarray(g, dtype) for name, g in _used(setup, replay)}
    gradients = recipe.clip(setup, recipe.accumulated(setup, gradients))
    found = {name: np.repeat(value[None], replay.steps, axis=0) for name, value in start.items()}
    states = [_state(group, start, gradients) for group in setup.groups]
    rates = recipe.rate(setup, replay.rates)
    forgotten = 0
    with np.errstate(all="ignore"):  # a mistake may well divide by zero
        for k in range(setup.every - 1, replay.steps, setup.every):
            number = k // setup.every  # of the update
            if number + 1 in setup.forgets:
                forgotten = number
                for state in states:
                    state.buffers.clear()
            updates: dict[str, Array] = {}
            for state in states:
                update = _update(setup, recipe, state, number, number + 1 - forgotten, rates[k], dtype)
                updates |= _split(state.group, update, start)
            updates = recipe.joined(setup, updates)
            for state in states:
                state.p = state.p + _flat(state.group, updates)
                for name, value in _split(state.group, state.p, start).items():
                    found[name][k:] = value
    return found


def _update(setup: Setup, recipe: Recipe, state: _State, k: int, t: int, factor: float, dtype: Any) -> Array:
    options = state.group.options
    lr = options["lr"] * factor
    now = Now(t, options, lr, setup.kind, recipe, dtype)
    g = state.gradients[k]
    g = recipe.decayed(now, -g if options.get("maximize") else g, state.p)
    d = RULES[setup.kind](now, g, state.buffers)
    return recipe.apply(now, state.p, d, state.buffers)


def _used(setup: Setup, replay: Replay) -> Iterator[tuple[str, Array]]:
    """Yield the gradients of what is trained; torch clips no others."""
    for group in setup.groups:
        yield from ((name, replay.gradients[name]) for name in group.names)


def _state(group: Group, start: Mapping[str, Array], gradients: Mapping[str, Array]) -> _State:
    steps = len(next(iter(gradients.values())))
    columns = [gradients[name].reshape(steps, -1) for name in group.names]
    return _State(group, _flat(group, start), np.concatenate(columns, axis=1))


def _flat(group: Group, arrays: Mapping[str, Array]) -> Array:
    return np.concatenate([arrays[name].reshape(-1) for name in group.names])


def _split(group: Group, vector: Array, like: Mapping[str, Array]) -> dict[str, Array]:
    ends = np.cumsum([like[name].size for name in group.names])[:-1]
    parts = np.split(vector, ends)
    return {name: part.reshape(like[name].shape) for name, part in zip(group.names, parts, strict=True)}
