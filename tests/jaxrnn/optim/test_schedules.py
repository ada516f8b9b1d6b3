"""Schedules against the rates that torch's schedulers leave in the parameter group, update by update."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import optim

UPDATES = 60
BASE = 0.3


def growing(k):
    """A schedule for `LambdaLR` that runs on both sides."""
    return (k + 1) / (k + 5)


ONE_CYCLES = [
    {"total_steps": 60},
    {"total_steps": 61, "pct_start": 0.25, "anneal_strategy": "linear"},  # the top falls between two updates
    {"total_steps": 60, "three_phase": True, "div_factor": 5.0, "final_div_factor": 10.0},
    {"total_steps": 61, "three_phase": True, "anneal_strategy": "linear", "pct_start": 0.45},
    {"total_steps": 60, "three_phase": True, "pct_start": 0.8},  # the second phase never ends
    {"total_steps": 60, "pct_start": 0.0},
    {"total_steps": 60, "pct_start": 1.0},
    {"total_steps": 60, "pct_start": 0.01},  # the top is before the first update
    {"total_steps": 1},
]
CYCLES = [
    {"step_size_up": 7},
    {"step_size_up": 7, "step_size_down": 4},
    {"step_size_up": 5, "step_size_down": 1, "mode": "triangular2"},
    {"step_size_up": 5, "mode": "exp_range", "gamma": 0.95},
]
# torch scheduler, its options, ours; the factor schedules of `chained_lr` are in it too
ROWS = [
    ("StepLR", {"step_size": 7}, optim.step_lr(BASE, 7)),
    ("StepLR", {"step_size": 1, "gamma": 0.9}, optim.step_lr(BASE, 1, gamma=0.9)),
    ("MultiStepLR", {"milestones": [20, 5, 20, 41]}, optim.multi_step_lr(BASE, [20, 5, 20, 41])),
    ("ExponentialLR", {"gamma": 0.93}, optim.exponential_lr(BASE, 0.93)),
    ("ExponentialLR", {"gamma": 0.0}, optim.exponential_lr(BASE, 0.0)),
    ("ConstantLR", {}, optim.constant_lr(BASE)),
    ("ConstantLR", {"factor": 0.1, "total_iters": 9}, optim.constant_lr(BASE, factor=0.1, total_iters=9)),
    ("LinearLR", {}, optim.linear_lr(BASE)),
    (
        "LinearLR",
        {"start_factor": 0.9, "end_factor": 0.0, "total_iters": 30},
        optim.linear_lr(BASE, start_factor=0.9, end_factor=0.0, total_iters=30),
    ),
    ("PolynomialLR", {}, optim.polynomial_lr(BASE)),
    ("PolynomialLR", {"total_iters": 40, "power": 2.0}, optim.polynomial_lr(BASE, total_iters=40, power=2.0)),
    ("PolynomialLR", {"total_iters": 40, "power": 0.9}, optim.polynomial_lr(BASE, total_iters=40, power=0.9)),
    ("CosineAnnealingLR", {"T_max": 60}, optim.cosine_annealing_lr(BASE, 60)),
    (
        "CosineAnnealingLR",
        {"T_max": 7, "eta_min": 0.01},  # four times down and up
        optim.cosine_annealing_lr(BASE, 7, eta_min=0.01),
    ),
    ("CosineAnnealingWarmRestarts", {"T_0": 7}, optim.cosine_annealing_warm_restarts(BASE, 7)),
    (
        "CosineAnnealingWarmRestarts",
        {"T_0": 3, "T_mult": 2, "eta_min": 0.01},
        optim.cosine_annealing_warm_restarts(BASE, 3, T_mult=2, eta_min=0.01),
    ),
    ("LambdaLR", {"lr_lambda": growing}, optim.lambda_lr(BASE, growing)),
    *[("OneCycleLR", {"max_lr": BASE, **o}, optim.one_cycle_lr(BASE, **o)) for o in ONE_CYCLES],
    *[("CyclicLR", {"base_lr": 0.01, "max_lr": BASE, **o}, optim.cyclic_lr(0.01, BASE, **o)) for o in CYCLES],
]
MOMENTA = [
    *[
        (
            "OneCycleLR",
            {"max_lr": BASE, "base_momentum": 0.8, "max_momentum": 0.9, **o},
            optim.one_cycle_momentum(
                base_momentum=0.8,
                max_momentum=0.9,
                **{key: value for key, value in o.items() if "factor" not in key},
            ),
        )
        for o in ONE_CYCLES
    ],
    *[("CyclicLR", {"base_lr": 0.01, "max_lr": BASE, **o}, optim.cyclic_momentum(**o)) for o in CYCLES],
]


def torch_rates(torch, make, updates, key="lr"):
    """What the parameter group holds at each `optimizer.step()`."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE, momentum=0.9)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    found = []
    for update in range(updates):
        found.append(optimizer.param_groups[0][key])
        optimizer.step()
        if update + 1 < updates:  # OneCycleLR cannot be asked further
            scheduler.step()
    return np.array(found)


def our_rates(schedule, updates, dtype=np.float64):
    """With a traced update."""
    return all_rates([schedule], updates, dtype)[0]


def all_rates(schedules, updates, dtype=np.float64):
    """Many schedules in one program, which takes a fraction of the time to compile."""
    with jax.enable_x64(dtype == np.float64):
        program = jax.jit(jax.vmap(lambda k: [schedule(k) for schedule in schedules]))
        rates = program(jnp.arange(updates, dtype=jnp.int32))
        assert {each.dtype for each in rates} == {np.dtype(dtype)}
        return [np.asarray(each, np.float64) for each in rates]


@functools.cache
def tables():
    """Our rates and momenta, row by row."""
    both = iter(all_rates([schedule for *_, schedule in [*ROWS, *MOMENTA]], UPDATES + 1))
    return [[next(both) for _ in table] for table in (ROWS, MOMENTA)]


def label(row):
    options = (f"{name}={getattr(value, '__name__', value)}" for name, value in row[1].items())
    return f"{row[0]}({', '.join(options)})"


# A rounding at each of torch's recursive steps, relative to the largest rate, and some of our own.
ROUNDINGS = 4 * UPDATES * 2.0**-53


@pytest.mark.torch
@pytest.mark.parametrize("row", range(len(ROWS)), ids=lambda row: label(ROWS[row]))
def test_the_rates_are_those_torch_uses_at_each_update(torch, row):
    name, options, _ = ROWS[row]
    updates = options.get("total_steps", UPDATES)
    expected = torch_rates(torch, lambda library, o: getattr(library, name)(o, **options), updates)
    np.testing.assert_allclose(tables()[0][row][:updates], expected, rtol=0, atol=ROUNDINGS * BASE)


def test_a_count_without_a_sign_is_a_count_all_the_same():
    signed, unsigned = (jnp.arange(UPDATES, dtype=kind) for kind in (jnp.int32, jnp.uint32))
    for _, _, schedule in ROWS:
        np.testing.assert_array_equal(jax.vmap(schedule)(unsigned), jax.vmap(schedule)(signed))


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "options", "schedule"),
    [
        ("StepLR", {"step_size": 2, "gamma": 0.5}, optim.step_lr(BASE, 2, gamma=0.5)),
        ("CosineAnnealingLR", {"T_max": 6}, optim.cosine_annealing_lr(BASE, 6)),
    ],
)
def test_by_epochs_the_rates_are_those_of_a_scheduler_stepped_once_per_epoch(torch, name, options, schedule):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE)
    scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **options)
    expected = []
    for _epoch in range(6):
        for _batch in range(9):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
        scheduler.step()
    found = our_rates(optim.by_epochs(schedule, 9), len(expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDINGS * BASE)
    assert (our_rates(schedule, len(expected)) != found).sum() > 20


@pytest.mark.torch
@pytest.mark.parametrize("row", range(len(MOMENTA)), ids=lambda row: label(MOMENTA[row]))
def test_the_momentum_is_cycled_as_torch_cycles_it(torch, row):
    name, options, _ = MOMENTA[row]
    updates = options.get("total_steps", UPDATES)
    expected = torch_rates(
        torch, lambda library, o: getattr(library, name)(o, **options), updates, key="momentum"
    )
    np.testing.assert_allclose(tables()[1][row][:updates], expected, rtol=0, atol=ROUNDINGS)


@pytest.mark.torch
def test_one_schedule_after_the_other_is_sequential_lr(torch):
    def make(library, optimizer):
        parts = [
            library.LinearLR(optimizer, 0.1, 0.5, total_iters=9),
            library.MultiStepLR(optimizer, [4, 8]),
            library.CosineAnnealingLR(optimizer, 15),
        ]
        return library.SequentialLR(optimizer, parts, [10, 30])

    ours = optim.sequential_lr(
        [
            optim.linear_lr(BASE, start_factor=0.1, end_factor=0.5, total_iters=9),
            optim.multi_step_lr(BASE, [4, 8]),
            optim.cosine_annealing_lr(BASE, 15),
        ],
        [10, 30],
    )
    expected = torch_rates(torch, make, UPDATES)
    np.testing.assert_allclose(our_rates(ours, UPDATES), expected, rtol=0, atol=ROUNDINGS * BASE)


@pytest.mark.torch
def test_schedules_at_the_same_time_are_chained_scheduler(torch):
    def make(library, optimizer):
        return library.ChainedScheduler(
            [library.ConstantLR(optimizer, 0.1, 20), library.ExponentialLR(optimizer, 0.9)]
        )

    ours = optim.chained_lr(
        BASE, [optim.constant_lr(1.0, factor=0.1, total_iters=20), optim.exponential_lr(1.0, 0.9)]
    )
    expected = torch_rates(torch, make, UPDATES)
    np.testing.assert_allclose(our_rates(ours, UPDATES), expected, rtol=0, atol=ROUNDINGS * BASE)


@pytest.mark.torch
@pytest.mark.parametrize(
    "wrong",
    [
        lambda k: optim.step_lr(BASE, 7)(k + 1),  # one update off
        optim.step_lr(BASE, 8),
        optim.step_lr(BASE, 7, gamma=0.1 + 1e-10),
    ],
)
def test_a_schedule_that_is_slightly_wrong_is_found_out(torch, wrong):
    expected = torch_rates(torch, lambda library, o: library.StepLR(o, 7), UPDATES)
    assert np.max(np.abs(our_rates(wrong, UPDATES) - expected)) > ROUNDINGS * BASE


@pytest.mark.torch
@pytest.mark.parametrize(("T_max", "drift"), [(10, 1e-14), (100, 2e-13)])
def test_torchs_recursion_drifts_from_its_cosine_as_the_docstring_says(torch, T_max, drift):
    updates = 10 * T_max
    recursive = torch_rates(torch, lambda library, o: library.CosineAnnealingLR(o, T_max), updates)
    closed = [BASE * (1 + math.cos(math.pi * k / T_max)) / 2 for k in range(updates)]
    ours = our_rates(optim.cosine_annealing_lr(BASE, T_max), updates)
    # Four roundings of the largest rate on either side, and of an angle of up to 10 π.
    np.testing.assert_allclose(ours, closed, rtol=0, atol=(8 + 10 * math.pi) * 2.0**-53 * BASE)
    assert drift / 10 < np.max(np.abs(ours - recursive)) / BASE <= 3 * drift


LONG = [
    optim.step_lr(BASE, 100_000),
    optim.step_lr(BASE, 3, gamma=0.99997),
    optim.exponential_lr(BASE, 0.99999),
    optim.multi_step_lr(BASE, range(0, 200_000, 30_000), gamma=0.1),
    optim.linear_lr(BASE, start_factor=1.0, end_factor=0.0, total_iters=200_001),
    optim.linear_lr(BASE, start_factor=1e-4, total_iters=200_001),
    optim.polynomial_lr(BASE, total_iters=200_001, power=2.0),
    optim.polynomial_lr(BASE, total_iters=200_001, power=0.9),
    optim.cosine_annealing_lr(BASE, 200_001),
    optim.cosine_annealing_lr(BASE, 19),
    optim.cosine_annealing_warm_restarts(BASE, 101, T_mult=2),
    optim.one_cycle_lr(BASE, 200_001),
    optim.one_cycle_lr(BASE, 200_001, three_phase=True, anneal_strategy="linear"),
    optim.cyclic_lr(0.0, BASE, step_size_up=501, step_size_down=99, mode="exp_range", gamma=0.9999),
    optim.cyclic_lr(0.0, BASE, step_size_up=5001, mode="triangular2"),
]


@functools.cache
def long_rates():
    """(exact, float32) rates of the long schedules."""
    return [all_rates(LONG, 200_000, dtype) for dtype in (np.float64, np.float32)]


@pytest.mark.parametrize("number", range(len(LONG)))
def test_in_float32_a_rate_loses_a_few_roundings_however_small_it_is(number):
    exact, ours = (rates[number] for rates in long_rates())
    normal = exact > 1e-37  # below, float32 has fewer digits
    # Relative to the rate itself, not to the largest: a table entry or two, a sine and its square, two products.
    np.testing.assert_allclose(ours[normal], exact[normal], rtol=8 * 2.0**-24)


def test_the_plain_formulas_would_lose_more_in_float32():
    """That the tolerance above bites."""
    k = jnp.arange(200_000, dtype=jnp.int32)
    exact = our_rates(optim.cosine_annealing_lr(1.0, 200_001), 200_000)
    plain = np.asarray((1 + jnp.cos(jnp.pi * k / 200_001)) / 2, np.float64)
    assert np.max(np.abs(plain - exact) / exact) > 0.1
    exact = our_rates(optim.exponential_lr(1.0, 0.99999), 200_000)
    plain = np.asarray(jnp.float32(0.99999) ** k, np.float64)
    assert np.max(np.abs(plain - exact) / exact) > 1e-4


def test_powers_are_right_for_every_count_an_update_can_have():
    counts = np.array([0, 1, 255, 256, 65535, 65536, 10_000_019, 2**31 - 1])
    schedule = optim.exponential_lr(1.0, 1 - 1e-9)
    exact = np.exp(counts * np.log1p(-1e-9))
    with jax.enable_x64(True):
        ours = np.array([float(schedule(jnp.asarray(k, jnp.int32))) for k in counts])
        # 1 - 1e-9 itself is rounded: 1e-16 for each of 2**31 factors.
        np.testing.assert_allclose(ours, exact, rtol=2**31 * 2.0**-53)
    np.testing.assert_allclose([float(schedule(k)) for k in counts], exact, rtol=8 * 2.0**-24)


def test_a_finished_one_cycle_holds_its_last_value():
    for strategy in ("cos", "linear"):
        schedule = optim.one_cycle_lr(1.0, 20, anneal_strategy=strategy)
        np.testing.assert_allclose(
            [float(schedule(k)) for k in (19, 20, 1000)], 1 / 25 / 1e4, rtol=4 * 2.0**-24
        )


def test_warm_restarts_go_on_until_the_counter_ends():
    schedule = optim.cosine_annealing_warm_restarts(1.0, 10, T_mult=10)
    # Cycles begin at 0, 10, 110, ..., 1 111 111 110; a start has the whole rate, the update before next to none.
    for start in (10, 110, 111_110, 1_111_111_110):
        assert float(schedule(start)) == 1.0
        assert float(schedule(start - 1)) < 0.03
    assert 0 < float(schedule(2**31 - 1)) < 1


def test_a_schedule_runs_in_an_optimizer_under_jit():
    optimizer = optim.sgd(optim.step_lr(1.0, 2, gamma=0.5))
    update = jax.jit(optimizer.update)
    state, steps = optimizer.init(jnp.ones(())), []
    for _ in range(5):
        updates, state = update(jnp.ones(()), state)
        steps.append(float(updates))
    assert steps == [-1, -1, -0.5, -0.5, -0.25]


@pytest.mark.parametrize(
    ("make", "torchs", "error", "remedy"),
    [
        (lambda: optim.step_lr(-1.0, 3), None, ValueError, "learning_rate=-1.0: expected a finite number"),
        (lambda: optim.step_lr(1.0, 0), None, ValueError, "step_size=0: expected at least 1"),
        (
            lambda: optim.step_lr(1.0, 2.5),
            None,
            TypeError,
            "step_size: expected whole updates, an int, got 2.5",
        ),
        (lambda: optim.step_lr(1.0, 2, gamma=-0.1), None, ValueError, "gamma=-0.1"),
        (lambda: optim.multi_step_lr(1.0, [-1]), None, ValueError, "milestones=-1"),
        (
            lambda: optim.constant_lr(1.0, factor=1.5),
            lambda s, o: s.ConstantLR(o, 1.5),
            ValueError,
            "factor=1.5",
        ),
        (
            lambda: optim.constant_lr(1.0, total_iters=0),
            None,
            ValueError,
            "torch would keep the first factor",
        ),
        (
            lambda: optim.linear_lr(1.0, start_factor=0),
            lambda s, o: s.LinearLR(o, 0),
            ValueError,
            "start_factor=0",
        ),
        (
            lambda: optim.linear_lr(1.0, end_factor=2),
            lambda s, o: s.LinearLR(o, 0.5, 2),
            ValueError,
            "end_factor=2",
        ),
        (lambda: optim.polynomial_lr(1.0, power=-1.0), None, ValueError, "power=-1.0"),
        (lambda: optim.cosine_annealing_lr(1.0, 0), None, ValueError, "T_max=0: expected at least 1"),
        (
            lambda: optim.cosine_annealing_warm_restarts(1.0, 0),
            lambda s, o: s.CosineAnnealingWarmRestarts(o, 0),
            ValueError,
            "T_0 counts",
        ),
        (
            lambda: optim.cosine_annealing_warm_restarts(1.0, 5, T_mult=0.5),
            lambda s, o: s.CosineAnnealingWarmRestarts(o, 5, 0.5),
            ValueError,
            "equally long",
        ),
        (lambda: optim.lambda_lr(1.0, 0.5), None, TypeError, "lr_lambda: expected a function"),
        (
            lambda: optim.sequential_lr([], []),
            lambda s, o: s.SequentialLR(o, [], []),
            ValueError,
            "Pass a schedule",
        ),
        (
            lambda: optim.sequential_lr([optim.step_lr(1.0, 2)], [3]),
            lambda s, o: s.SequentialLR(o, [s.StepLR(o, 2)], [3]),
            ValueError,
            "A milestone is where",
        ),
        (
            lambda: optim.sequential_lr([optim.step_lr(1.0, 2)] * 3, [5, 3]),
            None,
            ValueError,
            r"milestones=\[5, 3\]: expected rising",
        ),
        (
            lambda: optim.chained_lr(1.0, []),
            lambda s, o: s.ChainedScheduler([]),
            ValueError,
            "Pass a schedule",
        ),
        (
            lambda: optim.one_cycle_lr(1.0, 0),
            lambda s, o: s.OneCycleLR(o, 1.0, total_steps=0),
            ValueError,
            "epochs times",
        ),
        (
            lambda: optim.one_cycle_lr(1.0, 9, pct_start=1.5),
            lambda s, o: s.OneCycleLR(o, 1.0, total_steps=9, pct_start=1.5),
            ValueError,
            "torch's default is 0.3",
        ),
        (
            lambda: optim.one_cycle_lr(1.0, 9, anneal_strategy="cosine"),
            lambda s, o: s.OneCycleLR(o, 1.0, total_steps=9, anneal_strategy="cosine"),
            ValueError,
            "'cos' is torch's default",
        ),
        (
            lambda: optim.one_cycle_lr(1.0, 10, pct_start=0.1),
            None,
            ValueError,
            "a single update, for which torch",
        ),
        (lambda: optim.one_cycle_lr(1.0, 10, div_factor=0), None, ValueError, "div_factor=0"),
        (lambda: optim.by_epochs(optim.step_lr(1.0, 3), 0), None, ValueError, "updates_per_epoch=0"),
        (lambda: optim.one_cycle_momentum(10, max_momentum=1.0), None, ValueError, "max_momentum=1.0"),
        (
            lambda: optim.cyclic_lr(0.1, 1.0, mode="square"),
            lambda s, o: s.CyclicLR(o, 0.1, 1.0, mode="square"),
            ValueError,
            "mode='square' is not one of",
        ),
        (lambda: optim.cyclic_lr(0.1, 1.0, gamma=0.9), None, ValueError, "gamma=0.9 has no effect in mode"),
        (lambda: optim.cyclic_lr(0.1, 1.0, step_size_up=0), None, ValueError, "step_size_up=0"),
    ],
)
def test_impossible_schedules_are_refused_in_torchs_words(make, torchs, error, remedy):
    with pytest.raises(error, match=remedy) as ours:
        make()
    if torchs is not None:
        torch = pytest.importorskip("torch")
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
        with pytest.raises(error) as theirs:
            torchs(torch.optim.lr_scheduler, optimizer)
        assert str(ours.value).startswith(str(theirs.value))
