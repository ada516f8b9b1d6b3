"""Optimizers half way through a run: from torch's state dict to `nnx.Optimizer`, and back."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxrnn import optim, torch_file
from jaxrnn.checkpoint_files import as_numpy
from jaxrnn.optim._common import ScheduleState
from jaxrnn.optim.adams import AdamState
from jaxrnn.optim.adaptive import RMSpropState
from jaxrnn.optim.momentum import MomentumState
from jaxrnn.torch_names import Parameter, lost_order, parameters


class _Kind(NamedTuple):
    """How an optimizer of torch is known by its options, and what it becomes."""

    rule: Callable[..., optax.GradientTransformation]
    options: str  # those that have the same names in torch
    buffers: Mapping[tuple[type, str], str]  # a state's class and field, and torch's name of the buffer
    counts: bool = True  # whether torch keeps the number of updates with them


_MOMENTS: dict[tuple[type, str], str] = {
    (AdamState, "mu"): "exp_avg",
    (AdamState, "nu"): "exp_avg_sq",
    (AdamState, "nu_max"): "max_exp_avg_sq",
}
KINDS = {
    "Adam": _Kind(optim.adam, "weight_decay maximize eps amsgrad", _MOMENTS),
    "AdamW": _Kind(optim.adamw, "weight_decay maximize eps amsgrad", _MOMENTS),
    "SGD": _Kind(
        optim.sgd,
        "weight_decay maximize momentum dampening nesterov",
        {(MomentumState, "trace"): "momentum_buffer"},
        counts=False,
    ),
    "RMSprop": _Kind(
        optim.rmsprop,
        "weight_decay maximize eps alpha momentum centered",
        {
            (RMSpropState, "nu"): "square_avg",
            (RMSpropState, "mu"): "grad_avg",
            (MomentumState, "trace"): "momentum_buffer",
        },
    ),
}


def optimizer_from_torch(
    model: nnx.Module,
    source: Mapping[str, Any] | str | os.PathLike[str],
    *,
    key: str | None = None,
    kind: str | None = None,
    names: Iterable[str] | None = None,
    learning_rate: optax.ScalarOrSchedule | None = None,
    steps: int | None = None,
) -> nnx.Optimizer:
    """Return an optimizer of a model's parameters that goes on where one of torch stopped.

    * `source`: torch's `Adam`, `AdamW`, `SGD` or `RMSprop` over ``twin.parameters()``, its `state_dict()`, or the
      path of a `.pt` file with one, which is its entry `key`, "a.b" one within another. Nothing in the file is run.
    * `names`: torch's names in torch's order, ``twin.state_dict()`` say, by which parameters are numbered. Without
      them it is the order of the weights in the same file, or that in which the model's parts were set; `nnx.jit`
      and `nnx.value_and_grad` sort parts by name, so a model that they have seen needs names.
    * `kind`: which of them it is, where its options do not tell: before 2.8, AdamW's are Adam's.
    * `learning_rate`: the schedule or rate to go on with; by default torch's present rate. A rate that a scheduler
      has changed is not taken for constant: give the schedule, as `jaxrnn.optim.step_lr(...)`, or by epochs,
      `jaxrnn.optim.by_epochs(step_lr(...), updates_per_epoch)`.
    * `steps`: the updates so far, for a schedule over SGD, which does not count them.

    Load the weights with `jaxrnn.load_state_dict`, before or after.

    Raises ValueError where the state does not fit the model, and NotImplementedError for optimizers of other kinds,
    and groups of parameters with options of their own.
    """
    state, beside = _read(source, key)
    groups, buffers = state["param_groups"], {int(n): of for n, of in state["state"].items()}
    options = _common_options(groups)
    kind = kind or _kind_of(options)
    if kind not in KINDS:
        raise NotImplementedError(
            f"{kind} has no counterpart here that can be resumed, only {list(KINDS)} have."
        )
    if learning_rate is None and "initial_lr" in options:
        raise ValueError(
            f"a scheduler has changed the learning rate from {options['initial_lr']} to {options['lr']}: pass "
            "learning_rate=, a rate or the schedule to go on with: jaxrnn.optim.step_lr(...), of updates, or "
            "jaxrnn.optim.by_epochs(schedule, updates_per_epoch)."
        )
    owners = _owners(model, names or _names_in(groups) or _names_beside(beside, model))
    numbers = [number for group in groups for number in group["params"]]
    if len(numbers) != len(owners):
        raise ValueError(f"the optimizer has {len(numbers)} parameters, but the model {len(owners)}.")
    done = _steps_done(buffers, numbers, steps, callable(learning_rate))
    rule = _rule(KINDS[kind], options, options["lr"] if learning_rate is None else learning_rate)
    optimizer = nnx.Optimizer(model, rule, wrt=nnx.Param)
    optimizer.step.set_value(jnp.asarray(done, optimizer.step.get_value().dtype))
    for node in _states(optimizer.opt_state):
        if buffers or isinstance(node, ScheduleState):
            node.step.set_value(jnp.asarray(done, jnp.int32))
        for (of, field), name in KINDS[kind].buffers.items() if buffers else ():
            if isinstance(node, of) and getattr(node, field) is not None:
                _fill(getattr(node, field), name, owners, [buffers[number] for number in numbers])
    return optimizer


def optimizer_to_torch(
    optimizer: nnx.Optimizer, model: nnx.Module, theirs: Any, *, names: Iterable[str] | None = None
) -> None:
    """Put the state of a `jaxrnn.optim` optimizer into one of torch, over the parameters of the model's twin.

    `names` are the twin's in torch's order, ``twin.state_dict()`` say, as for `optimizer_from_torch`; a model that
    was trained needs them, or ``torch.optim.Adam(twin.named_parameters())``.

    Both have to be of the same kind. The options of torch's, its learning rate too, stay; its schedulers count for
    themselves: set ``scheduler.last_epoch``.
    """
    kind = KINDS.get(type(theirs).__name__)
    if kind is None:
        raise NotImplementedError(f"{type(theirs).__name__} is not one of {list(KINDS)}.")
    owners = _owners(model, names or _names_in(theirs.state_dict()["param_groups"]))
    tensors = [tensor for group in theirs.param_groups for tensor in group["params"]]
    if len(tensors) != len(owners):
        raise ValueError(f"torch's optimizer has {len(tensors)} parameters, but the model {len(owners)}.")
    found: dict[int, dict[str, Any]] = {number: {} for number in range(len(tensors))}
    for node in _states(optimizer.opt_state):
        for (of, field), name in kind.buffers.items():
            if isinstance(node, of) and getattr(node, field) is not None:
                by_path = dict(nnx.to_flat_state(getattr(node, field)))
                for number, (path, parameter) in enumerate(owners):
                    value = np.transpose(by_path[path].get_value(), parameter.layout(len(parameter.shape)))
                    found[number][name] = _tensor_like(tensors[number], parameter, value)
    if kind.counts and not any(found.values()):
        raise ValueError(
            f"the optimizer keeps nothing that {type(theirs).__name__} of torch does; are they of one kind?"
        )
    if kind.counts:
        step = float(optimizer.step.get_value())
        for number, state in found.items():
            state["step"] = tensors[number].detach().float().cpu().new_tensor(step)
    theirs.load_state_dict({"state": found, "param_groups": theirs.state_dict()["param_groups"]})


# torch's side ----------------------------------------------------------------------------------------------------


def _read(source: Any, key: str | None) -> tuple[Mapping[str, Any], list[Any]]:
    """Return an optimizer's state, and what stands beside it in a checkpoint."""
    beside: list[Any] = []
    if hasattr(source, "param_groups"):
        source = source.state_dict()
    if isinstance(source, str | os.PathLike):
        with open(source, "rb") as file:
            source = torch_file.load(file)
    if key is not None:
        source, beside = _entry(source, key)
    if not isinstance(source, Mapping) or not {"state", "param_groups"} <= source.keys():
        names = list(source) if isinstance(source, Mapping) else type(source).__name__
        raise ValueError(
            f"expected an optimizer's state_dict(), with 'state' and 'param_groups', got {names}; name its entry, "
            "key=."
        )
    return source, beside


def _entry(content: Any, key: str) -> tuple[Any, list[Any]]:
    """Return an entry of a checkpoint, or by "a.b" one within another, and the entries beside it."""
    if not isinstance(content, Mapping):
        raise ValueError(f"there is no entry {key!r} in a {type(content).__name__}.")
    if key in content:
        return content[key], list(content.values())
    outer, _, inner = key.partition(".")
    if inner and outer in content:
        return _entry(content[outer], inner)
    raise ValueError(f"there is no entry {key!r}; there are {list(content)}.")


def _common_options(groups: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the options of all groups of parameters, which have to be the same."""
    first, *others = ({k: v for k, v in g.items() if k not in ("params", "param_names")} for g in groups)
    for other in others:
        if different := sorted(name for name in first if first[name] != other.get(name)):
            raise NotImplementedError(
                f"groups of parameters differ in {different}: make an optimizer for each, by optax.multi_transform."
            )
    return dict(first)


def _kind_of(options: Mapping[str, Any]) -> str:
    if "decoupled_weight_decay" in options and "amsgrad" in options:
        return "AdamW" if options["decoupled_weight_decay"] else "Adam"
    if "amsgrad" in options:
        raise ValueError(
            "its options are those of Adam and of AdamW: say which, kind='Adam' or kind='AdamW'."
        )
    if "dampening" in options:
        return "SGD"
    return "RMSprop" if {"alpha", "centered"} <= options.keys() else f"an optimizer with {sorted(options)}"


def _rule(kind: _Kind, options: Mapping[str, Any], rate: Any) -> optax.GradientTransformation:
    given = {name: options[name] for name in kind.options.split() if name in options}
    betas = dict(zip(("b1", "b2"), map(float, options.get("betas", ())), strict=False))
    return kind.rule(rate if callable(rate) else float(rate), **betas, **given)


def _steps_done(
    buffers: Mapping[int, Mapping[str, Any]], numbers: list[int], steps: int | None, scheduled: bool
) -> int:
    """Return how many updates were made, which has to be the same number for all parameters."""
    if not buffers and steps is None:
        if scheduled:
            raise ValueError("how many updates were made is not in the state: pass steps=.")
        return 0
    if buffers and sorted(buffers) != sorted(numbers):
        raise ValueError(
            f"{len(numbers) - len(buffers)} of {len(numbers)} parameters have no state: they were never updated. "
            "Freeze them on both sides."
        )
    counted = {int(_as_scalar(of["step"])) for of in buffers.values() if "step" in of}
    if len(counted) > 1:
        raise ValueError(f"parameters were updated {sorted(counted)} times: here all are, or none.")
    if steps is not None and counted and counted != {steps}:
        raise ValueError(f"steps={steps}, but the state counts {counted.pop()}.")
    if not counted and steps is None:
        if scheduled:
            raise ValueError("SGD does not count its updates, which the schedule goes by: pass steps=.")
        return 1  # past the first, which is all that momentum asks
    return counted.pop() if counted else int(steps)  # type: ignore[arg-type]


def _as_scalar(value: Any) -> float:
    """Return a number that may be a tensor."""
    array = as_numpy(value)
    return float(value if array is None else array)


# Our side --------------------------------------------------------------------------------------------------------


def _names_in(groups: list[Mapping[str, Any]]) -> list[str] | None:
    """Return the names in the groups of an optimizer that was made of ``named_parameters()``."""
    found = [name for group in groups for name in group.get("param_names", ())]
    return found or None


def _names_beside(entries: list[Any], model: nnx.Module) -> list[str] | None:
    """Return the names of the weights of a model, in their order, if they are among the entries of a checkpoint."""
    ours = {parameter.name for parameter in parameters(model)}
    fitting = (list(entry) for entry in entries if isinstance(entry, Mapping) and ours <= entry.keys())
    return next(fitting, None)


def _owners(model: nnx.Module, names: Iterable[str] | None) -> list[tuple[tuple[Any, ...], Parameter]]:
    """Return the parameters in the order of torch's ``parameters()``, each with its path in a state of Flax."""
    ours = parameters(model)
    if names is not None:
        by_name = {parameter.name: parameter for parameter in ours}
        ours = [by_name[name] for name in names if name in by_name]
        if missing := sorted({*by_name} - {parameter.name for parameter in ours}):
            raise ValueError(f"names: {missing[0]!r} of the model is not among them.")
    elif (part := lost_order(model)) is not None:
        raise ValueError(
            f"{part}: torch numbers its parameters in the order in which parts were set, and here it is lost: "
            "nnx.jit and nnx.value_and_grad sort them by name. Pass names=theirs.state_dict(), or another list of "
            "torch's names in torch's order."
        )
    paths = {id(variable): path for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    found: dict[int, tuple[tuple[Any, ...], Parameter]] = {}
    for parameter in ours:
        found.setdefault(id(parameter.variable), (paths[id(parameter.variable)], parameter))
    return list(found.values())


def _states(node: Any) -> Iterator[Any]:
    """Yield the states of the stages of an optimizer."""
    if isinstance(node, AdamState | MomentumState | RMSpropState | ScheduleState):
        yield node
    elif isinstance(node, tuple):
        for part in node:
            yield from _states(part)


def _fill(
    field: Any, name: str, owners: list[tuple[Any, Parameter]], states: list[Mapping[str, Any]]
) -> None:
    by_path = dict(nnx.to_flat_state(field))
    for (path, parameter), state in zip(owners, states, strict=True):
        if name not in state:
            raise ValueError(f"{parameter.name}: its state has no {name!r}, only {sorted(state)}.")
        value = as_numpy(state[name])
        if value is None or value.shape != parameter.shape:
            raise ValueError(
                f"{parameter.name}: its {name} should be of shape {parameter.shape}, got "
                f"{getattr(value, 'shape', type(state[name]).__name__)}; are the parameters in the model's order?"
            )
        by_path[path].set_value(parameter.placed(value).astype(by_path[path].get_value().dtype))


def _tensor_like(tensor: Any, parameter: Parameter, value: np.ndarray) -> Any:
    if tuple(tensor.shape) != value.shape:
        raise ValueError(f"{parameter.name} is of shape {value.shape}, but torch's is {tuple(tensor.shape)}.")
    return tensor.detach().new_tensor(np.asarray(jax.device_get(value), np.float64))
