"""Puts the page together: the words, the pictures' data, and the style and script that it carries along."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib
from importlib import metadata, resources
from typing import Any

from netdoctor.reporters import Report
from netdoctor.reporters.html.cards import cards, gone
from netdoctor.reporters.html.embed import json_text
from netdoctor.reporters.html.figures import figures
from netdoctor.reporters.html.layers import about_model, layer_rows
from netdoctor.reporters.html.verdict import unjudged, verdict

STYLE = ("tokens", "page", "cards", "figures", "tables", "print")
SCRIPT = (
    *("format", "scales", "svg", "chart", "readout", "colors"),
    *("lines", "map", "cells", "mapdrawing", "key", "slices", "distributions", "figures"),
    *("evidence", "tables", "copy", "theme", "start"),
)


def render(report: Report) -> str:
    """The page: one HTML document with all that it needs.

    Raises:
        ImportError: jinja2 is not there; says what to install.
    """
    template = environment().get_template("page.html")
    shown, left = cards(report), gone(report)
    statistic = next((card.picture.statistic for card in shown if card.picture and card.picture.statistic), "")
    ill = frozenset(name for card in (*shown, *left) for name in card.finding.layers)
    style, script = _joined("style", STYLE, "css"), _script()
    page: str = template.render(
        model=report.history.facts.model or "A model",
        about=about_model(report.history.facts),
        verdict=verdict(report, shown),
        cards=shown,
        gone=left,
        unjudged=unjudged(report.diagnosis.skipped),
        figures=figures(report.history, statistic, ill),
        layers=layer_rows(report.history.facts, shown),
        step=max(report.diagnosis.step, report.history.step),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        version=_version(),
    )
    return page


@functools.cache
def environment() -> Any:
    """The templates.

    Raises:
        ImportError: jinja2 is not there; says what to install.
    """
    try:
        jinja2 = importlib.import_module("jinja2")
    except ImportError as error:
        raise ImportError('the HTML report needs jinja2: pip install "netdoctor-torch[html]"') from error
    loader = jinja2.FunctionLoader(lambda name: _read("templates", name))
    made = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    made.undefined = jinja2.StrictUndefined
    made.filters["json"] = lambda data: jinja2.utils.markupsafe.Markup(json_text(data))
    return made


def _read(folder: str, name: str) -> str:
    return (resources.files("netdoctor.reporters.html") / folder / name).read_text(encoding="utf-8")


@functools.cache
def _joined(folder: str, names: tuple[str, ...], ending: str) -> str:
    return "\n".join(_read(folder, f"{name}.{ending}") for name in names)


def _script() -> str:
    return f'(() => {{\n"use strict";\n{_joined("script", SCRIPT, "js")}}})();'


def _hash(text: str) -> str:
    """For the page's Content-Security-Policy: nothing but this very text is run."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _version() -> str:
    try:
        return metadata.version("netdoctor-torch")
    except metadata.PackageNotFoundError:
        return ""
