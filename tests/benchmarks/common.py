"""Time that a test sets, and records that nobody measured."""

from benchmarks.jobs import Job
from benchmarks.sizes import Size
from benchmarks.timing import Clock

TINY = Size("2,3,2,4", 2, 3, 2, 4)


class FakeClock(Clock):
    """Time passes only where a contender or `others` says so."""

    def __init__(self):
        self.seconds = 0.0
        self.foreign_seconds = 0.0

    def now(self):
        return self.seconds

    def foreign(self):
        return self.foreign_seconds

    def pause(self):
        pass

    def takes(self, seconds, foreign=0.0):
        """A contender that takes so long, while others compute `foreign`; both may be functions."""

        def run():
            took = seconds() if callable(seconds) else seconds
            self.seconds += took
            self.foreign_seconds += took * (foreign() if callable(foreign) else foreign)

        return run


def contender(name, seconds, base, **fields):
    ratio = base / seconds
    return {
        "name": name,
        "median_ms": 1e3 * seconds,
        "min_ms": 1e3 * seconds,
        "ratio": [ratio, 0.9 * ratio, 1.1 * ratio],
        "compile_seconds": None,
        "temp_bytes": None,
        "flops": None,
        "note": "",
        "seconds": [seconds] * 7,
    } | fields


def record(size=TINY, kind="lstm", mode="train", *, others=None, **fields):
    """A record in which jaxrnn takes 1 ms, and the others what they are given."""
    job = Job(size, kind, mode)
    times = {"jaxrnn": 1e-3} | (others or {"torch": 2e-3, "nnx LSTMCell": 0.5e-3})
    return (
        job.to_json()
        | {
            "flops": job.flops(),
            "traffic_bytes": job.traffic(),
            "bound_ms": 0.1,
            "memory_ms": 0.01,
            "rounds": 7,
            "dropped": 2,
            "noisy": False,
            "foreign": [0.0] * 7,
            "ratio_is": "jaxrnn / contender",
            "contenders": [contender(name, seconds, 1e-3) for name, seconds in times.items()],
            "skipped": {"keras": "not installed: pip install 'jaxrnn[peers-keras]'"},
        }
        | fields
    )


MACHINE = {
    "cpu": "a processor",
    "usable_cores": 2,
    "gemm_gflops": 100.0,
    "memory_gbytes": 10.0,
    "peaks_noisy": False,
    "packages": {"jax": "0", "flax": "0", "torch": None},
    "date": "2030-01-01T00:00:00+00:00",
}
