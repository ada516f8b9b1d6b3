"""What torch refuses, a port must refuse: nothing it computes instead would be right."""

import dataclasses
import json

import jsonschema
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from flax import nnx

import parity
from parity.judge import judge_case, judge_models
from parity.report.json_report import schema
from parity.selftest import refusals
from parity.selftest.trial import run_trial
from parity.subjects.table import REFUSING
from parity.verdict import Report

pytestmark = pytest.mark.torch

IDS = np.array([[0, 4, 1], [2, 3, 3]], np.int32)
STRANGE = np.array([[0, 4, 1], [2, 5, -1]], np.int32)
ANSWERED = parity.Probe("inside", (IDS,), weight_scale=1.0)
REFUSED = parity.Probe("outside", (STRANGE,), weight_scale=1.0, refused=True)


class Theirs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rows = torch.nn.Embedding(5, 3)

    def forward(self, tokens):
        return self.rows(tokens)


class Unchecked(nnx.Module):
    def __init__(self):
        self.rows = nnx.Embed(5, 3, rngs=nnx.Rngs(0))

    def __call__(self, tokens):
        return self.rows(tokens)


class Checked(Unchecked):
    def __call__(self, tokens):
        import jax

        if not isinstance(tokens, jax.core.Tracer) and not ((tokens >= 0) & (tokens < 5)).all():
            raise IndexError("no such row")
        return super().__call__(tokens)


def judged(candidate, *probes):
    return judge_models("case", "a case", candidate, Theirs(), probes)


def test_a_model_that_refuses_what_torch_refuses_is_equivalent():
    result = judged(Checked(), ANSWERED, REFUSED)
    assert result.verdict == "EQUIVALENT"
    (tensor,) = result.comparisons[1].tensors
    assert "index out of range" in tensor.message
    assert "too (IndexError: no such row)" in tensor.message


def test_a_model_that_answers_where_torch_refuses_diverges_and_is_told_how():
    result = judged(Unchecked(), ANSWERED, REFUSED)
    assert [comparison.verdict for comparison in result.comparisons] == ["EQUIVALENT", "DIVERGENT"]
    (tensor,) = result.comparisons[1].failures
    assert tensor.message.startswith("the reference refuses (IndexError: index out of range in self")
    assert [found.id for found in result.diagnosis.explanations] == ["S20"]
    report = Report((result,))
    assert report.exit_code == 1
    assert "S20" in str(report)


@pytest.mark.parametrize("candidate", [Checked, Unchecked])
def test_a_refusal_keeps_to_the_schema_of_reports(candidate):
    report = Report((judged(candidate(), ANSWERED, REFUSED),))
    jsonschema.validate(json.loads(report.to_json()), schema())
    assert "outside: refusal" in report.to_junit()
    assert ("the reference refuses" in report.to_markdown()) == (candidate is Unchecked)


@pytest.mark.slow
def test_a_refusal_is_a_refusal_from_any_number_of_seeds():
    result = judge_case(REFUSING, seeds=8)
    assert result.verdict == "EQUIVALENT"
    assert [c.name for c in result.comparisons if c.name.endswith("8 seeds")] == ["padded, 8 seeds"]


def test_a_probe_that_promises_a_refusal_and_gets_numbers_is_an_error():
    result = judged(Checked(), dataclasses.replace(ANSWERED, refused=True))
    assert result.verdict == "ERROR"
    assert "leave out refused=True" in result.comparisons[0].error


def test_an_answer_that_is_none_of_the_known_ones_is_divergent_without_a_name():
    class Odd(Unchecked):
        def __call__(self, tokens):
            import jax.numpy as jnp

            return self.rows(jnp.where((tokens < 0) | (tokens > 4), 2, tokens))

    result = judged(Odd(), ANSWERED, REFUSED)
    assert result.verdict == "DIVERGENT"
    assert result.diagnosis.explanations == ()


def test_the_faithful_subject_refuses_and_is_equivalent():
    result = judge_models(
        "case", "", REFUSING.candidate(), REFUSING.reference(), REFUSING.probes("designed", 0)
    )
    assert result.verdict == "EQUIVALENT"


@pytest.mark.parametrize("trial", list(refusals.trials()), ids=lambda trial: trial.id)
def test_every_way_to_answer_is_killed_and_named(trial):
    outcome = run_trial(trial)
    assert outcome.error is None
    assert outcome.killed
    assert outcome.named, outcome.diagnosed
