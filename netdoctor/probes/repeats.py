"""How many steps make one pass over the training data: samples are known again when they come once more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from math import exp
from typing import Any, NamedTuple

import torch
from torch import Tensor

from netdoctor.probes.transfer import Transfer

ROWS = 64  # samples of a batch that are looked at
ELEMENTS = 128  # of each of them, spread evenly
MARKED = 1024  # samples that are to be known again: with batches of 64, one of 50,000 comes in each
FIRST = 20  # batches at most that these are taken from: those of the dense start
LOOKS = 256  # later batches, in each of which those known were counted; beyond, neighbours are taken together
ENOUGH = 8  # samples known again that tell of all: 1/√8, to 35 %; more make it better
BATCHES = 4  # in which they must be, where of each batch all are known or none: nobody shuffles
SPARE = 32  # a part of the steps so far, after which one is looked at: 22 for each doubling, 29 known of 50,000
COMMON = 3  # equal samples in a batch: they are not one that came again, but many of their kind
ALIKE = 0.5  # of the samples that chance has come again at least: else a few do by themselves, as a row of padding
OWN = 0.5  # share of the samples at least that are none of these


class _Look(NamedTuple):
    """Later batches, in which those known were counted."""

    step: int  # of the first one
    samples: int
    own: int  # samples that are not common ones
    known: int  # of these
    batches: int  # with such; one of which not all are known counts as `BATCHES`

    def with_next(self, other: _Look) -> _Look:
        return _Look(self.step, *(one + two for one, two in zip(self[1:], other[1:], strict=True)))


class Repeats:
    """Capture and recapture of samples.

    Those of the first batches are kept, a hash of each; the share of later batches that they make up is their share of
    all samples (Lincoln 1930). It counts in the last half of the steps alone, for none comes twice within a pass: where
    two passes have been made the last half lies behind the first one; where they have not, the answer is less than two,
    and none is given. Samples that are made anew each time, by augmentation or noise, give none either.
    """

    def __init__(self) -> None:
        self._marked: dict[int, int] = {}  # hash -> how often it came later
        self._common: set[int] = set()  # of those
        self._found = self._distinct = 0  # how often one of them came later, and how many did
        self._batches = 0
        self._start = -1  # the step before the first one
        self._end = 0  # the last one that samples are kept of
        self._seen = 0  # the last one that was looked at
        self._looks: list[_Look] = []
        self._sent: list[tuple[int, Transfer]] = []
        self._sizes = [0, 0]  # samples in all steps looked at, and the number of these

    def due(self, step: int) -> bool:
        """Whether the samples of this step are to be looked at."""
        return self._start < 0 or step - self._seen >= (step - self._start) / SPARE

    def add(self, step: int, fingerprints: Tensor, samples: int) -> None:
        """A step that was looked at: what some of its samples are known by, and how many there were in all."""
        if self._start < 0:
            self._start = step - 1
        self._seen = step
        self._sizes = [self._sizes[0] + samples, self._sizes[1] + 1]
        self._sent.append((step, Transfer(fingerprints)))

    def steps_of_a_pass(self, step: int) -> float | None:
        """Steps that one pass over the data takes, as ``step`` knows; None below two passes, or where none repeat."""
        while self._sent and self._sent[0][1].ready:
            at, hashes = self._sent.pop(0)
            self._take(at, hashes.numpy().tolist())
        first = max((step + self._start) / 2, self._end)
        late = [look for look in self._looks if look[0] > first]
        if not late:
            return None
        look = _Look(*map(sum, zip(*late, strict=True)))
        if look.known < ENOUGH or look.batches < BATCHES or look.own < OWN * look.samples:
            return None
        marked = len(self._marked) - len(self._common)
        if self._distinct < ALIKE * marked * (1 - exp(-self._found / marked)):
            return None
        steps = marked * look.own / look.known / (look.own / look.samples * self._sizes[0] / self._sizes[1])
        return steps if step - self._start >= 2 * steps else None

    def _take(self, step: int, hashes: list[int]) -> None:
        if self._batches < FIRST and len(self._marked) < MARKED:
            self._batches, self._end = self._batches + 1, step
            self._marked |= dict.fromkeys(hashes, 0)
            self._common.update(each for each, count in Counter(hashes).items() if count >= COMMON)
            return
        own = [each for each in hashes if each not in self._common]
        known = [each for each in own if each in self._marked]
        for each in known:
            self._distinct += not self._marked[each]
            self._marked[each] += 1
        self._found += len(known)
        batches = BATCHES if 0 < len(known) < len(own) else len(known) > 0
        self._looks.append(_Look(step, len(hashes), len(own), len(known), batches))
        if len(self._looks) > LOOKS:
            pairs = zip(self._looks[:-1:2], self._looks[1::2], strict=True)
            merged = [one.with_next(two) for one, two in pairs]
            self._looks = [*merged, *self._looks[2 * len(merged) :]]


def batch_size(given: tuple[Any, ...]) -> int:
    """Samples in what a model is given."""
    return next((each.shape[0] for each in _tensors(given) if each.ndim), 0)


def fingerprints(given: tuple[Any, ...]) -> Tensor | None:
    """An integer a sample, [rows], equal for equal ones; None where there is no tensor of samples.

    Zeros at its end leave it as it is: padding differs from batch to batch.
    """
    tensors = [each.detach() for each in _tensors(given) if each.ndim and each.layout is torch.strided]
    size = tensors[0].shape[0] if tensors else 0
    tensors = [each for each in tensors if each.shape[0] == size and each.numel() and not each.is_meta]
    if not tensors:
        return None
    count = min(size, ROWS)
    with torch.no_grad():
        rows = [each[:: size // count][:count] for each in tensors]
        return torch.stack([_hashed(each, place) for place, each in enumerate(rows)]).sum(0)


def _hashed(rows: Tensor, place: int) -> Tensor:
    rows = (torch.view_as_real(rows) if rows.is_complex() else rows).reshape(len(rows), -1)
    rows = rows[:, :: -(-rows.shape[1] // ELEMENTS)]
    bits = (rows.float().contiguous().view(torch.int32) if rows.is_floating_point() else rows).long()
    return (_scrambled(bits) * _weights(rows.shape[1], place, rows.device)).sum(1)


def _scrambled(bits: Tensor) -> Tensor:
    """Integers spread over all their bits, 0 left where it is."""
    bits = bits * -7046029254386353131  # 2⁶⁴ / φ, odd
    return bits ^ (bits >> 29)


@lru_cache(maxsize=16)
def _weights(count: int, place: int, device: torch.device) -> Tensor:
    """Odd numbers, other ones for each tensor, and the same each time."""
    first = 1 + place * ELEMENTS
    return _scrambled(_scrambled(torch.arange(first, first + count, device=device)) + 1) | 1


def _tensors(given: Any, depth: int = 3) -> list[Tensor]:
    if isinstance(given, Tensor):
        return [given]
    values = given.values() if isinstance(given, Mapping) else given if isinstance(given, (tuple, list)) else ()
    return [tensor for value in values for tensor in _tensors(value, depth - 1)] if depth else []
