"""A class of PyTorch written again in JAX, from its source: `jaxrnn port pkg.mod:Class -o file.py`.

The source is translated, not a trace of a run. A trace of `torch.fx` keeps one branch of ``if hidden is None`` and
no name; one of `torch.export` has no layer any more, only products. Here names, branches, loops and comments stay,
and what has no translation is a `NotImplementedError` at its place, and is listed.

`rules.py` says what a rule is; `functions.py`, `methods.py` and `modules.py` are the tables of them. `names.py`
knows what a file's names stand for, `expressions.py` applies the rules, `statements.py`, `training.py`,
`classes.py` and `file.py` translate what is around, from the inside out, and `text.py` edits the text.
"""

from jaxrnn.port.file import Ported, port_file, port_source

__all__ = ["Ported", "port_file", "port_source"]
