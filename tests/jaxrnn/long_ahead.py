"""Compile training steps over very long sequences for a TPU v5e that is not here; print what its compiler says.

`python -m tests.jaxrnn.long_ahead` compiles all programs and prints one line of JSON: for each, bytes of the
device's memory, arguments included, bytes of the host's, and seconds; or the error. B = 8 rows, H = 512.
"""

import json

from jaxrnn.ops.memory import Memory
from jaxrnn.plan.compiler import Compiler, Job
from jaxrnn.plan.programs import Custom, Network
from jaxrnn.plan.topologies import target

ROWS, HIDDEN = 8, 512
ENWIK = 12_500_992  # steps of eight lanes through 100 007 936 bytes


def layer(steps):
    """The whole sequence through one layer, and a loss of its outputs."""
    return Network("LSTM", HIDDEN, ROWS, steps, 32, dtype="bfloat16", param_dtype="bfloat16")


def language_model(steps):
    """A language model over bytes, its loss taken in segments."""
    return Network("LSTM", HIDDEN, ROWS, steps, 64, vocabulary=256, dtype="bfloat16")


PROGRAMS = {
    "plain scan, 100 thousand": Job(Custom("tests.jaxrnn.plan_factories:plain_scan", 102_400), None),
    "gates, 100 thousand": Job(layer(102_400), "gates"),
    "carry, 600 thousand": Job(layer(600_064), "carry"),
    "h, 900 thousand": Job(layer(900_096), "h"),
    "segments, 419 million": Job(language_model(419_430_400), 4096),
    "two levels, a thousand million": Job(language_model(1_000_341_504), (1_048_576, 1024)),
    "enwik8": Job(language_model(ENWIK), 2048),
    "enwik8, offloaded": Job(language_model(ENWIK), Memory(segments=(2048,), offload=True)),
}


def main() -> None:
    found = {}
    with Compiler(target("v5e")) as compiler:
        for name, job in PROGRAMS.items():
            answer = compiler(job)
            if not answer["fits"]:
                found[name] = {"error": answer["refusal"]}
                continue
            needs = {key: answer[key] for key in ("device_bytes", "host_bytes")}
            found[name] = needs | {"seconds": answer["compile_seconds"]}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
