"""The page: one file that needs no other, says everything that was found, and works in a browser."""

import dataclasses
import html
import os
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from parity.report import heat, kills, plots, selftest_page, training_page, tree
from parity.report.html import to_html
from parity.report.ladder_curves import Curve, Point
from parity.report.sections import Band, Line, LinePlot, Mark, Section, Table
from parity.report.selftest_page import Selftest
from parity.selftest.ladder import REQUIRED, Rung
from parity.selftest.trial import Outcome, Trial
from parity.training.judge import TrainingResult
from parity.training.trajectory import judge_trajectory
from parity.verdict import CaseResult, Comparison, Divergence, Node, Report, TensorResult
from tests.parity.example_reports import ENVIRONMENT, REPORTS, SMALL, divergent

VOID = {"meta", "link", "input", "br", "col", "img"}


class Page(HTMLParser):
    """Every element of a page: (tag, attributes, open elements around it); elements must nest."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), tuple(self.open)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.texts.append(data)

    def all(self, tag, **wanted):
        return [
            found
            for name, found, _ in self.elements
            if name == tag and all(found.get(key.rstrip("_")) == value for key, value in wanted.items())
        ]

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))


@pytest.mark.parametrize("name", SMALL)
def test_every_report_becomes_a_page_that_fetches_nothing(name):
    text = to_html(REPORTS[name])
    page = Page(text)
    for _, attributes, _ in page.elements:
        for key in ("src", "href", "xlink:href", "action", "data"):
            assert attributes.get(key, "#").startswith(("#", "data:,"))
    assert not re.findall(r"https?:|@import|url\((?!#)", text)
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'")
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [attributes["href"][1:] for attributes in page.all("a")]
    assert set(targets) <= set(ids)
    assert REPORTS[name].verdict in page.text
    assert "Not exercised" in page.text


def test_every_plot_has_a_legend_words_and_a_table():
    page = Page(to_html(REPORTS["two explanations"]))
    plots_found = page.all("figure", class_="plot")
    assert len(plots_found) >= 7  # 2 scatters and a growth for each case, 2 distributions
    inside = [around for tag, _, around in page.elements if tag == "details" and "figure" in around]
    assert len(inside) == len(plots_found)
    images = page.all("div", role="img")
    assert len(images) == len(plots_found)
    assert all(len(image["aria-label"]) > 30 for image in images)
    assert len([1 for tag, _, around in page.elements if tag == "ul" and "figure" in around]) == len(
        plots_found
    )


def test_what_failed_stands_before_what_passed():
    text = Page(to_html(REPORTS["two explanations"])).text
    order = [
        "DIVERGENT",
        "Cases",
        "Diagnosis",
        "cannot tell",
        "First divergence",
        "The two models",
        "Equivalent cases",
    ]
    assert sorted(order, key=text.index) == order


def test_the_heat_map_has_a_cell_for_each_node_and_marks_the_first():
    case = divergent()
    page = Page(to_html(Report((case,))))
    cells = page.all("td", role="gridcell")
    found = case.first_divergence
    assert len(cells) == len(found.free) + len(found.forced)
    assert {cell["data-node"] for cell in cells} == {str(node) for node in found.free}
    roots = [cell for cell in cells if "root" in cell["class"]]
    assert {cell["data-node"] for cell in roots} == {str(found.places[0])}
    assert roots[0]["aria-label"].endswith("differs, first divergence")
    assert roots[1]["data-distance"] == "2.00e-02"
    assert "d7" in roots[1]["class"].split()
    assert len([cell for cell in cells if cell["tabindex"] == "0"]) == 2 * 4  # one stop of Tab for each panel


@pytest.mark.parametrize(
    ("distance", "level"),
    [
        *((None, "none"), (0.0, "d0"), (1e-15, "d0"), (2e-10, "d3"), (1e-9, "d3")),
        *((2e-9, "d4"), (0.5, "d8"), (float("inf"), "d8"), (float("nan"), "d8")),
    ],
)
def test_colours_change_side_where_quantities_differ(distance, level):
    assert heat.level(distance) == level


def test_many_steps_are_put_together_by_the_largest_distance():
    distances = {Node("", 0, 0, step, "h"): 1e-16 for step in range(1000)}
    distances[Node("", 0, 0, 777, "h")] = 0.25
    root = Node("", 0, 0, 777, "h")
    (panel,) = heat.maps(Divergence("forward", (root,), (), distances)).free
    ((_, cells),) = panel.rows
    assert len(cells) == len(panel.steps) <= heat.COLUMNS
    (marked,) = [cell for cell in cells if cell.level == "d8"]
    assert (marked.label, marked.mark, marked.distance) == (str(root), "root", "2.50e-01")
    assert panel.steps[0] == "0–10"


def test_the_tree_shows_both_names_and_where_the_two_part():
    found = tree.rows(divergent(wrong=("grad(fc.weight)",)))
    (here,) = [row for row in found if row.here]
    assert (here.torch, here.is_module) == ("layer 1 reverse", True)
    names = [(row.depth, row.torch, row.flax) for row in found]
    assert names[0] == (0, "inputs", "")
    assert (1, "encoder", "encoder") in names
    assert (2, "rnn", "rnn") in names
    assert (4, "weight_ih_l0", "weight_ih_l0") in names
    assert (1, "fc", "readout") in names
    (readout,) = [row for row in found if row.flax == "kernel"]
    value, gradient, step = readout.chips
    assert (value.level, value.text) == ("ok", "=")
    assert gradient.level == "off3"
    assert float(gradient.text) > 1e4
    assert step.level == "ok"


def test_the_tree_marks_a_part_that_has_no_layers():
    cell = TensorResult("cell.weight_hh", "cell.weight_hh", "param", "EQUIVALENT", (3,))
    place = Divergence("forward", (Node("cell", 0, 0, 0, "z_f"),))
    case = CaseResult("c", comparisons=(Comparison("p", (cell,), 1),), first_divergence=place)
    assert [row.torch for row in tree.rows(case) if row.here] == ["cell"]
    whole = dataclasses.replace(cell, name="weight_hh", candidate_name="weight_hh")
    place = Divergence("forward", (Node("", 0, 0, 0, "z_f"),))
    case = CaseResult("c", comparisons=(Comparison("p", (whole,), 1),), first_divergence=place)
    assert [row.torch for row in tree.rows(case) if row.here] == ["model"]


def test_notes_of_cases_and_of_probes_are_labelled():
    probe = Comparison("p", (TensorResult("x", "x", "output", "EQUIVALENT"),), 1, notes=("a reservation",))
    text = Page(to_html(Report((CaseResult("c", comparisons=(probe,), notes=("an assumption",)),)))).text
    assert "Note: a reservation" in text
    assert "Note: an assumption" in text
    assert "Note an assumption" in text  # beside the verdict
    assert "Not exercised" in text.partition("Note an assumption")[0]


def test_names_and_messages_are_text_and_never_markup():
    wicked = "<script>alert(1)</script>\"'&"
    tensor = TensorResult(wicked, wicked, "output", "DIVERGENT", gate="structure", message=wicked)
    case = CaseResult(wicked, wicked, (Comparison(wicked, (tensor,), 1, error=wicked),), notes=(wicked,))
    sections = [Section(wicked, [LinePlot(wicked, wicked, wicked, [Line(wicked, [1, 2], [1, 2])])], wicked)]
    text = to_html(Report((case,), {wicked: wicked}), sections)
    page = Page(text)
    assert len(page.all("script")) == 1
    assert "alert(1)" in html.unescape(text)


# Plots


def test_an_axis_puts_its_ends_at_the_edges_and_ticks_between():
    line = plots.Axis(1e-8, 1e-2, 0, 600, log=True)
    assert [round(line(value)) for value in (1e-8, 1e-5, 1e-2, 1.0)] == [0, 300, 600, 600]
    assert [label for _, label in line.ticks()] == ["10⁻⁸", "10⁻⁶", "10⁻⁴", "10⁻²"]
    assert [label for _, label in plots.Axis(1, 12, 0, 1, log=True).ticks()] == ["1", "2", "5", "10"]
    assert [label for _, label in plots.Axis(0, 53, 0, 1).ticks()] == ["0", "20", "40"]


def test_growth_is_the_exponent_of_a_power_law():
    assert plots.growth([3e-8 * t**0.5 for t in range(1, 20)]) == pytest.approx(
        0.5, abs=1e-12
    )  # exact but rounding
    assert plots.growth([1.0, 0.0, 2.0]) is None


def test_a_line_is_interrupted_where_it_cannot_be_drawn():
    plot = LinePlot("p", "t", "loss", [Line("a", [1, 2, 3, 4], [1.0, float("nan"), 0.0, 1.0])], log_y=True)
    (path,) = re.findall(r'class="line candidate" d="([^"]*)"', plots.line_plot(plot).svg)
    assert path.count("M") == 2
    assert "L" not in path


def test_exact_elements_lie_on_the_lower_edge_of_a_scatter():
    cloud = plots.Cloud("candidate", "candidate", [(1.0, 1e-8), (2.0, 0.0)])
    figure = plots.scatter(plots.Scatter("p", "x", "y", [cloud], [("u", 2.0**-24)]))
    assert ">exact</text>" in figure.svg
    (dots,) = re.findall(r'class="dots candidate" d="([^"]*)"', figure.svg)
    assert dots.count("M") == 2


def test_further_sections_are_shown_and_wrong_ones_refused():
    kills = Table("Kill matrix", ("fault", "1x", "4x"), [("L06", "killed", "survived"), ("L07", 1.5, None)])
    envelope = Band("8 seeds", [1, 2, 3], [0.9, 0.8, 0.7], [1.1, 1.0, 0.9])
    loss = LinePlot("Loss", "step", "loss", [Line("candidate", [1, 2, 3], [1.0, 0.9, 0.8])], [envelope])
    text = to_html(REPORTS["one equivalent"], [Section("Training", [loss, kills], "240 steps")])
    page = Page(text)
    for words in ("Training", "240 steps", "8 seeds", "Kill matrix", "8 seeds, low"):
        assert words in page.text
    assert '<td class="bad">survived</td>' in text
    assert '<td class="good">killed</td>' in text
    assert 'class="band reference"' in text
    assert "Kill matrix" not in to_html(REPORTS["one equivalent"])
    with pytest.raises(ValueError, match="expected 2: "):
        Table("t", ("a", "b"), [(1, 2), (1, 2, 3)])
    with pytest.raises(ValueError, match=r"lengths \{'x': 2, 'y': 1\}"):
        Line("l", [1, 2], [1])
    with pytest.raises(ValueError, match="style='red' is not one of"):
        Line("l", [1], [1], style="red")


def test_a_mark_stands_at_its_place_and_is_told_in_words():
    line = Line("a", [1, 100], [1.0, 2.0])
    figure = plots.line_plot(
        LinePlot("p", "t", "loss", [line], marks=[Mark("first <bad>", 90), Mark("b", 1)])
    )
    (path,) = re.findall(
        r'd="M([\d.]+) 12V256"/><text class="label" x="[\d.]+" text-anchor="end"', figure.svg
    )
    assert float(path) == pytest.approx(58 + (90 - 1) / 99 * (520 - 16 - 58), abs=0.1)
    assert "first &lt;bad&gt;" in figure.svg
    assert figure.description.endswith("a, first <bad> at 90, b at 1")


# A training run


def training(leaves=12, first_bad=None, id="lstm"):
    """A run of 40 steps that leaves its envelope at a step, and one whose single steps are known."""
    steps = np.arange(1, 41)
    gold = 3.0 * np.exp(-steps / 10)
    nudged = np.stack([gold * (1 + 2e-7 * number) for number in (-2, -1, 1, 2)])
    candidate = gold * np.where(steps < leaves, 1 + 3e-7, 1 + 1e-5)
    trajectory = judge_trajectory(gold, gold * (1 + 1e-7), candidate, nudged)

    def tensors(bad, *kinds):
        return tuple(
            TensorResult(
                f"{kind}{step}" + ("" if kind == "loss" else "(w)"),
                "w",
                "grad",
                "DIVERGENT" if bad and step >= bad else "EQUIVALENT",
                semantic_error=float(step),
                semantic_limit=4.0,
            )
            for step in (1, 20, 40)
            for kind in kinds
        )

    single = CaseResult(f"{id}: single", "", (Comparison("all", tensors(first_bad, *KINDS), 9),))
    replay = CaseResult(f"{id}: replay", "", (Comparison("recorded", tensors(None, "step"), 3),))
    return TrainingResult(id, "a run", replay, single, trajectory, first_bad)


KINDS = ("loss", "grad", "step")


def test_a_training_run_shows_losses_envelope_ratio_and_every_single_step():
    (section,) = training_page.sections([training(first_bad=20)])
    loss, distance, ratio, single, replay = section.blocks
    assert section.title == "Training run lstm"
    assert "the first step that is wrong by itself is 20" in section.text
    assert [line.name for line in loss.lines] == ["in float64", "reference", "candidate"]
    assert loss.log_y
    assert [(mark.name, mark.x) for mark in loss.marks] == [
        ("first bad step", 20),
        ("leaves the envelope", 12),
    ]
    assert loss.bands[0].low[0] < loss.lines[0].y[0] < loss.bands[0].high[0]
    envelope, limit, candidate = distance.lines
    assert limit.y == [4.0 * noise for noise in envelope.y]
    assert candidate.y[10] < limit.y[10] < candidate.y[11]  # steps 11 and 12
    assert list(ratio.lines[0].y) == pytest.approx(
        [d / e for d, e in zip(candidate.y, envelope.y, strict=True)]
    )
    assert [row[0] for row in single.rows] == [1, 20, 40]
    assert [row[-1] for row in single.rows] == ["EQUIVALENT", "DIVERGENT", "DIVERGENT"]
    assert single.rows[1][1:4] == (5.0, 5.0, 5.0)
    assert replay.rows[2] == [40, 10.0, "EQUIVALENT"]


def test_a_run_without_a_trajectory_is_not_drawn_and_a_good_one_has_no_mark():
    broken = TrainingResult("rnn", error="a bug in the loss")
    (section,) = training_page.sections([broken, training(leaves=99)])
    assert section.blocks[0].marks == []
    assert training_page.in_a_line(broken) == "rnn: no run"


def test_the_page_of_two_training_runs_holds_both():
    results = [training(first_bad=20), training(leaves=99, id="gru")]
    report = Report(tuple(case for result in results for case in result.cases()))
    page = Page(to_html(report, training_page.sections(results)))
    for words in ("Training run lstm", "Training run gru", "Distance in envelopes", "One step at a time"):
        assert words in page.text
    images = [image["aria-label"] for image in page.all("div", role="img")]
    assert len([label for label in images if "first bad step at 20" in label]) == 3


# A self-test


def outcome(id, family="losses", gate="semantic", found=("semantic",), named=None, verdict="DIVERGENT"):
    trial = Trial(id, f"mistake {id}", family, "case", gate, lambda: CaseResult(id))
    return Outcome(trial, verdict, tuple(found), (id,) if named is None else named, None, 0.25)


OUTCOMES = (
    outcome("C01"),
    outcome("C02", named=("C02", "C03")),
    outcome("sum", found=("structure", "semantic"), named=()),
    outcome("O01", "optimizers", gate="numeric", found=("numeric",)),
    outcome("O02", "optimizers", gate="numeric"),
    outcome("O03", "optimizers", found=(), verdict="EQUIVALENT", named=()),
)
SHARP = Rung("everywhere", "semantic", 2.0**-46, "h_n")
SELFTEST = Selftest(OUTCOMES, (SHARP,), {"nothing": "ERROR", "zeros": "EQUIVALENT"}, 3.0, {"numpy": "2.4"})
CURVE = Curve(SHARP, tuple(Point(2.0**-rung, 2.0 ** (45.5 - rung), rung < 46) for rung in range(1, 51)))


def test_the_kill_matrix_marks_the_gate_that_was_meant_and_those_that_found_it():
    found = kills.matrix(OUTCOMES)
    assert found.gates == ("semantic", "structure", "numeric")
    assert found.families == ("losses", "optimizers")
    assert [(group.title, group.said) for group in found.groups] == [
        ("losses, C", "2 mutants, 2 killed, 1 named"),
        ("losses, other", "1 mutant, 1 killed, 0 named"),
        ("optimizers, O", "3 mutants, 1 killed, 2 named"),
    ]
    rows = {row.id: row for group in found.groups for row in group.rows}
    assert rows["C01"].marks == ("meant", "idle", "idle")
    assert rows["sum"].marks == ("meant", "also", "idle")
    assert rows["O02"].marks == ("also", "idle", "missed")
    assert rows["O03"].marks == ("missed", "idle", "idle")
    assert [row.naming for row in rows.values()] == [
        *("named", "narrowed down", "not named", "named", "survived", "survived")
    ]
    assert rows["O02"].detail == "DIVERGENT by semantic, meant for numeric; diagnosis: O02; 0.25 s"


def test_a_selftest_is_sound_only_without_survivor_blunt_rung_or_empty_pass():
    good = Selftest((OUTCOMES[0],), (SHARP,), {"nothing": "ERROR"})
    assert good.sound
    assert not dataclasses.replace(good, outcomes=OUTCOMES).sound
    blunt = dataclasses.replace(SHARP, smallest=2.0**-10)
    assert not dataclasses.replace(good, rungs=(blunt,)).sound
    assert not dataclasses.replace(good, answers=SELFTEST.answers).sound
    assert SELFTEST.passed == ["zeros"]


def test_the_page_of_a_selftest_has_tally_matrix_ladder_and_emptiness():
    text = selftest_page.to_html(SELFTEST, [CURVE])
    page = Page(text)
    assert page.all("section", class_="banner divergent")
    tally = re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd></div>", text)
    assert dict(tally) == {
        "mutants": "6",
        "killed, 66.6 %": "4",
        "named uniquely, 33.3 %": "2",
        "named as one of a set": "1",
        "killed, not named": "1",
        "rungs as sharp as required": "1 of 1",
        "empty comparisons refused": "1 of 2",
    }
    assert "BLUNT" in page.text
    cells = page.all("td", role="gridcell")
    assert len(cells) == 6 * 3
    assert len([cell for cell in cells if cell["tabindex"] == "0"]) == 1
    (missed,) = [cell for cell in cells if cell["aria-label"].startswith("O02, numeric")]
    assert missed["aria-label"] == "O02, numeric: was meant to find it and did not"
    figure = plots.line_plot(selftest_page._curve(CURVE))
    assert [key.text for key in figure.legend] == ["limit", "found", "not found"]
    assert f"required at {REQUIRED['everywhere', 'semantic']:g}" in figure.description
    assert re.search(r'<td>zeros</td>\s*<td class="bad">EQUIVALENT</td>\s*<td class="bad">failed</td>', text)
    assert re.search(r'<td>nothing</td>\s*<td>ERROR</td>\s*<td class="good">passed</td>', text)
    assert not re.findall(r"https?:|@import|url\((?!#)", text)
    assert "How small" not in selftest_page.to_html(Selftest(OUTCOMES))  # of some mutants alone


# In a browser


def chromium():
    """The browser: $CHROMIUM, or Debian's, or Chrome; Playwright's own is not asked for, as CI downloads none."""
    for name in (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name) if name else None
        if found:
            return found
    pytest.skip("no browser: apt-get install chromium, or set CHROMIUM to the program's path")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    program = chromium()
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Open a report in a browser whose system prefers light or dark; nothing may reach its console."""
    pages, said = [], []

    def call(report, scheme="light", sections=()):
        path = tmp_path / "report.html"
        if isinstance(report, Report):
            report.to_html(path, sections=sections)
        else:
            path.write_text(selftest_page.to_html(report, [CURVE]), "utf-8")
        page = browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 900})
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"exception: {error}"))
        page.on(
            "request",
            lambda request: said.append(request.url) if not request.url.startswith("file:") else None,
        )
        page.goto(path.as_uri())
        pages.append(page)
        return page

    yield call
    for page in pages:
        page.close()
    assert said == []


@pytest.mark.slow
@pytest.mark.parametrize("name", REPORTS)
def test_no_page_complains_in_a_browser_or_asks_the_network(open_page, name):
    page = open_page(REPORTS[name])
    assert page.locator("h1").inner_text() == REPORTS[name].verdict
    width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width == 0  # wide tables scroll by themselves


@pytest.mark.slow
def test_a_complaint_in_the_console_would_be_noticed(browser):
    said = []
    page = browser.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.set_content("<script>console.error('spoilt')</script>")
    page.close()
    assert said == ["spoilt"]


@pytest.mark.slow
def test_a_click_or_enter_on_a_cell_shows_its_numbers_of_both_runs(open_page):
    page = open_page(Report((divergent(),), ENVIRONMENT))
    readout = page.locator(".readout")
    root = str(Node("encoder.rnn", 1, 1, 6, "f"))
    page.locator(f'.run:not([hidden]) td[data-node="{root}"]').click()
    assert readout.inner_text().startswith(f"{root}: distance 1.00e-03 in a free run, 2.00e-02 given")
    assert "first divergence" in readout.inner_text()
    page.locator(".run:not([hidden]) td[tabindex='0']").first.focus()
    for key in ("ArrowRight", "ArrowDown", "End", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    moved = str(Node("encoder.rnn", 0, 0, 8, "f"))
    assert readout.inner_text().startswith(f"{moved}: distance 3.00e-16")
    assert page.locator("td[aria-selected=true]").count() == 2  # the same node in both runs


@pytest.mark.slow
def test_the_other_run_is_shown_when_it_is_asked_for(open_page):
    page = open_page(Report((divergent(),), ENVIRONMENT))
    shown = page.locator(".run:not([hidden])")
    assert shown.get_attribute("data-run") == "free"
    page.get_by_text("each step given the oracle's inputs", exact=True).click()
    assert shown.get_attribute("data-run") == "forced"


@pytest.mark.slow
def test_a_link_opens_the_case_that_it_leads_to(open_page):
    page = open_page(REPORTS["two explanations"])
    passed = page.locator("details.case")
    assert passed.get_attribute("open") is None
    page.locator(".cases a", has_text="gru").click()
    page.wait_for_function("document.querySelector('details.case').open")
    page.locator("#open-all").click()
    assert page.locator("details:not([open])").count() == 0


@pytest.mark.slow
def test_both_themes_are_legible_and_the_button_overrules_the_system(open_page, tmp_path):
    for scheme in ("light", "dark"):
        page = open_page(REPORTS["two explanations"], scheme)
        page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
        least, where = page.evaluate(CONTRAST)  # of any text on the background behind it
        assert least >= 4.5, where  # what WCAG asks of running text (AA)
    pictures = [(tmp_path / f"{scheme}.png").read_bytes() for scheme in ("light", "dark")]
    assert pictures[0] != pictures[1]
    page.locator("#theme").click()  # auto, then light
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert background == "rgb(251, 250, 247)"
    assert page.locator("#theme").inner_text() == "Theme: light"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["selftest", "training"])
def test_further_pages_are_legible_in_both_themes_and_scroll_no_further(open_page, name, scheme):
    result = training(first_bad=20)
    page = open_page(
        SELFTEST if name == "selftest" else Report(result.cases()),
        scheme,
        training_page.sections([result]),
    )
    page.locator("#open-all").click()
    least, where = page.evaluate(CONTRAST)
    assert least >= 4.5, where
    width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width == 0
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert background == {"light": "rgb(251, 250, 247)", "dark": "rgb(19, 21, 24)"}[scheme]


@pytest.mark.slow
def test_a_cell_of_the_kill_matrix_tells_by_click_and_by_key_what_became_of_its_mutant(open_page):
    page = open_page(SELFTEST)
    readout = page.locator(".readout")
    page.locator("td.kill.missed").first.click()
    assert readout.inner_text() == (
        "O02 mistake O02 in case: numeric was meant to find it and did not. "
        "DIVERGENT by semantic, meant for numeric; diagnosis: O02; 0.25 s"
    )
    page.locator("td.kill[tabindex='0']").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    assert readout.inner_text().startswith("sum mistake sum in case: structure found it as well.")
    assert page.locator("td[aria-selected=true]").count() == 1


@pytest.mark.slow
def test_mutants_are_filtered_by_family_and_outcome_with_the_keyboard_alone(open_page):
    page = open_page(SELFTEST)
    shown = page.locator("tr[data-mutant]:visible th")
    assert shown.all_inner_texts() == ["C01", "C02", "sum", "O01", "O02", "O03"]
    page.locator("input[name=family]").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert shown.all_inner_texts() == ["O01", "O02", "O03"]
    assert page.locator("tr.group:visible").count() == 1
    page.locator("input[name=naming]").first.focus()
    page.keyboard.press("ArrowLeft")  # round to the last: survived
    assert shown.all_inner_texts() == ["O02", "O03"]
    page.keyboard.press("Tab")  # to the one stop in the grid, which is a cell that is shown
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    assert page.locator(".readout").inner_text().startswith("O02")


CONTRAST = """() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const linear = (c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = numbers(color).map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (numbers(color)[3] !== 0) return color;
    }
  };
  let least = [Infinity, ""];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.getClientRects().length || element.closest("script, style")) continue;
    const style = getComputedStyle(element);
    const ink = light(element.closest("svg") ? style.fill : style.color);
    const [a, b] = [ink, light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < least[0]) least = [ratio, element.outerHTML.slice(0, 120)];
  }
  return least;
}"""


@pytest.mark.slow
@pytest.mark.torch
def test_the_page_of_a_real_divergence_shows_place_and_diagnosis(open_page):
    pytest.importorskip("torch")
    from parity.cases import CASES
    from parity.judge import judge_case
    from tests.parity.wrong_models import swapped_gates

    (case,) = (case for case in CASES if case.id == "lstm_plain")
    found = judge_case(case, "quick", candidate=swapped_gates)
    assert found.diagnosis is not None, found.notes
    page = open_page(Report((found,)))
    assert "gate order" in page.locator(".diagnosis .fault").inner_text()
    page.locator(".run:not([hidden]) td.root").first.click()
    assert page.locator(".readout").inner_text().startswith(str(found.first_divergence.places[0]))
