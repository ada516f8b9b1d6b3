"""What checks on several devices of a CPU share. They are processes, since JAX counts devices once."""

import json
import sys

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AxisType

from jaxrnn.plan.loops import collectives
from tests.jaxrnn.common import draw, rms_error


def mesh_of(axis, devices, axis_type=AxisType.Auto):
    return jax.make_mesh((devices,), (axis,), (axis_type,), devices=jax.devices()[:devices])


def initial(layer, rows, dtype=jnp.float64):
    """Return an initial state, no number of which is zero."""
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    features = enumerate(layer.cell.state_features(layer.hidden_size))
    states = tuple(jnp.asarray(draw(n, count, rows, f), dtype) for n, f in features)
    return states if len(states) > 1 else states[0]


def counted(program, *arguments):
    """Return the collectives of a function, compiled: [opcode, loops around it, count]."""
    text = jax.jit(program).lower(*arguments).compile().as_text()
    return sorted([*key, count] for key, count in collectives(text).items())


def worst(ours, theirs):
    """Return the largest error of all arrays of two trees."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(rms_error(a, b) for a, b in pairs)


def everything(call, layer, x, state):
    """Return outputs and final states, and the gradients of layer, x and state, of irregular cotangents."""

    def weighted(layer, x, state):
        results = call(layer, x, state)
        cotangents = (jnp.cos(jnp.arange(r.size, dtype=r.dtype)) for r in jax.tree.leaves(results))
        total = sum((r.ravel() * w).sum() for r, w in zip(jax.tree.leaves(results), cotangents, strict=True))
        return total, results

    (_, results), gradients = nnx.jit(nnx.value_and_grad(weighted, argnums=(0, 1, 2), has_aux=True))(
        layer, x, state
    )
    return results, gradients


def refused(work):
    """Return the exception that is raised, with its text."""
    try:
        work()
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as refusal:
        return f"{type(refusal).__name__}: {refusal}"
    return "accepted"


def main(devices, **parts):
    """Print what the part named on the command line finds, on so many devices, as JSON."""
    jax.config.update("jax_num_cpu_devices", devices)
    with jax.enable_x64(True):
        print(json.dumps(parts[sys.argv[1]]()))
