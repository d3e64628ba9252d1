"""An output that is the same whatever the last layer gives: a softmax over a single value, or over the batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from netdoctor import remedies
from netdoctor.ends import head, last_layers, output_module
from netdoctor.facts import Facts, Layer, Loss, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules.base import rule

CAUSED = (
    "wrong-output-activation",
    "no-gradient",
    "learning-rate-too-small",
    "vanishing-gradient",
    "loss-plateau",
    "not-learning",
    "class-collapse",
)
MEETS = (
    "MseLossBackward0", "SmoothL1LossBackward0", "HuberLossBackward0", "BinaryCrossEntropyBackward0", "SubBackward0",
    "BinaryCrossEntropyWithLogitsBackward0", "NllLossBackward0", "LogBackward0",
)  # fmt: skip


@rule(Severity.ERROR, explains=CAUSED)
def constant_output(
    history: History,
    *,
    units: int = 1,  # a softmax over so many is always 1
) -> Iterator[Evidence | Skipped]:
    """A softmax at the output runs over a single unit, or over the batch in place of the classes.

    ## What it looks at
    The softmax applied directly to the last layer: over how many values it runs, and over which dimension.

    ## Why it matters
    Softmax over one value is 1, its gradient 0: nothing can be learned. Over the batch, the samples of a class share a
    probability of 1 between them: an answer depends on who else is in the batch, and the loss cannot fall below the
    logarithm of how many of a class there are.

    ## When it is wrong
    Attention over a single element has a softmax over one value; it is not at the output. Listwise ranking softmaxes
    one score a document over the documents of a query, on purpose: one unit over the batch is not reported.

    ## References
    Goodfellow et al. 2016, Deep Learning, section 6.2.2.2. Cao et al. 2007, Learning to rank: from pairwise approach to
    listwise approach, section 4. PyTorch documentation, nn.Softmax ("dim").
    """
    facts = history.facts
    loss = facts.loss
    if not loss.nodes:
        yield Skipped("the loss does not show how it is made")
        return
    found = head(loss)
    layer = next((layer for layer in facts.layers if layer.name == loss.layer and layer.called), None)
    if layer is None or found.functions[:1] not in (("softmax",), ("log_softmax",)) or found.meets not in MEETS:
        return
    single = loss.softmax_extent == units and (layer.units == units or loss.softmax_axis == 0)
    batch = loss.softmax_axis == 0 and layer.units > 1 and 1 < facts.batch == loss.softmax_extent <= layer.samples
    if not (single or batch) or (single and loss.kind == "cross-entropy"):
        return
    module = output_module(facts, found.functions[0])
    name = "" if module is None else module.name
    if single:
        said = f"softmax over the single unit of {spoken(layer.name)} is always 1, and its gradient 0"
    else:
        said = (
            f"The softmax behind {spoken(layer.name)} runs over the {facts.batch} samples of the batch (dim=0), "
            f"not over the {layer.units} classes"
        )
    yield Evidence(
        message=said[:1].upper() + said[1:],
        layers=last_layers(facts, found.functions[0]),
        readings=(Reading("values that the softmax runs over", float(loss.softmax_extent), float(layer.units)),),
        confidence=0.97,
        remedies=(_sigmoid(name),) if single and layer.units == 1 else (_over_classes(name),),
    )


def _sigmoid(module: str) -> Remedy:
    """One unit gives one probability."""
    return Remedy(
        action="Use a sigmoid: one unit gives the probability of one of two classes",
        code=f'model.set_submodule("{module}", nn.Sigmoid())' if module else "# in forward():\nx = torch.sigmoid(x)",
        source="Goodfellow et al. 2016, Deep Learning, section 6.2.2.2",
        effect="the output can change; better still, no sigmoid and nn.BCEWithLogitsLoss",
        treatment=remedies.use_sigmoid(module) if module else None,
    )


def _over_classes(module: str) -> Remedy:
    """Classes are the second dimension, or the last."""

    def treatment(model: Any, optimizer: Any) -> None:
        model.get_submodule(module).dim = 1

    return Remedy(
        action="Let the softmax run over the classes",
        code=f'model.get_submodule("{module}").dim = 1' if module else "# in forward(), or the loss:\nx = x.softmax(1)",
        source="PyTorch documentation, nn.Softmax",
        effect="the probabilities of each sample's classes sum to 1",
        treatment=treatment if module else None,
    )


def _history(*nodes: str, units: int, extent: int, axis: int, kind: str = "mse", batch: int = 32) -> History:
    layers = (
        Layer("fc", "linear", units=units, called=True, samples=batch),
        Layer("act", "activation", function="softmax", inputs=("fc",), called=True),
    )
    loss = Loss(kind, nodes, layer="fc", softmax_extent=extent, softmax_axis=axis)
    return History.of(Facts(layers=layers, loss=loss, batch=batch), loss=[0.5])


_BY_HAND = ("NegBackward0", "MeanBackward0", "LogBackward0", "AddBackward0", "IndexBackward0", "SoftmaxBackward0")


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history("MseLossBackward0", "SoftmaxBackward0", units=1, extent=1, axis=1),
        _history(*_BY_HAND, units=10, extent=32, axis=0, kind="nll"),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history(
            "NllLossBackward0", "LogSoftmaxBackward0", units=10, extent=10, axis=1, kind="cross-entropy"
        ),  # healthy
        _history(*_BY_HAND, units=10, extent=10, axis=1, kind="nll"),
        _history(*_BY_HAND, units=1, extent=32, axis=0, kind="nll"),  # a ranking of 32 documents
        _history("MseLossBackward0", "BmmBackward0", "SoftmaxBackward0", units=1, extent=1, axis=1),  # attention
        History.of(Facts(), loss=[0.5]),  # unknown
    )
