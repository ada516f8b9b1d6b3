"""Many to one: forecast the next value of a series from a window of past ones."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from jaxrnn.layers.recurrent import RecurrentLayer


class Forecaster(nnx.Module):
    """The lecture's network for time series: a recurrent layer, read out at the last step::

        prediction = W h_T + b

    `layer` is the class of the recurrent layer, for example `jaxrnn.LSTM`.
    """

    def __init__(
        self,
        layer: type[RecurrentLayer],
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        output_size: int = 1,
        *,
        rngs: nnx.Rngs,
        param_dtype: Any = jax.numpy.float32,
    ):
        self.rnn = layer(  # type: ignore[call-arg]  # the base class has no constructor; every layer has this one
            input_size, hidden_size, num_layers, batch_first=True, rngs=rngs, param_dtype=param_dtype
        )
        self.fc = nnx.Linear(hidden_size, output_size, rngs=rngs, param_dtype=param_dtype)

    def __call__(self, x: Float[Array, "B T I"], hx: Any = None) -> tuple[Float[Array, "B O"], Any]:
        """Return the predictions and the final state, to be carried on or dropped."""
        output, state = self.rnn(x, hx)
        return self.fc(output[:, -1]), state
