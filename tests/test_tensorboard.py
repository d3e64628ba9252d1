"""What netdoctor writes for TensorBoard, read back from the event files."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

import netdoctor
from netdoctor.findings import Finding, Severity
from netdoctor.reporters import Change
from netdoctor.reporters.digest import LAYER_CHARTS
from netdoctor.reporters.heatmap import heat_map
from netdoctor_tensorboard import TensorBoardReporter
from netdoctor_tensorboard.picture import LEFT, MAP, TOP, draw
from tests.reports import NON_FINITE, POOR, Loop, deep_history, report_of


class Html:
    @staticmethod
    def render(report: Any) -> str:
        return f"<p>{len(report.findings)} findings ü</p>"


def events(folder: Path) -> EventAccumulator:
    read = EventAccumulator(str(folder), {"scalars": 0, "images": 0, "tensors": 0})
    read.Reload()
    return read


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in events(folder).Scalars(tag)]


def text(folder: Path, tag: str) -> list[tuple[int, str]]:
    tensors = events(folder).Tensors(f"{tag}/text_summary")
    return [(point.step, point.tensor_proto.string_val[0].decode()) for point in tensors]


def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "netdoctor.reporters.html", Html)
    loop = Loop()
    with netdoctor.watch(loop.model, reporters=[TensorBoardReporter(tmp_path)], every=1) as monitor:
        for _ in range(40):
            loop.step()
    for tag, statistic, column in (
        ("loss", "loss", ""),
        ("gradient_rms/layers.0", "gradient_rms", "layers.0.weight"),
        ("saturated_share/layers.8", "saturated_share", "layers.8"),
    ):
        steps, values = monitor.history.series(statistic, column)
        assert len(steps) == 40
        assert scalars(tmp_path, f"netdoctor/{tag}") == list(zip(steps.tolist(), values.tolist(), strict=True))
    ((step, table),) = text(tmp_path, "netdoctor/findings")
    assert step == 1
    assert "| poor-initialization | layers.0 … head (10 layers) |" in table
    assert scalars(tmp_path, "netdoctor/errors") == [(1, 1.0)]
    images = [tag for tag in events(tmp_path).Tags()["images"] if tag.startswith("netdoctor/layers/")]
    assert len(images) == 4  # no ReLU, so no dead units
    (image,) = events(tmp_path).Images(images[0])
    assert Image.open(io.BytesIO(image.encoded_image_string)).width > MAP
    assert (tmp_path / "netdoctor-report.html").read_text(encoding="utf-8") == "<p>1 findings ü</p>"


def test_the_writer_of_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "netdoctor.reporters.html", None)
    writer, loop = SummaryWriter(str(tmp_path)), Loop()
    with netdoctor.watch(loop.model, reporters=[TensorBoardReporter(writer)]):
        for step in range(3):
            writer.add_scalar("loss", loop.step(), step)
    writer.add_scalar("test", 0.5, 3)
    writer.close()
    assert [step for step, _ in scalars(tmp_path, "loss")] == [0, 1, 2]
    assert scalars(tmp_path, "test") == [(3, 0.5)]
    assert [step for step, _ in scalars(tmp_path, "netdoctor/loss")] == [1, 2, 3]
    assert "custom_scalars__config__" not in events(tmp_path).Tags()["tensors"]
    assert not (tmp_path / "netdoctor-report.html").exists()


def test_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loop = Loop()
    with netdoctor.watch(loop.model, reporters=["tensorboard"]):
        loop.step()
    (folder,) = (tmp_path / "runs").iterdir()
    assert "netdoctor/gradient_norm" in events(folder).Tags()["scalars"]
    assert "custom_scalars__config__" in events(folder).Tags()["tensors"]


def test_findings_as_they_change(tmp_path: Path) -> None:
    reporter = TensorBoardReporter(tmp_path)
    history = deep_history(steps=3)
    reporter.report(report_of(POOR, changes=(Change("raised", POOR, 1),), history=history))
    history.record(4, "loss", [0.1])
    reporter.report(report_of(POOR, history=history))
    history.record(5, "loss", [0.1])
    later = report_of(POOR, NON_FINITE, changes=(Change("raised", NON_FINITE, 2),), history=history)
    reporter.report(later)
    reporter.close(later)
    assert [step for step, _ in text(tmp_path, "netdoctor/findings")] == [3, 5]
    assert scalars(tmp_path, "netdoctor/errors") == [(3, 0.0), (5, 1.0)]


def test_the_picture() -> None:
    chart = next(chart for chart in LAYER_CHARTS if chart.statistic == "update_ratio")
    drawn = heat_map(deep_history(layers=60, steps=100), chart)
    assert drawn is not None
    finding = Finding("x", Severity.ERROR, 1000, "later than all")
    picture = draw(drawn, (POOR, finding))
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    height = 14 * 60
    for row, column in ((0, 0), (59, 63), (30, 10)):  # the middle of a cell has its colour
        y, x = TOP + round((row + 0.5) * height / 60), LEFT + round((column + 0.5) * MAP / 64)
        assert picture[y, x].tolist() == drawn.pixels()[row, column, :3].tolist()
    assert (217, 142, 4) in {tuple(pixel) for pixel in picture[TOP - 8].tolist()}
