"""Answers that depend on the other samples of their batch."""

from __future__ import annotations

from collections.abc import Iterator

from netdoctor.facts import Facts
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules.base import rule


@rule(Severity.WARNING)
def mixed_samples(
    history: History,
    *,
    share: float = 1e-3,  # of the spread of the answers; sums in another order change the last of seven digits
) -> Iterator[Evidence | Skipped]:
    """The answer to one sample changes with the other samples of its batch.

    ## What it looks at
    In evaluation mode, the change of the first sample's answer when the other samples of its batch change places, over
    the spread of the answers. Only `netdoctor.checkup` measures it: it takes two further passes.

    ## Why it matters
    A `view` in place of `transpose`, a softmax or a mean over the wrong dimension make samples share what they should
    not: the model learns from its neighbours, and answers differently with every batch it is in.

    ## When it is wrong
    Where the rows of a batch belong together: nodes of a graph, points of a set, steps of a sequence in the first
    dimension.

    ## References
    Karpathy 2019, A Recipe for Training Neural Networks ("use backprop to chart dependencies").
    """
    steps, values = history.series("sample_mixing")
    if not len(values):
        yield Skipped("only checkup() measures it")
        return
    mixing = float(values[-1])
    if mixing > share:
        yield Evidence(
            message=f"The answer to the first sample changes by {mixing:.2g} of the spread of all answers when only "
            "the other samples of its batch change places",
            readings=(
                Reading("change of an answer over the spread of answers", mixing, share, "", (int(steps[-1]),) * 2),
            ),
            confidence=0.8,
            remedies=(_look(history.facts),),
        )


def _look(facts: Facts) -> Remedy:
    return Remedy(
        "Look for operations over the first dimension: view() in place of transpose(), softmax(0), mean(0)",
        "x.requires_grad_(True)\nmodel.eval()\n(gradient,) = torch.autograd.grad(model(x)[0].sum(), x)\n"
        "print(gradient.flatten(1).abs().sum(1))  # only the first may differ from 0",
        "Karpathy 2019, A Recipe for Training Neural Networks",
        "each sample is answered by itself",
    )


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (History.of(Facts(), sample_mixing=[0.4]),)


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        History.of(Facts(), sample_mixing=[2e-6]),  # healthy: rounding
        History.of(Facts(), loss=[2.3]),  # not measured
    )
