"""What `jaxrnn port` cannot translate is named with its line, and raises at its place; and how the file looks."""

import contextlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner
from flax import nnx

import jaxrnn
from jaxrnn.cli import main
from jaxrnn.port import port_file, port_source
from tests.jaxrnn.common import executed

SOURCES = Path(__file__).parent / "port_sources"
HEAD = "import random\nimport torch\nimport torch.nn.functional as F\nfrom torch import nn\n\n"


def ported(body: str, *wanted: str):
    """Return what is made of classes and functions behind the usual imports."""
    return port_source(HEAD + textwrap.dedent(body), wanted)


# A line of a forward pass, what is named, and part of why.
REFUSED = {
    "y = torch.fft.rfft(x)": ("torch.fft.rfft(x)", "no rule"),
    "y = x.unfold(0, 2, 1)": ("x.unfold(0, 2, 1)", "no rule"),
    "x.add_(1); y = x": ("x.add_(1)", "overwrites a tensor"),
    "y = x.zero_()": ("x.zero_()", "assign what it returns"),
    "y = F.dropout(x, 0.5)": ("F.dropout(x, 0.5)", "drops in evaluation too"),
    "p = 0.5; y = F.dropout(x, p, self.training)": ("F.dropout(x, p, self.training)", "as its rate"),
    "y = x if self.training else -x": ("self.training", "Dropout"),
    "y = torch.optim.lr_scheduler.StepLR(x, 3)": (
        "lr_scheduler.StepLR(x, 3)",
        "takes the place of the learning",
    ),
    "y = torch.randn(3)": ("torch.randn(3)", "stream"),
    "y = x.var(1, False)": ("x.var(1, False)", "no counterpart"),
    "y = torch.div(x, 2, rounding_mode='floor')": ("rounding_mode", "no counterpart"),
    "n = 1; y = torch.max(x, n)": ("torch.max(x, n)", "an axis or a tensor"),
    "y = F.softmax(x)": ("F.softmax(x)", "say which"),
    "y = (x + 1).expand(-1, 3)": ("(x + 1).expand(-1, 3)", "a name first"),
    "y = x.to(self.there)": ("x.to(self.there)", "device or a dtype"),
    "y = torch.utils.data.TensorDataset(*x)": ("TensorDataset(*x)", "one by one"),
    "y = x.view(dtype=torch.int32)": ("x.view(dtype=", "bitcast"),
    "self.fc.weight.requires_grad = False; y = x": ("self.fc.weight.requires_grad", "Frozen"),
    "self.fc.weight = self.fc.bias; y = x": ("self.fc.weight = self.fc.bias", "stored transposed"),
    "y = x.sort()[0]": ("x.sort()", "no rule"),
    "y = (x > 0).nonzero()": ("(x > 0).nonzero()", "no rule"),
    "x.view(-1)[0] = 1; y = x": ("x.view(-1)[0]", "by a view of it"),
    "self.last = x; y = x": ("self.last", "keeps nothing"),
    "y = nn.Linear(3, 4)(x)": ("nn.Linear(3, 4)", "__init__"),
    "y = sum(p.sum() for p in self.parameters())": ("self.parameters()", "nnx.Param"),
    "y = x if x.device.type == 'cpu' else -x": ("x.device", "leave devices out"),
    "with torch.autograd.set_detect_anomaly(True):;     y = x": ("set_detect_anomaly", "no rule"),
    "y = torch.arange(end=4)": ("torch.arange(end=4)", "without their names"),
    "y = torch.Tensor(3, 4)": ("torch.Tensor(3, 4)", "no values yet"),
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_has_no_translation_is_named_and_raises_at_its_place(line):
    code, why = REFUSED[line]
    source = """
class Net(nn.Module):
    def __init__(self, there=None):
        super().__init__()
        self.there = there
        self.fc = nn.Linear(4, 4)

    def forward(self, x, early=False):
        if early:
            return self.fc(x)
"""
    lines = [*line.split(";"), "return y"]
    source = HEAD + source + "\n".join(f"        {each.removeprefix(' ')}" for each in lines)
    found = port_source(source)
    problem = found.untranslated[0]
    assert code in problem.code
    assert why in problem.why
    assert problem.code.splitlines()[0] in source.splitlines()[problem.line - 1].replace('"', "'")
    assert "# Not translated: " in found.code
    net = executed(found.code)["Net"](rngs=nnx.Rngs(0))
    assert net(jnp.ones((3, 4)), early=True).shape == (3, 4)
    with pytest.raises(NotImplementedError, match="not translated"):
        net(jnp.ones((3, 4)))


LOOPS = {
    "two optimizers": (
        "a.zero_grad(); loss = model(x).sum(); loss.backward(); a.step(); b.step()",
        "once each",
    ),
    "gradients added up": (
        "loss = model(x).sum(); loss.backward()\n        if x: a.step(); a.zero_grad()",
        "once each",
    ),
    "two passes back": (
        "a.zero_grad(); l = model(x).sum(); l.backward(); l.backward(); a.step()",
        "several backward",
    ),
    "a graph is kept": (
        "a.zero_grad(); l = model(x).sum(); l.backward(retain_graph=True); a.step()",
        "with arguments",
    ),
    "a guard before backward": (
        "a.zero_grad(); l = model(x).sum()\n        if torch.isnan(l): continue\n        l.backward(); a.step()",
        "leaves the step before its update",
    ),
    "a number that changes in an object": (
        "data.beta = float(x.sum()); a.zero_grad(); l = model(x).sum() * data.beta; l.backward(); a.step()",
        "'data' changes between steps",
    ),
    "a part is clipped": (
        "a.zero_grad(); l = model(x).sum(); l.backward(); nn.utils.clip_grad_norm_(model.rnn.parameters(), 1.0); "
        "a.step()",
        "clips other gradients than those of model.parameters()",
    ),
    "clipped too late": (
        "a.zero_grad(); l = model(x).sum(); l.backward(); a.step(); "
        "nn.utils.clip_grad_norm_(model.parameters(), 1.0)",
        "after the update",
    ),
    "no model is seen": ("a.zero_grad(); loss.backward(); a.step()", "no call of a model"),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_that_trains_in_another_way_is_refused(name):
    body, why = LOOPS[name]
    lines = "\n        ".join(body.split("; "))
    found = ported(f"def train(model, a, b, data, loss):\n    for x in data:\n        {lines}\n", "train")
    assert [problem.why for problem in found.untranslated if why in problem.why]
    assert "raise NotImplementedError" in found.code


def test_a_global_that_changes_is_not_frozen_in_a_compiled_step():
    source = """
    SCALE = 1.0

    def scaled(x):
        return x * SCALE

    def objective(x):
        return scaled(x).sum()

    def louder():
        global SCALE
        SCALE = 2.0

    def train(model, optimizer, data):
        for x in data:
            optimizer.zero_grad()
            loss = objective(model(x))
            loss.backward()
            optimizer.step()
            louder()
    """
    (problem,) = ported(source).untranslated
    assert "'SCALE' changes between steps" in problem.why
    assert not ported(source.replace("global SCALE", "pass")).untranslated


def test_a_training_step_clips_carries_a_state_and_sums_its_losses(torch):
    source = """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(2, 3)
            self.fc = nn.Linear(3, 1)

        def forward(self, x, h):
            y, h = self.rnn(x, h)
            return self.fc(y), h

    def train(model, batches, lr):
        criterion = nn.MSELoss()
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        total, h, losses = 0.0, torch.zeros(1, 1, 3), []
        for epoch in range(2):
            for x, y in batches:
                h = h.detach()
                optimizer.zero_grad()
                output, h = model(x, h)
                loss = criterion(output, y)
                loss.backward()
                # as ever
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                optimizer.step()
                total += loss.item()
                losses.append(loss.item())
        return losses, total, output
    """
    source = HEAD + textwrap.dedent(source)
    found = port_source(source)
    assert not found.untranslated
    torch.manual_seed(0)
    theirs, made = executed(source), executed(found.code)
    network = theirs["Net"]()
    twin = made["Net"](rngs=nnx.Rngs(0))
    jaxrnn.load_state_dict(twin, network.state_dict())
    batches = [
        (np.sin(np.arange(8.0) + n).reshape(4, 1, 2).astype(np.float32), np.full((4, 1, 1), n, np.float32))
        for n in range(3)
    ]
    expected = theirs["train"](network, [tuple(map(torch.from_numpy, batch)) for batch in batches], 0.1)
    losses, total, output = made["train"](twin, [tuple(map(jnp.asarray, batch)) for batch in batches], 0.1)
    # Six steps in float32, each of a few hundred operations.
    np.testing.assert_allclose(losses, expected[0], rtol=2e-5)
    np.testing.assert_allclose(total, expected[1], rtol=2e-5)
    np.testing.assert_allclose(output, expected[2].detach(), rtol=1e-4, atol=1e-5)
    for key, value in network.state_dict().items():
        np.testing.assert_allclose(jaxrnn.state_dict(twin)[key], value.numpy(), rtol=1e-4, atol=1e-5)


STEPS = {
    "outputs in a list": """
        outputs = []
        h = torch.zeros(1, 3)
        for t in range(x.shape[1]):
            h = model(x[:, t] + h[:, :2])
            outputs.append(h)
        loss = criterion(torch.stack(outputs, 1), y)
        losses.append(loss.item())
        last = h
    """,
    "a sum over steps": """
        loss = 0
        for t in range(x.shape[1]):
            loss += criterion(model(x[:, t]), y[:, t])
        last = model(x[:, 0])
    """,
    "all in one line": """
        loss = criterion(model(x), y)
        last = x
    """,
    "metrics in between": """
        out = model(x)
        right = (out > 0).sum().item()
        loss = criterion(out, y)
        last = out * right
    """,
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("norm", ["0.05", "max_norm=0.02, norm_type=float('inf')"])
def test_a_training_step_is_found_however_its_loss_is_written(torch, name, norm):
    body = textwrap.indent(textwrap.dedent(STEPS[name]).strip(), " " * 8)
    source = HEAD + (
        "def train(model, optimizer, x, y):\n    criterion, losses = nn.MSELoss(), []\n    for epoch in range(3):\n"
        f"        optimizer.zero_grad()\n{body}\n        loss.backward()\n"
        f"        nn.utils.clip_grad_norm_(model.parameters(), {norm})\n        optimizer.step()\n"
        "    return loss, last\n"
    )
    found = port_source(source)
    assert not found.untranslated
    theirs, ours = torch.nn.Linear(2, 3), nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    jaxrnn.load_state_dict(ours, theirs.state_dict())
    x = np.sin(np.arange(16.0)).reshape(2, 4, 2).astype(np.float32)
    y = np.cos(np.arange(24.0)).reshape(2, 4, 3).astype(np.float32)
    expected = executed(source)["train"](
        theirs, torch.optim.SGD(theirs.parameters(), lr=0.5), torch.from_numpy(x), torch.from_numpy(y)
    )
    rule = nnx.Optimizer(ours, jaxrnn.optim.sgd(0.5), wrt=nnx.Param)
    loss, last = executed(found.code)["train"](ours, rule, jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(loss, expected[0].detach(), rtol=1e-5)
    np.testing.assert_allclose(last, expected[1].detach(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        jaxrnn.state_dict(ours)["weight"], theirs.weight.detach(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "line",
    [
        "for p in model.parameters():\n            loss = loss + p.pow(2).sum()",
        "for p in model.parameters():\n            p.grad.data.clamp_(-1, 1)",
        "for p in model.parameters():\n            p.data.add_(p.grad, alpha=-0.1)",
        "nn.utils.clip_grad_value_(model.parameters(), 1.0)",
        "nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)",
    ],
)
def test_what_else_is_done_to_parameters_is_never_left_out_in_silence(line):
    before, after = (f"{line}\n        ", "") if "loss +" in line else ("", f"\n        {line}")
    found = ported(
        "def train(model, optimizer, data):\n    for x in data:\n        optimizer.zero_grad()\n"
        f"        loss = model(x).sum()\n        {before}loss.backward(){after}\n        optimizer.step()\n",
        "train",
    )
    assert found.untranslated
    assert not found.notes
    assert "raise NotImplementedError" in found.code


def test_a_loop_over_torchs_loader_trains_as_the_original_does(torch):
    source = """
def train(model, loader, device, lr=0.1):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    model.to(device)
    losses = []
    for epoch in range(2):
        for i, (xb, yb) in enumerate(loader):
            xb, yb = xb.to(device), yb.to(device)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(xb.view(len(yb), -1)) / (1 + i), yb)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def main(model, loader, dev):
    return train(model, loader, dev, 0.2)
"""
    found = ported(source)
    assert not found.untranslated
    random = np.random.default_rng(0)
    x, y = random.standard_normal((12, 2, 3)).astype(np.float32), random.integers(0, 4, 12)
    data = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    loader = torch.utils.data.DataLoader(data, batch_size=5)
    torch.manual_seed(0)
    theirs, ours = torch.nn.Linear(6, 4), nnx.Linear(6, 4, rngs=nnx.Rngs(0))
    jaxrnn.load_state_dict(ours, theirs.state_dict())
    expected = executed(HEAD + source)["main"](theirs, loader, "cpu")
    losses = executed(found.code)["main"](ours, loader, "cpu")
    # Six steps in float32 of a linear map.
    np.testing.assert_allclose(losses, expected, rtol=2e-5)
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(jaxrnn.state_dict(ours)[name], value, rtol=2e-5, atol=1e-6)


def test_code_without_a_translation_outside_of_functions_stops_no_import():
    found = ported(
        """
        noise = torch.randn(3)
        total, history = 0.0, []

        class Net(nn.Module):
            shared = torch.rand(2)

            def forward(self, x):
                history = [x]
                return x + noise + len(history)

        @torch.no_grad()
        def evaluate(net, x):
            total = net(x)
            return total

        """
    )
    net = executed(found.code)["Net"]()
    with pytest.raises(NameError, match="noise"):
        net(jnp.ones(3))
    assert [problem.code for problem in found.untranslated] == ["torch.randn(3)", "torch.rand(2)"]
    assert "# noise = torch.randn(3)" in found.code
    for local in ("history, total", "no_grad", "total, history"):
        assert local not in found.code


def test_a_method_without_gradients_is_noted_as_one_with_them():
    found = ported(
        """
        class Net(nn.Module):
            @torch.no_grad()
            def generate(self, x):
                with torch.inference_mode():
                    return x + 1

        @torch.inference_mode()
        def evaluate(net, x):
            with torch.inference_mode():
                return net.generate(x)
        """
    )
    assert [note.code for note in found.notes] == ["@torch.no_grad()", "@torch.inference_mode()"]
    assert "if a loss is made of it" in found.notes[0].why
    assert [problem.code for problem in found.untranslated] == ["torch.inference_mode()"]
    assert "@" not in found.code.replace("# Not translated: @", "")
    assert executed(found.code)["evaluate"](type("Doubling", (), {"generate": lambda _, x: 2 * x})(), 3) == 6


def test_comments_layout_and_what_is_not_of_torch_stay():
    found = ported(
        '''
        LIMIT = 3  # of something


        # What it is for.
        class Net(nn.Module):
            """Its docstring."""

            def __init__(self, size):
                super(Net, self).__init__()
                self.size = size  # as given

                self.fc = nn.Linear(
                    size,  # in
                    LIMIT,
                )  # maps

            @property
            def twice(self):
                return self.size * 2

            def forward(self, x):
                # Both ways.
                y = self.fc(x)  # here

                return y if self.twice > LIMIT else -y

        class Other:
            pass
        '''
    )
    for kept in (
        "LIMIT = 3  # of something", "# What it is for.\nclass Net(nnx.Module):", '    """Its docstring."""',
        "        # in\n", "  # maps", "    @property\n    def twice(self):\n        return self.size * 2",
        "        # Both ways.\n        y = self.fc(x)  # here\n\n        return",
    ):  # fmt: skip
        assert kept in found.code
    assert "class Other:\n    pass" in found.code
    assert "torch" not in found.code.split('"""', 2)[2].replace("torch_linear", "")


def test_numbers_that_python_draws_are_noted():
    found = ported(
        """
        class Net(nn.Module):
            def forward(self, x):
                return x if random.random() < 0.5 else -x
        """
    )
    assert "rngs" not in found.code
    assert [(note.code, note.why) for note in found.notes] == [
        ("random.random()", "compiled code draws it once, when it is compiled")
    ]


def test_a_tensor_that_others_hold_is_noted_where_it_is_changed():
    found = ported(
        """
        class Net(nn.Module):
            def forward(self, x):
                y = x
                y += 1
                x[0] = 2
                z = torch.zeros(3)
                z[1] = 1
                z += 1
                w = x.view(-1)
                w[0] = 3
                return x + y
        """
    )
    assert [note.code for note in found.notes] == ["y += 1", "x[0] = 2", "w[0] = 3"]
    assert "keep the old values" in found.notes[0].why


def test_what_is_held_otherwise_than_in_torch_is_noted():
    found = ported(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = [nn.Linear(2, 2) for _ in range(2)]

            def forward(self, x):
                h = torch.tanh(x)
                kept = h
                h += 1
                return kept + h

        def run(model, x):
            best, states = model.state_dict(), []
            best = model.state_dict()
            h = torch.zeros(3)
            states.append(h)
            h += model(x)
            return best, states
        """
    )
    assert not found.untranslated
    noted = {note.code: note.why for note in found.notes}
    assert "here they are trained" in noted["self.layers = [nn.Linear(2, 2) for _ in range(2)]"]
    assert "keep the old values" in noted["h += 1"]
    assert "keep the old values" in noted["h += model(x)"]
    assert "a copy; torch's are the tensors themselves" in noted["best = model.state_dict()"]


def test_old_ways_of_constructors_and_calls_are_known():
    found = ported(
        """
        class Base(nn.Module):
            def __init__(self):
                nn.Module.__init__(self)
                self.gain = nn.parameter.Parameter(torch.ones(3))
                self.fc = nn.Linear(3, 3)
                self.apply(self.draw)

            def draw(self, m):
                if isinstance(m, (nn.Linear, nn.Embedding)):
                    nn.init.ones_(m.weight)

            def forward(self, x):
                return self.fc(x) * self.gain

        class Net(Base):
            def forward(self, x):
                return super().forward(x) + self.fc.forward(x)
        """
    )
    assert not found.untranslated
    assert [note.code for note in found.notes] == ["self.apply(self.draw)", "nn.init.ones_(m.weight)"]
    net, x = executed(found.code)["Net"](rngs=nnx.Rngs(0)), jnp.ones((2, 3))
    np.testing.assert_array_equal(net(x), 2 * net.fc(x))


def test_what_a_loop_changes_is_an_argument_of_its_step(torch):
    source = HEAD + textwrap.dedent(
        """
        def train(model, seen, data):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            scale = {"of": 1.0}
            for x in data:
                seen.append(x)
                scale["of"] = scale["of"] / 2
                loss = model(torch.stack(seen)).sum() * scale["of"]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            return loss.item()
        """
    )
    found = port_source(source)
    assert not found.untranslated
    data = np.arange(6.0, dtype=np.float32).reshape(3, 2)
    theirs, ours = torch.nn.Linear(2, 1), nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    jaxrnn.load_state_dict(ours, theirs.state_dict())
    expected = executed(source)["train"](theirs, [], list(torch.from_numpy(data)))
    assert executed(found.code)["train"](ours, [], list(jnp.asarray(data))) == pytest.approx(
        expected, rel=1e-5
    )


def test_classes_that_are_no_modules_and_frozen_parameters_are_translated():
    found = ported(
        """
        import dataclasses

        @dataclasses.dataclass
        class Scale:
            of: float

            def times(self, x):
                return torch.tanh(x) * self.of

        class Net(nn.GRU):
            def __init__(self, size):
                super().__init__(size, size, batch_first=True)
                self.gain = nn.Parameter(torch.full((size,), 2.0), requires_grad=False)
                self.scale = Scale(3.0)

            def forward(self, x):
                y, _ = super().forward(x)
                return self.scale.times(y * self.gain)
        """
    )
    assert not found.untranslated
    assert "@dataclasses.dataclass\nclass Scale:" in found.code
    net, x = executed(found.code)["Net"](3, rngs=nnx.Rngs(0)), jnp.ones((2, 4, 3))
    gru = jaxrnn.GRU(3, 3, batch_first=True, rngs=nnx.Rngs(1))
    jaxrnn.load_state_dict(gru, {k: v for k, v in jaxrnn.state_dict(net).items() if k != "gain"})
    np.testing.assert_allclose(net(x), np.tanh(gru(x)[0] * 2) * 3, rtol=1e-5)
    assert "gain" not in nnx.state(net, nnx.Param)


def test_decorators_of_torch_are_taken_away_and_named():
    found = ported(
        """
        class Net(nn.Module):
            @torch.jit.export
            @staticmethod
            def twice(x):
                return 2 * x

            def forward(self, x):
                return self.twice(x)
        """
    )
    assert [problem.code for problem in found.untranslated] == ["torch.jit.export"]
    assert executed(found.code)["Net"]()(jnp.ones(2)).tolist() == [2.0, 2.0]


@pytest.mark.slow
def test_a_whole_library_of_torch_code_comes_out_as_python():
    tried = 0
    for path in sorted((Path(__file__).parents[2] / "torch_ref").rglob("*.py")):
        with contextlib.suppress(ValueError):  # nothing to translate
            compile(port_file(path).code, path.name, "exec")
            tried += 1
    assert tried > 10


def test_an_import_of_the_projects_own_is_noted():
    found = port_source(
        "from .layers import Attention\n" + HEAD + "class Net(Attention, nn.Module):\n    pass\n"
    )
    assert "from .layers import Attention" in found.code
    assert [(note.line, note.code) for note in found.notes] == [(1, "from .layers import Attention")]


def test_a_base_class_and_what_a_class_uses_come_along():
    found = ported(
        """
        def helper(x):
            return torch.tanh(x)

        class Base(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.gain = nn.Parameter(torch.ones(n))

        class Middle(Base):
            def __init__(self, n):
                super().__init__(n)
                self.fc = nn.Linear(n, n)

        class Net(Middle):
            def forward(self, x):
                return helper(self.fc(x)) * self.gain

        class Unused(nn.Module):
            pass
        """,
        "Net",
    )
    assert not found.untranslated
    made = executed(found.code)
    assert {"helper", "Base", "Middle", "Net"} <= made.keys()
    assert "Unused" not in made
    assert made["Net"](3, rngs=nnx.Rngs(0))(jnp.ones((2, 3))).shape == (2, 3)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "no class and no function in it"),
        (HEAD + "class Net(nn.Module):\n    pass", "is called 'Nett'"),
        ("from torch.nn import *\nclass Nett(Module): pass\ndef Nett(): pass", "import them by name"),
        (HEAD + "jnp = 3\nclass Nett(nn.Module):\n    pass", "rename it"),
    ],
)
def test_a_source_that_cannot_be_read_is_an_error(source, message):
    with pytest.raises(ValueError, match=message):
        port_source(source, [] if message.startswith("no class") else ["Nett"])


# The command -----------------------------------------------------------------------------------------------------


def test_the_command_writes_a_file_without_torch_or_an_import_of_the_source(tmp_path):
    source = tmp_path / "mine.py"
    source.write_text("raise SystemExit('was imported')\n" + (SOURCES / "lecture.py").read_text())
    program = (
        "import sys; sys.modules['torch'] = None; from jaxrnn.cli import main; "
        "main(['port', 'mine:LSTM', '-o', 'out.py'])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "LSTM in out.py" in done.stderr
    assert (tmp_path / "out.py").read_text() == port_file(source, ["LSTM"]).code.replace(
        "lecture.py", "mine.py"
    )


def test_the_command_lists_what_it_could_not_translate_and_exits_with_1(tmp_path):
    source = tmp_path / "mine.py"
    source.write_text(
        HEAD + "class Net(nn.Module):\n    def forward(self, x):\n        return torch.fft.rfft(x)\n"
    )
    result = CliRunner().invoke(main, ["port", str(source)])
    assert result.exit_code == 1
    assert f"{source}:8: not translated: torch.fft.rfft(x): there is no rule for it." in result.stderr
    assert "raise NotImplementedError" in result.stdout


def test_a_notebooks_cells_are_ported_together(tmp_path):
    cells = [
        "%matplotlib inline\n!pip install torch",
        HEAD,
        "class Net(nn.Module):\n    def forward(self, x):\n",
    ]
    cells[-1] += "        return torch.fft.rfft(torch.tanh(x))\n\nnet = Net()"
    notebook = {"cells": [{"cell_type": "code", "source": text} for text in cells]}
    (tmp_path / "course.ipynb").write_text(json.dumps(notebook))
    result = CliRunner().invoke(main, ["port", str(tmp_path / "course.ipynb:Net")])
    assert result.exit_code == 1
    assert "course.ipynb:cell 3:3: not translated: torch.fft.rfft" in result.stderr
    assert "class Net(nnx.Module):" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.at.all:Net"], "no module 'nowhere.at.all'"),
        (["missing.py"], "No such file"),
        (["{source}:Nothing"], "is called 'Nothing'"),
        (["{source}", "-o", "{taken}"], "pass --overwrite"),
        (["{broken}"], "no Python 3"),
    ],
)
def test_an_error_of_the_command_is_one_line_and_exit_code_2(tmp_path, arguments, message):
    source, taken, broken = (tmp_path / name for name in ("mine.py", "taken.py", "broken.py"))
    source.write_text((SOURCES / "lecture.py").read_text())
    taken.write_text("mine")
    broken.write_text("class :")
    arguments = [a.format(source=source, taken=taken, broken=broken) for a in arguments]
    result = CliRunner().invoke(main, ["port", *arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert taken.read_text() == "mine"
    assert CliRunner().invoke(main, ["port", str(source), "-o", str(taken), "--overwrite"]).exit_code == 0
    assert "nnx.Module" in taken.read_text()
