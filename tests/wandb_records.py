"""Reads back what an offline run of W&B wrote: a file of LevelDB log blocks that hold protobuf records."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

Record: Any = wandb_internal_pb2.Record  # type: ignore[attr-defined]  # made at run time

BLOCK = 32768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def payloads(data: bytes) -> Iterator[bytes]:
    if len(data) < 7:
        return
    magic, version = struct.unpack("<HB", data[4:7])
    assert (data[:4], magic, version) == (b":W&B", 0xBEE1, 0)
    place, parts = 7, b""
    while place + 7 <= len(data):
        left = BLOCK - place % BLOCK
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        part = data[place + 7 : place + 7 + length]
        if kind == 0 or len(part) < length:
            return
        place += 7 + length
        parts = part if kind in (FULL, FIRST) else parts + part
        if kind in (FULL, LAST):
            yield parts


class Records:
    """The records of one run.

    Attributes:
        rows: The history: a dict for each row, in order; its number is under "_step".
        metrics: Of each name what `define_metric` said.
        summary: What was set in the summary, the latest values.
        alerts: Title and text of each alert.
        files: The run's folder of files.
    """

    def __init__(self, folder: Path) -> None:
        file = next(folder.glob("*.wandb"))
        self.files = folder / "files"
        self.rows: list[dict[str, Any]] = []
        self.metrics: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.alerts: list[tuple[str, str]] = []
        kinds: set[str] = set()
        patience = time.monotonic() + 30
        while "exit" not in kinds and time.monotonic() < patience:  # finish() returns before the file is whole
            records = []
            for payload in payloads(file.read_bytes()):
                record = Record()
                record.ParseFromString(payload)
                records.append(record)
            kinds = {record.WhichOneof("record_type") for record in records}
            time.sleep(0.02)
        assert "exit" in kinds, f"{file} is not complete"
        for record in records:
            self._read(record)

    def _read(self, record: Any) -> None:
        kind = record.WhichOneof("record_type")
        if kind == "history":
            self.rows.append(_values(record.history.item) | {"_step": record.history.step.num})
        elif kind == "metric":
            self.metrics[record.metric.name or record.metric.glob_name] = record.metric
        elif kind == "summary":
            self.summary |= _values(record.summary.update)
        elif kind == "alert":
            self.alerts.append((record.alert.title, record.alert.text))

    def of(self, *keys: str) -> list[tuple[Any, ...]]:
        """The rows that have all of the keys, as tuples of their values."""
        return [tuple(row[key] for key in keys) for row in self.rows if all(key in row for key in keys)]


def _values(items: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in items:
        *path, last = item.nested_key or [item.key]
        place = values
        for part in path:
            place = place.setdefault(part, {})
        place[last] = json.loads(item.value_json)
    return values


def records(root: Path) -> Records:
    """The one run below a folder."""
    (folder,) = (path for path in root.glob("wandb/offline-run-*") if path.is_dir())
    return Records(folder)
