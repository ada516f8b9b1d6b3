"""Programs as text, before the rules."""

import textwrap

from jaxrnn.doctor import examine, read

HEADER = """
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
"""


def program(text, header=HEADER):
    """A piece of a program behind the usual imports."""
    return header.lstrip() + textwrap.dedent(text).strip("\n") + "\n"


def found(folder, *texts, built=()):
    """The rules that are broken in programs that are read together, in order."""
    return [each.rule.id for each in findings(folder, *texts, built=built)]


def findings(folder, *texts, built=()):
    sources = []
    for number, text in enumerate(texts):
        path = folder / f"program_{number}.py"
        path.write_text(text, "utf-8")
        sources.append(read(path))
    return examine(sources, built)
