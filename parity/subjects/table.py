"""The subjects: two factories for each, and the probes under which its mistakes show.

Sizes are pairwise different within a subject. Keys are masked so that a row has all of them, one, some and, where
torch gives a number for it, none at all.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from parity.cases import Case
from parity.gates import Array
from parity.probe import Probe

BATCH, QUERIES, KEYS, FEATURES, MEMORY, HIDDEN, OUT = 5, 4, 6, 3, 8, 7, 2
WIDTH, HEADS = 12, 3  # of nn.MultiheadAttention: 4 features a head
SOURCE, TARGET, EMBEDDED = 13, 11, 3
BEAMS, SEARCHED = 4, 9

Probes = Callable[[str, int], list[Probe]]
RUNNING_MEAN = np.linspace(-0.5, 0.7, FEATURES, dtype=np.float32)
RUNNING_VAR = np.linspace(0.6, 1.9, FEATURES, dtype=np.float32)


def _normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def _ignored(rng: np.random.Generator, empty: bool) -> Array:
    """Return bool [B, S], True at keys left out: of none, of all but one, of some, and (`empty`) of all."""
    ignored = rng.random((BATCH, KEYS)) < 0.4
    ignored[:, 2] = False
    ignored[0] = False
    ignored[1] = np.arange(KEYS) != 3
    if empty:
        ignored[2] = True
    return ignored


def _kept(rng: np.random.Generator) -> Array:
    """Return bool [B, T, S], True at keys that take part; one query has none, and every key has a query."""
    keep = rng.random((BATCH, QUERIES, KEYS)) < 0.7
    keep[:, 1] = False
    keep[0] = True
    keep[:, 0] = np.arange(KEYS) == 3
    keep[2, 1] = False
    keep[:, 2] = True
    return keep


def _probe(
    name: str, rng: np.random.Generator, args: tuple[Any, ...], scale: float = 1.0, **options: Any
) -> Probe:
    options.setdefault("batch_axes", {})
    return Probe(name, args, seed=int(rng.integers(2**31)), weight_scale=scale, **options)


def _attention(masked: str, probe_set: str, seed: int) -> list[Probe]:
    """Scores around 1 and around 30, without a mask and with one."""
    probes = []
    for number, (size, hidden) in enumerate(((1.0, False), (1.0, True), (6.0, True))):
        rng = np.random.default_rng([seed, number])
        x, memory = size * _normal(rng, BATCH, QUERIES, FEATURES), _normal(rng, BATCH, KEYS, MEMORY)
        mask = _kept(rng) if masked == "keep" else _ignored(rng, empty=False)
        mask = mask if hidden else np.full_like(mask, masked == "keep")
        probes.append(_probe(f"{size:g}x{' masked' if hidden else ''}", rng, (x, memory, mask)))
    return probes


def _multi_head(probe_set: str, seed: int) -> list[Probe]:
    rng = np.random.default_rng(seed)
    x, memory = _normal(rng, BATCH, QUERIES, WIDTH), _normal(rng, BATCH, KEYS, WIDTH)
    return [_probe("masked", rng, (x, memory, _ignored(rng, empty=False)))]


def _additive(probe_set: str, seed: int) -> list[Probe]:
    rng = np.random.default_rng(seed)
    query, memory = _normal(rng, BATCH, FEATURES), _normal(rng, BATCH, KEYS, MEMORY)
    return [_probe("masked", rng, (query, memory, _ignored(rng, empty=True)))]


def _translation(probe_set: str, seed: int) -> list[Probe]:
    rng = np.random.default_rng(seed)
    source = rng.integers(0, SOURCE, (BATCH, KEYS)).astype(np.int32)
    target = rng.integers(0, TARGET, (BATCH, QUERIES + 1)).astype(np.int32)
    return [_probe("tokens", rng, (source, target, _ignored(rng, empty=False)))]


def _search(probe_set: str, seed: int) -> list[Probe]:
    rng = np.random.default_rng(seed)
    h, memory = 0.5 * _normal(rng, BATCH, HIDDEN), _normal(rng, BATCH, KEYS, MEMORY)
    return [_probe("decoder", rng, (h, memory, _ignored(rng, empty=False)))]


def _tokens(dtype: str, probe_set: str, seed: int) -> list[Probe]:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, TARGET, (BATCH, QUERIES)).astype(np.int32)
    tokens[1, 2:] = 0
    return [_probe("padded", rng, (tokens,), dtype=dtype)]


def _strange_tokens(probe_set: str, seed: int) -> list[Probe]:
    """Give tokens below and above the rows of the embedding, which torch refuses."""
    (probe,) = _tokens("float32", probe_set, seed)
    (tokens,) = probe.args
    strange = tokens.copy()
    strange[0, :3] = -1, TARGET, TARGET + 7
    return [probe, dataclasses.replace(probe, name="out of range", args=(strange,), refused=True)]


def _sequence(probe_set: str, seed: int) -> list[Probe]:
    rng = np.random.default_rng(seed)
    states = tuple(0.5 * _normal(rng, BATCH, HIDDEN) for _ in range(2))
    return [_probe("1x", rng, (_normal(rng, BATCH, QUERIES, FEATURES), states))]


def _two_windows(probe_set: str, seed: int) -> list[Probe]:
    rng = np.random.default_rng(seed)
    first, second = (_normal(rng, BATCH, steps, FEATURES) for steps in (QUERIES, KEYS))
    state = tuple(0.5 * _normal(rng, 1, BATCH, HIDDEN) for _ in range(2))
    return [_probe("1x", rng, (first, second, state))]


def _rows(probe_set: str, seed: int) -> list[Probe]:
    """Rows of unit scale, of variance 1e-6 (eps shows) and of mean 100 (a fast variance shows)."""
    probes = []
    for number, (name, mean, deviation) in enumerate(
        (("unit", 0.0, 1.0), ("variance 1e-6", 0.0, 1e-3), ("mean 100", 100.0, 1.0))
    ):
        rng = np.random.default_rng([seed, number])
        probes.append(_probe(name, rng, (mean + deviation * _normal(rng, BATCH, MEMORY),)))
    return probes


def _unit_rows(probe_set: str, seed: int) -> list[Probe]:
    rng = np.random.default_rng(seed)
    return [_probe("unit", rng, (_normal(rng, BATCH, MEMORY),))]


def _batches(probe_set: str, seed: int) -> list[Probe]:
    probes = []
    for number, deviation in enumerate((1.0, 1e-3)):
        rng = np.random.default_rng([seed, number])
        probes.append(_probe(f"deviation {deviation:g}", rng, (deviation * _normal(rng, BATCH, FEATURES),)))
    return probes


def _wide_rows(probe_set: str, seed: int) -> list[Probe]:
    """Rows whose sums reach 30, some of them just above 20, where torch's softplus becomes linear."""
    rng = np.random.default_rng(seed)
    narrow, wide = _normal(rng, BATCH, FEATURES), np.float32(10.0) * _normal(rng, 8 * BATCH, FEATURES)
    return [_probe("1x", rng, (narrow,)), _probe("10x", rng, (wide,))]


def _series(probe_set: str, seed: int) -> list[Probe]:
    """Take an even number of steps, of which there are two medians."""
    rng = np.random.default_rng(seed)
    return [_probe("even", rng, (_normal(rng, BATCH, QUERIES, FEATURES),))]


def _torch_model(kind: str, args: tuple[Any, ...], training: bool = True) -> Any:
    return getattr(importlib.import_module("parity.subjects.torch_models"), kind)(*args).train(training)


def _jax_model(kind: str, args: tuple[Any, ...], parts: Any = None) -> Any:
    models = importlib.import_module("parity.subjects.jax_models")
    return getattr(models, kind)(*args, parts=models.FAITHFUL if parts is None else parts)


def _subject(id: str, kind: str, summary: str, probes: Probes, *args: Any) -> Case:
    return Case(id, summary, partial(_torch_model, kind, args), partial(_jax_model, kind, args), probes)


def _batch_normed(id: str, training: bool) -> Case:
    shared = (FEATURES, RUNNING_MEAN, RUNNING_VAR)
    return Case(
        id,
        f"batch norm in {'training' if training else 'evaluation'}",
        partial(_torch_model, "BatchNormed", shared, training),
        partial(_jax_model, "BatchNormed", (*shared, training)),
        _batches,
    )


def _own_weights(probe_set: str, seed: int) -> list[Probe]:
    """Keep the models' own weights, which are then compared one by one."""
    rng = np.random.default_rng(seed)
    return [Probe("own weights", (_normal(rng, BATCH, QUERIES, HIDDEN),), seed=seed)]


def _seeded(kind: str, args: tuple[Any, ...]) -> Any:
    torch = importlib.import_module("torch")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _torch_model(kind, args)


STACK = Case(
    "stack",
    "an LSTM of three layers and a readout of one width, with weights of their own",
    partial(_seeded, "Stack", (HIDDEN, 3)),
    partial(_jax_model, "Stack", (HIDDEN, 3)),
    _own_weights,
)
REFUSING = _subject(
    "refusing",
    "TiedModel",
    "an embedding asked for rows that it does not have",
    _strange_tokens,
    TARGET,
    HIDDEN,
)
SUBJECTS: tuple[Case, ...] = (
    _subject(
        "attention_dot",
        "DotAttention",
        "attention by hand",
        partial(_attention, "ignored"),
        FEATURES,
        MEMORY,
        HIDDEN,
    ),
    _subject(
        "attention_fused",
        "FusedAttention",
        "scaled_dot_product_attention",
        partial(_attention, "keep"),
        FEATURES,
        MEMORY,
        HIDDEN,
    ),
    _subject("attention_heads", "MultiHead", "nn.MultiheadAttention", _multi_head, WIDTH, HEADS),
    _subject(
        "attention_additive", "AdditiveAttention", "Bahdanau's attention", _additive, FEATURES, MEMORY, HIDDEN
    ),
    _subject(
        "translator",
        "Translator",
        "an encoder-decoder with Luong's attention",
        _translation,
        SOURCE,
        TARGET,
        EMBEDDED,
        HIDDEN,
    ),
    _subject(
        "beam_search",
        "BeamSearch",
        "a decoder's best sequences, found by a beam search",
        _search,
        TARGET,
        EMBEDDED,
        MEMORY,
        HIDDEN,
        BEAMS,
        SEARCHED,
    ),
    *(
        _subject(
            id,
            "TiedModel",
            f"an embedding shared with the softmax, {dtype}",
            partial(_tokens, dtype),
            TARGET,
            HIDDEN,
        )
        for id, dtype in (("tied", "float32"), ("tied_bfloat16", "bfloat16"))
    ),
    _subject(
        "untied",
        "UntiedModel",
        "an embedding, and a matrix of its own before the softmax",
        partial(_tokens, "float32"),
        TARGET,
        HIDDEN,
    ),
    _subject("normed_lstm", "NormedLSTM", "an LSTM with layer norms", _sequence, FEATURES, HIDDEN),
    _subject("windows", "Windows", "LSTMs called twice", _two_windows, FEATURES, HIDDEN),
    _subject("layer_norm", "NormAndLinear", "layer norm and linear", _rows, MEMORY, HIDDEN),
    _subject("rms_norm", "RootMeanSquare", "RMS norm with its default eps", _unit_rows, MEMORY),
    _batch_normed("batch_norm_train", training=True),
    _batch_normed("batch_norm_eval", training=False),
    _subject("activations", "Activations", "GELU, softplus, leaky ReLU", _wide_rows, FEATURES, HIDDEN),
    _subject("statistics", "Statistics", "standard deviation and median", _series, FEATURES, HIDDEN),
)
