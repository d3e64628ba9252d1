"""The numbers of a run: bounded series by statistic, column (layer or parameter name) and step."""

from __future__ import annotations

import importlib
import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from netdoctor.derived import Memory
from netdoctor.facts import Facts
from netdoctor.table import Table, read_only

AVERAGED = ("loss", "val_loss")  # statistics whose points are averaged, not dropped, when a table is thinned
_STEP, _NAMES, _FIRST, _COLUMNS = "the latest step", "the names", "first", "columns"  # parts that a memory knows
FORMAT = "netdoctor-history"
VERSION = 1


class HistoryError(ValueError):
    """A file that holds no history that this netdoctor can read."""


class History:
    """Everything that was measured in a run, of bounded size.

    Attributes:
        facts: What is known beside the numbers.
        context: What was found in the run and how it was watched, as `netdoctor.reopening` keeps it; plain values.
    """

    def __init__(self, facts: Facts | None = None) -> None:
        self.facts = facts if facts is not None else Facts()
        self.context: dict[str, Any] = {}
        self._tables: dict[str, Table] = {}
        self._memory = Memory()
        self._memory_of = self.facts
        self._step = 0
        self._series: dict[tuple[str, str], tuple[NDArray[np.int64], NDArray[np.float32]]] = {}  # as they are now

    @property
    def memory(self) -> Memory:
        """What follows from it, as far as it was asked for."""
        if self._memory_of is not self.facts:
            self._memory.forget()
            self._memory_of = self.facts
        return self._memory

    def __repr__(self) -> str:
        return f"History(step={self.step}, statistics={self.statistics})"

    def __eq__(self, other: object) -> bool:
        """Same facts and same readings; NaN equals NaN."""
        if not isinstance(other, History):
            return NotImplemented
        return self.facts == other.facts and self._tables == other._tables

    @classmethod
    def of(
        cls,
        facts: Facts | None = None,
        steps: Sequence[int] | None = None,
        **tables: Sequence[float] | Mapping[str, Sequence[float]],
    ) -> History:
        """A history by hand: ``History.of(loss=[2.3, 2.2], gradient_rms={"fc1": [1e-9, 1e-9]})``.

        Args:
            facts: What is known beside the numbers.
            steps: Steps of the readings, for all statistics; 1, 2, 3 … by default.
            **tables: For each statistic its readings, or those of each column.
        """
        history = cls(facts)
        for statistic, given in tables.items():
            series = given if isinstance(given, Mapping) else {"": given}
            lengths = {name: len(readings) for name, readings in series.items()}
            taken = range(1, max(lengths.values(), default=0) + 1) if steps is None else steps
            if any(length != len(taken) for length in lengths.values()):
                raise ValueError(f"{statistic} needs {len(taken)} readings in each column, one a step; got {lengths}")
            if len(taken):
                history.record_rows(taken, statistic, np.array(list(series.values())).T, tuple(series))
        return history

    @property
    def step(self) -> int:
        """The latest recorded step, 0 before the first."""
        self._memory.looked_at(_STEP)
        return self._step

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names of the recorded statistics, in the order of their first record."""
        self._memory.looked_at(_NAMES)
        return tuple(self._tables)

    def record(self, step: int, statistic: str, values: ArrayLike, columns: Sequence[str] = ("",)) -> None:
        """Add the readings of one step; a step recorded twice keeps each column's later reading that is not NaN.

        Args:
            step: Optimizer step, not before the statistic's last one.
            statistic: Its name.
            values: One number a column; NaN where there is none. Stored as float32, NaN and Inf as they are.
            columns: Names of layers or parameters, "" for the run. New names widen the table.

        Raises:
            ValueError: The step is before the last one, or values and columns do not match.
        """
        self.record_rows((step,), statistic, np.atleast_1d(np.asarray(values))[None], columns)

    def record_rows(
        self, steps: Sequence[int], statistic: str, values: ArrayLike, columns: Sequence[str] = ("",)
    ) -> None:
        """`record` for several steps at once: values are [steps, columns]."""
        table = self._tables[statistic] if statistic in self._tables else Table(averaged=statistic in AVERAGED)
        firsts, before = table.firsts, table.columns
        try:
            table.extend(steps, values, columns)
        except ValueError as error:
            raise ValueError(f"{statistic}: {error}") from None
        if statistic not in self._tables:
            self._tables[statistic] = table
            self._memory.changed(_NAMES)
        if len(table):
            self._step = max(self._step, int(table.steps[-1]))
        self._series.clear()
        self._memory.changed(
            _STEP,
            statistic,
            *(((statistic, _FIRST),) if table.firsts > firsts else ()),
            *(((statistic, _COLUMNS),) if table.columns is not before else ()),
        )

    def table(self, statistic: str) -> Table:
        """The series of all columns of a statistic; an empty table where it was never recorded."""
        self._memory.looked_at(statistic)
        return self._tables.get(statistic, _EMPTY)

    def columns(self, statistic: str) -> tuple[str, ...]:
        """Names of a statistic's columns, none where it was never recorded."""
        self._memory.looked_at((statistic, _COLUMNS))
        return self._tables.get(statistic, _EMPTY).columns

    def series(self, statistic: str, column: str = "") -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Steps and readings of one column, finite ones only; empty where there are none."""
        table = self.table(statistic)
        if (statistic, column) not in self._series:
            place = table.place.get(column)
            readings = table.values[:, place] if place is not None else np.zeros(0, np.float32)
            finite = np.isfinite(readings)
            steps = table.steps if place is not None else np.zeros(0, np.int64)
            self._series[statistic, column] = read_only(steps[finite]), read_only(readings[finite])
        return self._series[statistic, column]

    def latest(self, statistic: str) -> dict[str, float]:
        """The last row, by column, finite readings only: a column not seen in that step is left out."""
        return dict(self.memory.once((statistic, "latest"), lambda: self._latest(statistic)))

    def _latest(self, statistic: str) -> dict[str, float]:
        table = self.table(statistic)
        return _finite(table.columns, table.values[-1]) if len(table) else {}

    def first(self, statistic: str) -> dict[str, float]:
        """The first finite reading of each column, as it was recorded, whatever was thinned since."""
        return dict(self.memory.once((statistic, _FIRST), lambda: self._first(statistic)))

    def _first(self, statistic: str) -> dict[str, float]:
        self._memory.looked_at((statistic, _FIRST))
        table = self._tables.get(statistic, _EMPTY)
        return _finite(table.columns, table.first)

    def window(self, statistic: str, last: int) -> NDArray[np.float32]:
        """The last rows, at most ``last``: [rows, columns], NaN and Inf included."""
        values = self.table(statistic).values
        return values[max(len(values) - max(last, 0), 0) :]

    def to_dataframe(self) -> Any:
        """A pandas DataFrame in long form: step, statistic, name, value; a row for every reading that is not NaN."""
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            raise ImportError("to_dataframe() needs pandas: pip install pandas") from error
        columns: dict[str, list[NDArray[Any]]] = {
            "step": [np.zeros(0, np.int64)],
            "statistic": [np.zeros(0, object)],
            "name": [np.zeros(0, object)],
            "value": [np.zeros(0, np.float32)],
        }
        for statistic, table in self._tables.items():
            row, column = np.nonzero(~np.isnan(table.values))
            columns["step"].append(table.steps[row])
            columns["statistic"].append(np.full(len(row), statistic, object))
            columns["name"].append(np.array(table.columns, object)[column])
            columns["value"].append(table.values[row, column])
        return pandas.DataFrame({name: np.concatenate(parts) for name, parts in columns.items()})

    def to_bytes(self) -> bytes:
        """What `save` writes."""
        header = {
            "format": FORMAT,
            "version": VERSION,
            "facts": self.facts.to_dict(),
            "context": self.context,
            "tables": [
                {
                    "statistic": statistic,
                    "columns": table.columns,
                    "averaged": table.averaged,
                    "stride": table.stride,
                    "seen": table.seen,
                }
                for statistic, table in self._tables.items()
            ],
        }
        arrays: dict[str, Any] = {"header": np.frombuffer(json.dumps(header, default=_plain).encode(), np.uint8)}
        for i, table in enumerate(self._tables.values()):
            arrays |= {f"{i}.{part}": array for part, array in table.arrays.items()}
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        return file.getvalue()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the history to exactly ``path``, whole or not at all: an older file stays until the new one is safe."""
        path = Path(path)
        beside = path.with_name(path.name + ".tmp")
        try:
            with open(beside, "wb") as file:
                file.write(self.to_bytes())
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> History:
        """Read what `save` wrote.

        Raises:
            HistoryError: The file is damaged, no history, or of a newer netdoctor.
            OSError: The file cannot be opened.
        """
        with open(path, "rb") as file:
            return cls.from_bytes(file.read(), os.fspath(path))

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "the state") -> History:
        """The inverse of `to_bytes`; errors speak of ``source``.

        Raises:
            HistoryError: They are damaged, no history, or of a newer netdoctor.
        """
        try:
            return cls._read(io.BytesIO(data), source)
        except HistoryError:
            raise
        except Exception as error:  # numpy, zipfile, zlib and json raise a dozen kinds on damaged bytes
            raise HistoryError(f"{source} is damaged or no netdoctor history: {error}") from error

    @classmethod
    def _read(cls, file: io.BytesIO, path: str) -> History:
        with zipfile.ZipFile(file) as archive:

            def member(name: str) -> NDArray[Any]:
                data = archive.read(f"{name}.npy")  # to its end, which checks its checksum; np.load would not
                array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
                return array

            header = json.loads(member("header").tobytes())
            if header["format"] != FORMAT:
                raise ValueError(f"its format is {header['format']!r}")
            if header["version"] > VERSION:
                raise HistoryError(
                    f"{path} was written by a newer netdoctor: format version {header['version']}, this one reads up "
                    f"to {VERSION}; upgrade with pip install -U netdoctor-torch"
                )
            history = cls(Facts.from_dict(header["facts"]))
            history.context = dict(header.get("context", {}))
            for i, entry in enumerate(header["tables"]):
                arrays = {part: member(f"{i}.{part}") for part in ("steps", "values", "state")}
                shape = bool(entry["averaged"]), int(entry["stride"]), int(entry["seen"])
                history._tables[str(entry["statistic"])] = Table.restored(entry["columns"], *shape, arrays)
            history._step = max((int(table.steps[-1]) for table in history._tables.values() if len(table)), default=0)
            return history


def _plain(value: Any) -> Any:
    """A value that JSON has no form for: numpy's numbers are numbers."""
    return value.item() if isinstance(value, np.generic) else str(value)


def _finite(columns: Sequence[str], values: NDArray[Any]) -> dict[str, float]:
    return {name: value for name, value in zip(columns, values.tolist(), strict=True) if isfinite(value)}


_EMPTY = Table()  # of all statistics that were never recorded; nobody adds to it
