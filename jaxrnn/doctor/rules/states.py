"""Rules about hidden states: their axes and their directions."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from jaxrnn.doctor.loops import text
from jaxrnn.doctor.program import Call, Program
from jaxrnn.doctor.rules.rule import (
    FULL,
    Hit,
    Rule,
    in_forward,
    initial_states,
    is_batch,
    is_layers,
    model,
    steps_of,
)
from jaxrnn.doctor.values import (
    Array,
    Bound,
    Output,
    Packed,
    Size,
    State,
    Value,
    blocks,
    directions,
    is_recurrent,
)

# Axes ------------------------------------------------------------------------------------------------------------


def _batch_first_state(program: Program) -> Iterator[Hit]:
    for call in program.calls:
        if is_recurrent(call.target):
            yield from _initial(call)
    for index in program.indices:
        state = index.base
        takes_row = steps_of(index) in ((FULL, -1), (FULL, -1, FULL))
        if (
            isinstance(state, State)
            and takes_row
            and in_forward(index)
            and state.layer.known("batch_first", False)
        ):
            yield (
                index.node,
                f"{text(index.node)} is the last row's states: a state is [L * D, B, H] with batch_first too.",
            )


def _initial(call: Call) -> Iterator[Hit]:
    batch_first = call.target.known("batch_first", False)
    for each in initial_states(call):
        shape = each.shape if isinstance(each, Array) else None
        if shape is None or len(shape) != 3 or batch_first is None:
            continue
        rows = _rows_of(call.arguments.first(), int(not batch_first))
        if not _rows_first(shape, rows, blocks(call.target)):
            continue
        sizes = ", ".join(dict.fromkeys(text(node) for _, node in shape))
        yield (
            shape[0][1],
            f"a state of shape [{sizes}]: the rows stand first, where the layers (times directions) belong.",
        )
        return


def _rows_of(value: Value, axis: int) -> Size | None:
    """Return the size of an input that is the number of its rows."""
    inside = value.of if isinstance(value, Packed) else value
    return Size(inside.root, axis) if isinstance(inside, Array | Output) else None


def _rows_first(shape: tuple[tuple[Value, ast.expr], ...], rows: Size | None, count: int | None) -> bool:
    (first, first_node), (second, second_node), _ = shape
    if isinstance(first, Size):
        return first == rows
    return is_batch(first_node) and is_layers(second, second_node, count)


def _reshaped(program: Program) -> Iterator[Hit]:
    for call in program.calls:
        target = call.target
        if not (
            isinstance(target, Bound)
            and isinstance(target.value, State)
            and target.name in ("view", "reshape")
        ):
            continue
        count = blocks(target.value.layer)
        values, nodes = call.arguments.values, call.arguments.nodes
        batch_first = target.value.layer.known("batch_first", False)
        if count is None or count == 1 or len(values) != 2 or batch_first is None:
            continue
        first = values[0]
        rows = Size(target.value.root or 0, int(not batch_first))
        if first == rows if isinstance(first, Size) else is_batch(nodes[0]):
            yield (
                call.node,
                f"{text(call.node)} puts states of different rows beside each other: the rows are axis 1.",
            )


# Directions ------------------------------------------------------------------------------------------------------


def _one_direction(program: Program) -> Iterator[Hit]:
    states = [index for index in program.indices if isinstance(index.base, State)]
    for index in states:
        if steps_of(index)[0] != -1 or directions(index.base.layer) != 2:
            continue
        others = (other for other in states if other.frame == index.frame and other.base == index.base)
        if all(steps_of(other)[0] == -1 for other in others):
            yield (
                index.node,
                f"{text(index.node)} is the reverse direction alone; the forward one's state is at -2.",
            )


RULES = (
    Rule(
        "state-batch-first",
        "A state is made, or read, with the rows first.",
        "A state is [L * D, B, H], whatever `batch_first` says. With B first torch raises `Expected hidden "
        "size`, unless B equals L * D: then what was meant for row 0 goes to the first layer or direction of "
        "all rows, without a word, and the output is {} of its size away (an LSTM of two directions, two "
        "rows). `h_n[:, -1]` is the last row of the batch: one row's prediction for all.",
        "`torch.zeros(L * D, B, H)`, with `batch_first=True` too; or leave the state out, it is zeros. The "
        "last layer's state is `h_n[-1]`.",
        model(
            "h0 = torch.zeros(x.size(0), 1, 16)",
            "output, _ = self.rnn(x, (h0, h0))",
            "return self.fc(output)",
        ),
        model(
            "h0 = torch.zeros(1, x.size(0), 16)",
            "output, _ = self.rnn(x, (h0, h0))",
            "return self.fc(output)",
        ),
        _batch_first_state,
        "`jnp.zeros((L * D, B, H))`, likewise.",
        ("27 %",),
    ),
    Rule(
        "state-reshaped",
        "A state of several layers or directions is brought to [B, ...] by a reshape, with no transpose.",
        "The numbers stay in their order, so what lands in a row comes from several rows: of 8 rows with two "
        "directions, {} get both of their own states. The shapes fit, and nothing is raised.",
        "`h_n.transpose(0, 1).flatten(1)`, or `torch.cat([h_n[-2], h_n[-1]], dim=1)`.",
        model(
            "_, (h_n, c_n) = self.rnn(x)",
            "return self.fc(h_n.view(x.size(0), -1))",
            options="batch_first=True, bidirectional=True",
            features=32,
        ),
        model(
            "_, (h_n, c_n) = self.rnn(x)",
            "return self.fc(h_n.transpose(0, 1).flatten(1))",
            options="batch_first=True, bidirectional=True",
            features=32,
        ),
        _reshaped,
        "`jnp.swapaxes(h_n, 0, 1).reshape(B, -1)`.",
        ("0",),
    ),
    Rule(
        "one-direction-of-state",
        "The last state of a bidirectional layer is taken for both directions.",
        "`h_n` holds forward and reverse one after the other, so `h_n[-1]` is the reverse direction alone. The "
        "forward direction of the last layer gets no gradient: {} of the weights of an LSTM of one layer never "
        "learn.",
        "`torch.cat([h_n[-2], h_n[-1]], dim=1)`, and a readout of 2 * H features.",
        model(
            "_, (h_n, c_n) = self.rnn(x)",
            "return self.fc(h_n[-1])",
            options="batch_first=True, bidirectional=True",
        ),
        model(
            "_, (h_n, c_n) = self.rnn(x)",
            "return self.fc(torch.cat([h_n[-2], h_n[-1]], dim=1))",
            options="batch_first=True, bidirectional=True",
            features=32,
        ),
        _one_direction,
        "The same, with `jnp.concatenate([h_n[-2], h_n[-1]], axis=1)`.",
        ("50 %",),
    ),
)
