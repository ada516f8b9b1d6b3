"""Run the snippets of `docs/scaling.md` on four devices of a CPU."""

import jax

from tests.docs.test_snippets import run

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 4)
    found = run("docs/scaling.md")
    print(f'"{found["D"]} devices"')
