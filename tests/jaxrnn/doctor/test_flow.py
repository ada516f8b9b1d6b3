"""How far what is known of a value goes: through names, tuples, branches, functions, classes and loaders."""

import pytest

from jaxrnn.doctor import RULES
from tests.jaxrnn.doctor.common import found, program

RULE = "dropout-of-one-layer"

# What makes `nn.LSTM(3, 4, dropout=0.5)`, by all kinds of names.
FOLLOWED = [
    "import torch.nn\nrnn = torch.nn.LSTM(3, 4, dropout=0.5)",
    "import torch as t\nrnn = t.nn.GRU(3, 4, dropout=0.5)",
    "import torch.nn as tnn\nrnn = tnn.RNN(3, 4, dropout=0.5)",
    "from torch.nn import LSTM as Layer\nrnn = Layer(3, 4, dropout=0.5)",
    "from torch import nn as networks\nrnn = networks.LSTM(3, 4, dropout=0.5)",
    "Layer = nn.LSTM\nrnn = Layer(3, 4, dropout=0.5)",
    "rate = 0.5\nrnn = nn.LSTM(3, 4, dropout=rate)",
    "layers, rate = 1, 0.5\nrnn = nn.LSTM(3, 4, layers, dropout=rate)",
    "rnn = nn.LSTM(3, 4, 2 - 1, dropout=0.5)",
    "rnn = nn.LSTM(3, 4, dropout=0.5 if True else 0)",
    "if (rnn := nn.LSTM(3, 4, dropout=0.5)): pass",
    "rnns = [nn.LSTM(3, 4, dropout=0.5) for _ in range(2)]",
    "rnns = nn.ModuleList([nn.LSTM(3, 4, dropout=0.5)])",
    "make = lambda rate: nn.LSTM(3, 4, dropout=rate)\nrnn = make(0.5)",
    "def make(rate, layers=1):\n    return nn.LSTM(3, 4, layers, dropout=rate)\nrnn = make(0.5)",
    "def make(*, rate=0.5):\n    return nn.LSTM(3, 4, dropout=rate)\nrnn = make()",
    "for rate in (0.5, 0.5):\n    rnn = nn.LSTM(3, 4, dropout=rate)",
    "with context() as c:\n    rnn = nn.LSTM(3, 4, dropout=0.5)",
    "try:\n    rnn = nn.LSTM(3, 4, dropout=0.5)\nexcept ValueError:\n    rnn = None",
    "match kind:\n    case 1:\n        rnn = nn.LSTM(3, 4, dropout=0.5)",
    "class Options:\n    def __init__(self):\n        self.rate = 0.5\noptions = Options()\n"
    "rnn = nn.LSTM(3, 4, dropout=options.rate)",
    "class Model:\n    @property\n    def rate(self):\n        return 0.5\n"
    "rnn = nn.LSTM(3, 4, dropout=Model().rate)",
    "class Base(nn.Module):\n    def __init__(self, rate):\n        self.rnn = nn.LSTM(3, 4, dropout=rate)\n"
    "class Model(Base):\n    pass\nmodel = Model(0.5)",
    "def outer():\n    class Model(nn.Module):\n        def __init__(self):\n"
    "            self.rnn = nn.LSTM(3, 4, dropout=0.5)\n    return Model",
    "class Base(nn.Module):\n    def __init__(self, rate):\n        super().__init__()\n"
    "        self.rnn = nn.LSTM(3, 4, dropout=rate)\n"
    "class Model(Base):\n    def __init__(self):\n        super(Model, self).__init__(rate=0.5)",
    "async def make():\n    return nn.LSTM(3, 4, dropout=0.5)",
]

# What is not known: another value may come from elsewhere.
UNKNOWN = [
    "from settings import rate\nrnn = nn.LSTM(3, 4, dropout=rate)",
    "def make(rate=0.5):\n    return nn.LSTM(3, 4, dropout=rate)",
    "rate = 0.5 if deep else 0.0\nrnn = nn.LSTM(3, 4, dropout=rate)",
    "rate = 0.0\nif deep:\n    rate = 0.5\nrnn = nn.LSTM(3, 4, dropout=rate)",
    "rate = 0.5\nif deep:\n    layers = 2\nelse:\n    layers = 1\nrnn = nn.LSTM(3, 4, layers, dropout=rate)",
    "rate = 0.5\nrate *= 0\nrnn = nn.LSTM(3, 4, dropout=rate)",
    "rnn = nn.LSTM(3, 4, dropout=0.5, **options)",
    "rnn = nn.LSTM(*sizes, dropout=0.5)",
    "rate = 0.5\ndef make():\n    return nn.LSTM(3, 4, dropout=rate)\nrate = 0.0",
    "rate = 0.5\ndef change():\n    global rate\n    rate = 0.0\n"
    "def make():\n    return nn.LSTM(3, 4, dropout=rate)",
    "class Model(nn.Module):\n    def __init__(self):\n        self.rate = 0.5\n    def change(self, rate):\n"
    "        self.rate = rate\n    def make(self):\n        return nn.LSTM(3, 4, dropout=self.rate)",
    "from elsewhere import Base\nclass Model(Base):\n    def __init__(self):\n        super().__init__(rate=0.5)\n"
    "        self.rnn = nn.LSTM(3, 4, dropout=self.rate)",
    "class nn:\n    LSTM = dict\nrnn = nn.LSTM(a=3, dropout=0.5)",
    "from elsewhere import nn\nrnn = nn.LSTM(3, 4, dropout=0.5)",
    "def make(rate):\n    if rate:\n        return make(rate)\n    return nn.LSTM(3, 4, dropout=rate)\nmake(0.5)",
    "for rate in (0.0, 0.5):\n    rnn = nn.LSTM(3, 4, dropout=rate)",
]


@pytest.mark.parametrize("text", FOLLOWED)
def test_what_is_known_of_a_value_is_followed_to_its_use(text, tmp_path):
    assert found(tmp_path, program(text)) == [RULE]


@pytest.mark.parametrize("text", UNKNOWN)
def test_of_what_is_not_known_nothing_is_said(text, tmp_path):
    assert found(tmp_path, program(text)) == []


def test_a_finding_is_reported_once_however_often_it_is_reached(tmp_path):
    text = "def make():\n    return nn.LSTM(3, 4, dropout=0.5)\nmake(), make(), [make() for _ in range(3)]"
    assert found(tmp_path, program(text)) == [RULE]


def test_code_that_is_never_reached_is_not_looked_at(tmp_path):
    text = "def make():\n    return None\n    return nn.LSTM(3, 4, dropout=0.5)"
    assert found(tmp_path, program(text)) == []


def test_functions_that_call_each_other_come_to_an_end(tmp_path):
    calls = "\n".join(f"    f{k}(); f{k}()" for k in range(8))
    text = "\n".join(f"def f{k}():\n{calls}" for k in range(8))
    assert found(tmp_path, program(f"{text}\nrnn = nn.LSTM(3, 4, dropout=0.5)")) == [RULE]


def test_findings_of_several_files_come_in_their_order(tmp_path):
    texts = [program("rnn = nn.LSTM(3, 4, dropout=0.5)"), *(rule.wrong for rule in RULES[:2])]
    assert found(tmp_path, *texts) == [RULE, RULES[0].id, RULES[1].id]


def test_an_optimizer_and_its_port_may_stand_in_two_files(tmp_path):
    theirs = program("optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)")
    ours = "import optax\n\noptimizer = optax.adamw(1e-3)\n"
    assert found(tmp_path, theirs, ours) == ["optimizer-defaults"]
    assert found(tmp_path, theirs) == found(tmp_path, ours) == []
