"""What a learning-rate range test showed: the curve, the rate that it suggests, and why."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class LRCurve:
    """A range test.

    Attributes:
        rates: Learning rate of each step, rising; of the first param group where they differ.
        losses: Training loss of each step.
        smoothed: The same without most of its noise.
        cosines: Cosine of each step's gradient with that of the step before, NaN at the first.
        suggestion: The rate to train with, None where the curve says nothing.
        reason: Why this one, or why none.
        candidates: Names of criteria ("steepest", "valley", "quadratic") and the rates that they point to.
        tried: Rates that short runs were made with, and the loss at the end of each.
        diverged: Whether the loss left its range, which ended the test.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    cosines: tuple[float, ...]
    suggestion: float | None
    reason: str
    candidates: tuple[tuple[str, float], ...] = ()
    tried: tuple[tuple[float, float], ...] = ()
    diverged: bool = False

    def __str__(self) -> str:
        said = "no suggestion" if self.suggestion is None else f"learning rate {self.suggestion:.2g}"
        return f"{said}: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; losses that are not finite are None."""
        return {
            "suggestion": self.suggestion,
            "reason": self.reason,
            "candidates": dict(self.candidates),
            "tried": [{"rate": rate, "loss": loss if math.isfinite(loss) else None} for rate, loss in self.tried],
            "diverged": self.diverged,
            "rates": list(self.rates),
            **{
                name: [value if math.isfinite(value) else None for value in getattr(self, name)]
                for name in ("losses", "smoothed", "cosines")
            },
        }

    def plot(self, axes: Any = None) -> Any:
        """Draw the curve with matplotlib, into ``axes`` or new ones, which are returned.

        Raises:
            ImportError: matplotlib is not there; says what to install.
        """
        if axes is None:
            try:
                axes = importlib.import_module("matplotlib.pyplot").subplots()[1]
            except ImportError as error:
                raise ImportError('plots need matplotlib: pip install "netdoctor-torch[plot]"') from error
        axes.plot(self.rates, self.losses, color="0.75", linewidth=1, label="loss")
        axes.plot(self.rates, self.smoothed, color="C0", label="smoothed")
        for color, (name, rate) in zip(("C2", "C4", "C5"), self.candidates, strict=False):
            axes.axvline(rate, color=color, linestyle=":", label=f"{name}: {rate:.2g}")
        if self.suggestion is not None:
            axes.axvline(self.suggestion, color="C3", label=f"suggestion: {self.suggestion:.2g}")
        finite = np.array([loss for loss in self.smoothed if math.isfinite(loss)])
        if len(finite):
            low, high = float(finite.min()), float(finite[0])
            axes.set_ylim(low - 0.1 * (high - low), high + 0.5 * max(high - low, 1e-3 * abs(high)))
        axes.set(xscale="log", xlabel="learning rate", ylabel="training loss")
        axes.legend()
        return axes
