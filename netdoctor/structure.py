"""The graph of layers behind a loss, read from its autograd nodes."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace

from netdoctor.facts import Facts, Layer
from netdoctor.loss_path import Path, describe_loss, loss_path, paired
from netdoctor.nodes import FUNCTIONS, Node, children_first

SHIFTS = {f"{name}Backward{version}" for name in ("Add", "Sub", "Rsub") for version in (0, 1)}  # with one operand
OPAQUE = ("CheckpointFunctionBackward", "CompiledFunctionBackward")  # nodes with layers inside
NEAREST = 8  # layers kept as the inputs of one: a residual stream reaches all layers below it


@dataclass
class Graph:
    """What the autograd graph tells of the layers.

    Attributes:
        inputs: Nearest layers before each layer.
        nonlinearity: Function applied directly to a layer's output.
        mixed: Layers whose output is added to, multiplied by or joined with another path.
        parameters: ``id`` of every parameter that the loss depends on.
        hidden: Whether there may be more of them, and of the layers: compiled graphs and re-entrant checkpoints hide
            what is in them.
        path: From the loss to the last layer.
        upstream: Nearest layers at or before each node.
    """

    inputs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    nonlinearity: dict[str, str] = field(default_factory=dict)
    mixed: set[str] = field(default_factory=set)
    parameters: set[int] = field(default_factory=set)
    hidden: bool = False
    path: Path = field(default_factory=Path)
    upstream: dict[Node, tuple[str, ...]] = field(default_factory=dict)


def trace(
    root: Node, outputs: Mapping[Node, str], nonlinearities: Container[str] = (), dropouts: Container[str] = ()
) -> Graph:
    """Read the graph of layers from autograd nodes, the loss's node first.

    Args:
        root: ``loss.grad_fn``.
        outputs: ``output.grad_fn`` of each layer with the layer's name.
        nonlinearities: Names of those layers that are nonlinearities: the path from the loss goes on through them.
        dropouts: Names of those that are dropout: they stand between layers without separating them.
    """
    ends = {n: name for n, name in outputs.items() if name not in nonlinearities and name not in dropouts}
    inner = {name for name in ends.values() if not _contains(name, ends.values())}
    path = loss_path(root, {n: name for n, name in ends.items() if name in inner})
    graph = Graph(path=replace(path, pairs=paired(root, ends)))
    upstream: dict[Node, tuple[str, ...]] = {}
    shifted: set[Node] = set()  # those that take a layer's output plus or minus a constant
    hinged: set[str] = set()
    for node in children_first(root):
        if hasattr(node, "variable"):
            graph.parameters.add(id(node.variable))
        branches = [upstream[child] for child, _ in node.next_functions if child is not None and upstream[child]]
        if node.name() in OPAQUE:
            graph.hidden, branches = True, []
        nearest = tuple(dict.fromkeys(name for branch in branches for name in branch))[:NEAREST]
        function = FUNCTIONS.get(node.name(), "")
        name = outputs.get(node)
        learned = [child for child, _ in node.next_functions if child is not None]
        if name is None and (not shifted.isdisjoint(learned) or (len(learned) == 1 and node.name() in SHIFTS)):
            shifted.add(node)
            if function == "relu":  # a hinge: it cuts off what lies beyond a margin
                function = ""
                hinged.update(nearest)
        if name is not None:
            graph.inputs[name] = nearest
            name = None if name in dropouts else name
        elif len(set(branches)) > 1:
            graph.mixed.update(nearest)
        if function and len(nearest) == 1 and nearest[0] not in graph.mixed:
            graph.nonlinearity.setdefault(nearest[0], function)
        upstream[node] = (name,) if name is not None else nearest
    graph.upstream = upstream
    for sources in graph.inputs.values():
        for source in sources:
            if source not in graph.mixed and source not in hinged:
                graph.nonlinearity.setdefault(source, "identity")
    return graph


def _contains(name: str, others: Iterable[str]) -> bool:
    """Whether a layer has others inside: of such a one, as a model with a parameter of its own, these are the last."""
    return any(other != name and (not name or other.startswith(f"{name}.")) for other in others)


@dataclass(frozen=True)
class Form:
    """A layer's first call: of its output values of each unit, dtype and extent of the first dimension; its input."""

    samples: int = 0
    dtype: str = ""
    batch: int = 0
    exchanged: bool = False


def learn(facts: Facts, graph: Graph, parameter_ids: Mapping[str, int], forms: Mapping[str, Form]) -> Facts:
    """Facts with what the graph and the first forward pass told; what an earlier one told of other layers stays.

    Args:
        facts: What was known before.
        graph: From `trace`.
        parameter_ids: ``id`` of each parameter by name.
        forms: In order of execution, of each layer's output.
    """
    position = {name: index for index, name in enumerate(forms)}

    def learned(layer: Layer) -> Layer:
        form = forms.get(layer.name, Form())
        return replace(
            layer,
            called=layer.name in position,
            samples=form.samples,
            dtype=form.dtype,
            batch=form.batch,
            exchanged=form.exchanged,
            inputs=graph.inputs.get(layer.name, layer.inputs),
            nonlinearity=graph.nonlinearity.get(layer.name, layer.nonlinearity),
            residual=layer.name in graph.mixed or layer.residual,
        )

    never = len(position)
    layers = sorted((learned(layer) for layer in facts.layers), key=lambda layer: position.get(layer.name, never))
    parameters = tuple(
        replace(p, connected=p.connected or _connected(parameter_ids.get(p.name), graph)) for p in facts.parameters
    )
    loss = facts.loss if facts.loss.nodes else describe_loss(graph.path)
    return facts.with_changes(layers=tuple(layers), parameters=parameters, loss=loss)


def _connected(parameter: int | None, graph: Graph) -> bool | None:
    """Whether the loss depends on the parameter of that ``id``; None where that is unknown."""
    reached = parameter in graph.parameters
    return None if parameter is None or (graph.hidden and not reached) else reached


def without_nodes(graph: Graph) -> Graph:
    """What may be kept of a graph: its nodes would keep all that the pass has saved."""
    return replace(graph, path=Path(), upstream={})
