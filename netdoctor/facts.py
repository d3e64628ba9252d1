"""What is known of a model and its training beside the numbers: layers, parameters, optimizers, the loss."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

WEIGHTED = ("linear", "conv", "recurrent", "attention")  # kinds whose weights mix units


def spoken(name: str) -> str:
    """A module's name in a sentence: those of nn.Sequential are bare numbers, the root's is empty."""
    return f"layer {name}" if name[:1].isdigit() else name or "the model"


@dataclass(frozen=True)
class Layer:
    """One watched module.

    Attributes:
        name: Dotted module name; "" is the root.
        kind: linear, conv, recurrent, attention, embedding, norm, activation, dropout or other.
        type: Class name of the module.
        function: Name of the nonlinearity that an activation module computes ("relu"), else "".
        fan_in: Inputs of one unit (weight elements per output unit); 0 without a weight.
        fan_out: Outputs that one input reaches; 0 without a weight.
        units: Number of output units (features, channels).
        nonlinearity: Function applied directly to the output: "relu", "tanh", …, "identity" where the next
            layer takes the output as it is, "" where unknown.
        inputs: Names of the layers whose outputs reach this one with no other layer between.
        residual: Whether the output is added to another path before the next layer.
        straight: Whether only linear operations, and dropout, stand between it and its one input.
        dropouts: Names of the dropout layers between it and its inputs.
        called: Whether it took part in the forward pass.
        ungraded: Whether it ran in a training pass, but without gradients (``no_grad``).
        samples: Values of each unit in one batch (batch size times positions), at its first call; 0 where unknown.
        dtype: Of the output at its first call ("float32"), "" where unknown.
        batch: Extent of the first dimension of its output at its first call; 0 where unknown.
        rate: Probability with which it drops a unit: of dropout layers, and of dropout inside recurrent layers and
            attention.
        momentum: Weight of a new batch in what a batch norm gathers for evaluation; 0 where it averages over all.
        time_first: Whether it takes the first dimension for the time or the sequence: recurrent layers and attention
            without ``batch_first``.
        exchanged: Whether it reads sequences from a view whose first two dimensions are those of the tensor behind it
            the other way round, the order in memory being the same.
    """

    name: str
    kind: str
    type: str = ""
    function: str = ""
    fan_in: int = 0
    fan_out: int = 0
    units: int = 0
    nonlinearity: str = ""
    inputs: tuple[str, ...] = ()
    residual: bool = False
    straight: bool = False
    dropouts: tuple[str, ...] = ()
    called: bool = False
    ungraded: bool = False
    samples: int = 0
    dtype: str = ""
    batch: int = 0
    rate: float = 0.0
    momentum: float = 0.0
    time_first: bool = False
    exchanged: bool = False

    def __hash__(self) -> int:
        """That of its name: rules look layers up, and the names of one model differ."""
        return hash(self.name)


@dataclass(frozen=True)
class Parameter:
    """One parameter tensor.

    Attributes:
        name: Dotted name ("layers.0.weight").
        layer: Dotted name of the module that owns it.
        shape: Its shape.
        role: weight (two or more dimensions, in a layer that mixes units), embedding, bias, norm or other.
        trainable: ``requires_grad``.
        group: Index into `Facts.groups`, None while no optimizer is known to hold it.
        connected: Whether the first loss depends on it in the autograd graph; None where unknown.
    """

    name: str
    layer: str
    shape: tuple[int, ...]
    role: str
    trainable: bool = True
    group: int | None = None
    connected: bool | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        size = 1
        for extent in self.shape:
            size *= extent
        return size


@dataclass(frozen=True)
class Group:
    """One param group of an optimizer, as it stood at the optimizer's first step."""

    optimizer: str
    index: int
    learning_rate: float
    weight_decay: float = 0.0
    momentum: float = 0.0


@dataclass(frozen=True)
class Loss:
    """What the loss's autograd nodes tell.

    Attributes:
        kind: cross-entropy, nll, binary-cross-entropy, binary-cross-entropy-with-logits, mse, l1, smooth-l1, kl-div;
            "" where unknown.
        nodes: Names of the autograd nodes from the loss to the last layer that is no nonlinearity, the loss first.
        layer: Name of that layer, "" where unknown.
        functions: Nonlinearities among the nodes ("softmax", "sigmoid"), the loss first.
        softmax_extent: Over how many values the softmax next to the layer runs; 0 without one.
        softmax_axis: Over which dimension, from 0.
        outputs: Shape of the prediction that the loss takes, () where unknown.
        predicted: Its shape before it was broadcast to meet the target, () where unknown.
        targets: Shape of the target, () where unknown, or where it is an output of the model itself.
        classes: Number of classes, 0 for a regression.
        broadcast: Whether the prediction was expanded to meet the target.
        summed: Whether it is the sum over the batch, not the mean.
        sharpness: Number that multiplies the logits before a cross-entropy's softmax, 1 over the temperature.
        elements: Of the tensor whose mean or sum a loss written by hand is; 0 for torch's own losses.
    """

    kind: str = ""
    nodes: tuple[str, ...] = ()
    outputs: tuple[int, ...] = ()
    predicted: tuple[int, ...] = ()
    targets: tuple[int, ...] = ()
    classes: int = 0
    broadcast: bool = False
    elements: int = 0
    layer: str = ""
    functions: tuple[str, ...] = ()
    softmax_extent: int = 0
    softmax_axis: int = 0
    sharpness: float = 1.0
    summed: bool = False


@dataclass(frozen=True)
class NonFinite:
    """Where the first NaN or Inf came from.

    Attributes:
        step: Optimizer step whose loss was the first that was not finite; 0 where there was none.
        stage: input, target, forward, or weights (which the step before spoiled); "" where unknown.
        layer: The layer that made it, or after which it was made; "" where unknown.
        operation: Name of the autograd operation that made it ("log"), "" where unknown.
        share: Of the parameter tensors that were spoiled already.
    """

    step: int = 0
    stage: str = ""
    layer: str = ""
    operation: str = ""
    share: float = 0.0


@dataclass(frozen=True)
class Facts:
    """Everything static that a rule may look at.

    Attributes:
        model: Class name of the watched model.
        layers: In the order of execution once that is known, else of registration.
        parameters: In the model's order; tied ones once.
        groups: Param groups of all optimizers seen.
        loss: What the loss is, once a backward pass was seen.
        input_floating: Whether the model's input is a floating-point tensor (None: not seen).
        batch: Size of the first dimension of the model's input, 0 where unknown.
        several_losses: Whether optimizers minimise different losses (a GAN's): no curve then tells of learning.
        optimizers_elsewhere: Optimizers that stepped without holding any parameter of the model.
        unstepped: Backward passes that reached the model while nothing, no optimizer and no other code, changed its
            weights; 0 from the first change on. Kept up to date at a few counts only.
        steps_elsewhere: Steps that optimizers without any parameter of the model made meanwhile.
        strangers: Parameters inside the network, between two of its layers, that neither the model nor any optimizer
            holds.
        dropping: The function that drops units in validation though the module that calls it is in evaluation mode
            ("dropout"), and the module's name; empty where none does.
        non_finite: Where the first NaN or Inf came from.
    """

    model: str = ""
    layers: tuple[Layer, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    groups: tuple[Group, ...] = ()
    loss: Loss = Loss()
    input_floating: bool | None = None
    batch: int = 0
    several_losses: bool = False
    optimizers_elsewhere: int = 0
    unstepped: int = 0
    steps_elsewhere: int = 0
    strangers: int = 0
    dropping: tuple[str, ...] = ()
    non_finite: NonFinite = NonFinite()

    def layer(self, name: str) -> Layer:
        """The layer of that dotted name; KeyError where there is none."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Layer]:
        return {layer.name: layer for layer in reversed(self.layers)}

    def weight(self, layer: str) -> Parameter | None:
        """The first parameter of role weight that a layer owns."""
        return self._weights.get(layer)

    @cached_property
    def _weights(self) -> dict[str, Parameter]:
        return {p.layer: p for p in reversed(self.parameters) if p.role == "weight"}

    @cached_property
    def trainable(self) -> list[bool]:
        """Of each parameter, whether it asks for a gradient."""
        return [parameter.trainable for parameter in self.parameters]

    def with_changes(self, **changes: Any) -> Facts:
        """A copy with some attributes replaced."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dicts, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Facts:
        """The inverse of `to_dict`, from parsed JSON; what a later version added is left out."""

        def build(kind: Any, entry: dict[str, Any]) -> Any:
            known = {field.name for field in fields(kind)}
            return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items() if k in known})

        parts: dict[str, Any] = {"layers": Layer, "parameters": Parameter, "groups": Group}
        rebuilt = {key: tuple(build(kind, entry) for entry in data[key]) for key, kind in parts.items()}
        facts: Facts = build(
            cls,
            {
                **data,
                **rebuilt,
                "loss": build(Loss, data["loss"]),
                "non_finite": build(NonFinite, data.get("non_finite", {})),
            },
        )
        return facts
