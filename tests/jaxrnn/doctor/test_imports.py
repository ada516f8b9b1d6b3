"""Files that are named together are read together: what one imports of another is followed."""

import json

import pytest

from jaxrnn.doctor import examine, read

MODEL = """
from torch import nn


class Net(nn.Module):
    def __init__(self, layers=2, dropout=0.5):
        super().__init__()
        self.rnn = nn.GRU(3, 4, layers, dropout=dropout)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        _, h_n = self.rnn(x)
        return self.fc(h_n[-1]).softmax(-1)
"""
TRAIN = """
from torch import nn
{imported}

model = {model}
criterion = nn.CrossEntropyLoss()


def loss_of(x, y):
    return criterion(model(x), y)
"""


def examined(folder, files, *named):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    found = examine([read(folder / name) for name in named])
    return [(each.rule.id, str(each.place).removeprefix(f"{folder}/")) for each in found]


@pytest.mark.parametrize(
    ("train", "model", "imported", "made"),
    [
        ("train.py", "net.py", "from net import Net", "Net()"),
        ("train.py", "net.py", "from net import Net as Model", "Model()"),
        ("train.py", "net.py", "import net", "net.Net()"),
        ("train.py", "net.py", "import net as models", "models.Net()"),
        ("train.py", "net.py", "from net import *", "Net()"),
        ("train.py", "models/net.py", "from models.net import Net", "Net()"),
        ("train.py", "models/net.py", "import models.net", "models.net.Net()"),
        ("train.py", "models/net.py", "from models import net", "net.Net()"),
        ("train.py", "models/__init__.py", "from models import Net", "Net()"),
        ("scripts/train.py", "models/net.py", "from models.net import Net", "Net()"),
        ("pkg/train.py", "pkg/net.py", "from .net import Net", "Net()"),
        ("pkg/train.py", "pkg/net.py", "from . import net", "net.Net()"),
        ("pkg/a/train.py", "pkg/b/net.py", "from ..b.net import Net", "Net()"),
        ("train.py", "net.py", "def make():\n    from net import Net\n    return Net()", "make()"),
    ],
)
def test_what_is_imported_of_another_file_is_followed(train, model, imported, made, tmp_path):
    files = {train: TRAIN.format(imported=imported, model=made), model: MODEL}
    line = files[train][: files[train].index("criterion(model(x)")].count("\n") + 1
    found = [("probabilities-for-logits", f"{train}:{line}")]
    assert examined(tmp_path, files, train, model) == found
    assert examined(tmp_path, files, model, train) == found
    assert examined(tmp_path, files, train) == examined(tmp_path, files, model) == []


@pytest.mark.parametrize(
    ("train", "model", "imported"),
    [
        ("train.py", "elsewhere/net.py", "from net import Net"),
        ("train.py", "net.py", "from models.net import Net"),
        ("pkg/train.py", "net.py", "from .net import Net"),
        ("train.py", "net.py", "from net import Other as Net"),
    ],
)
def test_another_file_of_the_same_name_is_not_taken_for_it(train, model, imported, tmp_path):
    files = {train: TRAIN.format(imported=imported, model="Net()"), model: MODEL}
    assert examined(tmp_path, files, train, model) == []


def test_a_finding_is_in_the_file_where_the_fault_is(tmp_path):
    train = "from net import Net\n\nmodel = Net(layers=1)\n"
    line = MODEL[: MODEL.index("nn.GRU")].count("\n") + 1
    assert examined(tmp_path, {"train.py": train, "net.py": MODEL}, "train.py", "net.py") == [
        ("dropout-of-one-layer", f"net.py:{line}")
    ]


def test_a_comment_silences_its_line_whoever_calls_it(tmp_path):
    comment = "  # jaxrnn: ignore[dropout-of-one-layer]"
    model = MODEL.replace("dropout=dropout)", f"dropout=dropout){comment}")
    train = "from net import Net\n\nmodel = Net(layers=1)\n"
    assert examined(tmp_path, {"train.py": train, "net.py": model}, "train.py", "net.py") == []


def test_files_that_import_each_other_come_to_an_end(tmp_path):
    files = {
        "a.py": "import b\nfrom torch import nn\n\ndef make(rate):\n    return nn.LSTM(3, 4, dropout=rate)\n",
        "b.py": "import a\n\ndef use():\n    return a.make(0.5)\n",
    }
    assert examined(tmp_path, files, "a.py", "b.py") == [("dropout-of-one-layer", "a.py:5")]


def test_a_notebook_may_import_a_file(tmp_path):
    cells = [
        {"cell_type": "code", "source": "from net import Net"},
        {"cell_type": "code", "source": "Net(layers=1)"},
    ]
    files = {"train.ipynb": json.dumps({"cells": cells}), "net.py": MODEL}
    found = examined(tmp_path, files, "train.ipynb", "net.py")
    assert [rule for rule, _ in found] == ["dropout-of-one-layer"]
