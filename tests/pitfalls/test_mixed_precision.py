"""Autocast and gradient scalers: gradients without their scale, skipped steps that are no explosions.

What is counted and recorded of skipped steps stands in `tests/test_half_precision.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.twins import each_watch, faults, same, silent

SETTINGS: dict[str, tuple[torch.dtype, bool, bool]] = {  # autocast to, with a scaler, fused optimizer
    "bfloat16": (torch.bfloat16, False, False),
    "float16": (torch.float16, True, False),
    "float16, fused": (torch.float16, True, True),
}
OVERFLOWS = (2, 7, 15)  # steps whose gradients are made Inf


class Scaled:
    """A usual loop with autocast, a scaler and clipping; `seen` holds all that it leaves."""

    def __init__(
        self,
        setting: str,
        watching: Callable[..., Any] | None = None,
        whole_step: bool = False,
        overflows: tuple[int, ...] = OVERFLOWS,
    ) -> None:
        dtype, scaling, fused = SETTINGS[setting]
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 4))
        self.monitor: Any = watching(model) if watching else None
        optimizer = torch.optim.Adam(model.parameters(), 1e-2, fused=fused)
        scaler = torch.amp.GradScaler("cpu", enabled=scaling)
        self.seen: list[Tensor] = []
        self.norms: list[float] = []
        for step in range(1, 21):
            x, y = torch.randn(16, 12), torch.randint(0, 4, (16,))
            with torch.autocast("cpu", dtype):
                loss = F.cross_entropy(model(x), y)
                if whole_step:
                    scaler.scale(loss).backward()
            if not whole_step:
                scaler.scale(loss).backward()
            if scaling and step in overflows:
                next(model.parameters()).grad[0, 0] = torch.inf  # type: ignore[index]
            scaler.unscale_(optimizer)
            self.norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.5)))
            with torch.autocast("cpu", dtype, enabled=whole_step):
                scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            self.seen.append(loss.detach())
        self.seen += [p.detach() for p in model.parameters()]
        if self.monitor is not None:
            self.monitor.close()


@each_watch
@pytest.mark.parametrize("whole_step", [False, True])
@pytest.mark.parametrize("setting", SETTINGS)
def test_training_is_bit_identical(setting: str, whole_step: bool, watching: Callable[..., Any]) -> None:
    watched = Scaled(setting, watching, whole_step)
    assert same(Scaled(setting, None, whole_step).seen, watched.seen)
    assert watched.monitor.step == 20
    assert faults(watched.monitor) == []
    assert watched.monitor.history.facts.layer("0").dtype == str(SETTINGS[setting][0]).removeprefix("torch.")


@pytest.mark.parametrize("setting", SETTINGS)
def test_gradients_are_seen_without_their_scale(setting: str) -> None:
    """Pitfalls 6 and 7: those before clipping, and those that the step uses, with fused optimizers too."""
    run = Scaled(setting, lambda model: silent(model, every=1), overflows=())
    history = run.monitor.history
    assert history.series("gradient_norm")[1].tolist() == pytest.approx(run.norms, rel=1e-3)
    used = [min(norm, 0.5) for norm in run.norms]
    assert history.series("clipped_gradient_norm")[1].tolist() == pytest.approx(used, rel=1e-3)


@pytest.mark.parametrize("setting", ["float16", "float16, fused"])
def test_skipped_steps_are_no_explosions(setting: str) -> None:
    """Pitfall 7: the scaler finds its scale by overflows; a fused optimizer even gets the infinite gradients."""
    run = Scaled(setting, lambda model: silent(model, every=1))
    assert run.monitor.history.latest("skipped_steps") == {"": len(OVERFLOWS)}
    told = {finding.rule for finding in run.monitor.findings}
    assert not told & {"exploding-gradient", "non-finite", "gradient-underflow", "loss-scale-collapse"}


def test_numbers_are_computed_in_full_precision_within_autocast() -> None:
    """A loop that keeps autocast on for the whole step must not make the matrix products of netdoctor imprecise."""
    wide, narrow = (
        Scaled("bfloat16", lambda model: silent(model, every=1), whole_step) for whole_step in (True, False)
    )
    assert same(wide.seen, narrow.seen)
    for name in wide.monitor.history.statistics:
        table, other = (run.monitor.history.table(name).values for run in (wide, narrow))
        assert table == pytest.approx(other, nan_ok=True, rel=1e-5), name
