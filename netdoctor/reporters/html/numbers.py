"""Numbers as people read them."""

from __future__ import annotations

import math

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def spelled(value: float, digits: int = 3) -> str:
    """Three significant digits: 0.0123, 1,234, 1.2×10⁻⁷."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6 or (value == int(value) and abs(value) < 1e6):
        decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
        text = f"{value:,.{decimals}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        text = f"{mantissa}×10{str(int(exponent)).translate(SUPERSCRIPTS)}"
    return text.replace("-", "−")


def counted(number: int, thing: str) -> str:
    """As in "1 layer", "2 layers"."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def share(value: float) -> str:
    """A percentage with as many digits as it deserves."""
    return f"{value:.0%}" if value >= 0.1 or value == 0 else f"{value:.1%}"


def rounded(value: float) -> float | None:
    """Five significant digits for the page's data, None where it is not finite."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
