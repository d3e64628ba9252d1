"""How remedies speak of names, tensors and modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


def names_code(names: Sequence[str], width: int = 56) -> str:
    """A Python tuple of layer names, one line where it fits."""
    one = "(" + ", ".join(f'"{name}"' for name in names) + ("," if len(names) == 1 else "") + ")"
    if len(one) <= width:
        return one
    lines, line = [], "   "
    for name in names:
        if len(line) + len(name) + 5 > width:
            lines.append(line)
            line = "   "
        line += f' "{name}",'
    return "(\n" + "\n".join([*lines, line]) + "\n)"


def describe(tensor: Tensor) -> str:
    """A tensor in a few words: its value, or mean and std."""
    values = tensor.detach().float()
    if values.numel() == 1:
        return f"{float(values):.4g}"
    mean, std = float(values.mean()), float(values.std(correction=0))
    return f"all {mean:.3g}" if std == 0 else f"mean {mean:.3g}, std {std:.3g}"


def brief(module: nn.Module) -> str:
    """A module on one line."""
    text = " ".join(str(module).split())
    return text if len(text) <= 60 else type(module).__name__


def number(value: Any) -> str:
    """A number, or whatever else an option is."""
    return f"{float(value):.4g}" if isinstance(value, (int, float, Tensor)) else str(value)
