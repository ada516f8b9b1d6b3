"""resemblyzer: whose voice is it? Three LSTMs turn 1.6 s of speech into a point, near to others of that voice.

The checkpoint is one of training, written on a GPU by a PyTorch of before 1.6: `jaxrnn.checkpoint_files` reads the
entry ``model_state`` of it without PyTorch. Gates and layout are torch's, so nothing is converted; what the package
does before the network has to be done again, in NumPy: frames of 25 ms every 10 ms, their power in 40 mel bands, no
logarithm, and a clip in overlapping windows whose points are averaged. (The package also cuts out long silences.
This is left out: the recordings, which pocketsphinx has for its tests, are short sentences.)
"""

import io
import tempfile
import wave
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib.figure import Figure

import jaxrnn
import parity
from examples.common import drawing, judging, packages
from examples.moved import oracles
from examples.moved.common import Check, Findings, Mistake, Move, difference, in_turn
from jaxrnn.checkpoint_files import read
from jaxrnn.init import torch_linear

FILE = "resemblyzer/pretrained.pt"
RATE, WINDOW, HOP, BANDS = 16_000, 400, 160, 40  # samples a second, of a frame, between frames; mel bands
FRAMES, STRIDE = 160, 77  # of a window, and between windows: 1.3 a second
LOUDNESS = -30  # dB of full scale, to which quiet clips are raised
AUSTEN = "librivox/sense_and_sensibility_01_austen_64kb-0"
RECORDINGS = {
    "reader": [f"{AUSTEN}{number}.wav" for number in (870, 880, 890, 920, 930)],
    "cards": [f"cards/00{number}.wav" for number in range(1, 6)],
    "talk": ["forever/input_2_16k.wav", "forever/input_4_16k.wav"],
    "robot": ["goforward.raw", "numbers.raw", "something.raw"],
}


# The network


class SpeakerEncoder(nnx.Module):
    """A vector of length one for a window of speech::

    e = relu(W h_T + b) / |relu(W h_T + b)|          h of the last of three LSTMs
    """

    def __init__(self, *, rngs: nnx.Rngs):
        self.lstm = jaxrnn.LSTM(BANDS, 256, 3, batch_first=True, rngs=rngs)
        self.linear = torch_linear(256, 256, rngs=rngs)

    def __call__(self, frames: jax.Array) -> jax.Array:
        """Return vectors [B, 256] of mel frames [B, T, 40]."""
        _, (h, _) = self.lstm(frames)
        voice = jax.nn.relu(self.linear(h[-1]))
        return voice / jnp.linalg.norm(voice, axis=1, keepdims=True)


def published() -> SpeakerEncoder:
    """Return the network with the package's weights; two numbers of its loss in training are left out."""
    network = SpeakerEncoder(rngs=nnx.Rngs(0))
    weights = state_dict()
    jaxrnn.load_state_dict(network, {name: weights[name] for name in weights if "similarity" not in name})
    network.eval()
    return network


def state_dict() -> dict[str, np.ndarray]:
    """Return the entry of the package's checkpoint that is its network."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pretrained.pt"
        path.write_bytes(packages.RESEMBLYZER.read(FILE))
        return read(path, key="model_state")


# Speech


class Clip(NamedTuple):
    """A recording, and of whom."""

    voice: str
    samples: np.ndarray  # [N], from -1 to 1


def clips(of_each: int | None = None) -> list[Clip]:
    """Return pocketsphinx's recordings, of each voice the first `of_each`."""
    names = [(voice, name) for voice, files in RECORDINGS.items() for name in files[:of_each]]
    return [Clip(voice, _samples(name)) for voice, name in names]


def _samples(name: str) -> np.ndarray:
    content = packages.POCKETSPHINX.read(f"pocketsphinx-{packages.POCKETSPHINX.version}/test/data/{name}")
    if name.endswith(".wav"):
        with wave.open(io.BytesIO(content)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
            content = file.readframes(file.getnframes())
    return np.frombuffer(content, "<i2") / 32767


def raised(samples: np.ndarray) -> np.ndarray:
    """Return a clip at the loudness that the network knows, if it is quieter."""
    return samples * max(1.0, 10 ** (LOUDNESS / 20) / np.sqrt(np.mean(samples**2)))


Spectrum = Callable[[np.ndarray], np.ndarray]  # samples to [frames, 40]


def windows(samples: np.ndarray, spectrum: Spectrum) -> np.ndarray:
    """Return the clip's windows [W, 160, 40]; the last is filled with silence, or left out if over a quarter is."""
    frames = 1 + len(samples) // HOP
    starts = list(range(0, max(1, frames - FRAMES + STRIDE + 1), STRIDE))
    if len(starts) > 1 and len(samples) - starts[-1] * HOP < 0.75 * FRAMES * HOP:
        starts.pop()
    missing = max(0, (starts[-1] + FRAMES) * HOP - len(samples))
    bands = spectrum(np.pad(samples, (0, missing)))
    return np.stack([bands[start : start + FRAMES] for start in starts])


def mel(samples: np.ndarray, power: float = 2.0) -> np.ndarray:
    """Return the power in mel bands [frames, 40] of frames around every 160th sample, float32::

    |DFT(hann ⊙ frame)|² Fᵀ
    """
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, WINDOW // 2), WINDOW)[::HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    return (np.abs(np.fft.rfft(frames * hann)) ** power @ filters().T).astype(np.float32)


def filters() -> np.ndarray:
    """Return triangles over frequency [40, 201], each of area 1, whose corners are evenly spaced in mel.

    The scale is Slaney's (Auditory Toolbox, 1998): 200/3 Hz a mel up to 1000 Hz, then 27 mel for a factor of 6.4.
    """
    top = 15 + 27 * np.log(RATE / 2 / 1000) / np.log(6.4)
    mels = np.linspace(0, top, BANDS + 2)
    corners = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))
    left, middle, right = (corners[n : n + BANDS, None] for n in range(3))
    frequencies = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    rising, falling = (frequencies - left) / (middle - left), (right - frequencies) / (right - middle)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (right - left)


def points(embedded: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Return a vector of length one for each clip, the mean of those of its windows."""
    means = np.stack([part.mean(axis=0) for part in np.split(embedded, np.cumsum(counts)[:-1])])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


# What the network makes of it


def by_equations(frames: np.ndarray) -> np.ndarray:
    """Return the vectors of windows in float64, from the weights in the file."""
    w = state_dict()
    x = frames
    for layer in range(3):
        w_ih, w_hh, b_ih, b_hh = (
            w[f"lstm.{name}_l{layer}"].astype(np.float64)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        x = oracles.lstm(x, w_ih.T, w_hh.T, b_ih + b_hh)
    voice = np.maximum(x[:, -1] @ w["linear.weight"].T.astype(np.float64) + w["linear.bias"], 0)
    return voice / np.linalg.norm(voice, axis=1, keepdims=True)


class Separation(NamedTuple):
    """How similar clips are that share a voice, and others; and how often that tells."""

    same: np.ndarray
    other: np.ndarray
    ordered: float  # share of pairs of pairs in which those of one voice are the more similar, in per cent
    nearest: int  # clips whose nearest other clip is of the same voice


def separation(similar: np.ndarray, voices: Sequence[str]) -> Separation:
    """Return what a matrix of similarities [N, N] says."""
    alike = np.equal.outer(voices, voices)
    pairs = np.triu_indices(len(voices), 1)
    same, other = similar[pairs][alike[pairs]], similar[pairs][~alike[pairs]]
    ordered = 100 * float(np.mean(same[:, None] > other))
    nearest = np.argmax(similar - 2 * np.eye(len(voices)), axis=1)
    return Separation(same, other, ordered, int(np.sum(alike[np.arange(len(voices)), nearest])))


def drawn(similar: np.ndarray, voices: Sequence[str], found: Separation) -> Figure:
    """Draw the similarities of all clips, and how those of one voice and of two are spread."""
    figure = drawing.new(9.0, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    image = left.imshow(similar, cmap=drawing.MAP, vmin=0.4, vmax=1)
    edges = [n for n in range(1, len(voices)) if voices[n] != voices[n - 1]]
    for edge in edges:
        left.axhline(edge - 0.5, color="w")
        left.axvline(edge - 0.5, color="w")
    middles = [
        np.mean([n for n, each in enumerate(voices) if each == voice]) for voice in dict.fromkeys(voices)
    ]
    left.set_xticks(middles, dict.fromkeys(voices))
    left.set_yticks(middles, dict.fromkeys(voices), fontsize="small")
    figure.colorbar(image, ax=left, label="cosine of two clips", shrink=0.85)
    bins = np.linspace(0.4, 1, 25)
    right.hist(found.other, bins, color=drawing.ORANGE, label="two voices")
    right.hist(found.same, bins, color=drawing.BLUE, label="one voice", alpha=0.75)
    right.set_xlabel("cosine of two clips")
    right.set_ylabel("pairs")
    right.legend(frameon=False)
    drawing.tidy(right)
    return figure


class Heard(NamedTuple):
    """What the network makes of clips."""

    frames: np.ndarray  # [W, 160, 40], the windows of all
    vectors: np.ndarray  # [W, 256]
    points: np.ndarray  # [clips, 256]


def hear(network: SpeakerEncoder, spoken: Sequence[Clip], spectrum: Spectrum = mel) -> Heard:
    """Return what a network makes of clips, prepared as the package does, but for their `spectrum`."""
    parts = [windows(raised(clip.samples), spectrum) for clip in spoken]
    frames = np.concatenate(parts)
    vectors = np.asarray(_embed(network, frames))
    return Heard(frames, vectors, points(vectors, [len(part) for part in parts]))


@nnx.jit
def _embed(network: SpeakerEncoder, frames: np.ndarray) -> jax.Array:
    return network(jnp.asarray(frames))


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Return the logarithm of `mel`, as most networks want speech; this one was trained without."""
    return np.log(mel(samples) + np.float32(1e-6))


def checks(network: SpeakerEncoder, heard: Heard) -> tuple[Check, ...]:
    """Return how far others' computations of the same network are from ours."""
    weights = state_dict()
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    layers = [{name: weights[f"lstm.{name}_l{layer}"] for name in names} for layer in range(3)]
    hidden = np.asarray(network.lstm(jnp.asarray(heard.frames))[0])
    return (
        Check(
            "NumPy, float64",
            f"vectors of {len(heard.frames)} windows",
            difference(heard.vectors, by_equations(heard.frames)),
        ),
        Check(
            "ONNX Runtime",
            f"outputs of the LSTMs at {hidden.shape[0] * hidden.shape[1]} frames",
            difference(hidden, oracles.onnx_lstm(heard.frames, layers)),
        ),
    )


def mistakes(network: SpeakerEncoder, spoken: Sequence[Clip], told: Separation) -> tuple[Mistake, ...]:
    """Return how voices are told apart where the sound is prepared as other networks want it."""
    spectra: dict[str, Spectrum] = {
        "the logarithm of the mel bands": log_mel,
        "magnitudes in place of powers": partial(mel, power=1.0),
    }
    voices = [clip.voice for clip in spoken]
    quantity = "times that a pair of one voice is more similar than one of two (%)"
    found = {done: hear(network, spoken, spectrum).points for done, spectrum in spectra.items()}
    return tuple(
        Mistake(done, quantity, separation(each @ each.T, voices).ordered, told.ordered)
        for done, each in found.items()
    )


def run(small: bool) -> Findings:
    """Tell voices apart, and judge what the network makes of windows of speech."""
    from examples.moved import twins

    spoken = clips(2 if small else None)
    voices = [clip.voice for clip in spoken]
    network = published()
    twin = judging.filled(twins.SpeakerEncoder(), network)
    heard = hear(network, spoken)
    similar = heard.points @ heard.points.T
    told = separation(similar, voices)
    few = heard.frames[::9, :40] if small else heard.frames[::9]
    timed = heard.frames[:16]
    tensor = judging.tensor(timed)
    timing = in_turn(
        "a window of 1.6 s",
        len(tensor),
        lambda: twin(tensor),
        lambda: jax.block_until_ready(_embed(network, timed)),
    )
    return Findings(
        agreements=(
            judging.judge("its weights", network, twin, parity.Probe("speech", (few,), outputs=("voice",))),
        ),
        checks=checks(network, heard),
        mistakes=mistakes(network, spoken, told),
        timings=(timing,),
        figures={"voices": drawn(similar, voices, told)},
        remarks=(described(told, len(spoken)),),
    )


def described(told: Separation, count: int) -> str:
    """Return what the similarities say, in words."""
    return (
        f"Of {count} clips {told.nearest} have their nearest neighbour in a clip of the same voice. The cosine of "
        "two clips is "
        f"{told.same.mean():.2f} on average within a voice ({told.same.min():.2f} to {told.same.max():.2f}) and "
        f"{told.other.mean():.2f} between voices ({told.other.min():.2f} to {told.other.max():.2f}); "
        f"{told.ordered:.1f} % of the time a pair of one voice is the more similar."
    )


MOVE = Move(
    packages.RESEMBLYZER,
    FILE,
    "Apache-2.0",
    "three LSTMs, a linear map: speech to a point for its voice",
    run,
)
