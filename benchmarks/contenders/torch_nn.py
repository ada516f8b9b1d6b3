"""torch.nn, eager: also the numbers that jaxrnn must compute, and the weights that it gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
import torch

from benchmarks.contenders.contender import Contender, UnsupportedError
from benchmarks.jobs import Job

_LAYERS: dict[str, Callable[..., Any]] = {
    "rnn": torch.nn.RNN,
    "relu": partial(torch.nn.RNN, nonlinearity="relu"),
    "gru": torch.nn.GRU,
    "lstm": torch.nn.LSTM,
}
_CELLS: dict[str, Callable[..., Any]] = {
    "rnn": torch.nn.RNNCell,
    "relu": partial(torch.nn.RNNCell, nonlinearity="relu"),
    "gru": torch.nn.GRUCell,
    "lstm": torch.nn.LSTMCell,
}


def contenders(job: Job, x: np.ndarray) -> Iterator[Contender]:
    """Yield the layer in torch's own layout [T, B, I]; in a stream, its cell as well."""
    layer = build(job)
    yield contend("torch", layer, layer, job, x)
    if job.stream:
        yield stream("torch, cell", build_cell(job, layer), job, x)


def build(job: Job) -> Any:
    """Return the layer of a job, with torch's initial weights."""
    if job.kind not in _LAYERS:
        raise UnsupportedError(f"torch has no {job.kind} network")
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    size = job.size
    sizes = (size.input_features, size.hidden_features, size.layers)
    return _LAYERS[job.kind](*sizes, bidirectional=size.directions == 2)


def build_cell(job: Job, layer: Any) -> Any:
    """Return the cell with the weights of a layer."""
    cell = _CELLS[job.kind](job.size.input_features, job.size.hidden_features)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    return cell


def expected(job: Job, x: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return torch's weights and the results that they give."""
    layer = build(job)
    if job.stream:
        return weights(layer), dict(stream("torch", layer, job, x).results())
    return weights(layer), _Work(layer, layer, torch.from_numpy(x).requires_grad_(job.train)).results(
        job.train
    )


def weights(layer: Any) -> dict[str, np.ndarray]:
    """Return the weights by torch's names."""
    return {name: value.numpy() for name, value in layer.state_dict().items()}


def contend(name: str, layer: Any, call: Any, job: Job, x: np.ndarray) -> Contender:
    """Time `call`, which is `layer` or what became of it."""
    if jax.default_backend() != "cpu":
        raise UnsupportedError(
            f"runs on the CPU, but JAX on the {jax.default_backend()}: set JAX_PLATFORMS=cpu"
        )
    if job.stream:
        return stream(name, call, job, x)
    work = _Work(layer, call, torch.from_numpy(x).requires_grad_(job.train))
    run = work.train if job.train else work.forward
    return Contender(name, run, lambda: work.results(job.train), temp_bytes=_temp_bytes(run, work.forget))


class _Work:
    """The work of a job on an input."""

    def __init__(self, layer: Any, call: Any, x: Any) -> None:
        self.layer, self.call, self.x = layer, call, x

    def forget(self) -> None:
        self.layer.zero_grad(set_to_none=True)
        self.x.grad = None

    def train(self) -> None:
        self.forget()
        output, _ = self.call(self.x)
        output.square().mean().backward()

    @torch.inference_mode()
    def forward(self) -> Any:
        return self.call(self.x)

    def results(self, train: bool) -> dict[str, np.ndarray]:
        found = {"output": self.forward()[0].numpy()}
        if train:
            self.train()
            gradients = {"input": self.x.grad}
            gradients |= {name: each.grad for name, each in self.layer.named_parameters()}
            found |= {f"gradient of {name}": each.numpy() for name, each in gradients.items()}
        return found


def stream(name: str, call: Any, job: Job, x: np.ndarray) -> Contender:
    """Time single calls of a layer [1, B, I] or a cell [B, I], the state in the caller's hands."""
    is_cell = not isinstance(call, torch.nn.RNNBase)
    calls = [torch.from_numpy(each if is_cell else each[None]) for each in x]

    @torch.inference_mode()
    def run() -> list[Any]:
        state, outputs = None, []
        for each in calls:
            found = call(each, state)
            output, state = (found[0] if isinstance(found, tuple) else found, found) if is_cell else found
            outputs.append(output)
        return outputs

    def results() -> dict[str, np.ndarray]:
        return {"output": torch.cat([each.reshape(1, *each.shape[-2:]) for each in run()]).numpy()}

    return Contender(name, run, results)


def _temp_bytes(run: Callable[[], Any], forget: Callable[[], None]) -> int | None:
    """Return the most that one call allocates beside its results, as torch's profiler counts it.

    Its counterpart for a compiled program is `temp_size_in_bytes`. The process's own peak says nothing: it
    belongs to all contenders together.
    """
    run()
    forget()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        result = run()
    recorded = getattr(profiler.profiler, "kineto_results", None)
    if recorded is None:
        return None
    events = sorted((e for e in recorded.events() if e.name() == "[memory]"), key=lambda e: e.start_ns())
    held = np.cumsum([event.nbytes() for event in events]) if events else np.zeros(1)
    del result
    return max(0, int(held.max() - held[-1]))
