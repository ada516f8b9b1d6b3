"""PyTorch's initialisers: its distributions from JAX keys, and its very bits from its seeds.

`recurrent_uniform` and `torch_uniform` draw from torch's distributions. `like_torch` draws torch's numbers:
its generator on the CPU is the Mersenne Twister that NumPy has too, and its arithmetic can be repeated.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxrnn.checkpoint import load_parameters
from jaxrnn.torch_names import Parameter, lost_order, parameters, recurrent_position
from jaxrnn.torch_normal import BLOCK, fill_normal, pair

Module = TypeVar("Module", bound=nnx.Pytree)


def torch_uniform(
    key: jax.Array, shape: Sequence[int], bound: float, dtype: jax.typing.DTypeLike = jnp.float32
) -> Float[Array, "..."]:
    """Draw ``U(-bound, bound)``, the distribution of every default initialiser of `torch.nn` used here."""
    return jax.random.uniform(key, tuple(shape), dtype, minval=-bound, maxval=bound)


def recurrent_uniform(
    key: jax.Array, shape: Sequence[int], hidden_size: int, dtype: jax.typing.DTypeLike = jnp.float32
) -> Float[Array, "..."]:
    """Draw ``U(-k, k)``, ``k = 1 / sqrt(hidden_size)``, as `torch.nn.RNNBase.reset_parameters` does.

    Every parameter of a recurrent layer follows it: weights, both biases, projection, peepholes.
    """
    return torch_uniform(key, shape, recurrent_bound(hidden_size), dtype)


def recurrent_bound(hidden_size: int) -> float:
    """Return ``k = 1 / sqrt(hidden_size)``, the bound of every recurrent parameter in torch."""
    return 1.0 / math.sqrt(hidden_size) if hidden_size > 0 else 0.0


def torch_linear(
    input_size: int,
    output_size: int,
    *,
    use_bias: bool = True,
    rngs: nnx.Rngs,
    dtype: jax.typing.DTypeLike | None = None,
    param_dtype: jax.typing.DTypeLike = jnp.float32,
    precision: jax.lax.PrecisionLike = None,
) -> nnx.Linear:
    """Return a linear map, drawn from the distribution of `torch.nn.Linear`: U(-k, k), ``k = 1 / sqrt(inputs)``."""
    return nnx.Linear(
        input_size,
        output_size,
        use_bias=use_bias,
        kernel_init=torch_uniform_of(input_size),
        bias_init=torch_uniform_of(input_size),
        rngs=rngs,
        dtype=dtype,
        param_dtype=param_dtype,
        precision=precision,  # type: ignore[arg-type]  # Flax knows fewer; what it gets, it hands on
    )


def torch_conv(
    input_channels: int,
    output_channels: int,
    kernel_size: Sequence[int],
    *,
    strides: int = 1,
    padding: int = 0,
    rngs: nnx.Rngs,
    param_dtype: jax.typing.DTypeLike = jnp.float32,
) -> nnx.Conv:
    """Return a convolution, drawn from the distribution of `torch.nn.Conv2d` and its like: U(-k, k).

    ``k = 1 / sqrt(input_channels * size of the kernel)``. It pads each side by `padding`, as torch does.
    """
    draw = torch_uniform_of(input_channels * math.prod(kernel_size))
    return nnx.Conv(
        input_channels,
        output_channels,
        kernel_size,
        strides,
        padding=((padding, padding),) * len(kernel_size),  # a list could not be hashed
        kernel_init=draw,
        bias_init=draw,
        rngs=rngs,
        param_dtype=param_dtype,
    )


def torch_uniform_of(inputs: int) -> Any:
    """Return Flax's kind of initialiser for what adds up so many inputs: ``U(-k, k)``, ``k = 1 / sqrt(inputs)``."""

    def draw(key: jax.Array, shape: Sequence[int], dtype: Any, *_: Any) -> jax.Array:
        return torch_uniform(key, shape, 1 / math.sqrt(inputs), dtype)

    return draw


def torch_embedding(
    vocabulary_size: int,
    embedding_size: int,
    *,
    rngs: nnx.Rngs,
    param_dtype: jax.typing.DTypeLike = jnp.float32,
) -> nnx.Embed:
    """Return an embedding, drawn from the distribution of `torch.nn.Embedding`: normal numbers."""
    normal = jax.nn.initializers.normal(1.0)
    return nnx.Embed(
        vocabulary_size, embedding_size, embedding_init=normal, rngs=rngs, param_dtype=param_dtype
    )


def like_torch(module: Module, seed: int) -> Module:
    """Give a module, in place, the very bits its twin in torch has, and return it::

        torch.manual_seed(seed); twin = Twin(...)      # on a CPU, with its default initialisation
        module = like_torch(Module(...), seed)         # the same numbers, without torch

    torch draws when a part is constructed, so the parts must be set in the same order in both, and the
    module must come straight from its constructor: `nnx.jit`, `nnx.clone` and `nnx.merge` sort its
    attributes by name, which raises a ValueError here. float32 and float64 match bit for bit; torch fuses a
    multiply and an add, as its builds for AVX2 and later do.

    Raises NotImplementedError for parts whose numbers in torch are not known.

    A module whose twin does not simply build part after part says what is drawn in a method of its own,
    ``drawn_like_torch(draws, members)``, which returns the values of its parameters and of its parts' by name.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(
            f"seed={seed} is outside 0 .. 2**64 - 1; torch maps a negative seed to seed + 2**64."
        )
    if (part := lost_order(module)) is not None:
        raise ValueError(
            f"{part}: the order in which its parts were built is lost, and torch draws in that order: nnx.jit, "
            "nnx.clone and nnx.merge sort attributes by name. Call like_torch straight after the constructor."
        )
    load_parameters(module, TorchDraws(seed).in_turn(parameters(module)))
    return module


class TorchDraws:
    """The random stream of `torch.manual_seed` on a CPU, and what torch's modules draw from it.

    It is MT19937, seeded with the low 32 bits of the seed.
    """

    def __init__(self, seed: int):
        self._engine = np.random.RandomState(seed & 0xFFFFFFFF)
        self._drawn: dict[int, np.ndarray] = {}  # by variable: a shared module is drawn under its first name
        self._spare: float | None = None  # the second of a pair of normal numbers

    def in_turn(self, members: list[Parameter], inside: Any = None) -> dict[str, np.ndarray]:
        """Return the values of parameters whose modules are built one after the other.

        `inside` is the module that asks; what it would say of its own parts is not asked again.
        """
        values: dict[str, np.ndarray] = {}
        for _, group in itertools.groupby(members, key=lambda parameter: id(_speaker(parameter, inside))):
            values |= self._of_group(list(group), inside)
        return values

    def _of_group(self, members: list[Parameter], inside: Any) -> dict[str, np.ndarray]:
        new = [parameter for parameter in members if id(parameter.variable) not in self._drawn]
        if new and len(new) < len(members):
            raise _unknown(new[0], "shares a tied parameter, and torch throws one of its two draws away")
        if new:
            speaker = _speaker(new[0], inside)
            if hasattr(speaker, "drawn_like_torch"):
                values = speaker.drawn_like_torch(self, new)
            else:
                drawn = _rule(new)(self, new)
                values = {parameter.name: value for parameter, value in zip(new, drawn, strict=True)}
            self._drawn |= {id(parameter.variable): values[parameter.name] for parameter in new}
        return {parameter.name: self._drawn[id(parameter.variable)] for parameter in members}

    def like(self, kind: type, members: list[Parameter]) -> dict[str, np.ndarray]:
        """Draw the parameters of one module, by name, as those of a module of Flax that is drawn the same."""
        values = _RULES[kind](self, members)
        return {parameter.name: value for parameter, value in zip(members, values, strict=True)}

    def uniform(self, parameter: Parameter, bound: float) -> np.ndarray:
        """Draw ``u * (bound - -bound) + -bound`` with one rounding, ``u`` of 24 (float32) or 53 bits."""
        count = math.prod(parameter.shape)
        draw = self._uniform32 if _is_float32(parameter) else self._uniform64
        return draw(count, bound).reshape(parameter.shape)

    def normal(self, parameter: Parameter) -> np.ndarray:
        """Draw from N(0, 1)."""
        count = math.prod(parameter.shape)
        unit = self._unit32 if _is_float32(parameter) else self._unit64
        values = (
            fill_normal(unit, count, parameter.dtype)
            if count >= BLOCK
            else np.array([self._one_normal() for _ in range(count)], parameter.dtype)
        )
        return values.reshape(parameter.shape)

    def _one_normal(self) -> float:
        spare, self._spare = self._spare, None
        if spare is None:
            spare, self._spare = pair(*self._unit64(2).tolist())
        return spare

    def xavier_uniform(self, parameter: Parameter) -> np.ndarray:
        """Draw a matrix as `torch.nn.init.xavier_uniform_` does, from ``sqrt(6 / (rows + columns))``."""
        return self.uniform(parameter, math.sqrt(3.0) * math.sqrt(2.0 / float(sum(parameter.shape))))

    def _words(self, count: int) -> np.ndarray:
        return self._engine.randint(0, 2**32, count, dtype=np.uint32)

    def _unit32(self, count: int) -> np.ndarray:
        return ((self._words(count) & 0xFFFFFF) * 2.0**-24).astype(np.float32)

    def _unit64(self, count: int) -> np.ndarray:
        return self._bits53(count) * 2.0**-53

    def _bits53(self, count: int) -> np.ndarray:
        high, low = self._words(2 * count).reshape(count, 2).astype(np.uint64).T
        return ((high << np.uint64(32)) | low) & np.uint64(2**53 - 1)

    def _uniform32(self, count: int, bound: float) -> np.ndarray:
        low = np.float64(np.float32(-bound))
        u = self._unit32(count).astype(np.float64)
        return (u * (-2 * low) + low).astype(np.float32)  # 48 bits at most, so only this rounds

    def _uniform64(self, count: int, bound: float) -> np.ndarray:
        u = self._bits53(count)
        top, bottom = float(bound).as_integer_ratio()
        # Integers of any size: (2 u / 2^53 - 1) * top / bottom, rounded once by the division.
        return np.array([(2 * k - 2**53) * top / (bottom << 53) for k in u.tolist()], np.float64)


def _speaker(parameter: Parameter, inside: Any) -> Any:
    """Return the outermost module inside the given one that says what its parts draw, or the owner."""
    nested = (
        itertools.dropwhile(lambda node: node is not inside, parameter.path) if inside else parameter.path
    )
    speakers = (node for node in nested if node is not inside and hasattr(node, "drawn_like_torch"))
    return next(speakers, parameter.owner)


def _is_float32(parameter: Parameter) -> bool:
    """Return whether torch draws a parameter in float32, not in float64; it can be drawn in nothing else here."""
    if parameter.dtype not in (np.float32, np.float64):
        raise _unknown(parameter, f"is {parameter.dtype}; initialise it in float32 and convert it")
    return parameter.dtype == np.float32


_Rule = Callable[[TorchDraws, list[Parameter]], list[np.ndarray]]


def _draw_recurrent(draws: TorchDraws, members: list[Parameter]) -> list[np.ndarray]:
    bound = recurrent_bound(members[0].owner.hidden_size)
    return [draws.uniform(parameter, bound) for parameter in members]


def _draw_linear(draws: TorchDraws, members: list[Parameter]) -> list[np.ndarray]:
    """Draw the weight by Kaiming's rule with ``a = sqrt(5)`` and the bias from ``1 / sqrt(fan_in)``.

    The bounds are equal but for rounding, so each is computed as in torch (`nn.Linear.reset_parameters`).
    """
    fan_in = math.prod(members[0].shape[1:])
    gain = math.sqrt(2.0 / (1 + math.sqrt(5) ** 2))
    bounds = [math.sqrt(3.0) * (gain / math.sqrt(fan_in)), 1 / math.sqrt(fan_in)] if fan_in else [0.0, 0.0]
    return [draws.uniform(parameter, bound) for parameter, bound in zip(members, bounds, strict=False)]


def _draw_embedding(draws: TorchDraws, members: list[Parameter]) -> list[np.ndarray]:
    return [draws.normal(parameter) for parameter in members]


def _set_norm(draws: TorchDraws, members: list[Parameter]) -> list[np.ndarray]:
    """Return a scale of ones and a bias of zeros; torch draws nothing for them."""
    return [np.full(parameter.shape, float(parameter.name.endswith("weight"))) for parameter in members]


_RULES: dict[type, _Rule] = {
    nnx.Linear: _draw_linear,
    nnx.Conv: _draw_linear,
    nnx.Embed: _draw_embedding,
    nnx.LayerNorm: _set_norm,
    nnx.RMSNorm: _set_norm,
}


def _rule(members: list[Parameter]) -> _Rule:
    owner = members[0].owner
    if type(owner) in _RULES:
        return _RULES[type(owner)]
    names = [parameter.name.rpartition(".")[2] for parameter in members]
    if hasattr(owner, "hidden_size") and None not in map(recurrent_position, names):
        return _draw_recurrent
    raise _unknown(members[0], f"belongs to a {type(owner).__name__}, whose draws in torch are not known")


def _unknown(parameter: Parameter, why: str) -> NotImplementedError:
    return NotImplementedError(
        f"{parameter.name} {why}. Load the values that torch drew with jaxrnn.load_state_dict instead."
    )
