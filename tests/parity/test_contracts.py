"""A precision is promised by both sides, pinned while they run, and judged by its own limits."""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

torch = pytest.importorskip("torch")

import jaxrnn  # noqa: E402
import parity  # noqa: E402
from parity import contracts  # noqa: E402
from parity.compare import compare_arrays  # noqa: E402
from parity.environment import environment, one_line  # noqa: E402
from parity.gates import PRECISIONS, TF32  # noqa: E402
from parity.probe import Probe  # noqa: E402
from parity.report import facts  # noqa: E402
from parity.running import jax_side, torch_side  # noqa: E402

X = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


def test_every_contract_pins_a_precision_of_its_own():
    made = {name: contract.apply(Probe(args=(X,))) for name, contract in contracts.CONTRACTS.items()}
    assert list(made) == ["ieee_f32", "tf32", "bf16", "f16", "f64"]
    assert made["tf32"].precision is TF32
    assert made["bf16"].precision is PRECISIONS["bfloat16"]
    assert made["f64"].tiers == ("semantic",)
    assert made["ieee_f32"].describe()["matmul"] == "ieee"


def test_an_unknown_contract_or_product_is_refused():
    with pytest.raises(ValueError, match=r"contract='fp8' is not one of \['ieee_f32'"):
        contracts.contract_of("fp8")
    with pytest.raises(ValueError, match=r"matmul='bf16' is not one of \['ieee', 'tf32'\]"):
        Probe(matmul="bf16")
    with pytest.raises(ValueError, match="expected one or both"):
        Probe(tiers=())


def test_torch_multiplies_as_promised_and_is_left_as_it_was():
    seen = []

    class Spy(torch.nn.Linear):
        def forward(self, x):
            seen.append((torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.rnn.fp32_precision))
            return super().forward(x)

    before = torch.backends.cudnn.rnn.fp32_precision
    for matmul in ("ieee", "tf32"):
        torch_side.run(Spy(4, 3), Probe(args=(X,), arg_names=("x",), matmul=matmul), "float32")
    assert seen == [("ieee", "ieee"), ("tf32", "tf32")]
    assert torch.backends.cudnn.rnn.fp32_precision == before


def test_jax_multiplies_as_promised_in_float32_and_exactly_in_float64():
    seen = []

    class Spy(nnx.Linear):
        def __call__(self, x):
            seen.append((x.dtype, jax.config.jax_default_matmul_precision))
            return super().__call__(x)

    model = Spy(4, 3, rngs=nnx.Rngs(0))
    for matmul in ("ieee", "tf32"):
        for dtype in ("float32", "float64"):
            jax_side.run(model, Probe(args=(X,), arg_names=("x",), matmul=matmul), dtype)
    assert {(jnp.dtype("float32"), "tensorfloat32"), (jnp.dtype("float64"), "highest")} <= set(seen)
    assert (jnp.dtype("float64"), "tensorfloat32") not in seen


def test_a_contract_that_this_machine_cannot_keep_says_so(monkeypatch):
    assert contracts.contract_of("ieee_f32").broken() is None
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    assert "unset it" in contracts.contract_of("ieee_f32").broken()
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x --xla_cpu_enable_fast_math=true")
    assert "fast_math" in contracts.contract_of("bf16").broken()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_tf32_needs_a_gpu_in_both_frameworks():
    assert "needs an NVIDIA GPU" in contracts.contract_of("tf32").broken()


def test_tf32_is_measured_by_its_own_roundoff():
    """An error of 2^-12 is a thousand times float32's roundoff, and half of TF32's."""
    oracle = np.random.default_rng(1).standard_normal((6, 7))
    rough = (oracle * (1 + 2.0**-12)).astype(np.float32)
    fine = oracle.astype(np.float32)

    def judged(**options):
        (result,) = compare_arrays({"y": rough}, {"y": fine}, {"y": oracle}, {"y": oracle}, **options)
        return result

    assert (judged().verdict, judged().gate) == ("DIVERGENT", "numeric")
    assert judged(precision=TF32).verdict == "EQUIVALENT"
    assert judged(tiers=("semantic",)).verdict == "EQUIVALENT"
    assert judged(tiers=("semantic",)).rho_rms is None


def gru_pair(hidden=5, **options):
    torch.manual_seed(0)
    reference = torch.nn.GRU(4, hidden)
    return parity.port(reference, jaxrnn.GRU(4, hidden, rngs=nnx.Rngs(0), **options)), reference


@pytest.mark.parametrize(
    "precision", [lax.Precision.DEFAULT, "bfloat16", lax.DotAlgorithmPreset.BF16_BF16_F32], ids=str
)
def test_a_precision_that_is_not_overruled_is_named_in_the_report(precision):
    candidate, reference = gru_pair(precision=precision)
    report = parity.compare(candidate, reference, Probe(args=(X[:, None],)))
    said = [note for note in facts.reservations(report) if "was not overruled" in note]
    assert len(said) == 1
    assert re.match(r"IEEE float32 in (\d) of \1 products .* own precision=(DEFAULT|BF16_BF16_F32) ", said[0])
    assert said[0] in facts.unexercised(report)


@pytest.mark.parametrize("precision", [None, "highest"])
def test_the_default_of_the_process_is_overruled_and_named(precision):
    candidate, reference = gru_pair(precision=precision)
    with jax.default_matmul_precision("bfloat16"):
        report = parity.compare(candidate, reference, Probe(args=(X[:, None],)))
    assert report.verdict == "EQUIVALENT"
    assert not [note for note in facts.reservations(report) if "overruled" in note]
    assert report.environment["matmul precision outside"] == "bfloat16"
    assert "matmul precision outside bfloat16" in one_line(dict(report.environment))


def test_products_of_other_contracts_are_not_float32s_business():
    candidate, _ = gru_pair(precision=lax.Precision.DEFAULT)
    for contract in ("tf32", "bf16"):
        probe = contracts.contract_of(contract).apply(Probe(args=(X[:, None],)))
        assert jax_side.reservations(candidate, probe) == ()


def test_on_a_tpu_the_report_says_what_the_default_is(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(platform="tpu", device_kind="TPU v5 lite")])
    assert environment()["matmul precision outside"] == "default: one pass in bfloat16"
    with jax.default_matmul_precision("highest"):
        assert environment()["matmul precision outside"] == "highest"


def test_where_products_are_rounded_a_verdict_needs_the_pin_and_the_loss_is_named(monkeypatch):
    """A device that multiplies in bfloat16 unless told otherwise, as a TPU does, in place of this one."""
    exact = lax.dot_general

    def as_on_a_tpu(a, b, *args, precision=None, **options):
        wanted = precision or jax.config.jax_default_matmul_precision
        name = str(getattr(wanted, "name", wanted)).lower()
        if a.dtype == jnp.float32 and name != "highest":
            a, b = (lax.reduce_precision(operand, 8, 7) for operand in (a, b))
        return exact(a, b, *args, precision=precision, **options)

    monkeypatch.setattr(lax, "dot_general", as_on_a_tpu)
    probe = Probe(args=(X[:, None],), weight_scale=1.0)
    pinned = parity.compare(*gru_pair(6), probe)
    assert pinned.verdict == "EQUIVALENT"
    rounding = parity.compare(*gru_pair(6, precision=lax.Precision.DEFAULT), probe)
    assert rounding.verdict == "DIVERGENT"
    assert rounding["output"].gate == "numeric"
    assert rounding["output"].semantic_ratio < 1  # the same function all the same
    assert [found.id for found in rounding.diagnosis.explanations] == ["N10"]
    assert "bfloat16" in rounding.diagnosis.explanations[0].name
    assert "default_matmul_precision('highest')" in rounding.diagnosis.explanations[0].fix
