"""The HTML report in a real browser: drawn, readable, operable, silent on the network, and no more than text."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from netdoctor import Diagnosis, Finding, History, Severity
from netdoctor.facts import Facts, Layer, Parameter
from netdoctor.reporters import html
from tests.browser import Browser, Page, chromium
from tests.runs import DEAD, LAYERS, POOR, healthy, large, sick, verdict

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<img src=x onerror=alert(3)>",
    "<!--<script>",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = chromium()
    if program is None:
        pytest.skip("no Chromium found: apt-get install chromium")
    running = Browser(program)
    yield running
    running.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of a sick, a healthy, a large, an empty and a hostile run."""
    folder = tmp_path_factory.mktemp("pages")
    big = large(150)
    runs = {
        "sick": (sick(), verdict()),
        "healthy": (healthy(), Diagnosis(60)),
        "large": (big, Diagnosis(40, (replace(DEAD, layers=tuple(layer.name for layer in big.facts.layers)),))),
        "empty": (History(), Diagnosis(0)),
        "hostile": (hostile(), Diagnosis(2, (accused(),))),
    }
    return {name: html.write(html.saved(*run), folder / f"{name}.html") for name, run in runs.items()}


def choose(statistic: str) -> str:
    """Shows a statistic in the map."""
    change = f"s.value = {json.dumps(statistic)}; s.dispatchEvent(new Event('change'))"
    return f"(s => {{ {change} }})(document.querySelector('.map select'))"


def texts(selector: str) -> str:
    """What the elements say, in their order."""
    return f"[...document.querySelectorAll({json.dumps(selector)})].map(each => each.textContent)"


def hostile() -> History:
    layers = tuple(Layer(name, "linear", name, "", 4, 4, 4, "relu", called=True) for name in HOSTILE)
    facts = Facts(HOSTILE[0], layers, tuple(Parameter(f"{name}.w", name, (4, 4), "weight") for name in HOSTILE))
    by_layer = {name: [1.0, 2.0] for name in HOSTILE}
    by_weight = {f"{name}.w": [1e-3, 2e-3] for name in HOSTILE}
    history = History.of(facts, activation_std=by_layer, dead_share=by_layer, update_ratio=by_weight, loss=[2.0, 1.0])
    for name in HOSTILE:
        history.record(2, f"metric/{name}", [1.0])
    return history


def accused() -> Finding:
    remedy = replace(POOR.remedies[0], code=f"print({HOSTILE[1]!r})", action=HOSTILE[2])
    return replace(DEAD, rule="dead-units", message=HOSTILE[2], layers=HOSTILE, remedies=(remedy,))


@pytest.fixture
def sick_page(browser: Browser, pages: dict[str, Path]) -> Iterator[Page]:
    page = browser.open(pages["sick"])
    yield page
    assert page.complaints() == []
    page.close()


EVERY = pytest.mark.parametrize("name", ["sick", "healthy", "large", "empty", "hostile"])


@EVERY
@pytest.mark.parametrize(("width", "dark"), [(400, False), (400, True), (1600, False), (1600, True)])
def test_the_page_fits_is_silent_and_asks_for_nothing(browser, pages, name, width, dark):
    page = browser.open(pages[name], width, dark=dark)
    page.do("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.settle()
    assert page.do("document.documentElement.scrollWidth") <= width
    sticking_out = page.do(
        "[...document.querySelectorAll('main *')].filter(each => !each.closest('.scroll, pre, svg, .unseen, nav')"
        f" && each.getBoundingClientRect().right > {width} + 0.5).map(each => each.outerHTML.slice(0, 200))"
    )
    assert sticking_out == []
    assert page.complaints() == []
    assert page.requests() == []
    page.close()


@EVERY
def test_every_chart_is_drawn(browser, pages, name):
    page = browser.open(pages[name])
    boxes = page.do(
        "[...document.querySelectorAll('.figure, .small')].map(figure => [figure.id || figure.dataset.small,"
        " ...[...figure.querySelectorAll('.canvas svg.chart')].map(svg => {"
        "   const parts = [...svg.querySelectorAll('path.line, circle, rect, path.band')];"
        "   const {width, height} = svg.getBoundingClientRect();"
        "   return [width, height, parts.filter(part => part.getBoundingClientRect().width > 0).length]})])"
    )
    assert bool(boxes) == (name != "empty")
    for figure, *charts in boxes:
        assert charts, f"{figure} has no chart"
        for width, height, parts in charts:
            assert width > 150, figure
            assert height > 100, figure
            assert parts > 0, figure
    page.close()


def test_the_map_shows_the_numbers(browser, pages):
    """Its cells against the history: as many as there are, and in a row the larger one is the lighter one."""
    page = browser.open(pages["sick"])
    history = sick()
    page.do(choose("activation_std"))
    size = page.do("(c => [c.width, c.height])(document.querySelector('.map canvas'))")
    assert size == [len(history.table("activation_std")), len(LAYERS)]
    data = "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    pixels = page.do(f"({data})(document.querySelector('.map canvas'))")
    light = [sum(pixels[4 * i : 4 * i + 3]) for i in range(size[0] * size[1])]
    values = history.table("activation_std").values.T.ravel().tolist()
    darkest, lightest = light.index(min(light)), light.index(max(light))
    assert values[darkest] == pytest.approx(min(values), rel=0.1)
    assert values[lightest] == pytest.approx(max(values), rel=0.1)
    page.close()


class TestCards:
    def test_every_card_leads_to_its_picture(self, sick_page):
        for anchor in ("finding-1", "finding-2"):
            sick_page.click(f"#{anchor} > .aside .to-picture")
            target = sick_page.do(f"document.querySelector('#{anchor} .to-picture').hash.slice(1)")
            assert sick_page.do("location.hash.slice(1)") == target
            sick_page.do("new Promise(done => setTimeout(done, 800))")  # until it has scrolled there
            top = sick_page.do(f"document.getElementById('{target}').getBoundingClientRect().top")
            assert -5 <= top < 500
            assert sick_page.do("document.activeElement.id") == target

    def test_the_picture_shows_the_findings_statistic_and_layers(self, sick_page):
        sick_page.click("#finding-1 > .aside .to-picture")
        assert sick_page.do("document.querySelector('.map select').value") == "activation_signal"
        named = sick_page.do(texts(".map-body text.named"))
        assert named == list(POOR.layers)
        assert sick_page.do("document.querySelector('#figure-layers').classList.contains('shown')")
        assert sick_page.do(texts(".slices h3"))[1] == "Activation signal of all layers, step 1"

    def test_a_symptom_leads_to_the_steps_of_its_readings(self, browser, tmp_path):
        reading = replace(POOR.readings[0], steps=(20, 40))
        finding = replace(POOR, rule="loss-plateau", layers=(), readings=(reading,), symptoms=())
        page = browser.open(html.write(html.saved(sick(), Diagnosis(60, (finding,))), tmp_path / "page.html"))
        assert not page.do("!!document.querySelector('#figure-loss .span')")
        page.click("#finding-1 .to-picture")
        widths = "name => document.querySelector(`#figure-loss ${name}`).getBoundingClientRect().width"
        whole, part = page.do(f"['.grid', '.span'].map({widths})")
        assert part / whole == pytest.approx(20 / 59, rel=0.05)
        page.close()

    def test_the_code_is_copied(self, browser, sick_page):
        allowed = ["clipboardReadWrite", "clipboardSanitizedWrite"]
        browser.send("Browser.grantPermissions", permissions=allowed, browserContextId=sick_page.context)
        sick_page.send("Page.bringToFront")
        sick_page.click("#finding-1 .copy")
        assert sick_page.do("navigator.clipboard.readText()") == POOR.remedies[0].code.rstrip()
        assert sick_page.do("document.querySelector('#finding-1 .copy span').textContent") == "Copied"
        assert "Copied to the clipboard" in sick_page.do("document.body.lastElementChild.textContent")

    def test_without_a_clipboard_the_code_is_selected(self, sick_page):
        sick_page.do("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
        sick_page.click("#finding-1 .copy")
        assert sick_page.do("getSelection().toString()") == POOR.remedies[0].code.rstrip()


class TestSwitches:
    def test_the_theme(self, sick_page):
        def paper():
            return sick_page.do("getComputedStyle(document.body).backgroundColor")

        light = paper()
        assert sick_page.do("document.getElementById('theme').getAttribute('aria-pressed')") == "false"
        sick_page.click("#theme")
        assert sick_page.do("document.getElementById('theme').getAttribute('aria-pressed')") == "true"
        dark = paper()
        assert luminance(dark) < 0.02 < 0.8 < luminance(light)
        sick_page.click("#theme")
        assert paper() == light
        sick_page.prefer("dark")
        assert paper() == light, "what the reader chose counts more than what the system prefers"

    def test_the_system_decides_at_first(self, browser, pages):
        page = browser.open(pages["sick"], dark=True)
        assert luminance(page.do("getComputedStyle(document.body).backgroundColor")) < 0.02
        assert page.do("document.getElementById('theme').getAttribute('aria-pressed')") == "true"
        page.close()

    @pytest.mark.parametrize(("figure", "place"), [("figure-loss", 1), ("figure-loss", 2), ("figure-layers", 1)])
    def test_scales(self, sick_page, figure, place):
        button = f"#{figure} .controls > button:nth-of-type({place})"
        before = sick_page.do(f"document.querySelector('#{figure} .canvas').innerHTML")
        pressed = sick_page.do(f"document.querySelector('{button}').getAttribute('aria-pressed')")
        sick_page.click(button)
        assert sick_page.do(f"document.querySelector('{button}').getAttribute('aria-pressed')") != pressed
        assert sick_page.do(f"document.querySelector('#{figure} .canvas').innerHTML") != before

    def test_every_statistic_can_be_shown(self, sick_page):
        names = sick_page.do("[...document.querySelectorAll('.map option')].map(each => each.value).filter(Boolean)")
        shown = {name for name in names if name != "Linear"}
        assert {"activation_std", "gradient_rms", "update_ratio", "dead_share", "saturated_share"} <= shown
        for name in shown:
            sick_page.do(
                f"(s => {{s.value = {json.dumps(name)}; s.dispatchEvent(new Event('change'))}})"
                "(document.querySelector('.map select'))"
            )
            assert "NaN" not in sick_page.do(
                "document.querySelector('.map-body svg').outerHTML.replaceAll('NaN or', '')"
            )

    def test_the_step_of_the_distributions(self, sick_page):
        figure = "#figure-activation-distribution"
        before = sick_page.do(f"document.querySelector('{figure} path.line').getAttribute('d')")
        bands = sick_page.do(f"document.querySelectorAll('{figure} .canvas path.band').length")
        assert bands == 3
        sick_page.do(f"document.querySelector('{figure} input').focus()")
        sick_page.press("Home")
        assert sick_page.do(f"document.querySelector('{figure} output').textContent") == "step 1"
        assert (
            sick_page.do(f"document.querySelector('{figure} path.line').getAttribute('d')") == before
        )  # the median is 0
        assert not sick_page.do(f"!!document.querySelector('{figure} .ghost')")

    def test_numbers_as_a_table(self, sick_page):
        for figure in sick_page.do("[...document.querySelectorAll('.figure')].map(each => each.id)"):
            sick_page.do(f"document.querySelector('#{figure} details').open = true")
            sick_page.settle()
            assert sick_page.do(f"document.querySelectorAll('#{figure} table td').length") > 1
        cells = sick_page.do(texts("#figure-loss tbody td:nth-child(2)"))
        steps, losses = sick().series("loss")
        assert float(cells[0]) == pytest.approx(float(losses[0]), rel=0.01)
        assert len(cells) <= len(steps)


class TestReading:
    def test_the_mouse_reads_a_chart(self, sick_page):
        sick_page.hover("#figure-loss svg.chart[role=img]", 0.5, 0.5)
        text = sick_page.do("document.getElementById('tooltip').textContent")
        assert "step 30" in text or "step 31" in text
        assert "training" in text
        sick_page.send("Input.dispatchMouseEvent", type="mouseMoved", x=2, y=2)
        sick_page.settle()
        assert sick_page.do("document.getElementById('tooltip').hidden")

    def test_the_keyboard_reads_a_chart(self, sick_page):
        sick_page.do("document.querySelector('#figure-loss svg.chart[role=img]').focus()")
        sick_page.press("Home")
        said = sick_page.do("document.querySelector('#figure-loss .readout').textContent")
        assert said.startswith("step 1; training ")
        sick_page.press("ArrowRight")
        assert sick_page.do("document.querySelector('#figure-loss .readout').textContent").startswith("step 2; ")

    def test_the_keyboard_reads_the_map(self, sick_page):
        sick_page.do("document.querySelector('.map-body svg').focus()")
        sick_page.press("Home")
        sick_page.press("ArrowDown")
        said = sick_page.do("document.querySelector('.map .readout').textContent")
        value = sick().table("activation_signal").values[0, 1]
        layer, step, reading = said.split("; ")
        assert (layer, step) == ("fc1", "step 1")
        assert float(reading.rpartition(" ")[2]) == pytest.approx(float(value), rel=0.01)
        titles = sick_page.do(texts(".slices h3"))
        assert titles == ["Activation signal of fc1 over the steps", "Activation signal of all layers, step 1"]

    def test_the_tab_key_reaches_everything(self, sick_page):
        reached = set()
        for _ in range(120):
            sick_page.send("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
            here = sick_page.do(
                "(e => e.id || (e.closest('[id]') || {}).id + ' ' + e.tagName.toLowerCase())(document.activeElement)"
            )
            reached.add(here)
            if here == "table-layers div":
                break
        for place in ("theme", "figure-loss svg", "figure-loss button", "figure-layers select", "figure-layers svg"):
            assert place in reached


class TestAccess:
    def test_landmarks_headings_and_names(self, sick_page):
        for landmark in ("body > header", "header > nav", "body > main", "body > footer"):
            assert sick_page.do(f"document.querySelectorAll('{landmark}').length") == 1
        levels = sick_page.do("[...document.querySelectorAll('h1, h2, h3, h4')].map(each => Number(each.tagName[1]))")
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
        named = "each.getAttribute('aria-label') || each.textContent.trim() || each.labels?.length"
        nameless = sick_page.do(
            "[...document.querySelectorAll('button, a, select, input, [role=region], svg[role=img]')]"
            f".filter(each => !({named})).map(each => each.outerHTML)"
        )
        assert nameless == []

    def test_every_picture_has_its_words(self, sick_page):
        summaries = sick_page.do(
            "[...document.querySelectorAll('.figure .canvas svg.chart[aria-describedby]')].map(each =>"
            " document.getElementById(each.getAttribute('aria-describedby')).textContent)"
        )
        figures = sick_page.do("document.querySelectorAll('.figure').length")
        assert len(summaries) >= figures
        assert all(len(summary) > 30 for summary in summaries)

    @pytest.mark.parametrize("dark", [False, True])
    def test_text_stands_out(self, browser, pages, dark):
        """WCAG AA: 4.5 to 1 for every text on what lies behind it."""
        page = browser.open(pages["sick"], dark=dark)
        pairs = page.do(
            """[...document.querySelectorAll('body *')].filter(e => [...e.childNodes].some(n => n.nodeType == 3 &&
            n.textContent.trim()) && e.checkVisibility() && !e.closest('.unseen, script, style, .skip')).map(e => {
              let behind = e, color;
              do { color = getComputedStyle(behind).backgroundColor; behind = behind.parentElement; }
              while (behind && (color === 'rgba(0, 0, 0, 0)' || color.startsWith('color(')));
              const own = getComputedStyle(e);
              return [e.closest('svg') ? own.fill : own.color, color, e.outerHTML.slice(0, 100)]})"""
        )
        assert len(pairs) > 100
        for color, behind, what in pairs:
            bright, dim = sorted((luminance(color), luminance(behind)), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, f"{color} on {behind}: {what}"
        page.close()


def luminance(color: str) -> float:
    """Relative luminance (WCAG 2) of a computed colour."""
    channels = [float(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_hostile_names_stay_text(browser, pages):
    page = browser.open(pages["hostile"])
    page.click("#finding-1 .to-picture")
    page.hover(".map-body svg", 0.6, 0.1)
    assert any(name in page.do("document.getElementById('tooltip').textContent") for name in HOSTILE)
    page.do("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.settle()
    assert page.do("document.querySelectorAll('script:not([type])').length") == 1
    assert page.do("document.querySelectorAll('img').length") == 0
    table = page.do(texts("#table-layers tbody th"))
    assert table == list(HOSTILE)
    assert page.do(texts("#finding-1 .layers code")) == list(HOSTILE)
    titles = page.do(texts("figure h3"))
    assert set(HOSTILE) <= set(titles)
    opened = [event for event in browser.events if event["method"] == "Page.javascriptDialogOpening"]
    assert opened == []
    assert page.complaints() == []
    page.close()


def test_what_is_smuggled_in_does_not_run(browser, pages, tmp_path):
    """The page's policy allows its own script only: even markup that were not escaped could do nothing."""
    text = pages["sick"].read_text(encoding="utf-8")
    smuggled = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"
    path = tmp_path / "smuggled.html"
    path.write_text(text.replace("<main>", f"<main>{smuggled}"), encoding="utf-8")
    page = browser.open(path)
    assert page.do("document.title") != "owned"
    assert page.do("document.querySelectorAll('.figure .canvas svg').length") > 0
    page.close()


def test_severity_is_more_than_a_colour(browser, tmp_path):
    findings = tuple(replace(DEAD, rule=f"rule-{severity.name.lower()}", severity=severity) for severity in Severity)
    page = browser.open(html.write(html.saved(sick(), Diagnosis(60, findings)), tmp_path / "page.html"))
    sign = "each => [each.textContent.trim(), each.querySelector('use').getAttribute('href')]"
    signs = page.do(f"[...document.querySelectorAll('.card .severity')].map({sign})")
    assert signs == [["note", "#icon-note"], ["warning", "#icon-warning"], ["error", "#icon-error"]]
    page.close()
