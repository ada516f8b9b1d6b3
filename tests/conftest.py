"""What every test runs with."""

import os
from collections import Counter
from pathlib import Path

# Tensors are tiny: beside JAX's own threads, a second thread of torch makes them a thousand times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Most of the time goes into compiling; a second run takes a quarter of it. A folder for each worker, since JAX
# does not lock what it writes there.
_PROGRAMS = (
    Path(__file__).parents[1] / ".pytest_cache" / "jax" / os.environ.get("PYTEST_XDIST_WORKER", "main")
)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_PROGRAMS))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402
import pytest  # noqa: E402

# Tests that were measured to be long: functions whose cases take over half a second together, programs being
# compiled before. They are slow, unless marked as essential.
LONG = Path(__file__).with_name("long.txt")
LONG_SECONDS = 0.5


def pytest_addoption(parser):
    """Let a run take a part of the slow tests, or find out which tests are long."""
    parser.addoption("--part", metavar="K/N", help="of slow tests, every N-th from the K-th")
    parser.addoption("--write-long", action="store_true", help=f"write {LONG.name} from what this run takes")


def pytest_configure(config):
    """Measure where it is asked for, in the process that hears of every test."""
    if config.getoption("--write-long") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Stopwatch())


@pytest.hookimpl(tryfirst=True)  # before markers select
def pytest_collection_modifyitems(config, items):
    """Mark what is long, and leave out the slow tests that belong to other parts."""
    long = set() if config.getoption("--write-long") else set(LONG.read_text("utf-8").split())
    for item in items:
        if function_of(item.nodeid) in long and not item.get_closest_marker("essential"):
            item.add_marker("slow")
            item.add_marker("long")
    if part := config.getoption("--part"):
        number, parts = map(int, part.split("/"))
        slow = [item for item in items if item.get_closest_marker("slow")]
        left_out = set(slow) - set(slow[number % parts :: parts])
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


def function_of(nodeid):
    """Return a test's name without its parameters."""
    return nodeid.split("[")[0]


class Stopwatch:
    """Adds up what functions take, and writes down the long ones."""

    def __init__(self):
        self.seconds = Counter()

    def pytest_runtest_logreport(self, report):
        """Hear of a test."""
        self.seconds[function_of(report.nodeid)] += report.duration

    def pytest_sessionfinish(self):
        """Write; of tests that did not run, what was known before remains."""
        long = {name for name, seconds in self.seconds.items() if seconds > LONG_SECONDS}
        before = set(LONG.read_text("utf-8").split()) - set(self.seconds)
        LONG.write_text("\n".join(sorted(long | before)) + "\n", encoding="utf-8")


@pytest.fixture(autouse=True, scope="module")
def fresh_caches():
    """Drop compiled programs between modules: each holds memory maps, of which a process has 65 530."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    """Float64 in JAX for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def torch():
    """PyTorch; where it is not installed, the test is skipped."""
    return pytest.importorskip("torch")
