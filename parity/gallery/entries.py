"""The table of the gallery. Reading it imports no peer.

What is reported upstream is named in `issue`; where it is empty, no report is known here.
"""

from __future__ import annotations

from typing import Any

from parity.gallery.entry import (
    Entry,
    Loss,
    Network,
    Optimizer,
    Schedule,
    cell,
    layer,
    ragged,
    torch_nn,
    torch_ref,
)

NAN = float("nan")

_SUM = "Weights by gate, transposed; its one bias per gate is `b_ih + b_hh`."
_SAME = "The same function with the same gradients."
_ONE = "The one bias learns at half the rate of torch's two."
_LENGTHS = "`seq_lengths`, initial carry from `hx`. "
_ZEROED = "The caller zeroes the outputs at the padding (`jnp.where(mask, y, 0)`)."
_NOT_ZEROED = (
    "Outputs at the padding are not zeroed: the cell goes on over it, and what a loss makes of them flows back "
    "into the weights. The documentation says so. Mask the outputs, and the two agree."
)
_EMPTY = (
    "A row of length 0 gets the state after its last padded step instead of the initial state: the index is -1. "
    "Garbage in the padding becomes the row's final state, without an error."
)
_NAN = (
    "NaN in the padding leaves every output finite, but the gradients of the weights become NaN: the cell "
    "computes the padded steps too, and 0 · NaN is NaN. Replace the padding before the call, "
    "`jnp.where(mask, x, 0)`."
)
_BEFORE = (
    "The reset gate multiplies the state before the product with the matrix; torch multiplies after it. "
)


def _cells(prefix: str, title: str, package: str, file: str, rows: list[tuple[str, ...]]) -> list[Entry]:
    """Make the entries of cells that are torch's, apart from their one bias."""
    return [
        Entry(
            f"{prefix}.{kind}",
            f"`{title}.{kind}`",
            package,
            f"`torch.nn.{torch_kind}`",
            Network(file, name, torch_nn(torch_kind), cell(2 if torch_kind == "LSTMCell" else 1)),
            _SUM + more,
            f"{_SAME} {_ONE}",
            issue,
        )
        for kind, name, torch_kind, more, issue in rows
    ]


def _ragged(
    prefix: str, title: str, package: str, file: str, names: tuple[str, str], **more: Any
) -> list[Entry]:
    """Make the entries of a layer that takes lengths but computes the padding."""
    plain, zeroed = names
    reference = torch_ref("LSTM", batch_first=True)

    def entry(
        id: str, what: str, name: str, settings: str, meaning: str, issue: str = "", **kind: Any
    ) -> Entry:
        network = Network(file, name, reference, ragged(2, **kind))
        return Entry(
            f"{prefix}-{id}",
            f"{title}, {what}",
            package,
            "`torch_ref.LSTM`",
            network,
            settings,
            meaning,
            issue,
        )

    return [
        entry("ragged", "ragged rows", plain, f"{_SUM} {_LENGTHS}Outputs as they come.", _NOT_ZEROED),
        entry(
            "zeroed",
            "ragged rows, outputs zeroed by the caller",
            zeroed,
            f"{_SUM} {_LENGTHS}{_ZEROED}",
            f"{_SAME} {_ONE}",
        ),
        entry("empty", "an empty row", zeroed, f"{_SUM} {_LENGTHS}{_ZEROED}", _EMPTY, empty=True, **more),
        entry("nan", "NaN in the padding", zeroed, f"{_SUM} {_LENGTHS}{_ZEROED}", _NAN, padding=NAN),
    ]


_LSTM = torch_nn("LSTM", batch_first=True)
_BIDIRECTIONAL = torch_ref("LSTM", batch_first=True, bidirectional=True)

_NNX = [
    *_cells(
        "nnx",
        "flax.nnx",
        "flax",
        "flax_nnx",
        [
            ("LSTMCell", "LSTM_CELL", "LSTMCell", "", "google/flax#3746"),
            ("OptimizedLSTMCell", "OPTIMIZED_LSTM_CELL", "LSTMCell", "", ""),
            ("SimpleCell", "SIMPLE_CELL", "RNNCell", " `dtype=` is that of the input.", ""),
        ],
    ),
    Entry(
        "nnx.GRUCell",
        "`flax.nnx.GRUCell`",
        "flax",
        "`torch.nn.GRUCell`",
        Network("flax_nnx", "GRU_CELL", torch_nn("GRUCell"), cell(1)),
        "Weights in torch's order, transposed; its one bias is `b_ih + b_hh`, the nearest there is.",
        "The cell has no bias inside the reset gate, so it cannot hold the weights of a GRU of torch (or of "
        "flax.linen) unless `b_hn` is zero. Its documentation has that bias in the equation. It starts at zero, "
        "so a new cell shows nothing; a trained one that is ported does.",
        "google/flax#5594",
    ),
    Entry(
        "nnx.GRUCell-no-bias",
        "`flax.nnx.GRUCell`, all biases zero",
        "flax",
        "`torch.nn.GRUCell(bias=False)`",
        Network("flax_nnx", "GRU_CELL_WITHOUT_BIAS", torch_nn("GRUCell", bias=False), cell(1)),
        "Weights in torch's order, transposed; its bias is held at zero.",
        "Apart from the bias the cell is torch's.",
    ),
    Entry(
        "nnx.RNN",
        "`nnx.RNN(LSTMCell)`, full rows",
        "flax",
        "`torch.nn.LSTM`",
        Network("flax_nnx", "LSTM", _LSTM, layer(2)),
        f"{_SUM} Initial carry from `hx`.",
        f"{_SAME} {_ONE}",
    ),
    *_ragged("nnx.RNN", "`nnx.RNN(LSTMCell)`", "flax", "flax_nnx", ("LSTM", "LSTM_ZEROED")),
    Entry(
        "nnx.RNN-gru-empty",
        "`nnx.RNN(GRUCell)`, an empty row",
        "flax",
        "`torch_ref.GRU(bias=False)`",
        Network(
            "flax_nnx",
            "GRU_WITHOUT_BIAS_ZEROED",
            torch_ref("GRU", batch_first=True, bias=False),
            ragged(1, empty=True),
        ),
        f"Without biases, which this cell does not have as torch does. {_LENGTHS}{_ZEROED}",
        _EMPTY,
    ),
    Entry(
        "nnx.Bidirectional",
        "`nnx.Bidirectional`, full rows",
        "flax",
        "`torch.nn.LSTM(bidirectional=True)`",
        Network(
            "flax_nnx",
            "BIDIRECTIONAL_LSTM",
            torch_nn("LSTM", batch_first=True, bidirectional=True),
            layer(2, directions=2),
        ),
        f"{_SUM} Initial carries from `hx`, one for each direction.",
        f"{_SAME} {_ONE}",
    ),
    Entry(
        "nnx.Bidirectional-zeroed",
        "`nnx.Bidirectional`, ragged rows, outputs zeroed by the caller",
        "flax",
        "`torch_ref.LSTM(bidirectional=True)`",
        Network("flax_nnx", "BIDIRECTIONAL_LSTM_ZEROED", _BIDIRECTIONAL, ragged(2, directions=2)),
        f"{_SUM} {_LENGTHS}{_ZEROED}",
        f"{_SAME} The reverse direction starts at each row's own end. {_ONE}",
    ),
]

_LINEN = [
    *_cells(
        "linen",
        "flax.linen",
        "flax",
        "flax_linen",
        [
            ("LSTMCell", "LSTM_CELL", "LSTMCell", "", "google/flax#3746"),
            ("OptimizedLSTMCell", "OPTIMIZED_LSTM_CELL", "LSTMCell", "", "google/flax#3746"),
            ("SimpleCell", "SIMPLE_CELL", "RNNCell", "", ""),
        ],
    ),
    Entry(
        "linen.GRUCell",
        "`flax.linen.GRUCell`",
        "flax",
        "`torch.nn.GRUCell`",
        Network("flax_linen", "GRU_CELL", torch_nn("GRUCell"), cell(1)),
        "Weights by gate, transposed; r and z have one bias each, `b_ih + b_hh`, n has torch's two.",
        f"{_SAME} The biases of r and z learn at half the rate of torch's two.",
    ),
    Entry(
        "linen.RNN",
        "`linen.RNN(LSTMCell)`, full rows",
        "flax",
        "`torch.nn.LSTM`",
        Network("flax_linen", "LSTM", _LSTM, layer(2)),
        f"{_SUM} Initial carry from `hx`.",
        f"{_SAME} {_ONE}",
    ),
    *_ragged("linen.RNN", "`linen.RNN(LSTMCell)`", "flax", "flax_linen", ("LSTM", "LSTM_ZEROED")),
]

_REF = "`lstm_ref`, torch's two biases and layout; the weights are torch's own."
_JAX = [
    Entry(
        "jax.lstm_ref",
        "`jax.experimental.rnn.lstm_ref`, ragged rows",
        "jax",
        "`torch_ref.LSTM`",
        Network("jax_experimental", "LSTM_REF", torch_ref("LSTM", batch_first=True), ragged(2)),
        f"{_REF} `seq_lengths` as int32.",
        f"{_SAME} Both biases are there, and outputs at the padding are zero.",
    ),
    Entry(
        "jax.lstm_ref-bidirectional",
        "`jax.experimental.rnn.lstm_ref`, bidirectional, ragged rows",
        "jax",
        "`torch_ref.LSTM(bidirectional=True)`",
        Network("jax_experimental", "LSTM_REF", _BIDIRECTIONAL, ragged(2, directions=2)),
        f"{_REF} `seq_lengths` as int32.",
        _SAME,
    ),
    Entry(
        "jax.lstm_ref-empty",
        "`jax.experimental.rnn.lstm_ref`, an empty row",
        "jax",
        "`torch_ref.LSTM`",
        Network("jax_experimental", "LSTM_REF", torch_ref("LSTM", batch_first=True), ragged(2, empty=True)),
        f"{_REF} `seq_lengths` as int32.",
        _EMPTY + " (The cuDNN path refuses empty rows with an error of its own.)",
        "jax-ml/jax#17966",
    ),
    Entry(
        "jax.lstm_ref-nan",
        "`jax.experimental.rnn.lstm_ref`, NaN in the padding",
        "jax",
        "`torch_ref.LSTM`",
        Network("jax_experimental", "LSTM_REF", torch_ref("LSTM", batch_first=True), ragged(2, padding=NAN)),
        f"{_REF} `seq_lengths` as int32.",
        _NAN,
    ),
]

_HAIKU = [
    Entry(
        "haiku.LSTM",
        "`hk.LSTM`",
        "haiku",
        "`torch.nn.LSTMCell`",
        Network("haiku_peer", "LSTM_CELL", torch_nn("LSTMCell"), cell(2)),
        "One matrix for input and state, gates i g f o; the one bias is `b_ih + b_hh`, less 1 for the forget gate.",
        f"{_SAME} {_ONE}",
    ),
    Entry(
        "haiku.LSTM-as-it-is",
        "`hk.LSTM`, forget bias copied as it is",
        "haiku",
        "`torch.nn.LSTMCell`",
        Network("haiku_peer", "LSTM_CELL_AS_IT_IS", torch_nn("LSTMCell"), cell(2)),
        "As haiku.LSTM, but without subtracting the 1.",
        "The core adds 1 to the forget gate whenever it is called, not when it is initialised; who copies "
        "weights has to subtract it. The documentation names it under initialisation.",
    ),
    Entry(
        "haiku.GRU",
        "`hk.GRU`",
        "haiku",
        "`torch.nn.GRUCell`",
        Network("haiku_peer", "GRU_CELL", torch_nn("GRUCell"), cell(1)),
        "Gates z r a, the one bias is `b_ih + b_hh`; z with the opposite sign, because its z is torch's 1 - z.",
        f"{_BEFORE}It is another network, as its documentation says: no map of weights turns one into the other.",
    ),
    Entry(
        "haiku.VanillaRNN",
        "`hk.VanillaRNN`",
        "haiku",
        "`torch.nn.RNNCell(nonlinearity='relu')`",
        Network("haiku_peer", "VANILLA_CELL", torch_nn("RNNCell", nonlinearity="relu"), cell(1)),
        "Two Linears with torch's two biases. There is no tanh.",
        f"{_SAME} Both biases are there.",
    ),
    Entry(
        "haiku.dynamic_unroll",
        "`hk.dynamic_unroll(LSTM)`",
        "haiku",
        "`torch.nn.LSTM`",
        Network("haiku_peer", "LSTM", torch_nn("LSTM"), layer(2, batch_first=False)),
        "As `hk.LSTM`; initial state from `hx`.",
        f"{_SAME} {_ONE}",
    ),
    Entry(
        "haiku.ResetCore",
        "`hk.dynamic_unroll(ResetCore(LSTM))`",
        "haiku",
        "`torch_ref.LSTM`",
        Network("haiku_peer", "LSTM", torch_ref("LSTM"), layer(2, batch_first=False, resets=True)),
        "As `hk.LSTM`; `should_reset` where a new sequence begins inside a row.",
        f"{_SAME} {_ONE}",
    ),
]

_EQUINOX = [
    Entry(
        "equinox.LSTMCell",
        "`eqx.nn.LSTMCell`",
        "equinox",
        "`torch.nn.LSTMCell`",
        Network("equinox_peer", "LSTM_CELL", torch_nn("LSTMCell"), cell(2)),
        "torch's names and layout; its one bias is `b_ih + b_hh`. `jax.vmap` over the rows.",
        f"{_SAME} {_ONE}",
    ),
    Entry(
        "equinox.LSTMCell-no-bias",
        "`eqx.nn.LSTMCell(use_bias=False)`",
        "equinox",
        "`torch.nn.LSTMCell(bias=False)`",
        Network("equinox_peer", "LSTM_CELL", torch_nn("LSTMCell", bias=False), cell(2)),
        "torch's names and layout. `jax.vmap` over the rows.",
        _SAME,
    ),
    Entry(
        "equinox.GRUCell",
        "`eqx.nn.GRUCell`",
        "equinox",
        "`torch.nn.GRUCell`",
        Network("equinox_peer", "GRU_CELL", torch_nn("GRUCell"), cell(1)),
        "torch's names and layout; `bias` is `b_ih + b_hh` for r and z, `b_in` for n; `bias_n` is `b_hn`.",
        f"{_SAME} The biases of r and z learn at half the rate of torch's two.",
        "patrick-kidger/equinox#1003",
    ),
    Entry(
        "equinox.GRUCell-no-bias",
        "`eqx.nn.GRUCell(use_bias=False)`",
        "equinox",
        "`torch.nn.GRUCell(bias=False)`",
        Network("equinox_peer", "GRU_CELL", torch_nn("GRUCell", bias=False), cell(1)),
        "torch's names and layout.",
        _SAME,
    ),
]

_ASIDE = " Keras's rule that float64 becomes float32 was set aside for the float64 run."
_KERAS_LSTM = f"Gates i f c o, transposed; its one bias is `b_ih + b_hh`.{_ASIDE}"
_KERAS = [
    Entry(
        "keras.LSTM",
        "`keras.layers.LSTM`",
        "keras",
        "`torch.nn.LSTM`",
        Network("keras_peer", "LSTM", _LSTM, layer(2)),
        _KERAS_LSTM,
        f"{_SAME} `unit_forget_bias=True`, the default, is an initial value and nothing more: weights that are "
        f"set replace it. {_ONE}",
    ),
    Entry(
        "keras.LSTM-float64",
        '`keras.layers.LSTM(dtype="float64")`',
        "keras",
        "`torch.nn.LSTM` in float64",
        Network("keras_peer", "LSTM_FLOAT64", _LSTM, layer(2)),
        "As keras.LSTM, but with Keras's own promotion; JAX has float64 enabled.",
        "On every backend but TensorFlow, Keras promotes two float64 to float32, so that a layer of dtype "
        "float64 returns float32 and computes most of its steps in it. (`SimpleRNN` raises a TypeError "
        "instead.) In float32 nothing is wrong. Gradient checks in float64 are not possible this way.",
        "keras-team/keras#18482",
    ),
    Entry(
        "keras.LSTM-ragged",
        "`keras.layers.LSTM`, ragged rows as a mask",
        "keras",
        "`torch_ref.LSTM`",
        Network("keras_peer", "LSTM", torch_ref("LSTM", batch_first=True), ragged(2)),
        f"{_KERAS_LSTM} `mask=`.",
        "At masked steps the output repeats the last one instead of being zero, so that a loss over all steps "
        "counts it again. The states are right. `zero_output_for_mask=True` makes it torch's.",
    ),
    Entry(
        "keras.LSTM-zeroed",
        "`keras.layers.LSTM(zero_output_for_mask=True)`, ragged rows as a mask",
        "keras",
        "`torch_ref.LSTM`",
        Network("keras_peer", "LSTM_ZEROED", torch_ref("LSTM", batch_first=True), ragged(2)),
        f"{_KERAS_LSTM} `mask=`.",
        f"{_SAME} {_ONE}",
    ),
    Entry(
        "keras.LSTM-empty",
        "`keras.layers.LSTM(zero_output_for_mask=True)`, an empty row",
        "keras",
        "`torch_ref.LSTM`",
        Network("keras_peer", "LSTM_ZEROED", torch_ref("LSTM", batch_first=True), ragged(2, empty=True)),
        f"{_KERAS_LSTM} `mask=`.",
        f"{_SAME} A row without any step keeps its initial state. {_ONE}",
    ),
    Entry(
        "keras.LSTM-nan",
        "`keras.layers.LSTM(zero_output_for_mask=True)`, NaN in the padding",
        "keras",
        "`torch_ref.LSTM`",
        Network("keras_peer", "LSTM_ZEROED", torch_ref("LSTM", batch_first=True), ragged(2, padding=NAN)),
        f"{_KERAS_LSTM} `mask=`.",
        _NAN,
    ),
    Entry(
        "keras.GRU",
        "`keras.layers.GRU(reset_after=True)`",
        "keras",
        "`torch.nn.GRU`",
        Network("keras_peer", "GRU", torch_nn("GRU", batch_first=True), layer(1)),
        f"Gates z r h, transposed; a bias with a row for each of torch's two. The default.{_ASIDE}",
        f"{_SAME} Both biases are there.",
    ),
    Entry(
        "keras.GRU-before",
        "`keras.layers.GRU(reset_after=False)`",
        "keras",
        "`torch.nn.GRU`",
        Network("keras_peer", "GRU_BEFORE", torch_nn("GRU", batch_first=True), layer(1)),
        f"Gates z r h, transposed; its one bias is `b_ih + b_hh`.{_ASIDE}",
        f"{_BEFORE}It is another network, as its documentation says; the default, `reset_after=True`, is torch's.",
    ),
    Entry(
        "keras.SimpleRNN",
        "`keras.layers.SimpleRNN`",
        "keras",
        "`torch.nn.RNN`",
        Network("keras_peer", "SIMPLE_RNN", torch_nn("RNN", batch_first=True), layer(1)),
        f"Transposed; its one bias is `b_ih + b_hh`.{_ASIDE}",
        f"{_SAME} {_ONE}",
    ),
]


def _optimizer(
    id: str, reference: str, candidate: str, settings: str, meaning: str, issue: str = "", **clip: Any
) -> Entry:
    title = f"`{candidate}`"
    subject = Optimizer(reference, candidate, **clip)
    clipped = " after `clip_grad_norm_`" if clip else ""
    return Entry(
        f"optax.{id}",
        title,
        "optax",
        f"`torch.optim.{reference}`{clipped}",
        subject,
        settings,
        meaning,
        issue,
    )


_DEFAULTS = "Both with their defaults, apart from the learning rate."
_EQUAL = "The defaults of both agree."
_SAME_STEPS = "The same steps."
_FLOAT32 = (
    "The same optimizer, less accurate: `1 - b2**t` is a difference of float32 numbers, whose relative error at "
    "the first step is 1.3e-5. torch computes it in Python's float64. The first update is off by 7e-6 of its "
    "size, which training forgives and a comparison of trajectories does not."
)
_OPTIMIZERS = [
    _optimizer(
        "sgd",
        "SGD(lr=1e-2, momentum=0.9, nesterov=True)",
        "optax.sgd(1e-2, momentum=0.9, nesterov=True)",
        "As written.",
        _SAME_STEPS,
    ),
    _optimizer("adam", "Adam(lr=1e-2)", "optax.adam(1e-2)", _EQUAL, _FLOAT32),
    _optimizer(
        "adamw",
        "AdamW(lr=1e-2, weight_decay=1e-2)",
        "optax.adamw(1e-2, weight_decay=1e-2)",
        "The same weight decay on both sides.",
        _FLOAT32,
    ),
    _optimizer(
        "adamw-defaults",
        "AdamW(lr=1e-2)",
        "optax.adamw(1e-2)",
        _DEFAULTS,
        "The default weight decay is 1e-4 here and 1e-2 in torch. Write it out.",
    ),
    _optimizer("adamax", "Adamax(lr=1e-2)", "optax.adamax(1e-2)", _EQUAL, _SAME_STEPS),
    _optimizer(
        "amsgrad",
        "Adam(lr=1e-2, amsgrad=True)",
        "optax.amsgrad(1e-2)",
        _EQUAL,
        "The largest second moment is taken after its bias correction, in torch before it: of the early, "
        "strongly corrected moments one is kept for good, and steps stay smaller.",
        "google-deepmind/optax#1389",
    ),
    _optimizer(
        "nadam",
        "NAdam(lr=1e-2)",
        "optax.nadam(1e-2)",
        _DEFAULTS,
        "torch follows Dozat's schedule of the momentum (`momentum_decay`), optax keeps it constant.",
    ),
    _optimizer(
        "radam",
        "RAdam(lr=1e-3)",
        "optax.radam(1e-3)",
        _EQUAL,
        "eps is added on the other side of the bias correction, which counts where gradients are as small as eps.",
    ),
    _optimizer(
        "rmsprop-defaults",
        "RMSprop(lr=1e-2)",
        "optax.rmsprop(1e-2)",
        _DEFAULTS,
        "The moment decays by 0.9 here and by 0.99 in torch, and eps is under the root here and outside in torch.",
    ),
    _optimizer(
        "rmsprop",
        "RMSprop(lr=1e-2)",
        "optax.rmsprop(1e-2, decay=0.99, eps_in_sqrt=False)",
        "torch's defaults written out.",
        _SAME_STEPS,
    ),
    _optimizer(
        "rmsprop-momentum",
        "RMSprop(lr=1e-2, momentum=0.9)",
        "optax.rmsprop(1e-2, decay=0.99, eps_in_sqrt=False, momentum=0.9)",
        "torch's defaults written out, and a momentum; the learning rate changes from step to step.",
        "The learning rate goes into the momentum buffer here, in torch it multiplies what comes out: a "
        "schedule reaches the past steps too late. With a constant rate the two agree.",
    ),
    _optimizer(
        "adagrad-defaults",
        "Adagrad(lr=1e-2)",
        "optax.adagrad(1e-2)",
        _DEFAULTS,
        "The sum of squares starts at 0.1 here and at 0 in torch; eps is 1e-7 and under the root here, 1e-10 "
        "and outside in torch.",
    ),
    _optimizer(
        "adagrad",
        "Adagrad(lr=1e-2)",
        "optax.adagrad(1e-2, initial_accumulator_value=0.0, eps=1e-10)",
        "torch's values written out.",
        "eps stays under the root, where 1e-10 is as much as 1e-5 outside: parameters with gradients below 1e-5 "
        "hardly move. For larger gradients the two agree the better the larger they are.",
    ),
    _optimizer("adadelta", "Adadelta(lr=1.0)", "optax.adadelta(1.0)", "As written.", _SAME_STEPS),
    _optimizer(
        "adadelta-defaults",
        "Adadelta()",
        "optax.adadelta()",
        "Both with their defaults.",
        "The default learning rate is None here, and then nothing turns the sign of the update: it climbs. "
        "torch's is 1.0. Pass a learning rate.",
    ),
    _optimizer(
        "rprop",
        "Rprop(lr=1e-2)",
        "optax.rprop(1e-2)",
        _EQUAL,
        "Each call returns the update of the step before; the first is zero.",
        "google-deepmind/optax#1725",
    ),
    _optimizer(
        "clip_by_global_norm",
        "SGD(lr=1e-2)",
        "optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1e-2))",
        "Both clip to a norm of 1; gradients below, at and above it.",
        "torch divides by the norm + 1e-6 and clips from a norm just below the threshold on. With a threshold "
        "of 1 the steps differ by 1e-6; the smaller the threshold, the more.",
        clip_norm=1.0,
    ),
]

_SCHEDULES = [
    Entry(
        "optax.cosine_onecycle_schedule",
        "`optax.cosine_onecycle_schedule(60, 0.3)`",
        "optax",
        "`OneCycleLR(max_lr=0.3, total_steps=60)`",
        Schedule("OneCycleLR(max_lr=0.3, total_steps=60)", "optax.cosine_onecycle_schedule(60, 0.3)"),
        _EQUAL,
        "Its phases end one update later than torch's: the peak comes one update later, and the last update of "
        "the cycle has not reached the bottom. torch also cycles the momentum.",
    ),
    Entry(
        "optax.cosine_decay_schedule",
        "`optax.cosine_decay_schedule(0.3, 25)`",
        "optax",
        "`CosineAnnealingLR(T_max=25)`, 60 updates",
        Schedule("CosineAnnealingLR(T_max=25)", "optax.cosine_decay_schedule(0.3, 25)"),
        "The same base, 0.3, and bottom, 0.",
        "The two agree until `T_max`; then torch's rate climbs again, and this one stays at the bottom.",
    ),
]


def _loss(
    id: str, title: str, reference: str, function: str, settings: str, meaning: str, **asked: Any
) -> Entry:
    subject = Loss(reference, function, **asked)
    return Entry(f"optax.{id}", title, "optax", f"`torch.nn.{reference}`", subject, settings, meaning)


_CROSS_ENTROPY = "`softmax_cross_entropy_with_integer_labels(...)`"
_MEAN_CROSS_ENTROPY = "`softmax_cross_entropy_with_integer_labels(...).mean()`"
_LOSSES = [
    _loss(
        "cross_entropy",
        _CROSS_ENTROPY,
        "CrossEntropyLoss(reduction='none')",
        "cross_entropy",
        "All labels count.",
        "The same losses and gradients.",
        asked=lambda peer: peer.valid_labels(),
    ),
    _loss(
        "cross_entropy-ignored",
        f"{_MEAN_CROSS_ENTROPY}, labels of -100",
        "CrossEntropyLoss()",
        "mean_cross_entropy",
        "Some labels are -100, which torch ignores by default.",
        "A label that is no class makes the loss NaN. It does not stay unnoticed, but there is no ignored label.",
        asked=lambda peer: peer.ignored_labels(-100),
    ),
    _loss(
        "cross_entropy-minus-one",
        f"{_MEAN_CROSS_ENTROPY}, labels of -1",
        "CrossEntropyLoss(ignore_index=-1)",
        "mean_cross_entropy",
        "Some labels are -1, which torch is told to ignore.",
        "-1 is taken for the last class, without an error: padding trains it. Mask it yourself.",
        asked=lambda peer: peer.ignored_labels(-1),
    ),
    _loss(
        "cross_entropy-masked",
        f"{_CROSS_ENTROPY}, labels of -1 masked by the caller",
        "CrossEntropyLoss(ignore_index=-1)",
        "masked_cross_entropy",
        "Another label in place of -1, a mask, and the mean over what counts.",
        "The same loss and gradients.",
        asked=lambda peer: peer.ignored_labels(-1),
    ),
    _loss(
        "l2_loss",
        "`l2_loss(...).mean()`",
        "MSELoss()",
        "mean_l2_loss",
        "The mean on both sides.",
        "It is half of the squared error, as its documentation says; the learning rate is halved with it. "
        "`squared_error` is torch's.",
    ),
    _loss(
        "squared_error",
        "`squared_error(...).mean()`",
        "MSELoss()",
        "mean_squared_error",
        "The mean on both sides.",
        "The same loss and gradients.",
    ),
    _loss(
        "huber_loss",
        "`huber_loss(..., delta=0.3).mean()`",
        "HuberLoss(delta=0.3)",
        "mean_huber_loss",
        "The mean on both sides.",
        "The same loss and gradients.",
    ),
    _loss(
        "sigmoid_binary_cross_entropy",
        "`sigmoid_binary_cross_entropy(...).mean()`",
        "BCEWithLogitsLoss()",
        "mean_sigmoid_cross_entropy",
        "The mean on both sides; saturated logits among them.",
        "The same loss and gradients.",
    ),
    _loss(
        "kl_divergence",
        "`kl_divergence(...).mean()`",
        "KLDivLoss()",
        "mean_kl_divergence",
        "Both with their defaults, rows and batches of sequences.",
        "torch's default divides by all elements, not by the rows. Its documentation recommends "
        "`reduction='batchmean'`, which is what this computes.",
    ),
    _loss(
        "kl_divergence-batchmean",
        "`kl_divergence(...).mean()`, rows",
        "KLDivLoss(reduction='batchmean')",
        "mean_kl_divergence",
        "The mean over the rows on both sides.",
        "The same loss and gradients.",
        asked=lambda peer: peer.rows_of_distributions(),
    ),
    _loss(
        "cosine_similarity",
        "`cosine_similarity`",
        "CosineSimilarity()",
        "cosine_similarity",
        "Vectors that are not zero; its epsilon is 0, torch's 1e-8.",
        "The same values and gradients.",
    ),
    _loss(
        "cosine_similarity-zero",
        "`cosine_similarity`, a zero vector",
        "CosineSimilarity()",
        "cosine_similarity",
        "One of the vectors is zero; its epsilon is 0, torch's 1e-8.",
        "With the default `epsilon=0` the similarity to a zero vector is NaN, in torch 0. "
        "`epsilon=1e-16` makes it torch's.",
        asked=lambda peer: peer.zero_vectors(),
    ),
    _loss(
        "cosine_similarity-epsilon",
        "`cosine_similarity(..., epsilon=1e-16)`, a zero vector",
        "CosineSimilarity()",
        "guarded_cosine_similarity",
        "epsilon is that of the squared norm, so 1e-16 is torch's 1e-8.",
        "The same values and gradients.",
        asked=lambda peer: peer.zero_vectors(),
    ),
    _loss(
        "ctc_loss",
        "`ctc_loss`",
        "CTCLoss(reduction='none')",
        "ctc_loss",
        "At the logits; lengths become paddings; blank 0.",
        "The same losses and gradients.",
        asked=lambda peer: peer.spellable(),
        task="ctc",
    ),
    _loss(
        "ctc_loss-infeasible",
        "`ctc_loss`, a sequence too short for its labels",
        "CTCLoss(reduction='none', zero_infinity=True)",
        "ctc_loss",
        "At the logits; torch's loss of such a sequence is 0 with this option, and infinite by default.",
        "The loss of a sequence that no path can spell is about 1e5, a finite number: a mean over the batch is "
        "ruined without a sign of it. torch's infinity shows, and `zero_infinity=True` leaves the sequence out.",
        asked=lambda peer: peer.unspellable(),
        task="ctc",
    ),
]

ENTRIES: tuple[Entry, ...] = (
    *_NNX,
    *_LINEN,
    *_JAX,
    *_HAIKU,
    *_EQUINOX,
    *_KERAS,
    *_OPTIMIZERS,
    *_SCHEDULES,
    *_LOSSES,
)
