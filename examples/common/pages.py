"""Generated parts of pages in Markdown: tables, and blocks between markers."""

import re
from collections.abc import Iterable, Mapping, Sequence


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def replace_blocks(text: str, blocks: Mapping[str, str]) -> str:
    """Replace what stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``, for every block.

    Raises ValueError for a block whose markers are not in the text exactly once.
    """
    for name, content in blocks.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        found = len(pattern.findall(text))
        if found != 1:
            raise ValueError(
                f"{name}: expected one pair of {begin!r} and {end!r}, found {found}; add the markers."
            )
        before, after = pattern.split(text)
        text = f"{before}{begin}\n{content}\n{end}{after}"
    return text
