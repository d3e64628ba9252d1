"""The training doctor for PyTorch: `netdoctor.watch(model)` says what is wrong with a training and how to cure it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netdoctor.examination import checkup
    from netdoctor.findings import Diagnosis, Evidence, Finding, Reading, Remedy, Severity, Skipped
    from netdoctor.history import History, HistoryError
    from netdoctor.lr_curve import LRCurve
    from netdoctor.lr_finder import find_lr
    from netdoctor.monitor import Monitor, watch
    from netdoctor.treatment import Change, RemedyError, Treatment
    from netdoctor.trial_results import Arm, Trial
    from netdoctor.trials import trial

__all__ = [
    "Arm",
    "Change",
    "Diagnosis",
    "Evidence",
    "Finding",
    "History",
    "HistoryError",
    "LRCurve",
    "Monitor",
    "Reading",
    "Remedy",
    "RemedyError",
    "Severity",
    "Skipped",
    "Treatment",
    "Trial",
    "checkup",
    "find_lr",
    "trial",
    "watch",
]

_HOMES = {
    **dict.fromkeys(
        ("Diagnosis", "Evidence", "Finding", "Reading", "Remedy", "Severity", "Skipped"), "netdoctor.findings"
    ),
    **dict.fromkeys(("History", "HistoryError"), "netdoctor.history"),
    "LRCurve": "netdoctor.lr_curve",
    "checkup": "netdoctor.examination",
    "find_lr": "netdoctor.lr_finder",
    "trial": "netdoctor.trials",
    **dict.fromkeys(("Arm", "Trial"), "netdoctor.trial_results"),
    **dict.fromkeys(("Monitor", "watch"), "netdoctor.monitor"),
    **dict.fromkeys(("Change", "RemedyError", "Treatment"), "netdoctor.treatment"),
}


def __getattr__(name: str) -> Any:
    """Import on first use: `import netdoctor` alone costs next to nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'netdoctor' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
