"""A language model over words by truncated backpropagation, its states carried and cut off."""

import math

import torch
from torch import nn


class LanguageModel(nn.Module):
    def __init__(self, kind, words, embedded, hidden, layers, dropout=0.5, tied=False):
        super().__init__()
        self.kind, self.layers, self.hidden = kind, layers, hidden
        self.drop = nn.Dropout(dropout)
        self.encoder = nn.Embedding(words, embedded)
        if kind in ("LSTM", "GRU"):
            self.rnn = getattr(nn, kind)(embedded, hidden, layers, dropout=dropout)
        else:
            self.rnn = nn.RNN(embedded, hidden, layers, nonlinearity=kind, dropout=dropout)
        self.decoder = nn.Linear(hidden, words)
        if tied:
            self.decoder.weight = self.encoder.weight

    def forward(self, tokens, state):
        output, state = self.rnn(self.drop(self.encoder(tokens)), state)
        return self.decoder(self.drop(output)), state

    def initial(self, batch_size):
        weight = next(self.parameters())
        h = weight.new_zeros(self.layers, batch_size, self.hidden)
        return (h, torch.zeros_like(h)) if self.kind == "LSTM" else h


def cut_off(state):
    if isinstance(state, torch.Tensor):
        return state.detach()
    return tuple(cut_off(each) for each in state)


def batches(text, rows, steps):
    columns = text[: len(text) // rows * rows].view(rows, -1).t().contiguous()
    for start in range(0, len(columns) - 1, steps):
        length = min(steps, len(columns) - 1 - start)
        yield columns[start : start + length], columns[start + 1 : start + 1 + length]


def train(model, optimizer, text, clip):
    model.train()
    state = model.initial(20)
    for tokens, targets in batches(text, 20, 35):
        state = cut_off(state)
        optimizer.zero_grad()
        logits, state = model(tokens, state)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()


@torch.no_grad()
def evaluate(model, text):
    model.eval()
    state, total, count = model.initial(10), 0.0, 0
    for tokens, targets in batches(text, 10, 35):
        logits, state = model(tokens, state)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        total, count = total + loss.item(), count + targets.numel()
    return math.exp(total / count)


def main(text, held_out):
    model = LanguageModel("LSTM", 10_000, 200, 200, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=20.0)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.25)
    for _ in range(40):
        train(model, optimizer, text, 0.25)
        schedule.step(evaluate(model, held_out))


@torch.no_grad()
def sample(model, token, steps, temperature=1.0):
    model.eval()
    state, found = model.initial(1), []
    for _ in range(steps):
        logits, state = model(token.view(1, 1), state)
        token = torch.multinomial((logits[-1, 0] / temperature).softmax(-1), 1)
        found.append(token.item())
    return found
