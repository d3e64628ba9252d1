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
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from netdoctor.facts import Facts

POINTS = 2048  # rows of a table at most
READINGS = (
    1 << 18
)  # of a table at most, where its rows can be fewer: 1 MB; 200 layers with all statistics stay below 50
FEWEST = 128  # rows that a full table may have at least, however many columns
AVERAGED = ("loss", "val_loss")  # statistics whose points are averaged, not dropped, when a table is thinned
FORMAT = "netdoctor-history"
VERSION = 1

_T = TypeVar("_T", bound=np.generic)
_FIRST, _FIRST_STEP, _LAST, _SUM, _COUNT = range(5)  # rows of Table._state


class HistoryError(ValueError):
    """A file that holds no history that this netdoctor can read."""


class Table:
    """One statistic over time: a row per recorded step, a column per layer or parameter.

    At most ``points`` rows, the fewer the more columns. A full table is thinned by two, and from then on a row stands
    for ``stride`` (2, 4, 8 …) points as they come, so that the rows stay evenly spaced:

    * by default the first point of each ``stride`` is kept and the others are dropped;
    * where ``averaged``, the row is the mean of the ``stride`` points and bears the last one's step. Points that are
      not finite are left out of the mean, except where there are no others.

    The last row always holds the newest: the latest point, which the next one replaces unless it is to be kept, or the
    mean of the points of its ``stride`` so far.
    """

    def __init__(self, columns: Sequence[str] = (), averaged: bool = False) -> None:
        self.columns: tuple[str, ...] = ()
        self.place: dict[str, int] = {}  # of each column
        self.points = POINTS
        self.averaged = averaged
        self.stride = 1
        self._seen = 0  # points added
        self._complete = False  # whether every column has its first reading
        self._rows = 0
        self._steps = np.zeros(0, np.int64)
        self._values = np.zeros((0, 0), np.float32)
        # A column's first finite reading and its step; its latest point; sum and count of the points that the last
        # row averages, the latest left out.
        self._state = np.zeros((5, 0))
        self._widen(tuple(columns))

    def __len__(self) -> int:
        return self._rows

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Table):
            return NotImplemented
        return (
            (self.columns, self.averaged, self.stride, self._seen)
            == (other.columns, other.averaged, other.stride, other._seen)
            and np.array_equal(self.steps, other.steps)
            and np.array_equal(self.values, other.values, equal_nan=True)
            and np.array_equal(self._state, other._state, equal_nan=True)
        )

    @property
    def steps(self) -> NDArray[np.int64]:
        """Steps of the rows, [rows], increasing. A read-only view, valid until the next point is added."""
        return _read_only(self._steps[: self._rows])

    @property
    def values(self) -> NDArray[np.float32]:
        """The readings, [rows, columns], NaN where not seen. A read-only view, valid until the next point is added."""
        return _read_only(self._values[: self._rows])

    @property
    def first(self) -> NDArray[np.float64]:
        """The first finite reading of each column as it was recorded, whatever was thinned since; [columns]."""
        return _read_only(self._state[_FIRST])

    def add(self, step: int, values: ArrayLike, columns: Sequence[str] = ("",)) -> None:
        """Add the readings of one step; a step added twice keeps each column's later reading that is not NaN.

        Columns are matched by name: a new one widens the table, one that is missing reads NaN.

        Raises:
            ValueError: The step is before the last one, or values and columns do not match.
        """
        if columns == self.columns and self._add_next(step, values):
            return
        columns = tuple(columns)
        with np.errstate(over="ignore"):
            given = np.atleast_1d(np.asarray(values, np.float32))
        if given.shape != (len(columns),):
            raise ValueError(f"{len(columns)} columns need as many values, got an array of shape {given.shape}")
        again = self._rows > 0 and step == self._steps[self._rows - 1]
        if self._rows and step < self._steps[self._rows - 1]:
            raise ValueError(f"steps must not decrease: step {step} came after step {self._steps[self._rows - 1]}")
        at: Any = slice(None)
        if columns != self.columns:
            if len(set(columns)) < len(columns):
                raise ValueError(f"columns must differ, got {columns}")
            index = self.place
            fresh = tuple(name for name in columns if name not in index)
            if fresh:
                index |= {name: i for i, name in enumerate(fresh, len(index))}
                self._widen(self.columns + fresh)
            at = [index[name] for name in columns]
        if again:
            given = np.where(np.isnan(given), self._state[_LAST, at], given)
        else:
            self._advance()
            self._steps[self._rows - 1] = step
            self._state[_LAST] = np.nan
        self._state[_LAST, at] = given
        self._note_first(step)
        self._values[self._rows - 1] = self._newest()

    def extend(self, steps: Sequence[int], values: ArrayLike, columns: Sequence[str] = ("",)) -> None:
        """Add the readings of several steps, [steps, columns]; the same as `add` for each of them, in order."""
        given, done = np.asarray(values), 0
        if not self._rows and len(steps):
            self.add(steps[0], given[0], columns)
            done = 1
        rows, end = self._rows, self._rows + len(steps) - done
        simple = (
            end > rows + 1
            and columns == self.columns
            and self._complete
            and self.stride == 1
            and end <= self.points
            and given.shape == (len(steps), len(self.columns))
            and np.all(np.diff((self._steps[rows - 1], *steps[done:])) > 0)
        )
        if not simple:
            for step, row in zip(steps[done:], given[done:], strict=True):
                self.add(step, row, columns)
            return
        if end > len(self._steps):
            self._resize(min(max(end, 2 * rows), self.points))
        with np.errstate(over="ignore"):
            self._values[rows:end] = given[done:]
        self._steps[rows:end] = steps[done:]
        self._state[_LAST] = self._values[end - 1]
        self._rows = end
        self._seen += end - rows

    def _add_next(self, step: int, values: ArrayLike) -> bool:
        """The usual case, fast: a new step of a table that never had to be thinned and has room for it."""
        row = self._rows
        if self.stride > 1 or not 0 < row < len(self._steps) or step <= self._steps[row - 1]:
            return False
        given = np.asarray(values)
        if given.shape != (len(self.columns),):
            return False
        with np.errstate(over="ignore"):
            self._values[row] = given
        self._steps[row] = step
        self._state[_LAST] = self._values[row]
        self._rows += 1
        self._seen += 1
        if not self._complete:
            self._note_first(step)
        return True

    def _advance(self) -> None:
        """Make the last row the one that the next point belongs to."""
        last = self._state[_LAST]
        if self.averaged:
            opens = self._seen % self.stride == 0
            finite = np.isfinite(last)
            self._state[_SUM] = 0 if opens else self._state[_SUM] + np.where(finite, last, 0)
            self._state[_COUNT] = 0 if opens else self._state[_COUNT] + finite
        else:
            opens = (self._seen - 1) % self.stride == 0
        self._seen += 1
        if not opens:
            return
        if self._rows >= self.points:
            self._thin()
        if self._rows == len(self._steps):
            self._resize(min(max(16, 2 * self._rows), self.points))
        self._rows += 1

    def _thin(self) -> None:
        """Halve the rows: means of pairs, or the first of each pair."""
        half = self._rows // 2
        if self.averaged:
            a, b = self._values[: 2 * half : 2], self._values[1 : 2 * half : 2]
            with np.errstate(invalid="ignore"):
                self._values[:half] = np.where(np.isfinite(a), np.where(np.isfinite(b), a * 0.5 + b * 0.5, a), b)
            self._steps[:half] = self._steps[1 : 2 * half : 2].copy()
        else:
            self._values[:half] = self._values[: 2 * half : 2].copy()
            self._steps[:half] = self._steps[: 2 * half : 2].copy()
        self._rows = half
        self.stride *= 2

    def _note_first(self, step: int) -> None:
        first, first_step, last = self._state[_FIRST], self._state[_FIRST_STEP], self._state[_LAST]
        missing = np.isnan(first) | (first_step == step)
        if missing.any():
            first[missing] = np.where(np.isfinite(last), last, np.nan)[missing]
            first_step[missing] = step
        self._complete = not np.isnan(first).any()

    def _newest(self) -> NDArray[np.float64]:
        """The last row: the latest point, or the mean of those that it stands for."""
        last: NDArray[np.float64] = self._state[_LAST]
        if not self.averaged or self.stride == 1:
            return last
        finite = np.isfinite(last)
        count = self._state[_COUNT] + finite
        mean = (self._state[_SUM] + np.where(finite, last, 0)) / np.maximum(count, 1)
        return np.asarray(np.where(count > 0, mean, last))

    def _resize(self, rows: int) -> None:
        steps, values = self.steps, self.values
        self._steps = np.zeros(rows, np.int64)
        self._values = np.full((rows, len(self.columns)), np.nan, np.float32)
        self._steps[: self._rows] = steps
        self._values[: self._rows, : values.shape[1]] = values

    def _widen(self, columns: tuple[str, ...]) -> None:
        """Take on ``columns``, which begin with the present ones."""
        if not self.columns and columns:
            self.points = min(POINTS, max(FEWEST, 1 << (READINGS // len(columns)).bit_length() - 1))
        state = np.full((5, len(columns)), np.nan)
        state[[_SUM, _COUNT]] = 0
        state[:, : len(self.columns)] = self._state
        self.columns, self._state, self._complete = columns, state, False
        self.place = {name: place for place, name in enumerate(columns)}
        self._resize(len(self._steps))


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
        self._derived: dict[Any, Any] = {}
        self._derived_of = self.facts

    @property
    def derived(self) -> dict[Any, Any]:
        """What `netdoctor.derived` remembers of it as it is now."""
        if self._derived_of is not self.facts:
            self._derived.clear()
            self._derived_of = self.facts
        return self._derived

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
        known = self.derived
        if "step" not in known:
            known["step"] = max((int(table.steps[-1]) for table in self._tables.values() if len(table)), default=0)
        return int(known["step"])

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names of the recorded statistics, in the order of their first record."""
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
        try:
            table.extend(steps, values, columns)
        except ValueError as error:
            raise ValueError(f"{statistic}: {error}") from None
        self._tables[statistic] = table
        self._derived.clear()

    def table(self, statistic: str) -> Table:
        """The series of all columns of a statistic; an empty table where it was never recorded."""
        table = self._tables.get(statistic)
        return _EMPTY if table is None else table

    def series(self, statistic: str, column: str = "") -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Steps and readings of one column, finite ones only; empty where there are none."""
        known = self.derived
        if (statistic, column) not in known:
            table = self.table(statistic)
            place = table.place.get(column)
            readings = table.values[:, place] if place is not None else np.zeros(0, np.float32)
            finite = np.isfinite(readings)
            steps = table.steps if place is not None else np.zeros(0, np.int64)
            known[statistic, column] = _read_only(steps[finite]), _read_only(readings[finite])
        found: tuple[NDArray[np.int64], NDArray[np.float32]] = known[statistic, column]
        return found

    def latest(self, statistic: str) -> dict[str, float]:
        """The last row, by column, finite readings only: a column not seen in that step is left out."""
        known = self.derived
        if (statistic, -1) not in known:
            table = self.table(statistic)
            known[statistic, -1] = _finite(table.columns, table.values[-1]) if len(table) else {}
        return dict(known[statistic, -1])

    def first(self, statistic: str) -> dict[str, float]:
        """The first finite reading of each column, as it was recorded, whatever was thinned since."""
        known = self.derived
        if (statistic, 0) not in known:
            table = self.table(statistic)
            known[statistic, 0] = _finite(table.columns, table.first)
        return dict(known[statistic, 0])

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
                    "seen": table._seen,
                }
                for statistic, table in self._tables.items()
            ],
        }
        arrays: dict[str, Any] = {"header": np.frombuffer(json.dumps(header, default=_plain).encode(), np.uint8)}
        for i, table in enumerate(self._tables.values()):
            arrays |= {f"{i}.steps": table.steps, f"{i}.values": table.values, f"{i}.state": table._state}
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
                table = Table(entry["columns"], bool(entry["averaged"]))
                table.stride, table._seen = int(entry["stride"]), int(entry["seen"])
                table._steps, table._values, table._state = (
                    member(f"{i}.{part}") for part in ("steps", "values", "state")
                )
                table._rows = len(table._steps)
                _validate(table)
                history._tables[str(entry["statistic"])] = table
            return history


def _validate(table: Table) -> None:
    """ValueError where the parts of a loaded table do not fit together."""
    rows, columns = len(table), len(table.columns)
    arrays = (
        (table._steps, np.int64, (rows,)),
        (table._values, np.float32, (rows, columns)),
        (table._state, np.float64, (5, columns)),
    )
    for array, kind, shape in arrays:
        if array.dtype != kind or array.shape != shape:
            raise ValueError(f"an array is {array.dtype} {array.shape} where {np.dtype(kind)} {shape} belongs")
    if rows > POINTS or np.any(np.diff(table._steps) <= 0):
        raise ValueError(f"steps of a table must increase and be at most {POINTS}")
    if not all(isinstance(name, str) for name in table.columns) or len(set(table.columns)) < columns:
        raise ValueError("columns of a table must be different names")
    if table.stride < 1 or table.stride & (table.stride - 1) or not rows <= table._seen <= rows * table.stride:
        raise ValueError("stride and number of points of a table contradict each other")


def _plain(value: Any) -> Any:
    """A value that JSON has no form for: numpy's numbers are numbers."""
    return value.item() if isinstance(value, np.generic) else str(value)


def _finite(columns: Sequence[str], values: NDArray[Any]) -> dict[str, float]:
    return {name: value for name, value in zip(columns, values.tolist(), strict=True) if isfinite(value)}


def _read_only(array: NDArray[_T]) -> NDArray[_T]:
    view: NDArray[_T] = array.view()
    view.flags.writeable = False
    return view


_EMPTY = Table()  # of all statistics that were never recorded; nobody adds to it
