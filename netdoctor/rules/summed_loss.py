"""The loss is a sum over the batch, and steps are as many times too large as the batch has terms."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from netdoctor.facts import Facts, Group, Loss, Parameter
from netdoctor.findings import Evidence, Reading, Severity, Skipped
from netdoctor.history import History
from netdoctor.progress import weight_updates
from netdoctor.remedies import ADAPTIVE, average_loss, from_the_start, scale_learning_rate
from netdoctor.rules.base import rule


@rule(
    Severity.WARNING,
    explains=("learning-rate-too-large", "exploding-gradient", "diverging-loss", "oscillating-loss", "non-finite"),
)
def summed_loss(
    history: History,
    *,
    large: float = 0.1,  # ‖Δw‖/‖w‖ of the first step: medians of healthy programs end at 0.1, and begin below
    fewest: int = 4,  # terms of the sum: with fewer the steps are hardly larger than those of a mean
) -> Iterator[Evidence | Skipped]:
    """A loss summed over the batch gives gradients of the batch's size, and the learning rate was meant for a mean.

    ## What it looks at
    The reduction in the autograd node of the loss, the number of terms, and ‖Δw‖/‖w‖ of the first step, the median over
    the weights.

    ## Why it matters
    A sum over 64 samples makes each step 64 times as long, and another batch size asks for another learning rate.

    ## When it is wrong
    A learning rate that was chosen for the sum makes small steps, and nothing is said. Adam and its kin divide the
    scale out.

    ## References
    PyTorch documentation, nn.MSELoss, reduction. Goyal et al. 2017, section 2.1, on the learning rate and the batch.
    """
    facts = history.facts
    loss = facts.loss
    steps, updates, _ = weight_updates(history)
    if not loss.nodes or not len(updates) or steps[0] > 5:
        yield Skipped("no first step seen" if loss.nodes else "the loss does not show how it is made")
        return
    terms = prod(loss.outputs) // max(loss.classes, 1) if loss.outputs else facts.batch
    divided = "DivBackward0" in loss.nodes or any(group.optimizer.startswith(ADAPTIVE) for group in facts.groups)
    first = float(updates[0])
    if not loss.summed or divided or terms < fewest or not first >= large:
        return
    rates = history.table("learning_rate").values
    rate = float(rates[0].max()) if rates.size else None
    yield Evidence(
        f"The loss is the sum of {terms} terms, not their mean: its gradients are {terms} times as large, and the "
        f"first step changes the weights by {first:.0%}; {large:.0%} is much.",
        readings=(
            Reading("update over weight, first step", first, large, "", (int(steps[0]), int(steps[0]))),
            Reading("terms of the loss", float(terms), None, "", (1, 1)),
        ),
        confidence=0.9,
        remedies=(average_loss(), from_the_start(scale_learning_rate(1 / terms, rate))),
    )


def _history(kind: str, update: float, summed: bool = True, nodes: tuple[str, ...] = ("MseLossBackward0",)) -> History:
    return History.of(
        Facts(
            parameters=(Parameter("fc.weight", "fc", (64, 64), "weight", group=0),),
            groups=(Group(kind, 0, 0.03),),
            loss=Loss("mse", nodes, outputs=(64, 1), summed=summed),
            batch=64,
        ),
        loss=[70.0],
        update_ratio={"fc.weight": [update]},
        learning_rate={"0": [0.03]},
    )


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (_history("SGD", 0.4),)


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history("SGD", 0.4, summed=False),  # too large a learning rate, of a mean
        _history("SGD", 0.004),  # healthy: a rate that was chosen for the sum
        _history("Adam", 0.4),  # which divides the scale out
        _history("SGD", 0.4, nodes=("DivBackward0", "MseLossBackward0")),  # divided by the batch afterwards
        History.of(Facts(loss=Loss("mse", ("MseLossBackward0",), summed=True))),  # too early
    )
