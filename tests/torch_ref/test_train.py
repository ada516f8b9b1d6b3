"""The training loop in plain PyTorch does what `jaxrnn.train` does."""

import pytest

torch = pytest.importorskip("torch")

from torch_ref.train import Epochs  # noqa: E402

pytestmark = pytest.mark.torch


def data():
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(5, 3, generator=generator), torch.randn(5, 2, generator=generator)) for _ in range(4)
    ]


def linear():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2)


def squared_error(model, batch):
    return torch.mean((model(batch[0]) - batch[1]) ** 2)


def run(model, **options):
    arguments = {"loss": squared_error, "batches": lambda epoch: data(), "epochs": 3} | options
    return Epochs(model, torch.optim.SGD(model.parameters(), lr=0.1), **arguments)


def test_an_epoch_does_what_the_loop_written_out_does():
    ours, theirs = linear(), linear()
    epochs = run(ours)
    records = list(epochs)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    expected = []
    for _ in range(3):
        losses = []
        for batch in data():
            loss = squared_error(theirs, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        expected.append(sum(losses) / 4)
    assert [record.loss for record in records] == expected  # the same operations in the same order
    assert epochs.history.train_loss == tuple(expected)
    assert epochs.history.best_epoch is None
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


def test_the_carry_goes_from_batch_to_batch_and_epoch_to_epoch_without_gradient():
    seen = []

    def loss(model, batch, carry):
        seen.append(carry)
        prediction = model(batch[0])
        value = torch.mean((prediction + carry[0] - batch[1]) ** 2)
        return value, (0.5 * (carry[0] + prediction.mean(dim=0)), carry[1] + 1)

    epochs = run(linear(), loss=loss, carry=(torch.zeros(2), torch.zeros(())), epochs=2)
    list(epochs)
    assert [int(carry[1]) for carry in seen] == list(range(8))
    assert not any(part.requires_grad for carry in seen for part in carry)
    assert torch.any(seen[1][0] != 0)
    assert int(epochs.carry[1]) == 8


def test_the_parameters_of_the_best_epoch_are_put_back():
    model, kept = linear(), []
    errors = iter([3.0, 1.0, 2.0])

    def validate(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        kept.append(model.weight.clone())
        return next(errors)

    epochs = run(model, validate=validate)
    records = list(epochs)
    assert [record.validation for record in records] == [3.0, 1.0, 2.0]
    assert epochs.history.validation_loss == (3.0, 1.0, 2.0)
    assert epochs.history.best_epoch == 1
    assert torch.equal(model.weight, kept[1])
    assert not torch.equal(kept[1], kept[2])
    assert model.training


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "epochs=0: expected at least 1"),
        ({"batches": lambda epoch: []}, ValueError, "gave no batch"),
        (
            {"loss": lambda model, batch: squared_error(model, batch) * torch.nan},
            FloatingPointError,
            "is nan",
        ),
        ({"validate": lambda model: float("inf")}, FloatingPointError, "is inf"),
    ],
)
def test_what_cannot_be_trained_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        list(run(linear(), **options))
