"""Tags for every word of ragged sentences, by a bidirectional LSTM, packed, with padding left out of the loss."""

import torch
import torch.nn as nn
from torch.nn.utils import rnn as ragged
from torch.utils.data import DataLoader

PAD, NO_TAG = 0, -1


def collate(rows):
    words, tags = zip(*rows, strict=True)
    lengths = torch.tensor([len(each) for each in words])
    words = ragged.pad_sequence(words, batch_first=True, padding_value=PAD)
    tags = ragged.pad_sequence(tags, batch_first=True, padding_value=NO_TAG)
    return words, tags, lengths


class Tagger(nn.Module):
    def __init__(self, words, tags, hidden=128, *, layers=2, dropout=0.3):
        super().__init__()
        self.embedding = nn.Embedding(words, 100, padding_idx=PAD)
        self.rnn = nn.LSTM(
            100,
            hidden,
            layers,
            batch_first=True,
            bidirectional=True,
            dropout=dropout if layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2 * hidden, tags)

    def forward(self, words, lengths):
        x = self.dropout(self.embedding(words))
        packed = ragged.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        output, _ = self.rnn(packed)
        output, _ = ragged.pad_packed_sequence(output, batch_first=True, total_length=words.size(1))
        return self.fc(self.dropout(output))


def run(model, loader, criterion, optimizer=None):
    training = optimizer is not None
    model.train(training)
    total = 0.0
    with torch.set_grad_enabled(training):
        for words, tags, lengths in loader:
            logits = model(words, lengths)
            loss = criterion(logits.view(-1, logits.size(-1)), tags.view(-1))
            if training:
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
            total += loss.item()
    return total / len(loader)


def main(rows, held_out):
    model = Tagger(5000, 17)
    criterion = nn.CrossEntropyLoss(ignore_index=NO_TAG)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(10):
        run(model, DataLoader(rows, 32, shuffle=True, collate_fn=collate), criterion, optimizer)
        print(run(model, DataLoader(held_out, 32, collate_fn=collate), criterion))
