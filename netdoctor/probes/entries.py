"""Whether the gradient reaches what the input passes first: all of it is looked at, for zeros are the answer."""

from __future__ import annotations

from collections.abc import Container

from torch import Tensor, nn

from netdoctor.facts import Facts

MOST = 4  # weights looked at
ELEMENTS = 1 << 26  # of a gradient at most: 20 ms


def reached(model: nn.Module | None, facts: Facts, held: Container[str]) -> dict[str, Tensor]:
    """Elements that are not zero in the gradient of each first layer's weight, by name.

    Args:
        model: The model.
        facts: Of which the graph of layers must be known.
        held: Names of the parameters that the optimizer holds.
    """
    first = {layer.name for layer in facts.layers if layer.called and not layer.inputs}
    found: dict[str, Tensor] = {}
    for parameter in facts.parameters:
        usable = parameter.role in ("weight", "embedding") and parameter.name in held
        if model is None or parameter.layer not in first or not usable or len(found) == MOST:
            continue
        gradient = model.get_parameter(parameter.name).grad
        if gradient is None or gradient.numel() > ELEMENTS:
            continue
        values = gradient._values() if gradient.is_sparse else gradient
        if type(values) is Tensor:
            found[parameter.name] = values.count_nonzero()
    return found
