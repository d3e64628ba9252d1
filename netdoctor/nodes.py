"""Autograd nodes: what their names tell, and the walk over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Node = Any  # torch.autograd.graph.Node

FUNCTIONS = {
    "ReluBackward0": "relu",
    "ClampMinBackward0": "relu",
    "LeakyReluBackward0": "leaky_relu",
    "PreluKernelBackward0": "leaky_relu",
    "RreluWithNoiseBackward0": "leaky_relu",
    "HardtanhBackward0": "hardtanh",
    "EluBackward0": "elu",
    "GeluBackward0": "gelu",
    "SiluBackward0": "silu",
    "MishBackward0": "mish",
    "HardswishBackward0": "hardswish",
    "HardsigmoidBackward0": "hardsigmoid",
    "SoftplusBackward0": "softplus",
    "SigmoidBackward0": "sigmoid",
    "LogSigmoidBackward0": "logsigmoid",
    "TanhBackward0": "tanh",
    "SoftmaxBackward0": "softmax",
    "LogSoftmaxBackward0": "log_softmax",
}
LOSSES = {
    "NllLossBackward0": "nll",
    "NllLoss2DBackward0": "nll",
    "BinaryCrossEntropyBackward0": "binary-cross-entropy",
    "BinaryCrossEntropyWithLogitsBackward0": "binary-cross-entropy-with-logits",
    "MseLossBackward0": "mse",
    "SmoothL1LossBackward0": "smooth-l1",
    "HuberLossBackward0": "smooth-l1",
    "KlDivBackward0": "kl-div",
}
RESHAPING = {
    f"{name}Backward{version}"
    for name in ("View", "ReshapeAlias", "UnsafeView", "Squeeze", "Unsqueeze", "ToCopy", "Alias", "Clone")
    for version in (0, 1, 2)
}  # what leaves the elements as they are, in their order


def children_first(root: Node, within: Callable[[Node], bool] = lambda _: True) -> Iterator[Node]:
    """All nodes, each after the ones it depends on; without recursion, for graphs of any depth.

    Args:
        root: The last of them.
        within: Where it is false, neither the node is given nor what it alone depends on.
    """
    seen = {root}
    stack = [(root, iter(root.next_functions))] if within(root) else []
    while stack:
        node, children = stack[-1]
        for child, _ in children:
            if child is not None and child not in seen and within(child):
                seen.add(child)
                stack.append((child, iter(child.next_functions)))
                break
        else:
            yield node
            stack.pop()


def made_shape(node: Node, place: int = 0) -> tuple[int, ...]:
    """Shape of the tensor that a node made, of several the one at ``place``; () where it is a scalar or unknown."""
    metadata: list[Any] = getattr(node, "_input_metadata", [])
    return tuple(int(extent) for extent in metadata[place].shape) if place < len(metadata) else ()


def learned_target(node: Node) -> bool:
    """Whether a loss function's target is an output of the model itself, as that of two views of one image."""
    ends = [child is not None for child, _ in node.next_functions]
    return ends[0] and any(ends[1:])
