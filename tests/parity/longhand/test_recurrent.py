"""The spelled-out network is torch's, in all three array libraries."""

import dataclasses

import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch")

from parity import weighing  # noqa: E402
from parity.cases import CASES  # noqa: E402
from parity.longhand import jax_modules, recurrent, surface, torch_modules  # noqa: E402
from parity.longhand.recurrent import FAITHFUL, Call  # noqa: E402
from parity.oracle.evidence import gather  # noqa: E402
from parity.running import torch_side  # noqa: E402

# Cells without a recurrent product are not spelled out: the catalogue's faults are mistakes in the others.
DRAWN = [case for case in CASES if not case.id.startswith(("stocks", "min_", "multihead", "transformer"))]
FAST = ("lstm", "gru_resets", "peephole_lstm_cell")


def faithful(name, network):
    return FAITHFUL


@pytest.mark.parametrize("case", DRAWN, ids=lambda case: case.id)
def test_a_spelled_out_torch_model_is_the_original(case):
    reference = case.reference()
    evidence = gather(reference, case.probes("quick", 0)[0])
    comparison = weighing.weigh(torch_modules.plant(reference, faithful), evidence).comparison
    assert comparison.verdict == "EQUIVALENT", comparison.failures


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if case.id in FAST else pytest.mark.slow) for case in DRAWN],
    ids=lambda case: case.id,
)
def test_a_spelled_out_jax_model_is_the_torch_model(case):
    evidence = gather(case.reference(), case.probes("quick", 0)[0])
    candidate = jax_modules.plant(case.candidate(), faithful)
    assert any(type(part).__name__.startswith("SpelledOut") for _, part in nnx.iter_modules(candidate))
    comparison = weighing.weigh(candidate, evidence).comparison
    assert comparison.verdict == "EQUIVALENT", comparison.failures


@pytest.mark.parametrize("id", ["rnn_tanh", "rnn_relu", "gru", "lstm", "lstm_proj", "peephole_lstm"])
def test_numpy_returns_what_torch_returns_to_rounding(id):
    case = next(case for case in CASES if case.id == id)
    probe = case.probes("quick", 0)[0]
    evidence = gather(case.reference(), probe)
    network = surface.network_of(evidence.model)
    stack = {
        place: {name: value.detach().numpy().astype(np.float64) for name, value in params.items()}
        for place, params in surface.stack_of(evidence.model, network).items()
    }
    x, hx = probe.args
    start = hx if isinstance(hx, tuple) else (hx,)
    call = Call(
        x.swapaxes(0, 1).astype(np.float64),
        tuple(part.astype(np.float64) for part in start),
        probe.kwargs["lengths"],
    )
    output, states = recurrent.run(network, stack, call)
    found = {"output": output.swapaxes(0, 1), **dict(zip(("h_n", "c_n"), states, strict=False))}
    for name, value in found.items():
        # float64 rounding, amplified by nine steps: the semantic limit of these probes is 7e-15 and more.
        np.testing.assert_allclose(value, evidence.oracle[name], rtol=0, atol=1e-14, err_msg=name)


def test_a_note_sees_every_quantity_of_every_step_and_may_change_it():
    case = next(case for case in CASES if case.id == "gru_plain")
    evidence = gather(case.reference(), case.probes("quick", 0)[0])
    seen = []

    def note(at, name, value):
        seen.append((at.layer, at.direction, int(at.step), name))
        return value * 2 if name == "h" and at.step == 8 else value

    recipe = dataclasses.replace(FAITHFUL, note=note)
    model = torch_modules.plant(evidence.model, lambda name, network: recipe)
    changed = torch_side.run(model, evidence.probe, "float64")
    assert seen == [(0, 0, t, q) for t in range(9) for q in ("z_r", "r", "z_z", "z", "z_n", "n", "h")]
    # float64 rounding: the oracle's sums are in another order
    np.testing.assert_allclose(changed["output"][:-1], evidence.oracle["output"][:-1], rtol=0, atol=1e-15)
    np.testing.assert_allclose(changed["h_n"], 2 * evidence.oracle["h_n"], rtol=1e-13)


def test_planting_leaves_the_original_and_the_rest_of_the_model_alone():
    case = next(case for case in CASES if case.id == "forecaster_lstm")
    reference = case.reference()
    planted = torch_modules.plant(reference, faithful)
    assert type(reference.rnn) is torch.nn.LSTM
    assert isinstance(planted.rnn, torch.nn.LSTM)
    assert torch_modules.is_spelled_out(planted.rnn)
    assert type(planted.fc) is torch.nn.Linear
    assert list(torch_modules.recurrent_parts(planted)) == ["rnn"]


def test_a_spelled_out_layer_reads_packed_sequences_like_the_original():
    torch.manual_seed(0)
    layer = torch.nn.GRU(3, 4, num_layers=2, bidirectional=True, batch_first=True).double()
    padded = torch.randn(3, 5, 3, dtype=torch.float64)
    packed = torch.nn.utils.rnn.pack_padded_sequence(padded, torch.tensor([2, 5, 3]), True, False)
    (found, found_h), (expected, expected_h) = torch_modules.plant(layer, faithful)(packed), layer(packed)
    torch.testing.assert_close(found.data, expected.data, rtol=1e-14, atol=1e-15)  # float64 rounding
    torch.testing.assert_close(found_h, expected_h, rtol=1e-14, atol=1e-15)


def test_a_spelled_out_layer_draws_no_dropout_masks_of_its_own():
    layer = torch_modules.plant(torch.nn.LSTM(3, 4, num_layers=2, dropout=0.5).train(), faithful)
    with pytest.raises(RuntimeError, match="pass dropout_masks="):
        layer(torch.zeros(2, 1, 3))
