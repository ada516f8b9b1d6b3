"""Compile training steps on several accelerators that are not here; print what passes between them.

`python -m tests.jaxrnn.sharding_ahead v5e` (or h100) prints one line of JSON: for each program its collectives, as
[opcode, loops around it, count], and the bytes of a device's memory, arguments included.
"""

import json
import os
import sys

from jaxrnn.plan.topologies import H100, target


def main(device, *names):
    platform = target(device).platform
    os.environ |= target(device).environment
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx
    from jax.experimental import topologies
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    import jaxrnn
    from jaxrnn.ops.planning import planning_for
    from jaxrnn.plan.loops import collectives
    from jaxrnn.sharding import HiddenSharded, data_parallel, wavefront

    def mesh_of(side, axis):
        """Return a mesh of a square of chips, or as many GPUs in one machine."""
        if platform == "tpu":
            devices = target(f"{device}:{side}x{side}").described()
        else:
            what = {"platform": "cuda", "target_config": H100, "topology": f"1x1x{side * side}"}
            devices = topologies.get_topology_desc(**what).devices
        return Mesh(np.array(devices).reshape(-1), (axis,))

    def shaped(mesh, spec, shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    def taken_apart(mesh, spec, make):
        structure, weights = nnx.split(nnx.eval_shape(make))
        return structure, jax.tree.map(lambda a: shaped(mesh, spec, a.shape, a.dtype), weights)

    def layer(make, features, hidden, **how):
        return make(features, hidden, dtype=jnp.bfloat16, rngs=nnx.Rngs(0), **how)

    def squares(h):
        return jnp.square(h.astype(jnp.float32)).sum()

    def rows(make, spread, rows_per_chip=8, steps=1024, loss=None, **how):
        """Data parallelism over 16 devices, or the same left to the compiler."""
        mesh = mesh_of(4, "data")
        if not spread:
            how["implementation"] = "scan"  # XLA divides loops, but not a TPU's kernels
        structure, weights = taken_apart(mesh, P(), lambda: layer(make, 128, 512, **how))
        of_shard = loss or (lambda model, x: (squares(model(x)[0]), x.size))

        def alone(model, x):
            total, count = of_shard(model, x)
            return total / count

        mean = data_parallel(of_shard, mesh, (P(None, "data"),)) if spread else alone
        x = shaped(mesh, P(None, "data"), (steps, rows_per_chip * mesh.size, 128))
        return jax.grad(lambda weights, x: mean(nnx.merge(structure, weights), x)), weights, x

    def in_segments(model, x):
        def loss(h, _):
            return squares(h)

        return jaxrnn.scan_loss(model, loss, x, x, segments=64, reduction="sum")[0], x.size

    def time(side=2):
        """Eight micro-batches of eight rows through four devices, 8192 steps; or all of them on one."""
        mesh = mesh_of(side, "time")
        structure, weights = taken_apart(mesh, P(), lambda: layer(jaxrnn.LSTM, 128, 512))

        def loss(weights, x):
            model = nnx.merge(structure, weights)
            h, _ = model(x) if side == 1 else wavefront(model, x, mesh=mesh, micro_batches=8)
            return squares(h)

        return jax.grad(loss), weights, shaped(mesh, P("time"), (8192, 64, 128))

    def hidden(make, side=2):
        """8192 units, whose weights no TPU could hold in its fast memory, on four devices; or on one."""
        mesh, units = mesh_of(side, "model"), 8192

        def built():
            alone = layer(make, 512, units)
            return alone if side == 1 else HiddenSharded(alone, mesh)

        structure, weights = taken_apart(mesh, P() if side == 1 else P(None, "model"), built)

        def loss(weights, x):
            return squares(nnx.merge(structure, weights)(x)[0])

        return jax.grad(loss), weights, shaped(mesh, P(), (128, 16, 512))

    programs = {
        "rows, LSTM": lambda: rows(jaxrnn.LSTM, True),
        "rows, GRU, in segments": lambda: rows(jaxrnn.GRU, True, loss=in_segments),
        "rows, GRU, in segments, left to the compiler": lambda: rows(jaxrnn.GRU, False, loss=in_segments),
        "rows, LSTM, left to the compiler": lambda: rows(jaxrnn.LSTM, False),
        "rows, GRU, carry, left to the compiler": lambda: rows(jaxrnn.GRU, False, memory="carry"),
        "rows, GRU, carry": lambda: rows(jaxrnn.GRU, True, memory="carry"),
        "time, LSTM": time,
        "time, LSTM, on one": lambda: time(side=1),
        "units, LSTM": lambda: hidden(jaxrnn.LSTM),
        "units, LSTM, on one": lambda: hidden(jaxrnn.LSTM, side=1),
        "units, GRU": lambda: hidden(jaxrnn.GRU),
    }
    found = {}
    kind = mesh_of(2, "any").devices.flat[0].device_kind if platform == "tpu" else None
    with planning_for(platform, kind):
        for name in names or programs:
            step, *arguments = programs[name]()
            compiled = jax.jit(step).lower(*arguments).compile()
            needs = compiled.memory_analysis()
            counts = collectives(compiled.as_text())
            found[name] = {
                "collectives": sorted([*key, count] for key, count in counts.items()),
                "device_bytes": needs.temp_size_in_bytes + needs.argument_size_in_bytes,
            }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
