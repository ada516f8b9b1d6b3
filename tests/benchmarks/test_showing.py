"""Records as a table and as a picture."""

import dataclasses

import pytest

from benchmarks import plot, table
from benchmarks.sizes import GRID, Size, sweep
from tests.benchmarks.common import TINY, contender, record


def rows_of(*records):
    header, *rows = table.tsv(records)
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_each_contender_is_a_row_and_so_is_who_is_missing_or_failed():
    rows = rows_of(record(), record() | {"error": "off"})
    assert [row["contender"] for row in rows] == ["jaxrnn", "torch", "nnx LSTMCell", "keras", ""]
    assert rows[1]["ms"] == "2"
    assert rows[1]["ratio"] == "0.500"
    assert rows[1]["of bound"] == "5.0%"
    assert rows[1]["dropped"] == "2"
    assert rows[3]["note"] == "skipped: not installed: pip install 'jaxrnn[peers-keras]'"
    assert rows[3]["ms"] == ""
    assert rows[4]["note"] == "failed: off"


def test_a_contender_with_other_work_has_its_own_bound():
    base = record()
    half = contender("+ projection", 1e-3, 1e-3, flops=base["flops"] // 2)
    assert table.share_of_bound(base, half) == pytest.approx(0.05)


def test_the_summary_counts_what_intervals_allow_to_say():
    records = [
        record(others={"torch": 2e-3}),
        record(others={"torch": 0.5e-3}),
        record(others={"torch": 1e-3}),
        record(others={"torch": 100.0}, noisy=True),
        record(others={"torch": 100.0}, features=True),
        record() | {"contenders": [], "error": "off"},
    ]
    assert list(table.summary(records)) == [
        ["torch", "train", "default", "3", "1.00", "0.50", "2.00", "1", "1", "1"]
    ]


def test_a_size_is_told_in_its_letters():
    assert table.shape_of(record(Size("", 1, 2, 3, 4))) == "B1 T2 I3 H4"
    assert table.shape_of(record(Size("", 1, 2, 3, 4, 2, 2))) == "B1 T2 I3 H4 L2 D2"
    assert table.shape_of(record(Size("", 1, 1, 3, 4, calls=9))) == "B1 T1 I3 H4 9 calls"


# Pictures


def swept(axis):
    return [record(size, others={"torch": size.steps * 1e-5}) for size in sweep(GRID["medium"][0].size, axis)]


@pytest.fixture
def words():
    """What stands in an SVG file."""
    pyplot = pytest.importorskip("matplotlib.pyplot")

    def read(records, path):
        with pyplot.rc_context({"svg.fonttype": "none"}):
            plot.draw(records, path)
        return path.read_text("utf-8")

    return read


def test_named_sizes_become_bars_against_torch(words, tmp_path):
    found = words([record(), record(dataclasses.replace(TINY, name="other"), noisy=True)], tmp_path / "a.svg")
    for word in (
        "LSTM, training step: below 1 is faster than torch",
        "torch's time",
        "other (noisy)",
        "B2 T3 I2 H4",
    ):
        assert word in found


def test_without_torch_the_bars_stand_against_jaxrnn(words, tmp_path):
    found = words([record(others={"haiku LSTM": 1e-3})], tmp_path / "a.svg")
    assert "below 1 is faster than jaxrnn" in found


def test_sweeps_become_lines_with_units_and_the_roofline(words, tmp_path):
    found = words(swept("T") + swept("H"), tmp_path / "a.svg")
    for word in ("steps T", "hidden features H", "time [ms]", "roofline", "around medium"):
        assert word in found


def test_no_two_contenders_look_alike():
    names = [
        "jaxrnn",
        "jaxrnn, nnx.jit",
        "jaxrnn.ops",
        "jaxrnn, scan",
        "plain scan",
        "torch",
        "torch.compile",
        "nnx LSTMCell",
        "nnx OptimizedLSTMCell",
        "linen LSTMCell",
        "linen OptimizedLSTMCell",
        "haiku LSTM",
        "equinox LSTMCell",
        "keras LSTM",
        "+ lengths",
        "+ resets",
        "+ lengths, resets",
        "+ projection",
    ]
    found = plot.looks(names)
    assert len({(look.colour, look.hatch) for look in found.values()}) == len(names)
    assert len({(look.colour, look.line) for look in found.values()}) == len(names)


def test_nothing_to_draw_is_said(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="no result"):
        plot.draw([record() | {"error": "off"}][:0], tmp_path / "a.png")
