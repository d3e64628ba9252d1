"""The way from the loss down to the last layer, and what it tells of the loss."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Mapping
from dataclasses import dataclass
from math import prod

from netdoctor.facts import Loss
from netdoctor.nodes import FUNCTIONS, LOSSES, RESHAPING, Node, learned_target, made_shape

AVERAGING = {
    f"{name}Backward{version}"
    for name in ("Mean", "Sum", "Mul", "Div", "Neg", "View", "ReshapeAlias", "Squeeze", "ToCopy")
    for version in (0, 1, 2)
}  # what a loss may do with squares or magnitudes and still be a mean of them
MEETING = ("SubBackward0", "MulBackward0", "DivBackward0")  # nodes in which a loss written by hand takes its target
SEARCHED = 64  # nodes of a loss written by hand
FEWEST = 4  # predictions: of fewer, columns of a table may be as many as its rows by chance


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


def _way(parents: Mapping[Node, Node | None], node: Node | None) -> tuple[Node, ...]:
    steps: list[Node] = []
    while node is not None:
        steps.append(node)
        node = parents[node]
    return tuple(reversed(steps))


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
