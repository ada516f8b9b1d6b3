"""Where optax's own is not torch's: the table of differences, kept honest.

Ours is torch's (`test_optimizers.py`), so it stands for torch here, and no PyTorch is needed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrnn import optim
from tests.jaxrnn.optim.replay import difference, jax_runs, rate

# name: (ours, optax's, at least how different: relative to the parameter at its largest)
DIFFERENT = {
    "adamw decays by 1e-2, not 1e-4": (optim.adamw(rate), optax.adamw(rate), 1e-3),
    "coupled decay is not decoupled": (
        optim.adam(rate, weight_decay=0.1),
        optax.adamw(rate, weight_decay=0.1),
        1e-1,
    ),
    "eps is outside the root": (optim.adam(rate, eps=1e-3), optax.adam(rate, eps=0, eps_root=1e-3), 1e-1),
    "amsgrad takes the largest raw moment": (
        optim.adam(rate, b2=0.9, amsgrad=True),
        optax.amsgrad(rate, b2=0.9),
        1e-2,
    ),
    "nadam schedules its momentum": (optim.nadam(rate), optax.nadam(rate), 1e-1),
    "radam adds eps before the bias correction": (
        optim.radam(rate, eps=1e-2),
        optax.radam(rate, eps=1e-2),
        1e-2,
    ),
    "rmsprop's defaults": (optim.rmsprop(rate), optax.rmsprop(rate), 1e-1),
    "rmsprop's eps": (optim.rmsprop(rate), optax.rmsprop(rate, decay=0.99), 1e-1),
    "rmsprop's momentum knows no rate": (
        optim.rmsprop(rate, momentum=0.9),
        optax.rmsprop(rate, decay=0.99, eps_in_sqrt=False, momentum=0.9),
        1e-2,
    ),
    "adagrad starts at 0": (optim.adagrad(rate), optax.adagrad(rate), 1e-1),
    "adagrad's eps": (
        optim.adagrad(rate),
        optax.adagrad(rate, initial_accumulator_value=0.0, eps=1e-10),
        1e-2,
    ),
    "adadelta descends": (optim.adadelta(), optax.adadelta(), 1.0),
    "rprop does not lag": (optim.rprop(1e-2), optax.rprop(1e-2), 1e-1),
    "decay joins the gradient before the momentum": (
        optim.sgd(rate, momentum=0.9, weight_decay=0.1),
        optax.chain(optax.trace(0.9), optax.add_decayed_weights(0.1), optax.scale_by_learning_rate(rate)),
        1e-3,
    ),
    "dampening has no counterpart": (
        optim.sgd(rate, momentum=0.9, dampening=0.3),
        optax.sgd(rate, momentum=0.9),
        1e-1,
    ),
}

# The same by other words: what the table must not claim.
SAME = {
    "adam": (optim.adam(rate), optax.adam(rate)),
    "adamw": (optim.adamw(rate, weight_decay=0.1), optax.adamw(rate, weight_decay=0.1)),
    "adamax": (optim.adamax(rate), optax.adamax(rate)),
    "nesterov": (optim.sgd(rate, 0.9, nesterov=True), optax.sgd(rate, 0.9, nesterov=True)),
    "adadelta": (optim.adadelta(1.0), optax.adadelta(1.0)),
    "rmsprop": (optim.rmsprop(rate), optax.rmsprop(rate, decay=0.99, eps_in_sqrt=False)),
}


@pytest.fixture(scope="module")
def runs():
    sides = {**DIFFERENT, **{f"same {name}": pair for name, pair in SAME.items()}}
    ours = {(name, "ours"): row[0] for name, row in sides.items()}
    return jax_runs_by_text({**ours, **{(name, "optax"): row[1] for name, row in sides.items()}})


def jax_runs_by_text(transformations):
    """A carry of `jax.lax.scan` sorts its names, so they are made text."""
    runs = jax_runs({" / ".join(key): value for key, value in transformations.items()}, np.float64)
    return {tuple(name.split(" / ")): run for name, run in runs.items()}


@pytest.mark.parametrize("name", DIFFERENT)
def test_optaxs_own_is_not_torchs(runs, name):
    assert difference(runs[name, "optax"], runs[name, "ours"]) > DIFFERENT[name][2]


@pytest.mark.parametrize("name", SAME)
def test_optaxs_own_is_torchs_where_the_table_is_silent(runs, name):
    # 50 steps; optax takes 1 - b2**t as a difference, 1e-13 at the first steps.
    assert difference(runs[f"same {name}", "optax"], runs[f"same {name}", "ours"]) < 1e-11


def test_optaxs_clipping_is_not_torchs():
    small = jnp.asarray([3e-4, 4e-4])  # of norm 5e-4
    for ours, optaxs, least in (
        (optim.clip_grad_norm(1e-4), optax.clip_by_global_norm(1e-4), 1e-3),
        (optim.clip_grad_norm(5e-4), optax.clip_by_global_norm(5e-4), 1e-3),  # at the threshold
    ):
        left, _ = ours.update(small, ours.init(small))
        right, _ = optaxs.update(small, optaxs.init(small))
        assert np.max(np.abs(right / left - 1)) > least


@pytest.mark.parametrize(
    ("ours", "optaxs", "least"),
    [
        (optim.one_cycle_lr(1.0, 20), optax.cosine_onecycle_schedule(20, 1.0), 0.1),
        (optim.cosine_annealing_lr(1.0, 10), optax.cosine_decay_schedule(1.0, 10), 0.9),
        (
            optim.lambda_lr(1.0, lambda k: jnp.minimum(1.0, (k + 1) / 5)),
            optax.linear_schedule(0.0, 1.0, 5),
            0.19,
        ),
    ],
    ids=["one cycle", "cosine", "warm-up"],
)
def test_optaxs_schedule_is_not_torchs(ours, optaxs, least):
    steps = jnp.arange(20)
    assert np.max(np.abs(jax.vmap(ours)(steps) - jax.vmap(optaxs)(steps))) > least


def test_optaxs_plateau_drops_one_metric_earlier():
    def rates(transformation):
        state, found = transformation.init(jnp.ones(())), []
        for _ in range(6):
            updates, state = transformation.update(jnp.ones(()), state, value=jnp.asarray(1.0))
            found.append(float(updates))
        return found

    ours = rates(optim.reduce_on_plateau(1.0, factor=0.5, patience=2))
    # The first metric is the best; optax drops with the second one after it, ours after the third.
    assert ours == [1, 1, 1, 1, 0.5, 0.5]
    assert rates(optax.contrib.reduce_on_plateau(factor=0.5, patience=2))[2] == 0.5
