"""The oracle is checked before it judges."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch_ref  # noqa: E402
from parity import judge, oracle, torch_side  # noqa: E402
from parity.designed import FEATURES, HIDDEN, CellCall, LayerCall  # noqa: E402

OPTIONS = {"num_layers": 2, "bidirectional": True, "batch_first": True}
CALL = LayerCall(states=2, layers=2, directions=2, batch_first=True, ragged=True)


def consulted(reference, probe):
    reference = torch_side.with_weights(reference, probe.weights(torch_side.parameters(reference)))
    measured = torch_side.run(reference, probe, "float32")
    replayed = {name: measured[f"grad({name})"] for name in torch_side.parameters(reference)}
    return oracle.consult(reference, probe, measured, replayed)


def test_a_readable_layer_is_checked_against_torchs_own():
    reference = torch_ref.LSTM(FEATURES, HIDDEN, **OPTIONS)
    twin = oracle.twin(reference)
    assert type(twin) is torch.nn.LSTM
    assert all(torch.equal(value, reference.state_dict()[name]) for name, value in twin.state_dict().items())
    found = consulted(reference, CALL.probes("quick", 0)[0])
    assert found.description == "torch_ref.LSTM in float64, agrees with torch.nn.LSTM"
    assert found.trace["output"].dtype == np.float64


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(
    "reference",
    [
        torch_ref.RNN(FEATURES, HIDDEN, nonlinearity="relu"),
        torch_ref.GRU(FEATURES, HIDDEN, bias=False),
        torch_ref.LSTM(FEATURES, HIDDEN, proj_size=2),
        torch_ref.RNNCell(FEATURES, HIDDEN, nonlinearity="relu"),
        torch_ref.LSTMCell(FEATURES, HIDDEN, bias=False),
    ],
    ids=lambda module: type(module).__name__,
)
def test_a_twin_has_the_options_of_the_original(reference):
    x = torch.randn(4, 2, FEATURES) if hasattr(reference, "num_layers") else torch.randn(2, FEATURES)
    expected, found = reference(x), oracle.twin(reference)(x)
    torch.testing.assert_close(found, expected)


def test_two_oracles_that_disagree_are_an_error_and_judge_nothing():
    reference = torch_ref.LSTM(FEATURES, HIDDEN, **OPTIONS)
    step = reference.cell.step

    def almost(params, gates_x, state):
        return step(params, gates_x * (1 + 1e-10), state)

    reference.cell = dataclasses.replace(reference.cell, step=almost)
    candidate = torch.nn.LSTM(FEATURES, HIDDEN, **OPTIONS)
    comparison = judge.judge_probe(candidate, reference, CALL.probes("quick", 0)[0])
    assert comparison.verdict == "ERROR"
    assert (
        "ORACLE CONFLICT: torch_ref.LSTM and torch.nn.LSTM disagree in float64 on output" in comparison.error
    )


def test_where_torch_has_no_twin_the_oracle_says_so():
    peephole = torch_ref.PeepholeLSTM(FEATURES, HIDDEN, **OPTIONS)
    assert oracle.twin(peephole) is None
    assert oracle.twin(torch.nn.LSTM(FEATURES, HIDDEN)) is None
    empty_row = CALL.probes("designed", 0)[2]
    assert 0 in empty_row.kwargs["lengths"]
    resets = dataclasses.replace(CALL, resets=True).probes("quick", 0)[0]
    for probe in (empty_row, resets):
        found = consulted(torch_ref.LSTM(FEATURES, HIDDEN, **OPTIONS), probe)
        assert found.description == "torch_ref.LSTM in float64"


def test_the_references_error_is_drawn_several_times():
    """Each draw is about as large as the first; the largest of nine exceeds it, most often by less than 5."""
    probe = CellCall(2).probes("quick", 0)[0]
    reference = torch_ref.LSTMCell(FEATURES, HIDDEN)
    reference = torch_side.with_weights(reference, probe.weights(torch_side.parameters(reference)))
    measured = torch_side.run(reference, probe, "float32")
    replayed = {name: measured[f"grad({name})"] for name in torch_side.parameters(reference)}
    found = oracle.consult(reference, probe, measured, replayed)
    for name in ("h_1", "c_1", "grad(weight_hh)", "grad(input)"):
        first = np.sqrt(np.mean((measured[name] - found.trace[name]) ** 2))
        assert 0.5 * first < found.redrawn[name].rms < 10 * first
        assert found.redrawn[name].peak >= found.redrawn[name].rms
    assert "step(weight_hh)" not in found.redrawn


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_ragged_rows_reach_torchs_own_layers_as_packed_sequences(kind):
    call = dataclasses.replace(CALL, states=2 if kind == "LSTM" else 1)
    probe = call.probes("quick", 0)[0]
    ours = getattr(torch_ref, kind)(FEATURES, HIDDEN, **OPTIONS)
    theirs = getattr(torch.nn, kind)(FEATURES, HIDDEN, **OPTIONS)
    comparison = judge.judge_probe(ours, theirs, probe)
    assert comparison.verdict == "EQUIVALENT", comparison
    assert comparison.oracle == "torch.LSTM in float64".replace("LSTM", kind)
