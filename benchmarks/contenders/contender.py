"""What is timed, and what can be said of it besides its time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


class UnsupportedError(Exception):
    """A peer cannot do the job; the message says why."""


@dataclass(frozen=True)
class Contender:
    """One way to do the work of a job."""

    name: str
    run: Callable[[], Any]  # does it once, and returns when it is done
    results: Callable[[], Mapping[str, np.ndarray]]  # "output" [T, B, D*H], "gradient of ..."; not timed
    compile_seconds: float | None = None  # trace, lower and compile
    temp_bytes: int | None = None  # what it needs beside arguments and results
    flops: int | None = None  # where the work is not the job's
    note: str = ""
