"""The judge run on code that nobody here wrote: other libraries' networks, optimizers and losses against torch's.

`entries.ENTRIES` is the table, `page.to_markdown` writes `docs/findings.md` from it. A peer's file holds nothing
but the way in which a careful user would put torch's weights into it; the arithmetic that is judged is the
peer's own.
"""
