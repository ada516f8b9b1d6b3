"""Schedulers of torch become schedules, by updates or by epochs, and the rates are torch's at every update."""

import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.port import port_source
from tests.jaxrnn.common import executed

LOOP = """
import torch
from torch import nn, optim
from torch.optim.lr_scheduler import StepLR

def train(model, x, y, loader, size):
    rates, losses = [], []
    optimizer = {optimizer}
    scheduler = {scheduler}
    for epoch in range(4):
        for i in {loop}:
            optimizer.zero_grad()
            loss = ((model(x) - y) ** 2).mean()
            loss.backward()
            optimizer.step()
            {in_update}
            losses.append(loss.item())
        {in_epoch}
    return losses, rates
"""
ADAM = "torch.optim.Adam(model.parameters(), lr=0.05)"
STEP = "scheduler.step(); rates.append(float(scheduler.get_last_lr()[0]))"


def source(scheduler, *, optimizer=ADAM, loop="loader", by_epochs=True, step=STEP):
    """Return a function that trains with a scheduler."""
    places = {"in_epoch": step if by_epochs else "pass", "in_update": "pass" if by_epochs else step}
    return LOOP.format(optimizer=optimizer, scheduler=scheduler, loop=loop, **places)


KNOWN = {
    "steps of epochs": source("StepLR(optimizer, step_size=2, gamma=0.5)"),
    "steps of updates": source("optim.lr_scheduler.StepLR(optimizer, 3)", by_epochs=False),
    "milestones": source(
        "optim.lr_scheduler.MultiStepLR(optimizer, milestones=[1, 3])", loop="enumerate(loader)"
    ),
    "exponential": source("optim.lr_scheduler.ExponentialLR(optimizer, 0.7)", loop="range(0, size, 2)"),
    "a cosine": source("optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4, eta_min=0.01)"),
    "a function": source("optim.lr_scheduler.LambdaLR(optimizer, lr_lambda=lambda e: 1 / (1 + e))"),
    "linear": source(
        "optim.lr_scheduler.LinearLR(optimizer, start_factor=0.5, total_iters=3)", by_epochs=False
    ),
    "a polynomial": source("optim.lr_scheduler.PolynomialLR(optimizer, total_iters=9)", by_epochs=False),
    "parameters by name": source(
        "StepLR(optimizer, 1)", optimizer="optim.SGD(params=model.parameters(), lr=0.1)"
    ),
    "a rate by default": source("StepLR(optimizer, 1)", optimizer="torch.optim.RMSprop(model.parameters())"),
    "a rate by place": source(
        "StepLR(optimizer, 1, 0.2)", optimizer="optim.SGD(model.parameters(), 0.1, momentum=0.9)"
    ),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", KNOWN)
def test_a_scheduled_run_has_torchs_losses_and_rates(torch, name):
    found = port_source(KNOWN[name])
    assert not found.untranslated
    assert ("by_epochs" in found.code) == ("            pass" in KNOWN[name])
    torch.manual_seed(0)
    theirs, ours = torch.nn.Linear(3, 2), nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    jaxrnn.load_state_dict(ours, theirs.state_dict())
    x, y = np.sin(np.arange(12.0)).reshape(4, 3).astype(np.float32), np.ones((4, 2), np.float32)
    loader, size = [0, 1, 2], 6
    expected = executed(KNOWN[name])["train"](theirs, torch.from_numpy(x), torch.from_numpy(y), loader, size)
    losses, rates = executed(found.code)["train"](ours, x, y, loader, size)
    # Twelve steps in float32 of a linear map.
    np.testing.assert_allclose(losses, expected[0], rtol=1e-4)
    np.testing.assert_allclose(rates, expected[1], rtol=1e-5, atol=1e-8)


UNKNOWN = {
    "a metric": source("optim.lr_scheduler.ReduceLROnPlateau(optimizer)", step="scheduler.step(loss)"),
    "another kind": source("optim.lr_scheduler.CyclicLR(optimizer, 0.1, 1.0)"),
    "an argument without a counterpart": source("StepLR(optimizer, 3, last_epoch=2)"),
    "a loop that may end early": source("StepLR(optimizer, 3)").replace(
        "zero_grad()", "zero_grad()\n            if i: break"
    ),
    "ahead of the epoch": source("StepLR(optimizer, 3)", step="pass").replace(
        "        for i", "        scheduler.step()\n        for i"
    ),
    "two places": source("StepLR(optimizer, 3)").replace("            pass", "            scheduler.step()"),
    "a size that comes later": source("StepLR(optimizer, late)").replace(
        "    for epoch", "    late = 3\n    for epoch"
    ),
    "data that are made later": source("StepLR(optimizer, 3)").replace(
        "        for i", "        loader = list(loader)\n        for i"
    ),
    "an argument": "import torch\ndef f(adam):\n    return torch.optim.lr_scheduler.StepLR(adam, 3)\n",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_scheduler_that_is_not_understood_is_refused(name):
    found = port_source(UNKNOWN[name])
    assert found.untranslated
    assert any(
        "lr_scheduler" in p.code or "StepLR" in p.code or "once each" in p.why for p in found.untranslated
    )
    assert "raise NotImplementedError" in found.code


def test_a_rate_that_is_asked_of_the_optimizer_is_refused():
    step = STEP.replace("scheduler.get_last_lr()[0]", "optimizer.param_groups[0]['lr']")
    found = port_source(source("StepLR(optimizer, 3)", step=step))
    assert [problem.code for problem in found.untranslated] == ["optimizer.param_groups"]
