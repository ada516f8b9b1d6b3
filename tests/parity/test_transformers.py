"""A Transformer that is wrong in one place is found by the registered cases."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("torch")

import jaxrnn
from parity.cases import CASES
from parity.judge import judge_case
from parity.verdict import DIVERGENT

KNOWN = {case.id: case for case in CASES}


def epsilon_of_flax(model):
    for _, part in nnx.iter_modules(model):
        if isinstance(part, nnx.LayerNorm):
            part.epsilon = 1e-6


def gelu_by_tanh(model):
    for layer in model.decoder.layers:
        layer.activation = functools.partial(jax.nn.gelu, approximate=True)


def norm_behind_the_sum(model):
    for layer in model.decoder.layers:
        layer.norm_first = False


def no_scale_of_scores(model):
    class Unscaled(jaxrnn.MultiheadAttention):
        def attend(self, q, *args, **options):
            return super().attend(q * np.sqrt(q.shape[-1]).astype(np.float32), *args, **options)

    model.encoder.layers[0].self_attn.__class__ = Unscaled


WRONG = [
    ("transformer", epsilon_of_flax),
    ("transformer", no_scale_of_scores),
    ("transformer_pre_norm", gelu_by_tanh),
    ("transformer_pre_norm", norm_behind_the_sum),
]


@pytest.mark.slow
@pytest.mark.parametrize(("id", "spoil"), WRONG, ids=lambda value: getattr(value, "__name__", value))
def test_one_wrong_place_in_a_transformer_is_found(id, spoil):
    def spoilt():
        model = KNOWN[id].candidate()
        spoil(model)
        return model

    result = judge_case(dataclasses.replace(KNOWN[id], candidate=spoilt), "quick")
    assert result.verdict == DIVERGENT, result
