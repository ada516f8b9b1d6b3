"""Every figure in the texts of the rules is what was measured."""

import inspect
import math

import pytest

from jaxrnn.doctor import RULES
from jaxrnn.doctor.rules.porting import PAIRS

pytestmark = pytest.mark.torch
IDS = [rule.id for rule in RULES]


@pytest.fixture
def measurements(torch):
    from tests.jaxrnn.doctor import measurements

    return measurements


@pytest.mark.slow  # small networks are trained
@pytest.mark.parametrize("rule", RULES, ids=IDS)
@pytest.mark.filterwarnings("ignore:dropout option adds dropout", "ignore:Detected call of `lr_scheduler")
def test_the_figures_of_a_rule_are_those_that_are_measured(rule, measurements):
    assert rule.measured == measurements.MEASUREMENTS[rule.id]()
    assert rule.consequence.count("{}") == len(rule.measured)


def test_a_state_that_is_not_detached_raises_as_the_rule_says(torch, measurements):
    layer, x = measurements.layer_and_input(torch.nn.GRU)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)

    def second_batch(**how):
        _, state = layer(x)
        layer(x, state)[0].sum().backward(**how)
        optimizer.step()
        layer(x, state)[0].sum().backward()

    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        second_batch()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        second_batch(retain_graph=True)


def test_a_state_with_the_rows_first_raises_unless_the_sizes_agree(torch, measurements):
    layer, x = measurements.layer_and_input(torch.nn.GRU, rows=8, batch_first=True, bidirectional=True)
    with pytest.raises(RuntimeError, match="Expected hidden size"):
        layer(x, torch.zeros(8, 2, measurements.H))
    layer(x[:2], torch.zeros(2, 2, measurements.H))


def test_a_softmax_cannot_fall_below_what_the_rule_says(torch):
    loss = torch.nn.functional.cross_entropy
    certain = torch.tensor([[1e4, 0, 0, 0, 0]])
    assert loss(certain.softmax(-1), torch.tensor([0])).item() == pytest.approx(
        -math.log(math.e / (math.e + 4)), rel=1e-6
    )  # float32
    assert loss(certain, torch.tensor([0])) == 0


def test_a_log_softmax_taken_twice_changes_nothing(torch):
    torch.manual_seed(0)
    logits, labels = torch.randn(30, 5, dtype=torch.float64, requires_grad=True), torch.arange(30) % 5
    gradients, losses = [], []
    for scores in (logits, logits.log_softmax(-1)):
        loss = torch.nn.functional.cross_entropy(scores, labels)
        losses.append(loss.item())
        gradients += torch.autograd.grad(loss, logits)
    # Float64's rounding, in sums of five terms.
    assert losses[0] == pytest.approx(losses[1], rel=1e-14)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-15)


def test_probabilities_without_a_logarithm_have_no_gradient_where_they_are_wrong(torch):
    scores = torch.tensor([[8.0, 0.0]], requires_grad=True)  # surely the first, and it is the second
    wrong, right = (
        torch.autograd.grad(torch.nn.functional.nll_loss(values, torch.tensor([1])), scores)[0].norm()
        for values in (scores.softmax(-1), scores.log_softmax(-1))
    )
    assert wrong < 1e-3 < 1 < right  # p (1 - p) of p = 3e-4, and 1 - p of each


def test_a_schedule_that_steps_early_is_warned_of_once(torch, measurements):
    with pytest.warns(UserWarning, match="skipping the first value of the learning rate") as warned:
        measurements.scheduled(early=True)
    assert len(warned) == 1


def test_a_mode_that_is_left_out_is_on_for_dropout_and_off_for_alpha_dropout(torch):
    x = torch.ones(100)
    assert not torch.equal(torch.nn.functional.dropout(x, 0.5), x)
    assert not torch.equal(torch.nn.Sequential(torch.nn.Dropout(0.5)).train()(x), x)
    for name in ("alpha_dropout", "feature_alpha_dropout"):
        assert torch.equal(getattr(torch.nn.functional, name)(x[None], 0.5), x[None])


@pytest.mark.parametrize("pair", PAIRS, ids=[pair.theirs for pair in PAIRS])
def test_the_defaults_of_both_optimizers_are_those_that_are_installed(pair, torch):
    import optax

    theirs = inspect.signature(getattr(torch.optim, pair.theirs)).parameters
    ours = inspect.signature(getattr(optax, pair.optax)).parameters
    for option in pair.options:
        assert ours[option.optax].default == option.optax_default
        assert not option.theirs or theirs[option.theirs].default == option.their_default


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("AdamW", lambda optax: optax.adamw(0.01, weight_decay=1e-2)),
        ("RMSprop", lambda optax: optax.rmsprop(0.01, decay=0.99, eps_in_sqrt=False)),
        ("Adadelta", lambda optax: optax.adadelta(0.01)),
    ],
)
def test_the_same_numbers_are_the_remedy_where_the_rule_says_so(theirs, ours, torch, measurements):
    import jax
    import optax

    with jax.enable_x64(True):
        left = measurements.in_torch(lambda p: getattr(torch.optim, theirs)(p, lr=0.01))
        right, _ = measurements.in_optax(ours(optax))
    assert max(abs(left - right)) < 1e-9  # float64; optax takes 1 - b2**t as a difference, 1e-13 a step


@pytest.mark.parametrize("name", ["AdamW", "RMSprop", "Adagrad", "Adadelta", "NAdam"])
def test_the_remedy_in_jaxrnn_needs_no_numbers(name, torch, measurements):
    import jax

    from jaxrnn import optim

    with jax.enable_x64(True):
        left = measurements.in_torch(lambda p: getattr(torch.optim, name)(p))
        right, _ = measurements.in_optax(getattr(optim, name.lower())())
    # Float64's rounding in 100 steps; torch's NAdam keeps a product of all its momenta in float32.
    assert max(abs(left - right)) < (1e-9 if name == "NAdam" else 1e-12)
