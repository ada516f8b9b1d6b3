"""What other libraries are to torch: every entry's verdict and diagnosis, and the page that is made of them."""

import dataclasses
import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner

from parity.cli.findings import choose, exit_code, findings
from parity.designed import CellCall
from parity.gallery import entry as gallery
from parity.gallery import page
from parity.gallery.entries import ENTRIES
from parity.gallery.entry import Entry, Finding, Network, judge_entry
from parity.verdict import DIVERGENT, EQUIVALENT, ERROR, INCONCLUSIVE, NOT_RUN, CaseResult, Comparison

PAGE = Path(__file__).parents[2] / "docs" / "findings.md"
BY_ID = {entry.id: entry for entry in ENTRIES}

# What entries are found to be with the versions of constraints/py311.txt; all others are equivalent. A new version
# of a peer may change a row: then `parity findings --output docs/findings.md`, and read what the page says of it.
DIVERGES = {
    "nnx.GRUCell": "G04",
    "nnx.RNN-ragged": "S10-on-raw",
    "nnx.RNN-empty": "S09-empty-raw",
    "nnx.RNN-nan": "S09-empty-raw or S12",
    "nnx.RNN-gru-empty": "S09-empty-raw",
    "linen.RNN-ragged": "S10-on-raw",
    "linen.RNN-empty": "S09-empty-raw",
    "linen.RNN-nan": "S09-empty-raw or S12",
    "jax.lstm_ref-empty": "S09-empty-raw",
    "jax.lstm_ref-nan": "S09-empty-raw or S12",
    "haiku.LSTM-as-it-is": "L06",
    "haiku.GRU": "G02",
    "keras.LSTM-float64": "N08-float32",
    "keras.LSTM-ragged": "S10-repeated",
    "keras.LSTM-nan": "S09-empty-raw or S12",
    "keras.GRU-before": "G02",
    "optax.adam": "O06",
    "optax.adamw": "O06",
    "optax.adamw-defaults": "O03",
    "optax.amsgrad": "O16",
    "optax.nadam": "O17",
    "optax.radam": "O02",
    "optax.rmsprop-defaults": "O10+O11",
    "optax.rmsprop-momentum": "O12",
    "optax.adagrad-defaults": "O15",
    "optax.adagrad": "O15-root",
    "optax.adadelta-defaults": "O18 or O18-sign",
    "optax.rprop": "O19",
    "optax.clip_by_global_norm": "O13",
    "optax.cosine_onecycle_schedule": "O20",
    "optax.cosine_decay_schedule": "O21",
    "optax.cross_entropy-ignored": "C05",
    "optax.cross_entropy-minus-one": "C05-last",
    "optax.l2_loss": "C07",
    "optax.kl_divergence": "C11-rows",
    "optax.cosine_similarity-zero": "C18",
    "optax.ctc_loss-infeasible": "C14-finite",
}
# The same function, but less accurate: no array fails a gate other than the numeric one.
LESS_ACCURATE = {"optax.adam", "optax.adamw"}
# What takes less than two seconds.
FAST = {
    entry.id
    for entry in ENTRIES
    if isinstance(entry.subject, gallery.Loss | gallery.Schedule) and "ctc" not in entry.id
}


@functools.cache
def found(id: str) -> Finding:
    return judge_entry(BY_ID[id])


def expected(id: str) -> tuple[str, str]:
    return (DIVERGENT, DIVERGES[id]) if id in DIVERGES else (EQUIVALENT, "")


def rows(ids: Any) -> list[Any]:
    return [pytest.param(id, marks=[] if id in FAST else [pytest.mark.slow]) for id in ids]


# The findings -----------------------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("id", rows(BY_ID))
def test_an_entry_is_found_to_be_what_the_table_says(id):
    missing = BY_ID[id].missing()
    if missing is not None:
        pytest.skip(missing)
    finding = found(id)
    assert (finding.result.verdict, page.diagnosis_of(finding)) == expected(id), finding.result
    assert finding.version
    assert finding.result.tensors
    if id in DIVERGES:
        gates = {t.gate for t in finding.result.tensors if t.verdict == DIVERGENT}
        assert (gates == {"numeric"}) == (id in LESS_ACCURATE)


def test_the_table_names_no_entry_that_is_not_there():
    assert set(DIVERGES) <= set(BY_ID)
    assert len(BY_ID) == len(ENTRIES)


@pytest.mark.torch
@pytest.mark.slow
def test_nan_in_the_padding_reaches_gradients_and_no_output():
    failed = {t.name for t in found("nnx.RNN-nan").result.tensors if t.verdict == DIVERGENT}
    assert failed
    assert all(name.startswith(("grad(", "step(")) for name in failed)


@pytest.mark.torch
@pytest.mark.slow
def test_a_missing_bias_is_located_at_the_gate_that_lacks_it():
    divergence = found("nnx.GRUCell").result.first_divergence
    assert divergence is not None
    assert divergence.phase == "forward"
    assert divergence.places[0].quantity == "z_n"


# The map of weights -----------------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.slow
def test_a_map_that_takes_gates_for_one_another_does_not_pass(monkeypatch):
    from parity.gallery import flax_nnx
    from parity.gallery.peer import Peer, gates

    def wrong(weights):
        part = gates(weights, "figo")
        return {
            **{f"i{g}{'_' if g == 'f' else ''}.kernel": part[g]["weight_ih"].T for g in "ifgo"},
            **{f"h{g}.kernel": part[g]["weight_hh"].T for g in "ifgo"},
            **{f"h{g}.bias": part[g]["bias_ih"] + part[g]["bias_hh"] for g in "ifgo"},
        }

    monkeypatch.setattr(flax_nnx, "LSTM_CELL", Peer(wrong, flax_nnx.LSTM_CELL.call))
    finding = judge_entry(BY_ID["nnx.LSTMCell"])
    assert (finding.result.verdict, page.diagnosis_of(finding)) == (DIVERGENT, "L03")


@pytest.mark.torch
def test_one_bias_for_two_moves_by_half_of_what_the_two_do(torch):
    from parity.gallery.flax_nnx import OPTIMIZED_LSTM_CELL as CELL
    from parity.gallery.peer import learning_shares

    reference = torch.nn.LSTMCell(3, 7).double()
    weights = {name: value.detach().numpy() for name, value in reference.named_parameters()}
    (probe, *_) = CellCall(2).probes("quick", 0)
    shares = learning_shares(CELL, weights, probe)
    assert shares == {"dense_h.bias": (0.5,)}

    def loss(own):
        h, c = CELL.call(own, *jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), probe.args))
        return (h**2).sum() + c.sum()

    with jax.enable_x64(True):
        own = CELL.hold({name: jnp.asarray(value) for name, value in weights.items()})
        before = np.asarray(own["dense_h.bias"])
        peer = -0.1 * np.asarray(jax.grad(loss)(own)["dense_h.bias"])
    x, hx = jax.tree.map(lambda a: torch.from_numpy(np.asarray(a, np.float64)), probe.args)
    h, c = reference(x, hx)
    ((h**2).sum() + c.sum()).backward()
    torch.optim.SGD(reference.parameters(), lr=0.1).step()
    moved = (reference.bias_ih + reference.bias_hh).detach().numpy() - before
    # Differences of numbers near 1 in float64, of which the smallest is about 0.01.
    np.testing.assert_allclose(peer, 0.5 * moved, rtol=1e-12)


@pytest.mark.torch
def test_two_biases_for_two_learn_at_torchs_rate(torch):
    from parity.gallery.jax_experimental import LSTM_REF
    from parity.gallery.peer import learning_shares

    shapes = {name: np.empty(tuple(p.shape)) for name, p in torch.nn.LSTM(3, 7).named_parameters()}
    (probe, *_) = gallery.ragged(2)()
    assert learning_shares(LSTM_REF, probe.weights(shapes), probe) == {}


def test_ragged_probes_have_in_the_padding_what_they_promise():
    (probe, *_) = gallery.ragged(2, padding=np.nan, empty=True)()
    (x, _), lengths = probe.args, probe.kwargs["lengths"]
    padding = np.arange(x.shape[1])[None, :] >= lengths[:, None]
    assert sorted(lengths)[0] == 0
    assert np.isnan(x[padding]).all()
    assert np.isfinite(x[~padding]).all()
    (probe, *_) = gallery.ragged(2)()
    assert min(probe.kwargs["lengths"]) == 1
    assert (probe.args[0][np.arange(9)[None, :] >= probe.kwargs["lengths"][:, None]] == 2.0).all()


# What could not be judged -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Broken:
    """A subject that cannot be run."""

    def judge(self, id: str, summary: str) -> CaseResult:
        """Raise."""
        raise AttributeError("cell has no attribute 'weights'")

    def shares(self) -> dict[str, tuple[float, ...]]:
        """Return nothing."""
        return {}


def entry_of(**changes: Any) -> Entry:
    return dataclasses.replace(BY_ID["nnx.SimpleCell"], **changes)


def test_a_missing_peer_is_named_with_the_remedy_and_not_counted(monkeypatch):
    absent = gallery.Package("nowhere", "no_such_module", "pip install 'jaxrnn[peers-nowhere]'")
    monkeypatch.setitem(gallery.PACKAGES, "nowhere", absent)
    monkeypatch.setattr(gallery, "INSTALL", {"torch": "pip install 'jaxrnn[torch]'"})
    finding = judge_entry(entry_of(id="nowhere.Cell", package="nowhere", subject=Broken()))
    assert finding.result.verdict == NOT_RUN
    assert "pip install 'jaxrnn[" in str(finding.result.not_run)
    assert exit_code([finding]) == 4
    judged = Finding(BY_ID["nnx.SimpleCell"], CaseResult("x", comparisons=(Comparison("1x"),)), "1.0")
    assert judged.result.verdict == INCONCLUSIVE
    assert exit_code([finding, judged]) == 3
    text = page.to_markdown([finding])
    assert page.read(text)["nowhere.Cell"] == (NOT_RUN, "")
    assert "1 NOT RUN" in text
    assert "EQUIVALENT," not in text


@pytest.mark.torch
def test_a_peer_that_cannot_be_run_is_an_error_and_no_finding():
    pytest.importorskip("torch")
    finding = judge_entry(entry_of(subject=Broken()))
    assert finding.result.verdict == ERROR
    assert exit_code([finding]) == 2
    text = page.to_markdown([finding])
    assert "## Not decided" in text
    assert "cell has no attribute 'weights'" in text
    assert str(Path(__file__).parent) not in text  # the place of the error is this machine's


@pytest.mark.torch
def test_a_network_whose_call_fails_is_an_error_and_no_finding(monkeypatch):
    pytest.importorskip("torch")
    from parity.gallery import flax_nnx
    from parity.gallery.peer import Peer

    monkeypatch.setattr(flax_nnx, "SIMPLE_CELL", Peer(flax_nnx.gru_parameters, flax_nnx.LSTM_CELL.call))
    finding = judge_entry(BY_ID["nnx.SimpleCell"])
    assert finding.result.verdict == ERROR
    assert exit_code([finding]) == 2


def test_the_table_is_read_without_any_peer():
    program = (
        "import sys; import parity.gallery.entries, parity.cli.findings; "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=PAGE.parents[1], capture_output=True, text=True, check=True
    )
    assert not set(finished.stdout.split()) & {"torch", "flax", "optax", "haiku", "equinox", "keras"}


# The page ---------------------------------------------------------------------------------------------------


def test_the_page_has_every_entry_with_what_the_table_of_tests_says():
    assert page.read(PAGE.read_text("utf-8")) == {id: expected(id) for id in BY_ID}


@pytest.mark.torch
@pytest.mark.parametrize("id", rows(id for id, entry in BY_ID.items() if entry.package in ("flax", "optax")))
def test_the_page_says_of_flax_and_optax_what_is_found_now(id):
    if BY_ID[id].missing() is not None:
        pytest.skip(str(BY_ID[id].missing()))
    now = page.to_markdown([found(id)])
    assert page.read(now)[id] == page.read(PAGE.read_text("utf-8"))[id]


def test_a_row_that_was_changed_by_hand_is_noticed():
    text = PAGE.read_text("utf-8")
    line = next(line for line in text.splitlines() if line.startswith("| [nnx.GRUCell]"))
    changed = text.replace(line, line.replace("| G04 |", "| G02 |"))
    assert page.read(changed)["nnx.GRUCell"] == (DIVERGENT, "G02")
    assert "nnx.GRUCell" not in page.read(text.replace(line, ""))


@pytest.mark.torch
def test_the_page_knows_neither_the_day_nor_how_long_it_took():
    pytest.importorskip("torch")
    finding = found("optax.l2_loss")
    slower = [dataclasses.replace(each, seconds=99.0) for each in finding.result.comparisons]
    later = dataclasses.replace(
        finding, result=dataclasses.replace(finding.result, comparisons=tuple(slower))
    )
    assert page.to_markdown([finding]) == page.to_markdown([later])


@pytest.mark.torch
def test_a_finding_is_shown_with_its_evidence_and_a_link_that_leads_to_it():
    pytest.importorskip("torch")
    text = page.to_markdown([found("optax.l2_loss"), found("optax.huber_loss")])
    assert "| [optax.l2_loss](#optaxl2_loss) |" in text
    section = text.partition("### optax.l2_loss\n")[2].partition("\n## ")[0]
    for words in (
        "**DIVERGENT**",
        "*Gate.* semantic, in 6 of 6 arrays",
        "C07",
        "semantic error 5.0e-01",
        "rho",
        "worst element",
    ):
        assert words in section
    assert "**optax.huber_loss**" in text.partition("## Found equivalent")[2]


@pytest.mark.parametrize(("here", "there"), [(0.1234567, 0.1234599), (1.0, 2.0)])
def test_two_numbers_that_differ_are_shown_to_differ(here, there):
    shown = page._element(gallery_element(here, there))
    left, right = shown.split(" here, ")
    assert left != right.removesuffix(" in torch")


def gallery_element(here: float, there: float) -> Any:
    from parity.verdict import Element

    return Element((), here, there, there)


# The command ------------------------------------------------------------------------------------------------


def test_entries_are_chosen_by_id_or_by_group():
    assert choose([]) == list(ENTRIES)
    assert [entry.id for entry in choose(["optax.adam"])] == ["optax.adam"]
    assert {entry.package for entry in choose(["equinox", "jax"])} == {"equinox", "jax"}
    with pytest.raises(click.UsageError, match="groups are equinox, haiku, jax, keras, linen, nnx, optax"):
        choose(["nonsense"])


@pytest.mark.torch
def test_the_command_writes_the_page_and_does_not_fail_for_a_verdict_on_others(tmp_path):
    pytest.importorskip("torch")
    output = tmp_path / "findings.md"
    result = CliRunner().invoke(findings, ["optax.l2_loss", "optax.squared_error", "--output", str(output)])
    assert result.exit_code == 0, result.output
    assert "C07" in result.output
    assert page.read(output.read_text("utf-8")) == {
        "optax.l2_loss": (DIVERGENT, "C07"),
        "optax.squared_error": (EQUIVALENT, ""),
    }


def test_a_page_of_another_kind_is_refused_before_any_work(tmp_path):
    result = CliRunner().invoke(findings, ["--output", str(tmp_path / "findings.html")])
    assert result.exit_code == 2
    assert "ends in .md" in result.output


def test_networks_that_share_a_name_in_the_table_are_not_confused():
    """Every network names a peer's file of its own package, so that a version beside it is the right one."""
    files = {"flax_nnx": "flax", "flax_linen": "flax", "jax_experimental": "jax"}
    for each in ENTRIES:
        if isinstance(each.subject, Network):
            file = each.subject.file
            assert files.get(file, file.removesuffix("_peer")) == each.package
