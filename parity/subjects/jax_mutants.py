"""The mistakes of the catalogue, made by hand in the JAX models; nothing here is shared with the hypotheses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from parity.subjects import jax_models as faithful
from parity.subjects.jax_models import Array, Parts


class Mutant(NamedTuple):
    """A fault's id, the subject that has it, the gate that is meant to find it, and what is exchanged."""

    fault: str
    subject: str
    gate: str
    changes: dict[str, Callable[..., Any]]
    others: frozenset[str] = frozenset()  # faults that this subject's probes cannot tell from it

    @property
    def parts(self) -> Parts:
        """How the model computes that has the fault."""
        return Parts(**self.changes)


# Attention -------------------------------------------------------------------------------------------------


def _softmax_over(axis: int) -> Callable[..., Array]:
    def weigh(scores: Array, keep: Array | None, fill: float) -> Array:
        return jax.nn.softmax(scores if keep is None else jnp.where(keep, scores, -jnp.inf), axis=axis)

    return weigh


def _mask_after(scores: Array, keep: Array | None, fill: float) -> Array:
    weights = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
    weights = weights / weights.sum(-1, keepdims=True)
    return weights if keep is None else weights * keep


def _filled_with(value: float) -> dict[str, Callable[..., Any]]:
    def weigh(scores: Array, keep: Array | None, fill: float) -> Array:
        return faithful.weigh(scores, keep, value)

    return {"weigh": weigh, "settle": lambda weights, keep: weights}


def _in_proj(order: str) -> Callable[..., Any]:
    def split(packed: Array, heads: int) -> tuple[Array, ...]:
        third = packed.shape[-1] // 3
        rows = {name: packed[..., n * third : (n + 1) * third] for n, name in enumerate(order)}
        return faithful.split(jnp.concatenate([rows["q"], rows["k"], rows["v"]], axis=-1), heads)

    return split


def _split_by_head(packed: Array, heads: int) -> tuple[Array, ...]:
    batch, steps, width = packed.shape
    cut = packed.reshape(batch, steps, heads, 3, width // (3 * heads))
    return tuple(jnp.swapaxes(cut[:, :, :, n], 1, 2) for n in range(3))


def _split_interleaved(packed: Array, heads: int) -> tuple[Array, ...]:
    batch, steps, width = packed.shape
    cut = packed.reshape(batch, steps, 3, width // (3 * heads), heads)
    return tuple(jnp.einsum("btdh->bhtd", cut[:, :, n]) for n in range(3))


def _merge_interleaved(heads: Array) -> Array:
    batch, count, steps, width = heads.shape
    return jnp.einsum("bhtd->btdh", heads).reshape(batch, steps, width * count)


_FILLS = frozenset(("A07-1e4", "A07-1e9", "A07-min"))
_DOT, _FUSED, _HEADS = "attention_dot", "attention_fused", "attention_heads"

ATTENTION: tuple[Mutant, ...] = (
    *(
        mutant
        for subject in (_DOT, _FUSED, _HEADS)
        for mutant in (
            Mutant("A01", subject, "semantic", {"scale": lambda width: 1.0}),
            Mutant("A02", subject, "semantic", {"scale": lambda width: 1.0 / width}),
            Mutant(
                "A04", subject, "non-finite" if subject != _FUSED else "semantic", {"select": jnp.logical_not}
            ),
            Mutant("A05", subject, "semantic", {"select": lambda keep: None}),
            Mutant("A07-30", subject, "semantic", _filled_with(-30.0)),
        )
    ),
    Mutant("A03", _DOT, "semantic", {"weigh": _softmax_over(-2)}),
    Mutant("A03", _FUSED, "semantic", {"weigh": _softmax_over(-2)}),
    Mutant("A03", _HEADS, "non-finite", {"weigh": _softmax_over(-2)}),
    Mutant("A03-first", _DOT, "semantic", {"weigh": _softmax_over(0)}),
    Mutant("A06", _DOT, "semantic", {"weigh": _mask_after}),
    Mutant("A06", _FUSED, "semantic", {"weigh": _mask_after}),
    Mutant("A07-1e4", _FUSED, "semantic", _filled_with(-1e4), _FILLS),
    Mutant("A07-1e9", _FUSED, "semantic", _filled_with(-1e9), _FILLS),
    Mutant("A07-min", _FUSED, "semantic", _filled_with(float(np.finfo(np.float32).min)), _FILLS),
    Mutant("A07-nan", _FUSED, "non-finite", _filled_with(-np.inf)),
    Mutant("A07-inf", "attention_additive", "non-finite", _filled_with(-np.inf)),
    Mutant("A08", "attention_additive", "semantic", {"key_bias": jnp.zeros_like}),
    Mutant("A08-one", "attention_additive", "semantic", {"vector": jnp.ones_like}),
    Mutant("A13", _HEADS, "semantic", {"split": _in_proj("kqv")}),
    Mutant("A13-vkq", _HEADS, "semantic", {"split": _in_proj("vkq")}),
    Mutant("A13-heads", _HEADS, "semantic", {"split": _split_by_head}),
    Mutant("A13-interleaved", _HEADS, "semantic", {"split": _split_interleaved}),
    Mutant("A13-merge", _HEADS, "semantic", {"merge": _merge_interleaved}),
)


# Encoder and decoder ---------------------------------------------------------------------------------------


def _in_bfloat16(state: Array) -> Array:
    return lax.reduce_precision(state, exponent_bits=8, mantissa_bits=7)


SEQUENCES: tuple[Mutant, ...] = (
    Mutant("A09", "translator", "semantic", {"ask": lambda before, after: before}),
    Mutant("A10", "translator", "semantic", {"feed": jnp.zeros_like}),
    Mutant("A11", "translator", "semantic", {"inputs": lambda target: target[:, 1:]}),
    Mutant("A11-late", "translator", "semantic", {"inputs": lambda target: jnp.roll(target[:, :-1], 1, 1)}),
    Mutant("A12", "translator", "semantic", {"bridge": lambda h_n: jnp.concatenate([h_n[1], h_n[0]], -1)}),
    Mutant(
        "A12-forward", "translator", "semantic", {"bridge": lambda h_n: jnp.concatenate([h_n[0]] * 2, -1)}
    ),
    Mutant(
        "A12-reverse", "translator", "semantic", {"bridge": lambda h_n: jnp.concatenate([h_n[1]] * 2, -1)}
    ),
    Mutant("A14", "beam_search", "semantic", {"penalty": jnp.ones_like}),
    Mutant("A14-end", "beam_search", "semantic", {"force": lambda ended, forced, surprise: surprise}),
    Mutant("A14-coverage", "beam_search", "semantic", {"covered": jnp.ones_like}),
    Mutant("N11", "translator", "semantic", {"carry": _in_bfloat16}),
    Mutant("S19", "tied", "semantic", {"look_up": lambda table, tokens: table[tokens]}),
    Mutant(
        "S19-zero",
        "tied",
        "semantic",
        {"look_up": lambda table, tokens: jnp.where(tokens[..., None] == 0, 0.0, table[tokens])},
    ),
    Mutant("T01", "tied", "semantic", {"kernel": jnp.transpose}),
    Mutant(
        "S19-first",
        "tied",
        "semantic",
        {"look_up": lambda table, tokens: faithful.look_up(table, (tokens - 1) % len(table))},
    ),
    Mutant("S21", "tied", "semantic", {"softmax_table": lambda table, own: lax.stop_gradient(table)}),
    Mutant(
        "S21-lookup",
        "tied",
        "semantic",
        {"look_up": lambda table, tokens: lax.stop_gradient(table)[tokens]},
    ),
    Mutant("S21-shared", "untied", "semantic", {"softmax_table": lambda table, own: table}),
    Mutant("P01", "tied", "semantic", {"kernel": lax.stop_gradient}),
)


# Norms -----------------------------------------------------------------------------------------------------


def _layer_norm(
    eps: float | None = None, *, ddof: int = 0, outside: bool = False
) -> dict[str, Callable[..., Any]]:
    def norm(x: Array, weight: Array, bias: Array, own: float) -> Array:
        small = own if eps is None else eps
        variance = jnp.var(x, axis=-1, keepdims=True, ddof=ddof)
        divisor = jnp.sqrt(variance) + small if outside else jnp.sqrt(variance + small)
        return weight * (x - jnp.mean(x, axis=-1, keepdims=True)) / divisor + bias

    return {"layer_norm": norm}


def _of_gates(change: Callable[..., Array]) -> dict[str, Callable[..., Any]]:
    """Exchange the norms of the gates' sums, not that of the cell state."""

    def norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
        chosen = change if x.shape[-1] % 4 == 0 else faithful.layer_norm
        return chosen(x, weight, bias, eps)

    return {"layer_norm": norm}


def _gate_by_gate(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    ones, zeros = jnp.ones_like(weight), jnp.zeros_like(bias)
    gates = zip(*(jnp.split(each, 4, axis=-1) for each in (x, ones, zeros)), strict=True)
    normed = [faithful.layer_norm(sums, one, zero, eps) for sums, one, zero in gates]
    return jnp.concatenate(normed, axis=-1) * weight + bias


def _bias_before(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    return faithful.layer_norm(x + bias, weight, jnp.zeros_like(bias), eps)


def _shared_gain(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    return faithful.layer_norm(x, jnp.tile(weight[: len(weight) // 4], 4), bias, eps)


def _fast_layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(x * x, axis=-1, keepdims=True) - mean * mean
    return (x - mean) * lax.rsqrt(variance + eps) * weight + bias


def _batch_norm(
    *, decay: float = 0.9, ddof: int = 0, running: int = 1, eps: float = 1e-5, flip: bool = False
) -> dict[str, Callable[..., Any]]:
    def norm(x: Array, mean: Array, var: Array, training: bool) -> tuple[Array, Array, Array]:
        training = training != flip
        used = (jnp.mean(x, 0), jnp.var(x, 0, ddof=ddof)) if training else (mean, var)
        y = (x - used[0]) * lax.rsqrt(used[1] + eps)
        if not training:
            return y, mean, var
        new = decay * mean + (1 - decay) * x.mean(0), decay * var + (1 - decay) * jnp.var(x, 0, ddof=running)
        return y, *new

    return {"batch_norm": norm}


def _rms_norm(x: Array, weight: Array) -> Array:
    return weight * x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)


NORMS: tuple[Mutant, ...] = (
    *(
        mutant
        for subject in ("layer_norm", "normed_lstm")
        for mutant in (
            Mutant("N01", subject, "semantic", _layer_norm(1e-6)),
            Mutant("N02", subject, "semantic", _layer_norm(ddof=1)),
            Mutant("N03", subject, "semantic", _layer_norm(outside=True)),
            Mutant("N03-unbiased", subject, "semantic", _layer_norm(ddof=1, outside=True)),
        )
    ),
    Mutant("L28", "normed_lstm", "semantic", _of_gates(_gate_by_gate)),
    Mutant("L28-bias", "normed_lstm", "semantic", _of_gates(_bias_before)),
    Mutant("L28-gain", "normed_lstm", "semantic", _of_gates(_shared_gain)),
    Mutant("N01-0.001", "layer_norm", "semantic", _layer_norm(1e-3)),
    Mutant("N01", "rms_norm", "semantic", {"rms_norm": _rms_norm}),
    Mutant("N01", "batch_norm_train", "semantic", _batch_norm(eps=1e-6)),
    Mutant("N01", "batch_norm_eval", "semantic", _batch_norm(eps=1e-6)),
    Mutant("N02", "batch_norm_train", "semantic", _batch_norm(ddof=1)),
    Mutant("N05", "batch_norm_train", "semantic", _batch_norm(decay=0.1)),
    Mutant("N05-flax", "batch_norm_train", "semantic", _batch_norm(decay=0.99)),
    Mutant("N05-biased", "batch_norm_train", "semantic", _batch_norm(running=0)),
    Mutant("N05-both", "batch_norm_train", "semantic", _batch_norm(decay=0.99, running=0)),
    Mutant("N05-mode", "batch_norm_train", "semantic", _batch_norm(flip=True)),
    Mutant("N05-mode", "batch_norm_eval", "semantic", _batch_norm(flip=True)),
)


# Activations and statistics --------------------------------------------------------------------------------

ACTIVATIONS: tuple[Mutant, ...] = (
    Mutant("N06", "activations", "semantic", {"gelu": jax.nn.gelu}),
    Mutant("N06-quick", "activations", "semantic", {"gelu": lambda z: z * jax.nn.sigmoid(1.702 * z)}),
    Mutant("N07", "activations", "semantic", {"softplus": jax.nn.softplus}),
    Mutant("N14-0.2", "activations", "semantic", {"leaky": lambda z: jnp.where(z >= 0, z, 0.2 * z)}),
    Mutant("N12", "statistics", "semantic", {"deviation": lambda x: jnp.std(x, axis=1)}),
    Mutant("N12-median", "statistics", "semantic", {"median": lambda x: jnp.median(x, axis=1)}),
)


# Precision -------------------------------------------------------------------------------------------------


def _rounded_products(mantissa_bits: int) -> Callable[[Array, Array], Array]:
    """Multiply as a device does that rounds the operands of float32 products, in both passes."""

    def rounded(x: Array) -> Array:
        return lax.reduce_precision(x, 8, mantissa_bits) if x.dtype == jnp.float32 else x

    @jax.custom_vjp
    def product(left: Array, right: Array) -> Array:
        return jnp.matmul(rounded(left), rounded(right))

    def forwards(left: Array, right: Array) -> tuple[Array, tuple[Array, Array]]:
        return product(left, right), (left, right)

    def backwards(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, ...]:
        _, pullback = jax.vjp(jnp.matmul, *map(rounded, saved))
        return pullback(rounded(gradient))

    product.defvjp(forwards, backwards)
    return product


def _promoted(y: Array) -> Array:
    return y * np.float32(1.0)


def _through_float32(y: Array) -> Array:
    return y.astype(jnp.float32).astype(y.dtype)


PRECISION: tuple[Mutant, ...] = (
    Mutant("N09", _DOT, "numeric", {"matmul": _rounded_products(10)}),
    Mutant("N10", _DOT, "numeric", {"matmul": _rounded_products(7)}),
    Mutant("N09", "layer_norm", "numeric", {"matmul": _rounded_products(10)}),
    Mutant("N10", "layer_norm", "numeric", {"matmul": _rounded_products(7)}),
    # What cancels in float32 cancels in float64: both gates see it.
    Mutant("N04", "layer_norm", "semantic", {"layer_norm": _fast_layer_norm}),
    Mutant("N08", "tied_bfloat16", "structure", {"deliver": _promoted}),
    Mutant("N08-float32", "layer_norm", "semantic", {"deliver": _through_float32}),
)


# Numbers that are none of the well-known ones, and results that are a simple function of the right ones --------

FITTED: tuple[Mutant, ...] = (
    Mutant("F-eps", "layer_norm", "semantic", _layer_norm(3e-4)),
    Mutant("F-eps", "batch_norm_train", "semantic", _batch_norm(eps=2e-3)),
    Mutant("F-momentum", "batch_norm_train", "semantic", _batch_norm(decay=0.75)),
    Mutant("F-scale", _DOT, "semantic", {"scale": lambda width: 0.3}),
    Mutant("F-scale", _FUSED, "semantic", {"scale": lambda width: 0.3}),
    Mutant("F-fill", _FUSED, "semantic", _filled_with(-7.5)),
    Mutant(
        "F-threshold",
        "activations",
        "semantic",
        {"softplus": lambda z: jnp.where(z > 12, z, jax.nn.softplus(z))},
    ),
    Mutant("F-slope", "activations", "semantic", {"leaky": lambda z: jnp.where(z >= 0, z, 0.15 * z)}),
)
RELATED: tuple[Mutant, ...] = (
    Mutant("R-scale", _DOT, "semantic", {"deliver": lambda y: 2.0 * y}),
    Mutant("R-sign", _DOT, "semantic", {"deliver": lambda y: -y}),
    Mutant("R-offset", _DOT, "semantic", {"deliver": lambda y: y + 0.5}),
    Mutant("R-flip", _DOT, "semantic", {"deliver": lambda y: jnp.flip(y, -1)}),
    Mutant("R-roll", _DOT, "semantic", {"deliver": lambda y: jnp.roll(y, 1, 1)}),
    Mutant("R-axes", _DOT, "structure", {"deliver": lambda y: jnp.swapaxes(y, 1, 2)}),
    Mutant(
        "R-order", "layer_norm", "semantic", {"deliver": lambda y: y[:, jnp.array([2, 3, 0, 1, 6, 7, 4, 5])]}
    ),
)

MUTANTS: tuple[Mutant, ...] = (*ATTENTION, *SEQUENCES, *NORMS, *ACTIVATIONS, *PRECISION, *FITTED, *RELATED)
