"""Penalties that a program adds to its loss: terms that only parameters lead to, as the sum of their squares."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor

from netdoctor.loss_path import Path
from netdoctor.nodes import Node, children_first

NODES = 1 << 14  # of one penalty: a few for each parameter
SHAPING = {
    f"{name}Backward{version}"
    for name in ("View", "ReshapeAlias", "UnsafeView", "Unsqueeze", "Squeeze", "T", "Transpose", "Alias", "Clone")
    for version in (0, 1, 2)
}  # what a sum over all elements does not feel
CONSTANT = ("MulBackward0", "DivBackward0")  # nodes that keep the number that they multiply by

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "AbsBackward0": torch.abs,
    "SqrtBackward0": torch.sqrt,
    "SumBackward0": torch.sum,
    "MeanBackward0": torch.mean,
    "NegBackward0": torch.neg,
}


def split(path: Path) -> tuple[Path, Tensor | None]:
    """The path of the data's own loss, and the value of the penalties that are added to it.

    None where none is, or where one is made of other than elementwise functions and sums.

    Args:
        path: From the loss to the last layer.
    """
    total: Tensor | None = None
    place = 0
    with torch.no_grad():
        while place + 1 < len(path.nodes) and path.nodes[place].name() == "AddBackward0":
            node, below = path.nodes[place], path.nodes[place + 1]
            rest = [child for child, _ in node.next_functions if child is not below]
            if len(rest) != 1 or (rest[0] is node.next_functions[1][0] and node._saved_alpha != 1):
                break
            value = None if rest[0] is None else _value(rest[0])
            if value is None or value.numel() != 1:
                break
            total = value.reshape(()) if total is None else total + value.reshape(()).to(total.device)
            place += 1
    return (path, None) if total is None else (Path(path.nodes[place:], path.layer, path.end), total)


def _value(root: Node) -> Tensor | None:
    """What a node made of parameters alone, up to the shape of what is summed; None where that is not known."""
    order = list(islice(children_first(root, _is_known), NODES))
    known = {root, *order}
    below = (child for node in order for child, _ in node.next_functions)
    if order[-1:] != [root] or any(child is not None and child not in known for child in below):
        return None
    made: dict[Node, Tensor] = {}
    magnitudes: set[Node] = set()  # a sum of parameters as they are is no penalty: learned weights of several losses
    for node in order:
        value = node.variable.detach() if hasattr(node, "variable") else _made(node, made)
        if value is None:
            return None
        made[node] = value
        given = {child for child, _ in node.next_functions if child is not None}
        if _is_magnitude(node) or (given and given <= magnitudes):
            magnitudes.add(node)
    return made.get(root) if root in magnitudes else None


def _is_magnitude(node: Node) -> bool:
    """Whether a node makes what is never negative, and the larger the farther from zero its input is."""
    name = node.name()
    if name == "PowBackward0":
        return bool(node._saved_exponent % 2 == 0)
    square = name == "MulBackward0" and len({child for child, _ in node.next_functions}) == 1
    return square or name in ("AbsBackward0", "NormBackward0", "LinalgVectorNormBackward0")


def _is_known(node: Node) -> bool:
    """Whether it is a parameter, or a function whose result can be worked out."""
    return hasattr(node, "variable") or node.name() in _KNOWN


def _made(node: Node, made: dict[Node, Tensor]) -> Tensor | None:
    """What an inner node made, from what those below it made."""
    name = node.name()
    given = [made[child] for child, _ in node.next_functions if child is not None]
    one, two = given[0], given[1] if len(given) > 1 else None
    value: Tensor | None = one
    if name in ("StackBackward0", "CatBackward0"):
        value = torch.cat([tensor.reshape(-1) for tensor in given])
    elif name == "AddBackward0":
        value = one if two is None else one + node._saved_alpha * two  # sum() begins at 0
    elif name == "SubBackward0":
        value = None if two is None else one - node._saved_alpha * two
    elif name == "PowBackward0":
        value = one**node._saved_exponent
    elif name in CONSTANT:
        other = two if two is not None or node.next_functions[0][0] is None else node._saved_other
        if other is None or (two is None and other.numel() != 1):
            value = None
        else:
            value = one * other if name.startswith("Mul") else one / other
    elif name in ("NormBackward0", "LinalgVectorNormBackward0"):
        order = node._saved_p if name == "NormBackward0" else node._saved_ord
        whole = name == "NormBackward0" or node._saved_dim is None
        value = torch.linalg.vector_norm(one.float(), float(order)) if whole else None
    elif name in ("SumBackward1", "MeanBackward1"):
        axes = [axis - 2**64 if axis >= 2**63 else axis for axis in node._saved_dim]
        value = one.sum(axes) if name.startswith("Sum") else one.mean(axes)
    elif name in FUNCTIONS:
        value = FUNCTIONS[name](one)
    return value


_KNOWN = {
    *("AddBackward0", "SubBackward0", "PowBackward0", "NormBackward0", "LinalgVectorNormBackward0"),
    *("StackBackward0", "CatBackward0", "SumBackward1", "MeanBackward1", "ToCopyBackward0"),
    *CONSTANT,
    *FUNCTIONS,
    *SHAPING,
}
