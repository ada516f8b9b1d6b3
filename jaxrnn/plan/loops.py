"""What a compiled program does in each step of its loops: what a benchmark times, counted instead.

A count does not depend on the machine, nor on who else uses it, and it can be had for accelerators that are not
here: XLA compiles for them ahead of time. So these are the numbers that tests guard.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) .*->.*\{$")
_INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<shape>\(.*?\)|\S+) (?P<opcode>[a-z][\w\-]*)\("
)
_CALLED = re.compile(r"(?:calls|to_apply|body)=%?([\w.\-]+)")
_BRANCHES = re.compile(
    r"(?:branch_computations|called_computations)=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+)"
)
_CHAIN = re.compile(r'chain_id="([^"]*)"')
_TRIPS = re.compile(r"known_trip_count\D*(\d+)")
# What costs nothing at run time: names, views, and what is folded into the loop itself.
_FREE = frozenset(
    ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "while")
)
_PRODUCTS = frozenset(("dot", "convolution"))
# What devices do together; of one that is split in two (`all-reduce-start`, `all-reduce-done`), the start.
_COLLECTIVE = re.compile(
    r"(all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast)"
    r"(-start)?"
)


@dataclass(frozen=True)
class Instruction:
    """One instruction of a computation: its shape as text, its opcode, the computations that it calls."""

    name: str
    shape: str
    opcode: str
    calls: tuple[str, ...]
    line: str
    trips: int | None = None  # of a loop whose count is known
    branches: tuple[str, ...] = ()  # the computations that it chooses from, or starts beside itself
    chain: str | None = None  # of a collective in parts, what these have in common

    @property
    def is_scalar(self) -> bool:
        """Whether its result is a single number, as loop counters are."""
        return "[]" in self.shape


@dataclass(frozen=True)
class Loop:
    """The body of a loop, without the loops inside it.

    kernels: instructions that are launched, one by one, in each round. products: matrix products, also those inside
    fusions. updates: writes into stacked results (`dynamic-update-slice`). copies: copies of more than one number.
    """

    trips: int | None
    depth: int
    kernels: int
    products: int
    updates: int
    copies: int


def loops(text: str) -> list[Loop]:
    """Return the loops of an optimized HLO module (`compiled.as_text()`), in order, outer ones first."""
    computations, entry = parse(text)
    return list(_loops(computations, entry, 0))


def collectives(text: str) -> Counter[tuple[str, int]]:
    """Count the collectives of an optimized HLO module: {(opcode, number of loops around it): count}.

    A collective of many arrays at once is one. What a loop holds runs once in each of its rounds. One that a TPU
    starts, carries on beside what the rounds of a loop compute, and ends (`chain_id`), is counted where it starts.
    """
    computations, entry = parse(text)
    found: Counter[tuple[str, int]] = Counter()
    chains: dict[tuple[str, str], int] = {}
    for opcode, depth, chain in _collectives(computations, entry, 0):
        if chain:
            chains[opcode, chain] = min(depth, chains.get((opcode, chain), depth))
        else:
            found[opcode, depth] += 1
    return found + Counter((opcode, depth) for (opcode, _), depth in chains.items())


def launched(found: list[Loop]) -> int:
    """Return how many kernels the loops launch in all, those of a loop in a loop as often as it runs."""
    total, rounds = 0, [1]
    for loop in found:
        if loop.trips is None:
            raise ValueError("a loop runs for as long as it likes: its kernels cannot be counted.")
        rounds = [*rounds[: loop.depth + 1], rounds[loop.depth] * loop.trips]
        total += loop.kernels * rounds[-1]
    return total


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Return a module's computations by name, each a list of instructions, and which of them is the entry."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", ""
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            current = found["name"]
            computations[current] = []
            entry = current if found["entry"] else entry
        elif current and (found := _INSTRUCTION.match(line)):
            trips = _TRIPS.search(line)
            computations[current].append(
                Instruction(
                    found["name"],
                    found["shape"],
                    found["opcode"],
                    tuple(_CALLED.findall(line)),
                    line,
                    int(trips[1]) if trips and found["opcode"] == "while" else None,
                    tuple(_branches(line)),
                    chain[1] if (chain := _CHAIN.search(line)) else None,
                )
            )
    return computations, entry


def _branches(line: str) -> Iterator[str]:
    for several, one in _BRANCHES.findall(line):
        yield from (name.strip().lstrip("%") for name in (several or one).split(","))


def _collectives(
    computations: dict[str, list[Instruction]], name: str, depth: int
) -> Iterator[tuple[str, int, str | None]]:
    for instruction in computations.get(name, []):
        if found := _COLLECTIVE.fullmatch(instruction.opcode):
            yield found[1], depth, instruction.chain
            continue
        inside = depth + (instruction.opcode == "while")
        for called in (*instruction.calls, *instruction.branches):
            yield from _collectives(computations, called, inside)


def _loops(computations: dict[str, list[Instruction]], name: str, depth: int) -> Iterator[Loop]:
    for instruction in computations[name]:
        for called in instruction.calls:
            if instruction.opcode == "while":
                yield _loop(computations, called, instruction.trips, depth)
                yield from _loops(computations, called, depth + 1)
            elif instruction.opcode == "call":
                yield from _loops(computations, called, depth)


def _loop(computations: dict[str, list[Instruction]], body: str, trips: int | None, depth: int) -> Loop:
    launched = [i for i in _launched(computations, body) if i.opcode not in _FREE]
    deep: Counter[str] = Counter()
    for instruction in launched:
        deep[instruction.opcode] += 1
        for called in instruction.calls:
            deep.update(_opcodes(computations, called))
    copies = sum(i.opcode in ("copy", "copy-start") and not i.is_scalar for i in launched)
    return Loop(
        trips, depth, len(launched), sum(deep[p] for p in _PRODUCTS), deep["dynamic-update-slice"], copies,
    )  # fmt: skip


def _launched(computations: dict[str, list[Instruction]], name: str) -> Iterator[Instruction]:
    """Yield a computation's instructions, those of plain calls in their place."""
    for instruction in computations[name]:
        if instruction.opcode == "call":
            for called in instruction.calls:
                yield from _launched(computations, called)
        else:
            yield instruction


def _opcodes(computations: dict[str, list[Instruction]], name: str) -> Counter[str]:
    """Count the opcodes of a computation that is called, at any depth."""
    found: Counter[str] = Counter()
    for instruction in computations.get(name, []):
        found[instruction.opcode] += 1
        for called in instruction.calls:
            found.update(_opcodes(computations, called))
    return found
