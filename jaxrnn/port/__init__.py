"""A class of PyTorch written again in JAX, from its source: `jaxrnn port pkg.mod:Class -o file.py`.

The source is translated, not a trace of a run. A trace of `torch.fx` keeps one branch of ``if hidden is None`` and
no name; one of `torch.export` has no layer any more, only products. Here names, branches, loops and comments stay,
and what has no translation is a `NotImplementedError` at its place, and is listed.

`rules.py` says what a rule is; `functions.py`, `methods.py`, `modules.py` and `drawing.py` are the tables of them.
`names.py` knows what a file's names stand for, `kinds.py` what kind of thing code is, `expressions.py` applies the
rules; `assignments.py`, `statements.py`, `classes.py`, `script.py` and `file.py` translate what is around, from the
inside out, and `text.py` edits the text. `training.py` makes a step of a loop, `schedules.py` schedules of
schedulers, `dropouts.py` layers of dropout by a function, and `loading.py` keeps in torch what loads data.
"""

from jaxrnn.port.file import Ported, port_file, port_source

__all__ = ["Ported", "port_file", "port_source"]
