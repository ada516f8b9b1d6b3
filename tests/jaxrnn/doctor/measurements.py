"""What the faults cost, on small networks in PyTorch: {rule: function that returns the figures of its text}."""

import math

import numpy as np
import optax
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

B, T, I, H = 32, 20, 8, 16


def percent(share):
    return f"{100 * float(share):.0f} %"


def digits(value, count=2):
    """Two digits that mean something, without an exponent where none is needed."""
    return f"{float(f'{float(value):.{count - 1}e}'):g}"


def apart(found, expected):
    """How far numbers are from what they should be, relative to their size."""
    return ((found - expected).norm() / expected.norm()).item()


def layer_and_input(cls=nn.LSTM, rows=B, **options):
    torch.manual_seed(0)
    return cls(I, H, **options), torch.randn(rows, T, I)


def last_step_of_padding():
    layer, x = layer_and_input(batch_first=True, rows=64)
    lengths = torch.randint(1, T + 1, (64,))
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    output, (own, _) = layer(packed)
    output, _ = pad_packed_sequence(output, batch_first=True)
    padded = x.where((torch.arange(T) < lengths[:, None])[..., None], 0)
    unpacked, (h_n, _) = layer(padded)
    assert torch.equal(h_n[-1], unpacked[:, -1])
    return f"{int((output[:, -1] == 0).all(dim=1).sum())}", percent(apart(h_n[-1], own[-1]))


def last_step_of_bidirectional():
    layer, x = layer_and_input(batch_first=True, bidirectional=True)
    output, (h_n, _) = layer(x)
    alone, _ = layer(x[:, -1:])
    torch.testing.assert_close(output[:, -1, H:], alone[:, -1, H:])  # it has read nothing but the last step
    return (percent(apart(output[:, -1, H:], h_n[-1])),)


def batch_first_mismatch():
    layer, x = layer_and_input()
    together, _ = layer(x)
    alone, _ = layer(x[-1:])
    return (percent(apart(together[-1, -1], alone[-1, -1])),)


def state_batch_first():
    layer, x = layer_and_input(batch_first=True, bidirectional=True, rows=2)
    wrong = torch.randn(2, 2, H)  # [B, L * D, H]
    state = wrong.transpose(0, 1).contiguous()
    found, _ = layer(x, (wrong, torch.zeros(2, 2, H)))
    expected, _ = layer(x, (state, torch.zeros(2, 2, H)))
    return (percent(apart(found, expected)),)


def state_reshaped():
    layer, x = layer_and_input(batch_first=True, bidirectional=True, rows=8)
    _, (h_n, _) = layer(x)
    own = h_n.transpose(0, 1).flatten(1)
    return (f"{int((h_n.reshape(8, -1) == own).all(dim=1).sum())}",)


def one_direction_of_state():
    layer, x = layer_and_input(batch_first=True, bidirectional=True)
    _, (h_n, _) = layer(x)
    h_n[-1].sum().backward()
    untouched = sum(p.numel() for p in layer.parameters() if not p.grad.any())
    return (percent(untouched / sum(p.numel() for p in layer.parameters())),)


def state_not_detached():
    layer, x = layer_and_input(nn.GRU)
    state, counts = None, []
    for window in x.split(2):
        output, state = layer(window, state)
        counts.append(nodes_behind(output.sum().grad_fn))
    return f"{counts[0]}", f"{counts[9]}"


def nodes_behind(function):
    seen, waiting = set(), [function]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [each for each, _ in node.next_functions]
    return len(seen)


def padding_in_loss():
    torch.manual_seed(0)
    lengths = torch.randint(1, T + 1, (64,))
    real = torch.arange(T) < lengths[:, None]
    labels = torch.randint(1, 5, (64, T)).where(real, 0)
    logits = torch.randn(64, T, 5).where(real[..., None], torch.tensor([10.0, 0, 0, 0, 0]))
    counted = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    true = nn.functional.cross_entropy(logits[real], labels[real])
    return percent(1 - real.float().mean()), percent(counted / true)


class Classifier(nn.Module):
    def __init__(self, classes=5, dropout=0.0):
        super().__init__()
        self.rnn = nn.GRU(I, H, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(H, classes)

    def forward(self, x):
        return self.fc(self.dropout(self.rnn(x)[1][-1]))


def classified(rows):
    """Sequences, each of the class of the feature that is largest in the last step."""
    x = torch.randn(rows, T, I)
    return x, x[:, -1, :5].argmax(1)


def probabilities_for_logits():
    lowest = -math.log(math.e / (math.e + 4))
    of_one, of_zero = math.log1p(math.exp(-1)), math.log(2)
    logits, probabilities = (trained_through(prepare) for prepare in (lambda z: z, lambda z: z.softmax(-1)))
    slower = logits[0] / probabilities[0]
    return tuple(map(digits, (lowest, slower, logits[1], probabilities[1], of_one, of_zero)))


def trained_through(prepare):
    """The norm of the first gradient, and the true cross entropy behind 200 steps."""
    torch.manual_seed(0)
    model, (x, y) = Classifier(), classified(128)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(prepare(model(x)), y).backward()
        norms.append(nn.utils.get_total_norm([p.grad for p in model.parameters()]))
        optimizer.step()
    return norms[0], nn.functional.cross_entropy(model(x), y).item()


def other_padding_token():
    embedding = nn.Embedding(1000, 32, padding_idx=0)
    embedding(torch.tensor([[0, 5, 7], [9, 1, 1]])).square().sum().backward()
    assert embedding.weight.grad[1].any()  # the true padding learns
    return (f"{int((embedding.weight.grad[0] == 0).sum())}",)


def gradients_not_zeroed():
    return tuple(digits(descended(zeroes)) for zeroes in (True, False))


def descended(zeroes):
    """The mean loss of the last 10 of 50 steps, in units of the first loss."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(20))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    losses = []
    for _ in range(50):
        if zeroes:
            optimizer.zero_grad()
        loss = weight.square().sum() / 2
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.mean(losses[-10:]) / losses[0]


def clipping_order():
    torch.manual_seed(0)
    layer = nn.Linear(I, 1)
    before = torch.cat([p.detach().flatten() for p in layer.parameters()])
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
    (layer(torch.randn(B, I)) - 10).square().mean().backward()
    optimizer.step()
    norm = nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
    after = torch.cat([p.detach().flatten() for p in layer.parameters()])
    return digits(norm), digits((after - before).norm() / 0.01)


def schedule_before_step():
    first, end = scheduled(early=False)
    wrong_first, wrong_end = scheduled(early=True)
    return digits(first), digits(wrong_first), digits(wrong_end), digits(end)


def scheduled(early):
    """The rate of the first of 20 steps, and the last loss in units of the first."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(20))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    first, second = (scheduler, optimizer) if early else (optimizer, scheduler)
    optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    rates, losses = [], []
    for _ in range(20):
        optimizer.zero_grad()
        loss = weight.square().sum() / 2
        loss.backward()
        first.step()
        second.step()
        losses.append(loss.item())
    return rates[0], (weight.square().sum() / 2).item() / losses[0]


def dropout_in_evaluation():
    model, x, y = trained_with_dropout(Classifier, dropout=0.5)
    noisy = losses_of(model, x, y)
    true = losses_of(model.eval(), x, y)
    return digits(true[0]), digits(min(noisy)), digits(max(noisy))


def trained_with_dropout(cls, **options):
    """A classifier behind 100 steps, and rows that it has not seen with their classes."""
    torch.manual_seed(0)
    model, (x, y) = cls(**options), classified(512)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, *classified(256)


@torch.no_grad()
def losses_of(model, x, y):
    """The losses of 20 evaluations."""
    return [nn.functional.cross_entropy(model(x), y).item() for _ in range(20)]


def dropout_off_in_training():
    return tuple(digits(held_out(returns)) for returns in (True, False))


def held_out(returns):
    """The loss on held-out rows of a network that was trained on few, and evaluated after each epoch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 2))
    x = torch.randn(240, 20)
    y = (x[:, 0] + torch.randn(240) > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[:40]), y[:40]).backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            loss = nn.functional.cross_entropy(model(x[40:]), y[40:]).item()
        if returns:
            model.train()
    return loss


class Dropping(Classifier):
    def forward(self, x):
        return self.fc(nn.functional.dropout(self.rnn(x)[1][-1], 0.5))


def dropout_always_on():
    model, x, y = trained_with_dropout(Dropping)
    noisy = losses_of(model.eval(), x, y)
    changed = (model(x).argmax(1) != model(x).argmax(1)).sum()
    without = losses_of(lambda x: Classifier.forward(model, x), x, y)
    return f"{changed}", digits(without[0]), digits(min(noisy))


def dropout_of_one_layer():
    options = {"batch_first": True}
    plain, x = layer_and_input(**options)
    dropping = nn.LSTM(I, H, dropout=0.9, **options)
    dropping.load_state_dict(plain.state_dict())
    return (digits((dropping(x)[0] - plain(x)[0]).detach().abs().max()),)


def optimizer_defaults():
    pairs = (
        (lambda p: torch.optim.AdamW(p, 0.01), optax.adamw(0.01)),
        (lambda p: torch.optim.RMSprop(p, 0.01), optax.rmsprop(0.01)),
        (lambda p: torch.optim.Adagrad(p, 0.01), optax.adagrad(0.01)),
        (lambda p: torch.optim.NAdam(p, 0.01), optax.nadam(0.01)),
    )
    return *(f"{digits(100 * distance(*pair))} %" for pair in pairs), climbed()


def problem():
    """Least squares with gradients of the size that trained networks have, 0.01 or so."""
    rng = np.random.default_rng(0)
    return 0.1 * rng.standard_normal((30, 5)), 0.1 * rng.standard_normal(30), rng.standard_normal(5)


def distance(theirs, ours):
    """How far apart two optimizers are after 100 steps, in units of the way that torch's went."""
    start, left = problem()[2], in_torch(theirs)
    return np.linalg.norm(in_optax(ours)[0] - left) / np.linalg.norm(left - start)


def in_torch(make):
    a, b, w = map(torch.from_numpy, problem())
    w = nn.Parameter(w)
    optimizer = make([w])
    for _ in range(100):
        optimizer.zero_grad()
        (a @ w - b).square().mean().backward()
        optimizer.step()
    return w.detach().numpy()


def in_optax(optimizer):
    """The weights after 100 steps, and the losses."""
    a, b, w = problem()
    state, losses = optimizer.init(w), []
    for _ in range(100):
        losses.append(np.mean((a @ w - b) ** 2))
        updates, state = optimizer.update(2 * a.T @ (a @ w - b) / len(b), state, w)
        w = w + np.asarray(updates)
    return w, losses


def climbed():
    losses = in_optax(optax.adadelta())[1]
    return digits(losses[-1] / losses[0])


def tf32_in_reference():
    layer, x = layer_and_input()
    expected = layer.double()(x.double())[0]
    errors = [apart(lstm(layer.float(), x, rounded).double(), expected) for rounded in (tf32, lambda a: a)]
    return str(torch.backends.cudnn.allow_tf32), *map(digits, errors)


def tf32(values):
    """Values with 10 bits behind the leading one, as an NVIDIA GPU takes the factors of a product."""
    return ((values.detach().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def lstm(layer, x, rounded):
    """The output of an LSTM [T, B, H] in float32, the factors of its products rounded."""
    w_ih, w_hh, b_ih, b_hh = layer._flat_weights
    h = c = torch.zeros(x.shape[1], H)
    outputs = []
    for step in x:
        i, f, g, o = (rounded(step) @ rounded(w_ih).T + rounded(h) @ rounded(w_hh).T + b_ih + b_hh).chunk(
            4, 1
        )
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    return torch.stack(outputs)


MEASUREMENTS = {
    function.__name__.replace("_", "-"): function
    for function in (
        last_step_of_padding,
        last_step_of_bidirectional,
        batch_first_mismatch,
        state_batch_first,
        state_reshaped,
        one_direction_of_state,
        state_not_detached,
        padding_in_loss,
        probabilities_for_logits,
        other_padding_token,
        gradients_not_zeroed,
        clipping_order,
        schedule_before_step,
        dropout_in_evaluation,
        dropout_off_in_training,
        dropout_always_on,
        dropout_of_one_layer,
        optimizer_defaults,
        tf32_in_reference,
    )
}
