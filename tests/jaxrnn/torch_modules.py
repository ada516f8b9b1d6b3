"""Modules of torch with random weights, and every number of a call of them and of their twins."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxrnn
from jaxrnn import torch_names
from jaxrnn.torch_names import Buffer
from tests.jaxrnn.common import draw


def floats(*shape):
    return draw(7, *shape)


def integers(high, *shape):
    return np.random.default_rng(7).integers(0, high, shape)


def filled(torch, module, dtype="float64"):
    """Return the module in a dtype, nothing in it zero: weights normal, running variances positive."""
    module = module.to(getattr(torch, dtype))
    with torch.no_grad():
        for seed, (name, tensor) in enumerate(module.state_dict().items()):
            if not tensor.is_floating_point():
                tensor.fill_(3)
            else:
                values = 0.5 * draw(seed, *tensor.shape)
                tensor.copy_(torch.from_numpy(np.asarray(1 + values**2 if "var" in name else values)))
    return module


def bits(named):
    """Return the dtype, shape and bytes of every value."""
    arrays = {name: np.asarray(jaxrnn.checkpoint_files.as_numpy(value)) for name, value in named.items()}
    return {name: (array.dtype.name, array.shape, array.tobytes()) for name, array in arrays.items()}


def flat(value):
    """Return the arrays in nested tuples, those that are None left out."""
    if isinstance(value, tuple | list):
        return [leaf for each in value for leaf in flat(each)]
    return [] if value is None else [value]


def is_floating(value):
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def numbers_in_torch(torch, module, args, options):
    """Outputs, gradients of floating arguments and of parameters, and the state dict after the call."""

    def tensor(value):
        if not isinstance(value, np.ndarray):
            return tuple(map(tensor, value)) if isinstance(value, tuple) else value
        return torch.tensor(value, requires_grad=is_floating(value))

    args, options = [tensor(value) for value in args], {name: tensor(v) for name, v in options.items()}
    given = [value for value in flat([*args, *options.values()]) if getattr(value, "requires_grad", False)]
    outputs = flat(module(*args, **options))
    sum((torch.from_numpy(draw(90 + n, *o.shape)) * o).sum() for n, o in enumerate(outputs)).backward()
    named = {f"output {n}": output for n, output in enumerate(outputs)}
    named |= {f"grad argument {n}": value.grad for n, value in enumerate(given)}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            named[f"grad {name}"] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    named |= {f"after {name}": value for name, value in module.state_dict().items()}
    return {name: value.detach().numpy() for name, value in named.items()}


def numbers_in_jax(twin, args, options):
    """Return the same of a twin."""
    graphdef, params, rest = nnx.split(twin, nnx.Param, ...)
    places, tree = jax.tree.flatten((args, options))
    at = [n for n, value in enumerate(places) if is_floating(value)]

    def run(params, given):
        module, values = nnx.merge(graphdef, params, rest, copy=True), list(places)
        for n, value in zip(at, given, strict=True):
            values[n] = value
        args, options = jax.tree.unflatten(tree, values)
        outputs = flat(module(*args, **options))
        scalar = sum(jnp.sum(draw(90 + n, *o.shape) * o) for n, o in enumerate(outputs))
        return scalar, (outputs, nnx.state(module))

    gradients, (outputs, after) = jax.grad(run, (0, 1), has_aux=True)(
        params, [jnp.asarray(places[n]) for n in at]
    )
    named = {f"output {n}": output for n, output in enumerate(outputs)}
    named |= {f"grad argument {n}": value for n, value in enumerate(gradients[1])}
    found = torch_names.parameters(nnx.merge(graphdef, gradients[0], rest))
    named |= {f"grad {parameter.name}": parameter.value() for parameter in found}
    after = jaxrnn.state_dict(nnx.merge(graphdef, after))
    named |= {f"after {name}": value for name, value in after.items()}
    return {name: np.asarray(value) for name, value in named.items()}


@functools.cache
def residual():
    """A class of a team's own: one part, a parameter and a buffer."""
    import torch

    class Residual(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner
            self.scale = torch.nn.Parameter(torch.ones(3))
            self.register_buffer("shift", torch.ones(3))

        def forward(self, x):
            return x + self.scale * self.inner(x) + self.shift

    return Residual


class Residual(nnx.Module):
    def __init__(self, inner):
        self.scale = nnx.Param(jnp.zeros(3))
        self.shift = Buffer(jnp.zeros(3))
        self.inner = inner

    def __call__(self, x):
        return x + self.scale * self.inner(x) + self.shift


def convert_residual(module, convert):
    return Residual(convert(module.inner))
