"""Gradients that are still there when the next backward pass begins, though the optimizer has used them already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from netdoctor.probes.sampling import plain
from netdoctor.probes.scalars import Scalar

PARAMETERS = 4  # of each optimizer that are looked at
ELEMENTS = 1024  # of each of their gradients


class Leftovers:
    """What is left in the buffers, for each optimizer the least over the backward passes since its last step.

    A program that forgets `zero_grad` never empties them; one that accumulates gradients, or has several optimizers
    that clear each their own, does so before one of the passes at least. A pass that adds nothing to an optimizer's
    gradients, as that of a copy of the model, does not count.
    """

    def __init__(self) -> None:
        self._least: dict[int, Scalar] = {}
        self._found: dict[int, tuple[Scalar, tuple[tuple[int, int], ...]]] = {}  # of the pass that is about to begin

    def look(self, held: Mapping[int, Sequence[nn.Parameter]]) -> None:
        """A backward pass is about to begin.

        Args:
            held: Parameters of each optimizer, by its ``id``.
        """
        self._found = {
            optimizer: (_largest(parameters[:PARAMETERS]), _stamps(parameters[:PARAMETERS]))
            for optimizer, parameters in held.items()
        }

    def passed(self, held: Mapping[int, Sequence[nn.Parameter]]) -> None:
        """The backward pass has run.

        Args:
            held: Parameters of each optimizer, by its ``id``.
        """
        for optimizer, (value, stamps) in self._found.items():
            if _stamps(held.get(optimizer, ())[:PARAMETERS]) != stamps:
                known = self._least.get(optimizer)
                self._least[optimizer] = value if known is None else _lesser(known, value)
        self._found = {}

    def take(self, optimizer: int) -> Scalar | None:
        """The least that was left before the passes since the optimizer's last step; None where none was seen."""
        return self._least.pop(optimizer, None)


def _largest(parameters: Sequence[nn.Parameter]) -> Scalar:
    """Largest magnitude among some elements of the gradients; 0 where there are none."""
    largest: Scalar = 0.0
    with torch.no_grad():
        for parameter in parameters:
            gradient = None if parameter.grad is None else plain(parameter.grad)
            if gradient is not None and gradient.numel():
                some = gradient.reshape(-1)[:ELEMENTS].abs().amax()
                largest = torch.maximum(some, largest.to(some)) if isinstance(largest, Tensor) else some
    return largest


def _stamps(parameters: Sequence[nn.Parameter]) -> tuple[tuple[int, int], ...]:
    """Which tensors the gradients are and how often they were written to; what adds to them changes either."""
    gradients = [parameter.grad for parameter in parameters]
    return tuple((0, 0) if each is None else (id(each), each._version) for each in gradients)


def _lesser(a: Scalar, b: Scalar) -> Scalar:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.minimum(a, b.to(a))
    return 0.0 if isinstance(a, Tensor) or isinstance(b, Tensor) else min(a, b)
