"""The graph of layers as autograd tells it, held against models whose structure is known."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from netdoctor.loss_path import describe_loss, loss_path
from netdoctor.structure import trace


def traced(loss, **outputs):
    return trace(loss.grad_fn, {tensor.grad_fn: name for name, tensor in outputs.items()})


def test_a_chain_of_layers_with_functional_and_module_activations():
    a, b, c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
    x = a(torch.randn(8, 4))
    h = b(torch.tanh(x))
    y = c(F.dropout(torch.relu(h), 0.5).view(8, 5))
    graph = traced(F.cross_entropy(y, torch.zeros(8, dtype=torch.long)), a=x, b=h, c=y)
    assert graph.inputs == {"a": (), "b": ("a",), "c": ("b",)}
    assert graph.nonlinearity["a"] == "tanh"
    assert graph.nonlinearity["b"] == "relu"
    assert graph.path.kind == "cross-entropy"
    assert not graph.mixed


@pytest.mark.parametrize("shift", [lambda x: 1 - x, lambda x: x + 1, lambda x: x - torch.ones(5), lambda x: -(x - 1)])
def test_a_hinge_is_no_relu_of_the_layer(shift):
    x = nn.Linear(4, 5)(torch.randn(8, 4))
    assert traced(torch.relu(shift(x)).mean(), a=x).nonlinearity == {}
    y = nn.Linear(5, 1)(torch.relu(shift(x)))
    assert "a" not in traced(y.mean(), a=x, b=y).nonlinearity
    assert traced(torch.relu(x * 2 + nn.Parameter(torch.ones(5))).mean(), a=x).nonlinearity == {"a": "relu"}


def test_a_layer_without_nonlinearity_is_the_identity():
    a, b = nn.Linear(4, 5), nn.Linear(5, 1)
    x = a(torch.randn(8, 4))
    y = b(x)
    assert traced(F.mse_loss(y, torch.randn(8, 1)), a=x, b=y).nonlinearity["a"] == "identity"


def test_residual_branches_are_mixed_and_carry_no_nonlinearity_of_the_sum():
    a, b = nn.Linear(4, 4), nn.Linear(4, 4)
    x = a(torch.randn(8, 4))
    y = b(x)
    graph = traced(torch.relu(x + y).mean(), a=x, b=y)
    assert graph.mixed == {"a", "b"}
    assert "b" not in graph.nonlinearity


def test_parameters_that_the_loss_does_not_depend_on_are_missing():
    a, b = nn.Linear(4, 4), nn.Linear(4, 4)
    y = a(torch.randn(8, 4))
    graph = traced(y.mean(), a=y)
    assert {id(p) for p in a.parameters()} == graph.parameters
    assert not graph.parameters & {id(p) for p in b.parameters()}


def test_a_deep_chain_needs_no_recursion():
    layers = [nn.Linear(2, 2) for _ in range(1500)]
    x, outputs = torch.randn(3, 2), {}
    for index, layer in enumerate(layers):
        x = layer(x)
        outputs[f"l{index}"] = x
        x = torch.relu(x)
    assert traced(x.mean(), **outputs).inputs["l1499"] == ("l1498",)


LOGITS, CLASSES, TARGET = torch.randn(8, 3), torch.randint(0, 3, (8,)), torch.rand(8, 3)


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        (lambda o: F.cross_entropy(o, CLASSES), "cross-entropy"),
        (lambda o: F.cross_entropy(o, CLASSES, label_smoothing=0.1), "cross-entropy"),
        (lambda o: F.cross_entropy(o, CLASSES, weight=torch.ones(3)) / 4, "cross-entropy"),
        (lambda o: F.cross_entropy(o, TARGET), "cross-entropy"),
        (lambda o: F.nll_loss(F.log_softmax(o, 1), CLASSES), "cross-entropy"),
        (lambda o: F.nll_loss(o, CLASSES), "nll"),
        (lambda o: -torch.log(torch.softmax(o, 1))[torch.arange(8), CLASSES].mean(), "nll"),
        (lambda o: F.binary_cross_entropy(torch.sigmoid(o), TARGET), "binary-cross-entropy"),
        (lambda o: F.binary_cross_entropy_with_logits(o, TARGET), "binary-cross-entropy-with-logits"),
        (lambda o: F.mse_loss(o, TARGET), "mse"),
        (lambda o: ((o - TARGET) ** 2).mean(), "mse"),
        (lambda o: F.l1_loss(o, TARGET), "l1"),
        (lambda o: (o - TARGET).abs().sum(), "l1"),
        (lambda o: F.smooth_l1_loss(o, TARGET), "smooth-l1"),
        (lambda o: F.huber_loss(o, TARGET), "smooth-l1"),
        (lambda o: F.kl_div(F.log_softmax(o, 1), TARGET, reduction="batchmean"), "kl-div"),
    ],
)
def test_the_kind_of_loss(loss, kind):
    output = nn.Linear(4, 3)(torch.randn(8, 4))
    assert traced(loss(output), layer=output).path.kind == kind


def test_a_silent_broadcast_is_seen():
    output = nn.Linear(4, 1)(torch.randn(8, 4))
    with pytest.warns(UserWarning, match="broadcast"):
        loss = F.mse_loss(output, torch.randn(8))
    described = describe_loss(traced(loss, layer=output).path)
    assert described.broadcast
    assert described.outputs == (8, 8)


@pytest.mark.parametrize(
    ("loss", "shape", "broadcast"),
    [
        (lambda o, t: ((o - t) ** 2).mean(), (8,), True),
        (lambda o, t: (t - o).abs().mean(), (8,), True),
        (lambda o, t: F.l1_loss(o, t), (8,), True),
        (lambda o, t: (o.squeeze(1) - t).square().mean(), (8, 1), True),
        (lambda o, t: ((o - t) ** 2).mean(), (8, 1), False),
        (lambda o, t: (o.squeeze(1) - t).square().mean(), (8,), False),
        (lambda o, t: ((o - t) ** 2).mean(), (1,), False),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_broadcast_is_seen_in_a_loss_written_by_hand(loss, shape, broadcast):
    output = nn.Linear(4, 1)(torch.randn(8, 4))
    described = describe_loss(traced(loss(output, torch.randn(shape)), layer=output).path)
    assert described.broadcast is broadcast
    assert described.outputs == ((8, 8) if broadcast else described.predicted)


def test_quantiles_and_margins_are_no_squares():
    output = nn.Linear(4, 3)(torch.randn(8, 4))
    difference = TARGET - output
    pinball = torch.maximum(0.9 * difference, -0.1 * difference).mean()
    assert traced(pinball, layer=output).path.kind == ""
    assert traced((output.norm(dim=1) - 1).relu().square().mean(), layer=output).path.kind == ""


def test_without_known_layers_the_path_ends_at_the_loss_function():
    output = nn.Linear(4, 3)(torch.randn(8, 4))
    assert loss_path((F.cross_entropy(output, CLASSES) / 2).grad_fn).names == (
        "DivBackward0",
        "NllLossBackward0",
        "LogSoftmaxBackward0",
    )
    assert loss_path(output.mean().grad_fn).nodes == ()
