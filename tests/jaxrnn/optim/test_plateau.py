"""`reduce_on_plateau` against torch's ReduceLROnPlateau, metric by metric."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxrnn import optim

RATE = 0.1
RNG = np.random.default_rng(0)
# Falls, gets stuck, rises, falls again; with repeated values, as exact ties are decided by the threshold.
LOSSES = np.round(
    np.concatenate(
        [
            np.linspace(2, 1, 15),
            1 + 0.01 * RNG.standard_normal(30),
            np.linspace(1, 3, 10),
            np.linspace(3, 0.1, 20),
        ]
    ),
    2,
).astype(np.float32)
# Around the threshold of 1e-4, by a few roundings of float32: best (1 - 1e-4) must not be rounded.
CLOSE = (1 - np.cumsum(np.full(60, 1e-4)) + 3e-8 * RNG.integers(-3, 4, 60)).astype(np.float32)
CLOSE[5:15] = np.nan

ROWS = [
    {},
    {"patience": 3, "factor": 0.5},
    {"patience": 0},
    {"patience": 2, "cooldown": 3, "factor": 0.5},
    {"patience": 2, "mode": "max", "factor": 0.3},
    {"patience": 2, "threshold": 0.02, "threshold_mode": "abs"},
    {"patience": 2, "threshold": 0.02, "threshold_mode": "abs", "mode": "max"},
    {"patience": 2, "threshold": 0.1},
    {"patience": 1, "threshold": 0.0, "min_lr": 0.02},
    {"patience": 0, "factor": 0.5, "eps": 0.01},  # the rate stays once a drop would be less than eps
    {"patience": 0, "factor": 0.0},
]


def torch_rates(torch, metrics, options):
    """The rate of each update, where ``scheduler.step(metric)`` follows ``optimizer.step()``."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
    found = []
    for metric in metrics:
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(float(metric))
    return np.array(found)


def our_rates(metrics, options, dtype):
    return all_rates(metrics, [options], dtype)[0]


def all_rates(metrics, rows, dtype):
    """The rates for each row of options; in one program, which takes a fraction of the time to compile."""
    with jax.enable_x64(dtype == np.float64):
        transformations = [optim.reduce_on_plateau(RATE, **options) for options in rows]

        def step(states, metric):
            one = jnp.ones((), dtype)
            pairs = [t.update(one, s, value=metric) for t, s in zip(transformations, states, strict=True)]
            return [state for _, state in pairs], [update for update, _ in pairs]

        start = [transformation.init(None) for transformation in transformations]
        _, rates = jax.jit(lambda m: jax.lax.scan(step, start, m))(jnp.asarray(metrics, dtype))
        return [np.asarray(each, np.float64) for each in rates]


@functools.cache
def table(sign, dtype):
    return all_rates(sign * LOSSES, ROWS, dtype)


@pytest.mark.torch
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("row", range(len(ROWS)), ids=lambda row: str(ROWS[row]))
def test_the_rate_drops_where_torchs_drops(torch, row, sign):
    """With negative metrics too, for which torch's relative threshold points the other way."""
    expected = torch_rates(torch, sign * LOSSES, ROWS[row])
    np.testing.assert_allclose(
        table(sign, np.float64)[row], expected, rtol=32 * 2.0**-53
    )  # one for each drop
    np.testing.assert_allclose(table(sign, np.float32)[row], expected, rtol=32 * 2.0**-24)


def test_the_losses_make_every_row_drop_its_rate():
    assert all(len(set(rates.tolist())) > 1 for rates in table(1, np.float32))


@pytest.mark.torch
def test_metrics_at_the_threshold_are_decided_as_in_float64(torch):
    options = {"patience": 0, "factor": 0.9}
    expected = torch_rates(torch, CLOSE, options)
    np.testing.assert_allclose(our_rates(CLOSE, options, np.float32), expected, rtol=64 * 2.0**-24)
    # Rounded to float32, the product best (1 - 1e-4) decides some of them otherwise.
    best, decisions = CLOSE[0], []
    for metric in CLOSE[1:5]:
        decisions.append((metric < best * np.float32(1 - 1e-4), float(metric) < float(best) * (1 - 1e-4)))
        best = metric
    assert any(rounded != exact for rounded, exact in decisions)


@pytest.mark.torch
def test_a_metric_measured_between_two_updates_counts_before_the_next(torch):
    """Once per epoch, as in most torch programs."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, factor=0.5)
    ours = optim.reduce_on_plateau(RATE, patience=1, factor=0.5)
    state, validation, rates, expected = ours.init(None), None, [], []
    for epoch in range(20):
        for _ in range(3):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            updates, state = ours.update(jnp.ones(()), state, value=None, validation=validation)
            rates.append(float(updates))
            validation = None
        validation = float(LOSSES[10 + epoch])
        scheduler.step(validation)
    assert len(set(expected)) > 2
    np.testing.assert_allclose(rates, expected, rtol=32 * 2.0**-24)


def test_an_nnx_optimizer_passes_the_metric_on():
    model = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    chain = optax.chain(optim.sgd(1.0), optim.reduce_on_plateau(0.5, patience=0, factor=0.5))
    optimizer = nnx.Optimizer(model, chain, wrt=nnx.Param)
    steps = []
    for _ in range(4):
        before = float(model.bias[0])
        grads = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
        nnx.jit(lambda model, optimizer, grads: optimizer.update(model, grads, value=jnp.asarray(1.0)))(
            model, optimizer, grads
        )
        steps.append(float(model.bias[0]) - before)
    # The first metric is the best, every further one is no better; halves are exact.
    assert steps == [-0.5, -0.5, -0.25, -0.125]


def test_a_forgotten_metric_is_an_error():
    transformation = optim.reduce_on_plateau(0.1)
    with pytest.raises(TypeError, match=r"expected a metric, got none: call update\(.*value=loss\)"):
        transformation.update(jnp.ones(()), transformation.init(None))


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"factor": 1.0}, "would not lower the learning rate"),
        ({"mode": "mean"}, "Use 'min' for a loss"),
        ({"threshold_mode": "relative"}, "Use 'rel' or 'abs'"),
    ],
)
@pytest.mark.torch
def test_impossible_options_are_refused_in_torchs_words(torch, options, remedy):
    with pytest.raises(ValueError, match=remedy) as ours:
        optim.reduce_on_plateau(0.1, **options)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    with pytest.raises(ValueError, match=r".") as theirs:
        torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
    assert str(ours.value).startswith(str(theirs.value))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": -1}, "patience=-1: expected at least 0"),
        ({"cooldown": -1}, "cooldown=-1"),
        ({"factor": -0.5}, "factor=-0.5"),
        ({"threshold": 1.0}, "threshold=1.0: expected a part of the best metric"),
        ({"threshold": -1e-4}, "threshold=-0.0001"),
        ({"min_lr": -1.0}, "min_lr=-1.0"),
        ({"eps": -1.0}, "eps=-1.0"),
    ],
)
def test_options_without_a_meaning_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        optim.reduce_on_plateau(0.1, **options)
