"""Runs a PyTorch module on a probe: outputs, states, gradients, one optimizer step. The module is not touched."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from parity.gates import Array
from parity.longhand.torch_modules import is_spelled_out
from parity.probe import LEARNING_RATE, Probe
from parity.trace import Entry, Trace, map_leaves, name_inputs, name_outputs, output_kind

Name = TypeVar("Name")


def parameters(module: nn.Module) -> dict[str, Array]:
    """Return the parameters by name, shared ones under every name that they have."""
    return {name: _numpy(value) for name, value in module.named_parameters(remove_duplicate=False)}


def paths(module: nn.Module) -> dict[str, str]:
    """Return the name of each parameter on its own side: for torch, the same."""
    return {name: name for name in parameters(module)}


def with_weights(module: nn.Module, weights: Mapping[str, Array]) -> nn.Module:
    """Return a copy of the module that holds these weights; every name must be there, none left over."""
    module = copy.deepcopy(module)
    targets = dict(module.named_parameters(remove_duplicate=False))
    if set(targets) != set(weights):
        raise ValueError(f"weights for {sorted(weights)}, but the module has {sorted(targets)}.")
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(_tensor(weights[name], target.dtype, target.device))
    return module


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread.

    On the small models of the registered cases more threads cost time, ten times as much where the cores are
    busy, and the order of a sum would depend on the machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def has_gpu() -> bool:
    """Tell whether torch can compute on an NVIDIA GPU."""
    return torch.cuda.is_available()


@contextlib.contextmanager
def multiplying(how: str) -> Iterator[None]:
    """Let torch multiply matrices of float32 as `how` says, "ieee" or "tf32"; on a CPU always the former."""
    cpu: list[Any] = [torch.backends.mkldnn.matmul, torch.backends.mkldnn.rnn]  # type: ignore[attr-defined]
    gpu: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn.rnn]
    backends = [*cpu, *gpu]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = how if backend in gpu else "ieee"
    try:
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value


@contextlib.contextmanager
def default_dtype(dtype: str) -> Iterator[None]:
    """Let the tensors that a model makes itself, ``torch.zeros(...)``, be of the dtype that it computes in.

    Otherwise a model that starts from such a state could not run in float64 at all.
    """
    usual = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


def run(module: nn.Module, probe: Probe, dtype: str, replayed: Mapping[str, Array] | None = None) -> Trace:
    """Return the trace of one call, computed in `dtype` with weights and inputs rounded to `probe.dtype`.

    The scalar that is differentiated is the sum over floating outputs of `<output, cotangent>`. The optimizer's
    step is taken from the gradients `replayed`, by default this run's own: Adam's first step is almost the
    gradient's sign, and given gradients that differ by a rounding, two exact optimizers may part.

    Raises RuntimeError when the call draws random numbers: nothing could be compared then.
    """
    with multiplying(probe.matmul), default_dtype(dtype):
        return _run(module, probe, dtype, replayed)


def _run(module: nn.Module, probe: Probe, dtype: str, replayed: Mapping[str, Array] | None) -> Trace:
    module = _rounded(module, probe.dtype, dtype)
    device = _device(module)
    args, kwargs = _arguments(probe, dtype, device)
    named = name_outputs(_call(module, args, kwargs), probe.outputs)
    params = dict(module.named_parameters(remove_duplicate=False))
    leaves = name_inputs(args, kwargs, probe.arg_names or ())
    inputs = {name: leaf for name, leaf in leaves.items() if _is_floating(leaf)}
    gradients = _gradients(named, {**params, **inputs}, probe)

    entries = {name: Entry(_numpy(value), "param", name) for name, value in params.items()}
    entries |= {name: Entry(_numpy(value), output_kind(name), name) for name, value in named.items()}
    for name, gradient in gradients.items():
        entries[f"grad({name})"] = Entry(_numpy(gradient), "grad", f"grad({name})")
    if replayed is not None:
        gradients = {name: _tensor(replayed[name], value.dtype, device) for name, value in params.items()}
    _step(params, gradients)
    entries |= {f"step({name})": Entry(_numpy(v), "step", f"step({name})") for name, v in params.items()}
    return Trace(entries)


def reservations(module: nn.Module, probe: Probe) -> tuple[str, ...]:
    """Return nothing: what `multiplying` pins, no module of torch has of its own."""
    return ()


def answer(module: nn.Module, probe: Probe) -> dict[str, Array]:
    """Return the outputs of one call in float64; what the module raises is raised."""
    with multiplying(probe.matmul), default_dtype("float64"), torch.no_grad():
        module = _rounded(module, probe.dtype, "float64")
        args, kwargs = _arguments(probe, "float64", _device(module))
        outputs = name_outputs(_call(module, args, kwargs), probe.outputs)
    return {name: _numpy(value) for name, value in outputs.items()}


def gradients_of(
    module: nn.Module, probe: Probe, dtype: str, watched: Mapping[Name, torch.Tensor]
) -> dict[Name, Array]:
    """Call a module that puts tensors of its own into `watched`, and return their gradients."""
    with default_dtype(dtype):
        module = _rounded(module, probe.dtype, dtype)
        args, kwargs = _arguments(probe, dtype, _device(module))
        named = name_outputs(_call(module, args, kwargs), probe.outputs)
        return {name: _numpy(value) for name, value in _gradients(named, watched, probe).items()}


def _device(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def _arguments(probe: Probe, dtype: str, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return map_leaves(lambda leaf: _input(leaf, probe, dtype, device), (probe.args, dict(probe.kwargs)))


def _rounded(module: nn.Module, held: str, computed: str) -> nn.Module:
    module = copy.deepcopy(module).to(getattr(torch, held)).to(getattr(torch, computed))
    return module.requires_grad_(True)


def _call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "LSTM with projections is not supported with oneDNN"
        )  # says no more
        before = torch.random.get_rng_state()
        if (
            isinstance(module, nn.RNNBase)
            and not is_spelled_out(module)
            and kwargs.get("lengths") is not None
        ):
            outputs = _call_packed(module, *args, **kwargs)
        else:
            outputs = module(*args, **kwargs)
        if not torch.equal(before, torch.random.get_rng_state()):
            raise RuntimeError(
                f"{type(module).__name__} drew random numbers, so two runs cannot agree; call .eval(), which is "
                "--eval of parity check, or pass the dropout masks (dropout_masks=) to both models."
            )
    return outputs


def _call_packed(module: nn.RNNBase, input: torch.Tensor, hx: Any = None, *, lengths: torch.Tensor) -> Any:
    """torch.nn takes ragged rows as a packed sequence; the output is padded back to all of T."""
    steps = input.shape[1 if module.batch_first else 0]
    packed = nn.utils.rnn.pack_padded_sequence(
        input, lengths.cpu(), batch_first=module.batch_first, enforce_sorted=False
    )
    output, state = module(packed, hx)
    padded, _ = nn.utils.rnn.pad_packed_sequence(output, batch_first=module.batch_first, total_length=steps)
    return padded, state


def _gradients(
    outputs: Mapping[str, torch.Tensor], wanted: Mapping[Name, torch.Tensor], probe: Probe
) -> dict[Name, torch.Tensor]:
    """Gradients by name; what no output depends on has a gradient of zeros."""
    ends = {name: value for name, value in outputs.items() if value.requires_grad}
    if not wanted or not ends:
        return {name: torch.zeros_like(value) for name, value in wanted.items()}
    cotangents = [
        _tensor(probe.cotangent(name, tuple(value.shape)), value.dtype, value.device)
        for name, value in ends.items()
    ]
    gradients = torch.autograd.grad(
        list(ends.values()), list(wanted.values()), cotangents, allow_unused=True, materialize_grads=True
    )
    return dict(zip(wanted, gradients, strict=True))


def _step(params: Mapping[str, torch.Tensor], gradients: Mapping[str, torch.Tensor]) -> None:
    """One step of Adam from these gradients, in place."""
    unique = {id(value): (value, gradients[name]) for name, value in params.items()}
    if not unique:
        return
    for value, gradient in unique.values():
        value.grad = gradient
    optimizer = torch.optim.Adam([value for value, _ in unique.values()], lr=LEARNING_RATE, foreach=False)
    optimizer.step()


def _input(leaf: Any, probe: Probe, dtype: str, device: torch.device) -> Any:
    if not isinstance(leaf, np.ndarray):
        return leaf
    rounded = probe.rounded(leaf)
    if rounded.dtype.kind in "iub":
        return torch.from_numpy(rounded.copy()).to(device)
    return _tensor(rounded, getattr(torch, dtype), device).requires_grad_(True)


def _tensor(values: Array, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Exact for every type narrower than float64; torch cannot read NumPy's bfloat16 itself."""
    return torch.from_numpy(np.asarray(values).astype(np.float64)).to(dtype=dtype, device=device)


def _numpy(value: torch.Tensor) -> Array:
    value = value.detach().cpu()
    if value.dtype == torch.bfloat16:
        from ml_dtypes import bfloat16

        return value.to(torch.float32).numpy().astype(bfloat16)
    return value.numpy().copy()


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
