"""Where the first NaN or Inf came from: read once, from the autograd graph of the first loss that is not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from netdoctor.facts import NonFinite
from netdoctor.nodes import Node, children_first

SAVED_RESULTS = ("_saved_result", "_saved_output", "_saved_result1")
SAVED_INPUTS = {  # saved argument -> its place among the node's inputs
    "_saved_self": (0,),
    "_saved_input": (0,),
    "_saved_other": (1, 0),
    "_saved_mat1": (1,),
    "_saved_target": (1,),
    "_saved_mat2": (2, 1),
    "_saved_tensor1": (1,),
    "_saved_tensor2": (2,),
    "_saved_exponent": (1,),
}


class Origins:
    """Traces losses back that are NaN or Inf: the first of each stretch of them, a few times in a run.

    Args:
        parameters: Of the model, by name.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._parameters = parameters
        self._left = 8  # a run that falls ill again and again is told nothing new
        self._lost = False  # whether the last loss was NaN or Inf

    def clear(self) -> None:
        """The last loss was finite."""
        self._lost = False

    def look(self, loss: Tensor, value: Tensor | float, step: int) -> NonFinite | None:
        """Where the NaN or Inf in ``loss`` came from; None where it is finite or another one in the same stretch.

        Args:
            loss: On which `backward` is about to be called.
            value: Its value; a tensor is read, which waits for its device.
            step: Optimizer step that it belongs to.
        """
        if self._left <= 0:
            return None
        before, self._lost = self._lost, not math.isfinite(value)
        if isinstance(value, Tensor):
            self._left = 0  # a second look would wait again
        if before or not self._lost:
            return None
        self._left -= 1
        try:
            return locate(loss, step, self._parameters)
        except Exception:  # noqa: BLE001  # graphs may hold anything; then the origin stays unknown
            return NonFinite(step)


def locate(loss: Tensor, step: int, parameters: Mapping[str, Tensor]) -> NonFinite:
    """Which pass, layer and operation made ``loss`` NaN or Inf.

    Where parameters are not finite already, the step before spoiled them. Else it was this forward pass: the autograd
    nodes are read from the inputs upward for the first one that took or made a value that is not finite.

    Args:
        loss: On which `backward` is about to be called; its graph is still there.
        step: Optimizer step that it belongs to.
        parameters: Of the model, by name.
    """
    spoiled = tuple(name for name, p in parameters.items() if p.is_floating_point() and not finite(p))
    if spoiled:
        return NonFinite(step, "weights", layer=spoiled[-1].rpartition(".")[0], share=len(spoiled) / len(parameters))
    if loss.grad_fn is None:
        return NonFinite(step, "forward")
    owners = {id(p): name.rpartition(".")[0] for name, p in parameters.items()}
    after: dict[Node, str] = {}  # the last layer on the way from the input to each node
    for node in children_first(loss.grad_fn):
        children = [child for child, _ in node.next_functions]
        own = [owners.get(id(getattr(child, "variable", None)), "") for child in _through_transposes(children)]
        mine = next((name for name in own if name), "")
        below = next((after[child] for child in reversed(children) if child is not None and after[child]), "")
        after[node] = mine or below
        verdict = _judge(node, children)
        if verdict is not None:
            stage, operation = verdict
            made_here = operation == node.name()
            return NonFinite(step, stage, layer=after[node] if made_here else below, operation=_plain(operation))
    return NonFinite(step, "forward", layer=after.get(loss.grad_fn, ""))


def finite(tensor: Tensor) -> bool:
    """Whether there is no NaN and no Inf in it: their sum is one too, a finite sum of any signs clears them all."""
    values = tensor.detach()
    if values.element_size() == 1:  # float8, which torch cannot add up
        values = values.float()
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def _judge(node: Node, children: Sequence[Node | None]) -> tuple[str, str] | None:
    """(stage, operation) where this node took or made a value that is not finite."""
    name = node.name()
    for attribute, places in SAVED_INPUTS.items():
        value = _saved(node, attribute)
        if value is None:
            continue
        if attribute == "_saved_target":
            if not _finite_or_masked(value, name):
                return "target", name
            continue
        if not _finite_or_masked(value, name):
            child = next((children[place] for place in places if place < len(children)), None)
            return ("forward", child.name()) if child is not None else ("input", "")
        if name.startswith("Log") and name[3:4] in "B12p" and bool((value <= 0).any()):
            return "forward", name
        if name == "DivBackward0" and attribute == "_saved_other" and bool((value == 0).any()):
            return "forward", name
    for attribute in SAVED_RESULTS:
        value = _saved(node, attribute)
        if value is not None and not _finite_or_masked(value, name):
            return "forward", name
    return None


def _finite_or_masked(value: Tensor, node: str) -> bool:
    """Finite, but for the -inf that a mask puts before a softmax, and the log-probability -inf of a masked class."""
    if finite(value):
        return True
    masks = node.startswith(("Softmax", "LogSoftmax", "MaskedFill", "Add", "Where", "ScaledDotProduct"))
    return masks and not bool((torch.isnan(value) | (value == torch.inf)).any())


def _saved(node: Node, attribute: str) -> Tensor | None:
    try:
        value = getattr(node, attribute, None)
    except RuntimeError:  # freed, or changed in place since
        return None
    return value if isinstance(value, Tensor) and value.is_floating_point() and value.numel() else None


def _through_transposes(children: Sequence[Node | None]) -> list[Node | None]:
    """The children, with the leaf behind a transposed weight in place of the transposition."""
    transposed = ("TBackward0", "TransposeBackward0")
    return [c.next_functions[0][0] if c is not None and c.name() in transposed else c for c in children]


def _plain(operation: str) -> str:
    """The name without its suffix: "log" for LogBackward0."""
    return operation.partition("Backward")[0].lower()
