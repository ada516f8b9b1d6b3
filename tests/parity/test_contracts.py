"""A precision is promised by both sides, pinned while they run, and judged by its own limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch")

from parity import contracts  # noqa: E402
from parity.compare import compare_arrays  # noqa: E402
from parity.gates import PRECISIONS, TF32  # noqa: E402
from parity.probe import Probe  # noqa: E402
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
