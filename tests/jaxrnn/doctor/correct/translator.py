"""From sentence to sentence: a bidirectional encoder, and a decoder that attends to it, step by step."""

import random

import torch
import torch.nn.functional as F
from torch import nn


class Encoder(nn.Module):
    def __init__(self, words, embedded, encoded, decoded, dropout):
        super().__init__()
        self.embedding = nn.Embedding(words, embedded)
        self.rnn = nn.GRU(embedded, encoded, bidirectional=True)
        self.fc = nn.Linear(2 * encoded, decoded)
        self.dropout = nn.Dropout(dropout)

    def forward(self, source, lengths):
        embedded = self.dropout(self.embedding(source))
        packed = nn.utils.rnn.pack_padded_sequence(embedded, lengths.cpu(), enforce_sorted=False)
        outputs, hidden = self.rnn(packed)
        outputs, _ = nn.utils.rnn.pad_packed_sequence(outputs)
        hidden = torch.tanh(self.fc(torch.cat((hidden[-2, :, :], hidden[-1, :, :]), dim=1)))
        return outputs, hidden


class Attention(nn.Module):
    def __init__(self, encoded, decoded):
        super().__init__()
        self.score = nn.Linear(2 * encoded + decoded, decoded)
        self.v = nn.Linear(decoded, 1, bias=False)

    def forward(self, hidden, outputs, mask):
        steps = outputs.shape[0]
        hidden = hidden.unsqueeze(1).repeat(1, steps, 1)
        outputs = outputs.permute(1, 0, 2)
        energy = self.v(torch.tanh(self.score(torch.cat((hidden, outputs), dim=2)))).squeeze(2)
        return F.softmax(energy.masked_fill(mask == 0, -1e10), dim=1)


class Decoder(nn.Module):
    def __init__(self, words, embedded, encoded, decoded, dropout):
        super().__init__()
        self.embedding = nn.Embedding(words, embedded)
        self.attention = Attention(encoded, decoded)
        self.rnn = nn.GRU(2 * encoded + embedded, decoded)
        self.fc = nn.Linear(2 * encoded + decoded + embedded, words)
        self.dropout = nn.Dropout(dropout)

    def forward(self, token, hidden, outputs, mask):
        embedded = self.dropout(self.embedding(token.unsqueeze(0)))
        weights = self.attention(hidden, outputs, mask).unsqueeze(1)
        seen = torch.bmm(weights, outputs.permute(1, 0, 2)).permute(1, 0, 2)
        seen = F.dropout(seen, 0.1, self.training)
        output, hidden = self.rnn(torch.cat((embedded, seen), dim=2), hidden.unsqueeze(0))
        logits = self.fc(torch.cat((output.squeeze(0), seen.squeeze(0), embedded.squeeze(0)), dim=1))
        return logits, hidden.squeeze(0)


class Translator(nn.Module):
    def __init__(self, encoder, decoder, padding):
        super().__init__()
        self.encoder, self.decoder, self.padding = encoder, decoder, padding

    def forward(self, source, lengths, target, forced=0.5):
        outputs, hidden = self.encoder(source, lengths)
        mask = (source != self.padding).permute(1, 0)
        token, logits = target[0], []
        for t in range(1, target.shape[0]):
            step, hidden = self.decoder(token, hidden, outputs, mask)
            logits.append(step)
            token = target[t] if random.random() < forced else step.argmax(1)
        return torch.stack(logits)


def train_epoch(model, loader, optimizer, criterion, clip):
    model.train()
    for source, lengths, target in loader:
        optimizer.zero_grad()
        logits = model(source, lengths, target)
        loss = criterion(logits.flatten(0, 1), target[1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()


def main(loader, held_out, padding):
    model = Translator(Encoder(100, 32, 64, 64, 0.5), Decoder(120, 32, 64, 64, 0.5), padding)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    criterion = nn.CrossEntropyLoss(ignore_index=padding)
    for _ in range(10):
        train_epoch(model, loader, optimizer, criterion, clip=1.0)
        schedule.step()
        model.eval()
        with torch.no_grad():
            losses = [
                criterion(model(source, lengths, target, forced=0).flatten(0, 1), target[1:].flatten())
                for source, lengths, target in held_out
            ]
        print(sum(losses) / len(losses))
