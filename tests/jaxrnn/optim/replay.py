"""Recorded gradients, replayed on both sides: what the tests of optimizers share."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

STEPS, SIZE = 50, 48
UNIT = {np.dtype(np.float32): 2.0**-24, np.dtype(jnp.bfloat16): 2.0**-9}  # rounding units


def recorded_gradients():
    """Float32 gradients [STEPS, SIZE] from 1e-12 to 1e3, with zeros and changing signs."""
    rng = np.random.default_rng(0)
    gradients = 10.0 ** rng.uniform(-12, 3, SIZE) * rng.standard_normal((STEPS, SIZE))
    gradients[rng.random(gradients.shape) < 0.1] = 0
    gradients[:, 0] = 0  # a parameter that never gets a gradient
    gradients[::2, 1], gradients[1::2, 1] = 1e3, -1e3
    return gradients.astype(np.float32)


GRADIENTS = recorded_gradients()
# Small beside rate * STEPS, so that the updates and not the parameters' own rounding decide the error.
START = (1e-2 * np.random.default_rng(1).standard_normal(SIZE)).astype(np.float32)
RATES = 1e-2 * np.random.default_rng(2).uniform(0.2, 1.8, STEPS)
MOMENTA = np.random.default_rng(3).uniform(0.85, 0.95, STEPS)


def rate(k):
    return jnp.asarray(RATES, jnp.result_type(float))[k]


def momentum(k):
    return jnp.asarray(MOMENTA, jnp.result_type(float))[k]


def jax_run(transformation, dtype, gradients=GRADIENTS, start=START):
    """Parameters after every step, [STEPS, SIZE] in float64."""
    return jax_runs({"run": transformation}, dtype, gradients, start)["run"]


def jax_runs(transformations, dtype, gradients=GRADIENTS, start=START):
    """Many runs in one program, which takes a fraction of the time to compile."""

    def step(carries, gradient):
        after = {}
        for name, transformation in transformations.items():
            params, state = carries[name]
            updates, state = transformation.update(gradient, state, params)
            after[name] = optax.apply_updates(params, updates), state
        return after, {name: params for name, (params, _) in after.items()}

    with jax.enable_x64(dtype == np.float64):
        params = jnp.asarray(start, dtype)
        carries = {name: (params, each.init(params)) for name, each in transformations.items()}
        program = jax.jit(lambda carries, gradients: jax.lax.scan(step, carries, gradients)[1])
        runs = program(carries, jnp.asarray(gradients, dtype))
        return {name: np.asarray(run).astype(np.float64) for name, run in runs.items()}


def torch_run(make, dtype, gradients=GRADIENTS, start=START, *, rates=RATES, momenta=None, prepare=None):
    """The same by the optimizer ``make(torch.optim, [parameter])``; `prepare` sees the parameters before each step.

    In float64, torch's default dtype is float64 too: NAdam keeps a number in it.
    """
    torch = pytest.importorskip("torch")
    usual = torch.get_default_dtype()
    dtype = getattr(torch, np.dtype(dtype).name)
    try:
        torch.set_default_dtype(torch.float64 if dtype == torch.float64 else torch.float32)
        parameter = torch.nn.Parameter(torch.tensor(start).to(dtype))
        optimizer = make(torch.optim, [parameter])
        (group,) = optimizer.param_groups
        run = []
        for number, gradient in enumerate(gradients):
            if rates is not None:
                group["lr"] = float(rates[number])
            if momenta is not None:
                _set_momentum(group, float(momenta[number]))
            parameter.grad = torch.tensor(gradient).to(dtype)
            if prepare is not None:
                prepare([parameter])
            optimizer.step()
            run.append(parameter.detach().double().numpy().copy())
        return np.stack(run)
    finally:
        torch.set_default_dtype(usual)


def _set_momentum(group, value):
    """As torch's OneCycleLR does."""
    if "betas" in group:
        group["betas"] = (value, group["betas"][1])
    else:
        group["momentum"] = value


def rms(values):
    return np.sqrt(np.mean(values**2, axis=-1))


def error_ratio(candidate, reference, oracle, dtype=np.float32):
    """Largest ratio, over the steps, of the candidate's error to the reference's or to four roundings."""
    floor = 4 * UNIT[np.dtype(dtype)] * rms(oracle)
    return np.max(rms(candidate - oracle) / np.maximum(rms(reference - oracle), floor))


def difference(candidate, reference):
    """Largest difference relative to the parameter at its largest."""
    return np.max(np.abs(candidate - reference) / np.max(np.abs(reference), axis=0))
