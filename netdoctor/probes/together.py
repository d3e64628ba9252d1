"""What the ranks that train one model together tell each other: the samples of a step, and when to take the next.

Every rank hands in its part of a sampled step at that step's end and goes on; the parts are added up in the background.
At the end of the next sampled step each waits for that sum, which is there by then, and learns from it when all of them
sample again. A rank that is not heard any more ends this: the others go on with numbers of their own.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netdoctor.probes import ranks
from netdoctor.probes.activations import ActivationProbe
from netdoctor.probes.packing import Form, Packed, alone, pack, unpack
from netdoctor.probes.parameters import ParameterProbe
from netdoctor.probes.readings import Sample
from netdoctor.probes.scalars import Scalars
from netdoctor.probes.schedule import Pace
from netdoctor.probes.sharding import splits
from netdoctor.probes.transfer import Transfer

FAREWELL = 5.0  # seconds that are waited at the end, or when somebody looks, for what was handed in
POLL = 2e-4  # seconds

log = logging.getLogger("netdoctor")


@dataclass
class _Turn:
    """A sampled step on its way.

    Attributes:
        sample: This rank's part.
        steps: Those since the sample before.
        known: The losses that are numbers already.
        sent: Steps of the others, and these.
        interval: Steps that this rank would wait for its next sample.
        packed: What was handed in, and what comes back.
        works: The two reductions, once they have begun.
    """

    sample: Sample
    steps: range
    known: dict[int, float]
    sent: tuple[list[int], Transfer] | None
    interval: int
    packed: Packed | None = None
    works: tuple[Any, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether this rank's numbers have arrived on the host."""
        return self.sample.ready and (self.sent is None or self.sent[1].ready)

    def losses(self) -> dict[int, float]:
        sent = () if self.sent is None else zip(self.sent[0], self.sent[1].numpy().tolist(), strict=True)
        return {**self.known, **dict(sent)}


class Together:
    """The samples of one model, combined over the ranks where all of them watch it.

    Args:
        scalars: Where the losses go.

    Attributes:
        met: Whether it was looked whether there are other ranks.
        why: Why the numbers are those of this rank alone; "" where they are not, or where there is no other.
    """

    def __init__(self, scalars: Scalars) -> None:
        self.met = False
        self.why = ""
        self._scalars = scalars
        self._agreement: ranks.Agreement | None = None
        self._group: Any = None
        self._form: Form | None = None
        self._probes: tuple[ActivationProbe, ParameterProbe] | None = None
        self._turns: deque[_Turn] = deque()
        self._taken: list[Sample] = []  # of the step that has not ended yet
        self._done: list[Sample] = []
        self._last = 0  # step of the sample before
        self._interval = self._agreed = 1

    @property
    def asking(self) -> bool:
        """Whether it is not known yet if the other ranks watch, too."""
        return self._agreement is not None

    @property
    def active(self) -> bool:
        """Whether samples go through here."""
        return self._form is not None

    @property
    def waiting(self) -> int:
        """Samples that have arrived and were not taken yet."""
        return len(self._done)

    @property
    def replicas(self) -> int:
        """Between how many ranks the batch is divided, as far as samples are combined."""
        return 1 if self._form is None else self._form.replicas

    def meet(self, model: nn.Module, activations: ActivationProbe, parameters: ParameterProbe, pace: Pace) -> None:
        """The model makes its first step."""
        self.met = True
        if ranks.world() == 1:
            return
        ranks.rank()
        wrapper = None if activations.parallel is None else activations.parallel()
        self.why = ranks.apart(model, wrapper)
        self._probes = activations, parameters
        if self.why:
            self._part()
            return
        found, together = splits(model)
        activations.divide(found)
        blocks = parameters.blocks
        self._form = Form(
            replicas=ranks.world() // together,
            speaks=np.array([ranks.rank() == 0 if block is None else block.first for block in blocks]),
            split=tuple(place for place, block in enumerate(blocks) if block is not None and block.split_units),
            whole=tuple(parameters.whole),
            names=tuple(facts.name for facts in parameters.facts),
            sizes=np.array([float(facts.size) for facts in parameters.facts]),
        )
        layers = [(layer.name, layer.type) for layer in activations.layers]
        self._agreement = ranks.Agreement(repr((layers, [(f.name, f.shape) for f in parameters.facts], pace.every)))
        activations.shared = parameters.shared = True
        self._scalars.withhold()

    def add(self, sample: Sample) -> None:
        """Take in this rank's part of the step that is about to end."""
        (self._taken if self.active else self._done).append(sample)

    def end_step(self, step: int, pace: Pace) -> None:
        """A step has ended: hand in its samples, and take over when all ranks sample again."""
        if not self.active:
            return
        try:
            sampled = bool(self._taken)
            if self._agreement is not None:
                self._ask(self._agreement)
            while self._taken:
                self._hand_in(step, pace.next - step)
            if self._agreement is not None:
                pace.next = step + 1 if pace.every is None else pace.next
            elif sampled and self._group is not None:
                pace.next = step + self._agreed
            self.poll()
        except Exception as error:  # noqa: BLE001  # a broken connection, in whatever words
            self._lose(error)

    def poll(self) -> None:
        """Begin what can be begun: a device delivers its numbers some steps late, and the other ranks may want them."""
        if self._group is not None and self._turns and not self._turns[-1].works:
            try:
                self._begin()
            except Exception as error:  # noqa: BLE001
                self._lose(error)

    def arrived(self, wait: bool) -> list[Sample]:
        """The samples, of all ranks together, that are there; the mean losses of the steps up to them are kept, too.

        Args:
            wait: Whether to wait for those that were handed in, for a while.
        """
        if self._group is not None:
            try:
                self._begin(wait)
                self._collect(FAREWELL if wait else 0.0)
            except Exception as error:  # noqa: BLE001
                self._lose(error)
        done, self._done = self._done, []
        return done

    def leave(self, at_once: bool = False) -> None:
        """Tell the others nothing any more, once they have what was handed in, or ``at_once``."""
        if self._group is not None and not at_once:
            self._done = self.arrived(wait=True)
        if self.active:
            self._give_up("", at_once)

    def _ask(self, agreement: ranks.Agreement) -> None:
        agreement.step()
        if agreement.asking:
            return
        self._agreement, self._group = None, agreement.group
        if self._group is None:
            self._give_up("the others do not watch, or not alike: netdoctor.watch() has to be called on every rank")

    def _hand_in(self, step: int, interval: int) -> None:
        if self._group is not None:
            self._begin(wait=True)
            self._collect(ranks.PATIENCE)
            if self._turns:
                raise TimeoutError(f"no sum after {ranks.PATIENCE:.0f} s")
            self._agreed = self._interval  # the same on all ranks: that of the sample before
        steps = range(self._last + 1, step + 1)
        self._last = step
        own = self._scalars.withheld_losses(steps)
        tensors = {at: loss for at, loss in own.items() if isinstance(loss, Tensor)}
        known = {at: loss for at, loss in own.items() if not isinstance(loss, Tensor)}
        sent = None
        if tensors:
            sent = (
                list(tensors),
                Transfer(torch.stack([loss.detach().reshape(()).double() for loss in tensors.values()])),
            )
        self._turns.append(_Turn(self._taken.pop(0), steps, known, sent, interval))
        if self._group is not None:
            self._begin()

    def _begin(self, wait: bool = False) -> None:
        """Begin the reductions of the turns whose numbers are there, in order; wait for the numbers where asked to."""
        for turn in self._turns:
            if turn.works:
                continue
            if not wait and not turn.ready:
                return
            assert self._form is not None
            packed = turn.packed = pack(turn.sample, turn.losses(), turn.steps, turn.interval, self._form)
            added = torch.distributed.AllreduceOptions()
            largest = torch.distributed.AllreduceOptions()
            largest.reduceOp = torch.distributed.ReduceOp(torch.distributed.ReduceOp.MAX)
            turn.works = (
                self._group.allreduce([torch.from_numpy(packed.sums)], added),
                self._group.allreduce([torch.from_numpy(packed.highs)], largest),
            )

    def _collect(self, patience: float) -> None:
        """Take the sums that are there; wait for the others for so many seconds."""
        until = monotonic() + patience
        while self._turns and (turn := self._turns[0]).works:
            while not all(work.is_completed() for work in turn.works):
                if monotonic() >= until:
                    return
                sleep(POLL)
            for work in turn.works:
                work.wait()  # raises what went wrong
            assert turn.packed is not None
            assert self._form is not None
            whole = unpack(turn.packed, turn.sample, turn.losses(), turn.steps, self._form)
            self._turns.popleft()
            self._interval = whole.interval
            self._scalars.averaged(whole.losses)
            self._done.append(whole.sample)

    def _lose(self, error: Exception) -> None:
        why = str(error).partition(". ")[0]
        log.warning("netdoctor goes on with the numbers of this rank alone: the other ranks do not answer (%s)", why)
        self._give_up("the other ranks did not answer")

    def _give_up(self, why: str, abruptly: bool = False) -> None:
        """Go on alone; what was not combined yet counts as this rank saw it."""
        group, self._group = self._group, None
        self.why, self._agreement, self._form = why, None, None
        abruptly |= any(turn.works for turn in self._turns)
        self._done += [alone(sample) for sample in (*(turn.sample for turn in self._turns), *self._taken)]
        self._turns.clear()
        self._taken = []
        self._part()
        if group is not None and abruptly:
            group.abort()  # the others must not wait

    def _part(self) -> None:
        self._scalars.release()
        if self._probes is not None:
            activations, parameters = self._probes
            activations.shared = False
            activations.splits = {}
            parameters.leave()
