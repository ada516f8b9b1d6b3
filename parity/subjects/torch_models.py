"""The references: attention, norms, activations and an encoder-decoder, written as a user of torch would."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

Tensor = torch.Tensor


class DotAttention(nn.Module):
    """Scaled dot-product attention by hand; `ignored` is True at the keys that are left out."""

    def __init__(self, queries: int, keys: int, hidden: int) -> None:
        super().__init__()
        self.query = nn.Linear(queries, hidden)
        self.key = nn.Linear(keys, hidden, bias=False)
        self.value = nn.Linear(keys, hidden)

    def forward(self, x: Tensor, memory: Tensor, ignored: Tensor) -> tuple[Tensor, Tensor]:
        """Return the contexts `[B, T, H]` and the weights `[B, T, S]`."""
        q, k, v = self.query(x), self.key(memory), self.value(memory)
        scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(ignored[:, None, :], float("-inf"))
        weights = F.softmax(scores, dim=-1)
        return weights @ v, weights


class FusedAttention(nn.Module):
    """`F.scaled_dot_product_attention`; `keep` is True at the keys that take part."""

    def __init__(self, queries: int, keys: int, hidden: int) -> None:
        super().__init__()
        self.query = nn.Linear(queries, hidden)
        self.key = nn.Linear(keys, hidden, bias=False)
        self.value = nn.Linear(keys, hidden)

    def forward(self, x: Tensor, memory: Tensor, keep: Tensor) -> Tensor:
        """Return the contexts `[B, T, H]`."""
        q, k, v = self.query(x), self.key(memory), self.value(memory)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=keep)


class MultiHead(nn.Module):
    """`nn.MultiheadAttention`, batch first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor, memory: Tensor, ignored: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output `[B, T, E]` and the weights `[B, T, S]`."""
        return self.attention(x, memory, memory, key_padding_mask=ignored)


class AdditiveAttention(nn.Module):
    """Additive attention, Bahdanau et al. (2014), https://arxiv.org/abs/1409.0473::

    score = v · tanh(W q + U k + b)
    """

    def __init__(self, queries: int, keys: int, hidden: int) -> None:
        super().__init__()
        self.query = nn.Linear(queries, hidden, bias=False)
        self.key = nn.Linear(keys, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, query: Tensor, memory: Tensor, ignored: Tensor) -> tuple[Tensor, Tensor]:
        """Return the context `[B, K]` and the weights `[B, S]`."""
        energy = torch.tanh(self.query(query)[:, None] + self.key(memory))
        scores = self.score(energy).squeeze(-1).masked_fill(ignored, -1e9)
        weights = torch.softmax(scores, dim=1)
        return torch.bmm(weights[:, None], memory).squeeze(1), weights


class LuongAttention(nn.Module):
    """General attention, Luong et al. (2015), https://arxiv.org/abs/1508.04025: ``score = q · W k``."""

    def __init__(self, queries: int, keys: int) -> None:
        super().__init__()
        self.key = nn.Linear(keys, queries, bias=False)

    def forward(self, query: Tensor, memory: Tensor, ignored: Tensor) -> tuple[Tensor, Tensor]:
        """Return the context `[B, K]` and the weights `[B, S]`."""
        scores = torch.bmm(self.key(memory), query.unsqueeze(-1)).squeeze(-1)
        weights = scores.masked_fill(ignored, float("-inf")).softmax(-1)
        return torch.bmm(weights.unsqueeze(1), memory).squeeze(1), weights


class Translator(nn.Module):
    """An encoder-decoder of GRUs with attention, input feeding and teacher forcing."""

    def __init__(self, source: int, target: int, embedded: int, hidden: int) -> None:
        super().__init__()
        self.source = nn.Embedding(source, embedded)
        self.encoder = nn.GRU(embedded, hidden, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(2 * hidden, hidden)
        self.target = nn.Embedding(target, embedded)
        self.decoder = nn.GRUCell(embedded + hidden, hidden)
        self.attention = LuongAttention(hidden, 2 * hidden)
        self.mix = nn.Linear(3 * hidden, hidden)
        self.readout = nn.Linear(hidden, target)

    def forward(self, source: Tensor, target: Tensor, ignored: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits `[B, T - 1, V]` of all target tokens but the first, and the attention's weights."""
        memory, h_n = self.encoder(self.source(source))
        h = torch.tanh(self.bridge(torch.cat([h_n[-2], h_n[-1]], dim=-1)))
        embedded = self.target(target[:, :-1])
        fed = torch.zeros_like(h)
        logits, weights = [], []
        for t in range(embedded.shape[1]):
            h = self.decoder(torch.cat([embedded[:, t], fed], dim=-1), h)
            context, weight = self.attention(h, memory, ignored)
            fed = torch.tanh(self.mix(torch.cat([context, h], dim=-1)))
            logits.append(self.readout(fed))
            weights.append(weight)
        return torch.stack(logits, dim=1), torch.stack(weights, dim=1)


class BeamSearch(nn.Module):
    """A decoder with Luong's attention and a search for its best sequences, Wu et al. (2016)::

        score = Σ log p / ((5 + L) / 6)^0.6 + 0.2 Σ_s log min(Σ_t a_ts, 1)

    https://arxiv.org/abs/1609.08144. Token 0 ends a sequence, token 1 begins it.
    """

    def __init__(
        self, vocabulary: int, embedded: int, memory: int, hidden: int, beams: int, steps: int
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedded)
        self.decoder = nn.GRUCell(embedded, hidden)
        self.attention = LuongAttention(hidden, memory)
        self.readout = nn.Linear(hidden + memory, vocabulary)
        self.vocabulary, self.beams, self.steps = vocabulary, beams, steps

    def forward(self, h: Tensor, memory: Tensor, ignored: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sequences `[B, K, T]`, the best first, and their scores `[B, K]`."""
        batch, beams = len(h), self.beams
        h, memory, ignored = (each.repeat_interleave(beams, dim=0) for each in (h, memory, ignored))
        forced = torch.full((self.vocabulary,), -math.inf, dtype=h.dtype)
        forced[0] = 0.0
        total = torch.full((batch, beams), -math.inf, dtype=h.dtype)
        total[:, 0] = 0.0
        tokens = torch.ones(batch, beams, 1, dtype=torch.long)
        ended = torch.zeros(batch, beams, dtype=torch.bool)
        lengths = torch.zeros(batch, beams, dtype=h.dtype)
        coverage = torch.zeros(batch, beams, memory.shape[1], dtype=h.dtype)
        for _ in range(self.steps):
            h = self.decoder(self.embedding(tokens[:, :, -1].flatten()), h)
            context, weights = self.attention(h, memory, ignored)
            logits = self.readout(torch.cat([h, context], dim=-1))
            surprise = F.log_softmax(logits, dim=-1).unflatten(0, (batch, beams))
            running = (~ended).to(h.dtype)
            lengths = lengths + running
            coverage = coverage + running[:, :, None] * weights.unflatten(0, (batch, beams))
            sums = total[:, :, None] + torch.where(ended[:, :, None], forced, surprise)
            ranked = sums / self.penalty(lengths)[:, :, None]
            best = ranked.flatten(1).topk(beams, dim=1).indices
            chosen, token = best // self.vocabulary, best % self.vocabulary
            total = sums.flatten(1).gather(1, best)
            rows = torch.arange(batch)[:, None]
            h = h.unflatten(0, (batch, beams))[rows, chosen].flatten(0, 1)
            lengths, coverage = lengths[rows, chosen], coverage[rows, chosen]
            tokens = torch.cat([tokens[rows, chosen], token[:, :, None]], dim=2)
            ended = ended[rows, chosen] | (token == 0)
        kept = torch.where(ignored.unflatten(0, (batch, beams)), 1.0, coverage)
        scores = total / self.penalty(lengths) + 0.2 * kept.clamp(max=1.0).log().sum(-1)
        order = scores.argsort(dim=1, descending=True)
        return tokens.gather(1, order[:, :, None].expand_as(tokens))[:, :, 1:], scores.gather(1, order)

    def penalty(self, lengths: Tensor) -> Tensor:
        """Return what the logarithm of a sequence's probability is divided by."""
        return ((5.0 + lengths) / 6.0) ** 0.6


class TiedModel(nn.Module):
    """A language model of one step whose softmax shares the embedding, token 0 being padding."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.hidden = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits `[B, T, V]`."""
        h = torch.tanh(self.hidden(self.embedding(tokens)))
        return F.linear(h, self.embedding.weight)


class UntiedModel(TiedModel):
    """The same with a matrix of its own before the softmax, of the embedding's shape."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__(vocabulary, width)
        self.readout = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits `[B, T, V]`."""
        return self.readout(torch.tanh(self.hidden(self.embedding(tokens))))


class NormedLSTM(nn.Module):
    """An LSTM whose sums and cell state pass layer norms, Ba et al. (2016), https://arxiv.org/abs/1607.06450."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.input = nn.Linear(features, 4 * hidden, bias=False)
        self.recurrent = nn.Linear(hidden, 4 * hidden, bias=False)
        self.norm_input = nn.LayerNorm(4 * hidden)
        self.norm_recurrent = nn.LayerNorm(4 * hidden)
        self.norm_cell = nn.LayerNorm(hidden)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the outputs `[B, T, H]` and the final state."""
        h, c = state
        outputs = []
        for t in range(x.shape[1]):
            sums = self.norm_input(self.input(x[:, t])) + self.norm_recurrent(self.recurrent(h))
            i, f, g, o = sums.chunk(4, dim=-1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(self.norm_cell(c))
            outputs.append(h)
        return torch.stack(outputs, dim=1), (h, c)


class Windows(nn.Module):
    """Two LSTMs that read a series in two calls: one begins both anew, one goes on where it was."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.anew = nn.LSTM(features, hidden, batch_first=True)
        self.on = nn.LSTM(features, hidden, batch_first=True)

    def forward(
        self, first: Tensor, second: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the outputs of all four calls; `state` is what the second LSTM begins with."""
        before, state = self.on(first, state)
        return self.anew(first)[0], self.anew(second)[0], before, self.on(second, state)[0]


class Stack(nn.Module):
    """An LSTM and a readout all of one width, so that weights can be exchanged without complaint."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.readout = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[B, T, width]`."""
        return self.readout(self.lstm(x)[0])


class NormAndLinear(nn.Module):
    """A layer norm and a linear layer."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.linear = nn.Linear(features, out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the norm gives, and the projection of it."""
        normed = self.norm(x)
        return normed, self.linear(normed)


class RootMeanSquare(nn.Module):
    """`nn.RMSNorm` with its default eps, the machine epsilon of the input's type."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(features)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normed input."""
        return self.norm(x)


class BatchNormed(nn.Module):
    """`nn.BatchNorm1d`, with its running statistics as outputs."""

    def __init__(self, features: int, running_mean: Any, running_var: Any) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features)
        self.norm.running_mean = torch.tensor(running_mean)
        self.norm.running_var = torch.tensor(running_var)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the normed input and the running mean and variance after it."""
        y = self.norm(x)
        assert self.norm.running_mean is not None
        assert self.norm.running_var is not None
        return y, self.norm.running_mean.clone(), self.norm.running_var.clone()


class Activations(nn.Module):
    """GELU, softplus and a leaky rectifier of the same linear layer."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, hidden)
        self.gelu = nn.GELU()
        self.softplus = nn.Softplus()
        self.leaky = nn.LeakyReLU(0.01)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three."""
        z = self.linear(x)
        return self.gelu(z), self.softplus(z), self.leaky(z)


class Statistics(nn.Module):
    """A linear layer on mean, standard deviation and median over time."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * features, out)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[B, out]`."""
        pooled = torch.cat([x.mean(dim=1), x.std(dim=1), x.median(dim=1).values], dim=-1)
        return self.linear(pooled)
