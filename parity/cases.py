"""The models that exist twice, in one table: `CASES` drives the tests, the command line and the report.

A new model is one more row. Packages are imported when a factory is called, so that the table can be read
without them.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from parity.designed import (
    CLASSES,
    CONVOLVED,
    DROPOUT,
    EMBEDDED,
    FEATURES,
    HEADS,
    HIDDEN,
    PREDICTED,
    PROJECTED,
    TARGET_WORDS,
    WIDE,
    WORD_SIZE,
    WORDS,
    AttentionCall,
    CaptionerCall,
    CellCall,
    ForecasterCall,
    GaussianCall,
    LayerCall,
    Seq2SeqCall,
    SequencesCall,
    TextCall,
    TransformerCall,
    TranslatorCall,
)
from parity.probe import Probe

INSTALL = {"torch": "pip install 'jaxrnn[torch]'", "bokeh_sampledata": "pip install 'jaxrnn[examples]'"}


@dataclass(frozen=True)
class Case:
    """A model that exists twice: factories without arguments, and the probes that are put to both.

    `probes(probe_set, seed)` returns the probes of a set, "quick" or "designed"; `requires` are the packages
    that the case needs beside NumPy and JAX.
    """

    id: str
    summary: str
    reference: Callable[[], Any]
    candidate: Callable[[], Any]
    probes: Callable[[str, int], list[Probe]]
    requires: tuple[str, ...] = ("torch",)

    def missing(self) -> str | None:
        """Return what keeps the case from running, with the remedy; `None` where nothing does."""
        absent = [name for name in self.requires if importlib.util.find_spec(name) is None]
        if not absent:
            return None
        return f"{', '.join(absent)} not installed; {' && '.join(INSTALL[name] for name in absent)}"


_SIZES = (FEATURES, HIDDEN)


def _torch_layer(kind: str, options: dict[str, Any], sizes: tuple[int, ...] = _SIZES) -> Any:
    return getattr(importlib.import_module("torch_ref"), kind)(*sizes, **options).train()


def _jax_layer(kind: str, options: dict[str, Any], sizes: tuple[int, ...] = _SIZES) -> Any:
    layer = getattr(importlib.import_module("jaxrnn"), kind)(*sizes, **options, rngs=_rngs())
    layer.train()
    return layer


def _torch_model(model: str, kind: str | None, sizes: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Make a model of `torch_ref.models`, on a layer of `torch_ref` if it takes one."""
    layer = [] if kind is None else [getattr(importlib.import_module("torch_ref"), kind)]
    made = getattr(importlib.import_module("torch_ref.models"), model)(*layer, *sizes, **options)
    return made.train()


def _jax_model(model: str, kind: str | None, sizes: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Make a model of `jaxrnn.models`, on a layer of `jaxrnn` if it takes one."""
    layer = [] if kind is None else [getattr(importlib.import_module("jaxrnn"), kind)]
    made = getattr(importlib.import_module("jaxrnn.models"), model)(*layer, *sizes, **options, rngs=_rngs())
    made.train()
    return made


def _torch_forecaster(kind: str, sizes: tuple[int, ...]) -> Any:
    """Make a forecaster on torch's own layer, where it has one."""
    layers = importlib.import_module("torch_ref" if kind == "PeepholeLSTM" else "torch.nn")
    return importlib.import_module("torch_ref.models").Forecaster(getattr(layers, kind), *sizes)


def _torch_decoding(
    model: str, kind: str, attention: str | None, sizes: tuple[int, ...], options: dict[str, Any]
) -> Any:
    home = importlib.import_module("torch_ref")
    options = options | {"attention": attention and getattr(home, attention)}
    made = getattr(importlib.import_module("torch_ref.models"), model)
    return made(getattr(home, kind), *sizes, **options).train()


def _jax_decoding(
    model: str, kind: str, attention: str | None, sizes: tuple[int, ...], options: dict[str, Any]
) -> Any:
    home = importlib.import_module("jaxrnn")
    options = options | {"attention": attention and getattr(home, attention)}
    made = getattr(home.models, model)(getattr(home, kind), *sizes, **options, rngs=_rngs())
    made.train()
    return made


def _rngs() -> Any:
    return importlib.import_module("flax.nnx").Rngs(0)  # every weight is replaced by the probe's


def _layer(id: str, kind: str, summary: str, call: LayerCall, **options: Any) -> Case:
    """Make a layer's case; what its call and its constructor share is written once, in the call."""
    shared: dict[str, Any] = {"num_layers": call.layers, "bidirectional": call.directions == 2}
    shared |= {"batch_first": call.batch_first}
    if call.projected:
        shared["proj_size"] = call.projected
    if call.masks:
        shared["dropout"] = DROPOUT
    shared |= options
    made = kind, shared, (FEATURES, call.hidden)
    return Case(id, summary, partial(_torch_layer, *made), partial(_jax_layer, *made), call.probes)


def _cell(id: str, kind: str, states: int = 1, **options: Any) -> Case:
    reference, candidate = partial(_torch_layer, kind, options), partial(_jax_layer, kind, options)
    return Case(id, "one step, with hx", reference, candidate, CellCall(states).probes)


def _attention(id: str, summary: str, call: AttentionCall, **options: Any) -> Case:
    shared = {"kdim": call.kdim, "vdim": call.vdim, "batch_first": call.batch_first} | options
    if call.masks:
        shared["dropout"] = DROPOUT
    made = "MultiheadAttention", shared, (EMBEDDED, HEADS)
    return Case(id, summary, partial(_torch_layer, *made), partial(_jax_layer, *made), call.probes)


def _model(
    id: str,
    model: str,
    kind: str | None,
    summary: str,
    sizes: tuple[int, ...],
    probes: Callable[[str, int], list[Probe]],
    **options: Any,
) -> Case:
    made = model, kind, sizes, options
    return Case(id, summary, partial(_torch_model, *made), partial(_jax_model, *made), probes)


def _transformer(id: str, summary: str, call: TransformerCall, **options: Any) -> Case:
    shared = {"batch_first": call.batch_first, "dropout": DROPOUT if call.masks else 0.0} | options
    made = "Transformer", shared, (EMBEDDED, HEADS, *call.layers, WIDE)
    return Case(id, summary, partial(_torch_layer, *made), partial(_jax_layer, *made), call.probes)


def _translator(id: str, summary: str, call: TranslatorCall, **options: Any) -> Case:
    encoders, decoders = call.layers
    shared = {"d_model": EMBEDDED, "nhead": HEADS, "dim_feedforward": WIDE, "dropout": DROPOUT}
    shared |= {"num_encoder_layers": encoders, "num_decoder_layers": decoders} | options
    made = "TransformerTranslator", None, (WORDS, TARGET_WORDS), shared
    return Case(id, summary, partial(_torch_model, *made), partial(_jax_model, *made), call.probes)


def _forecaster(id: str, kind: str, states: int) -> Case:
    sizes = (FEATURES, HIDDEN, 2, PREDICTED)
    return Case(
        f"forecaster_{id}",
        "two layers and a linear readout of the last step",
        partial(_torch_forecaster, kind, sizes),
        partial(_jax_model, "Forecaster", kind, sizes, {}),
        ForecasterCall(states).probes,
    )


def _stocks(id: str, kind: str, states: int) -> Case:
    sizes = (1, 32, 2, 1)  # the lecture's: one feature, 32 hidden, two layers, one prediction
    return Case(
        f"stocks_{id}",
        "the lecture's forecaster on real closing prices of four companies",
        partial(_torch_forecaster, kind, sizes),
        partial(_jax_model, "Forecaster", kind, sizes, {}),
        ForecasterCall(states, stocks=True).probes,
        requires=("torch", "bokeh_sampledata"),
    )


def _seq2seq(
    id: str,
    kind: str,
    attention: str | None,
    summary: str,
    call: Seq2SeqCall,
    layers: int = 1,
    **options: Any,
) -> Case:
    sizes = (WORDS, TARGET_WORDS, FEATURES, HIDDEN, layers)
    return _decoding(f"seq2seq_{id}", summary, call, "Seq2Seq", kind, attention, sizes, **options)


def _captioner(
    id: str, kind: str, attention: str | None, summary: str, call: CaptionerCall, layers: int = 1
) -> Case:
    sizes, image = (TARGET_WORDS, EMBEDDED, HIDDEN, layers), {"channels": FEATURES, "features": CONVOLVED}
    return _decoding(f"captioner_{id}", summary, call, "Captioner", kind, attention, sizes, **image)


def _decoding(
    id: str, summary: str, call: Seq2SeqCall | CaptionerCall, model: str, kind: str, attention: str | None,
    sizes: tuple[int, ...], **options: Any,
) -> Case:  # fmt: skip
    if call.masks:
        options["dropout"] = DROPOUT
    made = model, kind, attention, sizes, options
    return Case(id, summary, partial(_torch_decoding, *made), partial(_jax_decoding, *made), call.probes)


_DEEP: dict[str, Any] = {"layers": 2, "directions": 2, "batch_first": True}
_RAGGED = LayerCall(**_DEEP, ragged=True)
_RAGGED_2 = LayerCall(**_DEEP, ragged=True, states=2)
# More than a vector of hidden features: what the compiled kernels for CPUs compute, which leave fewer to the scan.
_WIDE = LayerCall(**_DEEP, ragged=True, hidden=19)
_WIDE_2 = LayerCall(**_DEEP, ragged=True, hidden=19, states=2)
# So many that their threads multiply inputs of later steps while they hand h over, where vectors are wide enough.
_WIDER = LayerCall(**_DEEP, ragged=True, hidden=80)
_WIDER_2 = LayerCall(**_DEEP, ragged=True, hidden=80, states=2)
_PLAIN, _PLAIN_2 = LayerCall(hx=False), LayerCall(hx=False, states=2)
_DEEP_TEXT = "two layers, bidirectional, batch first, ragged, with hx"
_WIDE_TEXT, _WIDER_TEXT = (f"{_DEEP_TEXT}, {hidden} hidden features" for hidden in (19, 80))
_PLAIN_TEXT = "one layer, time major, hx omitted"
_MODELS = (("rnn", "RNN", 1), ("gru", "GRU", 1), ("lstm", "LSTM", 2), ("peephole", "PeepholeLSTM", 2))

CASES: tuple[Case, ...] = (
    _layer("rnn_tanh", "RNN", _DEEP_TEXT, _RAGGED),
    _layer("rnn_relu", "RNN", _DEEP_TEXT, _RAGGED, nonlinearity="relu"),
    _layer("gru", "GRU", _DEEP_TEXT, _RAGGED),
    _layer("lstm", "LSTM", _DEEP_TEXT, _RAGGED_2),
    _layer(
        "lstm_proj",
        "LSTM",
        f"{_DEEP_TEXT}, projected",
        LayerCall(**_DEEP, ragged=True, states=2, projected=PROJECTED),
    ),
    _layer("peephole_lstm", "PeepholeLSTM", _DEEP_TEXT, _RAGGED_2),
    _layer("rnn_tanh_wide", "RNN", _WIDE_TEXT, _WIDE),
    _layer("rnn_relu_wide", "RNN", _WIDE_TEXT, _WIDE, nonlinearity="relu"),
    _layer("gru_wide", "GRU", _WIDE_TEXT, _WIDE),
    _layer("lstm_wide", "LSTM", _WIDE_TEXT, _WIDE_2),
    _layer(
        "lstm_projected_wide",
        "LSTM",
        _WIDE_TEXT,
        LayerCall(**_DEEP, ragged=True, hidden=19, states=2, projected=PROJECTED),
    ),
    _layer("peephole_lstm_wide", "PeepholeLSTM", _WIDE_TEXT, _WIDE_2),
    _layer("gru_wider", "GRU", _WIDER_TEXT, _WIDER),
    _layer("lstm_wider", "LSTM", _WIDER_TEXT, _WIDER_2),
    _layer("rnn_plain", "RNN", _PLAIN_TEXT, _PLAIN),
    _layer("gru_plain", "GRU", _PLAIN_TEXT, _PLAIN),
    _layer("lstm_plain", "LSTM", _PLAIN_TEXT, _PLAIN_2),
    _layer("peephole_lstm_plain", "PeepholeLSTM", _PLAIN_TEXT, _PLAIN_2),
    _layer(
        "gru_resets",
        "GRU",
        "two layers, bidirectional, resets inside ragged rows",
        LayerCall(**_DEEP, ragged=True, resets=True),
    ),
    _layer(
        "lstm_resets",
        "LSTM",
        "one layer, time major, resets inside the rows",
        LayerCall(states=2, resets=True),
    ),
    _layer("gru_unbatched", "GRU", "one sequence without a batch axis", LayerCall(layers=2, batched=False)),
    _layer(
        "lstm_unbatched",
        "LSTM",
        "one sequence without a batch axis, bidirectional",
        LayerCall(states=2, directions=2, batched=False),
    ),
    _layer("gru_no_bias", "GRU", "two layers without biases", LayerCall(layers=2), bias=False),
    _layer("lstm_no_bias", "LSTM", "two layers without biases", LayerCall(layers=2, states=2), bias=False),
    _layer(
        "gru_dropout",
        "GRU",
        "training mode with injected masks",
        LayerCall(layers=3, batch_first=True, masks=True),
    ),
    _layer(
        "lstm_dropout",
        "LSTM",
        "training mode with injected masks, bidirectional, time major",
        LayerCall(layers=2, directions=2, states=2, masks=True),
    ),
    _layer("min_gru", "MinGRU", _DEEP_TEXT, _RAGGED),
    _layer("min_lstm", "MinLSTM", _DEEP_TEXT, _RAGGED),
    _layer(
        "min_lstm_resets", "MinLSTM", "one layer, time major, resets inside the rows", LayerCall(resets=True)
    ),
    _cell("rnn_cell_tanh", "RNNCell"),
    _cell("rnn_cell_relu", "RNNCell", nonlinearity="relu"),
    _cell("gru_cell", "GRUCell"),
    _cell("lstm_cell", "LSTMCell", states=2),
    _cell("peephole_lstm_cell", "PeepholeLSTMCell", states=2),
    _attention(
        "multihead_attention",
        "training mode with an injected mask, keys padded and hidden",
        AttentionCall(masks=True),
    ),
    _attention(
        "multihead_attention_cross",
        "keys and values of other sizes, a floating mask for every head, time major, no bias",
        AttentionCall(FEATURES, HIDDEN, batch_first=False, padding=False),
        bias=False,
    ),
    _model(
        "classifier",
        "Classifier",
        "GRU",
        "two layers, bidirectional, ragged, read out at both ends",
        (FEATURES, HIDDEN, CLASSES, 2),
        SequencesCall(directions=2).probes,
        bidirectional=True,
    ),
    _model(
        "text_classifier",
        "TextClassifier",
        "LSTM",
        "bidirectional, ragged, training mode with injected masks",
        (WORDS, WORD_SIZE, HIDDEN, CLASSES),
        SequencesCall(tokens=True, directions=2, masks=True).probes,
        bidirectional=True,
        dropout=DROPOUT,
    ),
    _model(
        "tagger",
        "Tagger",
        "LSTM",
        "bidirectional, ragged, a label for every step",
        (FEATURES, HIDDEN, CLASSES),
        SequencesCall(directions=2).probes,
        bidirectional=True,
    ),
    _model(
        "language_model",
        "LanguageModel",
        "LSTM",
        "two layers from a given state, training mode with injected masks",
        (WORDS, WORD_SIZE, HIDDEN, 2),
        TextCall(states=2, masks=True).probes,
        dropout=DROPOUT,
    ),
    _model(
        "gaussian_forecaster",
        "GaussianForecaster",
        "GRU",
        "mean and variance, training mode with injected masks",
        (FEATURES, HIDDEN, 2, PREDICTED),
        GaussianCall().probes,
        dropout=DROPOUT,
    ),
    _transformer(
        "transformer",
        "training mode with injected masks, causal, padded and hidden keys",
        TransformerCall((2, 1), masks=True),
    ),
    _transformer(
        "transformer_pre_norm",
        "norms first, gelu, a floating mask for every head, time major, no bias",
        TransformerCall((1, 2), batch_first=False, padding=False),
        norm_first=True,
        activation="gelu",
        bias=False,
    ),
    _translator(
        "transformer_translator",
        "tokens to logits, training mode with injected masks, ragged sources",
        TranslatorCall((1, 1)),
    ),
    *(_forecaster(*model) for model in _MODELS),
    _seq2seq("gru", "GRU", None, "two layers, ragged, without attention", Seq2SeqCall(), layers=2),
    _seq2seq(
        "additive_lstm",
        "LSTM",
        "AdditiveAttention",
        "bidirectional and ragged, training mode with injected masks",
        Seq2SeqCall(masks=True, additive=True),
        bidirectional=True,
    ),
    _seq2seq("dot_gru", "GRU", "DotAttention", "two layers, ragged", Seq2SeqCall(), layers=2),
    _seq2seq(
        "bilinear_peephole",
        "PeepholeLSTM",
        "BilinearAttention",
        "two layers, bidirectional, ragged",
        Seq2SeqCall(),
        layers=2,
        bidirectional=True,
    ),
    _captioner("lstm", "LSTM", None, "two layers that start from an image", CaptionerCall(), layers=2),
    _captioner(
        "additive_gru",
        "GRU",
        "AdditiveAttention",
        "every step looks at the image, training mode with an injected mask",
        CaptionerCall(masks=True),
    ),
    *(_stocks(*model) for model in _MODELS),
)
