"""Models whose text does not say what their layers are; the tests build them."""

from torch import nn

KINDS = {"gru": nn.GRU, "lstm": nn.LSTM}


class Encoder(nn.Module):
    """What its layer is, a caller says."""

    def __init__(self, kind, **options):
        super().__init__()
        self.rnn = KINDS[kind](3, 4, **options)
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        output, _ = self.rnn(x)
        return self.fc(output[:, -1])


class Pair(nn.Module):
    """Two encoders, which agree on some options only."""

    def __init__(self):
        super().__init__()
        self.left = Encoder("gru", batch_first=True, bidirectional=True)
        self.right = Encoder("lstm", batch_first=True, num_layers=2)


def bidirectional():
    return Encoder("lstm", batch_first=True, bidirectional=True)


def plain():
    return Encoder("gru", batch_first=True)


def of_steps():
    return Encoder("gru")


def dropping():
    return Encoder("gru", batch_first=True, dropout=0.5)


def needs_an_argument(kind):
    return Encoder(kind)


def raises():
    raise KeyError("no such data set")


def no_module():
    return 3
