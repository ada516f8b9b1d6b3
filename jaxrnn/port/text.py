"""Edits of a source text, which keep the comments and the layout of all that they do not touch."""

import ast
import io
import tokenize
from typing import NamedTuple


class Edit(NamedTuple):
    """Code in the place of a span of the text, lines from 1 and columns from 0 in bytes, as `ast` counts them."""

    start: tuple[int, int]
    end: tuple[int, int]
    code: str  # lines after the first begin where the span does


class Text:
    """A file's text, the edits it is to get, and its comments."""

    def __init__(self, source: str):
        self.lines = [line.encode() for line in source.splitlines(keepends=True)]
        self.edits: list[Edit] = []
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
        self.comments = {t.start[0]: t.string for t in tokens if t.type == tokenize.COMMENT}
        self.colons = [self._in_bytes(t.start) for t in _block_colons(tokens)]

    def _in_bytes(self, place: tuple[int, int]) -> tuple[int, int]:
        line, column = place
        return line, len(self.lines[line - 1].decode()[:column].encode())

    def replace(self, node: ast.stmt, code: str) -> None:
        """Put code in the place of a statement; comments inside of it go above."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        inside = [self.comments[n] for n in range(node.lineno, node.end_lineno) if n in self.comments]
        self._add((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset), [*inside, code])

    def insert_above(self, node: ast.stmt, code: str) -> None:
        """Put code above a statement."""
        place = node.lineno, node.col_offset
        self._add(place, place, [code])

    def insert_below(self, node: ast.stmt, line: str) -> None:
        """Put a line below a statement, also where that one is taken away."""
        assert node.end_lineno is not None
        place = node.end_lineno, len(self.lines[node.end_lineno - 1].rstrip())
        code = " " * node.col_offset + line
        for number, edit in enumerate(self.edits):
            if edit.start <= place < edit.end:
                self.edits[number] = edit._replace(code=f"{edit.code}{code}\n")
                return
        self.edits.append(Edit(place, place, f"\n{code}"))

    def replace_header(self, node: ast.stmt, code: str) -> None:
        """Put code, which ends with a colon, in the place of all that stands before a compound statement's body."""
        start = node.lineno, node.col_offset
        line, column = next(place for place in self.colons if place > start)
        self._add(start, (line, column + 1), [code])

    def remove(self, node: ast.stmt) -> None:
        """Take a statement away, with its line where it is alone there."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        before = self.lines[node.lineno - 1][: node.col_offset]
        behind = self.lines[node.end_lineno - 1][node.end_col_offset :].strip()
        if before.strip() or behind.startswith(b";"):
            self._add((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset), ["pass"])
        else:
            self._add((node.lineno, 0), (node.end_lineno + 1, 0), [""])

    def _add(self, start: tuple[int, int], end: tuple[int, int], code: list[str]) -> None:
        indent = "\n" + " " * start[1]
        self.edits.append(Edit(start, end, indent.join("\n".join(code).split("\n")) if any(code) else ""))

    def edited(self, start: int, end: int) -> str:
        """Return the lines from `start` to `end`, both of them too, with their edits."""
        lines = self.lines[:end]
        # From the end on; of edits at one place, what was put above something is put there last.
        for edit in sorted(self.edits, key=lambda edit: (edit.start, edit.end), reverse=True):
            if not start <= edit.start[0] <= end:
                continue
            (first, left), (last, right) = edit.start, edit.end
            behind = lines[last - 1][right:] if last <= len(lines) else b""
            lines[first - 1 : last] = [lines[first - 1][:left] + edit.code.encode() + behind]
        return b"".join(lines[start - 1 :]).decode()

    def first_line(self, node: ast.stmt) -> int:
        """Return where a statement at the top of the file begins: with its decorators, and comments right above."""
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        while (
            first > 1
            and self.lines[first - 2].startswith(b"#")
            and not self.lines[first - 2].startswith(b"#!")
        ):
            first -= 1
        return first

    def with_comments(self, node: ast.stmt) -> str:
        """Return the edited lines of a statement at the top of the file, from its first line on."""
        assert node.end_lineno is not None
        return self.edited(self.first_line(node), node.end_lineno)

    def commented(self, node: ast.stmt) -> str:
        """Return a statement's text as comments, without its indentation."""
        assert node.end_lineno is not None
        lines = [line.decode().rstrip() for line in self.lines[node.lineno - 1 : node.end_lineno]]
        return "\n".join(f"# {line[node.col_offset :]}".rstrip() for line in lines)


def _block_colons(tokens: list[tokenize.TokenInfo]) -> list[tokenize.TokenInfo]:
    """Return the colons behind which blocks begin: those outside of brackets that belong to no lambda."""
    found, depth, lambdas = [], 0, 0
    for token in tokens:
        if token.type == tokenize.OP and token.string in "([{":
            depth += 1
        elif token.type == tokenize.OP and token.string in ")]}":
            depth -= 1
        elif depth == 0 and token.type == tokenize.NAME and token.string == "lambda":
            lambdas += 1
        elif depth == 0 and token.type == tokenize.OP and token.string == ":":
            if lambdas:
                lambdas -= 1
            else:
                found.append(token)
    return found
