"""What a torch program does around its optimizer: parameter groups, accumulation, clipping over all groups."""

import re
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxrnn import optim

SHAPES = {"lstm.weight_hh": (8, 2), "lstm.bias_hh": (8,), "head.weight": (3, 2), "head.bias": (3,)}
RNG = np.random.default_rng(0)
START = {name: RNG.standard_normal(shape) for name, shape in SHAPES.items()}
GRADIENTS = [{name: RNG.standard_normal(shape) for name, shape in SHAPES.items()} for _ in range(12)]
ROUNDINGS = 1e-13  # 12 steps of some twenty roundings: 12 * 20 * 2**-53 = 3e-14


def groups(params):
    return {name: "bias" if "bias" in name else "weight" for name in params}


def ours(optimizer, gradients=GRADIENTS):
    with jax.enable_x64(True):
        params = {name: jnp.asarray(value) for name, value in START.items()}
        state = optimizer.init(params)
        update = jax.jit(optimizer.update)
        for grads in gradients:
            updates, state = update({name: jnp.asarray(g) for name, g in grads.items()}, state, params)
            params = optax.apply_updates(params, updates)
        return {name: np.asarray(value) for name, value in params.items()}


def torchs(torch, make, gradients=GRADIENTS, *, backwards=1, clip=None):
    """`make` gets the parameters by name; a step is taken after `backwards` gradients have been added up."""
    params = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in START.items()}
    optimizer = make(torch.optim, params)
    for number, grads in enumerate(gradients, start=1):
        loss = sum((p * torch.tensor(grads[name])).sum() for name, p in params.items() if p.requires_grad)
        loss.backward()
        if number % backwards == 0:
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(params.values(), clip)
            optimizer.step()
            optimizer.zero_grad()
    return {name: p.detach().numpy() for name, p in params.items()}


def assert_same(left, right):
    for name in SHAPES:
        np.testing.assert_allclose(left[name], right[name], rtol=0, atol=ROUNDINGS, err_msg=name)


def torchs_groups(library, params):
    weights = [p for name, p in params.items() if "bias" not in name]
    biases = [p for name, p in params.items() if "bias" in name]
    return library.AdamW(
        [{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0, "lr": 3e-3}],
        lr=1e-2,
        foreach=False,
    )


def grouped(clip=None):
    optimizer = optax.multi_transform(
        {"weight": optim.adamw(1e-2, weight_decay=0.1), "bias": optim.adamw(3e-3, weight_decay=0.0)}, groups
    )
    return optimizer if clip is None else optax.chain(optim.clip_grad_norm(clip), optimizer)


@pytest.mark.torch
def test_parameter_groups_are_those_of_torch(torch):
    assert_same(ours(grouped()), torchs(torch, torchs_groups))


@pytest.mark.torch
def test_decay_of_the_wrong_group_is_seen(torch):
    inverted = optax.multi_transform(
        {"bias": optim.adamw(1e-2, weight_decay=0.1), "weight": optim.adamw(3e-3, weight_decay=0.0)}, groups
    )
    with pytest.raises(AssertionError, match=r"weight"):
        assert_same(ours(inverted), torchs(torch, torchs_groups))


@pytest.mark.torch
@pytest.mark.parametrize("clip", [0.5, 1e3])
def test_clipping_before_the_groups_sees_the_norm_of_all(torch, clip):
    assert_same(ours(grouped(clip)), torchs(torch, torchs_groups, clip=clip))


@pytest.mark.torch
def test_coupled_decay_can_be_masked_by_group(torch):
    def make(library, params):
        biases = [p for name, p in params.items() if "bias" in name]
        weights = [p for name, p in params.items() if "bias" not in name]
        return library.Adam(
            [{"params": weights, "weight_decay": 0.1}, {"params": biases}], lr=1e-2, foreach=False
        )

    mask = {name: "bias" not in name for name in SHAPES}
    optimizer = optax.chain(optax.masked(optax.add_decayed_weights(0.1), mask), optim.adam(1e-2))
    assert_same(ours(optimizer), torchs(torch, make))


@pytest.mark.torch
def test_a_frozen_group_stays_as_it_is(torch):
    def make(library, params):
        for name in ("lstm.bias_hh", "head.bias"):
            params[name].requires_grad_(False)
        return library.SGD(params.values(), lr=1e-2, momentum=0.9, foreach=False)

    optimizer = optax.multi_transform(
        {"weight": optim.sgd(1e-2, momentum=0.9), "bias": optax.set_to_zero()}, groups
    )
    result = ours(optimizer)
    assert_same(result, torchs(torch, make))
    np.testing.assert_array_equal(result["head.bias"], START["head.bias"])


def test_the_example_of_the_package_leaves_biases_undecayed():
    """Run as it stands in the docstring, on a model of Flax."""
    example = textwrap.dedent(re.search(r"        def group.*?\n        \)\n", optim.__doc__, re.DOTALL)[0])
    names = {"jax": jax, "optax": optax, "adamw": optim.adamw}
    exec(example, names)
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    model.bias[...] = jnp.ones(2)
    kernel = np.asarray(model.kernel[...])
    optimizer = nnx.Optimizer(model, names["optimizer"], wrt=nnx.Param)
    optimizer.update(model, jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param)))
    np.testing.assert_array_equal(model.bias[...], np.ones(2))
    # p (1 - 1e-3 * 0.1), in a few float32 roundings.
    np.testing.assert_allclose(model.kernel[...], kernel * (1 - 1e-4), rtol=4 * 2.0**-24)


def torchs_adam(library, params):
    return library.Adam(params.values(), lr=1e-2, foreach=False)


@pytest.mark.torch
def test_accumulated_gradients_add_up_as_backward_calls_do(torch):
    optimizer = optax.chain(optim.clip_grad_norm(5.0), optim.adam(1e-2))
    exact = {"accumulator_dtype": np.float64}  # the default, float32, would lose half the digits here
    with jax.enable_x64(True):
        accumulating = optax.MultiSteps(optimizer, 3, use_grad_mean=False, **exact).gradient_transformation()
        mean = optax.MultiSteps(optimizer, 3, **exact).gradient_transformation()
    expected = torchs(torch, torchs_adam, backwards=3, clip=5.0)
    assert_same(ours(accumulating), expected)
    # The mean, which is the default, has a smaller norm, and the clipping shows it.
    assert np.max(np.abs(ours(mean)["head.weight"] - expected["head.weight"])) > 1e-5


@pytest.mark.torch
@pytest.mark.parametrize("policy", ["one cycle", "cyclic"])
def test_a_policy_cycles_rate_and_momentum_together(torch, policy):
    """Against torch's scheduler itself, which writes both into the parameter group."""
    optimizer = {
        "one cycle": optim.adamw(optim.one_cycle_lr(0.1, 12), b1=optim.one_cycle_momentum(12)),
        "cyclic": optim.adamw(
            optim.cyclic_lr(1e-3, 0.1, step_size_up=4, step_size_down=3),
            b1=optim.cyclic_momentum(step_size_up=4, step_size_down=3),
        ),
    }[policy]
    params = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in START.items()}
    theirs = torch.optim.AdamW(params.values(), foreach=False)
    schedulers = torch.optim.lr_scheduler
    if policy == "one cycle":
        scheduler = schedulers.OneCycleLR(theirs, 0.1, total_steps=12)
    else:
        scheduler = schedulers.CyclicLR(theirs, 1e-3, 0.1, step_size_up=4, step_size_down=3)
    for grads in GRADIENTS:
        for name, p in params.items():
            p.grad = torch.tensor(grads[name])
        theirs.step()
        scheduler.step()
    assert_same(ours(optimizer), {name: p.detach().numpy() for name, p in params.items()})
    fixed = optim.adamw(optim.one_cycle_lr(0.1, 12)) if policy == "one cycle" else optim.adamw(0.1)
    with pytest.raises(AssertionError):
        assert_same(ours(fixed), {name: p.detach().numpy() for name, p in params.items()})
