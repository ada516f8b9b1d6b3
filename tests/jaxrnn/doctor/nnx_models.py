"""A model in Flax whose text does not say what its layer is."""

from flax import nnx

import jaxrnn


class Model(nnx.Module):
    """Its options come from a caller."""

    def __init__(self, **options):
        self.rnn = jaxrnn.GRU(3, 4, rngs=nnx.Rngs(0), **options)

    def __call__(self, x):
        _, h_n = self.rnn(x)
        return h_n[-1]


def bidirectional():
    return Model(bidirectional=True, batch_first=True)


def plain():
    return Model(batch_first=True)
