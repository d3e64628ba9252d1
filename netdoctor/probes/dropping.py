"""Which module calls a function that drops, where the model is in evaluation mode."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import FrameType

from torch import nn

LOOKED = 16  # calls looked at between two training passes: the frames of each are walked through


@dataclass(frozen=True)
class Dropping:
    """A call that drops though the module that makes it is in evaluation mode.

    Attributes:
        function: Of `torch.nn.functional`.
        rate: Probability with which it drops a unit.
        module: Dotted name of the module, "" where that is the model itself.
    """

    function: str
    rate: float
    module: str


class Droppings:
    """Listens to functions that drop without gradients, until one does so inside a model in evaluation mode."""

    def __init__(self) -> None:
        self.found: Dropping | None = None  # since the last training pass
        self._looked = 0

    def forget(self) -> None:
        """A training pass: what comes next is another validation pass."""
        self.found, self._looked = None, 0

    def look(self, model: nn.Module, function: str, rate: float) -> None:
        """Such a function is about to run. A module in training mode drops because of its mode: not looked for here."""
        if model.training or self.found is not None or self._looked >= LOOKED:
            return
        self._looked += 1
        caller = _caller(model)
        if caller is not None and not caller.training:
            name = next((name for name, module in model.named_modules() if module is caller), "")
            self.found = Dropping(function, rate, name)


def _caller(model: nn.Module) -> nn.Module | None:
    """The module whose method is running, None outside a forward pass of ``model``.

    Every forward pass of a module has a frame of `nn.Module` with the module as ``self``.
    """
    nearest = None
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            nearest = owner if nearest is None else nearest
            if owner is model:
                return nearest
        frame = frame.f_back
    return None
