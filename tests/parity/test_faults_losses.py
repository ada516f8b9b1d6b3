"""What stands in for torch's losses is what other libraries compute, and torch's where no mistake can show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from parity.faults.losses import FAULTS  # noqa: E402
from parity.losses.probes import probes_of  # noqa: E402
from parity.running.jax_side import in_float64  # noqa: E402
from parity.selftest import loss_mutants  # noqa: E402

pytestmark = pytest.mark.torch
BY_ID = {fault.id: fault for fault in FAULTS}


def sequences(name):
    probes = {probe.name: probe for probe in probes_of("ctc", {"zero_infinity": True})}
    logits, *rest = probes[name].args
    return np.float64(logits), rest


def of_torch(function, logits, rest, reduction="mean"):
    """Return the loss of log-probabilities and its gradient at the logits."""
    leaf = torch.tensor(logits, requires_grad=True)
    tensors = [torch.from_numpy(np.array(each, np.int64)) for each in rest]
    loss = function(leaf.log_softmax(-1), *tensors, reduction=reduction, zero_infinity=True)
    return loss.detach().numpy(), torch.autograd.grad(loss.sum(), leaf)[0].numpy()


@pytest.mark.parametrize("name", ["feasible", "infeasible"])
def test_the_finite_loss_of_impossible_sequences_is_optaxs_to_rounding(name):
    logits, rest = sequences(name)

    def loss(values):
        return loss_mutants.ctc_of_optax(jax.nn.log_softmax(values), *map(jnp.asarray, rest))

    with in_float64():
        expected, gradient = jax.value_and_grad(loss)(jnp.asarray(logits))
    found, own = of_torch(BY_ID["C14-finite"].instead, logits, rest)
    # Sums around 1e5, whose roundings are the same on both sides.
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    np.testing.assert_allclose(own, gradient, atol=1e-14)
    assert (found > 1e3) == (name == "infeasible")


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_the_finite_loss_of_possible_sequences_is_torchs(reduction):
    logits, rest = sequences("feasible")
    found, expected = (
        of_torch(function, logits, rest, reduction) for function in (BY_ID["C14-finite"].instead, F.ctc_loss)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)  # nine frames of logarithms of sums


def test_the_unguarded_similarity_is_torchs_but_for_zero_vectors():
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(4, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    one[2] = 0.0
    found, expected = BY_ID["C18"].instead(one, other), F.cosine_similarity(one, other)
    assert torch.isnan(found).tolist() == [False, False, True, False]
    assert expected[2] == 0.0
    torch.testing.assert_close(found[[0, 1, 3]], expected[[0, 1, 3]], rtol=1e-14, atol=0.0)
