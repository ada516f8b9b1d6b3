"""Code at the top of a file, as in a course's notebook, becomes a function that does what the file did."""

import json

import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.port import port_file, port_source
from tests.jaxrnn.common import executed

NOTEBOOK = """
# %% what the others need
import numpy as np
import torch
import torch.nn as nn

np.random.seed(0)
torch.manual_seed(0)
torch.backends.cudnn.deterministic = True
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# sizes
hidden_dim, num_epochs = 8, 12
lookback = 5

wave = np.sin(0.3 * np.arange(60)).astype(np.float32)
x = np.stack([wave[i : i + lookback] for i in range(50)])[..., None]
y = np.stack([wave[i + lookback] for i in range(50)])[..., None]
x_train = torch.from_numpy(x).type(torch.Tensor).to(device)
y_train = torch.from_numpy(y).type(torch.FloatTensor).to(device)
title = '''two
    lines'''

class LSTM(nn.Module):
    def __init__(self, input_dim, hidden_dim, num_layers, output_dim):
        super(LSTM, self).__init__()
        self.lstm = nn.LSTM(input_dim, hidden_dim, num_layers, batch_first=True)
        self.fc = nn.Linear(hidden_dim, output_dim)

    def forward(self, x):
        out, (hn, cn) = self.lstm(x)
        return self.fc(out[:, -1, :])

def show(losses):
    print(len(losses), title)

model = LSTM(1, hidden_dim, 2, 1).to(device)
model.load_state_dict(torch.load("start.pt", map_location=device))
criterion = torch.nn.MSELoss(reduction="mean")
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
hist = np.zeros(num_epochs)

# training
for t in range(num_epochs):
    y_train_pred = model(x_train)
    loss = criterion(y_train_pred, y_train)
    if t % 5 == 0:
        print("epoch", t)
    hist[t] = loss.item()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

show(hist); print("trained")
model.eval()
with torch.no_grad():
    pred = model(x_train).detach().cpu().numpy()
np.savez("numbers.npz", hist=hist, pred=pred)
torch.save(model.state_dict(), "end.pt")
"""


def in_cells(text):
    """Return the file of a notebook with a cell for each paragraph."""
    cells = [
        {"cell_type": "code", "source": part, "metadata": {}, "outputs": []} for part in text.split("\n\n")
    ]
    cells.insert(1, {"cell_type": "markdown", "source": "# A title", "metadata": {}})
    return json.dumps({"cells": cells, "nbformat": 4, "nbformat_minor": 5, "metadata": {}})


@pytest.mark.torch
@pytest.mark.essential
def test_a_notebooks_cells_train_in_jax_as_they_do_in_torch(torch, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "course.ipynb"
    path.write_text(in_cells(NOTEBOOK), encoding="utf-8")
    found = port_file(path)
    assert not found.untranslated
    assert [note.code for note in found.notes] == ["torch.manual_seed(0)"]
    torch.manual_seed(3)
    loads = 'model.load_state_dict(torch.load("start.pt", map_location=device))'
    saving = NOTEBOOK.replace(loads, 'torch.save(model.state_dict(), "start.pt")')
    executed(saving, "theirs")
    expected = dict(np.load("numbers.npz")), torch.load("end.pt")
    printed = capsys.readouterr().out
    for file in ("numbers.npz", "end.pt"):
        (tmp_path / file).unlink()
    ours = executed(found.code, "__main__")
    assert capsys.readouterr().out == printed
    # Twelve steps of Adam in float32.
    np.testing.assert_allclose(np.load("numbers.npz")["hist"], expected[0]["hist"], rtol=2e-4)
    np.testing.assert_allclose(np.load("numbers.npz")["pred"], expected[0]["pred"], rtol=1e-3, atol=1e-4)
    ended = ours["LSTM"](1, 8, 2, 1, rngs=nnx.Rngs(0))
    jaxrnn.load_state_dict(ended, "end.pt")
    for name, value in expected[1].items():
        np.testing.assert_allclose(jaxrnn.state_dict(ended)[name], value, rtol=1e-3, atol=2e-4)
    assert expected[0]["hist"][-1] < 0.8 * expected[0]["hist"][0]
    for kept in (
        "    # sizes\n",
        "    # training\n",
        "def main():\n    rngs = nnx.Rngs(0)\n",
        '"""two\n    lines"""',
    ):
        assert kept in found.code


SCRIPT = """
import argparse
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.fc = nn.Linear(size, 1)

    def forward(self, x):
        return self.fc(x)

def data(rows):
    return torch.rand(rows, 3)

def build(size):
    return Net(size)

def main(rows):
    torch.manual_seed(1)
    model = build(3)
    return model(data(rows))

if __name__ == "__main__":
    device = "cpu"
    print(main(4).shape)
"""


def test_what_draws_takes_a_stream_from_the_entry_of_a_script_on(capsys):
    found = port_source(SCRIPT)
    assert not found.untranslated
    for header in (
        "def data(rows, *, rngs: nnx.Rngs):",
        "def build(size, *, rngs: nnx.Rngs):",
        "def main(rows, *, rngs",
    ):
        assert header in found.code
    ours = executed(found.code, "__main__")
    assert capsys.readouterr().out == "(4, 1)\n"
    first, again, other = (ours["main"](2, rngs=nnx.Rngs(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
    assert found.code.count("nnx.Rngs(0)") == 1


def test_weights_of_a_network_that_others_run_are_saved_and_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = """
    net = Net(3).to("cpu")
    torch.save(net.state_dict(), "net.npz")
    other = Net(3)
    other.load_state_dict(torch.load("net.npz"))
    best = other.state_dict()
    print(sorted(best))
"""
    found = port_source(SCRIPT + lines)
    assert not found.untranslated
    made = executed(found.code, "__main__")
    for name, value in jaxrnn.state_dict(made["net"]).items():
        np.testing.assert_array_equal(made["best"][name], value)


def test_a_script_with_a_main_and_code_at_the_top_keeps_both():
    found = port_source(
        SCRIPT.replace("if __name__", "net = Net(3)\nprint(net(data(2)).shape)\n\nif __name__")
    )
    assert not found.untranslated
    names = executed(found.code, "imported")
    assert {"main", "script", "Net"} <= {*names}


def test_a_name_that_is_wanted_brings_no_script_along():
    found = port_source(SCRIPT, ["Net"])
    assert found.names == ("Net",)
    assert "__main__" not in found.code
    assert "def main" not in found.code


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('torch.save({"model": net.state_dict()}, "run.pt")', "only weights are written"),
        ('checkpoint = torch.load("run.pt")', "reads the weights in a checkpoint"),
        ("net.load_state_dict(torch.load('run.pt', mmap=True))", "'mmap' has no counterpart"),
        ("torch.nn.DataParallel(net)", "no rule"),
    ],
)
def test_a_checkpoint_of_more_than_weights_is_refused_with_the_ways_to_read_it(line, why):
    found = port_source(SCRIPT + f"\n    net = Net(3)\n    net(data(1))\n    {line}\n")
    (problem,) = found.untranslated
    assert why in problem.why
    assert "raise NotImplementedError" in found.code
