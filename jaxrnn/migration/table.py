"""What each module of torch becomes: one row for each class, by the class's qualified name."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxrnn.layers
from jaxrnn.dropout import Dropout
from jaxrnn.migration.activations import Activation
from jaxrnn.migration.containers import ModuleDict, Sequential
from jaxrnn.migration.convolution import Conv1d
from jaxrnn.migration.embedding import Embedding, EmbeddingBag
from jaxrnn.migration.normalization import BatchNorm1d, LayerNorm


class Tools(NamedTuple):
    """What a row may use; values of parameters are copied when the whole tree stands."""

    convert: Callable[[Any], nnx.Module]  # a part of the module
    kind: Callable[[Any], str | None]  # under which name of the table a module is known
    rngs: nnx.Rngs  # its "dropout" stream is the caller's
    can_drop: bool  # whether there is such a stream

    def probability(self, p: float) -> float:
        """Return the probability of a dropout, which needs random numbers unless it is 0."""
        if p > 0 and not self.can_drop:
            raise ValueError(f"drops with probability {p}, so pass rngs=nnx.Rngs(seed), to draw masks from")
        return p


Row = Callable[[Any, Tools], nnx.Module]


def dtype_of(tensor: Any) -> Any:
    """Return the dtype of a tensor, float32 for None."""
    return jnp.float32 if tensor is None else np.dtype(str(tensor.dtype).removeprefix("torch."))


def _options(module: Any, names: str) -> dict[str, Any]:
    return {name: getattr(module, name) for name in names.split()}


def _refuse(module: Any, expected: Mapping[str, Any]) -> None:
    """Raise where an option of a module is not what it has to be."""
    for name, value in expected.items():
        if getattr(module, name) != value:
            raise NotImplementedError(
                f"{name}={getattr(module, name)!r} is not supported, only {value!r}: construct it without"
            )


def _recurrent(names: str) -> Row:
    def build(module: Any, tools: Tools) -> nnx.Module:
        options = _options(
            module, f"input_size hidden_size num_layers bias batch_first bidirectional {names}"
        )
        # Between layers that are not there nothing is dropped.
        dropout = tools.probability(module.dropout) if module.num_layers > 1 else 0.0
        layer = getattr(jaxrnn.layers, module.mode.partition("_")[0])
        return layer(**options, dropout=dropout, rngs=tools.rngs, param_dtype=dtype_of(module.weight_ih_l0))

    return build


def _cell(name: str, options: str) -> Row:
    def build(module: Any, tools: Tools) -> nnx.Module:
        cell = getattr(jaxrnn.layers, name)
        given = _options(module, f"input_size hidden_size bias {options}")
        return cell(**given, rngs=tools.rngs, param_dtype=dtype_of(module.weight_ih))

    return build


def _linear(module: Any, tools: Tools) -> nnx.Module:
    return nnx.Linear(
        module.in_features,
        module.out_features,
        use_bias=module.bias is not None,
        kernel_init=nnx.initializers.zeros,
        rngs=tools.rngs,
        param_dtype=dtype_of(module.weight),
    )


def _embedding(module: Any, tools: Tools) -> nnx.Module:
    _refuse(module, {"max_norm": None, "scale_grad_by_freq": False, "sparse": False})
    options = _options(module, "num_embeddings embedding_dim padding_idx")
    return Embedding(**options, param_dtype=dtype_of(module.weight))


def _embedding_bag(module: Any, tools: Tools) -> nnx.Module:
    _refuse(module, {"max_norm": None, "scale_grad_by_freq": False, "sparse": False})
    names = "num_embeddings embedding_dim mode include_last_offset padding_idx"
    return EmbeddingBag(**_options(module, names), param_dtype=dtype_of(module.weight))


def _layer_norm(module: Any, tools: Tools) -> nnx.Module:
    shape, scale = module.normalized_shape, module.weight is not None
    bias, dtype = module.bias is not None, dtype_of(module.weight)
    if len(shape) > 1:
        return LayerNorm(shape, module.eps, scale, bias, param_dtype=dtype)
    return nnx.LayerNorm(
        *shape,
        epsilon=module.eps,
        use_scale=scale,
        use_bias=bias,
        use_fast_variance=False,  # E[x^2] - E[x]^2 cancels where the mean is large
        param_dtype=dtype,
        rngs=tools.rngs,
    )


def _conv1d(module: Any, tools: Tools) -> nnx.Module:
    _refuse(module, {"padding_mode": "zeros"})
    names = "kernel_size stride padding dilation"
    single: dict[str, Any] = {
        name: value if isinstance(value, str) else value[0] for name, value in _options(module, names).items()
    }
    return Conv1d(
        module.in_channels,
        module.out_channels,
        **single,
        groups=module.groups,
        bias=module.bias is not None,
        param_dtype=dtype_of(module.weight),
    )


def _batch_norm(module: Any, tools: Tools) -> nnx.Module:
    _refuse(module, {"track_running_stats": module.running_mean is not None})
    options = _options(module, "num_features eps momentum affine track_running_stats")
    tensor = module.weight if module.running_mean is None else module.running_mean
    return BatchNorm1d(**options, bias=module.bias is not None, param_dtype=dtype_of(tensor))


def _dropout(module: Any, tools: Tools) -> nnx.Module:
    return Dropout(tools.probability(module.p), rngs=tools.rngs)


def _activation(name: str, options: str = "") -> Row:
    return lambda module, tools: Activation(name, **_options(module, options))


def _parts(module: Any, tools: Tools) -> dict[str, nnx.Module]:
    empty = [name for name, part in module._modules.items() if part is None]
    if empty:
        raise ValueError(f"has None as its part {empty[0]!r}: leave it out, or make it a torch.nn.Identity")
    return {name: tools.convert(part) for name, part in module._modules.items()}


def _named(container: Callable[[dict[str, nnx.Module]], nnx.Module]) -> Row:
    return lambda module, tools: container(_parts(module, tools))


def _module_list(module: Any, tools: Tools) -> nnx.Module:
    if list(module._modules) != [str(number) for number in range(len(module))]:
        raise ValueError(
            f"has parts besides those of the list, {list(module._modules)}: leave the others out"
        )
    return nnx.List(list(_parts(module, tools).values()))


LEAVES: dict[str, Row] = {
    "torch.nn.modules.rnn.RNN": _recurrent("nonlinearity"),
    "torch.nn.modules.rnn.GRU": _recurrent(""),
    "torch.nn.modules.rnn.LSTM": _recurrent("proj_size"),
    "torch.nn.modules.rnn.RNNCell": _cell("RNNCell", "nonlinearity"),
    "torch.nn.modules.rnn.GRUCell": _cell("GRUCell", ""),
    "torch.nn.modules.rnn.LSTMCell": _cell("LSTMCell", ""),
    "torch.nn.modules.linear.Linear": _linear,
    "torch.nn.modules.sparse.Embedding": _embedding,
    "torch.nn.modules.sparse.EmbeddingBag": _embedding_bag,
    "torch.nn.modules.normalization.LayerNorm": _layer_norm,
    "torch.nn.modules.conv.Conv1d": _conv1d,
    "torch.nn.modules.batchnorm.BatchNorm1d": _batch_norm,
    "torch.nn.modules.dropout.Dropout": _dropout,
    "torch.nn.modules.linear.Identity": _activation("Identity"),
    "torch.nn.modules.flatten.Flatten": _activation("Flatten", "start_dim end_dim"),
    "torch.nn.modules.activation.ReLU": _activation("ReLU"),
    "torch.nn.modules.activation.LeakyReLU": _activation("LeakyReLU", "negative_slope"),
    "torch.nn.modules.activation.ELU": _activation("ELU", "alpha"),
    "torch.nn.modules.activation.SELU": _activation("SELU"),
    "torch.nn.modules.activation.GELU": _activation("GELU", "approximate"),
    "torch.nn.modules.activation.SiLU": _activation("SiLU"),
    "torch.nn.modules.activation.Tanh": _activation("Tanh"),
    "torch.nn.modules.activation.Sigmoid": _activation("Sigmoid"),
    "torch.nn.modules.activation.Hardtanh": _activation("Hardtanh", "min_val max_val"),
    "torch.nn.modules.activation.Hardsigmoid": _activation("Hardsigmoid"),
    "torch.nn.modules.activation.Softplus": _activation("Softplus", "beta threshold"),
    "torch.nn.modules.activation.Softmax": _activation("Softmax", "dim"),
    "torch.nn.modules.activation.LogSoftmax": _activation("LogSoftmax", "dim"),
    "torch.nn.modules.container.Sequential": _named(Sequential),
    "torch.nn.modules.container.ModuleDict": _named(ModuleDict),
    "torch.nn.modules.container.ModuleList": _module_list,
}
