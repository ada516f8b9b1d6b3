"""Kinds of sequences, by all the ways to bring an output to one vector per row; and a pair of networks."""

import torch
from torch import nn
from torch.nn import LSTM, Embedding, Linear
from torch.nn.functional import binary_cross_entropy, log_softmax, nll_loss


class ByMean(nn.Module):
    def __init__(self, words, classes):
        super().__init__()
        self.embedding = Embedding(words, 32, padding_idx=0)
        self.rnn = LSTM(32, 64, batch_first=True, bidirectional=True)
        self.fc = Linear(128, classes)

    def forward(self, tokens):
        mask = (tokens != 0).unsqueeze(-1)
        output, _ = self.rnn(self.embedding(tokens))
        return self.fc((output * mask).sum(1) / mask.sum(1).clamp(min=1))


class ByStates(nn.Module):
    def __init__(self, features, classes, layers=2):
        super().__init__()
        self.rnn = nn.GRU(features, 16, layers, bidirectional=True, batch_first=True, dropout=0.1)
        self.fc = Linear(32, classes)

    def forward(self, x):
        _, h_n = self.rnn(x)
        h_n = h_n.view(self.rnn.num_layers, 2, x.size(0), 16)
        both = h_n[-1].transpose(0, 1).reshape(x.size(0), -1)
        return log_softmax(self.fc(both), dim=-1)


class ByGathering(nn.Module):
    def __init__(self, features, classes):
        super().__init__()
        self.rnn = nn.GRU(features, 16, batch_first=True)
        self.fc = Linear(16, classes)

    def forward(self, x, lengths):
        output, _ = self.rnn(x)
        index = (lengths - 1).view(-1, 1, 1).expand(-1, 1, output.size(2))
        return self.fc(output.gather(1, index).squeeze(1))


class ByCells(nn.Module):
    def __init__(self, features, classes):
        super().__init__()
        self.cells = nn.ModuleList([nn.LSTMCell(features, 16), nn.LSTMCell(16, 16)])
        self.fc = Linear(16, classes)

    def forward(self, x):
        states = [(x.new_zeros(x.size(0), 16), x.new_zeros(x.size(0), 16)) for _ in self.cells]
        for step in x.unbind(1):
            for number, cell in enumerate(self.cells):
                states[number] = cell(step, states[number])
                step = states[number][0]
        return self.fc(states[-1][0])


class Alone(nn.Module):
    """One sequence at a time, without a batch."""

    def __init__(self, features):
        super().__init__()
        self.rnn = nn.RNN(features, 16)
        self.out = nn.Sequential(Linear(16, 1), nn.Sigmoid())

    def forward(self, x, h=None):
        output, h = self.rnn(x, h)
        return self.out(output[-1]), h


def train_states(model, loader):
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    for x, y in loader:
        loss = nll_loss(model(x), y)
        model.zero_grad()
        loss.backward()
        optimizer.step()


def main(loader):
    train_states(ByStates(3, 5), loader)


def train_alone(sequences):
    model = Alone(3)
    opt = torch.optim.Adagrad(model.parameters())
    for x, y in sequences:
        opt.zero_grad()
        probability, _ = model(x)
        binary_cross_entropy(probability, y).backward()
        opt.step()


def train_pair(generator, critic, loader):
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=1e-4, betas=(0.5, 0.9))
    d_optimizer = torch.optim.Adam(critic.parameters(), lr=1e-4, betas=(0.5, 0.9))
    criterion = nn.BCEWithLogitsLoss()
    for real in loader:
        fake = generator(torch.randn(real.size(0), 20, 8))
        critic.zero_grad()
        scores = critic(real), critic(fake.detach())
        loss = criterion(scores[0], torch.ones_like(scores[0]))
        loss = loss + criterion(scores[1], torch.zeros_like(scores[1]))
        loss.backward()
        d_optimizer.step()
        generator.zero_grad()
        score = critic(fake)
        criterion(score, torch.ones_like(score)).backward()
        g_optimizer.step()


def fitted(model, x, y):
    optimizer = torch.optim.LBFGS(model.parameters())

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        return loss

    for _ in range(10):
        optimizer.step(closure)
    with torch.no_grad():
        return model(x)
