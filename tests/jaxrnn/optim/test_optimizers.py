"""Every optimizer replayed on recorded gradients with a rate that changes at every step, against PyTorch."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import optim
from tests.jaxrnn.optim.replay import (
    GRADIENTS,
    MOMENTA,
    RATES,
    START,
    difference,
    error_ratio,
    jax_runs,
    momentum,
    rate,
    torch_run,
)

# our name: torch's
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
DECAYING = [name for name in OPTIMIZERS if name != "rprop"]
WITH_BETAS = ["adam", "adamw", "adamax", "nadam", "radam"]

# (optimizer, options); a momentum or b1 that is a schedule is cycled on torch's side too
ROWS = [
    *[(name, {}) for name in OPTIMIZERS],
    *[(name, {"weight_decay": 0.1}) for name in DECAYING],
    *[(name, {"maximize": True}) for name in OPTIMIZERS],
    *[(name, {"b1": 0.3, "b2": 0.9, "eps": 1e-3}) for name in WITH_BETAS],  # the other branch of torch's lerp
    *[(name, {"b1": 0.0, "b2": 0.0}) for name in WITH_BETAS],
    *[(name, {"b1": momentum}) for name in WITH_BETAS],
    *[(name, {"amsgrad": True, "weight_decay": 0.1, "b2": 0.9}) for name in ("adam", "adamw")],
    *[(name, {"decoupled_weight_decay": True, "weight_decay": 0.1}) for name in ("nadam", "radam")],
    ("nadam", {"momentum_decay": 0.3, "maximize": True}),
    ("radam", {"b2": 0.9, "eps": 1e-2}),
    ("sgd", {"momentum": 0.9}),
    ("sgd", {"momentum": momentum}),
    ("sgd", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1, "maximize": True}),
    ("sgd", {"momentum": momentum, "weight_decay": 0.1, "nesterov": True}),
    ("rmsprop", {"momentum": 0.9, "weight_decay": 0.1}),
    ("rmsprop", {"momentum": momentum, "centered": True}),
    ("rmsprop", {"alpha": 0.9, "eps": 1e-3, "centered": True}),
    ("adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.1, "eps": 1e-3, "weight_decay": 0.1}),
    ("adadelta", {"rho": 0.5, "eps": 1e-3}),
    ("rprop", {"etas": (0.3, 1.7), "step_sizes": (1e-3, 0.02)}),
]


def torchs(options):
    """The options as torch spells them; a schedule is set step by step."""
    options = dict(options)
    b1, b2 = options.pop("b1", None), options.pop("b2", None)
    if b1 is not None or b2 is not None:
        fixed = 0.9 if b1 is None or callable(b1) else b1
        options["betas"] = (fixed, 0.999 if b2 is None else b2)
    if callable(options.get("momentum")):
        options["momentum"] = 0.9
    return options


def title(name, options):
    shown = (f"{key}={getattr(value, '__name__', value)}" for key, value in options.items())
    return ", ".join([name, *shown])


TABLE = {title(*row): row for row in ROWS}


@functools.cache
def our_runs(dtype):
    """Every row's run; in one program, as sixty would take half a minute to compile."""
    return jax_runs({row: getattr(optim, name)(rate, **o) for row, (name, o) in TABLE.items()}, dtype)


@functools.cache
def torchs_run(row, dtype):
    name, options = TABLE[row]

    def make(library, parameters):
        return getattr(library, OPTIMIZERS[name])(parameters, foreach=False, **torchs(options))

    cycles = any(callable(value) for value in options.values())
    return torch_run(make, dtype, momenta=MOMENTA if cycles else None)


# Relative to the parameter at its largest: 50 steps of some ten roundings, 50 * 10 * 2**-53 = 6e-14, and what
# coupled weight decay makes of them: where it outweighs the gradient, each step answers to the one before.
TOLERANCE = 1e-12
# Here it is torch that errs: its 1 - b2**t loses three digits at the first steps, its ρ as many again.
TORCHS_CANCELLATION = {"nadam, weight_decay=0.1": 3e-12, "radam, weight_decay=0.1": 6e-12}


def in_80_bits(name):
    """The run of NAdam or RAdam with weight decay 0.1, by the published equations."""
    wide = np.longdouble
    b1, b2, eps, decay, momentum_decay = map(wide, (0.9, 0.999, 1e-8, 0.1, 4e-3))
    p, m, v, product, run = START.astype(wide), wide(0), wide(0), wide(1), []
    longest = 2 / (1 - b2) - 1
    for t, gradient in enumerate(GRADIENTS.astype(wide), start=1):
        g = gradient + decay * p
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        if name == "nadam":
            now, then = (b1 * (1 - wide(0.96) ** (k * momentum_decay) / 2) for k in (t, t + 1))
            product *= now
            step = ((1 - now) / (1 - product) * g + then / (1 - product * then) * m) / (
                np.sqrt(v / (1 - b2**t)) + eps
            )
        else:
            step, length = m / (1 - b1**t), longest - 2 * t * b2**t / (1 - b2**t)
            if length > 5:
                step *= np.sqrt(1 - b2**t) / (np.sqrt(v) + eps)
                step *= np.sqrt(
                    (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
                )
        p = p - wide(RATES[t - 1]) * step
        run.append(p)
    return np.stack(run).astype(np.float64)


@pytest.mark.torch
@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="needs the 80-bit numbers of x86")
@pytest.mark.parametrize("name", ["nadam", "radam"])
def test_where_the_tolerance_is_wider_it_is_torch_that_errs(name):
    row = f"{name}, weight_decay=0.1"
    exact = in_80_bits(name)
    assert difference(our_runs(np.float64)[row], exact) < 1e-13  # 6e-14, and what the feedback makes of it
    assert difference(torchs_run(row, np.float64), exact) > 5e-13


@pytest.mark.torch
@pytest.mark.parametrize("row", TABLE)
def test_in_float64_every_step_is_torchs(row):
    reference = torchs_run(row, np.float64)
    assert difference(our_runs(np.float64)[row], reference) < TORCHS_CANCELLATION.get(row, TOLERANCE)


@pytest.mark.torch
@pytest.mark.parametrize("row", TABLE)
def test_in_float32_the_error_is_of_torchs_own_size(row):
    oracle, reference = torchs_run(row, np.float64), torchs_run(row, np.float32)
    assert error_ratio(our_runs(np.float32)[row], reference, oracle) <= 4


BFLOAT16_GRADIENTS, BFLOAT16_START = (
    np.asarray(jnp.asarray(values, jnp.bfloat16), np.float32) for values in (GRADIENTS, START)
)


@functools.cache
def our_bfloat16_runs():
    plain = {name: getattr(optim, name)(rate) for name in OPTIMIZERS}
    return jax_runs(plain, jnp.bfloat16, BFLOAT16_GRADIENTS, BFLOAT16_START)


@pytest.mark.torch
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_in_bfloat16_the_error_is_of_torchs_own_size(name):
    def make(library, parameters):
        return getattr(library, OPTIMIZERS[name])(parameters, foreach=False)

    oracle, reference = (
        torch_run(make, dtype, BFLOAT16_GRADIENTS, BFLOAT16_START) for dtype in (np.float64, jnp.bfloat16)
    )
    assert error_ratio(our_bfloat16_runs()[name], reference, oracle, jnp.bfloat16) <= 4


@pytest.mark.torch
def test_nadam_keeps_its_product_of_momenta_in_torchs_default_dtype(torch):
    """Why `torch_run` changes that dtype: without, torch's float64 parameters follow a float32 number."""
    row = TABLE["nadam"]
    parameter = torch.nn.Parameter(torch.tensor(START, dtype=torch.float64))
    optimizer = torch.optim.NAdam([parameter], foreach=False, **torchs(row[1]))
    run = []
    for step, gradient in enumerate(GRADIENTS):
        optimizer.param_groups[0]["lr"] = float(RATES[step])
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        run.append(parameter.detach().numpy().copy())
    assert optimizer.state[parameter]["mu_product"].dtype == torch.float32
    assert 1e-9 < difference(np.stack(run), torchs_run("nadam", np.float64)) < 1e-6
