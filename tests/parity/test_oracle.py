"""The oracle is checked before it judges."""

import copy
import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import parity  # noqa: E402
import torch_ref  # noqa: E402
from parity import weighing  # noqa: E402
from parity.designed import FEATURES, HIDDEN, CellCall, LayerCall  # noqa: E402
from parity.oracle import oracle, witnesses  # noqa: E402
from parity.running import torch_side  # noqa: E402

OPTIONS = {"num_layers": 2, "bidirectional": True, "batch_first": True}
CALL = LayerCall(states=2, layers=2, directions=2, batch_first=True, ragged=True)


def consulted(reference, probe):
    reference = torch_side.with_weights(reference, probe.weights(torch_side.parameters(reference)))
    measured = torch_side.run(reference, probe, probe.dtype)
    replayed = {name: measured[f"grad({name})"] for name in torch_side.parameters(reference)}
    return oracle.consult(reference, probe, measured, replayed)


def test_a_readable_layer_is_checked_against_torchs_own():
    reference = torch_ref.LSTM(FEATURES, HIDDEN, **OPTIONS)
    twin = witnesses.twin(reference)
    assert type(twin) is torch.nn.LSTM
    assert all(torch.equal(value, reference.state_dict()[name]) for name, value in twin.state_dict().items())
    found = consulted(reference, CALL.probes("quick", 0)[0])
    everyone = "torch.nn.LSTM, long-hand equations, long-hand NumPy, ONNX Runtime"
    assert found.description == f"torch_ref.LSTM in float64, agrees with {everyone}"
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
    expected, found = reference(x), witnesses.twin(reference)(x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision_every_witness_gets_the_rounded_numbers(dtype):
    probe = dataclasses.replace(CALL.probes("quick", 0)[0], dtype=dtype)
    found = consulted(torch_ref.LSTM(FEATURES, HIDDEN, **OPTIONS), probe)
    assert found.description.endswith("agrees with torch.nn.LSTM, long-hand equations, long-hand NumPy")


def test_two_oracles_that_disagree_are_an_error_and_judge_nothing():
    reference = torch_ref.LSTM(FEATURES, HIDDEN, **OPTIONS)
    step = reference.cell.step

    def almost(params, gates_x, state):
        return step(params, gates_x * (1 + 1e-10), state)

    reference.cell = dataclasses.replace(reference.cell, step=almost)
    candidate = torch.nn.LSTM(FEATURES, HIDDEN, **OPTIONS)
    comparison = weighing.try_probe(candidate, reference, CALL.probes("quick", 0)[0]).comparison
    assert comparison.verdict == "ERROR"
    assert "ORACLE CONFLICT: torch_ref.LSTM and torch.nn.LSTM disagree on output" in comparison.error


def test_where_torch_has_no_twin_the_oracle_says_so():
    peephole = torch_ref.PeepholeLSTM(FEATURES, HIDDEN, **OPTIONS)
    assert witnesses.twin(peephole) is None
    assert witnesses.twin(torch.nn.LSTM(FEATURES, HIDDEN)) is None
    empty_row = CALL.probes("designed", 0)[2]
    assert 0 in empty_row.kwargs["lengths"]
    resets = dataclasses.replace(CALL, resets=True).probes("quick", 0)[0]
    for probe in (empty_row, resets):
        found = consulted(torch_ref.LSTM(FEATURES, HIDDEN, **OPTIONS), probe)
        own = "long-hand equations, long-hand NumPy"
        assert found.description == f"torch_ref.LSTM in float64, agrees with {own}"


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
    comparison = weighing.try_probe(ours, theirs, probe).comparison
    assert comparison.verdict == "EQUIVALENT", comparison
    everyone = "long-hand equations, long-hand NumPy, ONNX Runtime"
    assert comparison.oracle == f"torch.{kind} in float64, agrees with {everyone}"


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM", "PeepholeLSTM"])
@pytest.mark.parametrize("witness", ["long-hand equations", "long-hand NumPy", "ONNX Runtime"])
def test_every_witness_can_stop_a_wrong_reference(kind, witness, monkeypatch):
    """The reference forgets its last step's output; a witness alone, the others silenced, notices."""
    probe = LayerCall(states=2 if "LSTM" in kind else 1).probes("quick", 0)[0]
    reference = getattr(torch_ref, kind)(FEATURES, HIDDEN)
    every = witnesses.testimonies

    def only(*args):
        return (testimony for testimony in every(*args) if testimony.witness == witness)

    monkeypatch.setattr(oracle, "testimonies", only)
    assert consulted(reference, probe).description.endswith(witness)
    run = torch_side.run

    def forgetful(module, probe, dtype, replayed=None):
        trace = run(module, probe, dtype, replayed)
        if type(module).__module__ != "torch_ref.layers":
            return trace
        entry = trace.entry("output")
        entry.array[-1] = 0
        return trace

    monkeypatch.setattr(torch_side, "run", forgetful)
    with pytest.raises(oracle.OracleConflictError, match=f"{witness} disagree on output"):
        consulted(reference, probe)


class StartsFromZeros(torch.nn.Module):
    """Makes its first state itself: ``torch.zeros`` is float32 unless told otherwise."""

    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(2, 3, batch_first=True)

    def forward(self, x):
        zeros = torch.zeros(1, x.size(0), 3)
        return self.lstm(x, (zeros, zeros))[0]


def test_a_reference_that_makes_its_own_zeros_has_an_oracle():
    net = StartsFromZeros()
    x = np.random.default_rng(0).standard_normal((2, 4, 2)).astype(np.float32)
    report = parity.compare(copy.deepcopy(net), net, parity.Probe("windows", (x,)))
    assert report.verdict == "EQUIVALENT"
    assert torch.get_default_dtype() == torch.float32
