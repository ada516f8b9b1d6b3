"""What fits, before it runs: training steps compiled for devices that are not here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxrnn.plan import policies
from jaxrnn.plan.compiler import Compiler, CompilerError, Job, profiled
from jaxrnn.plan.programs import Custom, Network, Program, factory_name
from jaxrnn.plan.report import Report, Row, roofline
from jaxrnn.plan.search import Point, search
from jaxrnn.plan.topologies import MissingCompilerError, Target, target

__all__ = ["CompilerError", "MissingCompilerError", "Report", "Row", "plan"]


def plan(
    kind: str | None = None,
    hidden_features: int | None = None,
    *,
    steps: int,
    batch: int | None = None,
    input_features: int | None = None,
    layers: int = 1,
    bidirectional: bool = False,
    vocabulary: int | None = None,
    dtype: str = "float32",
    param_dtype: str = "float32",
    step: str | Callable[..., Any] | None = None,
    memory: Any = None,
    topology: str = "v5e",
    longest: bool = False,
    curve: bool = False,
    profile: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """Return what a training step needs under each memory policy, and whether it fits: ask before you queue.

    Each program is compiled by the device's own compiler, in a process of its own; neither a TPU nor a GPU is
    needed, nor initialised where there is one. What does not fit on a TPU was refused by that compiler, and what
    fits was compiled. The compilers for CPUs and GPUs refuse nothing: there a step fits if it needs no more than
    there is. Example::

        report = jaxrnn.plan("LSTM", 512, batch=8, steps=100_000, input_features=32, dtype="bfloat16")
        print(report)
        report["h"].fits, report["h"].device_bytes

    * `kind`: "LSTM", "GRU", "RNN" or "PeepholeLSTM". The step is a loss of all outputs and its gradient with
      respect to all weights; with `vocabulary` that of a language model (embedding, layer, readout) by `scan_loss`,
      whose segments then are those of the policy. An optimizer's state is not in it.
    * `step`: a training step of your own instead: "package.module:factory" (or "file.py:factory", or the function,
      if it can be imported), where ``factory(steps, memory, mesh)`` returns a function and its arguments, arrays
      or `jax.ShapeDtypeStruct`. Those with a sharding on `mesh`, whose one axis is "data", keep it.
    * `memory`: policies, each as a layer takes it, ``["gates", 4096, (65536, 256)]``; one string or number is one
      policy. By default all that have a name, and "gates" alone for a step of your own.
    * `topology`: "v4", "v5e", "v5p", "v6e" or "v7x", one chip of it; a slice such as "v5e:4x4", whose chips share
      the batch; "h100"; or "cpu", with this machine's memory as the limit.
    * `longest`: also find the longest sequence that fits, to one per cent, by compiling more for each policy.
    * `curve`: also compile a half and a quarter of the steps, for `Report.plot`.
    * `profile`: also ask libtpu for its static estimate of cycles. That takes minutes for each policy, and on some
      programs it aborts, which the row then says. Ten minutes are the limit.
    * `say` is told what is being compiled.

    The process that compiles has JAX's settings from the environment (``JAX_ENABLE_X64``), not from `jax.config`.
    Raise `ValueError` for sizes that make no sense, `MissingCompilerError` where a package is missing; both before
    anything is compiled.
    """
    aim = target(topology)
    sizes = {
        "kind": kind, "hidden_features": hidden_features, "batch": batch, "input_features": input_features,
        "layers": layers, "bidirectional": bidirectional, "vocabulary": vocabulary, "dtype": dtype,
        "param_dtype": param_dtype,
    }  # fmt: skip
    program = _program(step, steps, sizes)
    program.check(aim.devices)
    asked = policies.checked(memory if memory is not None else policies.NAMED if step is None else "gates")
    for policy in asked:
        _means(program, policy)
    if profile and aim.platform != "tpu":
        raise ValueError(f"profile=True asks libtpu, which does not compile for {aim.name}. Leave it out.")
    aim.check_compiler()
    with Compiler(aim) as compiler:
        look = _Look(compiler, aim, program, say, longest=longest, curve=curve, profile=profile)
        return Report(program, aim, tuple(map(look, asked)))


@dataclasses.dataclass
class _Look:
    """One policy's row."""

    compiler: Compiler
    target: Target
    program: Program
    say: Callable[[str], None]
    longest: bool
    curve: bool
    profile: bool

    def __call__(self, policy: Any) -> Row:
        row = Row(policies.label(policy), _means(self.program, policy))
        try:
            answer = self._compile(policy, self.program)
            row = dataclasses.replace(row, **self._found(answer))
            points = [Point(self.program.steps, answer["fits"], answer["device_bytes"])]
            if self.longest:
                found, points = search(
                    lambda steps: self._point(policy, steps), points[0], self.target.usable_bytes,
                    policies.outermost(policy),
                )  # fmt: skip
                row = dataclasses.replace(row, longest=found.fits, refused=found.refused)
            elif self.curve:
                parts = [self.program.steps // part for part in (4, 2) if self.program.steps >= part]
                points += [self._point(policy, steps) for steps in parts]
            row = dataclasses.replace(row, points=tuple(sorted(points)))
        except CompilerError as error:
            return dataclasses.replace(row, error=str(error))
        return self._profiled(policy, row) if self.profile and row.fits else row

    def _compile(self, policy: Any, program: Program) -> dict[str, Any]:
        self.say(f"{policies.label(policy)}, T = {program.steps:,}")
        return self.compiler(Job(program, policy))

    def _point(self, policy: Any, steps: int) -> Point:
        answer = self._compile(policy, dataclasses.replace(self.program, steps=steps))
        return Point(steps, answer["fits"], answer["device_bytes"])

    def _found(self, answer: dict[str, Any]) -> dict[str, Any]:
        names = {field.name for field in dataclasses.fields(Row)}
        least = roofline(answer["flops"], answer["streamed_bytes"], self.target, _dtype(self.program))
        bound = {} if least is None else {"least_seconds": least[0], "bound": least[1]}
        found = {name: value for name, value in answer.items() if name in names} | bound
        return found | {"implementation": tuple(answer["implementation"])}

    def _profiled(self, policy: Any, row: Row) -> Row:
        self.say(f"{policies.label(policy)}, static profile")
        assert self.target.chip is not None
        try:
            cycles = profiled(Job(self.program, policy), self.target)
        except CompilerError as error:
            return dataclasses.replace(row, profile_error=f"no profile: {error}")
        if cycles is None:
            return dataclasses.replace(
                row, profile_error="no profile: a loop does not say how often it runs."
            )
        return dataclasses.replace(row, profile_seconds=cycles / self.target.chip.clock)


def _program(step: Any, steps: int, sizes: dict[str, Any]) -> Program:
    """Return what is planned: a step of the user's, or a network of what was stated of its sizes."""
    defaults = {field.name: field.default for field in dataclasses.fields(Network)}
    stated = {name: value for name, value in sizes.items() if value not in (None, defaults[name])}
    if step is None:
        needed = ("kind", "hidden_features", "batch")
        if missing := [name for name in needed if name not in stated]:
            raise ValueError(f"{', '.join(missing)}: needed, unless step= names a training step of your own.")
        return Network(steps=steps, **stated)
    if stated:
        raise ValueError(f"{', '.join(stated)}: a step of your own has its own sizes. Leave them out.")
    return Custom(factory_name(step), steps)


def _means(program: Program, policy: Any) -> str:
    return "" if isinstance(program, Custom) else policies.label(program.resolved(policy))


def _dtype(program: Program) -> str:
    return program.dtype if isinstance(program, Network) else "bfloat16"
