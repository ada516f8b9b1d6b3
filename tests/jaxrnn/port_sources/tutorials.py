"""Networks as courses and tutorials write them: one way of saying things after the other."""

import math
import random
from typing import Optional, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Variable
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
HIDDEN = 6


class NameClassifier(nn.Module):
    """One step at a time, by linear layers."""

    def __init__(self, input_size, hidden_size, output_size):
        super().__init__()
        self.hidden_size = hidden_size
        self.i2h = nn.Linear(input_size + hidden_size, hidden_size)
        self.i2o = nn.Linear(input_size + hidden_size, output_size)
        self.softmax = nn.LogSoftmax(dim=1)

    def step(self, input, hidden):
        combined = torch.cat((input, hidden), 1)
        hidden = torch.tanh(self.i2h(combined))
        return self.softmax(self.i2o(combined)), hidden

    def forward(self, line):
        hidden = self.init_hidden(line.size(1))
        for i in range(line.size()[0]):
            output, hidden = self.step(line[i], hidden)
        return output, hidden

    def init_hidden(self, batch):
        return Variable(torch.zeros(batch, self.hidden_size)).to(device)


class PackedClassifier(nn.Module):
    """Ragged rows; both directions' last states."""

    def __init__(self, vocab_size: int, embed_dim: int, hidden_dim: int, num_classes: int, pad: int = 0) -> None:
        super(PackedClassifier, self).__init__()
        self.embedding = nn.Embedding(vocab_size, embed_dim, padding_idx=pad)
        self.lstm = nn.LSTM(embed_dim, hidden_dim, 2, bidirectional=True, batch_first=True, dropout=0.0)
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(hidden_dim * 2, num_classes, bias=False)

    def forward(self, text: torch.Tensor, lengths: torch.Tensor) -> Tuple[torch.Tensor, Tensor]:
        self.lstm.flatten_parameters()
        embedded = self.dropout(self.embedding(text.long()))
        packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        packed_output, (hidden, cell) = self.lstm(packed)
        output, output_lengths = pad_packed_sequence(packed_output, batch_first=True)
        hidden = torch.cat((hidden[-2, :, :], hidden[-1, :, :]), dim=1)
        pooled, _ = torch.max(output, dim=1)
        return self.fc(self.dropout(hidden)), F.relu(pooled)


class LanguageModel(nn.Module):
    """The kind of layer is chosen by name."""

    def __init__(self, rnn_type, ntoken, ninp, nhid, nlayers, dropout=0.0):
        super(LanguageModel, self).__init__()
        self.drop = nn.Dropout(dropout)
        self.encoder = nn.Embedding(ntoken, ninp)
        if rnn_type in ["LSTM", "GRU"]:
            self.rnn = getattr(nn, rnn_type)(ninp, nhid, nlayers, dropout=dropout)
        else:
            self.rnn = nn.RNN(ninp, nhid, nlayers, nonlinearity="relu", dropout=dropout)
        self.decoder = nn.Linear(nhid, ntoken)
        self.init_weights()
        self.rnn_type = rnn_type
        self.nhid = nhid
        self.nlayers = nlayers

    def init_weights(self):
        initrange = 0.1
        nn.init.uniform_(self.encoder.weight, -initrange, initrange)
        nn.init.zeros_(self.decoder.bias)
        self.decoder.weight.data.uniform_(-initrange, initrange)

    def forward(self, input, hidden=None):
        if hidden is None:
            hidden = self.init_hidden(input.size(1))
        emb = self.drop(self.encoder(input))
        output, hidden = self.rnn(emb, hidden)
        output = self.drop(output)
        decoded = self.decoder(output.view(output.size(0) * output.size(1), output.size(2)))
        return F.log_softmax(decoded, dim=1), hidden

    def init_hidden(self, bsz):
        weight = next(iter([self.decoder.weight]))
        if self.rnn_type == "LSTM":
            return (torch.zeros(self.nlayers, bsz, self.nhid), weight.new_zeros(self.nlayers, bsz, self.nhid))
        return weight.new_zeros(self.nlayers, bsz, self.nhid)


class Attention(nn.Module):
    """Additive."""

    def __init__(self, hidden_size):
        super().__init__()
        self.attn = nn.Linear(hidden_size * 2, hidden_size)
        self.v = nn.Parameter(torch.rand(hidden_size))
        stdv = 1.0 / math.sqrt(self.v.size(0))
        self.v.data.uniform_(-stdv, stdv)

    def forward(self, hidden, encoder_outputs, mask=None):
        timestep = encoder_outputs.size(0)
        h = hidden.repeat(timestep, 1, 1).transpose(0, 1)
        encoder_outputs = encoder_outputs.transpose(0, 1)  # [B, T, H]
        energy = torch.tanh(self.attn(torch.cat([h, encoder_outputs], 2)))
        v = self.v.repeat(encoder_outputs.size(0), 1).unsqueeze(1)
        energy = torch.bmm(v, energy.transpose(1, 2)).squeeze(1)
        if mask is not None:
            energy = energy.masked_fill(mask == 0, -1e9)
        return F.softmax(energy, dim=1).unsqueeze(1)


class Encoder(nn.Module):
    def __init__(self, input_size, embed_size, hidden_size, n_layers=1):
        super().__init__()
        self.hidden_size = hidden_size
        self.embed = nn.Embedding(input_size, embed_size)
        self.gru = nn.GRU(embed_size, hidden_size, n_layers, bidirectional=True)

    def forward(self, src, hidden=None):
        embedded = self.embed(src)
        outputs, hidden = self.gru(embedded, hidden)
        # sum of both directions
        outputs = outputs[:, :, : self.hidden_size] + outputs[:, :, self.hidden_size :]
        return outputs, hidden


class Decoder(nn.Module):
    def __init__(self, embed_size, hidden_size, output_size, n_layers=1):
        super().__init__()
        self.n_layers, self.output_size = n_layers, output_size
        self.embed = nn.Embedding(output_size, embed_size)
        self.attention = Attention(hidden_size)
        self.gru = nn.GRU(hidden_size + embed_size, hidden_size, n_layers)
        self.out = nn.Linear(hidden_size * 2, output_size)

    def forward(self, input, last_hidden, encoder_outputs, mask=None):
        embedded = self.embed(input).unsqueeze(0)  # (1, B, N)
        attn_weights = self.attention(last_hidden[-1], encoder_outputs, mask)
        context = attn_weights.bmm(encoder_outputs.transpose(0, 1)).transpose(0, 1)
        output, hidden = self.gru(torch.cat([embedded, context], 2), last_hidden)
        output = output.squeeze(0)
        output = self.out(torch.cat([output, context.squeeze(0)], 1))
        return F.log_softmax(output, dim=1), hidden, attn_weights


class Seq2Seq(nn.Module):
    """Teacher forcing, word by word, into one tensor."""

    def __init__(self, source_words, target_words, hidden_size=HIDDEN):
        super().__init__()
        self.encoder = Encoder(source_words, 4, hidden_size)
        self.decoder = Decoder(4, hidden_size, target_words)

    def forward(self, src, trg, teacher_forcing_ratio=1.0):
        batch_size = src.size(1)
        max_len = trg.size(0)
        vocab_size = self.decoder.output_size
        outputs = torch.zeros(max_len, batch_size, vocab_size, device=src.device)
        encoder_output, hidden = self.encoder(src)
        hidden = hidden[: self.decoder.n_layers]
        output = trg[0, :]  # sos
        for t in range(1, max_len):
            output, hidden, attn_weights = self.decoder(output, hidden, encoder_output)
            outputs[t] = output
            is_teacher = random.random() < teacher_forcing_ratio
            top1 = output.data.max(1)[1]
            output = trg[t] if is_teacher else top1
        return outputs


class PositionalEncoding(nn.Module):
    def __init__(self, d_model, dropout=0.1, max_len=50):
        super(PositionalEncoding, self).__init__()
        self.dropout = nn.Dropout(p=dropout)
        pe = torch.zeros(max_len, d_model)
        position = torch.arange(0, max_len, dtype=torch.float).unsqueeze(1)
        div_term = torch.exp(torch.arange(0, d_model, 2).float() * (-math.log(10000.0) / d_model))
        pe[:, 0::2] = torch.sin(position * div_term)
        pe[:, 1::2] = torch.cos(position * div_term)
        pe = pe.unsqueeze(0).transpose(0, 1)
        self.register_buffer("pe", pe)

    def forward(self, x):
        x = x + self.pe[: x.size(0), :]
        return self.dropout(x)


class TransformerModel(nn.Module):
    def __init__(self, ntoken, d_model, nhead, d_hid, nlayers, dropout=0.0):
        super().__init__()
        self.pos_encoder = PositionalEncoding(d_model, dropout)
        encoder_layers = nn.TransformerEncoderLayer(d_model, nhead, d_hid, dropout)
        self.transformer_encoder = nn.TransformerEncoder(encoder_layers, nlayers, enable_nested_tensor=False)
        self.embedding = nn.Embedding(ntoken, d_model)
        self.d_model = d_model
        self.linear = nn.Linear(d_model, ntoken)

    def forward(self, src, src_mask=None):
        src = self.embedding(src) * math.sqrt(self.d_model)
        src = self.pos_encoder(src)
        if src_mask is None:
            src_mask = torch.triu(torch.ones(len(src), len(src)) * float("-inf"), diagonal=1)
        output = self.transformer_encoder(src, src_mask)
        return self.linear(output)


class ConvTower(nn.Module):
    """Convolutions in front, layers in a list behind."""

    def __init__(self, channels, hidden, depth=2, cell=nn.GRU):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv1d(channels, hidden, kernel_size=3, padding=1), nn.BatchNorm1d(hidden), nn.LeakyReLU(0.1)
        )
        self.layers = nn.ModuleList([cell(hidden, hidden, batch_first=True) for _ in range(depth)])
        self.norms = nn.ModuleList([nn.LayerNorm(hidden) for _ in range(depth)])
        self.heads = nn.ModuleDict({"mean": nn.Linear(hidden, 1), "spread": nn.Linear(hidden, 1)})

    def forward(self, x):
        x = self.conv(x.permute(0, 2, 1)).permute(0, 2, 1)
        for layer, norm in zip(self.layers, self.norms):
            y, _ = layer(x)
            x = norm(x + y)
        last = x[:, -1]
        spread = torch.clamp(torch.exp(self.heads["spread"](last)), min=1e-3, max=10.0)
        return self.heads["mean"](last).squeeze(-1), spread.squeeze(-1), x.mean(1), x.std(dim=1, keepdim=True)


class CellByHand(nn.Module):
    """A cell in a loop; its states in lists; numbers of NumPy among the rest."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.input_size: int = input_size
        self.cell = nn.LSTMCell(input_size, hidden_size)
        self.register_buffer("scale", torch.tensor([1.0, 0.5, 2.0]))
        self.gain = nn.Parameter(torch.ones(hidden_size))
        self.weights = np.linspace(0.0, 1.0, 3).tolist()

    def forward(self, x, states: Optional[Tuple[Tensor, Tensor]] = None):
        outputs = []
        if states is None:
            h = x.new_zeros(x.size(0), self.cell.hidden_size)
            states = (h, torch.zeros_like(h))
        h, c = states
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t, :] * self.scale[t], (h, c))
            outputs += [h * self.gain if t % 2 else h]
        stacked = torch.stack(outputs, dim=1)
        left, right = stacked.chunk(2, dim=-1)
        first, rest = torch.split(stacked, [1, x.shape[1] - 1], dim=1)
        return (
            torch.einsum("bth,bsh->bts", left, right),
            first.expand(-1, 2, -1) + rest.sum(1, keepdim=True),
            stacked.flatten(1) if isinstance(stacked, torch.Tensor) else None,
        )


class Detached(nn.Module):
    """No gradient goes where it is cut."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.rnn = nn.GRU(input_size, hidden_size)
        self.fc = nn.Linear(hidden_size, hidden_size)

    def forward(self, x):
        first, h = self.rnn(x[:2])
        second, h = self.rnn(x[2:], h.detach())
        return self.fc(second) * second.data, first.detach() + self.fc(h)


class DroppedByFunction(nn.Module):
    """Dropout is a function, of a rate that the module keeps, and of others."""

    def __init__(self, size, dropout=0.25):
        super().__init__()
        self.rate = dropout
        self.dropout_1 = nn.Linear(size, size)  # the name is taken
        self.rnn = nn.GRU(size, size, batch_first=True)
        self.to(device)

    def forward(self, x):
        x = F.dropout(x, p=self.rate, training=self.training)
        y, _ = self.rnn(F.relu(self.dropout_1(x)))
        y = F.dropout(torch.tanh(F.dropout(y, 0.5, self.training)), training=self.training)
        return F.dropout(y, self.rate, self.training, inplace=True)


class DroppedAgain(DroppedByFunction):
    def __init__(self, size):
        super().__init__(size)
        if size > 1:
            self.rate = 0.75
            self.limit = 10.0  # never reached

    def forward(self, x):
        y = super().forward(x)
        return F.dropout(y.clamp(max=self.limit), 0.125, self.training) + F.dropout(x, 0.5, self.training)


class Placed(nn.Module):
    """Devices are handed from one to the other, by names and places."""

    def __init__(self, size, device: "torch.device | None" = None, where="cuda:0", layers=1):
        super().__init__()
        self.layers = layers
        self.rnn = nn.GRU(size, size, layers)
        self.device = device

    def init_hidden(self, batch_size, device):
        weight = next(iter([torch.ones(1, device=device)]))
        return weight.to(device) * torch.zeros(self.layers, batch_size, self.rnn.hidden_size, device=device)

    @staticmethod
    def scaled(x, word, device, factor=1.0):
        return x * (factor if word == "cpu" else 3.0)


class PlacedAgain(Placed):
    def __init__(self, size, *, device: torch.device = torch.device("cpu")):
        super().__init__(size, device, "cpu", 2)
        self.fc = nn.Linear(size, size).to(device)

    def forward(self, x):
        h = self.init_hidden(x.size(1), x.device) + self.init_hidden(device=device, batch_size=x.size(1))
        x, h = x.to(x.device), h.to(x.device)
        y, h = self.rnn(self.scaled(x, "cpu", x.device, 0.5), h)
        return self.fc(self.scaled(y, "cpu", factor=2.0, device=self.device)), h
