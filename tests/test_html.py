"""The HTML report without a browser: what it says, what it draws from, when it is written, and that text stays text."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netdoctor import Diagnosis, Finding, History, Reading, Remedy, Severity, Skipped
from netdoctor.diagnose import diagnose
from netdoctor.facts import Facts, Layer, Parameter
from netdoctor.reporters import Change, Report, html
from netdoctor.reporters.html import page, reporter
from netdoctor.reporters.html.cards import cards, gone
from netdoctor.reporters.html.embed import json_text, packed
from netdoctor.reporters.html.evidence import HOMES, PICTURES, Picture, picture_of
from netdoctor.reporters.html.figures import figures
from netdoctor.reporters.html.figures.base import groups
from netdoctor.reporters.html.figures.layers_by_steps import ROWS, means
from netdoctor.reporters.html.figures.losses import moving_mean
from netdoctor.reporters.html.numbers import spelled
from netdoctor.rules import ALL
from netdoctor.statistics import STATISTICS
from tests.runs import DEAD, POOR, healthy, large, sick, verdict
from tests.test_rules import histories, unreadable


class Words(HTMLParser):
    """Text of a page, its tags, and the data of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.data: dict[str, Any] = {}
        self.scripts = 0
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._in = tag
        if tag == "script" and dict(attrs).get("type") is None:
            self.scripts += 1

    def handle_endtag(self, tag):
        self._in = ""

    def handle_data(self, data):
        attributes = self.tags[-1][1] if self.tags else {}
        if self._in == "script" and attributes.get("type") == "application/json":
            self.data[attributes["id"]] = json.loads(data)
        elif self._in not in ("script", "style"):
            self.text.append(data)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.text).split())


def said(history: History, diagnosis: Diagnosis | None = None) -> Words:
    return Words(html.render(html.saved(history, diagnosis or diagnose(history))))


def running(*findings: Finding, now: tuple[Finding, ...] = (), resolved: tuple[Finding, ...] = ()) -> Report:
    return Report(Diagnosis(100, now), (), findings, resolved, sick(), 0.004, 1.3)


class TestVerdict:
    def test_the_worst_diseases_are_the_headline(self):
        words = said(sick(), verdict())
        assert "Poor initialization and dead units" in words.said
        assert "1 error and 1 warning that explain 1 symptom in 60 steps. 2 rules could not judge." in words.said

    def test_a_healthy_run(self):
        words = said(healthy(), Diagnosis(60, (), (Skipped("too early", "overfitting"),)))
        assert "Nothing found No sign of disease in 60 steps. 1 rule could not judge." in words.said

    def test_notes_alone_are_not_serious(self):
        assert (
            "Nothing serious 1 note in 60 steps."
            in said(sick(), Diagnosis(60, (replace(DEAD, severity=Severity.NOTE),))).said
        )

    def test_no_step_is_no_verdict(self):
        assert "No verdict No optimizer step was seen." in said(History(), Diagnosis(0)).said

    def test_what_watching_cost_stands_there_only_where_it_is_known(self):
        assert "Cost of watching 0.4% 1.3 s in all" in Words(html.render(running())).said
        assert "Cost of watching" not in said(sick()).said

    def test_rules_without_a_verdict_give_their_reasons(self):
        words = said(
            sick(), Diagnosis(9, (), (Skipped("too early", "overfitting"), Skipped("hooks cannot be watched")))
        )
        assert "Overfitting too early netdoctor itself hooks cannot be watched" in words.said


class TestCards:
    def test_everything_a_finding_says_is_on_the_page(self):
        words = said(sick(), verdict())
        for part in (POOR.message, *POOR.layers, "signal at the last layer", "0.002", "0.17", "95% confident"):
            assert part in words.said
        for remedy in POOR.remedies:
            assert all(part in words.said for part in (remedy.action, remedy.effect, remedy.source))
            assert remedy.code.rstrip() in "".join(words.text)
        assert "Symptoms it explains" in words.said
        assert POOR.symptoms[0].message in words.said

    def test_a_finding_that_lasts_bears_the_step_when_it_was_raised_and_the_line_that_cures_it(self):
        remedies = (replace(POOR.remedies[0], treatment=print), POOR.remedies[1])
        raised, now = replace(POOR, step=1, remedies=remedies), replace(POOR, step=100, remedies=remedies)
        (card,) = cards(running(DEAD, raised, now=(now,), resolved=(DEAD,)))
        assert card.since == 1
        assert [cure.apply for cure in card.cures] == ["monitor.findings[1].remedies[0].apply(model, optimizer)", ""]

    def test_a_saved_run_has_nothing_to_apply(self):
        finding = replace(POOR, remedies=(replace(POOR.remedies[0], treatment=print),))
        (card,) = cards(html.saved(sick(), Diagnosis(60, (finding,))))
        assert card.cures[0].apply == ""

    def test_what_was_found_and_not_taken_back_stays(self):
        (card,) = cards(running(DEAD))
        assert (card.finding, card.state) == (DEAD, "not seen in the last diagnosis")

    def test_what_is_gone_stands_apart(self):
        report = running(DEAD, resolved=(DEAD,))
        assert cards(report) == ()
        assert [card.finding for card in gone(report)] == [DEAD]
        assert "Gone by now" in Words(html.render(report)).said

    def test_what_moved_under_its_cause_is_not_gone(self):
        symptom = POOR.symptoms[0]
        report = running(symptom, now=(POOR,), resolved=(symptom,))
        assert gone(report) == ()

    @pytest.mark.parametrize(
        ("value", "bound", "place"),
        [(1.0, 1.0, 0.5), (10.0, 1.0, 0.5 + 1 / 6), (1e-9, 1.0, 0.0), (0.0, 1.0, 0.0), (-2.0, -0.2, 0.5 + 1 / 6),
         (1.0, None, None), (1.0, 0.0, None), (-1.0, 1.0, None), (float("nan"), 1.0, None)],
    )  # fmt: skip
    def test_a_gauge_shows_by_how_many_decades_a_value_is_off(self, value, bound, place):
        finding = replace(DEAD, readings=(Reading("it", value, bound),))
        (card,) = cards(html.saved(sick(), Diagnosis(60, (finding,))))
        assert card.rows[0].place == (None if place is None else pytest.approx(place))


class TestEvidence:
    @pytest.mark.parametrize("slug", sorted(PICTURES))
    def test_every_picture_is_of_a_statistic_that_there_is(self, slug):
        statistic, when = PICTURES[slug]
        assert statistic in STATISTICS
        assert when != "run" or statistic in HOMES

    @pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.slug)
    def test_every_rule_shows_its_evidence_and_every_case_makes_a_page(self, rule):
        assert rule.slug in PICTURES
        for history in histories(rule):
            words = said(history)
            anchors = {attributes.get("id") for _, attributes in words.tags}
            links = [attributes["href"] for tag, attributes in words.tags if tag == "a"]
            assert all(link.startswith("#") and link[1:] in anchors for link in links)

    def test_the_small_picture_is_what_the_rule_looked_at(self):
        picture = picture_of(POOR, sick())
        assert picture is not None
        assert picture.small is not None
        assert (picture.anchor, picture.statistic) == ("figure-layers", "activation_signal")
        line = picture.small["lines"][0]
        assert line["y"] == pytest.approx(list(sick().first("activation_signal").values()), rel=1e-4)
        assert [picture.small["names"][place] for place in line["marked"]] == list(POOR.layers)

    def test_a_rule_that_is_not_known_shows_the_layers_that_it_names(self):
        own = replace(DEAD, rule="my-own")
        assert picture_of(own, sick()) == Picture("table-layers", "Layers")
        everywhere = picture_of(replace(own, layers=()), sick())
        assert everywhere is not None
        assert everywhere.anchor == "figure-loss"
        assert picture_of(replace(own, layers=()), History()) is None


class TestFigures:
    def test_all_pictures_of_a_full_history(self):
        names = [figure.name for figure in figures(sick())]
        assert names[:4] == ["loss", "layers", "activation-distribution", "gradient-distribution"]
        assert {"updates", "gradient-norm", "cosine", "learning-rate"} < set(names)

    def test_an_empty_history_has_none(self):
        assert figures(History()) == ()
        assert figures(unreadable()) == () or all(figure.summary for figure in figures(unreadable()))

    def test_the_loss_with_validation_and_constant(self):
        (loss,) = [figure for figure in figures(sick()) if figure.name == "loss"]
        names = [line["name"] for line in loss.data["lines"]]
        assert names == ["training", "validation", "best constant prediction"]
        steps, values = sick().series("val_loss")
        assert loss.data["marks"][0]["x"] == steps[np.argmin(values)]
        assert f"Best validation pass: step {steps[np.argmin(values)]}." in loss.summary

    def test_losses_that_are_nan_are_marked(self):
        (loss,) = figures(History.of(loss=[1.0, float("nan"), 2.0, float("inf")]))
        assert loss.data["broken"] == [2, 4]
        assert loss.data["lines"][0]["x"] == [1, 3]

    def test_the_map_lists_layers_in_the_order_of_execution(self):
        facts = Facts(
            layers=(Layer("b", "linear", called=True), Layer("a", "linear", called=True)),
            parameters=(
                Parameter("a.weight", "a", (2, 2), "weight"),
                Parameter("a.bias", "a", (2,), "bias"),
                Parameter("b.weight", "b", (2, 2), "weight"),
            ),
        )
        history = History.of(
            facts,
            activation_std={"a": [1.0], "b": [2.0]},
            weight_rms={"a.weight": [3.0], "a.bias": [9.0], "b.weight": [4.0]},
        )
        (drawn,) = [figure for figure in figures(history) if figure.name == "layers"]
        rows = {entry["name"]: drawn.data["rows"][entry["rows"]]["names"] for entry in drawn.data["statistics"]}
        assert rows == {"activation_std": ["b", "a"], "weight_rms": ["b.weight", "a.weight"]}
        values = {entry["name"]: unpacked(entry["values"]).tolist() for entry in drawn.data["statistics"]}
        assert values == {"activation_std": [2.0, 1.0], "weight_rms": [4.0, 3.0]}

    def test_distributions_only_where_all_quantiles_are(self):
        history = sick()
        (drawn,) = [figure for figure in figures(history) if figure.name == "activation-distribution"]
        assert drawn.data["levels"] == [1, 5, 25, 50, 75, 95, 99]
        last = [history.latest(f"activation_quantile_{level:02}")["fc0"] for level in drawn.data["levels"]]
        assert [level[0] for level in drawn.data["values"][-1]] == pytest.approx(last, rel=1e-4)
        without = History.of(sick().facts, loss=[1.0] * 5, activation_std={"fc0": [1.0] * 5})
        assert not [figure for figure in figures(without) if figure.kind == "distributions"]

    def test_clipping_is_drawn_only_where_it_was_at_work(self):
        for factor, lines in ((1.0, 1), (0.5, 2)):
            history = History.of(gradient_norm=[4.0] * 9, clipped_gradient_norm=[4.0 * factor] * 9)
            (norm,) = figures(history)
            assert len(norm.data["lines"]) == lines

    def test_the_users_metrics_are_drawn(self):
        history = sick()
        history.record(61, "metric/recall", [0.5])
        (drawn,) = [figure for figure in figures(history) if figure.title == "Recall"]
        assert drawn.data["lines"][0]["y"] == [0.5]

    def test_a_step_keeps_all_its_digits(self):
        (drawn,) = figures(History.of(steps=[123456789], loss=[1.0]))
        assert drawn.data["lines"][0]["x"] == [123456789]

    def test_a_thousand_layers_stay_small_and_keep_those_of_the_findings(self):
        history = large(1000)
        odd = history.facts.layers[501].name
        report = html.saved(history, Diagnosis(40, (replace(DEAD, layers=(odd,)),)))
        text = html.render(report)
        assert len(text.encode()) < 6e6
        rows = Words(text).data["data-layers"]["rows"]
        assert all(len(each["names"]) <= ROWS for each in rows)
        assert any(odd in each["names"] for each in rows)


def unpacked(text: str) -> np.ndarray:
    """The inverse of `packed`, by numpy's own reading of the bits."""
    upper = np.frombuffer(base64.b64decode(text), "<u2").astype(np.uint32)
    return (upper << 16).view(np.float32)


class TestNumbers:
    def test_packed_numbers_come_back(self):
        values = np.array([0, 1, -2.5, 1e-40, 3.4e38, np.inf, -np.inf, 123.456], np.float32)
        back = unpacked(packed(values))
        assert back == pytest.approx(values, rel=0.004)
        assert np.isnan(unpacked(packed(np.array([np.nan], np.float32)))).all()

    @pytest.mark.parametrize(("rows", "most"), [(0, 10), (5, 10), (10, 10), (11, 10), (1250, 160), (2048, 24)])
    def test_groups_cover_all_rows_and_the_first_stand_alone(self, rows, most):
        starts = groups(rows, most)
        assert len(starts) == min(rows, most)
        assert (np.diff(starts) > 0).all()
        assert (starts[: min(rows, most // 2, 24)] == np.arange(min(rows, most // 2, 24))).all()

    def test_means_of_groups_leave_out_what_is_not_finite(self):
        values = np.array([[1, np.nan], [3, np.inf], [np.nan, np.nan], [5, np.inf]], np.float32)
        nan, inf = np.nan, np.inf
        assert np.array_equal(means(values, np.array([0, 2])), [[2, inf], [5, inf]])
        assert np.array_equal(means(values, np.arange(4)), [[1, nan], [3, inf], [nan, nan], [5, inf]], equal_nan=True)

    def test_the_moving_mean_against_numpy(self):
        values = np.random.default_rng(0).normal(size=100).astype(np.float32)
        inside = np.convolve(values, np.ones(7) / 7, "valid")
        assert moving_mean(values, 7)[3:-3] == pytest.approx(inside, abs=1e-5)
        assert moving_mean(values, 7)[0] == pytest.approx(values[:4].mean())

    @pytest.mark.parametrize(
        ("value", "text"),
        [(0, "0"), (1.0, "1"), (0.01234, "0.0123"), (1234.5, "1,234"), (-0.5, "−0.5"), (1.2e-7, "1.2×10⁻⁷"),
         (3e9, "3×10⁹"), (0.2999999, "0.3"), (float("nan"), "NaN"), (float("inf"), "∞"), (99.95, "100")],
    )  # fmt: skip
    def test_numbers_as_people_read_them(self, value, text):
        assert spelled(value) == text


HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "\"'><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}",
    "]]>&amp;&lt;",
)


class TestTextStaysText:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_hostile_names_and_messages(self, name):
        assert_text(name)

    @settings(max_examples=30, deadline=None)
    @given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
    def test_any_text(self, name):
        assert_text(name)

    def test_json_cannot_leave_its_script(self):
        text = json_text({name: name for name in HOSTILE})
        assert not set(text) & set("<>&\u2028\u2029")
        assert json.loads(text) == {name: name for name in HOSTILE}


def assert_text(name: str) -> None:
    """Whatever a layer, a metric or a rule is called is shown as it is, and starts no element."""
    layer = Layer(name, "linear", name, "", 4, 4, 4, name, called=True)
    facts = Facts(name, (layer, Layer(f"{name}2", "linear")), (Parameter(f"{name}.w", name, (2, 2), "weight"),))
    columns = {name: [1.0, 2.0], f"{name}2": [1.0, 3.0]}
    history = History.of(facts, activation_std=columns, update_ratio={f"{name}.w": [1e-3, 1e-3]}, loss=[1.0, 2.0])
    history.record(3, f"metric/{name}", [1.0])
    remedy = Remedy(name, name, name, name)
    reading = Reading(name, 1.0, 2.0, name)
    finding = Finding("dead-units", Severity.ERROR, 1, name, (name,), (reading,), 0.5, (remedy,))
    own = replace(finding, rule=f"my-{name}", symptoms=(finding,))
    diagnosis = Diagnosis(3, (finding, own), (Skipped(name, name),))
    words = said(history, diagnosis)
    plain = said(history, Diagnosis(3, (replace(finding, layers=("",)),)))
    assert words.scripts == plain.scripts == 1
    assert not [tag for tag, _ in words.tags if tag in ("img", "iframe", "object", "base")]
    assert name in [code for code in words.text if code == name]
    assert words.data["data-layers"]["rows"][0]["names"] == [name, f"{name}2"]
    link = next(attributes for tag, attributes in words.tags if tag == "a" and attributes.get("data-layers"))
    assert json.loads(link["data-layers"]) == [name]


def test_the_page_asks_for_nothing():
    text = html.render(html.saved(sick(), verdict()))
    words = Words(text)
    for tag, attributes in words.tags:
        for attribute in ("src", "href", "action", "data", "poster"):
            value = attributes.get(attribute)
            assert not value or value.startswith(("#", "data:")), (tag, value)
    assert not re.search(r"@import|url\(", text)
    assert "default-src 'none'" in text


def test_every_id_is_there_once():
    words = said(sick(), verdict())
    ids = [attributes["id"] for _, attributes in words.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


class TestWriting:
    def report(self) -> Report:
        return html.saved(sick(), verdict())

    def test_the_page_is_written_whole_into_new_folders(self, tmp_path: Path):
        path = html.write(self.report(), tmp_path / "runs" / "1" / "page.html")
        assert path == tmp_path / "runs" / "1" / "page.html"
        assert path.read_text(encoding="utf-8") == html.render(self.report())
        assert [each.name for each in path.parent.iterdir()] == ["page.html"]

    def test_an_older_page_stays_when_the_new_one_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        path = html.write(self.report(), tmp_path / "page.html")
        before = path.read_text(encoding="utf-8")

        def full(*_):
            raise OSError("no space left")

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="no space"):
            html.write(self.report(), path)
        assert path.read_text(encoding="utf-8") == before
        assert [each.name for each in tmp_path.iterdir()] == ["page.html"]

    def test_the_reporter_writes_now_and_then_and_at_the_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        now = [1000.0]
        written: list[float] = []
        monkeypatch.setattr(reporter, "monotonic", lambda: now[0])
        monkeypatch.setattr(reporter, "write", lambda report, path: written.append(now[0]))
        pages = html.Html(tmp_path / "page.html")
        report = self.report()
        for now[0] in range(1000, 1100):
            pages.report(report)
        assert written == [1000 + reporter.PAUSE, 1000 + 2 * reporter.PAUSE, 1000 + 3 * reporter.PAUSE]
        pages.close(report)
        assert len(written) == 4

    def test_the_file_stays_where_the_training_began(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        pages = html.Html()
        monkeypatch.chdir("/")
        pages.close(self.report())
        assert (tmp_path / "netdoctor-report.html").exists()

    def test_without_jinja2_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(sys.modules, "jinja2", None)
        page.environment.cache_clear()
        with pytest.raises(ImportError, match=re.escape('pip install "netdoctor-torch[html]"')):
            html.Html()
        with pytest.raises(ImportError, match="jinja2"):
            html.render(self.report())

    def test_a_change_in_the_report_changes_nothing_on_the_page(self):
        plain = self.report()
        assert html.render(replace(plain, changes=(Change("raised", POOR, 1),))) == html.render(plain)
