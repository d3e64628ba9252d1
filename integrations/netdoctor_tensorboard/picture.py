"""A heat map of the layers with its names, steps, scale and findings, as pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from netdoctor.facts import spoken
from netdoctor.findings import Finding, Severity
from netdoctor.reporters.heatmap import HeatMap

LEFT, MAP, RIGHT = 180, 640, 90  # columns in pixels: names, cells, scale
TOP, BOTTOM = 44, 22  # title and marks of findings; steps
ROW = 14  # pixels of a layer: what a name needs
LOW = 42  # pixels of the cells at least: what the scale needs
INK, GREY, NONE = (29, 33, 39), (102, 102, 119), (222, 225, 230)  # text, lesser text, no reading
MARKS = {Severity.NOTE: (59, 130, 166), Severity.WARNING: (217, 142, 4), Severity.ERROR: (192, 35, 44)}


def draw(drawn: HeatMap, findings: tuple[Finding, ...]) -> NDArray[np.uint8]:
    """Pixels, [height, width, 3]."""
    height = max(ROW * len(drawn.layers), LOW)
    canvas = Image.new("RGB", (LEFT + MAP + RIGHT, TOP + height + BOTTOM), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    pen.text((8, 6), f"{drawn.chart.title}: {drawn.chart.meaning}", INK, ImageFont.load_default(13))
    pen.rectangle((LEFT, TOP, LEFT + MAP - 1, TOP + height - 1), NONE)
    cells = Image.fromarray(drawn.pixels()).resize((MAP, height), Image.Resampling.NEAREST)
    canvas.paste(cells, (LEFT, TOP), cells)
    for at, name in enumerate(drawn.layers):
        pen.text((LEFT - 6, TOP + (at + 0.5) * height / len(drawn.layers)), _clipped(name), INK, font, "rm")
    for at in sorted({round(part * (len(drawn.steps) - 1) / 7) for part in range(8)}):
        x = LEFT + (at + 0.5) * MAP / len(drawn.steps)
        pen.text((x, TOP + height + 4), f"{drawn.steps[at][at > 0]:,}", GREY, font, "mt")
    for finding in findings:
        column = next((at for at, (_, last) in enumerate(drawn.steps) if last >= finding.step), len(drawn.steps) - 1)
        x = LEFT + (column + 0.5) * MAP / len(drawn.steps)
        pen.polygon(((x - 5, TOP - 11), (x + 5, TOP - 11), (x, TOP - 3)), MARKS[finding.severity])
    _scale(canvas, drawn, height, font)
    return np.asarray(canvas, np.uint8)


def _scale(
    canvas: Image.Image, drawn: HeatMap, height: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> None:
    pen, x = ImageDraw.Draw(canvas), LEFT + MAP + 12
    anchors = np.array(drawn.palette[::-1], float)
    place = np.linspace(0, len(anchors) - 1, height)
    for row, colour in enumerate(
        zip(*(np.interp(place, range(len(anchors)), anchors[:, c]) for c in range(3)), strict=True)
    ):
        pen.line((x, TOP + row, x + 11, TOP + row), tuple(int(channel) for channel in colour))
    for value, y, anchor in zip(drawn.scale[::-1], (0.0, height / 2, float(height)), ("la", "lm", "ld"), strict=True):
        pen.text((x + 17, TOP + y), f"{value:.2g}", INK, font, anchor)


def _clipped(name: str, length: int = 28) -> str:
    name = spoken(name)
    return name if len(name) <= length else f"…{name[1 - length :]}"
