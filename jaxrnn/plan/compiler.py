"""Compilation in a process of its own, for devices that are not here.

Jobs and answers are lines of JSON; `jaxrnn.plan.worker` is the other end. That it is a process has three reasons:
XLA's flags and libtpu's environment are read once, a compiler that aborts takes its process with it, and the
caller's own devices must not be initialised.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
from typing import Any, NamedTuple

from jaxrnn.ops.memory import Memory
from jaxrnn.plan import profile
from jaxrnn.plan.programs import Program, from_json, to_json
from jaxrnn.plan.topologies import Target

Answer = dict[str, Any]
PROFILE_SECONDS = 600.0


class CompilerError(RuntimeError):
    """A program could not be compiled, for another reason than memory; the message is the compiler's."""


class Job(NamedTuple):
    """A program to compile."""

    program: Program
    memory: Any  # as a layer takes it

    def to_json(self) -> dict[str, Any]:
        """Return the job in plain types."""
        memory = {"policy": self.memory._asdict()} if isinstance(self.memory, Memory) else self.memory
        return {"program": to_json(self.program), "memory": memory}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Job:
        """Read what `to_json` returned."""
        memory = fields["memory"]
        if isinstance(memory, dict):
            policy = memory["policy"]
            memory = Memory(policy["keep"], tuple(policy["segments"]), policy["offload"])
        elif isinstance(memory, list):
            memory = tuple(memory)
        return cls(from_json(fields["program"]), memory)


def profiled(job: Job, target: Target) -> int | None:
    """Return the cycles of a program's static profile, compiled in a process that may abort: `CompilerError`."""
    with tempfile.TemporaryDirectory() as folder, Compiler(target, PROFILE_SECONDS, folder) as compiler:
        return compiler(job).get("cycles")


class Compiler:
    """The process, from outside. It begins with the first job, and again after one that killed it.

    A job that takes longer than `most_seconds` is given up.
    """

    def __init__(self, target: Target, most_seconds: float = math.inf, profile_folder: str | None = None):
        self.target = target
        self.most_seconds = most_seconds
        self._profile_folder = profile_folder
        self._process: subprocess.Popen[str] | None = None
        self._said: Any = None

    def __enter__(self) -> Compiler:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the process, when its last job is done."""
        self._end()

    def __call__(self, job: Job) -> Answer:
        """Return what compiling a job says: see `compile_job`."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        limit = threading.Timer(min(self.most_seconds, threading.TIMEOUT_MAX), process.kill)
        limit.start()
        try:
            process.stdin.write(json.dumps(job.to_json()) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        except BaseException:  # interrupted: what is being compiled is of no use to anybody
            process.kill()
            self._end()
            raise
        finally:
            given_up = limit.finished.is_set()
            limit.cancel()
        if not line:
            how = f"gave up after {self.most_seconds:.0f} s" if given_up else "the compiler's process ended"
            raise CompilerError(f"{how}: {self._end()}")
        answer = json.loads(line)
        if "error" in answer:
            raise CompilerError(answer["error"])
        return answer

    def _start(self) -> subprocess.Popen[str]:
        environment = os.environ | self.target.environment
        environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # a compile time is that of compiling
        if self._profile_folder is not None:
            environment = profile.asked_for(environment, self._profile_folder)
        self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jaxrnn.plan.worker", self.target.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=environment | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        return self._process

    def _end(self) -> str:
        """End the process; return its last words."""
        process, said = self._process, self._said
        self._process = self._said = None
        if process is None:
            return ""
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        code = process.wait()
        process.stdout.close()
        said.seek(0)
        lines = [line for line in said.read().splitlines() if line.strip()]
        said.close()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"{how}. {' '.join(lines[-3:])[:500]}"
