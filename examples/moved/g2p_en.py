"""g2p_en: how an English word is pronounced, by a GRU that reads letters and one that writes phones.

Park & Kim published it as NumPy arrays with a loop in NumPy around them. The weights have the layout of torch's
GRU, two biases and the order r, z, n, so `examples.translate` loads them into a `Seq2Seq` as they are. Judged is
what it says: the phones of real words, stress included, one after the other as the package's own loop would choose
them.
"""

import io
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

import jaxrnn
import parity
from examples import translate
from examples.common import judging, packages
from examples.common.training import padded
from examples.moved import oracles
from examples.moved.common import Check, Findings, Mistake, Move, difference, in_turn
from jaxrnn.models import Seq2Seq, greedy, shift_right

FILE = "g2p_en/checkpoint20.npz"
SEARCH = translate.PUBLISHED_SEARCH
Pronunciation = tuple[str, ...]


def words(count: int) -> list[str]:
    """Return words of the CMU dictionary, drawn at random."""
    known = sorted(translate.dictionary())
    return [known[n] for n in np.random.default_rng(0).choice(len(known), count, replace=False)]


def by_equations(spelled: Sequence[str], phones: Sequence[str]) -> list[tuple[Pronunciation, np.ndarray]]:
    """Return of each word the phones, and the logits of each step, computed in float64 from the package's file."""
    with np.load(io.BytesIO(packages.G2P_EN.read(FILE)), allow_pickle=False) as file:
        w = {name: file[name].astype(np.float64) for name in file}
    return [_by_equations(tokens, w, phones) for tokens in map(translate.published_tokens, spelled)]


def _by_equations(
    tokens: Sequence[int], w: Mapping[str, np.ndarray], phones: Sequence[str]
) -> tuple[Pronunciation, np.ndarray]:
    h = np.zeros(256)
    for token in tokens:
        h = oracles.gru_step(w["enc_emb"][token], h, w, "enc")
    chosen, logits = [SEARCH["bos"]], list[np.ndarray]()
    while len(logits) < SEARCH["max_length"]:
        h = oracles.gru_step(w["dec_emb"][chosen[-1]], h, w, "dec")
        logits.append(w["fc_w"] @ h + w["fc_b"])
        chosen.append(int(logits[-1].argmax()))
        if chosen[-1] == SEARCH["eos"]:
            break
    return translate.published_phones(chosen[1:], phones), np.array(logits)


def in_order(network: Seq2Seq, order: Sequence[int]) -> Seq2Seq:
    """Return the network with the three blocks of rows of its GRUs in another order."""
    weights = jaxrnn.state_dict(network)
    for name in [name for name in weights if ".rnn." in name]:
        parts = np.split(weights[name], 3)
        weights[name] = np.concatenate([parts[n] for n in order])
    return _with(weights)


def one_bias(network: Seq2Seq) -> Seq2Seq:
    """Return the network with the two biases of its GRUs added up, as a framework with one bias has them."""
    weights = jaxrnn.state_dict(network)
    for part in ("encoder", "decoder"):
        inner, outer = f"{part}.rnn.bias_hh_l0", f"{part}.rnn.bias_ih_l0"
        weights[outer] = weights[outer] + weights[inner]
        weights[inner] = np.zeros_like(weights[inner])
    return _with(weights)


def _with(weights: Mapping[str, np.ndarray]) -> Seq2Seq:
    network, _ = translate.published()
    jaxrnn.load_state_dict(network, weights)
    return network


Said = list[tuple[Pronunciation, np.ndarray]]  # what `by_equations` returns


def agree(network: Seq2Seq, phones: Sequence[str], spelled: Sequence[str], said: Said) -> int:
    """Return how many words a network says, phone for phone, as the equations do."""
    found = translate.pronounced(network, phones, spelled)
    return sum(mine == theirs for mine, (theirs, _) in zip(found, said, strict=True))


def teacher_forced(spelled: Sequence[str], said: Said) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return letters [B, S], what stands before each phone that the equations said [B, T], lengths of the first."""
    source, lengths = padded([translate.published_tokens(word) for word in spelled])
    target, _ = padded([[int(step.argmax()) for step in logits] for _, logits in said])
    return source, np.asarray(shift_right(jnp.asarray(target), SEARCH["bos"])), lengths


def checks(network: Seq2Seq, phones: Sequence[str], spelled: Sequence[str], said: Said) -> tuple[Check, ...]:
    """Return how far the equations are from the network: in what is said, and in every number behind it."""
    source, given, lengths = teacher_forced(spelled, said)
    logits = np.asarray(network(jnp.asarray(source), jnp.asarray(given), lengths))
    behind = np.concatenate([row[: len(steps)] for row, (_, steps) in zip(logits, said, strict=True)])
    expected = np.concatenate([steps for _, steps in said])
    equal = agree(network, phones, spelled, said), len(spelled)
    return (
        Check("NumPy, float64", "phones of whole words", equal=equal),
        Check("NumPy, float64", f"logits of {len(behind)} steps", difference(behind, expected)),
    )


def mistakes(
    network: Seq2Seq, phones: Sequence[str], spelled: Sequence[str], said: Said
) -> tuple[Mistake, ...]:
    """Return how many words are still right where the weights are taken for those of another framework."""
    others = {
        "blocks of gates read in Keras's order z, r, n": in_order(network, (1, 0, 2)),
        "both biases added up, as for a layer with one": one_bias(network),
    }
    quantity = f"words said as by the equations, of {len(spelled)} (%)"

    def share(other: Seq2Seq) -> float:
        return 100 * agree(other, phones, spelled, said) / len(spelled)

    return tuple(Mistake(done, quantity, share(other), share(network)) for done, other in others.items())


def run(small: bool) -> Findings:
    """Pronounce words of the CMU dictionary, and judge every step."""
    from examples.moved import twins

    network, phones = translate.published()
    twin = judging.filled(twins.Pronouncer(), network)
    spelled = words(20 if small else 300)
    said = by_equations(spelled, phones)
    inputs = teacher_forced(spelled, said)
    source, _, lengths = inputs
    tensors = judging.tensor(source), judging.tensor(lengths)
    timing = in_turn(
        "a word, chosen greedily",
        len(spelled),
        lambda: twin.greedy(*tensors, **SEARCH),
        lambda: jax.block_until_ready(greedy(network, source, lengths, **SEARCH)),
    )
    probe = parity.Probe("words", tuple(each[:16] for each in inputs), outputs=("logits",))
    true = translate.dictionary()
    right = sum(
        translate.without_stress(mine) == true[word] for (mine, _), word in zip(said, spelled, strict=True)
    )
    return Findings(
        agreements=(judging.judge("its weights", network, twin, probe),),
        checks=checks(network, phones, spelled, said),
        mistakes=mistakes(network, phones, spelled, said),
        timings=(timing,),
        remarks=(
            f"Of the {len(spelled)} words {right} are said as the dictionary has them, stress left out.",
        ),
    )


MOVE = Move(packages.G2P_EN, FILE, "Apache-2.0", "GRU encoder and decoder: letters to phones", run)
