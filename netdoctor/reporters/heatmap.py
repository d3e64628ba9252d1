"""Layers over steps as pictures: one cell a layer and a measured step, in colours that tell good from bad."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from netdoctor.history import History
from netdoctor.reporters.digest import LayerChart, chart_columns, evenly

ROWS, COLUMNS = 64, 64  # cells at most: what fits a panel
DECADES = (1.0, 4.0)  # least and most that a scale with a centre reaches to either side

# Anchors of colour scales: ColorBrewer's RdBu (blue is too small, red too large), matplotlib's viridis, and OrRd.
DIVERGING = ((33, 102, 172), (146, 197, 222), (246, 246, 246), (244, 165, 130), (178, 24, 43))
SEQUENTIAL = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
SHARE = ((255, 247, 236), (253, 212, 158), (252, 141, 89), (215, 48, 31), (127, 0, 0))


@dataclass(frozen=True)
class HeatMap:
    """Readings of one statistic.

    Attributes:
        chart: The statistic.
        layers: Names of the rows.
        steps: First and last step of each column: measured steps, which lie closest at the start of a run.
        values: [layers, columns], the largest reading of the column's steps; NaN where there is none.
        scale: Values at the low end, in the middle and at the high end of the colours.
    """

    chart: LayerChart
    layers: tuple[str, ...]
    steps: tuple[tuple[int, int], ...]
    values: NDArray[np.float64]
    scale: tuple[float, float, float]

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """Colours from the low to the high end."""
        if self.chart.share:
            return SHARE
        return SEQUENTIAL if self.chart.centre is None else DIVERGING

    def pixels(self) -> NDArray[np.uint8]:
        """Red, green, blue and alpha of each cell, [layers, columns, 4]; transparent where there is no reading."""
        low, _, high = self.scale
        at = self.values if self.chart.share else _log(self.values)
        ends = (low, high) if self.chart.share else (np.log10(low), np.log10(high))
        level = np.clip((at - ends[0]) / (ends[1] - ends[0]), 0, 1)
        anchors = np.array(self.palette, float)
        place = np.linspace(0, 1, len(anchors))
        seen = ~np.isnan(level)
        colours = [np.interp(np.where(seen, level, 0), place, anchors[:, channel]) for channel in range(3)]
        pixels = np.stack([*colours, np.where(seen, 255.0, 0.0)], -1)
        return np.asarray(pixels.round(), np.uint8)


def heat_map(history: History, chart: LayerChart, rows: int = ROWS, columns: int = COLUMNS) -> HeatMap | None:
    """The picture of a statistic, None where nothing was measured; with more layers than rows, evenly chosen ones."""
    names = chart_columns(history, chart)
    table = history.table(chart.statistic)
    if not names:
        return None
    chosen = evenly(tuple(names), rows)
    readings = np.asarray(table.values[:, [table.columns.index(names[layer]) for layer in chosen]].T, float)
    edges = np.linspace(0, len(table), min(columns, len(table)) + 1).round().astype(int)
    values = np.fmax.reduceat(readings, edges[:-1], axis=1)
    steps = tuple((int(table.steps[a]), int(table.steps[b - 1])) for a, b in pairwise(edges.tolist()))
    return HeatMap(chart, chosen, steps, values, _scale(chart, values))


def _log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Decimal logarithms: NaN stays NaN, 0 becomes -inf."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log10(values))


def _scale(chart: LayerChart, values: NDArray[np.float64]) -> tuple[float, float, float]:
    if chart.share:
        return 0.0, 0.5, 1.0
    logs = _log(values)
    logs = logs[np.isfinite(logs)]
    if chart.centre is not None:
        middle = float(np.log10(chart.centre))
        reach = float(np.clip(np.abs(logs - middle).max(initial=0.0), *DECADES))
    else:
        low, high = np.percentile(logs, (1, 99)) if len(logs) else (-1.0, 0.0)
        middle, reach = float(low + high) / 2, max(float(high - low) / 2, 0.5)
    return 10 ** (middle - reach), 10**middle, 10 ** (middle + reach)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """The file of a picture, [height, width, 4]."""
    height, width, _ = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = np.concatenate((np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)), 1)  # each with filter 0
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)  # 8 bits a channel, RGBA
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows.tobytes())), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
