"""{rule: programs}: faults as they are written, and correct programs that look like them."""

WRONG = {
    "last-step-of-padding": [
        """
        class Model(nn.Module):
            def __init__(self, features, hidden):
                super().__init__()
                self.encoder = torch.nn.GRU(features, hidden, batch_first=True)

            def forward(self, x, lengths):
                packed = pack_padded_sequence(x, lengths, True)
                out, hidden = self.encoder(packed)
                out = pad_packed_sequence(out, batch_first=True)[0]
                last = out[:, -1, :]
                return last
        """,
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.LSTM(3, 4)

            def forward(self, x, lengths):
                out, _ = pad_packed_sequence(self.rnn(pack_padded_sequence(x, lengths))[0])
                return out[-1]
        """,
        """
        rnn = nn.RNN(3, 4, batch_first=True)

        def last(sequences):
            x = pad_sequence(sequences, batch_first=True)
            output, _ = rnn(x)
            return output[:, -1]
        """,
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.LSTM(3, 4, batch_first=True)

            def forward(self, x, x_lengths):
                output, _ = self.rnn(x)
                return output[:, -1]
        """,
        """
        def collate(rows):
            xs, ys = zip(*rows)
            return pad_sequence(xs, batch_first=True), torch.tensor(ys)

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding = nn.Embedding(100, 8)
                self.rnn = nn.LSTM(8, 4, batch_first=True)
                self.dropout = nn.Dropout(0.5)

            def forward(self, tokens):
                output, _ = self.rnn(self.embedding(tokens))
                return self.dropout(output)[:, -1]

        model = Model()
        for x, y in torch.utils.data.DataLoader(rows, 8, collate_fn=collate):
            print(model(x))
        """,
        """
        import jaxrnn

        class Model(nnx.Module):
            def __init__(self, rngs):
                self.rnn = jaxrnn.LSTM(3, 4, batch_first=True, rngs=rngs)

            def __call__(self, x, lengths):
                output, _ = self.rnn(x, lengths=lengths)
                return output[:, -1]
        """,
        # `h_n` of a batch that is not packed is the same number.
        """
        rnn = nn.GRU(3, 4, batch_first=True)

        def last(sequences):
            x = pad_sequence(sequences, batch_first=True)
            _, h_n = rnn(x)
            return h_n[-1]
        """,
        """
        rnn = nn.LSTM(3, 4)

        def last(sequences):
            output, h = rnn(pad_sequence(sequences))
            return h[0][-1, ...]
        """,
        """
        rnn = nn.GRU(3, 4, batch_first=True)

        def last(sequences):
            output, h = rnn(pad_sequence(sequences, batch_first=True))
            return h.squeeze(0)
        """,
        """
        def collate(rows):
            xs, ys = zip(*rows)
            return pad_sequence(xs, batch_first=True), torch.tensor(ys)

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding = nn.Embedding(100, 8, padding_idx=0)
                self.rnn = nn.LSTM(8, 4, 2, batch_first=True, bidirectional=True)
                self.fc = nn.Linear(8, 2)

            def forward(self, tokens):
                output, (h_n, c_n) = self.rnn(self.embedding(tokens))
                return self.fc(torch.cat((h_n[-2, :, :], h_n[-1, :, :]), dim=1))

        model = Model()
        for x, y in torch.utils.data.DataLoader(rows, 8, collate_fn=collate):
            print(model(x))
        """,
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.GRU(3, 4, batch_first=True)
                self.fc = nn.Linear(4, 2)

            def forward(self, x, lengths):
                _, h = self.rnn(x)
                return self.fc(torch.squeeze(h, 0))
        """,
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.GRU(3, 4, batch_first=True)
                self.fc = nn.Linear(4, 2)

            def forward(self, x, seq_lens):
                return self.fc(self.rnn(x)[1]).squeeze(0)
        """,
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.LSTM(3, 4, num_layers=2, bidirectional=True)

            def forward(self, x, lengths):
                _, (h, c) = self.rnn(x)
                return h[-2:].transpose(0, 1).flatten(1)
        """,
        # What a layer says of padding is padding to the next.
        """
        first, second = nn.GRU(3, 4), nn.GRU(4, 4)

        def last(sequences, lengths):
            output, _ = first(pack_padded_sequence(pad_sequence(sequences), lengths))
            output, _ = pad_packed_sequence(output)
            return second(output)[1][-1]
        """,
        """
        import jaxrnn
        from jaxrnn.sequence import pad_sequence as pad

        rnn = jaxrnn.GRU(3, 4, batch_first=True, rngs=rngs)

        def last(sequences):
            _, h_n = rnn(pad(sequences, batch_first=True))
            return h_n[0]
        """,
    ],
    "last-step-of-bidirectional": [
        """
        class Model(nn.Module):
            def __init__(self, hidden):
                super().__init__()
                self.rnn = nn.LSTM(3, hidden, 2, True, True, 0.1, True)
                self.fc = nn.Linear(2 * hidden, 1)

            def forward(self, x):
                h, state = self.rnn(x)
                return self.fc(h[:, -1, :])
        """,
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.ModuleList(
                    [nn.GRU(3, 8, batch_first=True), nn.GRU(8, 8, batch_first=True, bidirectional=True)]
                )

            def forward(self, x):
                x, _ = self.layers[0](x)
                x, _ = self.layers[1](x)
                return x[:, -1]
        """,
        """
        class Model(nn.Module):
            def __init__(self, hidden, both=False):
                super().__init__()
                self.rnn = nn.GRU(3, hidden, bidirectional=both)

            def forward(self, x):
                output = self.rnn(x)[0]
                return output[-1]

        model = Model(16, both=True)
        model(torch.randn(5, 2, 3))
        """,
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.RNN(3, 4, bidirectional=True)

            def forward(self, x):
                output, _ = self.rnn(x)
                output = output.transpose(0, 1).contiguous()
                return torch.relu(output)[:, -1]
        """,
    ],
    "batch-first-mismatch": [
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.GRU(3, 4, batch_first=True)

            def forward(self, x):
                output, _ = self.rnn(x)
                return output[-1]
        """,
        """
        rnn = nn.LSTM(3, 4, batch_first=True)

        def run(sequences):
            return rnn(pad_sequence(sequences))
        """,
        """
        rnn = nn.LSTM(3, 4)
        embedding = nn.Embedding(9, 3)

        def run(sequences):
            x = embedding(pad_sequence(sequences, True))
            return rnn(x)
        """,
        """
        def packed(sequences, lengths):
            x = pad_sequence(sequences, batch_first=True)
            return pack_padded_sequence(x, lengths, enforce_sorted=False)
        """,
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.GRU(3, 4)

            def forward(self, x):
                h0 = torch.zeros(1, x.size(0), 4)
                return self.rnn(x, h0)
        """,
    ],
    "state-batch-first": [
        """
        class Model(nn.Module):
            def __init__(self, hidden, layers):
                super().__init__()
                self.hidden, self.num_layers = hidden, layers
                self.rnn = nn.LSTM(3, hidden, layers, batch_first=True)

            def forward(self, x):
                B, T, _ = x.shape
                h0 = torch.zeros(B, self.num_layers, self.hidden, device=x.device)
                c0 = torch.zeros(B, self.num_layers, self.hidden, device=x.device)
                output, _ = self.rnn(x, (h0, c0))
                return output
        """,
        """
        class Model(nn.Module):
            def __init__(self, layers):
                super().__init__()
                self.num_layers = layers
                self.rnn = nn.GRU(3, 8, layers, bidirectional=True)

            def initial(self, batch_size):
                return torch.randn((batch_size, self.num_layers * 2, 8)).to("cpu")

            def forward(self, x):
                return self.rnn(x, self.initial(x.size(1)))
        """,
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.GRU(3, 8, batch_first=True)
                self.fc = nn.Linear(8, 2)

            def forward(self, x):
                _, h_n = self.rnn(x)
                return self.fc(h_n[:, -1, :])
        """,
    ],
    "state-reshaped": [
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.GRU(3, 8, num_layers=2, batch_first=True)

            def forward(self, x):
                batch_size = len(x)
                _, h = self.rnn(x)
                return h.reshape(batch_size, -1)
        """,
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.LSTM(3, 8, bidirectional=True)

            def forward(self, x):
                h, c = self.rnn(x)[1]
                return h.view(x.shape[1], 16)
        """,
    ],
    "one-direction-of-state": [
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.GRU(3, 8, 3, bidirectional=True)

            def forward(self, x):
                _, hidden = self.rnn(x)
                return hidden[-1]
        """,
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.LSTM(3, 8, bidirectional=True, batch_first=True)

            def forward(self, x, lengths):
                packed = pack_padded_sequence(x, lengths, batch_first=True)
                _, state = self.rnn(packed)
                return state[0][-1, :, :]
        """,
    ],
    "state-not-detached": [
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.LSTM(3, 8, batch_first=True)
                self.fc = nn.Linear(8, 1)

            def forward(self, x, state=None):
                output, state = self.rnn(x, state)
                return self.fc(output), state

        def train(loader, epochs):
            model = Model()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            criterion = nn.MSELoss()
            for epoch in range(epochs):
                state = None
                for x, y in loader:
                    optimizer.zero_grad()
                    prediction, state = model(x, state)
                    loss = criterion(prediction, y)
                    loss.backward(retain_graph=True)
                    optimizer.step()
        """,
        """
        def train(model, optimizer, loader):
            h = c = torch.zeros(1, 8, 16)
            for x, y in loader:
                optimizer.zero_grad()
                out, (h, c) = model(x, (h, c))
                F.mse_loss(out, y).backward()
                optimizer.step()
        """,
        """
        class Tagger(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.LSTM(3, 4)
                self.hidden = self.init_hidden()

            def init_hidden(self):
                return torch.zeros(1, 1, 4), torch.zeros(1, 1, 4)

            def forward(self, x):
                output, self.hidden = self.rnn(x, self.hidden)
                return output

        model = Tagger()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for epoch in range(300):
            for x, y in data:
                model.zero_grad()
                F.mse_loss(model(x), y).backward()
                optimizer.step()
        """,
        """
        cell = nn.GRUCell(3, 4)
        optimizer = torch.optim.SGD(cell.parameters(), lr=0.1)
        h = torch.zeros(1, 4)
        for x, y in stream:
            h = cell(x, h)
            optimizer.zero_grad()
            F.mse_loss(h, y).backward()
            optimizer.step()
        """,
    ],
    "padding-in-loss": [
        """
        def collate(rows):
            xs, ys = zip(*rows)
            return pad_sequence(xs, batch_first=True), pad_sequence(ys, batch_first=True)

        def evaluate(model, rows):
            total = 0.0
            for x, y in torch.utils.data.DataLoader(rows, batch_size=4, collate_fn=collate):
                logits = model(x)
                total += F.cross_entropy(logits.view(-1, 9), y.view(-1)).item()
            return total
        """,
        """
        PAD = 0
        criterion = nn.CrossEntropyLoss(ignore_index=-1)

        def loss_of(logits, tags):
            target = pad_sequence(tags, padding_value=PAD).long()[1:]
            return criterion(logits.flatten(0, 1), target.reshape(-1))
        """,
        """
        def loss_of(scores, tags):
            y = pad_sequence(tags, batch_first=True)
            return F.nll_loss(F.log_softmax(scores, -1).transpose(1, 2), target=y)
        """,
    ],
    "probabilities-for-logits": [
        """
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.Softmax(dim=-1))
        criterion = nn.CrossEntropyLoss()

        def loss_of(x, y):
            return criterion(model(x), y)
        """,
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.GRU(3, 4)
                self.fc = nn.Linear(4, 1)
                self.sigmoid = nn.Sigmoid()

            def forward(self, x):
                _, h = self.rnn(x)
                return self.sigmoid(self.fc(h[-1]))

        def train(model, criterion, optimizer, loader):
            for x, y in loader:
                optimizer.zero_grad()
                loss = criterion(model(x).squeeze(-1), y)
                loss.backward()
                optimizer.step()

        net = Net()
        train(net, nn.BCEWithLogitsLoss(), torch.optim.Adam(net.parameters()), loader)
        """,
        """
        def loss_of(scores, labels):
            return F.nll_loss(scores.softmax(dim=1), labels)
        """,
        """
        import jax
        import optax

        def loss_of(logits, labels):
            probabilities = jax.nn.softmax(logits)
            return optax.softmax_cross_entropy_with_integer_labels(probabilities, labels).mean()
        """,
        """
        class Lit(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = nn.Linear(3, 5)
                self.loss = nn.CrossEntropyLoss()

            def forward(self, x):
                return torch.softmax(self.net(x), 1)

            def training_step(self, batch, index):
                x, y = batch
                return self.loss(self(x), y)
        """,
    ],
    "other-padding-token": [
        """
        PAD, UNKNOWN = 1, 0

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding = nn.Embedding(100, 8, padding_idx=UNKNOWN)

            def forward(self, tokens):
                return self.embedding(tokens)

        model = Model()

        def run(sentences):
            return model(pad_sequence(sentences, batch_first=True, padding_value=PAD))
        """,
    ],
    "gradients-not-zeroed": [
        """
        def step(model, optimizer, x, y):
            loss = F.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            return loss.item()

        def train(model, loader):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for x, y in loader:
                step(model, optimizer, x, y)
        """,
        """
        model = nn.Linear(3, 1)
        opt = torch.optim.Adam(model.parameters())
        scheduler = torch.optim.lr_scheduler.StepLR(opt, 10)
        while True:
            loss = model(torch.randn(4, 3)).square().mean()
            loss.backward()
            opt.step()
            scheduler.step()
        """,
    ],
    "clipping-order": [
        """
        def train(model, optimizer, loader):
            for x, y in loader:
                optimizer.zero_grad()
                loss = F.mse_loss(model(x), y)
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                loss.backward()
                optimizer.step()
        """,
        """
        from torch.nn.utils import clip_grad_value_

        def train(model, optimizer, loader, clip):
            for x, y in loader:
                optimizer.zero_grad()
                with torch.autocast("cuda"):
                    loss = F.mse_loss(model(x), y)
                loss.backward()
                optimizer.step()
                if clip:
                    clip_grad_value_(model.parameters(), clip)
        """,
    ],
    "schedule-before-step": [
        """
        def train(model, optimizer, scheduler, loader):
            for x, y in loader:
                optimizer.zero_grad()
                F.mse_loss(model(x), y).backward()
                scheduler.step()
                optimizer.step()
        """,
        # As programs were written for PyTorch 1.0, in front of an epoch.
        """
        from torch.optim import lr_scheduler

        def train_epoch(model, optimizer, loader):
            for x, y in loader:
                optimizer.zero_grad()
                F.mse_loss(model(x), y).backward()
                optimizer.step()

        def main(model, loader):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            decay = lr_scheduler.StepLR(optimizer, 30)
            for epoch in range(90):
                decay.step()
                train_epoch(model, optimizer, loader)
        """,
        """
        def train_model(model, criterion, optimizer, scheduler, loaders):
            for epoch in range(25):
                for phase in ["train", "val"]:
                    if phase == "train":
                        scheduler.step()
                        model.train()
                    else:
                        model.eval()
                    for x, y in loaders[phase]:
                        optimizer.zero_grad()
                        loss = criterion(model(x), y)
                        if phase == "train":
                            loss.backward()
                            optimizer.step()
        """,
        # Gradients of four batches, in mixed precision.
        """
        class Trainer:
            def __init__(self, model):
                self.model = model
                self.optimizer = torch.optim.AdamW(model.parameters())
                self.scaler = torch.amp.GradScaler()
                self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 1e-2, total_steps=100)

            def step(self):
                if self.scheduler is not None:
                    self.scheduler.step()
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.optimizer.zero_grad()

            def fit(self, loader):
                for k, (x, y) in enumerate(loader):
                    self.scaler.scale(F.mse_loss(self.model(x), y)).backward()
                    if k % 4 == 3:
                        self.step()
        """,
    ],
    "dropout-in-evaluation": [
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.LSTM(3, 4, num_layers=2, dropout=0.3)

            def forward(self, x):
                return self.rnn(x)[0]

        model = Model()
        optimizer = torch.optim.Adam(model.parameters())
        for x, y in loader:
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()

        @torch.inference_mode()
        def test(loader):
            return [F.mse_loss(model(x), y).item() for x, y in loader]
        """,
        # A model that looks at its mode does not set it.
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.dropout = nn.Dropout(0.3)
                self.fc = nn.Linear(3, 1)

            def forward(self, x):
                return self.fc(F.dropout(self.dropout(x), 0.1, self.training))

        model = Model()
        optimizer = torch.optim.Adam(model.parameters())
        for x, y in loader:
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        with torch.no_grad():
            print(model(x))
        """,
    ],
    "dropout-off-in-training": [
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.dropout = nn.Dropout(0.2)
                self.fc = nn.Linear(3, 1)

            def forward(self, x):
                return self.fc(self.dropout(x))

        def evaluate(model, loader):
            model.eval()
            with torch.no_grad():
                return sum(F.mse_loss(model(x), y).item() for x, y in loader)

        def main(loader, held_out):
            model = Model()
            optimizer = torch.optim.Adam(model.parameters())
            model.train()
            for epoch in range(10):
                for x, y in loader:
                    optimizer.zero_grad()
                    loss = F.mse_loss(model(x), y)
                    loss.backward()
                    optimizer.step()
                print(evaluate(model, held_out))
        """,
    ],
    "dropout-always-on": [
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.LSTM(3, 4, batch_first=True)
                self.fc = nn.Linear(4, 2)

            def forward(self, x):
                out, _ = self.rnn(x)
                return self.fc(F.dropout(out[:, -1], 0.5))
        """,
        """
        from torch.nn.functional import dropout

        class Model(nn.Module):
            def __init__(self, rate=0.2):
                super().__init__()
                self.rate = rate
                self.rnn = nn.GRU(3, 4)

            def embed(self, x):
                return dropout(x, p=self.rate) if self.rate > 0 else x

            def forward(self, x):
                return self.rnn(self.embed(x))[0]
        """,
        # One of two is told.
        """
        class Base(nn.Module):
            def regular(self, x):
                return torch.nn.functional.dropout(x, 0.1, self.training)

        class Model(Base):
            def forward(self, x):
                return F.dropout2d(self.regular(x))
        """,
        # By default this one is never on.
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(3, 4)

            def forward(self, x):
                return F.alpha_dropout(F.selu(self.fc(x)), 0.1)
        """,
        """
        class Model(nn.Module):
            def forward(self, x):
                return nn.Dropout(0.5)(x)
        """,
        """
        import lightning as L

        class Model(L.LightningModule):
            def __init__(self):
                super().__init__()
                self.rnn = nn.GRU(3, 4)
                self.train(True)

            def forward(self, x):
                return F.dropout(self.rnn(x)[0])
        """,
    ],
    "dropout-of-one-layer": [
        """
        from torch.nn import LSTM
        encoder = LSTM(3, 4, 1, True, False, 0.25)
        """,
        """
        import jaxrnn
        rnn = jaxrnn.GRU(3, 4, dropout=0.5, rngs=rngs)
        """,
        """
        class Model(nn.Module):
            def __init__(self, hidden, layers=1, dropout=0.3):
                super().__init__()
                self.rnn = nn.GRU(3, hidden, layers, dropout=dropout)

        model = Model(8)
        """,
    ],
    "optimizer-defaults": [
        """
        import optax
        theirs = torch.optim.RMSprop(model.parameters(), lr=1e-3)
        ours = optax.rmsprop(1e-3, decay=0.99)
        """,
        """
        import optax
        theirs = torch.optim.Adagrad(model.parameters())
        ours = optax.adagrad(1e-2, initial_accumulator_value=0.0, eps=1e-10)
        """,
        """
        import optax
        theirs = torch.optim.Adadelta(model.parameters())
        ours = optax.adadelta()
        """,
        """
        import optax
        theirs = torch.optim.NAdam(model.parameters(), lr=1e-3)
        ours = optax.nadam(1e-3)
        """,
    ],
    "tf32-in-reference": [
        """
        import jaxrnn
        import numpy as np

        torch.set_float32_matmul_precision("high")
        theirs = nn.GRU(3, 4)
        np.testing.assert_allclose(ours(x), theirs(x)[0].detach(), rtol=1e-5)
        """,
        """
        import jax
        import numpy as np

        device = "cuda" if torch.cuda.is_available() else "cpu"
        theirs = nn.GRU(3, 4).to(device)
        assert np.allclose(ours(x), theirs(x)[0].detach().cpu())
        """,
    ],
}

RIGHT = {
    "last-step-of-padding": [
        # Each row's own last step, gathered.
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.LSTM(3, 4, batch_first=True)

            def forward(self, x, lengths):
                packed = pack_padded_sequence(x, lengths, batch_first=True)
                output, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
                return output[torch.arange(len(x)), lengths - 1]
        """,
        # Rows that are all equally long, when nobody says otherwise.
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.LSTM(3, 4, batch_first=True)

            def forward(self, x, lengths=None):
                if lengths is not None:
                    packed = pack_padded_sequence(x, lengths, batch_first=True)
                    return self.rnn(packed)[1][0][-1]
                output, _ = self.rnn(x)
                return output[:, -1]
        """,
        # Padding in front: the last step is real in each row.
        """
        rnn = nn.GRU(3, 4, batch_first=True)

        def last(sequences):
            x = pad_sequence(sequences, batch_first=True, padding_side="left")
            return rnn(x)[0][:, -1]
        """,
        # An argument for the sake of others, whose rows are ragged.
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.LSTM(3, 4, batch_first=True)

            def forward(self, x, lengths=None):
                return self.rnn(x)[0][:, -1]
        """,
        # Nobody knows what came of the padding.
        """
        rnn = nn.GRU(3, 4, batch_first=True)

        def last(sequences):
            x = trimmed(pad_sequence(sequences, batch_first=True))
            return rnn(x)[0][:, -1]
        """,
        # One of two ways to a name is padded, and which is taken is not known.
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.LSTM(3, 4, batch_first=True)

            def forward(self, x, lengths):
                if self.packs:
                    x = pack_padded_sequence(x, lengths, batch_first=True)
                output, _ = self.rnn(x)
                if self.packs:
                    output, _ = pad_packed_sequence(output, batch_first=True)
                return output[:, -1]
        """,
        # The states of a packed batch, or of one whose lengths are given, are each row's own.
        """
        rnn = nn.GRU(3, 4, batch_first=True)

        def last(sequences, lengths):
            x = pad_sequence(sequences, batch_first=True)
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            output, h_n = rnn(packed)
            return h_n[-1], h_n.squeeze(0)
        """,
        """
        import jaxrnn
        from jaxrnn.sequence import pad_sequence as pad

        rnn = jaxrnn.LSTM(3, 4, batch_first=True, rngs=rngs)

        def last(sequences, lengths):
            _, (h_n, c_n) = rnn(pad(sequences, batch_first=True), lengths=lengths)
            return h_n[-1]
        """,
        """
        rnn = nn.LSTM(3, 4)

        def last(sequences):
            _, (h_n, _) = rnn(nn.utils.rnn.pack_sequence(sequences, enforce_sorted=False))
            return h_n[-1]
        """,
        # Padding in front: the state behind the last step is each row's own.
        """
        rnn = nn.GRU(3, 4, batch_first=True)

        def last(sequences):
            _, h_n = rnn(pad_sequence(sequences, batch_first=True, padding_side="left"))
            return h_n[-1]
        """,
        # A tagger looks at its state's shape, and hands it on.
        """
        class Tagger(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.GRU(3, 4, batch_first=True)
                self.fc = nn.Linear(4, 5)

            def forward(self, sequences, state=None):
                output, state = self.rnn(pad_sequence(sequences, batch_first=True), state)
                print(state[-1].shape, state.squeeze(0).shape)
                return self.fc(output), state
        """,
        # One of two branches is packed, by lengths that are used.
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.GRU(3, 4, batch_first=True)

            def forward(self, x, lengths):
                if self.packs:
                    x = pack_padded_sequence(x, lengths, batch_first=True)
                return self.rnn(x)[1][-1]
        """,
        # Rows that are all equally long.
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.GRU(3, 4, batch_first=True)

            def forward(self, x):
                return self.rnn(x)[1].squeeze(0)
        """,
    ],
    "last-step-of-bidirectional": [
        # Its halves are taken where each direction ends.
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.LSTM(3, 4, batch_first=True, bidirectional=True)

            def forward(self, x):
                output, _ = self.rnn(x)
                return torch.cat([output[:, -1, :4], output[:, 0, 4:]], dim=-1)
        """,
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.LSTM(3, 4, bidirectional=True)

            def forward(self, x):
                output, _ = self.rnn(x)
                last, first = output[-1], output[0]
                return torch.cat([last[:, :4], first[:, 4:]], dim=-1)
        """,
        # Only the forward half of the last step.
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.GRU(3, 4, batch_first=True, bidirectional=True)

            def forward(self, x):
                output, _ = self.rnn(x)
                forward, _ = output[:, -1].chunk(2, dim=-1)
                return forward
        """,
        # Whether it is bidirectional is not known.
        """
        class Model(nn.Module):
            def __init__(self, **options):
                super().__init__()
                self.rnn = nn.GRU(3, 4, batch_first=True, **options)

            def forward(self, x):
                return self.rnn(x)[0][:, -1]
        """,
        # A readout of every step, of which the last is looked at.
        """
        class Tagger(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.GRU(3, 4, batch_first=True, bidirectional=True)
                self.fc = nn.Linear(8, 5)

            def forward(self, x):
                logits = self.fc(self.rnn(x)[0])
                print(logits[:, -1].shape)
                return logits
        """,
    ],
    "batch-first-mismatch": [
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.GRU(3, 4)

            def forward(self, x):
                output, _ = self.rnn(x.transpose(0, 1))
                return output.transpose(0, 1)[:, -1]
        """,
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.GRU(3, 4)

            def forward(self, x):
                h0 = torch.zeros(1, x.size(1), 4)
                output, _ = self.rnn(x, h0)
                return output[-1]
        """,
        # Someone looks at one row of a result.
        """
        rnn = nn.GRU(3, 4, batch_first=True)
        output, _ = rnn(torch.randn(2, 5, 3))
        print(output[-1])
        """,
        # Turned before the layer sees it.
        """
        rnn = nn.LSTM(3, 4)

        def run(sequences):
            x = pad_sequence(sequences, batch_first=True)
            return rnn(x.permute(1, 0, 2))
        """,
        # What is packed needs no order.
        """
        rnn = nn.LSTM(3, 4)

        def run(sequences, lengths):
            x = pad_sequence(sequences, batch_first=True)
            return rnn(pack_padded_sequence(x, lengths, batch_first=True))
        """,
    ],
    "state-batch-first": [
        """
        class Model(nn.Module):
            def __init__(self, hidden, layers):
                super().__init__()
                self.hidden, self.num_layers = hidden, layers
                self.rnn = nn.LSTM(3, hidden, layers, batch_first=True)

            def forward(self, x):
                batch_size = x.size(0)
                h0 = torch.zeros(self.num_layers, batch_size, self.hidden)
                return self.rnn(x, (h0, torch.zeros_like(h0)))
        """,
        # Rows first, as DataParallel wants it, and turned in front of the layer.
        """
        class Model(nn.Module):
            def __init__(self, hidden, layers):
                super().__init__()
                self.hidden, self.num_layers = hidden, layers
                self.rnn = nn.GRU(3, hidden, layers, batch_first=True)

            def forward(self, x):
                h0 = torch.zeros(x.size(0), self.num_layers, self.hidden)
                return self.rnn(x, h0.transpose(0, 1).contiguous())
        """,
        # As many states as another has, whatever that is.
        """
        class Decoder(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.LSTM(3, 8, 2, batch_first=True)

            def forward(self, x, hidden):
                c0 = torch.zeros(hidden.size(0), hidden.size(1), 8)
                return self.rnn(x, (hidden, c0))
        """,
        # A cell's state is [B, H].
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.cell = nn.GRUCell(3, 8)

            def forward(self, x):
                h = torch.zeros(x.size(0), 8)
                for t in range(x.size(1)):
                    h = self.cell(x[:, t], h)
                return h
        """,
        # All rows of the last layer.
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.GRU(3, 8, 2, batch_first=True)

            def forward(self, x):
                _, h_n = self.rnn(x)
                return h_n[-1, :]
        """,
    ],
    "state-reshaped": [
        # One layer, one direction: [1, B, H] is [B, H].
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.GRU(3, 8, batch_first=True)

            def forward(self, x):
                _, h = self.rnn(x)
                return h.view(x.size(0), -1)
        """,
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.LSTM(3, 8, 2, bidirectional=True, batch_first=True)

            def forward(self, x):
                _, (h, c) = self.rnn(x)
                h = h.view(2, 2, x.size(0), 8)
                return h[-1].transpose(0, 1).reshape(x.size(0), -1)
        """,
        # One row for each state.
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.GRU(3, 8, 2, batch_first=True)

            def forward(self, x, h0):
                _, h = self.rnn(x, h0)
                return h.view(h0.size(0), -1)
        """,
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.GRU(3, 8, 2, batch_first=True)

            def forward(self, x):
                output, h = self.rnn(x)
                return output.reshape(x.size(0), -1), h.permute(1, 0, 2).reshape(x.size(0), -1)
        """,
    ],
    "one-direction-of-state": [
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.LSTM(3, 8, bidirectional=True)

            def forward(self, x):
                _, (h, c) = self.rnn(x)
                return torch.cat((h[-2, :, :], h[-1, :, :]), dim=1)
        """,
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.GRU(3, 8, bidirectional=True)

            def forward(self, x):
                _, h = self.rnn(x)
                forward, reverse = h[0], h[-1]
                return forward + reverse
        """,
        """
        class Model(nn.Module):
            def __init__(self, both):
                super().__init__()
                self.both = both
                self.rnn = nn.GRU(3, 8, bidirectional=both)

            def forward(self, x):
                _, h = self.rnn(x)
                return h[-2:].transpose(0, 1).flatten(1) if self.both else h[-1]

        Model(True)(x), Model(False)(x)
        """,
    ],
    "state-not-detached": [
        """
        def train(model, optimizer, loader):
            state = None
            for x, y in loader:
                optimizer.zero_grad()
                out, state = model(x, state)
                state = tuple(each.detach() for each in state)
                F.mse_loss(out, y).backward()
                optimizer.step()
        """,
        # A new state for each batch, carried within it.
        """
        def train(model, optimizer, loader):
            for x, y in loader:
                state, losses = None, []
                for t in range(x.size(1)):
                    out, state = model(x[:, t : t + 1], state)
                    losses.append(F.mse_loss(out, y[:, t]))
                optimizer.zero_grad()
                torch.stack(losses).mean().backward()
                optimizer.step()
        """,
        # Cut off by a function.
        """
        def repackage(h):
            return h.detach() if isinstance(h, torch.Tensor) else tuple(map(repackage, h))

        def train(model, optimizer, loader):
            hidden = model.init_hidden(8)
            for x, y in loader:
                optimizer.zero_grad()
                hidden = repackage(hidden)
                out, hidden = model(x, hidden)
                F.mse_loss(out, y).backward()
                optimizer.step()
        """,
        # Cut off by the model.
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.GRU(3, 8)

            def forward(self, x, state):
                output, state = self.rnn(x, state)
                return output, state.detach()

        def train(optimizer, loader):
            model, state = Model(), torch.zeros(1, 4, 8)
            for x, y in loader:
                optimizer.zero_grad()
                out, state = model(x, state)
                F.mse_loss(out, y).backward()
                optimizer.step()
        """,
        # Kept by the model, and begun anew for each batch.
        """
        class Tagger(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.LSTM(3, 4)

            def reset(self):
                self.hidden = torch.zeros(1, 1, 4), torch.zeros(1, 1, 4)

            def forward(self, x):
                output, self.hidden = self.rnn(x, self.hidden)
                return output

        model = Tagger()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, y in data:
            model.zero_grad()
            model.reset()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        """,
        # Memories of a model that is not known, which may well cut them off itself.
        """
        from elsewhere import TransformerXL

        def train(optimizer, loader):
            model, memories = TransformerXL(), None
            for x, y in loader:
                optimizer.zero_grad()
                loss, memories = model(x, y, memories)
                loss.backward()
                optimizer.step()
        """,
        # Burn-in without gradients.
        """
        def train(model, optimizer, loader):
            state = None
            for x, y in loader:
                optimizer.zero_grad()
                F.mse_loss(model(x), y).backward()
                optimizer.step()
                with torch.no_grad():
                    _, state = model(x, state)
        """,
    ],
    "padding-in-loss": [
        """
        PAD = 0
        criterion = nn.CrossEntropyLoss(ignore_index=PAD)

        def loss_of(logits, tags):
            y = pad_sequence(tags, batch_first=True, padding_value=PAD)
            return criterion(logits.flatten(0, 1), y.flatten())
        """,
        # What is real is chosen in front of the loss.
        """
        def loss_of(logits, tags, mask):
            y = pad_sequence(tags, batch_first=True)
            return F.cross_entropy(logits[mask], y[mask])
        """,
        # What is real is chosen behind it.
        """
        def loss_of(logits, tags, mask):
            y = pad_sequence(tags, batch_first=True)
            losses = F.cross_entropy(logits.transpose(1, 2), y, reduction="none")
            return (losses * mask).sum() / mask.sum()
        """,
        # Without padding at all.
        """
        def loss_of(packed_logits, tags, lengths):
            y = pack_padded_sequence(pad_sequence(tags), lengths).data
            return F.cross_entropy(packed_logits.data, y)
        """,
        # The class of padding weighs nothing.
        """
        weight = torch.ones(9)
        weight[0] = 0

        def loss_of(logits, tags):
            y = pad_sequence(tags, batch_first=True)
            return F.cross_entropy(logits.flatten(0, 1), y.flatten(), weight=weight)
        """,
        # Which number is ignored is not known here.
        """
        from settings import PAD

        def loss_of(logits, tags):
            y = pad_sequence(tags, batch_first=True, padding_value=PAD)
            return F.cross_entropy(logits.flatten(0, 1), y.flatten())
        """,
    ],
    "probabilities-for-logits": [
        # Probabilities where they are wanted.
        """
        def predict(model, x, y):
            logits = model(x)
            loss = F.cross_entropy(logits, y)
            return loss, logits.softmax(-1).argmax(-1)
        """,
        """
        model = nn.Sequential(nn.Linear(3, 1), nn.Sigmoid())
        criterion = nn.BCELoss()

        def loss_of(x, y):
            return criterion(model(x), y)
        """,
        """
        def loss_of(logits, y):
            return F.nll_loss(torch.log(F.softmax(logits, dim=1)), y)
        """,
        # Attention's softmax is no readout's.
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.GRU(3, 8, batch_first=True)
                self.score = nn.Linear(8, 1)
                self.fc = nn.Linear(8, 5)

            def forward(self, x):
                output, _ = self.rnn(x)
                weights = torch.softmax(self.score(output), dim=1)
                return self.fc((weights * output).sum(1))

        def loss_of(x, y):
            return F.cross_entropy(Model()(x), y)
        """,
        # Taking the logarithm of a softmax twice changes nothing.
        """
        def loss_of(logits, y):
            return nn.CrossEntropyLoss()(F.log_softmax(logits, dim=1), y)
        """,
    ],
    "other-padding-token": [
        """
        embedding = nn.Embedding(100, 8, padding_idx=1)

        def run(sentences):
            return embedding(pad_sequence(sentences, batch_first=True, padding_value=1))
        """,
        # No row is kept at zero, and padding may well be packed away later.
        """
        embedding = nn.Embedding(100, 8)

        def run(sentences):
            return embedding(pad_sequence(sentences, batch_first=True, padding_value=1))
        """,
        """
        embedding = nn.Embedding(100, 8, padding_idx=vocabulary["<pad>"])

        def run(sentences):
            return embedding(pad_sequence(sentences, batch_first=True, padding_value=1))
        """,
    ],
    "gradients-not-zeroed": [
        # Gradients of several batches, added up on purpose.
        """
        def train(model, optimizer, loader):
            for k, (x, y) in enumerate(loader):
                (F.mse_loss(model(x), y) / 4).backward()
                if (k + 1) % 4 == 0:
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
        """,
        """
        def clear(model):
            for parameter in model.parameters():
                parameter.grad = None

        def train(model, optimizer, loader):
            for x, y in loader:
                clear(model)
                F.mse_loss(model(x), y).backward()
                optimizer.step()
        """,
        # One step each of several optimizers.
        """
        def compare(make, x, y):
            for name in ("Adam", "SGD"):
                model = make()
                optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.1)
                F.mse_loss(model(x), y).backward()
                optimizer.step()
        """,
        # A function from elsewhere has the optimizer.
        """
        from helpers import prepare

        def train(model, optimizer, loader):
            for x, y in loader:
                prepare(model, optimizer)
                F.mse_loss(model(x), y).backward()
                optimizer.step()
        """,
        # A method from elsewhere may do it.
        """
        from helpers import Trainer

        class Mine(Trainer):
            def fit(self, loader):
                for x, y in loader:
                    self.before_step()
                    F.mse_loss(self.model(x), y).backward()
                    self.optimizer.step()
        """,
        # A schedule's step is no optimizer's.
        """
        def train(losses, scheduler):
            for loss in losses:
                loss.backward()
                scheduler.step()
        """,
    ],
    "clipping-order": [
        """
        def train(model, optimizer, loader):
            for x, y in loader:
                optimizer.zero_grad()
                F.mse_loss(model(x), y).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=5.0)
                optimizer.step()
        """,
        """
        def train(model, optimizer, scaler, loader):
            for x, y in loader:
                optimizer.zero_grad()
                scaler.scale(F.mse_loss(model(x), y)).backward()
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                scaler.step(optimizer)
                scaler.update()
        """,
        # Measured, not clipped.
        """
        def train(model, optimizer, loader):
            for x, y in loader:
                optimizer.zero_grad()
                F.mse_loss(model(x), y).backward()
                optimizer.step()
                print(nn.utils.clip_grad_norm_(model.parameters(), float("inf")))
        """,
        # Two networks, each with a step of its own.
        """
        def train(first, second, optimizers, loader):
            optimizer_1, optimizer_2 = optimizers
            for x, y in loader:
                optimizer_1.zero_grad()
                optimizer_2.zero_grad()
                F.mse_loss(first(x), y).backward()
                optimizer_1.step()
                nn.utils.clip_grad_norm_(second.parameters(), 1.0)
                F.mse_loss(second(x), y).backward()
                optimizer_2.step()
        """,
    ],
    "schedule-before-step": [
        """
        def train(model, optimizer, scheduler, loader):
            for epoch in range(10):
                for k, (x, y) in enumerate(loader):
                    optimizer.zero_grad()
                    F.mse_loss(model(x), y).backward()
                    if k % 4 == 3:
                        optimizer.step()
                scheduler.step()
        """,
        # Not in the first round.
        """
        def train(model, optimizer, scheduler, loader):
            for epoch in range(10):
                if epoch > 0:
                    scheduler.step()
                for x, y in loader:
                    optimizer.zero_grad()
                    F.mse_loss(model(x), y).backward()
                    optimizer.step()
        """,
        """
        def train(model, optimizer, scheduler, loader):
            started = False
            for x, y in loader:
                optimizer.zero_grad()
                F.mse_loss(model(x), y).backward()
                if not started:
                    optimizer.step()
                    started = True
                else:
                    scheduler.step()
                    optimizer.step()
        """,
        # A rate for what follows.
        """
        def train(model, optimizer, scheduler, loader):
            for k, (x, y) in enumerate(loader):
                optimizer.zero_grad()
                F.mse_loss(model(x), y).backward()
                scheduler.step(k / len(loader))
                optimizer.step()
        """,
        # On from where another run had come to.
        """
        def train(model, loader, done):
            optimizer = torch.optim.Adam(model.parameters())
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
            for _ in range(done):
                scheduler.step()
            for epoch in range(done, 100):
                for x, y in loader:
                    optimizer.zero_grad()
                    F.mse_loss(model(x), y).backward()
                    optimizer.step()
                scheduler.step()
        """,
        """
        def train(model, loader):
            optimizer = torch.optim.Adam(model.parameters())
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
            scheduler.step()
            for x, y in loader:
                optimizer.zero_grad()
                F.mse_loss(model(x), y).backward()
                optimizer.step()
                scheduler.step()

        for model in models:
            train(model, loader)
        """,
        # A first step that does nothing, for torch's sake.
        """
        def train(model, optimizer, scheduler, loader):
            optimizer.zero_grad()
            optimizer.step()
            for x, y in loader:
                scheduler.step()
                optimizer.zero_grad()
                F.mse_loss(model(x), y).backward()
                optimizer.step()
        """,
        # A schedule of the program's own, which counts from 1.
        """
        class Warmup:
            def __init__(self, optimizer):
                self.optimizer, self.count = optimizer, 0

            def step(self):
                self.count += 1
                for group in self.optimizer.param_groups:
                    group["lr"] = 1e-3 * min(1, self.count / 100)

        def train(model, optimizer, scheduler, loader):
            for x, y in loader:
                optimizer.zero_grad()
                F.mse_loss(model(x), y).backward()
                scheduler.step()
                optimizer.step()
        """,
        """
        from warming import Warmup

        def train(model, loader):
            optimizer = torch.optim.Adam(model.parameters())
            scheduler = Warmup(optimizer)
            for x, y in loader:
                optimizer.zero_grad()
                F.mse_loss(model(x), y).backward()
                scheduler.step()
                optimizer.step()
        """,
        # A schedule of something else.
        """
        def train(model, optimizer, kl_scheduler, loader):
            for x, y in loader:
                optimizer.zero_grad()
                (kl_scheduler.value * F.mse_loss(model(x), y)).backward()
                kl_scheduler.step()
                optimizer.step()
        """,
        # Two networks, each with a schedule behind its step.
        """
        def train(first, second, loader):
            ours, theirs = torch.optim.SGD(first.parameters()), torch.optim.SGD(second.parameters())
            fall = torch.optim.lr_scheduler.ExponentialLR(ours, 0.9)
            for x, y in loader:
                ours.zero_grad()
                F.mse_loss(first(x), y).backward()
                ours.step()
                theirs.zero_grad()
                F.mse_loss(second(x), y).backward()
                fall.step()
                theirs.step()
        """,
        # What it is a schedule of steps elsewhere.
        """
        from elsewhere import fit

        def train(first, second, loader):
            ours, theirs = torch.optim.SGD(first.parameters()), torch.optim.SGD(second.parameters())
            fall = torch.optim.lr_scheduler.ExponentialLR(ours, 0.9)
            for x, y in loader:
                fit(first, ours)
                fall.step()
                theirs.zero_grad()
                F.mse_loss(second(x), y).backward()
                theirs.step()
        """,
        # A mean over the last weights has a schedule of its own.
        """
        def train(model, optimizer, loader):
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
            late = torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.05)
            for epoch in range(100):
                for x, y in loader:
                    optimizer.zero_grad()
                    F.mse_loss(model(x), y).backward()
                    optimizer.step()
                if epoch > 75:
                    late.step()
                else:
                    scheduler.step()
        """,
    ],
    "dropout-in-evaluation": [
        """
        model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        optimizer = torch.optim.Adam(model.parameters())
        for x, y in loader:
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        model.train(False)
        with torch.no_grad():
            print(model(x))
        """,
        # Nothing drops.
        """
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
        optimizer = torch.optim.Adam(model.parameters())
        for x, y in loader:
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        with torch.no_grad():
            print(model(x))
        """,
        # Whoever calls it has the model in evaluation mode.
        """
        dropout = nn.Dropout(0.5)

        @torch.no_grad()
        def predict(model, x):
            return model(x)
        """,
    ],
    "dropout-off-in-training": [
        """
        model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        optimizer = torch.optim.Adam(model.parameters())
        for epoch in range(3):
            model.train()
            for x, y in loader:
                optimizer.zero_grad()
                F.mse_loss(model(x), y).backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                print(model(x))
        """,
        # It is the teacher that is evaluated.
        """
        student = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 1))
        optimizer = torch.optim.Adam(student.parameters())
        for x, y in loader:
            teacher.eval()
            with torch.no_grad():
                target = teacher(x)
            optimizer.zero_grad()
            F.mse_loss(student(x), target).backward()
            optimizer.step()
        """,
        # The last thing that a loop does.
        """
        model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 1))
        optimizer = torch.optim.Adam(model.parameters())
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            if loss.item() < 0.1:
                model.eval()
                break
        """,
    ],
    "dropout-always-on": [
        """
        class Model(nn.Module):
            def forward(self, x):
                x = F.dropout(x, 0.5, training=self.training)
                x = F.dropout(x, 0.5, self.training)
                x = F.alpha_dropout(x, 0.5, self.training)
                return F.dropout(x, p=0.5, training=False)
        """,
        # On, and on purpose.
        """
        class Model(nn.Module):
            def forward(self, x):
                return F.dropout(x, 0.5, training=True)
        """,
        # In training only, by hand.
        """
        class Model(nn.Module):
            def forward(self, x):
                if self.training:
                    x = F.dropout(x, 0.5)
                return x
        """,
        """
        class Model(nn.Module):
            def __init__(self, rate):
                super().__init__()
                self.rate = rate

            @property
            def drops(self):
                return self.training and self.rate > 0

            def forward(self, x):
                return self.drop(x) if self.drops else x

            def drop(self, x):
                return F.dropout(x, self.rate)
        """,
        """
        class Base(nn.Module):
            def forward(self, x):
                return self.drop(x) if self.training else x

        class Model(Base):
            def drop(self, x):
                return F.dropout(x, 0.5)
        """,
        # Where somebody asks for it.
        """
        class Model(nn.Module):
            def forward(self, x, noisy=False):
                return F.dropout(x, 0.5) if noisy else x

            def training_step(self, x):
                return self(F.dropout(x, 0.1))

            def mc_forward(self, x, draws):
                return torch.stack([self(F.dropout(x)) for _ in range(draws)])
        """,
        # Nothing is dropped.
        """
        class Model(nn.Module):
            def forward(self, x):
                return F.dropout(x, 0.0)
        """,
        # What is given is not known.
        """
        class Model(nn.Module):
            def forward(self, x, **how):
                return F.dropout(x, 0.5, **how)
        """,
        # No module's method, such as a step of training.
        """
        def augmented(x):
            return F.dropout(x, 0.1)

        class Augmented:
            def __getitem__(self, index):
                return F.dropout(self.rows[index], 0.1)
        """,
        # Another package's.
        """
        from elsewhere import functional as F

        class Model(nn.Module):
            def forward(self, x):
                return F.dropout(x, 0.5)
        """,
        # A layer that is made once, and one that is told.
        """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.dropout = nn.Dropout(0.5)

            def forward(self, x):
                return nn.Dropout(0.1).train(self.training)(self.dropout(x))
        """,
    ],
    "dropout-of-one-layer": [
        """
        class Model(nn.Module):
            def __init__(self, hidden, layers=1, dropout=0.3):
                super().__init__()
                self.rnn = nn.GRU(3, hidden, layers, dropout=dropout if layers > 1 else 0.0)

        model = Model(8)
        """,
        """
        class Model(nn.Module):
            def __init__(self, hidden, layers=1, dropout=0.3):
                super().__init__()
                self.rnn = nn.GRU(3, hidden, layers, dropout=dropout)

        model = Model(8, layers=2)
        """,
        """
        rnn = nn.LSTM(3, 4, dropout=0)
        """,
        # Switched off again.
        """
        rnn = nn.LSTM(3, 4, dropout=0.5)
        rnn.dropout = 0.0
        """,
    ],
    "optimizer-defaults": [
        """
        import optax
        theirs = torch.optim.RMSprop(model.parameters(), lr=1e-3)
        ours = optax.rmsprop(1e-3, decay=0.99, eps_in_sqrt=False)
        """,
        """
        import optax
        theirs = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
        ours = optax.adamw(1e-3, weight_decay=0.1)
        """,
        # Adam is Adam.
        """
        import optax
        theirs = torch.optim.Adam(model.parameters(), lr=1e-3)
        ours = optax.adam(1e-3)
        """,
        # A program of its own, with nothing of torch's beside it.
        """
        import optax
        ours = optax.adamw(1e-3)
        """,
        # What is given is not known.
        """
        import optax
        theirs = torch.optim.AdamW(model.parameters(), **options)
        ours = optax.adamw(1e-3)
        """,
    ],
    "tf32-in-reference": [
        """
        import jax
        import numpy as np

        theirs = nn.GRU(3, 4).double().cuda()
        np.testing.assert_allclose(ours(x), theirs(x)[0].detach().cpu())
        """,
        # Nothing is compared.
        """
        torch.set_float32_matmul_precision("high")
        rnn = nn.LSTM(3, 4).cuda()
        """,
        # The judge sets torch's precision itself.
        """
        import jaxrnn
        import parity

        parity.assert_equivalent(ours, nn.LSTM(3, 4).cuda(), (x,))
        """,
        # On a CPU there is no TF32.
        """
        import jax
        import numpy as np

        theirs = nn.GRU(3, 4)
        np.testing.assert_allclose(ours(x), theirs(x)[0].detach())
        """,
    ],
}
