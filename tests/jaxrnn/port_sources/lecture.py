"""The two networks of a course's notebook on stock prices, as its users have them in a file."""

import torch
import torch.nn as nn


class RNN(nn.Module):
    def __init__(self, i_size, h_size, n_layers, o_size, dropout=0.0, bidirectional=False):
        super(RNN, self).__init__()
        self.num_directions = 2 if bidirectional else 1
        self.rnn = nn.RNN(
            input_size=i_size,
            hidden_size=h_size,
            num_layers=n_layers,
            batch_first=True,  # [batch, time, features]
        )
        self.out = nn.Linear(h_size, o_size)

    def forward(self, x, h_state=None):
        r_out, hidden_state = self.rnn(x, h_state)

        hidden_size = hidden_state[-1].size(-1)
        # the last step, for every window
        r_out = r_out[:, -1, :].contiguous().view(-1, hidden_size)
        outs = self.out(r_out)
        return outs, hidden_state.data


class LSTM(nn.Module):
    def __init__(self, input_dim, hidden_dim, num_layers, output_dim):
        super(LSTM, self).__init__()
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.lstm = nn.LSTM(input_dim, hidden_dim, num_layers, batch_first=True)
        self.fc = nn.Linear(hidden_dim, output_dim)

    def forward(self, x, hidden=None):
        if hidden is None:
            h0 = torch.zeros(self.num_layers, x.size(0), self.hidden_dim).requires_grad_()
            c0 = torch.zeros(self.num_layers, x.size(0), self.hidden_dim).requires_grad_()
        else:
            h0, c0 = hidden
        # detached, or the next window would go back through all before it
        out, (hn, cn) = self.lstm(x, (h0.detach(), c0.detach()))
        out = self.fc(out[:, -1, :])
        return out, (hn, cn)


def train(model, x_train, y_train, num_epochs, lr):
    criterion = nn.MSELoss(reduction="mean")
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    hist = []
    for t in range(num_epochs):
        model.train()
        y_train_pred, _ = model(x_train)
        loss = criterion(y_train_pred, y_train)
        hist.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return hist
