"""`monitor.keep_best` on real trainings that overfit: what is in the file, and what is not."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netdoctor
from tests.clinic import models


class Training:
    """Twenty noisy points by heart: the validation loss falls and rises again."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.x, self.val = torch.randn(20, 8), torch.randn(200, 8)
        self.y, self.val_y = (x[:, :1] + 0.7 * torch.randn(len(x), 1) for x in (self.x, self.val))
        self.model = nn.Sequential(models.mlp(8, 64, 64, 1), nn.BatchNorm1d(1))
        self.optimizer = torch.optim.Adam(self.model.parameters(), 3e-3)
        self.seen: list[tuple[float, dict[str, Tensor]]] = []

    def epoch(self, steps: int = 5) -> float:
        self.model.train()
        for _ in range(steps):
            self.optimizer.zero_grad()
            F.mse_loss(self.model(self.x), self.y).backward()
            self.optimizer.step()
        return self.validate()

    def validate(self) -> float:
        self.model.eval()
        with torch.no_grad():
            loss = [F.mse_loss(self.model(x), y) for x, y in zip(self.val.split(50), self.val_y.split(50), strict=True)]
        mean = float(torch.stack(loss).mean())
        self.seen.append((mean, {name: value.clone() for name, value in self.model.state_dict().items()}))
        return mean

    @property
    def best(self) -> tuple[float, dict[str, Tensor]]:
        return min(self.seen, key=lambda entry: entry[0])


def holds(path: Path, state: dict[str, Tensor]) -> bool:
    kept = torch.load(path)
    return kept.keys() == state.keys() and all(torch.equal(kept[name], state[name]) for name in state)


def test_the_file_holds_the_weights_of_the_best_pass(tmp_path: Path) -> None:
    training = Training()
    with netdoctor.watch(training.model, reporters=[]) as monitor:
        best = monitor.keep_best(tmp_path / "best.pt")
        assert best.step == 0
        losses = [training.epoch() for _ in range(30)]
    assert losses.index(min(losses)) not in (0, 29), "this training is to overfit"
    assert best.step == 5 * (1 + losses.index(min(losses)))
    assert best.loss == pytest.approx(min(losses), rel=1e-5)
    assert holds(tmp_path / "best.pt", training.best[1])
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]
    (finding,) = [each for each in monitor.findings if each.rule == "overfitting"]
    stop = next(each for each in finding.remedies if "Stop at step" in each.action)
    assert f"step {best.step}" in stop.action
    (tmp_path / "here").mkdir()
    code = stop.code.replace('"best.pt"', f'"{tmp_path / "best.pt"}"')
    exec(code, {"monitor": netdoctor.watch(training.model, reporters=[]), "model": training.model, "torch": torch})
    assert training.validate() == pytest.approx(min(losses), rel=1e-5)


def test_the_last_pass_counts_when_the_monitor_is_closed(tmp_path: Path) -> None:
    training = Training()
    with netdoctor.watch(training.model, reporters=[]) as monitor:
        monitor.keep_best(tmp_path / "best.pt")
        training.epoch()
        assert monitor.diagnose() is not None  # which takes the mean of the pass so far
        assert not (tmp_path / "best.pt").exists()
    assert holds(tmp_path / "best.pt", training.best[1])


def test_weights_that_changed_since_the_pass_are_not_taken_for_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training()
    with netdoctor.watch(training.model, reporters=[]) as monitor, caplog.at_level(logging.WARNING, "netdoctor"):
        best = monitor.keep_best(tmp_path / "best.pt")
        training.epoch()
        training.model.load_state_dict({name: 0 * value for name, value in training.model.state_dict().items()})
    assert best.step == 0
    assert not (tmp_path / "best.pt").exists()
    assert "changed after validation" in caplog.text


def test_a_loss_that_is_given_counts_at_once(tmp_path: Path) -> None:
    training = Training()
    monitor = netdoctor.watch(training.model, reporters=[])
    best = monitor.keep_best(tmp_path / "best.pt")
    for value, expected in ((3.0, 5), (torch.tensor(2.0), 10), (float("nan"), 10), (2.5, 10), (1.0, 25)):
        training.epoch()
        monitor.observe(val_loss=value)
        assert best.step == expected
    assert holds(tmp_path / "best.pt", training.seen[-1][1])
    monitor.close()
    assert best.step == 25


def test_a_full_disk_leaves_the_older_file_and_the_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training()
    with netdoctor.watch(training.model, reporters=[]) as monitor, caplog.at_level(logging.WARNING, "netdoctor"):
        best = monitor.keep_best(tmp_path / "best.pt")
        training.epoch()
        monitor.observe(val_loss=3.0)
        kept = training.seen[-1][1]
        save = torch.save

        def full(state: Any, file: Any) -> None:
            file.write(b"half of it")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(torch, "save", full)
        training.epoch()
        monitor.observe(val_loss=2.0)
        assert (best.step, best.loss) == (5, 3.0)
        assert "that of step 5 stays" in caplog.text
        assert "No space left" in caplog.text
        assert holds(tmp_path / "best.pt", kept)
        assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]
        monkeypatch.setattr(torch, "save", save)
        training.epoch()
        monitor.observe(val_loss=2.5)  # better than what is kept
        assert best.step == 15
        assert not monitor.faults


def test_wrong_paths(tmp_path: Path) -> None:
    monitor = netdoctor.watch(models.mlp(4, 4), reporters=[])
    with pytest.raises(FileNotFoundError, match="make the folder"):
        monitor.keep_best(tmp_path / "nowhere" / "best.pt")
    with pytest.raises(IsADirectoryError, match="a file"):
        monitor.keep_best(tmp_path)
    monitor.close()
