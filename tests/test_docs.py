"""The site says what is so: the examples of the guide print what their pages show, and each rule has its page."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch

from docs.make import pictures, rule_pages
from docs.make.outputs import EXAMPLES, OUTPUT, printed
from netdoctor.rules import ALL
from tests.clinic.catalogue import cases

GUIDE = OUTPUT.parent
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
WITHOUT_PICTURE = {
    "mixed-samples",  # its picture would be that of a whole training
    "replicas-diverged",  # needs several processes
    "class-collapse",  # in no run of the clinic of its own: the cause is named
}
EACH_RULE = pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.slug)


def first_finding(text: str) -> str | None:
    found = re.search(r"^netdoctor  step \d+  (\w+  [a-z-]+)", text, re.MULTILINE)
    return found[1] if found else None


def losses(text: str) -> tuple[float, float]:
    (found,) = re.findall(r"loss.*: (\S+) sick, (\S+) cured", text)
    return float(found[0]), float(found[1])


@pytest.mark.parametrize("name", NAMES)
def test_an_example_prints_what_its_page_shows(name: str) -> None:
    shown = (OUTPUT / f"{name}.txt").read_text(encoding="utf-8")
    try:
        now = printed(name)
    except subprocess.CalledProcessError as error:
        pytest.fail(error.stdout)
    sick, cured = now.split("The same again")
    assert first_finding(sick) == first_finding(shown) is not None
    assert "Nothing found" in cured
    before, after = losses(now)
    assert after < 0.85 * before
    assert (before, after) == pytest.approx(losses(shown), rel=0.2, abs=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_has_a_page_that_links_the_rule_found(name: str) -> None:
    page = (GUIDE / f"{name.replace('_', '-')}.md").read_text(encoding="utf-8")
    found = first_finding((OUTPUT / f"{name}.txt").read_text(encoding="utf-8"))
    assert found is not None
    assert f'--8<-- "examples/guide/{name}.py"' in page
    assert f'--8<-- "docs/guide/output/{name}.txt"' in page
    assert f"../rules/{found.split()[1]}.md" in page


@EACH_RULE
def test_a_rules_page_is_whole(rule) -> None:
    page = rule_pages.page(rule, rule_pages.recorded().get(rule.slug))
    assert page.startswith(f"# {rule.slug}\n")
    assert rule.summary in page
    for slug in rule.explains:
        assert f"[{slug}]({slug}.md)" in page
    headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert headings[-1] == "References"
    assert "What cures it" in headings
    cure = page.partition("## What cures it")[2].partition("\n## ")[0]
    assert "**" in cure, "no remedy is shown"


@EACH_RULE
def test_a_rules_picture_is_small_and_of_a_case_that_it_may_name(rule) -> None:
    run = rule_pages.recorded().get(rule.slug)
    if rule.slug in WITHOUT_PICTURE:
        assert run is None
        return
    assert run is not None, f"run python -m docs.make.pictures {rule.slug}"
    assert (rule_pages.PICTURES / f"{rule.slug}.svg").stat().st_size < 60_000
    assert rule.slug in cases("sick")[run["case"]].causes


def test_no_picture_is_left_over() -> None:
    files = {path.stem for path in rule_pages.PICTURES.glob("*.svg")}
    assert files == set(rule_pages.recorded())


def test_a_picture_is_drawn_of_a_run_that_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    recorded = rule_pages.recorded()["missing-nonlinearity"]
    monkeypatch.setattr(pictures, "PICTURES", tmp_path)
    run = pictures.shown("missing-nonlinearity")
    assert run == recorded
    assert "without it" in (tmp_path / "missing-nonlinearity.svg").read_text(encoding="utf-8")
