"""The judge never cries wolf: the same function, computed in another order, passes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch")

import jaxrnn  # noqa: E402
import torch_ref  # noqa: E402
from parity import calibrate, weighing  # noqa: E402
from parity.cases import CASES  # noqa: E402
from parity.designed import FEATURES, HIDDEN, STEPS, LayerCall  # noqa: E402
from parity.oracle.evidence import gather  # noqa: E402
from parity.running import torch_side  # noqa: E402

OPTIONS = {"num_layers": 2, "bidirectional": True, "batch_first": True}
KINDS = {"GRU": 1, "LSTM": 2}


@functools.cache
def evidence(kind):
    call = LayerCall(states=KINDS[kind], layers=2, directions=2, batch_first=True, ragged=True)
    reference = getattr(torch_ref, kind)(FEATURES, HIDDEN, **OPTIONS)
    return [gather(reference, probe) for probe in call.probes("designed", 0)]


def assert_no_alarm(kind, candidate, probes=slice(None)):
    for found in evidence(kind)[probes]:
        comparison = weighing.weigh(candidate, found).comparison
        assert comparison.verdict == "EQUIVALENT", (found.probe.name, comparison.failures)


def layer_of(kind, base=None):
    return (base or getattr(jaxrnn, kind))(FEATURES, HIDDEN, **OPTIONS, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_torch_on_any_number_of_threads_raises_no_alarm(kind, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_no_alarm(kind, getattr(torch_ref, kind)(FEATURES, HIDDEN, **OPTIONS), slice(1))
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_jax_without_jit_raises_no_alarm(kind):
    class Eager(getattr(jaxrnn, kind)):
        """A class of its own, so that no compiled program is reused."""

    with jax.disable_jit():
        assert_no_alarm(kind, layer_of(kind, Eager), slice(1))


@pytest.mark.slow
@pytest.mark.parametrize("unroll", [1, 4, STEPS])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_unrolled_by_any_factor_raises_no_alarm(kind, unroll, monkeypatch):
    scan = jax.lax.scan

    class Unrolled(getattr(jaxrnn, kind)):
        def __call__(self, input, hx=None, **kwargs):
            monkeypatch.setattr(jax.lax, "scan", functools.partial(scan, unroll=unroll))
            jax.clear_caches()  # the unroll is compiled by itself, and knows nothing of the patch
            try:
                return getattr(jaxrnn, kind).__call__(self, input, hx, **kwargs)
            finally:
                monkeypatch.setattr(jax.lax, "scan", scan)

    assert_no_alarm(kind, layer_of(kind, Unrolled))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_computed_in_two_parts_raises_no_alarm(kind):
    class Split(getattr(jaxrnn, kind)):
        def __call__(self, input, hx=None, *, lengths=None):
            parts = []
            for rows in (slice(0, 2), slice(2, None)):
                part = jax.tree.map(lambda state: state[:, rows], hx)  # noqa: B023
                call = getattr(jaxrnn, kind).__call__
                parts.append(call(self, input[rows], part, lengths=lengths[rows]))
            outputs, states = zip(*parts, strict=True)
            return jnp.concatenate(outputs), jax.tree.map(lambda *a: jnp.concatenate(a, 1), *states)

    assert_no_alarm(kind, layer_of(kind, Split))


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["reference", "scan"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_implementation_of_the_unroll_raises_no_alarm(kind, implementation):
    layer = layer_of(kind, functools.partial(getattr(jaxrnn, kind), implementation=implementation))
    assert_no_alarm(kind, layer)


@pytest.mark.slow
def test_five_thousand_honest_tensors_raise_no_alarm():
    with torch_side.one_thread():
        run = calibrate.run_null(CASES, 5_000, first_seed=1)
    assert run.alarms == []
    assert run.tensors >= 5_000
    assert all(tail.exceeds < 1e-4 for tail in run.tails()), run.tails()


def test_the_tail_of_a_known_distribution_is_found():
    """Of exponential draws with mean 0.1, e^-10 = 4.5e-5 exceed 1; the fit sees only the largest 2 %."""
    shares = np.random.default_rng(0).exponential(0.1, 50_000)
    tail = calibrate.fit_tail("rho_rms", shares)
    assert abs(tail.shape) < 0.15
    assert 5e-6 < tail.exceeds < 4e-4
    assert tail.median == pytest.approx(0.1 * np.log(2), rel=0.05)


def test_a_false_alarm_would_be_counted_and_named():
    broken = [case for case in CASES if case.id == "gru_cell"]
    run = calibrate.run_null(broken, 20)
    assert run.alarms == []
    wrong = weighing.try_probe(
        torch.nn.GRUCell(FEATURES, HIDDEN, bias=True),
        torch_ref.GRUCell(FEATURES, HIDDEN),
        broken[0].probes("quick", 0)[0],
    )
    assert wrong.comparison.verdict == "EQUIVALENT"
    from parity.verdict import CaseResult, Comparison, TensorResult

    tensor = TensorResult(
        "h_1", "h_1", "output", "DIVERGENT", gate="numeric", rho_rms=5.0, rho_max=1.0, rho_limits=(4.0, 6.0)
    )
    run.add(CaseResult("gru_cell", comparisons=(Comparison("1x", (tensor,), 1),)), seed=7)
    assert run.alarms == ["gru_cell 1x seed 7: h_1 DIVERGENT by numeric"]
    assert run.upper_bound > calibrate.NullRun(tensors=run.tensors).upper_bound
