"""Names that the user gets wrong: what was given, the nearest that there is, and all that are allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(given: str, allowed: Iterable[str], what: str) -> ValueError:
    options = sorted(allowed)
    close = difflib.get_close_matches(given, options, 1, 0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return ValueError(f"no {what} {given!r}.{hint} Allowed: {', '.join(options)}")
