"""What of a run a tracker shows: a bounded choice of scalars, what is new of them, and the findings as a table."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from netdoctor.facts import Facts
from netdoctor.findings import Finding, Severity
from netdoctor.history import History
from netdoctor.reporters import Report
from netdoctor.reporters.console import layers

KEYS = 200  # scalars of a run at most: trackers become slow by the number of different keys
RUN_KEYS = 20  # of these for the whole run; the layers share the rest
RECTIFIED = ("relu", "relu6")  # functions whose units can die
FINDING_COLUMNS = ("finding", "severity", "step", "rule", "layers", "message", "remedy", "state")


@dataclass(frozen=True)
class LayerChart:
    """A statistic of the layers that is worth a chart.

    Attributes:
        statistic: Its name in the history.
        title: A few words.
        meaning: One line.
        of: What is taken of each layer: its output, that of ReLU units, or its weight.
        centre: The value that is neither small nor large, for scales with one.
        share: Whether the readings are shares, 0 to 1; else they are positive and of any magnitude.
    """

    statistic: str
    title: str
    meaning: str
    of: Literal["output", "relu", "weight"] = "output"
    centre: float | None = None
    share: bool = False


LAYER_CHARTS = (
    LayerChart("activation_rms", "Activation scale", "root mean square of the layer's output", centre=1.0),
    LayerChart("gradient_rms", "Gradient scale", "root mean square of the weight's gradient before clipping", "weight"),
    LayerChart("update_ratio", "Update ratio", "norm of the step's update over the norm of the weight", "weight", 1e-3),
    LayerChart("dead_share", "Dead units", "share of ReLU units silent in the last 10 samples", "relu", share=True),
    LayerChart("saturated_share", "Saturated units", "share of inputs of a bounded nonlinearity near its bounds",
               share=True),
)  # fmt: skip
RUN_CHARTS = ("loss", "val_loss", "gradient_norm", "clipped_gradient_norm", "cosine", "learning_rate")


def evenly(names: Sequence[str], count: int) -> tuple[str, ...]:
    """At most ``count`` of the names, evenly spaced, the first and the last among them."""
    if len(names) <= count:
        return tuple(names)
    return tuple(names[round(float(at))] for at in np.linspace(0, len(names) - 1, count))


def chart_columns(history: History, chart: LayerChart) -> dict[str, str]:
    """The column of each layer that has a reading, in the order of execution."""
    table = history.table(chart.statistic)
    seen = {name for name, first in zip(table.columns, table.first, strict=True) if not np.isnan(first)}
    facts = history.facts
    if chart.of == "weight":
        owned: dict[str, str] = {}
        for parameter in facts.parameters:
            if parameter.role in ("weight", "embedding"):
                owned.setdefault(parameter.layer, parameter.name)
        columns = {layer.name: owned[layer.name] for layer in facts.layers if layer.name in owned}
    elif chart.of == "relu":
        columns = {name: name for name in _rectified(facts)}
    else:
        columns = {layer.name: layer.name for layer in facts.layers}
    return {layer: column for layer, column in columns.items() if column in seen}


def _rectified(facts: Facts) -> list[str]:
    """Layers before a ReLU; the ReLU's own module where that layer is not known."""
    chosen: list[str] = []
    for layer in facts.layers:
        before = layer.kind != "activation" and layer.nonlinearity in RECTIFIED
        if before or (layer.function in RECTIFIED and not any(source in chosen for source in layer.inputs)):
            chosen.append(layer.name)
    return chosen


class Scalars:
    """Chooses the scalars of a run to show, and knows which of their readings were shown.

    Keys are ``statistic/layer`` and ``statistic``. Where a model has more layers than fit, those that are shown are
    chosen evenly, once.

    Args:
        keys: How many different ones at most.
    """

    def __init__(self, keys: int = KEYS) -> None:
        self._run_keys = min(RUN_KEYS, (keys + 1) // 2)
        self._share = max((keys - self._run_keys) // len(LAYER_CHARTS), 1)
        self._keys: dict[str, dict[str, str]] = {}  # of each statistic: column to key
        self._shown: dict[str, int] = {}  # of each statistic: the last step that was taken

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key that was chosen so far."""
        return tuple(key for keys in self._keys.values() for key in keys.values())

    def take(self, history: History, most: int = 50) -> dict[int, dict[str, float]]:
        """The readings since the last call, by step and key; NaN is no reading.

        Args:
            history: Of the run.
            most: Steps of a statistic at most, the newest and others evenly; a run keeps its loss at every step.
        """
        self._choose(history)
        rows: dict[int, dict[str, float]] = {}
        for statistic, keys in self._keys.items():
            table = history.table(statistic)
            new = np.flatnonzero(table.steps > self._shown.get(statistic, -1))
            if not len(new):
                continue
            self._shown[statistic] = int(table.steps[new[-1]])
            places = [table.columns.index(column) for column in keys]
            for row in new[np.unique(np.linspace(len(new) - 1, 0, most).round().astype(int))]:
                readings = zip(keys.values(), table.values[row, places].tolist(), strict=True)
                found = {key: value for key, value in readings if not np.isnan(value)}
                if found:
                    rows.setdefault(int(table.steps[row]), {}).update(found)
        return dict(sorted(rows.items()))

    def again(self) -> None:
        """Take everything anew at the next call, with the same keys."""
        self._shown.clear()

    def _choose(self, history: History) -> None:
        own = [name for name in history.statistics if name in RUN_CHARTS or name.startswith("metric/")]
        for statistic in own:
            columns = history.table(statistic).columns
            if statistic not in self._keys and self._run_keys >= len(columns):
                self._run_keys -= len(columns)
                several = len(columns) > 1
                self._keys[statistic] = {name: _key(statistic, name if several else None) for name in columns}
        for chart in LAYER_CHARTS:
            columns_of = chart_columns(history, chart)
            chosen = self._keys.get(chart.statistic, {})
            if columns_of and len(columns_of) != len(chosen) and (not chosen or len(columns_of) <= self._share):
                kept = evenly(tuple(columns_of), self._share)
                self._keys[chart.statistic] = {columns_of[layer]: _key(chart.statistic, layer) for layer in kept}


def _key(statistic: str, column: str | None) -> str:
    """Letters that every tracker takes."""
    name = statistic if column is None else f"{statistic}/{column or 'root'}"
    return re.sub(r"[^\w./-]", "_", name, flags=re.ASCII)


def active(report: Report) -> tuple[Finding, ...]:
    """The findings that last, the worst first."""
    lasting = [finding for finding in report.findings if finding not in report.resolved]
    return tuple(sorted(lasting, key=lambda finding: (-finding.severity, -finding.confidence, finding.step)))


def health(report: Report) -> dict[str, int | str]:
    """A run's health in a few values to filter and sort runs by.

    ``errors``, ``warnings`` and ``notes`` count the findings that last, ``resolved`` those that are gone; ``severity``
    is 0 where none lasts, else that of the ``worst`` (10, 20, 30), which is a rule's slug.
    """
    lasting = active(report)
    counts = {severity: sum(finding.severity == severity for finding in lasting) for severity in Severity}
    return {
        "errors": counts[Severity.ERROR],
        "warnings": counts[Severity.WARNING],
        "notes": counts[Severity.NOTE],
        "resolved": len(report.resolved),
        "severity": int(lasting[0].severity) if lasting else 0,
        "worst": lasting[0].rule if lasting else "",
    }


def finding_rows(report: Report) -> list[tuple[int, str, int, str, str, str, str, str]]:
    """A row of `FINDING_COLUMNS` for each finding of the run, oldest first.

    Its state is active, resolved, or symptom: of a finding that came later and explains it.
    """
    explained = {symptom.rule for finding in report.diagnosis.findings for symptom in finding.symptoms}
    return [
        (
            number,
            finding.severity.name,
            finding.step,
            finding.rule,
            layers(finding),
            finding.message,
            finding.remedies[0].action if finding.remedies else "",
            "active" if finding not in report.resolved else "symptom" if finding.rule in explained else "resolved",
        )
        for number, finding in enumerate(report.findings, 1)
    ]


def findings_markdown(report: Report) -> str:
    """The findings as a Markdown table."""
    if not report.findings:
        return "Nothing found."
    rows = [FINDING_COLUMNS, ("---",) * len(FINDING_COLUMNS), *finding_rows(report)]
    cells = [[" ".join(str(cell).split()).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def html_report(report: Report) -> str | None:
    """The page of the whole run, None where netdoctor's extra "html" is not installed."""
    try:
        page: str = importlib.import_module("netdoctor.reporters.html").render(report)
    except ImportError:
        return None
    return page
