"""The four networks in plain PyTorch, with the names of their parts in JAX, so that weights go by name."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence


class Pronouncer(nn.Module):
    """g2p_en's encoder and decoder: logits of each phone, given the letters and the phones before."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict(
            {"embedding": nn.Embedding(29, 256), "rnn": nn.GRU(256, 256, batch_first=True)}
        )
        self.decoder = nn.ModuleDict(
            {
                "embedding": nn.Embedding(74, 256),
                "rnn": nn.GRU(256, 256, batch_first=True),
                "readout": nn.Linear(256, 74),
            }
        )

    def forward(self, source: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """Return logits [B, T, 74]; `lengths` [B] are those of the sources [B, S]."""
        return self.step(target, self.read(source, lengths))[0]

    def read(self, source: Tensor, lengths: Tensor) -> Tensor:
        """Return the state behind the last letter [1, B, 256]."""
        x = self.encoder["embedding"](source)
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return self.encoder["rnn"](packed)[1]

    def step(self, tokens: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits behind tokens [B, T], and the state."""
        outputs, h = self.decoder["rnn"](self.decoder["embedding"](tokens), h)
        return self.decoder["readout"](outputs), h

    def greedy(self, source: Tensor, lengths: Tensor, *, bos: int, eos: int, max_length: int) -> Tensor:
        """Return the most probable tokens, one after the other, until all rows have ended."""
        h = self.read(source, lengths)
        tokens, found = torch.full((len(source), 1), bos), list[Tensor]()
        ended = torch.zeros(len(source), dtype=torch.bool)
        while len(found) < max_length and not ended.all():
            logits, h = self.step(tokens, h)
            tokens = logits.argmax(-1)
            ended |= tokens[:, 0] == eos
            found.append(tokens)
        return torch.cat(found, 1)


class SpeakerEncoder(nn.Module):
    """resemblyzer's encoder: a vector of length one for a window of speech."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, frames: Tensor) -> Tensor:
        """Return vectors [B, 256] of mel frames [B, T, 40]."""
        _, (h, _) = self.lstm(frames)
        voice = torch.relu(self.linear(h[-1]))
        return voice / voice.norm(dim=1, keepdim=True)


class CharacterModel(nn.Module):
    """textgenrnn's language model: logits of the next character, from a weighted average over the last 40."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, 100)
        self.rnn_1 = nn.LSTM(100, 128, batch_first=True)
        self.rnn_2 = nn.LSTM(128, 128, batch_first=True)
        self.attention = nn.Linear(356, 1, bias=False)
        self.output = nn.Linear(356, vocabulary_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits [B, V] of what follows tokens [B, T]."""
        embedded = self.embedding(tokens)
        first, _ = self.rnn_1(embedded)
        second, _ = self.rnn_2(first)
        features = torch.cat([embedded, first, second], -1)
        scores = self.attention(features)
        shares = torch.exp(scores - scores.amax(1, keepdim=True))
        shares = shares / (shares.sum(1, keepdim=True) + 1e-7)
        return self.output((shares * features).sum(1))

    def greedy(self, tokens: Tensor, length: int) -> Tensor:
        """Return the most probable characters behind tokens [B, 40], one after the other."""
        for _ in range(length):
            best = self(tokens[:, -40:])[:, 1:].argmax(-1, keepdim=True) + 1
            tokens = torch.cat([tokens, best], 1)
        return tokens[:, -length:]


class HardLSTM(nn.Module):
    """Stacked LSTMs whose gates are ``min(max(0.2 a + 0.5, 0), 1)``, in a loop over time."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.hidden_size, self.num_layers = hidden_size, num_layers
        for layer in range(num_layers):
            width = hidden_size if layer else input_size
            for name, shape in (
                ("weight_ih", (4 * hidden_size, width)),
                ("weight_hh", (4 * hidden_size, hidden_size)),
                ("bias_ih", (4 * hidden_size,)),
                ("bias_hh", (4 * hidden_size,)),
            ):
                self.register_parameter(f"{name}_l{layer}", nn.Parameter(torch.empty(shape)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the last layer's outputs [B, T, H]."""
        for layer in range(self.num_layers):
            w_ih, w_hh, b_ih, b_hh = (
                getattr(self, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            h: Any = x.new_zeros(len(x), self.hidden_size)
            c, outputs = h, []
            for x_t in (x @ w_ih.T + b_ih).unbind(1):
                i, f, g, o = (x_t + h @ w_hh.T + b_hh).chunk(4, -1)
                c = _gate(f) * c + _gate(i) * torch.tanh(g)
                h = _gate(o) * torch.tanh(c)
                outputs.append(h)
            x = torch.stack(outputs, 1)
        return x


def _gate(a: Tensor) -> Tensor:
    return (0.2 * a + 0.5).clamp(0, 1)


class WordEncoder(nn.Module):
    """chars2vec's encoder: the state behind a word's last letter."""

    def __init__(self, letters: int, features: int) -> None:
        super().__init__()
        self.lstm = HardLSTM(letters, features, 2)

    def forward(self, letters: Tensor) -> Tensor:
        """Return vectors [B, E] of words of one-hot letters [B, T, V]."""
        return self.lstm(letters)[:, -1]
