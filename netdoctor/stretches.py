"""What stands between a layer and the layers before it: linear operations alone, dropout, parameters of nobody's."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from netdoctor.nodes import Node
from netdoctor.structure import Graph

LINEAR = frozenset(
    f"{name}Backward0"
    for name in (
        *("Addmm", "Mm", "Bmm", "Addmv", "Mv", "Convolution"),  # of the layers themselves, and graphs' adjacencies
        *("View", "UnsafeView", "ReshapeAlias", "T", "Transpose", "Permute", "Squeeze", "Unsqueeze"),
        *("Expand", "Repeat", "Clone", "ToCopy", "Alias", "Slice", "Select", "Split", "Unbind", "Flip"),
        *("AvgPool2D", "AvgPool3D", "MkldnnAdaptiveAvgPool2D", "AdaptiveAvgPool2D", "AdaptiveAvgPool3D"),
        *("ConstantPadNd", "ReflectionPad1D", "ReflectionPad2D", "ReplicationPad1D", "ReplicationPad2D"),
        *("Neg", "Sum", "Mean"),
    )
) | {"SqueezeBackward1", "SqueezeBackward2", "SumBackward1", "MeanBackward1"}
# Sums and products with a constant are not among them: the constant may be made of the same input, as a mask or in a
# straight-through estimator. Those of a dropout layer are; with probability 0 its node is that of what stands before.
DROPOUT = LINEAR | {"MulBackward0", "NativeDropoutBackward0", "AddBackward0"}
STRANGERS = 32  # parameters of no layer that are remembered on one stretch


@dataclass
class Stretches:
    """What lies between the layers.

    Attributes:
        straight: Layers between which and their one input stand linear operations alone, and dropout.
        dropouts: Dropout layers between each layer and its inputs.
        strangers: Parameters used behind one layer and before the next that are not the model's.
    """

    straight: set[str] = field(default_factory=set)
    dropouts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    strangers: list[nn.Parameter] = field(default_factory=list)


@dataclass(frozen=True)
class _Stretch:
    """From the nearest layers to a node."""

    straight: bool = True
    dropouts: tuple[str, ...] = ()
    parameters: tuple[nn.Parameter, ...] = ()


_FRESH = _Stretch()  # right behind a layer


def stretches(graph: Graph, outputs: Mapping[Node, str], dropouts: Container[str], known: Container[int]) -> Stretches:
    """Read them from a traced graph.

    Args:
        graph: From `structure.trace`.
        outputs: ``output.grad_fn`` of each layer with the layer's name.
        dropouts: Names of those that are dropout.
        known: ``id`` of the model's parameters.
    """
    found = Stretches()
    ways: dict[Node, _Stretch] = {}
    for node in graph.upstream:  # children first
        name = outputs.get(node)
        nearest = graph.upstream[node] if name is None else graph.inputs[name]
        before = _before(node, graph.upstream, ways, known)
        straight = before.straight and (not nearest or node.name() in (LINEAR if name is None else DROPOUT))
        way = before if straight == before.straight else replace(before, straight=straight)
        if name is not None:
            found.dropouts[name] = before.dropouts
            if len(nearest) == 1 and before.straight:
                found.straight.add(name)
            if nearest:
                found.strangers += [p for p in before.parameters if not any(p is q for q in found.strangers)]
            way = _Stretch(straight, (*before.dropouts, name)) if name in dropouts else _FRESH
        ways[node] = way
    return found


def _before(
    node: Node, upstream: Mapping[Node, tuple[str, ...]], ways: Mapping[Node, _Stretch], known: Container[int]
) -> _Stretch:
    """The stretches before ``node`` in one, its own parameter included."""
    variable = getattr(node, "variable", None)
    if variable is not None:
        own = isinstance(variable, nn.Parameter) and id(variable) not in known
        return _Stretch(parameters=(variable,)) if own else _FRESH
    children = [child for child, _ in node.next_functions if child is not None]
    parts = [ways[child] for child in children]
    layered = [ways[child] for child in children if upstream[child]]
    return _Stretch(
        len(layered) <= 1 and all(part.straight for part in layered),
        tuple(dict.fromkeys(name for part in parts for name in part.dropouts)),
        tuple(parameter for part in parts for parameter in part.parameters)[:STRANGERS],
    )
