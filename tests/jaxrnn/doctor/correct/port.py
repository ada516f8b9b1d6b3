"""A reference in PyTorch and its port, compared on a GPU with TF32 switched off."""

import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from torch import nn

import jaxrnn

torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False


class Theirs(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(8, 16, 2, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(32, 5)

    def forward(self, x):
        _, (h_n, _) = self.rnn(x)
        return self.fc(torch.cat([h_n[-2], h_n[-1]], dim=-1))


class Ours(nnx.Module):
    def __init__(self, rngs):
        self.rnn = jaxrnn.LSTM(8, 16, 2, batch_first=True, bidirectional=True, rngs=rngs)
        self.fc = nnx.Linear(32, 5, rngs=rngs)

    def __call__(self, x, lengths=None):
        _, (h_n, _) = self.rnn(x, lengths=lengths)
        return self.fc(jnp.concatenate([h_n[-2], h_n[-1]], axis=-1))


def check(x):
    theirs, ours = Theirs().cuda(), Ours(nnx.Rngs(0))
    jaxrnn.load_state_dict(ours, theirs.state_dict())
    np.testing.assert_allclose(ours(x), theirs(torch.from_numpy(x).cuda()).detach().cpu(), rtol=1e-4)


def optimizers(theirs):
    return torch.optim.AdamW(theirs.parameters(), lr=1e-3), jaxrnn.optim.adamw(1e-3)


def adams(theirs):
    return torch.optim.Adam(theirs.parameters(), lr=1e-3), optax.adam(1e-3)
