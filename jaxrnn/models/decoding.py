"""Decoding: from a model that predicts the next token to whole sequences, in one compiled loop.

A model is anything that continues a state::

    state = model.start(...)                        # a pytree; every leaf has the batch as its first axis
    logits, state = model.step(tokens, state)       # the tokens before, int [B]; what may follow, [B, V]

`greedy`, `beam_search` and `sample` take such a model and what `start` takes; `greedy_from`, `beam_search_from` and
`sample_from` take `step` and a state, wherever it comes from (a prompt that a language model has read), inside a
program of one's own.

All shapes are fixed: the loop runs `max_length` steps, and a row that has ended goes on without effect.
"""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int

State = Any
Step = Callable[[Int[Array, " B"], State], tuple[Float[Array, "B V"], State]]


class Generator(Protocol):
    """A Flax module that predicts the next token."""

    def start(self, *inputs: Any) -> State:
        """Return the state in front of the first token."""

    def step(self, tokens: Int[Array, " B"], state: State) -> tuple[Float[Array, "B V"], State]:
        """Return what may follow the tokens, and the state after them."""


class Decoded(NamedTuple):
    """Sequences; of a beam search `width` for every row, the best first."""

    tokens: jax.Array  # int32 [B, L] or [B, W, L]: without bos, and filled with eos behind the end
    lengths: (
        jax.Array
    )  # int32 [B] or [B, W]: tokens that were chosen, eos included; 0 where there is no sequence
    log_probs: jax.Array  # [B] or [B, W]: log of the probability that the model gives to these tokens


def greedy(model: Generator, *inputs: Any, bos: int, eos: int | None, max_length: int) -> Decoded:
    """Return the sequences that always go on with the most probable token, of equal ones the lower.

    `inputs` are what `model.start` takes: ``greedy(translator, source, lengths, bos=1, eos=2, max_length=50)``. The
    sequences begin behind the token `bos` and end with `eos`, or at `max_length` tokens; with `eos` None only
    there. Nothing is dropped, whatever the model's mode. A second call with the same shapes compiles nothing.
    """
    return _compiled(greedy_from, model, inputs, {}, bos=bos, eos=eos, max_length=max_length)


def beam_search(
    model: Generator,
    *inputs: Any,
    bos: int,
    eos: int | None,
    max_length: int,
    width: int,
    length_penalty: float = 0.0,
) -> Decoded:
    """Return the `width` best sequences of each row that a beam search finds; the rest is as for `greedy`.

    Hypotheses are ranked, in each step and at the end, by Wu et al. (2016), https://arxiv.org/abs/1609.08144,
    equation 14, without its coverage::

        score(y) = log P(y) / ((5 + |y|) / 6)^length_penalty

    With the default of 0 that is the probability, which favours short sequences; the paper uses 0.6 to 0.7. A
    hypothesis that ends stays in the beam, and keeps its score, until better ones push it out. Of equal scores the
    one with the better ranked beginning comes first, then the lower token.

    A width of 1 is `greedy`. Where fewer than `width` sequences exist (one token of a vocabulary of three leaves
    three), the last have a log-probability of minus infinity and length 0.
    """
    options = {"bos": bos, "eos": eos, "max_length": max_length, "width": width}
    return _compiled(beam_search_from, model, inputs, {"length_penalty": length_penalty}, **options)


def sample(
    model: Generator,
    key: jax.Array,
    *inputs: Any,
    bos: int,
    eos: int | None,
    max_length: int,
    temperature: float = 1.0,
) -> Decoded:
    """Return sequences whose every token is drawn from ``softmax(logits / temperature)``.

    The rest is as for `greedy`. `log_probs` are those of the model, at a temperature of 1.
    """
    numbers = {"key": key, "temperature": _checked_temperature(temperature)}
    return _compiled(sample_from, model, inputs, numbers, bos=bos, eos=eos, max_length=max_length)


def greedy_from(step: Step, state: State, *, bos: int, eos: int | None, max_length: int) -> Decoded:
    """Return what `greedy` returns, of a step and a state in front of the first token."""

    def most_probable(log_p: Array, _: None) -> Array:
        return jnp.argmax(log_p, -1)

    return _choose_tokens(step, state, most_probable, None, bos, eos, max_length)


def sample_from(
    step: Step,
    state: State,
    *,
    key: jax.Array,
    bos: int,
    eos: int | None,
    max_length: int,
    temperature: float | Float[Array, ""] = 1.0,
) -> Decoded:
    """Return what `sample` returns, of a step and a state in front of the first token."""
    temperature = _checked_temperature(temperature)

    def drawn(log_p: Array, key: jax.Array) -> Array:
        return jax.random.categorical(key, log_p / temperature)

    return _choose_tokens(step, state, drawn, jax.random.split(key, max_length), bos, eos, max_length)


def _choose_tokens(
    step: Step,
    state: State,
    choose: Callable[[Array, Any], Array],
    inputs: Any,
    bos: int,
    eos: int | None,
    max_length: int,
) -> Decoded:
    """Extend one sequence for every row by tokens that `choose` picks from log-probabilities [B, V]."""
    rows = _check_search(state, max_length)

    def extend(carry: Any, of_step: Any) -> Any:
        before, state, ended, found = carry
        logits, state = step(before, state)
        log_p = _log_probabilities(logits, bos, eos)
        chosen = choose(log_p, of_step).astype(jnp.int32)
        gained = jnp.take_along_axis(log_p, chosen[:, None], -1)[:, 0]
        found = Decoded(found.tokens, found.lengths + ~ended, found.log_probs + jnp.where(ended, 0.0, gained))
        if eos is not None:
            chosen = jnp.where(ended, eos, chosen)
            ended = chosen == eos
        return (chosen, state, ended, found), chosen

    zeros = jnp.zeros(rows, jnp.int32)
    none = Decoded(zeros, zeros, _no_log_probability(step, zeros, state))
    begin = zeros + bos, state, jnp.zeros(rows, bool), none
    (*_, found), tokens = lax.scan(extend, begin, inputs, length=max_length)
    return found._replace(tokens=tokens.T)


class _Beams(NamedTuple):
    last: jax.Array  # [B, W], each hypothesis's newest token
    state: State  # leaves [B * W, ...]
    ended: jax.Array  # bool [B, W]
    found: Decoded


def beam_search_from(
    step: Step,
    state: State,
    *,
    bos: int,
    eos: int | None,
    max_length: int,
    width: int,
    length_penalty: float | Float[Array, ""] = 0.0,
) -> Decoded:
    """Return what `beam_search` returns, of a step and a state in front of the first token."""
    rows = _check_search(state, max_length)
    if width < 1:
        raise ValueError(f"width={width}: a beam search follows at least one hypothesis; 1 is greedy.")

    def extend(beams: _Beams, t: Array) -> tuple[_Beams, None]:
        logits, state = step(beams.last.reshape(-1), beams.state)
        log_p = _log_probabilities(logits, bos, eos).reshape(rows, width, -1)
        vocabulary = log_p.shape[-1]
        if eos is not None:  # what has ended has one continuation, itself
            itself = jnp.where(jnp.arange(vocabulary) == eos, 0.0, -jnp.inf)
            log_p = jnp.where(beams.ended[..., None], itself, log_p)
        log_probs = beams.found.log_probs[..., None] + log_p
        lengths = beams.found.lengths + ~beams.ended
        scores = log_probs / (((5.0 + lengths) / 6.0) ** length_penalty)[..., None]
        _, best = lax.top_k(scores.reshape(rows, -1), width)  # of equal ones the first
        parents, chosen = best // vocabulary, (best % vocabulary).astype(jnp.int32)

        # Within rows, so that rows on different devices need nothing of each other.
        of_parents = jax.vmap(lambda beams, chosen: jax.tree.map(lambda leaf: leaf[chosen], beams))
        history, lengths = of_parents((beams.found.tokens, lengths), parents)
        log_probs = jnp.take_along_axis(log_probs.reshape(rows, -1), best, 1)
        found = Decoded(history.at[:, :, t].set(chosen), lengths, log_probs)
        state = _join(of_parents(_split(state, width), parents))
        ended = jnp.zeros_like(beams.ended) if eos is None else chosen == eos
        return _Beams(chosen, state, ended, found), None

    tokens = jnp.zeros((rows, width), jnp.int32)
    zeros = _no_log_probability(step, tokens[:, 0], state)
    only_first = jnp.where(jnp.arange(width) == 0, zeros[:, None], -jnp.inf)  # all begin alike: one will do
    found = Decoded(jnp.zeros((rows, width, max_length), jnp.int32), tokens, only_first)
    state = jax.tree.map(lambda leaf: jnp.repeat(leaf, width, 0), state)
    begin = _Beams(tokens + bos, state, jnp.zeros((rows, width), bool), found)
    found = lax.scan(extend, begin, jnp.arange(max_length))[0].found
    missing = jnp.isneginf(found.log_probs)
    return Decoded(
        jnp.where(missing[..., None], eos or 0, found.tokens),
        jnp.where(missing, 0, found.lengths),
        found.log_probs,
    )


def _split(state: State, width: int) -> State:
    """[B * W, ...] to [B, W, ...]."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, width, *leaf.shape[1:]), state)


def _join(state: State) -> State:
    """[B, W, ...] to [B * W, ...]."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), state)


def _compiled(
    search: Callable[..., Decoded],
    model: Any,
    inputs: tuple[Any, ...],
    numbers: dict[str, Any],
    **options: int | None,
) -> Decoded:
    structure, variables = nnx.split(model)
    at_rest = nnx.merge(structure, variables)  # the caller's model stays in its mode
    at_rest.eval()
    state = at_rest.start(*inputs)  # not compiled, so that lengths are known and checked
    structure, variables = nnx.split(at_rest)
    static = tuple(
        (name, None if value is None else operator.index(value)) for name, value in options.items()
    )
    return _search(search, structure, static, variables, state, numbers)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _search(search, structure, options, variables, state, numbers):
    return search(nnx.merge(structure, variables).step, state, **numbers, **dict(options))


def _check_search(state: State, max_length: int) -> int:
    """Return the number of rows of a state."""
    if max_length < 1:
        raise ValueError(f"max_length={max_length}: a sequence has at least one token.")
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(state)]
    rows = {shape[:1] for shape in shapes}
    if len(rows) != 1 or rows == {()}:
        raise ValueError(
            "Every leaf of a state needs the batch as its first axis, so that its rows can be chosen; got leaves "
            f"of shapes {shapes}."
        )
    return rows.pop()[0]


def _log_probabilities(logits: Array, bos: int, eos: int | None) -> Array:
    vocabulary = logits.shape[-1]
    for name, token in (("bos", bos), ("eos", eos)):
        if token is not None and not 0 <= token < vocabulary:
            raise ValueError(
                f"{name}={token} is no token of a vocabulary of {vocabulary}: 0 to {vocabulary - 1}."
            )
    return jax.nn.log_softmax(logits.astype(_dtype(logits)))


def _no_log_probability(step: Step, tokens: Array, state: State) -> Array:
    """Return zeros [B] of the dtype in which log-probabilities are summed."""
    logits, _ = jax.eval_shape(step, tokens, state)
    return jnp.zeros(tokens.shape, _dtype(logits))


def _dtype(logits: Any) -> Any:
    return jnp.promote_types(logits.dtype, jnp.float32)  # in half precision, sums over time would lose tokens


def _checked_temperature(temperature: Any) -> Any:
    if isinstance(temperature, int | float) and not temperature > 0:
        raise ValueError(
            f"temperature={temperature}: it divides the logits, and must be above 0. Towards 0 sampling becomes "
            "greedy; call greedy."
        )
    return temperature
