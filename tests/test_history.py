"""What a user keeps of a run: bounded, in order, and safe on disk."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netdoctor import history, table
from netdoctor.facts import Facts, Group, Layer, Loss, Parameter
from netdoctor.history import History, HistoryError
from netdoctor.table import POINTS

FACTS = Facts(
    model="MLP",
    layers=(Layer("fc1", "linear", fan_in=4, inputs=("in",)),),
    parameters=(Parameter("fc1.weight", "fc1", (3, 4), "weight", group=0),),
    groups=(Group("SGD", 0, 0.1),),
    loss=Loss("mse", ("MseLossBackward0",), (8, 1), (8,)),
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """Tables of 8 rows, so that a few points thin them."""
    monkeypatch.setattr(table, "POINTS", 8)
    return 8


def recorded(statistic: str, readings: list[float]) -> History:
    history = History()
    for step, reading in enumerate(readings, 1):
        history.record(step, statistic, reading)
    return history


def example() -> History:
    history = History.of(FACTS, loss=[2.0, math.nan, math.inf, 1.0], weight_rms={"fc1": [1, 2], "größe": [3, 4]})
    history.record(9, "weight_rms", [5, 6], ("fc1", "fc3"))
    return history


class TestReading:
    def test_a_series_holds_what_was_recorded(self) -> None:
        history = History.of(loss=[2.5, 2.25, 2.0])
        steps, readings = history.series("loss")
        assert steps.tolist() == [1, 2, 3]
        assert readings.tolist() == [2.5, 2.25, 2.0]
        assert history.step == 3
        assert history.statistics == ("loss",)

    def test_what_is_not_finite_is_kept_in_the_table_and_left_out_of_readings(self) -> None:
        history = History.of(norm={"a": [math.nan, 1, math.inf], "b": [4, 5, 6]})
        np.testing.assert_array_equal(history.table("norm").values, [[math.nan, 4], [1, 5], [math.inf, 6]])
        assert history.series("norm", "a")[0].tolist() == [2]
        assert history.latest("norm") == {"b": 6}
        assert history.first("norm") == {"a": 1, "b": 4}

    def test_latest_is_the_last_row_not_each_columns_last(self) -> None:
        history = History.of(norm={"a": [1, 2]})
        history.record(3, "norm", [7], ("b",))
        assert history.latest("norm") == {"b": 7}

    def test_columns_are_matched_by_name(self) -> None:
        history = History()
        history.record(1, "norm", [1, 2], ("a", "b"))
        history.record(2, "norm", [30, 20, 10], ("c", "b", "a"))
        history.record(3, "norm", [200], ("b",))
        nan = math.nan
        assert history.table("norm").columns == ("a", "b", "c")
        np.testing.assert_array_equal(history.table("norm").values, [[1, 2, nan], [10, 20, 30], [nan, 200, nan]])

    @pytest.mark.parametrize("statistic", ["loss", "norm"])
    def test_a_step_recorded_twice_keeps_the_later_reading(self, statistic: str) -> None:
        history = History()
        history.record(1, statistic, [1, 2], ("a", "b"))
        history.record(1, statistic, [5, 6], ("b", "c"))
        assert history.table(statistic).steps.tolist() == [1]
        assert history.latest(statistic) == history.first(statistic) == {"a": 1, "b": 5, "c": 6}

    def test_nothing_recorded_reads_as_empty(self) -> None:
        history = History()
        assert history.step == 0
        assert history.table("loss").columns == ()
        assert history.table("loss").values.shape == (0, 0)
        assert [len(part) for part in history.series("loss")] == [0, 0]
        assert history.latest("loss") == history.first("loss") == {}
        assert len(history.window("loss", 5)) == 0
        assert history.statistics == ()

    def test_window_gives_the_last_rows(self) -> None:
        history = History.of(norm={"a": [1, 2, 3], "b": [4, 5, 6]})
        assert history.window("norm", 2).tolist() == [[2, 5], [3, 6]]
        assert history.window("norm", 9).shape == (3, 2)
        assert history.window("norm", 0).shape == (0, 2)

    def test_a_reader_cannot_change_the_history(self) -> None:
        history = History.of(loss=[1.0, 2.0])
        with pytest.raises(ValueError, match="read-only"):
            history.table("loss").values[0] = 7
        with pytest.raises(ValueError, match="read-only"):
            history.window("loss", 1)[0] = 7

    def test_to_dataframe_is_long_and_leaves_out_nan(self) -> None:
        pytest.importorskip("pandas")
        frame = example().to_dataframe()
        assert list(frame.columns) == ["step", "statistic", "name", "value"]
        assert len(frame[frame.statistic == "loss"]) == 3
        row = frame[(frame.statistic == "weight_rms") & (frame.step == 9)]
        assert dict(zip(row.name, row.value, strict=True)) == {"fc1": 5, "fc3": 6}
        assert len(History().to_dataframe()) == 0

    def test_without_pandas_the_message_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(ImportError, match="pip install pandas"):
            History().to_dataframe()


class TestMistakes:
    def test_a_step_back_is_refused_and_changes_nothing(self) -> None:
        history = History.of(loss=[1.0, 2.0])
        with pytest.raises(ValueError, match="loss: steps must not decrease: step 1 came after step 2"):
            history.record(1, "loss", 3.0)
        assert history == History.of(loss=[1.0, 2.0])

    def test_values_must_match_columns(self) -> None:
        history = History()
        with pytest.raises(ValueError, match="norm: 2 columns need as many values"):
            history.record(1, "norm", [1, 2, 3], ("a", "b"))
        with pytest.raises(ValueError, match="columns must differ"):
            history.record(1, "norm", [1, 2], ("a", "a"))
        assert history.statistics == ()

    def test_of_names_the_statistic_of_the_wrong_length(self) -> None:
        with pytest.raises(ValueError, match="norm needs 3 readings"):
            History.of(norm={"a": [1, 2, 3], "b": [1, 2]})
        with pytest.raises(ValueError, match="loss needs 1 readings"):
            History.of(steps=[1], loss=[1.0, 2.0])

    def test_a_number_beyond_float32_is_infinite_without_a_warning(self) -> None:
        assert History.of(loss=[1e300]).table("loss").values.tolist() == [[math.inf]]


class TestThinning:
    def test_dropped_points_leave_the_first_an_even_spacing_and_the_latest(self, small: int) -> None:
        history = recorded("norm", [10.0 * step for step in range(1, 20)])
        table = history.table("norm")
        assert table.steps.tolist() == [1, 5, 9, 13, 17, 19]
        assert table.values[:, 0].tolist() == [10, 50, 90, 130, 170, 190]

    def test_averaged_points_bear_the_last_step_of_their_block(self, small: int) -> None:
        history = recorded("loss", [float(step) for step in range(1, 20)])
        table = history.table("loss")
        assert table.steps.tolist() == [4, 8, 12, 16, 19]
        assert table.values[:, 0].tolist() == [2.5, 6.5, 10.5, 14.5, 18.0]
        assert history.first("loss") == {"": 1.0}

    def test_one_infinite_loss_does_not_swallow_its_block(self, small: int) -> None:
        history = recorded("loss", [math.inf, *[2.0] * 8, math.nan, 2.0, 2.0, -math.inf, math.nan])
        assert history.series("loss")[1].tolist() == [2.0] * 6
        assert math.isnan(history.table("loss").values[-1, 0])  # nothing finite in the last block

    def test_a_table_stays_under_its_share_of_50_mb(self) -> None:
        columns = tuple(map(str, range(200)))
        history = History()
        for step in range(1, 2 * POINTS + 7):
            history.record(step, "norm", np.full(200, step, np.float32), columns)
        table = history.table("norm")
        held = sum(part.nbytes for part in vars(table).values() if isinstance(part, np.ndarray))
        assert 25 * held < 50e6
        assert len(table) <= POINTS
        assert table.steps[[0, -1]].tolist() == [1, 2 * POINTS + 6]

    @settings(max_examples=60, deadline=None)
    @given(
        readings=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=150),
        gaps=st.lists(st.integers(1, 9), min_size=150, max_size=150),
    )
    def test_any_series_stays_bounded_ordered_even_and_fresh(self, readings: list[float], gaps: list[int]) -> None:
        steps = np.cumsum(gaps)[: len(readings)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(table, "POINTS", 8)
            history = History()
            for count, (step, reading) in enumerate(zip(steps, readings, strict=True), 1):
                history.record(int(step), "norm", reading)
                history.record(int(step), "loss", reading)
                for name in ("norm", "loss"):
                    assert len(history.table(name)) <= 8
                    assert history.table(name).steps[-1] == step == history.step
                    assert history.first(name) == {"": readings[0]}
                assert history.latest("norm") == {"": reading}
                assert count < 8 or len(history.table("loss")) >= 4
        kept, averaged = history.table("norm"), history.table("loss")
        stride = kept.stride
        assert kept.steps[:-1].tolist() == steps[::stride].tolist()[: len(kept) - 1]
        block = averaged.stride
        means = [np.mean(readings[i : i + block]) for i in range(0, len(readings), block)]
        np.testing.assert_allclose(averaged.values[:, 0], means, rtol=1e-4, atol=1e-3)
        weights = [len(readings[i : i + block]) for i in range(0, len(readings), block)]
        assert np.average(averaged.values[:, 0], weights=weights) == pytest.approx(np.mean(readings), abs=1e-2)


class TestFile:
    @pytest.mark.parametrize("name", ["run.nd", "run", "run.npz", "run.tar.gz"])
    def test_it_comes_back_equal_from_exactly_that_path(self, tmp_path: Path, name: str) -> None:
        history = example()
        history.save(tmp_path / name)
        assert os.listdir(tmp_path) == [name]
        assert History.load(tmp_path / name) == history
        assert History.load(str(tmp_path / name)).facts == FACTS

    @settings(max_examples=25, deadline=None)
    @given(readings=st.lists(st.floats(width=32), max_size=40), more=st.lists(st.floats(width=32), max_size=40))
    def test_a_loaded_history_goes_on_as_if_never_saved(
        self, tmp_path_factory: pytest.TempPathFactory, readings: list[float], more: list[float]
    ) -> None:
        path = tmp_path_factory.mktemp("history") / "run.nd"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(table, "POINTS", 8)
            history = History(FACTS)
            for step, reading in enumerate(readings, 1):
                for name in ("loss", "norm"):
                    history.record(step, name, reading)
            history.save(path)
            loaded = History.load(path)
            assert loaded == history
            for step, reading in enumerate(more, len(readings) + 1):
                for name in ("loss", "norm"):
                    history.record(step, name, reading)
                    loaded.record(step, name, reading)
            assert loaded == history

    def test_histories_that_differ_are_not_equal(self) -> None:
        assert example() == example()
        assert History.of(loss=[1.0]) != History.of(loss=[2.0])
        assert History.of(loss=[1.0]) != History.of(FACTS, loss=[1.0])
        assert History.of(loss=[1.0]) != History.of(val_loss=[1.0])

    def test_missing_files_and_folders_say_so_themselves(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            History.load(tmp_path / "none.nd")
        with pytest.raises(IsADirectoryError):
            History.load(tmp_path)
        with pytest.raises(FileNotFoundError):
            History().save(tmp_path / "no" / "run.nd")

    def test_a_failed_write_leaves_the_older_file_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "run.nd"
        example().save(path)

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            History.of(loss=[1.0]).save(path)
        assert os.listdir(tmp_path) == ["run.nd"]
        assert History.load(path) == example()

    def test_a_truncated_file_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "run.nd"
        example().save(path)
        whole = path.read_bytes()
        for length in (0, 1, 30, len(whole) // 3, len(whole) // 2, len(whole) - 100, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(HistoryError, match=r"run\.nd is damaged or no netdoctor history"):
                History.load(path)

    def test_a_flipped_byte_never_gives_other_numbers(self, tmp_path: Path) -> None:
        path = tmp_path / "run.nd"
        example().save(path)
        whole = path.read_bytes()
        refused = 0
        for position in range(0, len(whole), 3):
            flipped = bytearray(whole)
            flipped[position] ^= 0xFF
            path.write_bytes(flipped)
            try:
                assert History.load(path) == example()  # in a time stamp, say
            except HistoryError:
                refused += 1
        assert refused > 0.5 * len(whole) / 3

    @pytest.mark.parametrize("content", [b"step,loss\n1,2.3\n", b"\x80\x04K\x01.", b"PK\x03\x04"])
    def test_other_files_are_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(HistoryError, match="other is damaged or no netdoctor history"):
            History.load(tmp_path / "other")

    def test_another_npz_and_pickled_objects_are_refused(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "other.npz", weights=np.ones(3))
        with pytest.raises(HistoryError, match="no netdoctor history"):
            History.load(tmp_path / "other.npz")
        np.savez(tmp_path / "objects.npz", header=np.array([{"format": "netdoctor-history"}], object))
        with pytest.raises(HistoryError, match="no netdoctor history"):
            History.load(tmp_path / "objects.npz")

    @staticmethod
    def rewrite(path: Path, **changes: object) -> None:
        with np.load(path) as archive:
            arrays = dict(archive)
        header = json.loads(arrays["header"].tobytes())
        arrays["header"] = np.frombuffer(json.dumps(header | changes).encode(), np.uint8)
        with open(path, "wb") as file:
            np.savez(file, **arrays)

    def test_a_newer_version_says_how_to_upgrade(self, tmp_path: Path) -> None:
        path = tmp_path / "run.nd"
        example().save(path)
        self.rewrite(path, version=2)
        with pytest.raises(HistoryError) as caught:
            History.load(path)
        assert str(caught.value) == (
            f"{path} was written by a newer netdoctor: format version 2, this one reads up to 1; "
            "upgrade with pip install -U netdoctor-torch"
        )

    def test_unknown_header_keys_are_tolerated(self, tmp_path: Path) -> None:
        path = tmp_path / "run.nd"
        example().save(path)
        self.rewrite(path, netdoctor="9.9", host={"gpu": 1})
        assert History.load(path) == example()

    @pytest.mark.parametrize(
        ("key", "value"), [("columns", ["a", "b"]), ("columns", ["a"] * 3), ("seen", 1), ("stride", 3)]
    )
    def test_parts_that_do_not_fit_together_are_refused(self, tmp_path: Path, key: str, value: object) -> None:
        path = tmp_path / "run.nd"
        History.of(norm={"a": [1, 2], "b": [1, 2], "c": [1, 2]}).save(path)
        entry = {"statistic": "norm", "columns": ["a", "b", "c"], "averaged": False, "stride": 1, "seen": 2}
        self.rewrite(path, tables=[entry])
        History.load(path)
        self.rewrite(path, tables=[entry | {key: value}])
        with pytest.raises(HistoryError, match="damaged"):
            History.load(path)

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
    def test_a_process_killed_while_saving_leaves_a_file_that_loads(self, tmp_path: Path) -> None:
        path = tmp_path / "run.nd"
        program = (
            "import sys, numpy as np\n"
            "from netdoctor.history import History\n"
            "history = History()\n"
            "for step in range(1, 10**6):\n"
            "    history.record(step, 'norm', np.random.rand(500), tuple(map(str, range(500))))\n"
            "    history.save(sys.argv[1])\n"
        )
        root = str(Path(history.__file__).parents[1])
        for wait in (0.0, 0.02, 0.05, 0.11, 0.2):
            path.unlink(missing_ok=True)
            process = subprocess.Popen(
                [sys.executable, "-c", program, str(path)], env=os.environ | {"PYTHONPATH": root}
            )
            try:
                deadline = time.monotonic() + 60
                while not path.exists() and time.monotonic() < deadline:
                    time.sleep(0.001)
                time.sleep(wait)
            finally:
                process.kill()
                process.wait()
            loaded = History.load(path)
            assert len(loaded.table("norm")) == loaded.step > 0
