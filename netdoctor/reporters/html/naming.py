"""What statistics, rules and parameters are called on the page."""

from __future__ import annotations

from typing import Literal

from netdoctor.facts import Facts, spoken
from netdoctor.statistics import STATISTICS
from netdoctor.table import Table

Site = Literal["layer", "parameter", "group", "run"]
WORDS = {"rms": "RMS", "val": "validation", "std": "std"}


def titled(name: str) -> str:
    """A statistic's or a rule's name as a title: "gradient_rms" is "Gradient RMS"; the user's own are kept."""
    text = name.removeprefix("metric/").replace("_", " ")
    if text == name.replace("_", " "):
        text = " ".join(WORDS.get(word, word) for word in text.replace("-", " ").split(" "))
    return text[:1].upper() + text[1:]


def described(statistic: str) -> str:
    """What it measures, one sentence; "" where the statistic is not one of netdoctor's."""
    known = STATISTICS.get(statistic)
    return f"{known.meaning[:1].upper()}{known.meaning[1:]}." if known else ""


def site_of(statistic: str, table: Table, facts: Facts) -> Site:
    """What the columns of a table are; told by their names where the statistic is not one of netdoctor's."""
    if statistic in STATISTICS:
        return STATISTICS[statistic].site
    layers = {layer.name for layer in facts.layers}
    if table.columns == ("",) and "" not in layers:
        return "run"
    if all(column in layers for column in table.columns):
        return "layer"
    parameters = {parameter.name for parameter in facts.parameters}
    return "parameter" if all(column in parameters for column in table.columns) else "group"


def layer_named(name: str) -> str:
    """A layer's name in a list."""
    return name or spoken(name)
