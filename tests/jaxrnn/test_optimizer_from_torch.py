"""A run that begins in torch goes on in JAX, and back, as if nothing had happened."""

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.migration.optimizers import KINDS
from tests.jaxrnn.common import draw

pytestmark = pytest.mark.torch

# Kind, options in torch.
OPTIMIZERS = {
    "Adam": ("Adam", {"lr": 0.01}),
    "Adam, all": (
        "Adam",
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1, "amsgrad": True},
    ),
    "AdamW": ("AdamW", {"lr": 0.01, "weight_decay": 0.2, "maximize": True}),
    "SGD": ("SGD", {"lr": 0.1}),
    "SGD, all": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "SGD, damped": ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.3}),
    "RMSprop": ("RMSprop", {"lr": 0.01}),
    "RMSprop, all": ("RMSprop", {"lr": 0.01, "alpha": 0.9, "momentum": 0.5, "centered": True, "eps": 1e-5}),
}
TIGHT = 1e-11  # float64: a few updates, each of a few hundred operations


def network(torch: Any, seed: int = 0) -> Any:
    """Return a network with matrices that Flax keeps the other way round."""
    torch.manual_seed(seed)
    return torch.nn.ModuleDict({"rnn": torch.nn.LSTM(2, 3, 2), "fc": torch.nn.Linear(3, 2)}).double()


X, Y = draw(1, 5, 4, 2), draw(2, 5, 4, 2)


def torchs_step(torch: Any, model: Any, optimizer: Any) -> float:
    """Take a step on the one batch there is."""
    optimizer.zero_grad()
    loss = ((model["fc"](model["rnn"](torch.from_numpy(X))[0]) - torch.from_numpy(Y)) ** 2).mean()
    loss.backward()
    optimizer.step()
    return loss.item()


def our_step(model: Any, optimizer: Any) -> float:
    """Take the same step."""
    loss, gradients = nnx.value_and_grad(
        lambda model: jnp.square(model["fc"](model["rnn"](jnp.asarray(X))[0]) - Y).mean()
    )(model)
    optimizer.update(model, gradients)
    return float(loss)


def assert_equal_weights(ours: Any, theirs: Any) -> None:
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(jaxrnn.state_dict(ours)[name], value.numpy(), rtol=TIGHT, atol=TIGHT)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_goes_on_in_jax_and_back_in_torch(torch, x64, name):
    kind, options = OPTIMIZERS[name]
    theirs = network(torch)
    optimizer = getattr(torch.optim, kind)(theirs.parameters(), **options)
    for _ in range(3):
        torchs_step(torch, theirs, optimizer)

    ours = jaxrnn.from_torch(theirs)
    going_on = jaxrnn.optimizer_from_torch(ours, optimizer.state_dict())
    assert int(going_on.step[...]) == (
        1 if kind == "SGD" and "momentum" in options else 0 if kind == "SGD" else 3
    )
    for _ in range(3):
        expected = torchs_step(torch, theirs, optimizer)
        assert our_step(ours, going_on) == pytest.approx(expected, rel=TIGHT)
    assert_equal_weights(ours, theirs)

    back = copy.deepcopy(theirs)
    again = getattr(torch.optim, kind)(back.parameters(), **options)
    jaxrnn.optimizer_to_torch(going_on, ours, again)
    for number, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            found = again.state_dict()["state"][number][key]
            if value is not None:
                np.testing.assert_allclose(found, value, rtol=TIGHT, atol=TIGHT)
    for _ in range(2):
        assert torchs_step(torch, back, again) == pytest.approx(
            torchs_step(torch, theirs, optimizer), rel=TIGHT
        )


class Three(nnx.Module):
    """Set in an order that is not that of the alphabet, all of one shape."""

    def __init__(self):
        self.z, self.m, self.a = (
            nnx.Linear(4, 4, rngs=nnx.Rngs(0), param_dtype=jnp.float64) for _ in range(3)
        )

    def __call__(self, x):
        return self.a(jnp.tanh(self.m(jnp.tanh(self.z(x)))))


def run_of_three(torch, updates):
    """Return a network of torch and its Adam after some updates, and the function that makes one."""
    torch.manual_seed(0)
    net = torch.nn.Module()
    net.z, net.m, net.a = (torch.nn.Linear(4, 4).double() for _ in range(3))
    adam = torch.optim.Adam(net.parameters(), lr=0.02)

    def update():
        adam.zero_grad()
        loss = net.a(torch.tanh(net.m(torch.tanh(net.z(torch.ones(2, 4).double()))))).square().mean()
        loss.backward()
        adam.step()
        return loss.item()

    for _ in range(updates):
        update()
    return net, adam, update


@nnx.jit
def update_of_three(model, optimizer):
    loss, gradients = nnx.value_and_grad(lambda model: jnp.square(model(jnp.ones((2, 4)))).mean())(model)
    optimizer.update(model, gradients)
    return loss


def test_a_model_that_was_compiled_gets_no_moments_of_another_parameter(torch, x64):
    net, adam, update = run_of_three(torch, 3)
    ours = Three()
    jaxrnn.load_state_dict(ours, net.state_dict())
    going_on = jaxrnn.optimizer_from_torch(ours, adam)  # the order in which the parts were set
    assert float(update_of_three(ours, going_on)) == pytest.approx(update(), rel=TIGHT)
    assert next(iter(jaxrnn.state_dict(ours))) == "a.weight"  # which Flax has sorted
    with pytest.raises(ValueError, match=r"Three: torch numbers .* Pass names=theirs.state_dict\(\)"):
        jaxrnn.optimizer_from_torch(ours, adam)
    back = torch.optim.Adam(net.parameters(), lr=0.02)
    with pytest.raises(ValueError, match="here it is lost"):
        jaxrnn.optimizer_to_torch(going_on, ours, back)
    again = jaxrnn.optimizer_from_torch(ours, adam, names=net.state_dict())
    jaxrnn.optimizer_to_torch(going_on, ours, back, names=net.state_dict())
    named = torch.optim.Adam(net.named_parameters(), lr=0.02)
    jaxrnn.optimizer_to_torch(again, ours, named)
    for number, state in adam.state_dict()["state"].items():
        for key, value in state.items():
            for other in (back, named):
                np.testing.assert_allclose(
                    other.state_dict()["state"][number][key], value, rtol=TIGHT, atol=TIGHT
                )
    going_on = jaxrnn.optimizer_from_torch(ours, named)  # by the names that it has
    for _ in range(2):
        assert float(update_of_three(ours, going_on)) == pytest.approx(update(), rel=TIGHT)


def test_weights_in_the_same_file_say_in_which_order_parameters_are(torch, x64, tmp_path):
    net, adam, update = run_of_three(torch, 3)
    torch.save(
        {"run": {"weights": net.state_dict(), "adam": adam.state_dict()}, "epoch": 3}, tmp_path / "run.pt"
    )
    ours = Three()
    nnx.jit(lambda model: model(jnp.ones((2, 4))))(ours)  # sorts
    jaxrnn.load_state_dict(ours, tmp_path / "run.pt", key="run.weights")
    going_on = jaxrnn.optimizer_from_torch(ours, tmp_path / "run.pt", key="run.adam")
    for _ in range(3):
        assert float(update_of_three(ours, going_on)) == pytest.approx(update(), rel=TIGHT)
    with pytest.raises(ValueError, match=r"'a\.bias' of the model is not among them"):
        jaxrnn.optimizer_from_torch(
            ours, adam, names=["z.weight", "z.bias", "m.weight", "m.bias", "a.weight"]
        )


@pytest.mark.parametrize(("kind", "options"), [("Adam", {}), ("SGD", {"momentum": 0.9})])
def test_a_schedule_goes_on_where_torchs_scheduler_stopped(torch, x64, kind, options):
    theirs = network(torch)
    optimizer = getattr(torch.optim, kind)(theirs.parameters(), lr=0.1, **options)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
    for _ in range(3):
        torchs_step(torch, theirs, optimizer)
        scheduler.step()
    ours = jaxrnn.from_torch(theirs)
    with pytest.raises(ValueError, match=r"from 0.1 to 0.05: pass learning_rate="):
        jaxrnn.optimizer_from_torch(ours, optimizer.state_dict())
    schedule = jaxrnn.optim.step_lr(0.1, 2, gamma=0.5)
    if kind == "SGD":
        with pytest.raises(ValueError, match="SGD does not count"):
            jaxrnn.optimizer_from_torch(ours, optimizer.state_dict(), learning_rate=schedule)
    going_on = jaxrnn.optimizer_from_torch(
        ours, optimizer.state_dict(), learning_rate=schedule, steps=scheduler.last_epoch
    )
    for _ in range(3):
        assert our_step(ours, going_on) == pytest.approx(torchs_step(torch, theirs, optimizer), rel=TIGHT)
        scheduler.step()
    assert_equal_weights(ours, theirs)


def test_the_state_is_read_from_a_training_checkpoint_without_torch(torch, x64, tmp_path):
    theirs = network(torch)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.01)
    torchs_step(torch, theirs, optimizer)
    run = {"epoch": 1, "optimizer": optimizer.state_dict(), "model": theirs.state_dict()}
    torch.save(run, tmp_path / "run.pt")
    torch.save({"last": run, "losses": [1.0]}, tmp_path / "runs.pt")
    ours = jaxrnn.from_torch(theirs)
    going_on = jaxrnn.optimizer_from_torch(ours, tmp_path / "run.pt", key="optimizer")
    nested = jaxrnn.optimizer_from_torch(ours, tmp_path / "runs.pt", key="last.optimizer")
    states = (jax.tree.leaves(nnx.state(optimizer)) for optimizer in (going_on, nested))
    for leaf, other in zip(*states, strict=True):
        np.testing.assert_array_equal(leaf, other)
    assert our_step(ours, going_on) == pytest.approx(torchs_step(torch, theirs, optimizer), rel=TIGHT)
    assert_equal_weights(ours, theirs)
    with pytest.raises(ValueError, match="no entry 'state'; there are"):
        jaxrnn.optimizer_from_torch(ours, tmp_path / "run.pt", key="state")
    with pytest.raises(ValueError, match="no entry '0' in a list"):
        jaxrnn.optimizer_from_torch(ours, tmp_path / "runs.pt", key="losses.0")
    with pytest.raises(ValueError, match=r"got \['epoch', 'optimizer', 'model'\]; name its entry"):
        jaxrnn.optimizer_from_torch(ours, tmp_path / "run.pt")


def test_an_optimizer_that_made_no_step_starts_afresh(torch, x64):
    theirs = network(torch)
    ours = jaxrnn.from_torch(theirs)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.01)
    going_on = jaxrnn.optimizer_from_torch(ours, optimizer.state_dict())
    assert int(going_on.step[...]) == 0
    for _ in range(2):
        our_step(ours, going_on)
        torchs_step(torch, theirs, optimizer)
    assert_equal_weights(ours, theirs)


def test_a_tied_weight_is_one_parameter_as_in_torch(torch, x64):
    class Tied(nnx.Module):
        def __init__(self):
            self.a = nnx.Param(jnp.ones((2, 2), jnp.float64))
            self.b = self.a

    class TheirTied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Parameter(torch.ones(2, 2).double())
            self.b = self.a

    theirs, ours = TheirTied(), Tied()
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (theirs.a * theirs.b).sum().backward()
        optimizer.step()
    jaxrnn.load_state_dict(ours, theirs.state_dict())
    going_on = jaxrnn.optimizer_from_torch(ours, optimizer.state_dict())
    going_on.update(ours, nnx.grad(lambda m: (m.a[...] * m.b[...]).sum())(ours))
    optimizer.zero_grad()
    (theirs.a * theirs.b).sum().backward()
    optimizer.step()
    np.testing.assert_allclose(ours.a[...], theirs.a.detach(), rtol=TIGHT)


def state_of(torch: Any, kind: str = "Adam", **options: Any) -> dict:
    """Return an optimizer's state after a step."""
    model = network(torch)
    optimizer = getattr(torch.optim, kind)(model.parameters(), **{"lr": 0.01, **options})
    torchs_step(torch, model, optimizer)
    return optimizer.state_dict()


def changed(state: dict, change: Any) -> dict:
    state = copy.deepcopy(state)
    change(state)
    return state


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "of another kind": (
        lambda s: s["param_groups"][0].pop("amsgrad"),
        NotImplementedError,
        "can be resumed, only",
    ),
    "of Adam or AdamW": (
        lambda s: s["param_groups"][0].pop("decoupled_weight_decay"),
        ValueError,
        "kind='AdamW'",
    ),
    "of another model": (
        lambda s: s["param_groups"][0]["params"].pop(),
        ValueError,
        "has 9 parameters, but the model",
    ),
    "in another order": (
        lambda s: s["param_groups"][0]["params"].reverse(),
        ValueError,
        "in the model's order",
    ),
    "in part": (lambda s: s["state"].pop(3), ValueError, "1 of 10 parameters have no state"),
    "of other counts": (lambda s: s["state"][3].update(step=7.0), ValueError, r"updated \[1, 7\] times"),
    "without a buffer": (lambda s: s["state"][3].pop("exp_avg"), ValueError, "has no 'exp_avg', only"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_state_that_does_not_fit_is_an_error(torch, x64, name):
    change, error, message = WRONG[name]
    ours = jaxrnn.from_torch(network(torch))
    with pytest.raises(error, match=message):
        jaxrnn.optimizer_from_torch(ours, changed(state_of(torch), change))


def test_groups_of_parameters_with_options_of_their_own_are_refused(torch, x64):
    model = network(torch)
    groups = [
        {"params": model["rnn"].parameters()},
        {"params": model["fc"].parameters(), "weight_decay": 0.1},
    ]
    optimizer = torch.optim.Adam(groups)
    ours = jaxrnn.from_torch(model)
    with pytest.raises(NotImplementedError, match=r"differ in \['weight_decay'\]"):
        jaxrnn.optimizer_from_torch(ours, optimizer.state_dict())
    alike = torch.optim.Adam([{**group, "weight_decay": 0.0} for group in groups_of(model)])
    torchs_step(torch, model, alike)
    ours = jaxrnn.from_torch(model)
    going_on = jaxrnn.optimizer_from_torch(ours, alike.state_dict())
    assert our_step(ours, going_on) == pytest.approx(torchs_step(torch, model, alike), rel=TIGHT)


def groups_of(model: Any) -> list[dict]:
    return [{"params": list(model[name].parameters())} for name in ("rnn", "fc")]


def test_an_optimizer_does_not_become_one_of_another_kind_in_torch(torch, x64):
    theirs = network(torch)
    ours = jaxrnn.from_torch(theirs)
    optimizer = nnx.Optimizer(ours, jaxrnn.optim.sgd(0.1, momentum=0.9), wrt=nnx.Param)
    with pytest.raises(ValueError, match="are they of one kind"):
        jaxrnn.optimizer_to_torch(optimizer, ours, torch.optim.Adam(theirs.parameters()))
    with pytest.raises(
        NotImplementedError, match=f"not one of {list(KINDS)[:1]}".replace("]", "").replace("[", r"\[")
    ):
        jaxrnn.optimizer_to_torch(optimizer, ours, torch.optim.Adagrad(theirs.parameters()))
    with pytest.raises(ValueError, match="torch's optimizer has 8 parameters"):
        jaxrnn.optimizer_to_torch(optimizer, ours, torch.optim.SGD(theirs["rnn"].parameters()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Adam", "SGD", "RMSprop"])
def test_a_switch_at_step_60_of_120_leaves_the_losses_inside_the_envelope(torch, kind):
    from parity.optimizers.judge import OptimizerPair
    from parity.training import torch_side
    from parity.training.cases import regression
    from parity.training.subjects_torch import forecaster, squared_error
    from parity.training.trajectory import judge_trajectory

    options = {"Adam": {"lr": 3e-3}, "SGD": {"lr": 1e-2, "momentum": 0.9}, "RMSprop": {"lr": 1e-3}}[kind]

    def make(parameters: Any) -> Any:
        return getattr(torch.optim, kind)(list(parameters.values()), **options)

    model, batches, steps = forecaster("LSTM", (3, 16, 1, 2), 0), regression(0), 120
    pair = OptimizerPair(make)
    gold = torch_side.train(model, squared_error, pair, batches, steps, "float64").losses
    usual = torch_side.train(model, squared_error, pair, batches, steps, "float32").losses
    null = [
        torch_side.train(model, squared_error, pair, batches, steps, "float32", nudged=n).losses
        for n in range(8)
    ]

    theirs = copy.deepcopy(model)
    optimizer, losses = make(dict(theirs.named_parameters())), []
    for step in range(60):
        x, y = map(torch.from_numpy, batches[step % len(batches)])
        optimizer.zero_grad()
        loss = squared_error(theirs, (x, y))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    from parity.training import subjects_jax

    ours = subjects_jax.forecaster("LSTM", (3, 16, 1, 2))
    jaxrnn.load_state_dict(ours, theirs.state_dict())
    going_on = jaxrnn.optimizer_from_torch(ours, optimizer.state_dict())

    @nnx.jit
    def update(ours, going_on, batch):
        loss, gradients = nnx.value_and_grad(subjects_jax.squared_error)(ours, batch)
        going_on.update(ours, gradients)
        return loss

    for step in range(60, steps):
        losses.append(float(update(ours, going_on, batches[step % len(batches)])))
    judged = judge_trajectory(gold, usual, np.array(losses), np.stack(null))
    assert judged.verdict == "EQUIVALENT", judged
    assert judged.horizon == steps

    # And a switch that forgets the state is seen.
    jaxrnn.load_state_dict(ours, theirs.state_dict())
    fresh = nnx.Optimizer(ours, going_on.tx, wrt=nnx.Param)
    forgetful = [
        *losses[:60], *(float(update(ours, fresh, batches[step % len(batches)])) for step in range(60, steps))
    ]  # fmt: skip
    assert judge_trajectory(gold, usual, np.array(forgetful), np.stack(null)).first_outside == 62
