"""Many to one: forecast what follows a window of a series."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxrnn.dropout import Dropout, check_masks
from jaxrnn.init import torch_linear
from jaxrnn.models.parts import LayerClass, last_features


class Forecaster(nnx.Module):
    """The lecture's network for time series: a recurrent layer, read out at the last step::

        prediction = W h_T + b

    `layer` is the class of the recurrent layer, for example `jaxrnn.LSTM`.
    """

    def __init__(
        self,
        layer: LayerClass,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        output_size: int = 1,
        *,
        rngs: nnx.Rngs,
        param_dtype: Any = jnp.float32,
    ):
        made: dict[str, Any] = {"rngs": rngs, "param_dtype": param_dtype}
        self.rnn = layer(input_size, hidden_size, num_layers, batch_first=True, **made)
        self.fc = torch_linear(hidden_size, output_size, **made)

    def __call__(self, x: Float[Array, "B T I"], hx: Any = None) -> tuple[Float[Array, "B O"], Any]:
        """Return the predictions and the final state, to be carried on or dropped."""
        output, state = self.rnn(x, hx)
        return self.fc(output[:, -1]), state


class Gaussian(NamedTuple):
    """A normal distribution of each number that is predicted."""

    mean: Float[Array, "B O"]
    variance: Float[Array, "B O"]


class GaussianForecaster(nnx.Module):
    """Forecasts with two kinds of uncertainty, as in Kendall & Gal (2017), https://arxiv.org/abs/1703.04977::

        features = dropout(h_T)
        mean = W_m features + b_m
        variance = softplus(W_v features + b_v) + minimum

    The variance is the stochastic part: noise that more data would not remove. It is trained by
    `losses.gaussian_nll_loss(mean, target, variance)`. The epistemic part, what the data left open, is the spread
    of the means over dropout masks (Gal & Ghahramani, 2016) or over networks trained from other weights.
    """

    def __init__(
        self,
        layer: LayerClass,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        output_size: int = 1,
        *,
        dropout: float = 0.0,
        minimum_variance: float = 1e-6,
        rngs: nnx.Rngs,
        param_dtype: Any = jnp.float32,
    ):
        made: dict[str, Any] = {"rngs": rngs, "param_dtype": param_dtype}
        self.rnn = layer(input_size, hidden_size, num_layers, batch_first=True, **made)
        self.mean = torch_linear(hidden_size, output_size, **made)
        self.spread = torch_linear(hidden_size, output_size, **made)
        self.minimum_variance = minimum_variance
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B T I"], *, dropout_masks: Mapping[str, Array] | None = None
    ) -> Gaussian:
        """Return mean and variance; `dropout_masks`: what "dropout" keeps of h_T [B, H], in place of a draw."""
        masks = check_masks(self, dropout_masks)
        features = self.dropout(last_features(self.rnn, x), masks.get("dropout"))
        variance = jax.nn.softplus(self.spread(features)) + self.minimum_variance
        return Gaussian(self.mean(features), variance)
