"""Whole projects, as courses have them, do in JAX what they did in torch: metrics too, not their losses alone."""

import ast

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.port import port_source
from tests.jaxrnn.common import executed

CLASSIFIER = """
import torch
from torch import nn
from torch.utils.data import Dataset

TRACED = []

class Pairs(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]

class Net(nn.Module):
    def __init__(self, size, classes):
        super().__init__(); self.rnn = nn.GRU(size, 6, batch_first=True)
        self.fc = nn.Linear(6, classes)

    def init_hidden(self, rows):
        weight = next(self.parameters())
        return weight.new_zeros(1, rows, 6)

    def forward(self, x):
        TRACED.append(1)
        y, h = self.rnn(x, self.init_hidden(x.size(0)))
        return self.fc(h[-1])

def accuracy(out, y):
    return (out.argmax(dim=1) == y).float().mean()

def train(model, loader, optimizer, criterion, device):
    model.train()
    total, right, seen, accuracies = 0.0, 0, 0, []
    for step, (x, y) in enumerate(loader):
        x, y = x.to(device), y.to(device)
        optimizer.zero_grad()
        out = model(x)
        loss = criterion(out, y)
        loss.backward()
        optimizer.step()
        total += loss.item()
        _, predicted = torch.max(out, 1)
        right += (predicted == y).sum().item()
        seen += y.size(0)
        accuracies.append(accuracy(out, y).item())
    return total / len(loader), right / seen, accuracies

def evaluate(model, loader, criterion):
    model.eval()
    total, right = 0.0, 0
    with torch.no_grad():
        for x, y in loader:
            out = model(x)
            total += criterion(out, y).item()
            right += torch.sum(out.argmax(dim=1) == y).item()
    return total, right
"""


@pytest.mark.torch
@pytest.mark.essential
def test_metrics_of_a_loaders_batches_are_those_of_torch(torch):
    found = port_source(CLASSIFIER)
    assert not found.untranslated
    assert [(note.code, note.why[:14]) for note in found.notes] == [("Pairs", "stays in torch")]
    theirs, ours = executed(CLASSIFIER), executed(found.code)
    assert issubclass(ours["Pairs"], torch.utils.data.Dataset)
    random = np.random.default_rng(0)
    x = random.standard_normal((22, 5, 3)).astype(np.float32)
    data = theirs["Pairs"](torch.from_numpy(x), torch.from_numpy((x.sum((1, 2)) > 0).astype(np.int64)))
    loader = torch.utils.data.DataLoader(data, batch_size=11)
    torch.manual_seed(0)
    net, twin = theirs["Net"](3, 2), ours["Net"](3, 2, rngs=nnx.Rngs(0))
    jaxrnn.load_state_dict(twin, net.state_dict())
    adam = torch.optim.Adam(net.parameters(), lr=0.02)
    optimizer = nnx.Optimizer(twin, jaxrnn.optim.adam(0.02), wrt=nnx.Param)
    traced = []
    for _ in range(3):
        expected = theirs["train"](net, loader, adam, torch.nn.CrossEntropyLoss(), "cpu")
        ours["TRACED"].clear()
        loss, right, accuracies = ours["train"](twin, loader, optimizer, jaxrnn.losses.cross_entropy)
        traced.append(len(ours["TRACED"]))
        assert loss == pytest.approx(expected[0], rel=1e-4)
        assert (right, accuracies) == (expected[1], pytest.approx(expected[2]))
        assert right > 0.3
        evaluated = ours["evaluate"](twin, loader, jaxrnn.losses.cross_entropy)
        assert evaluated == pytest.approx(
            theirs["evaluate"](net, loader, torch.nn.CrossEntropyLoss()), rel=1e-4
        )
    assert traced == [1, 0, 0]  # the step is compiled at the first call


RAGGED = """
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence, pack_padded_sequence
from torch.utils.data import DataLoader, Dataset, TensorDataset

class Words(Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return encoded(self.rows[i]), len(self.rows[i]) % 2

def encoded(word):
    return torch.tensor([ord(letter) - 96 for letter in word])

def collate(batch):
    texts, labels = zip(*batch)
    lengths = torch.tensor([len(text) for text in texts])
    return pad_sequence(texts, batch_first=True), lengths, torch.tensor(labels, dtype=torch.float)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(27, 4, padding_idx=0)
        self.rnn = nn.LSTM(4, 5, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(10, 1)

    def forward(self, text, lengths):
        packed = pack_padded_sequence(self.embed(text), lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (h, _) = self.rnn(packed)
        return self.fc(torch.cat([h[-2], h[-1]], dim=1)).squeeze(1)

def loaders(words, x, y):
    pairs = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), batch_size=2)
    return DataLoader(Words(words), batch_size=3, collate_fn=collate), pairs

def scores(model, loader):
    right, total = 0.0, sum(p.numel() for p in model.parameters() if p.requires_grad)
    for text, lengths, label in loader:
        out = torch.sigmoid(model(text, lengths))
        right += ((out > 0.5) == label).float().sum().item()
    return right, total, out
"""


@pytest.mark.torch
def test_what_loads_data_stays_in_torch_and_is_listed(torch):
    found = port_source(RAGGED)
    assert not found.untranslated
    assert [note.code for note in found.notes] == ["Words", "collate", "encoded"]
    for line in ("import torch", "from torch.utils.data import DataLoader, Dataset, TensorDataset"):
        assert f"\n{line}\n" in found.code
    assert "from torch import nn" not in found.code
    theirs, ours = executed(RAGGED), executed(found.code)
    words = ["abc", "d", "efgh", "ij", "k", "lm", "nop"]
    x, y = np.arange(12.0, dtype=np.float32).reshape(4, 3), np.arange(4)
    net, twin = theirs["Net"](), ours["Net"](rngs=nnx.Rngs(0))
    jaxrnn.load_state_dict(twin, net.state_dict())
    loaders, expected = ours["loaders"](words, x, y), theirs["loaders"](words, x, y)
    for batch, other in zip(loaders[1], expected[1], strict=True):
        np.testing.assert_array_equal(batch[0], other[0])
        np.testing.assert_array_equal(batch[1], other[1])
    right, total, out = ours["scores"](twin, loaders[0])
    assert (right, total) == theirs["scores"](net, expected[0])[:2]
    # Seven words through one layer in float32.
    np.testing.assert_allclose(out, theirs["scores"](net, expected[0])[2].detach(), rtol=1e-5)


def test_a_file_comes_whole_also_where_nothing_is_named_torch():
    found = port_source(
        """
def train(model, optimizer, x, y, criterion):
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses

def batchify(data, bsz):
    nbatch = data.size(0) // bsz
    data = data.narrow(0, 0, nbatch * bsz)
    return data.view(bsz, -1).t().contiguous()

def vocabulary(lines):
    seen, order = set(), []
    for line in lines:
        for word in line.split():
            if word not in seen:
                seen.add(word)
                order.append(word)
    return order

def plain(a, b):
    return a + b  # as it is
"""
    )
    assert not found.untranslated
    assert found.names == ("train", "batchify", "vocabulary", "plain")
    made = executed(found.code)
    np.testing.assert_array_equal(made["batchify"](jnp.arange(7), 2), [[0, 3], [1, 4], [2, 5]])
    assert made["vocabulary"](["a b", "b c"]) == ["a", "b", "c"]
    assert "return a + b  # as it is" in found.code
    model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, jaxrnn.optim.sgd(0.1), wrt=nnx.Param)
    losses = made["train"](model, optimizer, jnp.ones((3, 2)), jnp.zeros((3, 1)), jaxrnn.losses.mse_loss)
    assert losses[1] < losses[0]


@pytest.mark.torch
@pytest.mark.parametrize(
    "kind", ["unpacked", "in parts", "a dictionary", "a loss of one's own", "by a trainer"]
)
def test_batches_are_arrays_however_a_loop_takes_them_apart(torch, kind):
    takes = {
        "unpacked": "for batch in loader:\n        x, y = batch",
        "in parts": "for batch in loader:\n        x = batch[0]\n        y = batch[1]",
        "a dictionary": "for batch in loader:\n        x, y = batch['x'], batch['y']",
        "a loss of one's own": "for x, y in loader:\n        half = x[:, :1] * 2",
        "by a trainer": "for x, y in loader:\n        x = x.to(device)",
    }[kind]
    code = f"""
import torch

def crit(out, y):
    return ((out.sum(1) - y) ** 2).mean()

def train(model, loader, optimizer, device):
    losses, right = [], 0
    {takes}
        optimizer.zero_grad()
        loss = crit(model(x), y)
        loss.backward()
        optimizer.step()
        right += (x.sum(1).round() == y).sum().item()
        losses.append(loss.item())
    return losses, right
"""
    found = port_source(code)
    assert not found.untranslated
    x, y = torch.arange(12.0).reshape(6, 2), torch.tensor([1.0, 0, 9, 0, 17, 0])
    pairs = (
        [{"x": a, "y": b} for a, b in zip(x, y, strict=True)]
        if kind == "a dictionary"
        else list(zip(x, y, strict=True))
    )
    loader = torch.utils.data.DataLoader(pairs, batch_size=3)
    torch.manual_seed(0)
    theirs, ours = torch.nn.Linear(2, 3), nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    jaxrnn.load_state_dict(ours, theirs.state_dict())
    expected = executed(code)["train"](theirs, loader, torch.optim.SGD(theirs.parameters(), lr=1e-3), "cpu")
    optimizer = nnx.Optimizer(ours, jaxrnn.optim.sgd(1e-3), wrt=nnx.Param)
    losses, right = executed(found.code)["train"](ours, loader, optimizer)
    np.testing.assert_allclose(losses, expected[0], rtol=1e-5)
    assert right == expected[1] > 0


def test_a_method_that_only_tensors_have_is_never_left_as_it_is():
    found = port_source("def pick(data, index):\n    return data.gather(1, index), data.unfold(0, 2, 1)\n")
    assert [problem.code for problem in found.untranslated] == [
        "data.gather(1, index)",
        "data.unfold(0, 2, 1)",
    ]


def test_what_a_function_draws_has_the_distributions_of_torch():
    found = port_source(
        """
import torch

def draws(n, p):
    kinds = torch.multinomial(p.expand(n, -1), 1)
    coins = torch.bernoulli(torch.full((n,), 0.25))
    below, between = torch.randint(5, (n,)), torch.randint(2, 4, (n,))
    return kinds, coins, below, between, torch.randperm(n), torch.randn_like(coins)
"""
    )
    assert not found.untranslated
    n, p = 4000, jnp.array([0.1, 0.6, 0.3])
    kinds, coins, below, between, order, normal = executed(found.code)["draws"](n, p, rngs=nnx.Rngs(0))
    assert kinds.shape == (n, 1)
    shares = np.bincount(np.asarray(kinds[:, 0]), minlength=3) / n
    # Within four standard deviations of a share of 4000 draws.
    np.testing.assert_allclose(shares, p, atol=4 * 0.5 / np.sqrt(n))
    assert coins.mean() == pytest.approx(0.25, abs=4 * 0.5 / np.sqrt(n))
    assert set(np.unique(below)) == {0, 1, 2, 3, 4}
    assert set(np.unique(between)) == {2, 3}
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    assert abs(normal.mean()) < 4 / np.sqrt(n)
    assert len({str(each) for each in (coins, normal)}) == 2


def test_loops_over_words_and_numbers_take_no_arrays():
    found = port_source(
        """
import torch

def sample(model, words, encode):
    found = []
    for word in words:
        print(word)
        found.append(model(encode_line(word)))
    for k in range(3):
        found.append(model(k))
    return found

def encode_line(word):
    return torch.zeros(len(word))
"""
    )
    loops = [node for node in ast.walk(ast.parse(found.code)) if isinstance(node, ast.For)]
    assert len(loops) == 2
    assert "tree.map" not in found.code
