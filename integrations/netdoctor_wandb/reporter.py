"""The reporter: finds the W&B run that the program has, and shows it what netdoctor sees."""

from __future__ import annotations

import logging

import wandb

from netdoctor.reporters import Report
from netdoctor.reporters.digest import KEYS
from netdoctor_wandb.session import Session

log = logging.getLogger("netdoctor")


class WandbReporter:
    """Shows the layers of a model, its findings and its health in a W&B run, beside what the program logs itself.

    Rows of the program are never moved or dropped: what netdoctor logs goes along with them, on an axis of its own,
    ``netdoctor/step``. A program that logs nothing gets the rows of netdoctor when its run ends.

    Args:
        run: The run; by default the one that `wandb.init` started, before or after `netdoctor.watch`.
        keys: How many different scalars at most; of more layers than fit, evenly chosen ones are shown.
        seconds: Between two calls of ``run.log`` in the long run.
        commit: Whether each call makes a row of its own. Only where nothing else logs to the run, or where nothing
            else passes ``step``: W&B drops rows whose step is behind.
    """

    def __init__(
        self, run: wandb.Run | None = None, *, keys: int = KEYS, seconds: float = 10.0, commit: bool = False
    ) -> None:
        self._given = run
        self._keys = keys
        self._seconds = seconds
        self._commit = commit
        self._session: Session | None = None
        self._warned = False

    def report(self, report: Report) -> None:
        """Show what is new, at a bounded rate."""
        session = self._find()
        if session is not None:
            session.show(report)

    def close(self, report: Report) -> None:
        """Show the final state and the HTML report."""
        session = self._find()
        if session is not None:
            session.show_last(report)

    def _find(self) -> Session | None:
        """The session of the present run; None where there is none that takes anything."""
        run = self._given or wandb.run
        if run is not None and (self._session is None or self._session.run is not run):
            self._session = Session(run, self._keys, self._seconds, self._commit)
        if run is None and self._session is None and not self._warned:
            self._warned = True
            log.warning('the reporter "wandb" finds no W&B run and shows nothing until there is one: call wandb.init()')
        if run is None or self._session is None or self._session.over:
            return None
        return self._session
