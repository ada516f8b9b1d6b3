"""Compile a training step by cuDNN for an H100 that is not here, and count: `python -m tests.jaxrnn.cudnn_ahead`.

Only a device can tell the sizes of cuDNN's buffers, so they are made up; nothing is run.
"""

import json
import os

import jax
import jax.numpy as jnp
from jax.experimental import rnn

from benchmarks.ahead import arrays_on
from jaxrnn import cells, ops
from jaxrnn.ops import cudnn
from jaxrnn.plan.loops import loops
from jaxrnn.plan.topologies import target

os.environ |= target("h100").environment
jax.config.update("jax_platforms", "cpu")

B, T, I, H = 16, 256, 64, 512


def counted(device, reverse):
    shaped = arrays_on(device, jnp.float32)
    params = {name: shaped(*shape) for name, shape in cells.LSTM.parameter_shapes(I, H).items()}
    state = cells.LSTMState(shaped(B, H), shaped(B, H))

    def loss(params, x, state, lengths):
        options = {"lengths": lengths, "reverse": reverse, "implementation": "cudnn"}
        return jnp.square(ops.unroll(cells.LSTM, params, x, state, **options)[0]).mean()

    step = jax.jit(jax.grad(loss, argnums=(0, 1)))
    text = step.lower(params, shaped(B, T, I), state, shaped(B, of=jnp.int32)).compile().as_text()
    entry = text[text.index("\nENTRY ") :]
    return {
        "calls": [text.count(f'custom_call_target="cudnn_rnn{way}_ffi"') for way in ("", "_bwd")],
        "loops": len(loops(text)),
        "kernels": sum(
            entry.count(f" {opcode}(") for opcode in ("fusion", "copy", "transpose", "custom-call")
        ),
    }


if __name__ == "__main__":
    rnn.gpu_rnn.compute_rnn_workspace_reserve_space_sizes = lambda *_: (4 * B * T * H, 24 * B * T * H)
    cudnn._is_there = lambda: True
    device = target("h100").described()[0]
    print(json.dumps({name: counted(device, name == "reverse") for name in ("forward", "reverse")}))
