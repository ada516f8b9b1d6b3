"""What is said of code that was not translated, or is not as it was."""

from typing import NamedTuple


class Problem(NamedTuple):
    """A piece of code that was not translated."""

    line: int
    code: str
    why: str
