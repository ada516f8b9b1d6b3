"""Memory policies as they are asked for, written and shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jaxrnn.ops import memory as memory_policies
from jaxrnn.ops.memory import Memory

NAMED = ("gates", "carry", "h", "sqrt", "segments", "offload")


def checked(memory: Any) -> list[Any]:
    """Return the policies asked for: a list or tuple of what layers take, or one string, number or `Memory`."""
    one = isinstance(memory, str | int | Memory)
    given: Iterable[Any] = (memory,) if one else memory
    policies = [memory_policies.check(policy) for policy in given]
    if not policies or None in policies:
        raise ValueError(f"memory should name at least one policy, got {memory!r}.")
    return list(dict.fromkeys(policies))


def label(policy: Any) -> str:
    """Return a policy as it is written on the command line: "gates", "65536,256", "2048 offload"."""
    if isinstance(policy, Memory):
        words = [] if policy.keep == "gates" and policy.segments else [policy.keep]
        words += [",".join(map(str, policy.segments))] if policy.segments else []
        return " ".join(words + ["offload"] * policy.offload)
    if isinstance(policy, tuple | list):
        return ",".join(map(str, policy))
    return str(policy)


def parse(text: str) -> Any:
    """Return a policy, as it is written on the command line, as a layer takes it."""
    words = text.split()
    if words[-1:] == ["offload"] and len(words) > 1:
        return Memory(segments=_lengths(" ".join(words[:-1])), offload=True)
    if text.strip()[:1].isdigit() and not text.strip().endswith("B"):
        lengths = _lengths(text)
        return lengths if len(lengths) > 1 else lengths[0]
    return text.strip()


def outermost(policy: Any) -> int:
    """Return the steps of a segment that was asked for by its length, the outermost; 1 where none was."""
    segments: Any = policy.segments if isinstance(policy, Memory) else policy
    if isinstance(segments, int):
        return segments
    return segments[0] if isinstance(segments, tuple) and segments else 1


def _lengths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"memory {text!r}: lengths of segments are whole numbers, such as 2048 or 65536,256."
        ) from None
