"""Data inside the page: JSON that cannot end its script element, and tables of numbers as compact text."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netdoctor.reporters.html.numbers import rounded

ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def json_text(data: Any) -> str:
    """JSON for a script element of type application/json: no tag and no comment can begin or end in it."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).translate(ESCAPES)


def plain(values: Iterable[float]) -> list[float | None]:
    """Numbers for JSON, five significant digits, None where they are not finite."""
    return [rounded(value) for value in np.asarray(values, float).tolist()]


def packed(values: NDArray[np.float32]) -> str:
    """The upper 16 bits of each float32, rounded, as base64: the whole range, NaN and Inf, to within 0.4 %."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    sign, magnitude = bits & 0x80000000, bits & 0x7FFFFFFF
    magnitude = np.where(np.isfinite(values), np.minimum(magnitude + 0x8000, 0x7F7FFFFF), magnitude)
    upper = np.where(np.isnan(values), 0x7FC0, (sign | magnitude) >> 16)
    return base64.b64encode(upper.astype("<u2").tobytes()).decode()
