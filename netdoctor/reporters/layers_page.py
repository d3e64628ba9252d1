"""The layers of a model over the steps of its run, together on one small HTML page that needs nothing else."""

from __future__ import annotations

import base64
import json
import math
from html import escape

from netdoctor.facts import spoken
from netdoctor.findings import Finding, Severity
from netdoctor.reporters import Report
from netdoctor.reporters.console import layers
from netdoctor.reporters.digest import LAYER_CHARTS
from netdoctor.reporters.heatmap import HeatMap, heat_map, png

LEFT, MAP, RIGHT = 170, 620, 96  # columns in pixels: names, cells, scale
TOP, BOTTOM = 14, 18  # pixels for the marks of findings and for the steps
ROW, LOW, TALL = 10, 30, 340  # pixels: of a row at least, of a map at least, of a map where rows may shrink to fit
MARKS = {Severity.NOTE: "#3b82a6", Severity.WARNING: "#d98e04", Severity.ERROR: "#c0232c"}

STYLE = """
body{margin:0;padding:14px 18px;background:#fff;color:#1d2127;font:13px/1.45 system-ui,sans-serif}
h1{font-size:16px;margin:0 0 2px}h2{font-size:13px;margin:16px 0 0}h2 small{font-weight:400;color:#667}
p{margin:0 0 4px;color:#667}ol{margin:10px 0 0;padding:0;list-style:none}li{margin:2px 0}
svg{display:block;max-width:100%;height:auto;font-size:11px;fill:#1d2127}
image{image-rendering:pixelated}.tip{color:#1d2127;min-height:1.45em;font-variant-numeric:tabular-nums}
"""
SCRIPT = """
const data=JSON.parse(document.getElementById("readings").textContent);
document.querySelectorAll("svg").forEach((svg,at)=>{
  const map=data[at],cells=svg.querySelector("image"),tip=svg.nextElementSibling,rest=tip.textContent;
  cells.addEventListener("mousemove",event=>{
    const box=cells.getBoundingClientRect();
    const column=Math.floor((event.clientX-box.left)/box.width*map.steps.length);
    const row=Math.floor((event.clientY-box.top)/box.height*map.layers.length);
    if(!map.values[row]||!map.steps[column])return;
    const [first,last]=map.steps[column],value=map.values[row][column];
    tip.textContent=map.layers[row]+"   step "+(first<last?first+"–"+last:last)+"   "+(value??"no reading");
  });
  cells.addEventListener("mouseleave",()=>tip.textContent=rest);
});
"""


def layers_page(report: Report) -> str:
    """The page: a heat map for each statistic of the layers, and the findings that they show."""
    maps = [drawn for chart in LAYER_CHARTS if (drawn := heat_map(report.history, chart)) is not None]
    model, step = report.history.facts.model, report.diagnosis.step
    readings = [{"layers": each.layers, "steps": each.steps, "values": _short(each)} for each in maps]
    body = [
        f"<h1>{escape(model or 'Layers')}, step {step:,}</h1>",
        "<p>Layers over measured steps, which lie closest at the start. Hatched: no reading.</p>",
        *(_section(each, report.findings) for each in maps),
        _legend(report),
        f'<script type="application/json" id="readings">{_embedded(readings)}</script><script>{SCRIPT}</script>',
    ]
    head = f'<meta charset="utf-8"><title>netdoctor: layers</title><style>{STYLE}</style>'
    return f"<!doctype html><html><head>{head}</head><body>{''.join(body)}</body></html>"


def _embedded(data: object) -> str:
    """JSON that cannot end the element it stands in."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _short(drawn: HeatMap) -> list[list[float | str | None]]:
    """Three digits are enough to read; None where there is no reading."""
    return [
        [None if math.isnan(value) else "infinite" if math.isinf(value) else float(f"{value:.3g}") for value in row]
        for row in drawn.values.tolist()
    ]


def _section(drawn: HeatMap, findings: tuple[Finding, ...]) -> str:
    chart = drawn.chart
    row = max(min(18.0, max(ROW, TALL / len(drawn.layers))), LOW / len(drawn.layers))
    height = row * len(drawn.layers)
    picture = base64.b64encode(png(drawn.pixels())).decode()
    place = f'x="{LEFT}" y="{TOP}" width="{MAP}" height="{height:g}"'
    parts = [
        '<pattern id="none" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect width="6" height="6" fill="#eceef1"/><rect width="2" height="6" fill="#d5d9df"/></pattern>',
        f'<rect {place} fill="url(#none)"/>',
        f'<image {place} preserveAspectRatio="none" href="data:image/png;base64,{picture}"/>',
        *_row_names(drawn, row),
        *_column_steps(drawn, height),
        *_marks(drawn, findings),
        *_colours(drawn, height),
    ]
    size = f'viewBox="0 0 {LEFT + MAP + RIGHT} {TOP + height + BOTTOM:g}" width="{LEFT + MAP + RIGHT}"'
    title = f"<h2>{escape(chart.title)} <small>{escape(chart.meaning)}</small></h2>"
    return f'{title}<svg {size}>{"".join(parts)}</svg><p class="tip">&nbsp;</p>'


def _row_names(drawn: HeatMap, row: float) -> list[str]:
    every = math.ceil(11 / row)
    return [
        f'<text x="{LEFT - 6}" y="{TOP + (at + 0.5) * row + 4:g}" text-anchor="end">{escape(_clipped(name))}</text>'
        for at, name in enumerate(drawn.layers)
        if at % every == 0
    ]


def _clipped(name: str, length: int = 26) -> str:
    name = spoken(name)
    return name if len(name) <= length else f"…{name[1 - length :]}"


def _column_steps(drawn: HeatMap, height: float) -> list[str]:
    count = len(drawn.steps)
    chosen = sorted({round(at * (count - 1) / 7) for at in range(8)})
    return [
        f'<text x="{LEFT + (at + 0.5) * MAP / count:g}" y="{TOP + height + 13:g}" text-anchor="middle" fill="#667">'
        f"{drawn.steps[at][at > 0]:,}</text>"  # the first column's first step, the others' last
        for at in chosen
    ]


def _marks(drawn: HeatMap, findings: tuple[Finding, ...]) -> list[str]:
    """A triangle above the column of each finding's step."""
    marks = []
    for number, finding in enumerate(findings, 1):
        column = next((at for at, (_, last) in enumerate(drawn.steps) if last >= finding.step), len(drawn.steps) - 1)
        x = LEFT + (column + 0.5) * MAP / len(drawn.steps)
        text = f"{number}: {finding.severity.name} {finding.rule}, step {finding.step}"
        marks.append(
            f'<path d="M{x - 5:g} {TOP - 10}h10l-5 8z" fill="{MARKS[finding.severity]}">'
            f"<title>{escape(text)}</title></path>"
        )
    return marks


def _colours(drawn: HeatMap, height: float) -> list[str]:
    x, stops = LEFT + MAP + 12, drawn.palette[::-1]
    gradient = "".join(
        f'<stop offset="{at / (len(stops) - 1):g}" stop-color="rgb{stop}"/>' for at, stop in enumerate(stops)
    )
    name = f"colours-{drawn.chart.statistic}"
    labels = zip(drawn.scale[::-1], (TOP + 9, TOP + height / 2 + 4, TOP + height), strict=True)
    return [
        f'<linearGradient id="{name}" x2="0" y2="1">{gradient}</linearGradient>',
        f'<rect x="{x}" y="{TOP}" width="12" height="{height:g}" fill="url(#{name})"/>',
        *(
            f'<text x="{x + 18}" y="{y:g}">{value:.2g}</text>'
            for value, y in labels
            if height >= 36 or value != drawn.scale[1]
        ),
    ]


def _legend(report: Report) -> str:
    entries = []
    for number, finding in enumerate(report.findings, 1):
        where = f", {layers(finding)}" if finding.layers else ""
        gone = " (resolved)" if finding in report.resolved else ""
        text = f"{number}: step {finding.step}, {finding.rule}{where}{gone}. {finding.message}"
        entries.append(f'<li><span style="color:{MARKS[finding.severity]}">▼</span> {escape(text)}</li>')
    return f"<ol>{''.join(entries)}</ol>"
