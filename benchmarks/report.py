"""What the HTML report of a large run costs: time to render, size, and time until Chromium shows it.

The run has every statistic that netdoctor records, for 200 layers over 10,000 steps, and distributions at log-spaced
steps. The opening time runs from the navigation to the first frame after the page's script has drawn every picture.

    python benchmarks/report.py [--layers 200] [--steps 10000]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

from netdoctor.facts import Facts, Group, Layer, Loss, Parameter
from netdoctor.findings import Diagnosis, Finding, Reading, Remedy, Severity
from netdoctor.history import History
from netdoctor.reporters import html
from netdoctor.statistics import STATISTICS
from netdoctor.table import POINTS
from tests.browser import Browser, chromium

QUANTILES = ("01", "05", "25", "50", "75", "95", "99")
BARS = "at most 3 s to render, 6 MB, 2 s to open"


def large_run(layers: int, steps: int) -> History:
    """What is left after thinning: at most 2,048 rows a table."""
    names = [f"blocks.{place // 4}.part{place % 4}" for place in range(layers)]
    facts = Facts(
        model="Large",
        layers=tuple(Layer(name, "linear", "Linear", "", 512, 512, 512, "relu", called=True) for name in names),
        parameters=tuple(
            Parameter(f"{name}.{kind}", name, (512, 512) if kind == "weight" else (512,), kind, group=0)
            for name in names
            for kind in ("weight", "bias")
        ),
        groups=(Group("AdamW", 0, 1e-3),),
        loss=Loss("cross-entropy"),
        batch=64,
    )
    columns = {"layer": names, "parameter": [p.name for p in facts.parameters], "group": ["0"], "run": [""]}
    history, random = History(facts), np.random.default_rng(0)
    stride = 2 ** max(0, int(np.ceil(np.log2(steps / POINTS))))
    for step in range(1, steps + 1):
        history.record(step, "loss", [2.3 * np.exp(-step / 3000) + 0.1 * random.random()])
    for step in range(1, steps + 1, stride):
        for statistic in STATISTICS.values():
            if statistic.name != "loss" and "quantile" not in statistic.name:
                names_of = columns[statistic.site]
                history.record(step, statistic.name, np.exp(random.normal(-3, 2, len(names_of))), tuple(names_of))
    for step in np.unique(np.geomspace(1, steps, 40).astype(int)).tolist():
        spread = np.exp(random.normal(-1, 0.5, layers))
        for level in QUANTILES:
            at = spread * (int(level) - 50) / 25
            history.record(step, f"activation_quantile_{level}", at, tuple(names))
            history.record(step, f"activation_gradient_quantile_{level}", at * 1e-4, tuple(names))
    return history


def verdict(history: History) -> Diagnosis:
    layers = tuple(layer.name for layer in history.facts.layers)
    readings = tuple(Reading(f"gradient rms of {name}", 1e-7, 1e-3, "loss/w", (1, history.step)) for name in layers)
    remedies = (Remedy("Normalise", "model = normalised(model)", "He et al. 2015", "gradients keep their scale"),)
    rules = ("vanishing-gradient", "dead-units", "overfitting")
    findings = [
        Finding(rule, Severity.WARNING, 5, f"A case of {rule}.", layers, readings, 0.9, remedies) for rule in rules
    ]
    return Diagnosis(history.step, tuple(findings))


def opening(path: Path, program: str) -> float:
    """Milliseconds from the navigation until every picture is drawn, the median of three."""
    browser = Browser(program)
    times = []
    try:
        for _ in range(3):
            page = browser.open(path)
            times.append(float(page.milliseconds))
            page.close()
    finally:
        browser.close()
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=200)
    parser.add_argument("--steps", type=int, default=10_000)
    options = parser.parse_args()
    history = large_run(options.layers, options.steps)
    report = html.saved(history, verdict(history))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        start = perf_counter()
        html.write(report, path)
        rendered = perf_counter() - start
        print(f"{options.layers} layers, {options.steps:,} steps, {len(history.statistics)} statistics ({BARS})")
        print(f"render {rendered:.2f} s   size {path.stat().st_size / 1e6:.2f} MB", flush=True)
        program = chromium()
        print(f"open   {opening(path, program) / 1e3:.2f} s" if program else "open   no Chromium found")


if __name__ == "__main__":
    main()
