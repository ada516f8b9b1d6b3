"""A forecaster by windows, in mixed precision, with gradients of several batches added up and early stopping."""

import copy

import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset


class Forecaster(nn.Module):
    def __init__(self, features, hidden=64, num_layers=1, dropout=0.2, bidirectional=False):
        super().__init__()
        self.hidden, self.num_layers = hidden, num_layers
        self.directions = 2 if bidirectional else 1
        self.lstm = nn.LSTM(
            input_size=features,
            hidden_size=hidden,
            num_layers=num_layers,
            batch_first=True,
            dropout=dropout if num_layers > 1 else 0,
            bidirectional=bidirectional,
        )
        self.head = nn.Sequential(
            nn.LayerNorm(self.directions * hidden), nn.Dropout(dropout), nn.Linear(hidden, 1)
        )

    def forward(self, x, state=None):
        if state is None:
            shape = self.num_layers * self.directions, x.size(0), self.hidden
            state = torch.zeros(shape, device=x.device), torch.zeros(shape, device=x.device)
        out, _ = self.lstm(x, state)
        if self.directions == 2:
            last = torch.cat([out[:, -1, : self.hidden], out[:, 0, self.hidden :]], dim=1)
        else:
            last = out[:, -1, :]
        return self.head(last).squeeze(-1)


class Trainer:
    def __init__(self, model, device, patience=5, accumulate=4):
        self.model, self.device = model.to(device), device
        self.optimizer = optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
        self.scaler = torch.amp.GradScaler(enabled=device == "cuda")
        self.criterion = nn.HuberLoss()
        self.patience, self.accumulate = patience, accumulate

    def train_epoch(self, loader):
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        for k, (x, y) in enumerate(loader):
            with torch.autocast(self.device):
                loss = self.criterion(self.model(x.to(self.device)), y.to(self.device))
            self.scaler.scale(loss / self.accumulate).backward()
            if (k + 1) % self.accumulate == 0:
                self.scaler.unscale_(self.optimizer)
                nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.optimizer.zero_grad(set_to_none=True)

    @torch.inference_mode()
    def evaluate(self, loader):
        self.model.eval()
        losses = [self.criterion(self.model(x.to(self.device)), y.to(self.device)).item() for x, y in loader]
        return sum(losses) / len(losses)

    def fit(self, train, held_out):
        best, waited, kept = float("inf"), 0, None
        while waited < self.patience:
            self.train_epoch(train)
            loss = self.evaluate(held_out)
            if loss < best:
                best, waited, kept = loss, 0, copy.deepcopy(self.model.state_dict())
            else:
                waited += 1
        if kept is not None:
            self.model.load_state_dict(kept)
        self.model.eval()
        return best


def uncertain(model, x, draws=50):
    """The spread of forecasts under dropout, which is on for this alone, and on purpose."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    with torch.no_grad():
        forecasts = torch.stack([model(x) for _ in range(draws)])
    return forecasts.mean(0), forecasts.std(0)


def main(x, y):
    for both in (False, True):
        trainer = Trainer(Forecaster(3, bidirectional=both), "cuda" if torch.cuda.is_available() else "cpu")
        data = TensorDataset(x, y)
        trainer.fit(DataLoader(data, 32, shuffle=True), DataLoader(data, 64))
