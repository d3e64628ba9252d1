"""Inputs that are the same for every sample."""

from __future__ import annotations

from collections.abc import Iterator

from netdoctor.ends import first_layers, spread_over_batch
from netdoctor.facts import WEIGHTED, Facts, Layer, Loss, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules.base import rule

CAUSED = (
    "unnormalized-input",
    "poor-initialization",
    "unexpected-initial-loss",
    "learning-rate-too-large",
    "learning-rate-too-small",
    "dead-units",
    "input-not-used",
    "loss-plateau",
    "not-learning",
    "class-collapse",
)
KINDS = (*WEIGHTED, "norm", "embedding")


@rule(Severity.ERROR, explains=CAUSED)
def constant_input(
    history: History,
    *,
    equal: float = 1e-6,  # std over the batch over rms: the resolution of float32; a signal on an offset is far above
    answers: float = 1e-4,  # the same of the output, which sums in another order, or at half precision, may blur
    readings: int = 3,  # samples in which it must be so: one odd batch is none of the loader's faults
) -> Iterator[Evidence | Skipped]:
    """All samples of a batch are the same to the model.

    ## What it looks at
    The standard deviation over the batch, at each position and unit, of what the first layers are given, or of what an
    embedding gives; and whether the output is the same for all samples, too.

    ## Why it matters
    From one input only one answer can be learned: how frequent the targets are. The cause is in the pipeline: an index
    that is ignored, a cast to integers after scaling, a vocabulary in which every token is unknown.

    ## When it is wrong
    A learned constant at the entrance (queries, StyleGAN's first tensor, token types) is one of several entrances, and
    the others vary. Bandits and other problems without an input have no target that is held against the output, and are
    not judged.

    ## References
    Karpathy 2019, A Recipe for Training Neural Networks ("visualize just before the net"). Ben Braiek & Khomh 2023,
    TheDeepChecker (constant features).
    """
    facts = history.facts
    if not len(history.table("constant_loss")):
        yield Skipped("no loss that holds outputs against targets")
        return
    found: list[tuple[Layer, float]] = []
    for layer in first_layers(facts, KINDS):
        spreads = spread_over_batch(history, "activation" if layer.kind == "embedding" else "input", layer.name)
        if len(spreads) >= readings:
            found.append((layer, float(spreads[-readings:].max())))
    if not found:
        yield Skipped(f"fewer than {readings} samples of the input of a batch of two and more")
        return
    if any(spread > equal for _, spread in found):
        return
    dropout = any(layer.rate > 0 for layer in facts.layers)
    output = spread_over_batch(history, "activation", facts.loss.layer)[-readings:]
    if not dropout and output.max(initial=0.0) > answers:
        return
    layer, spread = found[0]
    level = history.latest("input_rms").get(layer.name, 1.0)
    what = "output of" if layer.kind == "embedding" else "input of"
    yield Evidence(
        message=f"The {what} {spoken(layer.name)} is the same for every sample of a batch"
        + (": all zeros" if level == 0 else f": its std over the batch is {spread:.2g} of its rms"),
        layers=tuple(layer.name for layer, _ in found if layer.name),
        readings=(Reading("std over the batch over rms", spread, equal, "", (1, history.step)),),
        confidence=0.95,
        remedies=(_LOOK,),
    )


_LOOK = Remedy(
    action="Look at two samples as they enter the model, and follow them back to the file",
    code="x, y = next(iter(loader))\n"
    "print(x.dtype, x.float().std(0).max())  # 0: every sample is the same\n"
    "print(dataset[0][0], dataset[1][0])  # an ignored index, a cast to integers after scaling, unknown tokens?",
    source="Karpathy 2019, A Recipe for Training Neural Networks, step 1",
    effect="inputs that differ can be told apart",
)


def _history(spread: dict[str, float], output: float, kind: str = "linear", rows: int = 4) -> History:
    layers = tuple(Layer(name, kind, called=True) for name in spread)
    facts = Facts(layers=(*layers, Layer("head", "linear", inputs=tuple(spread), called=True)), loss=Loss(layer="head"))
    what = "activation" if kind == "embedding" else "input"
    history = History(facts)
    for step in range(1, rows + 1):
        history.record(step, f"{what}_batch_signal", list(spread.values()), tuple(spread))
        history.record(step, f"{what}_rms", [1.0] * len(spread), tuple(spread))
        if what == "input":
            history.record(step, "activation_batch_signal", [output], ("head",))
            history.record(step, "activation_rms", [1.0], ("head",))
        history.record(step, "constant_loss", [2.3])
    return history


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history({"conv": 0.0}, 1e-8),
        _history({"embed": 0.0}, 0.0, "embedding"),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history({"conv": 0.9}, 0.4),  # healthy
        _history({"queries": 0.0, "image": 0.8}, 0.4),  # a learned constant beside the input
        _history({"conv": 0.0}, 0.4),  # something else varies
        _history({"fc": 1e-4}, 0.1),  # a signal on an offset
        _history({"conv": 0.0}, 0.0, rows=2),  # too early
    )
