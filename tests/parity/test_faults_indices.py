"""What a wrong index reads out of a recurrent layer is named for what it is: a step, a layer or a direction."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import parity  # noqa: E402
from parity.explaining.diagnose import hypotheses, local_hypotheses  # noqa: E402
from parity.oracle.evidence import gather  # noqa: E402

pytestmark = pytest.mark.torch

# Of every axis another size, and six steps, so that the last, the one before and the first are three.
ROWS, STEPS, FEATURES, HIDDEN, LAYERS = 5, 6, 3, 7, 2


class Readout(nn.Module):
    """An LSTM of two layers of which `read(output, h_n)` is returned."""

    def __init__(self, read, **options):
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(FEATURES, HIDDEN, LAYERS, **{"batch_first": True, **options})
        self.read = read

    def forward(self, x):
        output, (h_n, _) = self.lstm(x)
        return self.read(output, h_n)


def last_step(output, h_n):
    return output[:, -1]


def step_before(output, h_n):
    return output[:, -2]


def first_step(output, h_n):
    return output[:, 0]


def last_of_first_axis(output, h_n):
    return output[-1]


def one_before_of_first_axis(output, h_n):
    return output[-2]


def last_state(output, h_n):
    return h_n[-1]


def state_before(output, h_n):
    return h_n[-2]


def last_state_and_step(output, h_n):
    return h_n[-1], output[:, -1]


def last_state_and_step_before(output, h_n):
    return h_n[-1], output[:, -2]


def probe():
    x = np.random.default_rng(0).standard_normal((ROWS, STEPS, FEATURES)).astype(np.float32)
    return parity.Probe(args=(x,), weight_scale=1.0)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


BOTH, TIME_MAJOR = {"bidirectional": True}, {"batch_first": False}


@pytest.mark.parametrize(
    ("reference", "candidate", "options", "expected"),
    [
        (last_step, step_before, {}, "A12-before"),
        (last_state, state_before, BOTH, "A12-forward"),
        (last_state_and_step, last_state_and_step_before, BOTH, "A12-before"),
        slow(last_state, state_before, {}, "A12-before"),  # with one direction, another layer
        slow(last_step, first_step, {}, "A12-first"),
        slow(step_before, last_step, {}, "A12-after"),
        slow(last_step, step_before, BOTH, "A12-before"),
        slow(state_before, last_state, BOTH, "A12-reverse"),
        slow(last_of_first_axis, one_before_of_first_axis, TIME_MAJOR, "A12-before"),
        slow(last_of_first_axis, one_before_of_first_axis, BOTH | TIME_MAJOR, "A12-before"),
    ],
)
def test_a_wrong_index_is_called_by_what_it_reads(reference, candidate, options, expected):
    models = (Readout(read, **options) for read in (candidate, reference))
    report = parity.compare(*models, probe())
    assert report.verdict == "DIVERGENT"
    explanations = report.diagnosis.explanations
    # "Exchanged" cannot be told from "read as the other" where only one of the two is read.
    assert {found.id for found in explanations} - {"A12"} == {expected}
    assert any("directions" in found.name for found in explanations) == expected.startswith(
        ("A12-forward", "A12-reverse")
    )


@pytest.mark.parametrize("options", [{}, BOTH])
def test_mistakes_of_two_directions_are_offered_for_two_only(options):
    evidence = gather(Readout(last_state_and_step, **options), probe())
    offered = (*hypotheses(evidence), *local_hypotheses(evidence))
    assert any("direction" in hypothesis.name for hypothesis in offered) == bool(options)
