"""A saved W&B workspace that opens with what netdoctor says of each run, and all layers of a statistic in one chart."""

from __future__ import annotations

from math import ceil
from typing import Any

import wandb_workspaces.reports.v2.interface as wr
import wandb_workspaces.workspaces as ws

from netdoctor.reporters.digest import LAYER_CHARTS, RUN_CHARTS

STEP = "netdoctor/step"
COLUMNS = ("worst", "errors", "warnings", "notes", "severity")  # of the table of runs


def build_workspace(entity: str, project: str, name: str = "netdoctor") -> ws.Workspace:
    """The workspace, not saved yet: change what you like, then call its ``save()``."""
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[_health(), _layers(), _run()],
        runset_settings=ws.RunsetSettings(
            order=[ws.Ordering(ws.Summary("netdoctor/severity"), ascending=False)],
            pinned_columns=["run:displayName", *(f"summary:netdoctor/{column}" for column in COLUMNS)],
        ),
    )


def create_workspace(entity: str, project: str, name: str = "netdoctor") -> str:
    """Save the workspace in W&B, which needs a network and to be logged in; returns its address."""
    workspace = build_workspace(entity, project, name)
    workspace.save()  # type: ignore[no-untyped-call]
    return str(workspace.url)


def _section(name: str, panels: list[Any], columns: int) -> ws.Section:
    layout = ws.SectionLayoutSettings(columns=columns, rows=ceil(len(panels) / columns))
    return ws.Section(name=name, panels=panels, is_open=True, layout_settings=layout)


def _health() -> ws.Section:
    heat_maps = wr.MediaBrowser(title="Layers", media_keys=["netdoctor/layers"], num_columns=1)
    report = wr.MediaBrowser(title="Report", media_keys=["netdoctor/report"], num_columns=1)
    return _section("Findings", [wr.WeavePanelSummaryTable(table_name="netdoctor/findings"), heat_maps, report], 1)


def _layers() -> ws.Section:
    panels = [
        wr.LinePlot(
            title=chart.title,
            x=STEP,
            metric_regex=f"^netdoctor/{chart.statistic}/.*",
            title_y=chart.meaning,
            log_y=not chart.share,
            range_y=(0.0, 1.0) if chart.share else (None, None),
        )
        for chart in LAYER_CHARTS
    ]
    return _section("Layers", panels, 2)


def _run() -> ws.Section:
    panels = [
        wr.LinePlot(title=statistic.replace("_", " "), x=STEP, metric_regex=f"^netdoctor/{statistic}(/.*)?$")
        for statistic in RUN_CHARTS
    ]
    return _section("Run", panels, 3)
