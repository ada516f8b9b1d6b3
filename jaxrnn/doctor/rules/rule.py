"""What a rule is, and what the rules have in common."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jaxrnn.doctor.loops import text
from jaxrnn.doctor.program import Call, Index, Program
from jaxrnn.doctor.values import Constant, Items, Output, Value

Hit = tuple[ast.AST, str]  # where, and what is wrong there
FULL = ":"  # an index that takes all


@dataclass(frozen=True)
class Rule:
    """A fault: how it is found, what it costs and what to do instead.

    `consequence` has a {} for each figure in `measured`, which tests measure anew. `wrong` and `right` are
    programs.
    """

    id: str
    title: str
    consequence: str
    remedy: str  # in PyTorch
    wrong: str
    right: str
    check: Callable[[Program], Iterator[Hit]]
    in_jaxrnn: str = ""  # where the remedy is another one
    measured: tuple[str, ...] = ()

    @property
    def cost(self) -> str:
        """The consequence with its figures."""
        return self.consequence.format(*self.measured)


def model(*forward: str, options: str = "batch_first=True", features: int = 16, arguments: str = "x") -> str:
    """Return the program of a model: an LSTM with options, a readout of its features, and what `forward` does."""
    made = ", ".join(filter(None, ("8", "16", options)))
    body = "\n".join(f"        {line}" for line in forward)
    return f"""import torch
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM({made})
        self.fc = nn.Linear({features}, 2)

    def forward(self, {arguments}):
{body}
"""


_LOOP = """import torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 2))
optimizer = torch.optim.Adam(model.parameters())


def fit(batches, held_out, epochs):
    for epoch in range(epochs):
        {first}for x, y in batches:
{step}
        {evaluate}with torch.no_grad():
            print(sum(nn.functional.mse_loss(model(x), y) for x, y in held_out))
"""
STEP = (
    "optimizer.zero_grad()",
    "loss = nn.functional.mse_loss(model(x), y)",
    "loss.backward()",
    "optimizer.step()",
)


def training_loop(*step: str, first: str = "model.train()", evaluate: str = "model.eval()") -> str:
    """Return the program of a training loop: what its rounds do, and what is called in front of them."""
    lines = "\n".join(f"            {line}" for line in step)
    starts = [f"{line}\n        " if line else "" for line in (first, evaluate)]
    return _LOOP.format(first=starts[0], evaluate=starts[1], step=lines)


def steps_of(index: Index) -> tuple[object, ...]:
    """Return an index as plain values: numbers, FULL, and None for anything else."""
    return tuple(map(_plain, index.index))


def _plain(node: ast.expr) -> object:
    match node:
        case ast.Constant(value=int()):
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value))):
            return -value
        case ast.Slice(lower=None, upper=None, step=None):
            return FULL
    return None


def takes_step(index: Index, step: int, axis: int) -> bool:
    """Tell whether an index takes one step along an axis, and everything else whole."""
    steps = steps_of(index)
    expected = (FULL,) * axis + (step,)
    return steps[: axis + 1] == expected and all(each in (FULL, None) for each in steps[axis + 1 :])


def takes_last_step(index: Index) -> bool:
    """Tell whether an index takes all features of an output's last step."""
    base = index.base
    if not isinstance(base, Output) or base.time_axis is None or not takes_step(index, -1, base.time_axis):
        return False
    return all(each == FULL for each in steps_of(index)[base.time_axis + 1 :])


def takes_states(index: Index) -> bool:
    """Tell whether an index takes the states of some layers or directions, not those of some rows."""
    taken, (first, *rest) = index.index[0], steps_of(index)
    if first == FULL or (isinstance(taken, ast.Constant) and first is None):  # `...`, or a new axis
        return False
    return all(each in (FULL, None) for each in rest)


def in_forward(noted: Index | Call) -> bool:
    """Tell whether an index or a call stands where a model computes, not where somebody looks at a result."""
    return getattr(noted.function, "name", None) in ("forward", "__call__")


def only_looked_at(program: Program, node: ast.AST) -> bool:
    """Tell whether of a value only the shape is asked."""
    parent = program.parents.get(node)
    return isinstance(parent, ast.Attribute) and parent.attr in ("shape", "size", "dtype")


_BATCH = re.compile(r"(?:.*[._])?(?:batch|batch_size|batchsize|bsz|bs|n_batch|B|N)")
_LAYERS = re.compile(r".*(?:layers|n_layers|num_layers|directions|layer_dim).*")


def is_batch(node: ast.expr) -> bool:
    """Tell whether a size is that of the batch, by its name."""
    return isinstance(node, ast.Name | ast.Attribute) and _BATCH.fullmatch(text(node)) is not None


def is_layers(value: Value, node: ast.expr, blocks: int | None) -> bool:
    """Tell whether a size is the number of states, by its value or by its name."""
    if isinstance(value, Constant):
        return value.value == blocks
    return _LAYERS.fullmatch(text(node)) is not None


def initial_states(call: Call) -> tuple[Value, ...]:
    """Return the states that a recurrent layer is called with: none, h, or h and c."""
    state = call.arguments.named(("input", "hx")).get("hx")
    if isinstance(state, Items):
        return state.items
    return () if state is None else (state,)
