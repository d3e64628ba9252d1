"""Tries the remedies of what the first steps showed, at the end of the start of a training: `netdoctor run --trial`."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from torch import nn

from netdoctor.monitor import Monitor
from netdoctor.reporters import Report
from netdoctor.running.recording import Recording, loss_fn
from netdoctor.trials import trial, worth_trying

START = 20  # steps that are recorded, and sampled one by one
LATEST = 100  # step by which something must be found: afterwards nothing is tried
STEPS = 60  # of each training, at most
SECONDS = 60.0  # that the trial may take of the program's time
FEWEST = 15  # steps of each training, whatever time they take


class Rehearsal:
    """A reporter that makes one trial, from the weights and on the batches that the program began with.

    Args:
        model: Before its first forward pass.
        monitor: Watches it.
        say: Is given lines for the console.
    """

    def __init__(self, model: nn.Module, monitor: Monitor, say: Callable[[str], object]) -> None:
        self._recording: Recording | None = Recording(model, START)
        self._monitor = weakref.ref(monitor)
        self._say = say

    def report(self, report: Report) -> None:
        """Make the trial once the start is recorded and something that can be applied is found."""
        recording, step = self._recording, report.diagnosis.step
        if recording is None or (step < START and recording.open):
            return
        remedies = worth_trying(report.diagnosis.findings)
        if not remedies and step < LATEST and not recording.trouble:
            return
        self._recording = None
        recording.stop()
        if not remedies:
            return
        if recording.trouble or recording.initial is None or not recording.batches:
            self._say(f"No trial of remedies: {recording.trouble or 'no step was recorded'}.")
            return
        share = SECONDS / (len(remedies) + 1) / max(recording.step_seconds, 1e-6)
        steps = int(min(max(share, FEWEST), STEPS))
        self._say(f"Trying {len(remedies)} remedies on copies, {steps} steps each from the weights of the start.")
        try:
            result = trial(
                recording.initial[0],
                recording.batches,
                loss_fn,
                recording.initial[1],
                remedies,
                steps,
                repeats=1,
                progress=False,
            )
        except Exception as error:  # noqa: BLE001  # of the program's own modules: it goes on as without a trial
            self._say(f"No trial of remedies: {type(error).__name__}: {error}")
            return
        monitor = self._monitor()
        if monitor is not None:
            monitor.expect({remedy.action: remedy.effect for remedy in result.remedies})
        for line in str(result).splitlines():
            self._say(line)

    def close(self, report: Report) -> None:
        """Record no more."""
        if self._recording is not None:
            self._recording.stop()
            self._recording = None
