"""Answers that depend on the other samples of their batch."""

from __future__ import annotations

from collections.abc import Iterator

from netdoctor.facts import Facts, Layer, Loss, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules.base import rule

CAUSED = ("vanishing-gradient", "covariate-shift", "overfitting", "loss-plateau", "not-learning", "class-collapse")


@rule(Severity.WARNING, explains=CAUSED)
def mixed_samples(
    history: History,
    *,
    share: float = 1e-3,  # of the spread of the answers; sums in another order change the last of seven digits
) -> Iterator[Evidence | Skipped]:
    """The answer to one sample changes with the other samples of its batch.

    ## What it looks at
    In evaluation mode, the change of the first sample's answer when the other samples of its batch change places, over
    the spread of the answers. Only `netdoctor.checkup` measures it: it takes two further passes. In every training:
    whether a recurrent layer or attention without ``batch_first`` takes for time a dimension that is as long as the
    batch of the model's input and of the targets, while the other one is not; and whether its input is a view with the
    first two dimensions exchanged, the numbers lying in memory as before.

    ## Why it matters
    A `view` in place of `transpose`, a softmax or a mean over the wrong dimension make samples share what they should
    not: the model learns from its neighbours, and answers differently with every batch it is in.

    ## When it is wrong
    Where the rows of a batch belong together: nodes of a graph, points of a set, steps of a sequence in the first
    dimension. A loss that takes a part of the rows alone tells of that. Attention between the rows of a table may be
    wanted.

    ## References
    Karpathy 2019, A Recipe for Training Neural Networks ("use backprop to chart dependencies").
    """
    cut = tuple(layer for layer in history.facts.layers if layer.exchanged)
    if cut:
        yield _viewed(cut)
        return
    along = _along_the_batch(history.facts)
    if along:
        yield _taken_for_time(history.facts, along)
        return
    steps, values = history.series("sample_mixing")
    if not len(values):
        yield Skipped("only checkup() measures it")
        return
    asked = history.facts.loss.outputs[:1]
    if asked and 0 < asked[0] < history.facts.batch:
        yield Skipped("the loss takes some rows of the batch alone: the others are there for these to look at")
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


def _along_the_batch(facts: Facts) -> tuple[Layer, ...]:
    """Layers that read from sample to sample."""
    targets = facts.loss.targets
    if not targets or targets[0] != facts.batch or facts.batch < 2:
        return ()
    return tuple(
        layer
        for layer in facts.layers
        if layer.time_first
        and layer.batch == facts.batch
        and layer.samples // layer.batch not in (1, *targets)  # there, time may come first in the targets, too
    )


def _taken_for_time(facts: Facts, layers: tuple[Layer, ...]) -> Evidence:
    first = layers[0]
    others = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
    return Evidence(
        message=f"{spoken(first.name)}{others}: the first of its dimensions, {first.batch} and "
        f"{first.samples // first.batch}, is the batch, and is taken for time, as batch_first is False",
        layers=tuple(layer.name for layer in layers),
        readings=(
            Reading("extent of what is taken for time", float(first.batch)),
            Reading("targets", float(facts.loss.targets[0])),
        ),
        confidence=0.9,
        remedies=(
            Remedy(
                "Tell the layer that the batch comes first",
                "\n".join(f'model.get_submodule("{layer.name}").batch_first = True' for layer in layers)
                + f"\n# or where it is made: nn.{first.type}(…, batch_first=True)",
                f"PyTorch documentation, nn.{first.type}",
                "each sample is read along its own time",
            ),
        ),
    )


def _viewed(layers: tuple[Layer, ...]) -> Evidence:
    first = layers[0]
    extents = first.batch, first.samples // first.batch
    return Evidence(
        message=f"{spoken(first.name)}: its input of [{extents[0]}, {extents[1]}, …] is a view of "
        f"[{extents[1]}, {extents[0]}, …], not its transpose: what belongs to one sample is dealt out to several",
        layers=tuple(layer.name for layer in layers),
        readings=(
            Reading("extent of the first dimension", float(extents[0])),
            Reading("extent of the first dimension before the view", float(extents[1])),
        ),
        confidence=0.95,
        remedies=(
            Remedy(
                "Exchange the dimensions by `transpose`: `view` and `reshape` leave the numbers in their order",
                f"x = x.transpose(0, 1)  # before {spoken(first.name)}, in place of x.view({extents[0]}, "
                f"{extents[1]}, …)",
                "PyTorch documentation, Tensor Views",
                "each sample is read along its own time",
            ),
        ),
    )


def _look(facts: Facts) -> Remedy:
    return Remedy(
        "Look for operations over the first dimension: view() in place of transpose(), softmax(0), mean(0)",
        "x.requires_grad_(True)\nmodel.eval()\n(gradient,) = torch.autograd.grad(model(x)[0].sum(), x)\n"
        "print(gradient.flatten(1).abs().sum(1))  # only the first may differ from 0",
        "Karpathy 2019, A Recipe for Training Neural Networks",
        "each sample is answered by itself",
    )


def _sequences(time_first: bool, targets: tuple[int, ...], batch: int = 64, exchanged: bool = False) -> History:
    """64 sequences of 6 steps."""
    layer = Layer(
        "lstm", "recurrent", called=True, samples=384, batch=batch, time_first=time_first, exchanged=exchanged
    )
    return History.of(Facts(layers=(layer,), loss=Loss("cross-entropy", targets=targets), batch=batch), loss=[1.8])


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        History.of(Facts(), sample_mixing=[0.4]),
        _sequences(True, (64,)),
        _sequences(True, (64,), batch=6, exchanged=True),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        History.of(Facts(), sample_mixing=[2e-6]),  # healthy: rounding
        History.of(Facts(), loss=[2.3]),  # not measured
        _sequences(False, (64,)),
        _sequences(True, (64,), batch=6),  # time comes first
        _sequences(True, (6, 64), batch=6),  # in the targets, too
        _sequences(True, (384,)),  # a target each step
    )
