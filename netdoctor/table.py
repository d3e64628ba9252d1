"""One statistic over time, of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

POINTS = 2048  # rows of a table at most
READINGS = 1 << 18  # of a table at most, where its rows can be fewer: 1 MB; 200 layers with all statistics: below 50
FEWEST = 128  # rows that a full table may have at least, however many columns

_T = TypeVar("_T", bound=np.generic)
_FIRST, _FIRST_STEP, _LAST, _SUM, _COUNT = range(5)  # rows of Table._state


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
        self.firsts = 0  # times that a first reading came or changed
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
        return read_only(self._steps[: self._rows])

    @property
    def values(self) -> NDArray[np.float32]:
        """The readings, [rows, columns], NaN where not seen. A read-only view, valid until the next point is added."""
        return read_only(self._values[: self._rows])

    @property
    def first(self) -> NDArray[np.float64]:
        """The first finite reading of each column as it was recorded, whatever was thinned since; [columns]."""
        return read_only(self._state[_FIRST])

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
            and self.stride == 1
            and end <= self.points
            and given.shape == (len(steps), len(self.columns))
            and (self._complete or not np.isfinite(given[done:, np.isnan(self._state[_FIRST])]).any())
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
            given = np.where(np.isfinite(last), last, np.nan)[missing]
            self.firsts += not np.array_equal(first[missing], given, equal_nan=True)
            first[missing], first_step[missing] = given, step
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

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that it holds, for a file."""
        return {"steps": self.steps, "values": self.values, "state": self._state}

    @classmethod
    def restored(
        cls, columns: Sequence[str], averaged: bool, stride: int, seen: int, arrays: dict[str, NDArray[Any]]
    ) -> Table:
        """A table from what a file holds.

        Raises:
            ValueError: The parts do not fit together.
        """
        table = cls(columns, averaged)
        table.stride, table._seen = stride, seen
        table._steps, table._values, table._state = (arrays[name] for name in ("steps", "values", "state"))
        table._rows = len(table._steps)
        _validate(table)
        return table

    @property
    def seen(self) -> int:
        """Points added so far, those that were thinned included."""
        return self._seen


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


def read_only(array: NDArray[_T]) -> NDArray[_T]:
    """A view that nobody can write to."""
    view: NDArray[_T] = array.view()
    view.flags.writeable = False
    return view
