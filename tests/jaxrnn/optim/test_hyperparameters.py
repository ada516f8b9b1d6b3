"""Hyperparameters out of range: torch's message first, then what was expected."""

import inspect

import jax.numpy as jnp
import pytest

from jaxrnn import optim

# our name, options; torch's name, options (None: torch accepts it, or has no such case)
NEGATIVE = [
    ("learning_rate", "lr"),
    ("eps", "eps"),
    ("weight_decay", "weight_decay"),
    ("momentum", "momentum"),
    ("alpha", "alpha"),
    ("lr_decay", "lr_decay"),
    ("initial_accumulator_value", "initial_accumulator_value"),
    ("momentum_decay", "momentum_decay"),
    ("rho", "rho"),
]
OPTIMIZERS = {
    "adam": "Adam",
    "adamw": "AdamW",
    "adamax": "Adamax",
    "nadam": "NAdam",
    "radam": "RAdam",
    "sgd": "SGD",
    "rmsprop": "RMSprop",
    "adagrad": "Adagrad",
    "adadelta": "Adadelta",
    "rprop": "Rprop",
}
WITH_BETAS = ["adam", "adamw", "adamax", "nadam", "radam"]
SPOILT = [
    *[
        (name, {ours: -0.5}, {theirs: -0.5})
        for name in OPTIMIZERS
        for ours, theirs in NEGATIVE
        if ours in inspect.signature(getattr(optim, name)).parameters
    ],
    *[(name, {"b1": 1.0}, {"betas": (1.0, 0.999)}) for name in WITH_BETAS],
    *[(name, {"b2": -0.1}, {"betas": (0.9, -0.1)}) for name in WITH_BETAS],
    ("adam", {"weight_decay": float("nan")}, {"weight_decay": float("nan")}),
    ("adadelta", {"rho": 1.5}, {"rho": 1.5}),
    ("rprop", {"etas": (1.2, 0.5)}, {"etas": (1.2, 0.5)}),
    ("sgd", {"nesterov": True}, {"nesterov": True}),
    (
        "sgd",
        {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
        {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
    ),
]


@pytest.mark.parametrize(("name", "ours", "theirs"), SPOILT, ids=str)
def test_what_torch_refuses_is_refused_in_its_words_and_explained(name, ours, theirs):
    with pytest.raises(ValueError, match=r"[Ee]xpected|pass") as our_error:
        getattr(optim, name)(**ours)
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match=r".") as torchs_error:
        getattr(torch.optim, OPTIMIZERS[name])([torch.nn.Parameter(torch.zeros(1))], **theirs)
    text = str(our_error.value)
    assert text.startswith(str(torchs_error.value))
    assert len(text) > len(str(torchs_error.value)) + 20  # a remedy follows


@pytest.mark.torch
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_defaults_are_those_of_torch(torch, name):
    theirs = getattr(torch.optim, OPTIMIZERS[name])([torch.nn.Parameter(torch.zeros(1))]).defaults
    theirs["learning_rate"] = theirs.pop("lr")
    if "betas" in theirs:
        theirs["b1"], theirs["b2"] = theirs.pop("betas")
    ours = {key: p.default for key, p in inspect.signature(getattr(optim, name)).parameters.items()}
    assert ours.keys() <= theirs.keys()
    assert ours == {key: theirs[key] for key in ours}
    # What torch has besides says how to compute, not what; AdamW is Adam with decoupled decay.
    left = theirs.keys() - ours.keys()
    assert left <= {"foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay"}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: optim.adam(float("inf")), ValueError, "learning_rate=inf: expected a finite number"),
        (lambda: optim.sgd(dampening=0.1), ValueError, "has no effect without momentum"),
        (
            lambda: optim.rprop(step_sizes=(1.0, 0.1)),
            ValueError,
            "step_sizes=.*: expected the smallest",
        ),
        (lambda: optim.rprop(etas=0.5), TypeError, "etas: expected two numbers, got 0.5"),
        (lambda: optim.adam(amsgrad=1), TypeError, "amsgrad: expected True or False, got 1"),
        (lambda: optim.sgd(maximize="no"), TypeError, "maximize: expected True or False, got 'no'"),
        (lambda: optim.rmsprop(centered=0), TypeError, "centered: expected True or False"),
        (lambda: optim.adagrad(eps=jnp.ones(())), TypeError, "eps: expected a Python number"),
        (lambda: optim.nadam(momentum_decay=jnp.ones(())), TypeError, "list momentum_decay in static_args"),
    ],
)
def test_what_torch_lets_pass_without_effect_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_weight_decay_without_parameters_says_what_is_missing():
    optimizer = optim.adam(weight_decay=0.1)
    with pytest.raises(
        ValueError, match=r"weight_decay needs the parameters: call update\(grads, state, params\)"
    ):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_complex_parameter_is_refused_rather_than_trained_wrong(name):
    optimizer = getattr(optim, name)()
    grads = jnp.ones(2, jnp.complex64)
    with pytest.raises(TypeError, match=r"expected floating point arrays, got complex64\(2,\)"):
        optimizer.update(grads, optimizer.init(grads), grads)
