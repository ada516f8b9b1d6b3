"""The candidates: the same models in Flax, whose parts are functions that can be exchanged one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

import jaxrnn

Array = jax.Array

# The parts -------------------------------------------------------------------------------------------------


def matmul(left: Array, right: Array) -> Array:
    """Return the product of two matrices."""
    return left @ right


def scale(width: int) -> float:
    """Return what scores are multiplied with."""
    return float(width) ** -0.5


def select(keep: Array) -> Array | None:
    """Return which keys take part."""
    return keep


def weigh(scores: Array, keep: Array | None, fill: float) -> Array:
    """Return the keys' weights."""
    return jax.nn.softmax(scores if keep is None else jnp.where(keep, scores, fill), axis=-1)


def settle(weights: Array, keep: Array | None) -> Array:
    """Return zero weights where there is no key at all."""
    return weights if keep is None else jnp.where(keep.any(-1, keepdims=True), weights, 0.0)


def split(packed: Array, heads: int) -> tuple[Array, Array, Array]:
    """Return q, k, v `[B, heads, T, d]` of projections `[B, T, 3 heads d]`."""
    batch, steps, width = packed.shape
    q, k, v = packed.reshape(batch, steps, 3, heads, width // (3 * heads)).transpose(2, 0, 3, 1, 4)
    return q, k, v


def merge(heads: Array) -> Array:
    """Return `[B, T, heads d]` from `[B, heads, T, d]`."""
    batch, count, steps, width = heads.shape
    return heads.transpose(0, 2, 1, 3).reshape(batch, steps, count * width)


def same(value: Any) -> Any:
    """Return what is given."""
    return value


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """Return ``(x - E[x]) / sqrt(Var[x] + eps) w + b``."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + eps) * weight + bias


def rms_norm(x: Array, weight: Array) -> Array:
    """Return ``x / sqrt(E[x²] + eps) w``."""
    eps = float(jnp.finfo(x.dtype).eps)
    return x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps) * weight


def batch_norm(x: Array, mean: Array, var: Array, training: bool) -> tuple[Array, Array, Array]:
    """Return ``(x - E[x]) / sqrt(Var[x] + eps)`` and the running statistics after it."""
    if not training:
        return (x - mean) / jnp.sqrt(var + 1e-5), mean, var
    now, spread = x.mean(0), x.var(0)
    count = x.shape[0]
    y = (x - now) / jnp.sqrt(spread + 1e-5)
    return y, 0.9 * mean + 0.1 * now, 0.9 * var + 0.1 * spread * count / (count - 1)


def gelu(z: Array) -> Array:
    """Return ``z Φ(z)``."""
    return jax.nn.gelu(z, approximate=False)


def softplus(z: Array) -> Array:
    """Return ``log(1 + exp(z))``, and z itself above 20."""
    return jnp.where(z > 20.0, z, jnp.log1p(jnp.exp(jnp.minimum(z, 20.0))))


def leaky(z: Array) -> Array:
    """Return z, or a hundredth of it where it is negative."""
    return jax.nn.leaky_relu(z, 0.01)


def deviation(x: Array) -> Array:
    """Return the standard deviation over time, with n - 1."""
    return jnp.std(x, axis=1, ddof=1)


def median(x: Array) -> Array:
    """Return the median over time; of an even number the lower of the two."""
    return jnp.sort(x, axis=1)[:, (x.shape[1] - 1) // 2]


def look_up(table: Array, tokens: Array) -> Array:
    """Return the rows of tokens; that of token 0 receives no gradient.

    Raises IndexError for a token that is no row, where its value can be known.
    """
    if not isinstance(tokens, jax.core.Tracer) and ((tokens < 0) | (tokens >= len(table))).any():
        raise IndexError(f"tokens must be in [0, {len(table) - 1}], got {tokens.min()} to {tokens.max()}.")
    rows = table[tokens]
    return jnp.where((tokens == 0)[..., None], lax.stop_gradient(rows), rows)


def softmax_table(table: Array, own: Array | None) -> Array:
    """Return what stands before the softmax: a matrix of its own, or the embedding where there is none."""
    return table if own is None else own


def inputs(target: Array) -> Array:
    """Return the tokens that the decoder is fed with."""
    return target[:, :-1]


def bridge(h_n: Array) -> Array:
    """Return the final states of both directions `[B, 2 H]`, forward first."""
    return jnp.concatenate([h_n[0], h_n[1]], axis=-1)


def ask(before: Array, after: Array) -> Array:
    """Return the decoder's state that attends."""
    return after


def penalty(lengths: Array) -> Array:
    """Return what the logarithm of a sequence's probability is divided by."""
    return ((5.0 + lengths) / 6.0) ** 0.6


def force(ended: Array, forced: Array, surprise: Array) -> Array:
    """Return log-probabilities of the next token, where a sequence has ended `forced`."""
    return jnp.where(ended[:, :, None], forced, surprise)


def covered(coverage: Array) -> Array:
    """Return what of each key's attention counts."""
    return jnp.minimum(coverage, 1.0)


@dataclass(frozen=True)
class Parts:
    """How the models compute, part by part; `dataclasses.replace` exchanges one."""

    matmul: Callable[[Array, Array], Array] = matmul
    scale: Callable[[int], float] = scale
    select: Callable[[Array], Array | None] = select
    weigh: Callable[[Array, Array | None, float], Array] = weigh
    settle: Callable[[Array, Array | None], Array] = settle
    split: Callable[[Array, int], tuple[Array, Array, Array]] = split
    merge: Callable[[Array], Array] = merge
    key_bias: Callable[[Array], Array] = same
    vector: Callable[[Array], Array] = same
    kernel: Callable[[Array], Array] = same
    layer_norm: Callable[[Array, Array, Array, float], Array] = layer_norm
    rms_norm: Callable[[Array, Array], Array] = rms_norm
    batch_norm: Callable[[Array, Array, Array, bool], tuple[Array, Array, Array]] = batch_norm
    gelu: Callable[[Array], Array] = gelu
    softplus: Callable[[Array], Array] = softplus
    leaky: Callable[[Array], Array] = leaky
    deviation: Callable[[Array], Array] = deviation
    median: Callable[[Array], Array] = median
    look_up: Callable[[Array, Array], Array] = look_up
    softmax_table: Callable[[Array, Array | None], Array] = softmax_table
    inputs: Callable[[Array], Array] = inputs
    bridge: Callable[[Array], Array] = bridge
    ask: Callable[[Array, Array], Array] = ask
    feed: Callable[[Array], Array] = same
    penalty: Callable[[Array], Array] = penalty
    force: Callable[[Array, Array, Array], Array] = force
    covered: Callable[[Array], Array] = covered
    carry: Callable[[Array], Array] = same
    deliver: Callable[[Array], Array] = same


FAITHFUL = Parts()


# The models ------------------------------------------------------------------------------------------------


def _linear(parts: Parts, layer: nnx.Linear, x: Array) -> Array:
    product = parts.matmul(x, layer.kernel[...])
    return product if layer.bias is None else product + layer.bias[...]


def _new(width: int, out: int, *, bias: bool = True) -> nnx.Linear:
    return nnx.Linear(width, out, use_bias=bias, rngs=nnx.Rngs(0))  # every weight is replaced by the probe's


class _Projections(nnx.Module):
    def __init__(self, queries: int, keys: int, hidden: int, *, parts: Parts = FAITHFUL) -> None:
        self.query = _new(queries, hidden)
        self.key = _new(keys, hidden, bias=False)
        self.value = _new(keys, hidden)
        self.parts = parts

    def scores(self, x: Array, memory: Array) -> tuple[Array, Array]:
        """Return the scores `[B, T, S]` and the values `[B, S, H]`."""
        parts = self.parts
        q, k, v = (
            _linear(parts, *pair) for pair in ((self.query, x), (self.key, memory), (self.value, memory))
        )
        return parts.matmul(q, jnp.swapaxes(k, 1, 2)) * parts.scale(q.shape[-1]), v


class DotAttention(_Projections):
    """Scaled dot-product attention; `ignored` is True at the keys that are left out."""

    def __call__(self, x: Array, memory: Array, ignored: Array) -> tuple[Array, Array]:
        """Return the contexts `[B, T, H]` and the weights `[B, T, S]`."""
        scores, v = self.scores(x, memory)
        keep = self.parts.select(jnp.broadcast_to(~ignored[:, None, :], scores.shape))
        weights = self.parts.weigh(scores, keep, -jnp.inf)
        return self.parts.deliver(self.parts.matmul(weights, v)), weights


class FusedAttention(_Projections):
    """Scaled dot-product attention; `keep` is True at the keys that take part."""

    def __call__(self, x: Array, memory: Array, keep: Array) -> Array:
        """Return the contexts `[B, T, H]`."""
        scores, v = self.scores(x, memory)
        chosen = self.parts.select(keep)
        weights = self.parts.weigh(scores, chosen, float(jnp.finfo(scores.dtype).min))
        return self.parts.matmul(self.parts.settle(weights, chosen), v)


class _PackedAttention(nnx.Module):
    def __init__(self, width: int) -> None:
        self.in_proj_weight = nnx.Param(jnp.zeros((3 * width, width)))
        self.in_proj_bias = nnx.Param(jnp.zeros(3 * width))
        self.out_proj = _new(width, width)


class MultiHead(nnx.Module):
    """Attention of several heads with torch's packed projection."""

    def __init__(self, width: int, heads: int, *, parts: Parts = FAITHFUL) -> None:
        self.attention = _PackedAttention(width)
        self.heads = heads
        self.parts = parts

    def __call__(self, x: Array, memory: Array, ignored: Array) -> tuple[Array, Array]:
        """Return the output `[B, T, E]` and the weights `[B, T, S]`."""
        parts, held = self.parts, self.attention
        weight, bias = held.in_proj_weight[...], held.in_proj_bias[...]
        q = parts.split(parts.matmul(x, weight.T) + bias, self.heads)[0]
        _, k, v = parts.split(parts.matmul(memory, weight.T) + bias, self.heads)
        scores = parts.matmul(q, jnp.swapaxes(k, -1, -2)) * parts.scale(q.shape[-1])
        keep = parts.select(jnp.broadcast_to(~ignored[:, None, None, :], scores.shape))
        weights = parts.weigh(scores, keep, -jnp.inf)
        return _linear(parts, held.out_proj, parts.merge(parts.matmul(weights, v))), weights.mean(1)


class AdditiveAttention(nnx.Module):
    """Bahdanau's attention."""

    def __init__(self, queries: int, keys: int, hidden: int, *, parts: Parts = FAITHFUL) -> None:
        self.query = _new(queries, hidden, bias=False)
        self.key = _new(keys, hidden)
        self.score = _new(hidden, 1, bias=False)
        self.parts = parts

    def __call__(self, query: Array, memory: Array, ignored: Array) -> tuple[Array, Array]:
        """Return the context `[B, K]` and the weights `[B, S]`."""
        assert self.key.bias is not None
        bias = self.parts.key_bias(self.key.bias[...])
        energy = jnp.tanh(self.query(query)[:, None] + memory @ self.key.kernel[...] + bias)
        scores = (energy @ self.parts.vector(self.score.kernel[...]))[..., 0]
        weights = self.parts.weigh(scores, self.parts.select(~ignored), -1e9)
        return jnp.einsum("bs,bsk->bk", weights, memory), weights


class _LuongAttention(nnx.Module):
    def __init__(self, queries: int, keys: int) -> None:
        self.key = _new(keys, queries, bias=False)


class Translator(nnx.Module):
    """An encoder-decoder of GRUs with Luong's attention, input feeding and teacher forcing."""

    def __init__(
        self, source: int, target: int, embedded: int, hidden: int, *, parts: Parts = FAITHFUL
    ) -> None:
        rngs = nnx.Rngs(0)
        self.source = nnx.Embed(source, embedded, rngs=rngs)
        self.encoder = jaxrnn.GRU(embedded, hidden, batch_first=True, bidirectional=True, rngs=rngs)
        self.bridge = _new(2 * hidden, hidden)
        self.target = nnx.Embed(target, embedded, rngs=rngs)
        self.decoder = jaxrnn.GRUCell(embedded + hidden, hidden, rngs=rngs)
        self.attention = _LuongAttention(hidden, 2 * hidden)
        self.mix = _new(3 * hidden, hidden)
        self.readout = _new(hidden, target)
        self.parts = parts

    def __call__(self, source: Array, target: Array, ignored: Array) -> tuple[Array, Array]:
        """Return the logits `[B, T - 1, V]` of all target tokens but the first, and the attention's weights."""
        parts = self.parts
        memory, h_n = self.encoder(self.source.embedding[...][source])
        h = jnp.tanh(self.bridge(parts.bridge(h_n)))
        keys = self.attention.key(memory)

        def step(carry: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
            before, fed = carry
            h = parts.carry(self.decoder(jnp.concatenate([x, parts.feed(fed)], axis=-1), before))
            scores = jnp.einsum("bsh,bh->bs", keys, parts.ask(before, h))
            weights = parts.weigh(scores, parts.select(~ignored), -jnp.inf)
            context = jnp.einsum("bs,bsk->bk", weights, memory)
            fed = jnp.tanh(self.mix(jnp.concatenate([context, h], axis=-1)))
            return (h, fed), (self.readout(fed), weights)

        embedded = self.target.embedding[...][parts.inputs(target)]
        _, (logits, weights) = lax.scan(step, (h, jnp.zeros_like(h)), jnp.swapaxes(embedded, 0, 1))
        return jnp.swapaxes(logits, 0, 1), jnp.swapaxes(weights, 0, 1)


class BeamSearch(nnx.Module):
    """A decoder with attention and a search for its best sequences; token 0 ends them, token 1 begins them."""

    def __init__(
        self,
        vocabulary: int,
        embedded: int,
        memory: int,
        hidden: int,
        beams: int,
        steps: int,
        *,
        parts: Parts = FAITHFUL,
    ) -> None:
        self.embedding = nnx.Embed(vocabulary, embedded, rngs=nnx.Rngs(0))
        self.decoder = jaxrnn.GRUCell(embedded, hidden, rngs=nnx.Rngs(0))
        self.attention = _LuongAttention(hidden, memory)
        self.readout = _new(hidden + memory, vocabulary)
        self.beams, self.steps = beams, steps
        self.parts = parts

    def __call__(self, h: Array, memory: Array, ignored: Array) -> tuple[Array, Array]:
        """Return the sequences `[B, K, T]`, the best first, and their scores `[B, K]`."""
        parts, table = self.parts, self.embedding.embedding[...]
        batch, beams, vocabulary = len(h), self.beams, len(table)
        forced = jnp.full(vocabulary, -jnp.inf, h.dtype).at[0].set(0.0)
        total = jnp.full((batch, beams), -jnp.inf, h.dtype).at[:, 0].set(0.0)
        keys = self.attention.key(memory)
        h = jnp.repeat(h[:, None], beams, axis=1)
        tokens = jnp.ones((batch, beams, 1), jnp.int32)
        ended = jnp.zeros((batch, beams), bool)
        lengths = jnp.zeros((batch, beams), h.dtype)
        coverage = jnp.zeros((batch, beams, memory.shape[1]), h.dtype)
        for _ in range(self.steps):
            h = jax.vmap(self.decoder)(table[tokens[:, :, -1]], h)
            scores = jnp.einsum("bsh,bkh->bks", keys, h)
            weights = parts.weigh(scores, parts.select(~ignored[:, None, :]), -jnp.inf)
            context = jnp.einsum("bks,bsm->bkm", weights, memory)
            surprise = jax.nn.log_softmax(self.readout(jnp.concatenate([h, context], axis=-1)))
            lengths = lengths + ~ended
            coverage = coverage + jnp.where(ended[:, :, None], 0.0, weights)
            sums = total[:, :, None] + parts.force(ended, forced, surprise)
            ranked = sums / parts.penalty(lengths)[:, :, None]
            _, best = lax.top_k(ranked.reshape(batch, -1), beams)
            chosen, token = best // vocabulary, best % vocabulary
            total = jnp.take_along_axis(sums.reshape(batch, -1), best, axis=1)
            rows = jnp.arange(batch)[:, None]
            h, lengths, coverage = (each[rows, chosen] for each in (h, lengths, coverage))
            tokens = jnp.concatenate([tokens[rows, chosen], token[:, :, None]], axis=2)
            ended = ended[rows, chosen] | (token == 0)
        kept = jnp.where(ignored[:, None, :], 1.0, coverage)
        result = total / parts.penalty(lengths) + 0.2 * jnp.log(parts.covered(kept)).sum(-1)
        result, order = lax.top_k(result, beams)
        return tokens[jnp.arange(batch)[:, None], order, 1:], result


class TiedModel(nnx.Module):
    """A language model of one step whose softmax shares the embedding."""

    def __init__(self, vocabulary: int, width: int, *, parts: Parts = FAITHFUL) -> None:
        self.embedding = nnx.Embed(vocabulary, width, rngs=nnx.Rngs(0))
        self.hidden = _new(width, width)
        self.parts = parts

    def __call__(self, tokens: Array) -> Array:
        """Return the logits `[B, T, V]`."""
        return self.logits(tokens, None)

    def logits(self, tokens: Array, readout: Array | None) -> Array:
        """Return the logits; without a readout `[V, H]` of its own, the embedding is read once more."""
        assert self.hidden.bias is not None
        table = self.embedding.embedding[...]
        rows = self.parts.look_up(table, tokens)
        h = jnp.tanh(rows @ self.parts.kernel(self.hidden.kernel[...]) + self.hidden.bias[...])
        return self.parts.deliver(h @ self.parts.softmax_table(table, readout).T)


class UntiedModel(TiedModel):
    """The same with a matrix of its own before the softmax."""

    def __init__(self, vocabulary: int, width: int, *, parts: Parts = FAITHFUL) -> None:
        super().__init__(vocabulary, width, parts=parts)
        self.readout = _new(width, vocabulary, bias=False)

    def __call__(self, tokens: Array) -> Array:
        """Return the logits `[B, T, V]`."""
        return self.logits(tokens, self.readout.kernel[...].T)


class Windows(nnx.Module):
    """Two LSTMs that read a series in two calls: one begins both anew, one goes on where it was."""

    def __init__(self, features: int, hidden: int, *, parts: Parts = FAITHFUL) -> None:
        self.anew = jaxrnn.LSTM(features, hidden, batch_first=True, rngs=nnx.Rngs(0))
        self.on = jaxrnn.LSTM(features, hidden, batch_first=True, rngs=nnx.Rngs(0))

    def __call__(
        self, first: Array, second: Array, state: tuple[Array, Array]
    ) -> tuple[Array, Array, Array, Array]:
        """Return the outputs of all four calls; `state` is what the second LSTM begins with."""
        before, state = self.on(first, state)
        return self.anew(first)[0], self.anew(second)[0], before, self.on(second, state)[0]


class Stack(nnx.Module):
    """An LSTM and a readout all of one width."""

    def __init__(self, width: int, layers: int, *, parts: Parts = FAITHFUL) -> None:
        self.lstm = jaxrnn.LSTM(width, width, layers, batch_first=True, rngs=nnx.Rngs(0))
        self.readout = _new(width, width)

    def __call__(self, x: Array) -> Array:
        """Return `[B, T, width]`."""
        return self.readout(self.lstm(x)[0])


class _Norm(nnx.Module):
    def __init__(self, features: int) -> None:
        self.weight = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))


class NormedLSTM(nnx.Module):
    """An LSTM whose sums and cell state pass layer norms."""

    def __init__(self, features: int, hidden: int, *, parts: Parts = FAITHFUL) -> None:
        self.input = _new(features, 4 * hidden, bias=False)
        self.recurrent = _new(hidden, 4 * hidden, bias=False)
        self.norm_input = _Norm(4 * hidden)
        self.norm_recurrent = _Norm(4 * hidden)
        self.norm_cell = _Norm(hidden)
        self.parts = parts

    def __call__(self, x: Array, state: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        """Return the outputs `[B, T, H]` and the final state."""

        def norm(held: _Norm, values: Array) -> Array:
            return self.parts.layer_norm(values, held.weight[...], held.bias[...], 1e-5)

        def step(state: tuple[Array, Array], sums: Array) -> tuple[tuple[Array, Array], Array]:
            h, c = state
            sums = sums + norm(self.norm_recurrent, self.recurrent(h))
            i, f, g, o = jnp.split(sums, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(norm(self.norm_cell, c))
            return (h, c), h

        sums = norm(self.norm_input, self.input(x))
        state, outputs = lax.scan(step, state, jnp.swapaxes(sums, 0, 1))
        return jnp.swapaxes(outputs, 0, 1), state


class NormAndLinear(nnx.Module):
    """A layer norm and a linear layer."""

    def __init__(self, features: int, out: int, *, parts: Parts = FAITHFUL) -> None:
        self.norm = _Norm(features)
        self.linear = _new(features, out)
        self.parts = parts

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Return what the norm gives, and the projection of it."""
        normed = self.parts.layer_norm(x, self.norm.weight[...], self.norm.bias[...], 1e-5)
        return self.parts.deliver(normed), _linear(self.parts, self.linear, normed)


class _Gain(nnx.Module):
    def __init__(self, features: int) -> None:
        self.weight = nnx.Param(jnp.ones(features))


class RootMeanSquare(nnx.Module):
    """RMS norm, its eps the machine epsilon of the input's type."""

    def __init__(self, features: int, *, parts: Parts = FAITHFUL) -> None:
        self.norm = _Gain(features)
        self.parts = parts

    def __call__(self, x: Array) -> Array:
        """Return the normed input."""
        return self.parts.rms_norm(x, self.norm.weight[...])


class BatchNormed(nnx.Module):
    """Batch norm, with its running statistics as outputs."""

    def __init__(
        self, features: int, running_mean: Any, running_var: Any, training: bool, *, parts: Parts = FAITHFUL
    ) -> None:
        self.norm = _Norm(features)
        self.running_mean = nnx.BatchStat(jnp.asarray(running_mean))
        self.running_var = nnx.BatchStat(jnp.asarray(running_var))
        self.training = training
        self.parts = parts

    def __call__(self, x: Array) -> tuple[Array, Array, Array]:
        """Return the normed input and the running mean and variance after it."""
        statistics = self.running_mean[...], self.running_var[...]
        y, mean, var = self.parts.batch_norm(x, *statistics, self.training)
        y = y * self.norm.weight[...] + self.norm.bias[...]
        return y, lax.stop_gradient(mean), lax.stop_gradient(var)


class Activations(nnx.Module):
    """GELU, softplus and a leaky rectifier of the same linear layer."""

    def __init__(self, features: int, hidden: int, *, parts: Parts = FAITHFUL) -> None:
        self.linear = _new(features, hidden)
        self.parts = parts

    def __call__(self, x: Array) -> tuple[Array, Array, Array]:
        """Return the three."""
        z = self.linear(x)
        return self.parts.gelu(z), self.parts.softplus(z), self.parts.leaky(z)


class Statistics(nnx.Module):
    """A linear layer on mean, standard deviation and median over time."""

    def __init__(self, features: int, out: int, *, parts: Parts = FAITHFUL) -> None:
        self.linear = _new(3 * features, out)
        self.parts = parts

    def __call__(self, x: Array) -> Array:
        """Return `[B, out]`."""
        pooled = [x.mean(axis=1), self.parts.deviation(x), self.parts.median(x)]
        return self.linear(jnp.concatenate(pooled, axis=-1))
