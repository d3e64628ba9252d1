"""Shapes that broadcast without a word: every prediction is held against every target."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from netdoctor.ends import last_layers
from netdoctor.facts import Facts, Layer, Loss, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules.base import rule

CAUSED = ("learning-rate-too-small", "loss-plateau", "overfitting", "not-learning")


@rule(Severity.ERROR, explains=CAUSED)
def silent_broadcast(
    history: History,
    *,
    fewest: int = 2,  # predictions: a single one is meant for all targets
) -> Iterator[Evidence | Skipped]:
    """Prediction and target differ in shape, as (N, 1) and (N,), and are broadcast to N times N pairs.

    ## What it looks at
    The shape of the prediction as the model gives it, and that of its difference from the target, in autograd's nodes:
    N predictions, N² differences. In losses of any form that are written by hand, so are products with what has no
    gradient, as the advantages of a policy's actions, where the loss is a mean or a sum over all pairs.

    ## Why it matters
    Each prediction is drawn to all targets of the batch, that is to their mean. The loss falls to the variance of the
    targets and stays there; nothing is learned of the inputs.

    ## When it is wrong
    Pairs that are wanted, as in a ranking or a distance matrix, differ two outputs, or an output with a dimension put
    in on purpose; only a prediction that meets a target without a gradient, expanded right before, is reported.

    ## References
    PyTorch's own warning in F.mse_loss ("Using a target size that is different to the input size"); NumPy
    documentation, Broadcasting.
    """
    loss = history.facts.loss
    if not loss.nodes:
        yield Skipped("the loss does not show how it is made")
        return
    predictions, pairs = prod(loss.predicted), prod(loss.outputs)
    if not loss.broadcast or predictions < fewest or pairs != predictions**2 or "UnsqueezeBackward0" in loss.nodes:
        return
    column = loss.predicted[-1:] == (1,)
    fix = "y.unsqueeze(1)" if column else "y.squeeze(1)"
    target = (predictions,) if column else (predictions, 1)
    yield Evidence(
        message=f"{predictions} predictions of shape {loss.predicted}, of {spoken(loss.layer)}, meet targets of shape "
        f"{target}: the loss is taken over {loss.outputs} pairs, every prediction against every target",
        layers=last_layers(history.facts),
        readings=(Reading("differences in the loss", float(pairs), float(predictions), "", (1, max(history.step, 1))),),
        confidence=0.97,
        remedies=(
            Remedy(
                action="Give both the same shape",
                code=f"loss = loss_fn(model(x), {fix})\n"
                "assert prediction.shape == target.shape  # before every loss that compares values",
                source="PyTorch documentation, nn.MSELoss: input and target of the same shape",
                effect="each prediction is held against its own target",
            ),
        ),
    )


def _history(kind: str, predicted: tuple[int, ...], outputs: tuple[int, ...]) -> History:
    loss = Loss(kind, ("MseLossBackward0",), outputs, predicted, broadcast=outputs != predicted, layer="fc")
    return History.of(Facts(layers=(Layer("fc", "linear", called=True),), loss=loss), loss=[1.0])


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (_history("mse", (32, 1), (32, 32)), _history("l1", (32,), (32, 32)))


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history("mse", (32, 1), (32, 1)),  # healthy
        _history("mse", (1,), (32,)),  # one constant for all targets
        _history("mse", (32, 1), (32, 5)),  # one value for several targets of a row
        History.of(Facts(), loss=[1.0]),  # unknown
    )
