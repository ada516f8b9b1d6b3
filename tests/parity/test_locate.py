"""Bugs are found where they are: layer, direction, step and gate."""

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch_ref  # noqa: E402
from parity.designed import FEATURES, HIDDEN, STEPS, LayerCall  # noqa: E402
from parity.explaining import locate  # noqa: E402
from parity.explaining.nodes import observe  # noqa: E402
from parity.oracle.evidence import gather  # noqa: E402
from parity.verdict import Node  # noqa: E402
from tests.parity import planted  # noqa: E402

KINDS = ("LSTM", "GRU")


def subject(kind):
    """Return what is known of a ragged, bidirectional network of three layers."""
    call = LayerCall(states=2 if kind == "LSTM" else 1, layers=3, directions=2, batch_first=True, ragged=True)
    evidence = gather(
        getattr(torch_ref, kind)(FEATURES, HIDDEN, **planted.OPTIONS), call.probes("quick", 0)[0]
    )
    return evidence, observe(evidence)


def places(kind, count, seed):
    """Draw places at which at least one row has not ended."""
    rng = np.random.default_rng(seed)
    names = planted.quantities(kind)
    for _ in range(count):
        layer, direction, step, number = (int(rng.integers(n)) for n in (3, 2, STEPS, len(names)))
        yield (layer, direction, step, number), Node("", layer, direction, step, names[number])


def find(layer, place, evidence, observed):
    layer.place.set_value(jnp.asarray(place))
    return locate.first_divergence(layer, evidence, observed)


def exact_finds(kind, count, seed):
    evidence, observed = subject(kind)
    layer = planted.planted(kind, planted.weakened)(FEATURES, HIDDEN)
    return [
        find(layer, place, evidence, observed).places == (node,) for place, node in places(kind, count, seed)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_bug_at_one_step_of_one_gate_is_found_exactly_there(kind):
    found = exact_finds(kind, 250, seed=1)
    assert sum(found) >= 0.98 * len(found), f"{sum(found)} of {len(found)}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_gradient_is_found_in_the_backward_pass_where_it_is_cut(kind):
    evidence, observed = subject(kind)
    layer = planted.planted(kind, planted.cut)(FEATURES, HIDDEN)
    for place, node in places(kind, 20, seed=2):
        found = find(layer, place, evidence, observed)
        assert found.phase == "backward"
        # What the quantity is computed from gets no gradient through it, and nothing before that does.
        assert set(found.places) <= set(observed.parents(node)), (node, found.places)
        assert found.places, node


@pytest.mark.slow
def test_an_honest_layer_has_no_divergence_in_any_step():
    evidence, observed = subject("GRU")
    layer = planted.planted("GRU", planted.weakened)(FEATURES, HIDDEN)
    found = locate.first_divergence(layer, evidence, observed)
    assert (found.phase, found.places, found.wrong) == ("none", (), ())
    assert max(found.free.values()) < 1e-12  # float64 rounding
    node = Node("", 1, 1, 4, "z_z")
    found = find(layer, (1, 1, 4, planted.quantities("GRU").index("z_z")), evidence, observed)
    assert (found.phase, found.places) == ("forward", (node,))
    assert str(found) == "forward pass, layer 1 reverse, t=4, pre-activation of z (z_z)"
