"""Pairs of models for `parity check` and `parity capture`: factories without arguments; torch is imported late."""

import importlib

import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxrnn
from parity import Probe

FEATURES, HIDDEN, CLASSES = 3, 7, 4


def torch_layer(kind, **options):
    """A layer of `torch.nn`, batch first."""
    return getattr(importlib.import_module("torch.nn"), kind)(FEATURES, HIDDEN, batch_first=True, **options)


class Tagger(nnx.Module):
    """Embeds numbers of words, runs a GRU over them, and classifies every step."""

    def __init__(self, layer=jaxrnn.GRU, head="head"):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(11, FEATURES, rngs=rngs)
        self.rnn = layer(FEATURES, HIDDEN, batch_first=True, rngs=rngs)
        setattr(self, head, nnx.Linear(HIDDEN, CLASSES, rngs=rngs))

    def __call__(self, words, keep):
        output, _ = self.rnn(self.embed(words))
        return jnp.where(keep[..., None], self.head(output), 0)


def torch_tagger():
    torch = importlib.import_module("torch")

    class TorchTagger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(11, FEATURES)
            self.rnn = torch.nn.GRU(FEATURES, HIDDEN, batch_first=True)
            self.head = torch.nn.Linear(HIDDEN, CLASSES)

        def forward(self, ids, keep):
            output, _ = self.rnn(self.embed(ids))
            return torch.where(keep[..., None], self.head(output), 0)

    return TorchTagger()


def tagger():
    return Tagger()


def torch_gru_that_drops():
    return torch_layer("GRU", num_layers=2, dropout=0.5)


def gru_that_drops():
    return jaxrnn.GRU(FEATURES, HIDDEN, 2, batch_first=True, dropout=0.5, rngs=nnx.Rngs(0))


def renamed_tagger():
    return Tagger(head="classifier")


class WithoutHiddenBias(jaxrnn.GRU):
    """Leaves out the recurrent bias of the candidate gate, as Flax's own GRUCell does."""

    def __call__(self, *args, **kwargs):
        layer = nnx.clone(self)
        layer.bias_hh_l0.set_value(layer.bias_hh_l0.get_value().at[2 * HIDDEN :].set(0))
        return jaxrnn.GRU.__call__(layer, *args, **kwargs)


class Scale(nnx.Module):
    """Multiplies each feature by a number of its own."""

    def __init__(self):
        self.weight = nnx.Param(jnp.ones(FEATURES))

    def __call__(self, input):
        return input * self.weight[...]


def scale():
    return Scale()


def torch_scale():
    torch = importlib.import_module("torch")

    class TorchScale(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(FEATURES))

        def forward(self, input):
            return input * self.weight

    return TorchScale()


def torch_gru():
    return torch_layer("GRU")


def torch_gru_with_zero_biases():
    layer = torch_gru()
    for name, parameter in layer.named_parameters():
        if name.startswith("bias"):
            parameter.data.zero_()
    return layer


def torch_lstm():
    return torch_layer("LSTM")


def lstm():
    return jaxrnn.LSTM(FEATURES, HIDDEN, batch_first=True, rngs=nnx.Rngs(0))


def gru():
    return jaxrnn.GRU(FEATURES, HIDDEN, batch_first=True, rngs=nnx.Rngs(0))


def gru_without_b_hn():
    return WithoutHiddenBias(FEATURES, HIDDEN, batch_first=True, rngs=nnx.Rngs(0))


def gru_that_fails():
    class Failing(jaxrnn.GRU):
        def __call__(self, *args, **kwargs):
            raise ZeroDivisionError("a bug in the candidate")

    return Failing(FEATURES, HIDDEN, batch_first=True, rngs=nnx.Rngs(0))


def factory_that_fails():
    raise ZeroDivisionError("a bug in the factory")


def draw(*shape):
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def inputs_tuple():
    return (draw(5, 9, FEATURES),)


def inputs_dict():
    return {"input": draw(5, 9, FEATURES), "hx": draw(1, 5, HIDDEN)}


def inputs_probes():
    return [
        Probe(name, (draw(5, 9, FEATURES),), weight_scale=scale) for name, scale in (("a", 1.0), ("b", 2.0))
    ]


def inputs_same_rows():
    return (np.broadcast_to(draw(1, 9, FEATURES), (5, 9, FEATURES)).copy(),)


def inputs_nothing():
    return []
