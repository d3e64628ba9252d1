"""What a trial of remedies came to: a table, a picture, and which remedy to take."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from rich.table import Table

from netdoctor.findings import Remedy

UNTOUCHED = "untouched"
LEAST = 0.02  # share of the untouched loss by which a remedy must be better, whatever the spread


@dataclass(frozen=True)
class Arm:
    """One of the compared trainings, with one remedy or none.

    Attributes:
        remedy: None for the untouched one.
        losses: Loss after the last step, one a repeat; what was lost on the way is infinite.
        curve: Training loss of each step, the mean over the repeats.
        update_ratio: Median size of a step over the size of the weights; NaN where not measured.
        findings: Slugs of the warnings and errors that remain at the end.
        refused: Why the remedy was not applied, "" where it was.
    """

    remedy: Remedy | None
    losses: tuple[float, ...] = ()
    curve: tuple[float, ...] = ()
    update_ratio: float = math.nan
    findings: tuple[str, ...] = ()
    refused: str = ""

    @property
    def name(self) -> str:
        return UNTOUCHED if self.remedy is None else self.remedy.action

    @property
    def loss(self) -> float:
        """Mean over the repeats; infinite where one of them was lost, or none was made."""
        return fmean(self.losses) if self.losses else math.inf

    @property
    def interval(self) -> tuple[float, float]:
        """The lowest and the highest loss of the repeats."""
        return min(self.losses, default=math.inf), max(self.losses, default=math.inf)

    @property
    def falls(self) -> bool:
        """Whether the last fifth of the training losses is below the first one."""
        end = self.curve[-max(1, len(self.curve) // 5) :]
        return bool(end) and fmean(end) < self.curve[0] - LEAST * abs(self.curve[0])

    @property
    def shown(self) -> str:
        """The loss with its interval."""
        low, high = self.interval
        return f"{self.loss:.3g}" + (f" ({low:.3g} … {high:.3g})" if len(self.losses) > 1 else "")


def ranked(arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
    """The lowest loss first; of losses that hardly differ the one that leaves fewer findings; what was refused last.

    Before all others what ends the fall of a loss without a lower bound, by which nothing can be compared.
    """
    ending = [arm for arm in arms if _ends_the_fall(arm)]
    by_loss = sorted((arm for arm in arms if arm not in ending), key=lambda arm: (bool(arm.refused), arm.loss))
    order: list[Arm] = list(ending)
    while by_loss:
        alike = [arm for arm in by_loss if arm is by_loss[0] or _alike(arm, by_loss[0])]
        best = min(alike, key=lambda arm: len(arm.findings))
        order.append(best)
        by_loss.remove(best)
    return tuple(order)


def better(arm: Arm, untouched: Arm) -> bool:
    """Whether a remedy does better than none: its loss is lower by more than the repeats differ, or it ends findings.

    That counts where the loss hardly differs, and where its own loss falls and no other finding comes: gradients that
    nobody clears, as a rate that is too large, may be ahead in the first steps.
    """
    if not math.isfinite(arm.loss) or arm.refused:
        return False
    if not math.isfinite(untouched.loss):
        return True
    if arm.remedy is not None and arm.remedy.unbounded:
        return _ends_the_fall(arm)
    if _alike(arm, untouched):
        return len(arm.findings) < len(untouched.findings)
    return arm.loss < untouched.loss or (arm.falls and set(arm.findings) < set(untouched.findings))


def _ends_the_fall(arm: Arm) -> bool:
    """Whether it is for a loss without a lower bound, and leaves nothing to complain of."""
    sound = math.isfinite(arm.loss) and not arm.refused and not arm.findings
    return sound and arm.remedy is not None and arm.remedy.unbounded


def _alike(one: Arm, other: Arm) -> bool:
    """Whether two losses differ by no more than the repeats of each."""
    if bool(one.refused) != bool(other.refused) or not math.isfinite(one.loss - other.loss):
        return False
    spread = max(high - low for low, high in (one.interval, other.interval))
    return abs(one.loss - other.loss) <= max(0.5 * spread, LEAST * max(abs(one.loss), abs(other.loss)))


@dataclass(frozen=True)
class Trial:
    """The outcome.

    Attributes:
        arms: The best first.
        steps: Of each training.
        note: What was left out, and why; "" where nothing was.
    """

    arms: tuple[Arm, ...]
    steps: int
    note: str = ""

    @property
    def untouched(self) -> Arm:
        return next(arm for arm in self.arms if arm.remedy is None)

    @property
    def best(self) -> Remedy | None:
        """The remedy to take, with its measured effect; None where none does better than no remedy."""
        for arm in self.arms:
            if arm.remedy is not None and not arm.refused and better(arm, self.untouched):
                return self._with_effect(arm)
        return None

    @property
    def remedies(self) -> tuple[Remedy, ...]:
        """All that were tried, the best first, each with what it did as its expected effect."""
        return tuple(self._with_effect(arm) for arm in self.arms if arm.remedy is not None and not arm.refused)

    def _with_effect(self, arm: Arm) -> Remedy:
        effect = f"in a trial of {self.steps} steps the loss came to {arm.shown} instead of {self.untouched.shown}"
        return replace(arm.remedy or Remedy(UNTOUCHED), effect=effect)

    def table(self) -> Table:
        """For a terminal."""
        table = Table(title=f"Loss after {self.steps} steps", title_justify="left", box=None, pad_edge=False)
        for column, justify in (("remedy", "left"), ("loss", "right"), ("update", "right"), ("remaining", "left")):
            table.add_column(column, justify="right" if justify == "right" else "left")
        for arm in self.arms:
            ratio = f"{arm.update_ratio:.1g}" if math.isfinite(arm.update_ratio) else ""
            remaining = f"refused: {arm.refused}" if arm.refused else ", ".join(arm.findings) or "nothing"
            table.add_row(arm.name, "" if arm.refused else arm.shown, ratio, remaining)
        return table

    def __str__(self) -> str:
        lines = []
        for arm in self.arms:
            what = f"refused: {arm.refused}" if arm.refused else arm.shown
            lines.append(f"  {arm.name}: {what}" + (f"; remaining: {', '.join(arm.findings)}" if arm.findings else ""))
        best = self.best
        said = "No remedy does better than none." if best is None else f"Take: {best.action}."
        return "\n".join([f"Loss after {self.steps} steps", *lines, said, *([self.note] if self.note else [])])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; numbers that are not finite are None."""
        return {
            "steps": self.steps,
            "best": None if self.best is None else self.best.action,
            "note": self.note,
            "arms": [
                {
                    "name": arm.name,
                    "losses": [_finite(loss) for loss in arm.losses],
                    "curve": [_finite(loss) for loss in arm.curve],
                    "update_ratio": _finite(arm.update_ratio),
                    "findings": list(arm.findings),
                    "refused": arm.refused,
                }
                for arm in self.arms
            ],
        }

    def plot(self, axes: Any = None) -> Any:
        """Draw the curves with matplotlib, into ``axes`` or new ones, which are returned.

        Raises:
            ImportError: matplotlib is not there; says what to install.
        """
        if axes is None:
            try:
                axes = importlib.import_module("matplotlib.pyplot").subplots()[1]
            except ImportError as error:
                raise ImportError('plots need matplotlib: pip install "netdoctor-torch[plot]"') from error
        for arm in self.arms:
            if arm.curve:
                style = {"color": "0.6", "linestyle": "--"} if arm.remedy is None else {}
                axes.plot(range(1, len(arm.curve) + 1), arm.curve, label=f"{arm.name[:50]}: {arm.shown}", **style)
        axes.set(xlabel="step", ylabel="training loss")
        axes.legend(fontsize="small")
        return axes


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
