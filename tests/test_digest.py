"""Which scalars trackers show, what is new of them, the table of findings, and the heat maps of the layers."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from netdoctor.facts import Facts, Layer
from netdoctor.findings import Diagnosis, Severity
from netdoctor.history import History
from netdoctor.reporters.digest import (
    LAYER_CHARTS,
    Scalars,
    chart_columns,
    evenly,
    finding_rows,
    findings_markdown,
    health,
)
from netdoctor.reporters.heatmap import heat_map, png
from netdoctor.reporters.layers_page import layers_page
from tests.reports import NON_FINITE, PLATEAU, POOR, deep_history, report_of

CHARTS = {chart.statistic: chart for chart in LAYER_CHARTS}


@pytest.mark.parametrize(("count", "limit"), [(0, 5), (3, 5), (5, 5), (6, 5), (100, 7), (9, 2)])
def test_evenly(count, limit):
    names = [f"{index}" for index in range(count)]
    chosen = [int(name) for name in evenly(names, limit)]
    assert len(chosen) == min(count, limit)
    assert chosen == sorted(set(chosen))
    if count:
        assert chosen[0] == 0
        assert chosen[-1] == count - 1
    gaps = np.diff(chosen)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_keys_and_readings():
    history = deep_history(layers=3, steps=12)
    rows = Scalars().take(history)
    assert list(rows) == list(range(1, 13))
    assert rows[1] == pytest.approx({
        "loss": 1.0, "learning_rate": 0.1,
        "activation_rms/fc.0": 1, "activation_rms/fc.1": 2, "activation_rms/fc.2": 3,
        "gradient_rms/fc.0": 1, "gradient_rms/fc.1": 2, "gradient_rms/fc.2": 3,
        "update_ratio/fc.0": 1e-4, "update_ratio/fc.1": 2e-4, "update_ratio/fc.2": 3e-4,
    })  # fmt: skip
    assert set(rows[10]) - set(rows[1]) == {"dead_share/fc.0", "dead_share/fc.1"}  # fc.2 has no ReLU


def test_only_what_is_new():
    history, scalars = deep_history(steps=3), Scalars()
    assert list(scalars.take(history)) == [1, 2, 3]
    assert scalars.take(history) == {}
    history.record(4, "loss", [0.5])
    history.record(5, "loss", [math.nan])
    assert scalars.take(history) == {4: {"loss": 0.5}}
    history.record(6, "loss", [math.inf])
    assert scalars.take(history) == {6: {"loss": math.inf}}
    scalars.again()
    assert list(scalars.take(history)) == [1, 2, 3, 4, 6]


def test_most_steps_a_statistic():
    history = History.of(loss=np.arange(1000.0).tolist())
    assert Scalars().take(history, most=1) == {1000: {"loss": 999.0}}
    steps = list(Scalars().take(history, most=20))
    assert len(steps) == 20
    assert (steps[0], steps[-1]) == (1, 1000)
    assert np.ptp(np.diff(steps)) <= 1


@pytest.mark.parametrize("limit", [1, 10, 50, 200, 1000])
def test_keys_are_bounded_and_stay(limit):
    history, scalars = deep_history(layers=300, steps=15), Scalars(limit)
    for index in range(40):
        history.record(15, f"metric/{index}", [1.0])
    scalars.take(history)
    keys = scalars.keys
    assert len(keys) <= max(limit, 6)
    assert "activation_rms/fc.0" in keys
    assert limit < 50 or "activation_rms/fc.299" in keys
    assert "loss" in keys
    history.record(16, "activation_rms", [1.0], ["late"])
    scalars.take(history)
    assert scalars.keys == keys


def test_a_layer_that_comes_late_is_shown_where_there_is_room():
    history, scalars = deep_history(layers=2, steps=2), Scalars()
    scalars.take(history)
    history.facts = replace(history.facts, layers=(*history.facts.layers, Layer("late", "linear")))
    history.record(3, "activation_rms", [1.0], ["late"])
    assert scalars.take(history)[3] == {"activation_rms/late": 1.0}


def test_keys_are_made_of_letters_that_every_tracker_takes():
    names = ("", "a b*", "ü:1")
    history = History(Facts("M", tuple(Layer(name, "linear") for name in names)))
    history.record(1, "activation_rms", [1.0, 2.0, 3.0], names)
    history.record(1, "learning_rate", [0.1, 0.2], ("0", "1"))
    history.record(1, "metric/top 5 %", [0.5])
    assert Scalars().take(history)[1] == pytest.approx({
        "activation_rms/root": 1, "activation_rms/a_b_": 2, "activation_rms/__1": 3,
        "learning_rate/0": 0.1, "learning_rate/1": 0.2, "metric/top_5__": 0.5,
    })  # fmt: skip


def test_dead_units_are_those_of_relu_layers():
    layers = (
        Layer("a", "linear", nonlinearity="relu"),
        Layer("relu", "activation", function="relu", inputs=("a",)),
        Layer("other", "activation", function="relu", inputs=("b", "c")),
        Layer("tanh", "activation", function="tanh", inputs=("d",)),
    )
    history = History(Facts("M", layers))
    history.record(1, "dead_share", [0.1] * 4, [layer.name for layer in layers])
    assert list(chart_columns(history, CHARTS["dead_share"])) == ["a", "other"]


def test_health():
    assert health(report_of()) == {
        "errors": 0, "warnings": 0, "notes": 0, "resolved": 0, "severity": 0, "worst": "",
    }  # fmt: skip
    assert health(report_of(PLATEAU, POOR, NON_FINITE)) == {
        "errors": 1, "warnings": 1, "notes": 1, "resolved": 0, "severity": 30, "worst": "non-finite",
    }  # fmt: skip
    assert health(report_of(PLATEAU, POOR, resolved=(POOR,))) == {
        "errors": 0, "warnings": 0, "notes": 1, "resolved": 1, "severity": 10, "worst": "loss-plateau",
    }  # fmt: skip


def test_finding_rows():
    report = report_of(POOR, NON_FINITE, resolved=(POOR,))
    assert finding_rows(report) == [
        (1, "WARNING", 1, "poor-initialization", "fc.0, fc.5", POOR.message, "Initialise with Xavier", "resolved"),
        (2, "ERROR", 12, "non-finite", "fc.5", NON_FINITE.message, "", "active"),
    ]
    explained = replace(report, diagnosis=Diagnosis(30, (replace(NON_FINITE, symptoms=(POOR,)),)))
    assert finding_rows(explained)[0][-1] == "symptom"
    table = findings_markdown(report).splitlines()
    assert [line.count(" | ") for line in table] == [7, 7, 7, 7]
    assert "\\|" in table[2]
    assert findings_markdown(report_of()) == "Nothing found."


def test_a_heat_map_holds_the_largest_reading_of_each_cell():
    history = deep_history(layers=100, steps=130)
    drawn = heat_map(history, CHARTS["gradient_rms"], rows=10, columns=13)
    assert drawn is not None
    assert (drawn.layers[0], drawn.layers[-1], len(drawn.layers)) == ("fc.0", "fc.99", 10)
    assert drawn.steps[0] == (1, 10)
    assert drawn.steps[-1] == (121, 130)
    assert drawn.values[0].tolist() == [10.0 * column for column in range(1, 14)]
    assert drawn.values[-1].tolist() == [10.0 * column + 99 for column in range(1, 14)]
    assert heat_map(history, CHARTS["saturated_share"]) is None


def test_colours_tell_small_from_large():
    history = History(Facts("M", (Layer("a", "linear"), Layer("b", "linear"))))
    for step, readings in enumerate(([1e-3, 1.0], [math.nan, 1e3], [0.0, math.inf]), 1):
        history.record(step, "activation_rms", readings, ("a", "b"))
    drawn = heat_map(history, CHARTS["activation_rms"])
    assert drawn is not None
    assert drawn.scale == pytest.approx((1e-3, 1.0, 1e3))
    blue, red, middle = (33, 102, 172, 255), (178, 24, 43, 255), (246, 246, 246, 255)
    pixels = [[tuple(cell) for cell in row] for row in drawn.pixels().tolist()]
    assert pixels[0][0] == pixels[0][2] == blue
    assert pixels[0][1][3] == 0  # no reading: transparent
    assert pixels[1] == [middle, red, red]


def test_png():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 4)).astype(np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(pixels)))), pixels)


def test_the_page_shows_every_chart_and_finding():
    history = deep_history()
    history.record(30, "saturated_share", [math.nan, 0.5], ("fc.0", "fc.1"))
    mean = replace(POOR, message="</script><script>alert(1)</script>")
    page = layers_page(report_of(mean, NON_FINITE, resolved=(mean,), history=history))
    for chart in LAYER_CHARTS:
        assert f"<h2>{chart.title}" in page
    assert page.count("<image ") == page.count("<svg ") == 5
    assert "poor-initialization, fc.0, fc.5 (resolved)" in page
    assert "<script>alert" not in page
    assert "http" not in re.sub(r"data:image[^\"]*", "", page)  # nothing is fetched
    readings = json.loads(re.findall(r'id="readings">(.*?)</script>', page)[0])
    assert readings[0]["layers"] == [f"fc.{index}" for index in range(6)]
    assert readings[0]["values"][1][:3] == [2, 3, 4]
    assert readings[3]["values"][0][:10] == [None] * 9 + [0.5]


def test_the_page_of_a_run_without_readings():
    page = layers_page(report_of(replace(NON_FINITE, severity=Severity.NOTE), history=History()))
    assert "<svg" not in page
    assert "non-finite" in page
