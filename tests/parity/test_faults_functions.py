"""Mistakes outside the recurrence are found by the gate that is meant to find them, and called by their names."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn import functional as F

import torch_ref
from parity.explaining import diagnose, inversion
from parity.explaining.misfit import Answer
from parity.explaining.rounding import diagnose_numeric
from parity.faults import functions, numerics
from parity.faults.functions import attention_parts, norms
from parity.faults.numerics import NUMERIC, to_bits
from parity.faults.substitution import Substitution, exchanging
from parity.oracle.evidence import gather
from parity.probe import Probe
from parity.running import torch_side
from parity.selftest import functions as selftest
from parity.selftest.subject import subject
from parity.selftest.trial import run_trial
from parity.subjects.jax_mutants import MUTANTS
from parity.subjects.table import SUBJECTS
from parity.trace import Entry, Trace
from parity.verdict import EQUIVALENT, EXPLAINS
from parity.weighing import weigh

pytestmark = pytest.mark.torch

FAULTS = (*functions.FAULTS, *numerics.FAULTS)
QUICK_SUBJECTS = {"attention_fused", "layer_norm", "batch_norm_train", "rms_norm"}
QUICK = {
    ("A01", "attention_fused"),
    ("A07-1e9", "attention_fused"),
    ("A07-nan", "attention_fused"),
    ("F-scale", "attention_fused"),
    ("N01", "layer_norm"),
    ("N04", "layer_norm"),
    ("N10", "layer_norm"),
    ("N08-float32", "layer_norm"),
    ("F-eps", "layer_norm"),
    ("N05", "batch_norm_train"),
}
# Faults of torch's functions that have no mutant in the table, and why.
WITHOUT_MUTANT = {
    "N06-exact": "the subject has the exact gelu",
    "N07-beta": "the subject's softplus has a beta of 1",
    "N12-var": "as N12, whose root it is",
    "L10": "planted in recurrent layers",
    "L11": "planted in recurrent layers",
    "L12": "planted in recurrent layers",
    "A11-early": "as A11-late, the other way",
}


def slow_unless(quick, *values):
    return pytest.param(*values, marks=() if quick else pytest.mark.slow, id="-".join(map(str, values[:2])))


def trial_of(fault, subject):
    return next(trial for trial in selftest.trials() if (trial.id, trial.case) == (fault, subject))


def diagnosis_of(fault, subject):
    return trial_of(fault, subject).judge().diagnosis


# The subjects and their mutants


@pytest.mark.parametrize("id", [slow_unless(case.id in QUICK_SUBJECTS, case.id) for case in SUBJECTS])
def test_the_faithful_subject_is_equivalent(id):
    case = next(case for case in SUBJECTS if case.id == id)
    reference = case.reference()
    for probe in case.probes("designed", 0):
        evidence = gather(reference, probe)
        assert weigh(case.candidate(), evidence).comparison.verdict == EQUIVALENT, probe.name


@pytest.mark.parametrize(
    ("fault", "subject"), [slow_unless((m.fault, m.subject) in QUICK, m.fault, m.subject) for m in MUTANTS]
)
def test_the_mutant_is_killed_by_its_gate_and_called_by_its_name(fault, subject):
    trial = trial_of(fault, subject)
    outcome = run_trial(trial)
    assert outcome.error is None
    assert outcome.killed, outcome
    assert set(outcome.diagnosed) == (selftest.mutant_of(trial).others or {fault})


def test_every_fault_of_a_function_has_a_mutant_or_a_reason():
    planted = {mutant.fault for mutant in MUTANTS}
    faults = {fault.id for fault in FAULTS if not fault.variant}
    assert faults - planted == set(WITHOUT_MUTANT)
    assert {numeric.id for numeric in NUMERIC} <= planted


def test_every_fault_has_a_name_of_its_own():
    """The traces of hypotheses are kept by name."""
    names = [fault.name for fault in FAULTS]
    assert len(names) == len(set(names))


@pytest.mark.slow
def test_a_large_finite_fill_is_no_mistake_where_every_row_has_a_key():
    """Nothing could tell them apart, so nothing may be found."""

    def weigh_with_fill(scores, keep, fill):
        from parity.subjects import jax_models

        return jax_models.weigh(scores, keep, -1e9)

    from parity.subjects.jax_models import Parts

    assert selftest.judge_mutant("attention_dot", Parts(weigh=weigh_with_fill)).verdict == EQUIVALENT


# What stands in for torch's functions computes the same, but for the mistake


def leaves(*shapes):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(s, dtype=torch.float64, generator=generator, requires_grad=True) for s in shapes]


def assert_same_function(ours, theirs, inputs):
    """Compare values and gradients; 1e-13 is some 500 roundings in float64, the sums have 20 terms."""
    results = []
    for function in (ours, theirs):
        outputs = function(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        total = sum(
            (output * torch.linspace(0.5, 2.0, output.numel()).view(output.shape)).sum() for output in outputs
        )
        results.append([*outputs, *torch.autograd.grad(total, inputs)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


KEEP = torch.tensor([[True, False, True, True, False, True]]).repeat(4, 1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attn_mask": KEEP},
        {"attn_mask": KEEP & torch.tensor([True, False, True, True])[:, None]},  # a query without a key
        {"attn_mask": torch.linspace(-3.0, 3.0, 24, dtype=torch.float64).view(4, 6)},
        {"is_causal": True},
        {"scale": 0.3},
    ],
)
def test_attention_spelled_out_is_that_of_torch(options):
    ours = attention_parts.dot_attention(attention_parts.Parts())
    inputs = leaves((2, 4, 3), (2, 6, 3), (2, 6, 5))
    assert_same_function(
        lambda q, k, v: ours(q, k, v, **options),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options),
        inputs,
    )


@pytest.mark.parametrize("weights", ["averaged", "by head", "none"])
def test_multi_head_attention_spelled_out_is_that_of_torch(weights):
    module = nn.MultiheadAttention(6, 3, batch_first=True).double()
    ignored = torch.tensor([[False] * 5, [True, False, True, False, False]])
    spelled_out = attention_parts.multi_head(attention_parts.Parts())

    class Instead:
        def call(self, function, args, kwargs):
            chosen = spelled_out if function is F.multi_head_attention_forward else function
            return chosen(*args, **kwargs)

    def attend(q, k):
        options = {"need_weights": weights != "none", "average_attn_weights": weights == "averaged"}
        return tuple(
            part for part in module(q, k, k, key_padding_mask=ignored, **options) if part is not None
        )

    def attend_instead(q, k):
        with exchanging(Instead()):
            return attend(q, k)

    assert_same_function(attend_instead, attend, leaves((2, 4, 6), (2, 5, 6)))


@pytest.mark.parametrize(
    ("ours", "theirs", "shapes"),
    [
        (norms.layer_norm(), F.layer_norm, ((4, 7), (7,), (7,))),
        (norms.group_norm(), F.group_norm, ((4, 6, 5), (6,), (6,))),
        (norms.rms_norm(), F.rms_norm, ((4, 7), (7,))),
    ],
)
def test_norms_spelled_out_are_those_of_torch(ours, theirs, shapes):
    second = 3 if theirs is F.group_norm else (7,)
    inputs = leaves(*shapes)
    assert_same_function(lambda x, *w: ours(x, second, *w), lambda x, *w: theirs(x, second, *w), inputs)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_spelled_out_is_that_of_torch(training):
    def call(norm):
        def forward(x, weight, bias):
            running = [torch.linspace(0.5, 1.5, 6, dtype=torch.float64) for _ in range(2)]
            output = norm(x, *running, weight, bias, training, 0.3, 1e-4)
            return (output, *(part + 0.0 * weight for part in running))

        return forward

    assert_same_function(call(norms.batch_norm()), call(F.batch_norm), leaves((4, 6, 5), (6,), (6,)))


def test_rounding_to_eight_bits_is_bfloat16():
    values = torch.cat([torch.randn(4000), torch.tensor([0.0, -0.0, 1.00390625, 1.01171875, 3.0e38, 1e-30])])
    rounded = to_bits(8)(values.double())
    assert torch.equal(rounded, values.to(torch.bfloat16).double())
    assert not torch.equal(to_bits(9)(values.double()), rounded)


# Diagnoses


def test_an_eps_is_solved_for_and_reported_with_the_references():
    (found,) = diagnosis_of("F-eps", "layer_norm").explanations
    assert found.name == "eps of layer_norm is 0.0003 instead of 1e-05"
    assert found.misfit <= EXPLAINS


def test_rounded_operands_are_told_by_how_near_the_errors_are():
    diagnosis = diagnosis_of("N10", "layer_norm")
    (found,) = diagnosis.explanations
    times = int(found.name.partition("; ")[2].partition(" times")[0])
    assert times > 4 * 4  # four times what is asked for
    assert diagnosis.next_best.id == "N09"
    assert diagnosis.next_best.misfit > EXPLAINS


def test_what_is_as_near_as_rounding_is_no_other_function():
    """A fast variance is beyond the limit by a factor of two: no fault that changes nothing may claim it."""
    diagnosis = diagnosis_of("N04", "layer_norm")
    assert [found.id for found in diagnosis.explanations] == ["N04"]


def test_a_faithful_candidate_gets_no_diagnosis():
    chosen = subject("layer_norm")
    judgements = [weigh(chosen.case.candidate(), evidence) for evidence in chosen.evidence]
    answers = [Answer(j.evidence, j.trace64) for j in judgements]
    assert diagnose.diagnose(answers) is None
    assert diagnose_numeric(judgements) is None
    assert inversion.relations(answers) == []


class TwoSoftmaxes(nn.Module):
    """The same function in two lines."""

    def __init__(self, second_axis=-1):
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.second_axis = second_axis

    def forward(self, x):
        first = F.softmax(self.linear(x), dim=-1)
        second = F.softmax(first * x.sum(-1, keepdim=True), dim=self.second_axis)
        return first, second


def test_a_mistake_in_one_line_is_named_with_its_line():
    x = np.random.default_rng(0).standard_normal((5, 6, 3)).astype(np.float32)
    evidence = gather(TwoSoftmaxes(), Probe("x", (x,), weight_scale=1.0))
    wrong = torch_side.with_weights(TwoSoftmaxes(second_axis=0), evidence.weights)
    answer = Answer(evidence, torch_side.run(wrong, evidence.probe, "float64"))
    line = TwoSoftmaxes.forward.__code__.co_firstlineno + 2
    (found,) = diagnose.diagnose([answer]).explanations
    assert found.id == "A03-first"
    assert found.name.endswith(f"in test_faults_functions.py:{line} only")


class AroundALayer(nn.Module):
    """One sigmoid in the equations of the peephole layer, one in the model's own."""

    def __init__(self):
        super().__init__()
        self.rnn = torch_ref.PeepholeLSTM(3, 4)

    def forward(self, x):
        return torch.sigmoid(self.rnn(x)[0])


def test_what_a_recurrent_layer_calls_is_not_the_models_affair():
    x = np.random.default_rng(0).standard_normal((5, 6, 3)).astype(np.float32)
    alone = gather(torch_ref.PeepholeLSTM(3, 4), Probe("x", (x,), weight_scale=1.0))
    around = gather(AroundALayer(), Probe("x", (x,), weight_scale=1.0))
    assert torch.sigmoid not in alone.functions
    assert torch.sigmoid in around.functions
    halved = Substitution("X", "half the sigmoid", "", (torch.sigmoid,), lambda x: 0.5 * torch.sigmoid(x))
    planted = torch_side.run(halved.plant(around.model), around.probe, "float64")
    np.testing.assert_allclose(planted["output"], 0.5 * around.oracle["output"], rtol=1e-13)


def test_a_cell_whose_state_is_kept_in_bfloat16_is_named():
    class Rounding(nn.LSTMCell):
        def forward(self, x, state):
            return tuple(part.to(torch.bfloat16).to(part.dtype) for part in super().forward(x, state))

    draw = np.random.default_rng(0)
    x, h, c = (draw.standard_normal((5, size)).astype(np.float32) for size in (3, 4, 4))
    evidence = gather(nn.LSTMCell(3, 4), Probe("x", (x, (h, c)), weight_scale=1.0))
    rounding = torch_side.with_weights(Rounding(3, 4), evidence.weights)
    answer = Answer(evidence, torch_side.run(rounding, evidence.probe, "float64"))
    assert [found.id for found in diagnose.diagnose([answer]).explanations] == ["N11"]


# Relations


def answers_with(changes):
    """Answers to two probes whose outputs are a function of the reference's, `changes(number, array)`."""
    found = []
    for number in range(2):
        x = np.random.default_rng(number).standard_normal((5, 6, 3)).astype(np.float32)
        evidence = gather(nn.Linear(3, 4), Probe(f"{number}", (x,), weight_scale=1.0))
        output = changes(number, evidence.oracle["output"])
        entries = {name: evidence.oracle.entry(name) for name in evidence.oracle}
        found.append(Answer(evidence, Trace({**entries, "output": Entry(output, "output", "output")})))
    return found


@pytest.mark.parametrize(
    ("change", "id", "words"),
    [
        (lambda y: 2.0 * y, "R-scale", "2 times"),
        (lambda y: y / 6.0, "R-scale", "1/6 times"),
        (lambda y: y * np.sqrt(5.0), "R-scale", "sqrt(5) times"),
        (lambda y: y * 6 / 5, "R-scale", "6/5 times"),
        (lambda y: -y, "R-sign", "the opposite sign"),
        (lambda y: y - 0.25, "R-offset", "plus -0.25"),
        (lambda y: 3.0 * y + 1.0, "R-affine", "plus 1"),
        (lambda y: np.flip(y, 2), "R-flip", "axis 2 reversed"),
        (lambda y: np.roll(y, -1, 1), "R-roll", "axis 1 rolled by -1"),
        (lambda y: y[:, [2, 3, 0, 1, 5, 4]], "R-order", "[2, 3, 0, 1, 5, 4]"),
        (lambda y: y[:, [0, 1, 4, 5, 2, 3]], "R-order", "[0, 2, 1] of 3 blocks"),
        (lambda y: y.transpose(1, 0, 2), "R-axes", "axes in the order [1, 0, 2]"),
        (lambda y: y[:, -1], "R-reduced", "the last of axis 1"),
        (lambda y: y.mean(0), "R-reduced", "the mean over axis 0"),
        (np.tanh, "R-function", "tanh"),
        (lambda y: y.astype(np.float32).astype(np.float64), "N08-float32", "float32"),
    ],
)
def test_a_simple_relation_is_found_on_all_probes(change, id, words):
    (found,) = inversion.relations(answers_with(lambda number, y: change(y)))
    assert found.id == id
    assert found.name.startswith("output: ")
    assert words in found.name


@pytest.mark.parametrize(
    "change",
    [
        lambda number, y: np.random.default_rng(9).standard_normal(y.shape),
        lambda number, y: np.full_like(y, np.nan),
        lambda number, y: (2.0 + number) * y,  # another factor on each probe
        lambda number, y: y[:, :5],
        lambda number, y: y + 2e-4 * np.abs(np.sin(np.arange(y.size))).reshape(y.shape),  # of one sign
        lambda number, y: y + 2e-4 * y**3,  # away from zero
    ],
)
def test_no_relation_is_claimed_where_there_is_none(change):
    assert inversion.relations(answers_with(change)) == []


def test_a_relation_need_only_hold_where_something_differs():
    (found,) = inversion.relations(answers_with(lambda number, y: 2.0 * y if number else y))
    assert found.id == "R-scale"


def test_errors_of_a_known_size_are_named_by_it_where_none_fits_one_by_one():
    """Operands that are rounded the other way give errors of the same size at other places."""
    chosen = subject("layer_norm")
    judgements = []
    for evidence in chosen.evidence:
        judgement = weigh(chosen.case.candidate(), evidence)
        rng = np.random.default_rng(1)
        tensors = tuple(
            dataclasses.replace(tensor, rho_rms=1e4, rho_max=1e4, rho_limits=(4.0, 6.0))
            if tensor.kind == "output"
            else tensor
            for tensor in judgement.comparison.tensors
        )
        noisy = {
            name: dataclasses.replace(
                judgement.trace.entry(name),
                array=(array * (1.0 + 2.0**-12 * rng.standard_normal(array.shape))).astype(np.float32),
            )
            for name, array in judgement.trace.items()
        }
        comparison = dataclasses.replace(judgement.comparison, tensors=tensors)
        judgements.append(judgement._replace(comparison=comparison, trace=Trace(noisy)))
    (found,) = diagnose_numeric(judgements).explanations
    assert found.id == "N09"
    assert "TF32" in found.name
