"""What a notebook shows of a finding, a diagnosis and a monitor."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from torch import nn

from netdoctor import Diagnosis, Finding, Severity, Skipped, watch
from netdoctor.findings import Reading, Remedy
from tests.browser import Browser, chromium
from tests.runs import DEAD, POOR, verdict

HOSTILE = "</div><script>alert(1)</script><img src=x onerror=alert(2)>"
VOID = ("br", "hr", "img", "meta")


class Outline(HTMLParser):
    """Text of a snippet and its tags; fails where a tag is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def shown(thing: Finding | Diagnosis) -> Outline:
    return Outline(thing._repr_html_())


def test_a_finding_says_everything():
    words = " ".join(shown(POOR).text)
    for part in ("poor-initialization", "warning · step 1 · 95% confident · fc0 … fc3 (4 layers)", POOR.message):
        assert part in words
    for remedy in POOR.remedies:
        assert all(part in words for part in (f"Remedy: {remedy.action}", remedy.code, remedy.source, remedy.effect))
    assert "Explains 1 more" in words
    assert POOR.symptoms[0].message in words
    assert "0.002" in words
    assert "against 0.17" in words


@pytest.mark.parametrize("severity", Severity)
def test_severity_is_more_than_a_colour(severity):
    finding = replace(DEAD, severity=severity)
    assert f"{severity.name.lower()} · step 12" in "".join(shown(finding).text)
    assert {shown(replace(DEAD, severity=other)).text[0] for other in Severity} > {shown(finding).text[0]}


def test_a_diagnosis_says_what_was_found_and_what_was_not_judged():
    words = " ".join(shown(verdict()).text)
    assert "2 findings at step 60" in words
    assert POOR.message in words
    assert DEAD.message in words
    assert "2 not judged" in words
    assert "fewer than 4 validation losses" in words


@pytest.mark.parametrize(
    ("diagnosis", "said"),
    [
        (Diagnosis(0), "No optimizer step was seen: no verdict."),
        (Diagnosis(9), "Nothing found in 9 steps"),
        (Diagnosis(9, (DEAD,)), "1 finding at step 9"),
    ],
)
def test_the_first_words(diagnosis, said):
    assert said in "".join(shown(diagnosis).text)


def test_hostile_text_stays_text():
    remedy = Remedy(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    finding = Finding(
        HOSTILE, Severity.ERROR, 1, HOSTILE, (HOSTILE,), (Reading(HOSTILE, 1, 2, HOSTILE),), 0.5, (remedy,)
    )
    outline = shown(Diagnosis(1, (replace(finding, symptoms=(finding,)),), (Skipped(HOSTILE, HOSTILE),)))
    assert not {"script", "img"} & set(outline.tags)
    assert HOSTILE in outline.text


def test_no_script_and_no_colour_of_its_own_behind_the_text():
    text = verdict()._repr_html_()
    assert "script" not in text
    assert "background" not in text
    assert "<style" not in text


def test_a_monitor_shows_its_model_its_cost_and_the_verdict():
    with watch(nn.Linear(2, 2), reporters=[]) as monitor:
        text = " ".join(Outline(monitor._repr_html_()).text)
    assert "netdoctor  watches  Linear  at 0.0% of the training time" in text
    assert "No optimizer step was seen" in text


def test_it_needs_nothing_installed(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def only_the_standard_library(name: str, *rest, **more):
        assert name.partition(".")[0] in (*sys.stdlib_module_names, "netdoctor"), name
        return real(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "netdoctor.notebook", raising=False)
    monkeypatch.setattr(builtins, "__import__", only_the_standard_library)
    assert POOR.message in POOR._repr_html_()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = chromium()
    if program is None:
        pytest.skip("no Chromium found: apt-get install chromium")
    running = Browser(program)
    yield running
    running.close()


@pytest.mark.parametrize("dark", [False, True])
def test_in_a_page_of_either_theme(browser: Browser, tmp_path: Path, dark: bool):
    path = tmp_path / "notebook.html"
    head = '<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
    icon = '<link rel="icon" href="data:,">'
    path.write_text(head + icon + verdict()._repr_html_(), encoding="utf-8")
    page = browser.open(path, 400, dark=dark)
    page.do("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.do("document.documentElement.scrollWidth") <= 400
    ink = page.do("getComputedStyle(document.querySelector('b')).color")
    assert ink == ("rgb(255, 255, 255)" if dark else "rgb(0, 0, 0)")
    assert page.complaints() == []
    page.close()
