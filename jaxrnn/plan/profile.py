"""libtpu's static profile: cycles that its compiler expects of each instruction, summed over the schedule.

An undocumented option of the compiler writes, for each instruction of the optimized program, an estimate made
from the bundles of machine code it became. Products, loops and copies into VMEM are in it; a saturated
HBM is not (a copy of 1 GiB comes out 2.3 times too fast on a v5e), nor is waiting for other chips. It has not been
compared with a TPU. A compilation that writes it takes minutes rather than seconds, and on some programs the
compiler aborts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxrnn.plan.loops import Instruction, parse

_FLAG = "--xla_jf_dump_static_llo_profile_to="
_ESTIMATE = re.compile(r'hlo_op_name: "([^"]+)"\s+estimated_cycles: (\d+)')


def asked_for(environment: dict[str, str], folder: str) -> dict[str, str]:
    """Return an environment in which libtpu writes its profile into a folder, of one program."""
    flags = f"{environment.get('LIBTPU_INIT_ARGS', '')} {_FLAG}{folder}".strip()
    return environment | {"LIBTPU_INIT_ARGS": flags}


def cycles(text: str) -> int | None:
    """Return the cycles of one run of an optimized program, the only one compiled where `asked_for` holds.

    None elsewhere, and where a loop does not say how often it runs.
    """
    flags = [f for f in os.environ.get("LIBTPU_INIT_ARGS", "").split() if f.startswith(_FLAG)]
    if not flags:
        return None
    estimates = read(flags[-1].removeprefix(_FLAG))
    return total(text, estimates) if estimates else None


def read(folder: str) -> dict[str, int]:
    """Return the cycles of one run of each instruction, by name, that the compiler wrote into a folder."""
    estimates: dict[str, int] = {}
    for path in Path(folder).glob("*.textproto"):
        estimates |= {name: int(count) for name, count in _ESTIMATE.findall(path.read_text("utf-8"))}
    return estimates


def total(text: str, estimates: Mapping[str, int]) -> int | None:
    """Return the cycles of a module, given those of its instructions by name."""
    computations, entry = parse(text)
    by_work = {
        _work(each, computations): estimates[each.name]
        for each in _all(computations)
        if each.name in estimates
    }

    def of(name: str) -> int | None:
        summed = 0
        for each in computations[name]:
            if each.opcode in ("while", "call"):
                rounds = _rounds(each, computations) if each.opcode == "while" else 1
                inner = [of(called) for called in each.calls]
                if rounds is None or None in inner:
                    return None
                summed += rounds * sum(filter(None, inner))
            else:
                # The same work is compiled once, and estimated under one of its names.
                summed += estimates.get(each.name, by_work.get(_work(each, computations), 0))
        return summed

    return of(entry)


_NAMES = re.compile(
    r"%[\w.\-<>]+|, metadata=\{.*|, backend_config=.*|, frontend_attributes=\{.*?\}|constant\(\d+\)"
)
_LIMIT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")


def _all(computations: Mapping[str, list[Instruction]]) -> Iterator[Instruction]:
    for instructions in computations.values():
        yield from instructions


def _work(instruction: Instruction, computations: Mapping[str, list[Instruction]]) -> str:
    """Return what an instruction does, without names: the text of the computation that it runs."""
    called = [each for name in instruction.calls for each in computations.get(name, [])]
    return "\n".join(_NAMES.sub("", each.line) for each in (instruction, *called))


def _rounds(loop: Instruction, computations: Mapping[str, list[Instruction]]) -> int | None:
    """Return how often a loop runs: where it does not say so itself, to what its condition counts from zero."""
    if loop.trips is not None:
        return loop.trips
    condition = re.search(r"condition=%?([\w.\-]+)", loop.line)
    limits = [
        int(found[1])
        for each in (computations.get(condition[1], []) if condition else [])
        if (found := _LIMIT.search(each.line))
    ]
    return limits[0] if len(limits) == 1 else None
