"""The map of layers and steps: every statistic of layers and parameters, one at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netdoctor.facts import Facts
from netdoctor.history import History
from netdoctor.reporters.html.embed import packed
from netdoctor.reporters.html.figures.base import FIRST, Figure, decades, groups
from netdoctor.reporters.html.naming import described, layer_named, site_of, titled
from netdoctor.reporters.html.numbers import counted
from netdoctor.statistics import STATISTICS
from netdoctor.table import Table

COLUMNS = 160  # samples or groups of samples side by side at most: 6 pixels each on a wide page
FEWEST = 24  # columns at least, however many layers there are
ROWS = 400  # layers that are drawn at most: rows of 2 pixels
CELLS = 1_100_000  # of all statistics together: 2.2 MB, 2.9 MB as base64
MAIN = ("weight", "embedding", "other")  # roles of the parameters that are drawn; biases and norms follow the weights
WIDE_SPAN = 0.9  # decades from which the colours stand for powers of ten
DEFAULTS = ("activation_std", "gradient_rms", "update_ratio")
SECTIONS = ("Outputs of layers", "Inputs of layers", "Gradients", "Weights and steps", "Other")

Floats = NDArray[np.float32]


def layers_by_steps(history: History, selected: str, kept: frozenset[str]) -> Figure | None:
    tables = {name: history.table(name) for name in history.statistics if drawable(history, name)}
    if not tables:
        return None
    rows = {name: _rows(history, name, table, kept) for name, table in tables.items()}
    axes: list[dict[str, list[int]]] = []
    names: list[dict[str, list[str]]] = []
    statistics: list[dict[str, Any]] = []
    columns = CELLS // max(sum(len(places) for places in rows.values()), 1)
    columns = max(FEWEST, min(COLUMNS, columns))
    for name, table in tables.items():
        places = rows[name]
        starts = groups(len(table), columns, min(FIRST, columns // 2))
        ends = np.append(starts[1:], len(table)) - 1
        values = means(table.values[:, places], starts)
        statistics.append(
            {
                "name": name,
                "title": titled(name),
                "meaning": described(name),
                "unit": STATISTICS[name].unit if name in STATISTICS else "",
                "section": section(name),
                "scale": scale(name, values),
                "axis": _shared(axes, {"from": table.steps[starts].tolist(), "to": table.steps[ends].tolist()}),
                "rows": _shared(names, _named(history.facts, [table.columns[place] for place in places])),
                "values": packed(values.T),
            }
        )
    statistics.sort(key=lambda entry: SECTIONS.index(entry["section"]))
    chosen = next(name for name in (selected, *DEFAULTS, *tables) if name in tables)
    facts, deepest = history.facts, max(len(table.columns) for table in tables.values())
    shown = max(len(places) for places in rows.values())
    longest = max(len(table) for table in tables.values())
    caption = "A row is a layer, in the order of execution; a column is a sampled step."
    if longest > columns:
        caption += f" Later columns are means of several of the {longest:,} samples."
    if deepest > ROWS:
        caption += f" {shown} of {deepest} rows are drawn, those of the findings among them."
    summary = (
        f"{counted(len(facts.layers), 'layer')}, {counted(longest, 'sample')} up to step {history.step}, "
        f"{counted(len(statistics), 'statistic')} to choose from. Arrow keys move from cell to cell and read each out."
    )
    data = {"axes": axes, "rows": names, "statistics": statistics, "selected": chosen}
    return Figure("layers", "map", "Layers over the steps", caption, summary, data, wide=True)


def drawable(history: History, statistic: str) -> bool:
    """Whether the statistic has a row for each of several layers or parameters and says something."""
    table = history.table(statistic)
    if site_of(statistic, table, history.facts) not in ("layer", "parameter") or "_quantile_" in statistic:
        return False
    indicator = statistic in STATISTICS and STATISTICS[statistic].meaning.startswith("1 where")
    return bool((table.values > 0).any()) if indicator else bool((~np.isnan(table.values)).any())


def section(statistic: str) -> str:
    """Under which heading the statistic stands in the list to choose from."""
    if "gradient" in statistic:
        return "Gradients"
    if statistic.startswith("input"):
        return "Inputs of layers"
    if statistic.startswith(("weight", "update", "unit", "non_finite_weight")):
        return "Weights and steps"
    return "Outputs of layers" if statistic in STATISTICS and STATISTICS[statistic].site == "layer" else "Other"


def scale(statistic: str, values: Floats) -> str:
    """Which colours tell most: of a share, around zero, by powers of ten, or linear."""
    finite = values[np.isfinite(values)]
    if statistic.endswith("_share") or not len(finite):
        return "share"
    if finite.min() < 0:
        return "diverging"
    return "log" if decades(finite) > WIDE_SPAN else "linear"


def means(values: Floats, starts: NDArray[np.int64]) -> Floats:
    """Mean of the finite readings of each group of rows; NaN where nothing was seen, Inf where nothing was finite."""
    finite = np.isfinite(values)
    count = np.add.reduceat(finite, starts, axis=0, dtype=np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = np.add.reduceat(np.where(finite, values, 0), starts, axis=0, dtype=np.float64) / np.maximum(count, 1)
    infinite = np.add.reduceat(np.isinf(values), starts, axis=0, dtype=np.int64) > 0
    return np.where(count > 0, mean, np.where(infinite, np.inf, np.nan)).astype(np.float32)


def _rows(history: History, statistic: str, table: Table, kept: frozenset[str]) -> list[int]:
    """Columns of the table to draw, in the order of execution."""
    facts, names = history.facts, table.columns
    if site_of(statistic, table, facts) == "parameter":
        owners, order = _parameter_order(facts)
        roles = {parameter.name: parameter.role for parameter in facts.parameters}
        main = [i for i, name in enumerate(names) if roles.get(name, "weight") in MAIN] or list(range(len(names)))
        main.sort(key=lambda i: order.get(names[i], (len(order), i)))
        return _thinned(main, [owners.get(names[i], "") in kept for i in main])
    places = {layer.name: place for place, layer in enumerate(facts.layers)}
    every = sorted(range(len(names)), key=lambda i: places.get(names[i], len(places)))
    return _thinned(every, [names[i] in kept for i in every])


def _parameter_order(facts: Facts) -> tuple[dict[str, str], dict[str, tuple[int, int]]]:
    """Owner of each parameter, and its place: that of its layer, then that in the model."""
    places = {layer.name: place for place, layer in enumerate(facts.layers)}
    owners = {parameter.name: parameter.layer for parameter in facts.parameters}
    order = {p.name: (places.get(p.layer, -1), place) for place, p in enumerate(facts.parameters)}
    return owners, order


def _thinned(rows: list[int], kept: Iterable[bool]) -> list[int]:
    """At most `ROWS` of the rows: the kept ones, the others evenly."""
    if len(rows) <= ROWS:
        return rows
    places = [place for place, keep in enumerate(kept) if keep][:ROWS]
    rest = np.setdiff1d(np.arange(len(rows)), places)
    evenly = rest[np.linspace(0, len(rest) - 1, ROWS - len(places)).round().astype(int)] if len(rest) else rest
    return [rows[place] for place in sorted({*places, *evenly.tolist()})]


def _named(facts: Facts, columns: list[str]) -> dict[str, list[str]]:
    """What the rows are called, the layer that each belongs to, and that layer's type."""
    owners = {parameter.name: parameter.layer for parameter in facts.parameters}
    types = {layer.name: layer.type or layer.kind for layer in facts.layers}
    owned = [owners.get(column, column) for column in columns]
    return {
        "names": [layer_named(column) for column in columns],
        "owners": [layer_named(owner) for owner in owned],
        "types": [types.get(owner, "other") for owner in owned],
    }


def _shared(known: list[Any], entry: Any) -> int:
    """Place of an entry that many statistics share."""
    if entry not in known:
        known.append(entry)
    return known.index(entry)
