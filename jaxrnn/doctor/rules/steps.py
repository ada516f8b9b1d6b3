"""Rules about the last step of an output."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from jaxrnn.doctor.library import SIGNATURES
from jaxrnn.doctor.loops import text
from jaxrnn.doctor.program import Call, Index, Program
from jaxrnn.doctor.rules.rule import (
    Hit,
    Rule,
    in_forward,
    initial_states,
    model,
    only_looked_at,
    takes_last_step,
    takes_states,
    takes_step,
)
from jaxrnn.doctor.values import (
    Array,
    Bound,
    Made,
    Name,
    Output,
    Packed,
    Size,
    State,
    Value,
    directions,
    is_recurrent,
)

_LENGTHS = re.compile(r"(?:.*_)?(?:lengths|lens)")
_OTHER_AXES = frozenset(
    ("squeeze", "view", "reshape", "flatten", "transpose", "permute", "swapaxes", "unbind")
)
_FUNCTIONS_OF_AXES = frozenset(
    f"{package}.{name}" for package in ("torch", "jax.numpy") for name in _OTHER_AXES
)
_TAKEN_APART = frozenset(("chunk", "split", "view", "reshape", "unflatten", "tensor_split"))


def _padded(program: Program) -> Iterator[Hit]:
    for index in program.indices:
        if only_looked_at(program, index.node):
            continue
        if takes_last_step(index):
            yield from _padded_step(index)
        elif isinstance(index.base, State) and takes_states(index):
            yield from _padded_state(index, index.base)
    for call in program.calls:
        state = _read_whole(call)
        if isinstance(state, State) and not only_looked_at(program, call.node):
            yield from _padded_state(call, state)


def _padded_step(index: Index) -> Iterator[Hit]:
    shown = text(index.node)
    if index.base.padded:
        yield index.node, f"{shown} is the last step of the longest row; in all others it is padding."
    elif (name := _ignored_lengths(index.function)) and in_forward(index):
        yield (
            index.node,
            f"{shown} is the last step of every row, although rows end at `{name}`, which is not used.",
        )


def _padded_state(noted: Index | Call, state: State) -> Iterator[Hit]:
    shown = text(noted.node)
    if state.over_padding:
        yield noted.node, f"{shown} is the state behind the padding, since the batch is not packed."
    elif state.over_padding is None and (name := _ignored_lengths(noted.function)) and in_forward(noted):
        yield (
            noted.node,
            f"{shown} is the state behind the last step, although rows end at `{name}`, which is not used.",
        )


def _read_whole(call: Call) -> Value:
    """Return what a call reads out or brings to other axes: a method's object, or else its first argument."""
    match call.target:
        case Bound(value=value, name=name) if name in _OTHER_AXES:
            return value
        case Name(dotted=dotted) if dotted in _FUNCTIONS_OF_AXES:
            return call.arguments.first()
        case Made(name="torch.nn.Linear" | "flax.nnx.Linear"):
            return call.arguments.first()
    return None


def _ignored_lengths(function: ast.AST | None) -> str | None:
    """Return an argument that must say how long rows are, if the function does not so much as mention it."""
    if not isinstance(function, ast.FunctionDef):
        return None
    required = function.args.args[: len(function.args.args) - len(function.args.defaults)]
    mentioned = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    names = [each.arg for each in required if each.arg not in mentioned]
    return next((name for name in names if _LENGTHS.fullmatch(name)), None)


def _bidirectional(program: Program) -> Iterator[Hit]:
    for index in program.indices:
        output = index.base
        if not takes_last_step(index) or not output.direct or directions(output.layer) != 2:
            continue
        if _taken_apart(program, index) or _takes_first_step(program, index):
            continue
        if not only_looked_at(program, index.node):
            shown = text(index.node)
            yield index.node, f"{shown}: the reverse half has read the last step and nothing else."


def _takes_first_step(program: Program, index: Index) -> bool:
    return any(
        other.frame == index.frame
        and isinstance(other.base, Output)
        and other.base.layer is index.base.layer
        and takes_step(other, 0, index.base.time_axis)
        for other in program.indices
    )


def _taken_apart(program: Program, index: Index) -> bool:
    """Tell whether the two halves of a step are looked at one by one."""
    parent = program.parents.get(index.node)
    if _is_part(parent):
        return True
    names = parent.targets if isinstance(parent, ast.Assign) else []
    held = {each.id for each in names if isinstance(each, ast.Name)}
    scope = index.function or program.source_of(index.node).tree
    uses = (node for node in ast.walk(scope) if isinstance(node, ast.Name) and node.id in held)
    return any(_is_part(program.parents.get(use)) for use in uses)


def _is_part(parent: ast.AST | None) -> bool:
    return isinstance(parent, ast.Subscript) or (
        isinstance(parent, ast.Attribute) and parent.attr in _TAKEN_APART
    )


def _batch_first(program: Program) -> Iterator[Hit]:
    for index in program.indices:
        yield from _row_for_step(program, index)
    for call in program.calls:
        if is_recurrent(call.target):
            yield from _given_otherwise(call)
        elif getattr(call.target, "dotted", "").endswith("pack_padded_sequence"):
            yield from _packed_otherwise(call)


def _row_for_step(program: Program, index: Index) -> Iterator[Hit]:
    output = index.base
    if not (
        isinstance(output, Output) and output.direct and output.time_axis is not None and in_forward(index)
    ):
        return
    if output.padded and output.padded != "pad_packed_sequence":
        return
    if takes_step(index, -1, 1 - output.time_axis) and not only_looked_at(program, index.node):
        axes = "[B, T, F]" if output.time_axis else "[T, B, F]"
        yield index.node, f"{text(index.node)} is the last row of the batch, since the output is {axes}."


def _given_otherwise(call: Call) -> Iterator[Hit]:
    batch_first = call.target.known("batch_first", False)
    value = call.arguments.first()
    if not isinstance(batch_first, bool) or isinstance(value, Packed):
        return
    padding = value.padding if isinstance(value, Array | Output) else None
    if padding and isinstance(padding.batch_first, bool) and padding.batch_first != batch_first:
        first = f"batch_first={padding.batch_first}"
        yield call.node, f"the batch was padded with {first}, and the layer has batch_first={batch_first}."
    elif any(_has_row_per_step(value, state, batch_first) for state in initial_states(call)):
        yield (
            call.node,
            f"the state has a row for each step of the input, since the layer has batch_first={batch_first}.",
        )


def _has_row_per_step(value: Value, state: Value, batch_first: bool) -> bool:
    shape = state.shape if isinstance(state, Array) else None
    if shape is None or len(shape) != 3 or not isinstance(value, Array | Output):
        return False
    return shape[1][0] == Size(value.root, int(batch_first))


def _packed_otherwise(call: Call) -> Iterator[Hit]:
    given = call.arguments.named(SIGNATURES["torch.nn.utils.rnn.pack_padded_sequence"])
    batch_first = getattr(given["batch_first"], "value", None) if "batch_first" in given else False
    value = call.arguments.first()
    padding = value.padding if isinstance(value, Array) else None
    if not padding or not isinstance(padding.batch_first, bool) or not isinstance(batch_first, bool):
        return
    if padding.batch_first != batch_first and call.arguments.complete:
        first = f"batch_first={padding.batch_first}"
        yield call.node, f"the batch was padded with {first}, and is packed with batch_first={batch_first}."


_PACK = "packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)"

RULES = (
    Rule(
        "last-step-of-padding",
        "The last step of a padded batch is taken for the last step of each row.",
        "For rows that end earlier, `output[:, -1]` of a packed batch is exactly zero: their prediction is the "
        "readout's bias, and no gradient reaches the layer. Of 64 rows of 1 to 20 steps, {} have it. Of a "
        "batch that is not packed it is what the layer makes of padding, and so is `h_n[-1]`, the very same "
        "numbers: an untrained LSTM's are {} of their size away from each row's own last step.",
        "Pack the batch, `pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)`, and then "
        "take `h_n[-1]`: of a packed batch, and of no other, it is each row's own last step (both directions: "
        "`torch.cat([h_n[-2], h_n[-1]], dim=1)`). Or, of one direction, gather it: "
        "`output[torch.arange(B), lengths - 1]`.",
        model(
            _PACK,
            "output, (h_n, c_n) = self.rnn(packed)",
            "output, _ = nn.utils.rnn.pad_packed_sequence(output, batch_first=True)",
            "return self.fc(output[:, -1])",
            arguments="x, lengths",
        ),
        model(
            _PACK,
            "output, (h_n, c_n) = self.rnn(packed)",
            "return self.fc(h_n[-1])",
            arguments="x, lengths",
        ),
        _padded,
        "Pass the lengths, `output, (h_n, c_n) = rnn(x, lengths=lengths)`, and then take `h_n[-1]`; nothing needs "
        "packing.",
        ("57", "67 %"),
    ),
    Rule(
        "last-step-of-bidirectional",
        "The last step of a bidirectional output is taken for what both directions know of the sequence.",
        "The reverse half of `output[:, -1]` has read one step of the sequence, the last, and knows nothing of "
        "all others. An untrained LSTM's is {} of its size away from the reverse direction's final state.",
        "Take the final states: `torch.cat([h_n[-2], h_n[-1]], dim=1)`, which are `output[:, -1, :H]` and "
        "`output[:, 0, H:]`.",
        model(
            "output, _ = self.rnn(x)",
            "return self.fc(output[:, -1])",
            options="batch_first=True, bidirectional=True",
            features=32,
        ),
        model(
            "_, (h_n, c_n) = self.rnn(x)",
            "return self.fc(torch.cat([h_n[-2], h_n[-1]], dim=1))",
            options="batch_first=True, bidirectional=True",
            features=32,
        ),
        _bidirectional,
        "The same, with `jnp.concatenate([h_n[-2], h_n[-1]], axis=1)`.",
        ("104 %",),
    ),
    Rule(
        "batch-first-mismatch",
        "The program and the layer disagree on which axis the rows are.",
        "A layer takes the other order without a word: it reads B steps of T rows. Then a prediction depends "
        "on the rows in front of its own: an untrained LSTM's, for the last of 32 rows, is {} of its size away "
        "from what it is for that row alone.",
        "Pass `batch_first=True` to the layer, to `pad_sequence`, `pack_padded_sequence` and "
        "`pad_packed_sequence`, or to none of them. The last step is `output[:, -1]` with it and `output[-1]` "
        "without.",
        model("output, _ = self.rnn(x)", "return self.fc(output[:, -1])", options=""),
        model("output, _ = self.rnn(x)", "return self.fc(output[:, -1])"),
        _batch_first,
        measured=("63 %",),
    ),
)
