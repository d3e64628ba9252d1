"""The graph of layers behind a loss, read from its autograd nodes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from netdoctor.facts import Facts, Layer, Loss

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
AVERAGING = {
    f"{name}Backward{version}"
    for name in ("Mean", "Sum", "Mul", "Div", "Neg", "View", "ReshapeAlias", "Squeeze", "ToCopy")
    for version in (0, 1, 2)
}  # what a loss may do with squares or magnitudes and still be a mean of them
RESHAPING = {
    f"{name}Backward{version}"
    for name in ("View", "ReshapeAlias", "UnsafeView", "Squeeze", "Unsqueeze", "ToCopy", "Alias", "Clone")
    for version in (0, 1, 2)
}  # what leaves the elements as they are, in their order
OPAQUE = ("CheckpointFunctionBackward", "CompiledFunctionBackward")  # nodes with layers inside
MEETING = ("SubBackward0", "MulBackward0", "DivBackward0")  # nodes in which a loss written by hand takes its target
SEARCHED = 64  # nodes of a loss written by hand
FEWEST = 4  # predictions: of fewer, columns of a table may be as many as its rows by chance
NEAREST = 8  # layers kept as the inputs of one: a residual stream reaches all layers below it


@dataclass(frozen=True)
class Path:
    """The way from the loss down to the last layer that is no nonlinearity: autograd nodes, the loss first.

    ``layer`` is the name of that layer, "" where it is unknown, ``end`` the node of its output, ``pairs`` the shapes of
    predictions and of the pairs that they make with targets, as `paired` finds them.
    """

    nodes: tuple[Node, ...] = ()
    layer: str = ""
    end: Node | None = None
    pairs: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(node.name() for node in self.nodes)

    @property
    def loss_node(self) -> Node | None:
        """The node of a loss function of torch, None where the loss was written by hand."""
        return next((node for node in self.nodes if node.name() in LOSSES), None)

    @property
    def kind(self) -> str:
        """Which loss it is; those written by hand are told by their nodes."""
        names = self.names
        node = self.loss_node
        if node is not None:
            kind = LOSSES[node.name()]
            after = names[names.index(node.name()) + 1 :]
            return "cross-entropy" if kind == "nll" and after and after[0] == "LogSoftmaxBackward0" else kind
        if "LogSoftmaxBackward0" in names:  # torch's kl_div is made of these too: xlogy(t, t) - t * log p
            return "kl-div" if "SubBackward0" in names else "cross-entropy"
        if "SoftmaxBackward0" in names and "LogBackward0" not in names and self._divergence:
            return "kl-div"
        difference = self.difference
        if difference is not None and set(names[: difference - 1]) <= AVERAGING:
            return "l1" if names[difference - 1] == "AbsBackward0" else "mse"
        return "nll" if "LogBackward0" in names else ""

    @property
    def difference(self) -> int | None:
        """Place of the node that takes prediction and target from each other, below a square or a magnitude.

        None in torch's own losses, and in others that compare no values.
        """
        for place, node in enumerate(self.nodes[1:], 1):
            if node.name() == "SubBackward0":
                above, operands = self.nodes[place - 1], [child for child, _ in node.next_functions]
                power = above.name() == "AbsBackward0" or _square(above)
                return place if power and len(operands) == 2 and None in operands else None
        return None

    @property
    def _divergence(self) -> bool:
        """Whether it is torch's kl_div, a mean of xlogy(t, t) - t * p, of what is no logarithm."""
        names = self.names
        for place, name in enumerate(names):
            if name == "SubBackward0":
                product, operands = self.after(place), [child for child, _ in self.nodes[place].next_functions]
                targets = product is not None and product.name() == "MulBackward0" and _given(product)
                return bool(targets) and operands == [None, product] and set(names[:place]) <= AVERAGING
        return False

    def after(self, place: int) -> Node | None:
        """The node below the one at ``place``."""
        return self.nodes[place + 1] if place + 1 < len(self.nodes) else self.end


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
    path: Path = Path()
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
    for node in children_first(root):
        if hasattr(node, "variable"):
            graph.parameters.add(id(node.variable))
        branches = [upstream[child] for child, _ in node.next_functions if child is not None and upstream[child]]
        if node.name() in OPAQUE:
            graph.hidden, branches = True, []
        nearest = tuple(dict.fromkeys(name for branch in branches for name in branch))[:NEAREST]
        function = FUNCTIONS.get(node.name(), "")
        name = outputs.get(node)
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
            if source not in graph.mixed:
                graph.nonlinearity.setdefault(source, "identity")
    return graph


def _contains(name: str, others: Iterable[str]) -> bool:
    """Whether a layer has others inside: of such a one, as a model with a parameter of its own, these are the last."""
    return any(other != name and (not name or other.startswith(f"{name}.")) for other in others)


def loss_path(root: Node, outputs: Mapping[Node, str] | None = None) -> Path:
    """The shortest way from the loss to a layer's output (without it), breadth first.

    Without known ``outputs`` it ends one node after torch's own loss function, and is empty for losses written by hand.
    """
    parents: dict[Node, Node | None] = {root: None}
    queue = deque([root])
    while queue:
        node = queue.popleft()
        if outputs and node in outputs:
            return Path(_way(parents, parents[node]), outputs[node], node)
        if not outputs and node.name() in LOSSES:
            after = node.next_functions[0][0]
            return Path((*_way(parents, node), *(() if after is None else (after,))))
        for child, _ in node.next_functions:
            if child is not None and child not in parents:
                parents[child] = node
                queue.append(child)
    return Path()


def paired(root: Node, outputs: Container[Node]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of N predictions and of the N x N pairs that a loss written by hand makes of them, and averages.

    Args:
        root: Of the loss.
        outputs: Nodes of the layers' outputs: what is below them is no longer the loss.

    Returns:
        Empty shapes where no prediction is broadcast against a tensor without a gradient, where a dimension was put in
        for that on purpose, or where the loss is not a mean or sum over all pairs.
    """
    queue, seen = deque([(root, 0)]), {root}
    for _ in range(SEARCHED):
        if not queue:
            break
        node, elements = queue.popleft()
        name = node.name()
        if node in outputs or name in LOSSES:
            continue
        if name in ("MeanBackward0", "SumBackward0"):
            elements = prod(node._saved_self_sym_sizes)
        operands = node.next_functions
        learned = [operand for operand in operands if operand[0] is not None]
        if name in MEETING and len(operands) == 2 and len(learned) == 1:
            pairs, alone = made_shape(node), made_shape(*learned[0])
            count = prod(alone)
            square = pairs[-2:] == (count, count) and prod(pairs) == count**2 == elements
            if square and count >= FEWEST and not _widened(learned[0][0]):
                return alone, pairs
            if name == "SubBackward0":
                continue
        for child, _ in learned:
            if child not in seen:
                seen.add(child)
                queue.append((child, elements))
    return (), ()


def _widened(node: Node | None) -> bool:
    """Whether a dimension was put into what a node made."""
    while node is not None and node.name() in RESHAPING and not node.name().startswith("Unsqueeze"):
        node = node.next_functions[0][0]
    return node is not None and node.name() in ("UnsqueezeBackward0", "ExpandBackward0")


def _way(parents: Mapping[Node, Node | None], node: Node | None) -> tuple[Node, ...]:
    steps: list[Node] = []
    while node is not None:
        steps.append(node)
        node = parents[node]
    return tuple(reversed(steps))


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


def describe_loss(path: Path) -> Loss:
    """Facts of the loss; shapes from the saved tensors where the loss is torch's own."""
    node = path.loss_node
    outputs: tuple[int, ...] = ()
    targets: tuple[int, ...] = ()
    classes = 0
    if node is not None:
        outputs = tuple(node._saved_self.shape)
        targets = () if learned_target(node) else tuple(node._saved_target.shape)
        if path.kind in ("nll", "cross-entropy"):
            classes = outputs[1] if len(outputs) > 1 else outputs[0]
    names = path.names
    extent, axis = _softmax(path)
    reduction = getattr(node, "_saved_reduction", 1)  # 0 none, 1 mean, 2 sum
    predicted = _predicted(path)
    if node is None and path.difference is not None:
        outputs = made_shape(path.nodes[path.difference])
    broadcast = prod(outputs) > prod(predicted) > 0 if predicted else False
    if not broadcast and path.pairs[1]:
        broadcast, (predicted, outputs) = True, path.pairs
    return Loss(
        path.kind,
        names,
        layer=path.layer,
        functions=tuple(FUNCTIONS[name] for name in names if name in FUNCTIONS),
        softmax_extent=extent,
        softmax_axis=axis,
        outputs=outputs,
        predicted=predicted,
        targets=targets,
        classes=classes,
        broadcast=broadcast,
        elements=_elements(path),
        sharpness=_sharpness(path),
        summed=reduction == 2 or (reduction == 0 and "SumBackward0" in names),
    )


def learned_target(node: Node) -> bool:
    """Whether a loss function's target is an output of the model itself, as that of two views of one image."""
    ends = [child is not None for child, _ in node.next_functions]
    return ends[0] and any(ends[1:])


def made_shape(node: Node, place: int = 0) -> tuple[int, ...]:
    """Shape of the tensor that a node made, of several the one at ``place``; () where it is a scalar or unknown."""
    metadata: list[Any] = getattr(node, "_input_metadata", [])
    return tuple(int(extent) for extent in metadata[place].shape) if place < len(metadata) else ()


def _predicted(path: Path) -> tuple[int, ...]:
    """Shape of the prediction as it came to meet its target, () where unknown."""
    node, place = path.loss_node, path.difference
    if node is not None:
        place = path.nodes.index(node)
    below = None if place is None else path.after(place)
    if below is None:
        return () if node is None else tuple(node._saved_self.shape)
    if below.name() == "ExpandBackward0":
        return tuple(int(extent) for extent in below._saved_self_sym_sizes)
    return made_shape(below)


def _square(node: Node) -> bool:
    """Whether a node squares one tensor."""
    if node.name() == "PowBackward0":
        return bool(node._saved_exponent == 2)
    return node.name() == "MulBackward0" and len({child for child, _ in node.next_functions}) == 1


def _given(product: Node) -> bool:
    """Whether one factor is a tensor that no layer made, of the product's shape."""
    kept = (product._saved_self, product._saved_other)
    shape = made_shape(product)
    return any(t is not None and not t.requires_grad and t.ndim and tuple(t.shape) == shape for t in kept)


def _elements(path: Path) -> int:
    """Of the tensor whose mean or sum a loss written by hand is."""
    if path.loss_node is not None or not path.nodes:
        return 0
    sizes = getattr(path.nodes[0], "_saved_self_sym_sizes", None)
    return prod(sizes) if sizes is not None and path.names[0] in ("MeanBackward0", "SumBackward0") else 0


def _sharpness(path: Path) -> float:
    """Product of the numbers that multiply what a cross-entropy takes for logits, right before it does."""
    factor, names = 1.0, path.names
    for node in path.nodes[names.index("LogSoftmaxBackward0") + 1 :] if "LogSoftmaxBackward0" in names else ():
        name = node.name()
        if name in ("MulBackward0", "DivBackward0"):
            number = node._saved_other
            if number is None or number.ndim or number.requires_grad or number.device.type != "cpu":
                break
            value = float(number)
            factor = factor * value if name == "MulBackward0" else factor / value if value else factor
        elif name not in RESHAPING:
            break
    return factor


def _softmax(path: Path) -> tuple[int, int]:
    """Extent and axis of the softmax nearest to the last layer; zeros without one."""
    for node in reversed(path.nodes):
        if node.name() in ("SoftmaxBackward0", "LogSoftmaxBackward0"):
            shape = node._saved_result.shape
            axis = node._saved_dim - 2**64 if node._saved_dim >= 2**63 else node._saved_dim
            axis %= max(len(shape), 1)
            return (shape[axis], axis) if shape else (1, 0)
    return 0, 0
