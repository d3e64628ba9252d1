"""The loss of another task."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from netdoctor.ends import head, last_layers
from netdoctor.facts import Facts, Layer, Loss, Parameter
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules.base import rule

CAUSED = (
    "wrong-output-activation",
    "unnormalized-target",
    "no-gradient",
    "learning-rate-too-small",
    "vanishing-gradient",
    "diverging-loss",
    "weight-growth",
    "logit-growth",
    "loss-plateau",
    "not-learning",
    "class-collapse",
)


@rule(Severity.WARNING, explains=CAUSED)
def loss_mismatch(
    history: History,
    *,
    total: float = 0.05,  # deviation from 1 of the probabilities' sum: half precision and an epsilon stay within 0.01
    several: float = 0.1,  # share of targets with several labels: a few ties are no other task
    one_hot: float = 0.99,  # share of one-hot targets where values are compared
    even: float = 0.9,  # evenness of whole targets from 0 up: class indices 0.93 and more, ratings from 1 to 5 0.898
    indices: tuple[int, int] = (3, 30),  # fewest and most classes: of two, squares are a proper score; more are counts
    rough: float = 0.35,  # change of rank by frequency to the next number: 1 of unrelated ones, a quantity's near 0
    uneven: float = 0.97,  # evenness up to which this change is more than the noise of counting
    beyond: float = 0.25,  # of the way from 0 to 1 that a yes or no lies outside: GANs take noisy ones of up to 1.2
    batches: int = 3,  # whose targets tell
) -> Iterator[Evidence | Skipped]:
    """The loss fits another kind of target, or another kind of output, than it is given.

    ## What it looks at
    Cross-entropy of a single output; kl_div of what is no logarithm; "probabilities" of classes that do not sum to 1
    where the loss picks one of them; several labels a sample under one softmax; one-hot targets under an absolute
    error, or under squares behind a softmax or sigmoid; whole, evenly spread targets 0, 1, 2 … of a single output,
    which are class indices; whole targets for each token, up to the number of tokens, in no order; a binary
    cross-entropy of targets that do not lie between 0 and 1.

    ## Why it matters
    Such a loss can fall without the task being learned. Cross-entropy of one output is 0 for every input; where nothing
    makes classes compete, all rise at no cost; the best constant under an absolute error is the median, 0 for a one-hot
    column; squares of probabilities have no gradient where the answer is surely wrong. A binary cross-entropy of a
    target t above 1 or below 0 falls without end, by |t| - 1 or |t| for each unit of the logit.

    ## When it is wrong
    Squares of one-hot targets without softmax train well and are not reported, nor are squares for two classes. Whole
    targets may be a quantity that happens to be even, as hours of a day.

    ## References
    Bishop 2006, Pattern Recognition and Machine Learning, section 4.3. Hui & Belkin 2021, Evaluation of neural
    architectures trained with square loss vs cross-entropy. Zhang et al. 2021, AutoTrainer ("improper loss").
    """
    loss = history.facts.loss
    if not loss.nodes:
        yield Skipped("the loss does not show how it is made")
        return
    functions = head(loss).functions
    names = (
        "probability_total",
        "several_labels_share",
        "one_hot_share",
        "target_evenness",
        "target_high",
        "target_roughness",
        "target_low",
    )
    readings = {name: history.series(name)[1][:20] for name in names}
    seen = {name: float(np.median(values)) for name, values in readings.items() if len(values) >= batches}
    sums, many, flags = (seen.get(name) for name in names[:3])
    if loss.kind == "cross-entropy" and loss.softmax_extent == 1 and functions[:1] == ("log_softmax",):
        yield _evidence(
            history,
            "Cross-entropy of a single output is 0 whatever the output is, for softmax over one value is always 1",
            Reading("outputs that softmax runs over", 1.0, 2.0),
            _SQUARES if loss.targets == () else _BINARY,
        )
    elif loss.kind in ("cross-entropy", "nll") and sums is not None and abs(sums - 1) > total:
        yield _evidence(
            history,
            f"The loss picks one class, but what it takes for the probabilities of all sums to {sums:.3g}, not to 1: "
            "nothing makes the classes compete",
            Reading("sum of the probabilities of all classes", sums, 1.0),
            _CATEGORICAL,
        )
    elif loss.kind == "cross-entropy" and many is not None and many > several and functions[:1] == ("log_softmax",):
        yield _evidence(
            history,
            f"{many:.0%} of the targets have several labels, but the softmax of a cross-entropy makes labels compete",
            Reading("share of targets with several labels", many, several),
            _BINARY,
        )
    elif loss.kind.startswith("binary") and len(readings["target_low"]):
        low, high = float(readings["target_low"].min()), float(readings["target_high"].max())
        if max(-low, high - 1) > beyond:
            above, below = Reading("largest target", high, 1.0, "y"), Reading("least target", low, 0.0, "y")
            yield _evidence(
                history,
                f"A binary cross-entropy takes targets from 0 to 1, but those given lie between {low:.3g} and "
                f"{high:.3g}: of what lies outside it falls without end, the surer the answer the lower",
                above if high - 1 > -low else below,
                _WITHIN,
            )
    elif loss.kind == "kl-div" and functions[-1:] == ("softmax",) and head(loss).meets in _DIVERGING:
        yield _evidence(
            history,
            "kl_div is given probabilities where it takes their logarithms: its gradient no longer depends on how far "
            "the answer is from the target",
            Reading("softmax without a logarithm before kl_div", 1.0, 0.0),
            _LOGARITHMS,
        )
    elif loss.kind in ("mse", "l1", "smooth-l1") and flags is not None and flags >= one_hot:
        bounded = functions[-1:] in (("softmax",), ("sigmoid",))
        if loss.kind == "l1" or bounded:
            name = "an absolute error, whose best constant answer is their median, 0" if loss.kind == "l1" else ""
            name = name or f"the squares of what {functions[-1]} gives, whose gradient fades where it is surely wrong"
            yield _evidence(
                history,
                f"The targets are one-hot, classes, and the loss is {name}",
                Reading("share of one-hot targets", flags, one_hot),
                _CATEGORICAL,
                severity=None if loss.kind == "l1" or functions[-1] == "softmax" else Severity.NOTE,
            )
    elif loss.kind in ("mse", "l1", "smooth-l1") and "target_evenness" in seen:
        evenness, classes = float(readings["target_evenness"][-1]), int(readings["target_high"].max(initial=0)) + 1
        several_each = prod((loss.targets or loss.outputs)[1:]) > 1
        if evenness >= even and indices[0] <= classes <= indices[1] and not several_each:
            yield _evidence(
                history,
                f"The targets are whole numbers from 0 to {classes - 1}, each about as frequent: indices of {classes} "
                "classes, which the loss takes for a quantity, as if class 1 lay between 0 and 2",
                Reading("evenness of the targets", evenness, even),
                _CATEGORICAL,
                confidence=0.8,
            )
        roughness, words = seen.get("target_roughness", 0.0), _vocabulary(history.facts)
        if several_each and 0 < evenness <= uneven and roughness >= rough and 0.9 * words <= classes <= words:
            yield _evidence(
                history,
                f"The targets are tokens: whole numbers from 0 to {classes - 1}, as many as the embedding has, and how "
                "frequent one is tells nothing of the next; the loss takes them for a quantity, as if token 1 lay "
                "between 0 and 2",
                Reading("change of rank by frequency from a target to the next number", roughness, rough),
                _CATEGORICAL,
                confidence=0.85,
            )


def _vocabulary(facts: Facts) -> int:
    """How many tokens the embedding knows that takes the model's input; 0 without one."""
    if facts.input_floating is not False:
        return 0
    first = next((layer.name for layer in facts.layers if layer.called and not layer.inputs), "")
    return next((p.shape[0] for p in facts.parameters if p.layer == first and p.role == "embedding"), 0)


def _evidence(
    history: History,
    message: str,
    reading: Reading,
    remedy: Remedy,
    confidence: float = 0.95,
    severity: Severity | None = None,
) -> Evidence:
    layers = last_layers(history.facts)
    return Evidence(message, layers, (reading,), confidence, remedies=(remedy,), severity=severity)


_WITHIN = Remedy(
    action="Give targets from 0 to 1, or compare values: squares for a quantity, cross-entropy for classes",
    code="y = (y - low) / (high - low)  # labels of -1 and 1: (y + 1) / 2; raw pixels: y / 255\n"
    "# or, for standardised values: loss = F.mse_loss(prediction, y), without a sigmoid",
    source="PyTorch documentation, nn.BCELoss and nn.BCEWithLogitsLoss (targets between 0 and 1)",
    effect="the loss has a least value, where prediction and target are the same",
)
_CATEGORICAL = Remedy(
    action="Use cross-entropy of the logits, one output a class: its softmax makes the classes compete",
    code="# no softmax, sigmoid or log in the model; targets are class indices (of one-hot rows: y.argmax(1))\n"
    "loss = F.cross_entropy(logits, y)",
    source="PyTorch documentation, nn.CrossEntropyLoss; Bishop 2006, section 4.3.4",
    effect="a surely wrong answer gets the largest gradient",
)
_BINARY = Remedy(
    action="Use the binary cross-entropy: each output answers a question of its own",
    code="loss = F.binary_cross_entropy_with_logits(logits, y.float())  # of equal shapes; no sigmoid in the model",
    source="PyTorch documentation, nn.BCEWithLogitsLoss; Bishop 2006, section 4.3.2",
    effect="several labels can be right at once, and one output can be wrong",
)
_LOGARITHMS = Remedy(
    action="Give kl_div the logarithms of the model's probabilities",
    code='loss = F.kl_div(F.log_softmax(logits, dim=1), target, reduction="batchmean")  # target: probabilities',
    source="PyTorch documentation, nn.KLDivLoss (input in log-space)",
    effect="the loss is a divergence: least, and 0, where both distributions are equal",
)
_DIVERGING = ("MulBackward0", "KlDivBackward0")  # what takes the first argument of kl_div
_SQUARES = Remedy(
    action="Use the squared error for a quantity, the binary cross-entropy for a yes or no",
    code="loss = F.mse_loss(output, y)  # of equal shapes\n"
    "# or, where y is 0 or 1: loss = F.binary_cross_entropy_with_logits(output, y.float())",
    source="Bishop 2006, sections 3.1.1 and 4.3.2",
    effect="the loss depends on the output",
)


def _history(kind: str, *nodes: str, extent: int = 10, **readings: float) -> History:
    loss = Loss(kind, nodes, layer="fc", softmax_extent=extent)
    history = History(Facts(layers=(Layer("fc", "linear", called=True),), loss=loss))
    for name, value in readings.items():
        history.record_rows(range(1, 6), name, [[value]] * 5)
    return history


_NLL, _LOG, _SOFT, _SUB = "NllLossBackward0", "LogSoftmaxBackward0", "SoftmaxBackward0", "SubBackward0"
_BINARY_NODE = "BinaryCrossEntropyWithLogitsBackward0"
_KL = ("DivBackward0", "SumBackward0", "SubBackward0", "MulBackward0")


def _tokens(words: int, roughness: float, evenness: float = 0.87) -> History:
    history = _history(
        "mse", "MseLossBackward0", target_evenness=evenness, target_high=26.0, target_roughness=roughness
    )
    history.facts = history.facts.with_changes(
        layers=(Layer("embed", "embedding", called=True), *history.facts.layers),
        parameters=(Parameter("embed.weight", "embed", (words, 8), "embedding"),),
        loss=Loss("mse", ("MseLossBackward0",), layer="fc", targets=(16, 20)),
        input_floating=False,
    )
    return history


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history("cross-entropy", "DivBackward1", "SumBackward0", "MulBackward0", _LOG, extent=1),
        _history("nll", _NLL, _SOFT, probability_total=11.0),
        _history(
            "cross-entropy", "SumBackward0", "MulBackward0", _LOG, probability_total=1.0, several_labels_share=0.7
        ),
        _history("l1", "MeanBackward0", "AbsBackward0", _SUB, one_hot_share=1.0),
        _history("kl-div", *_KL, _SOFT),
        _history("mse", "MseLossBackward0", _SOFT, one_hot_share=1.0),
        _history("mse", "MseLossBackward0", target_evenness=0.99, target_high=9.0),
        _tokens(27, 0.9),
        _history("binary-cross-entropy-with-logits", _BINARY_NODE, target_low=-1.0, target_high=1.0),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history("cross-entropy", _NLL, _LOG, probability_total=1.0),  # healthy
        _history(
            "cross-entropy", "SumBackward0", "MulBackward0", _LOG, probability_total=1.0, several_labels_share=0.0
        ),
        _history("kl-div", *_KL, _LOG),
        _history("mse", "MseLossBackward0", one_hot_share=1.0),  # squares without softmax
        _history("mse", "MseLossBackward0", "SigmoidBackward0", one_hot_share=1.0),  # a note
        _history("mse", "MseLossBackward0", target_evenness=1.0, target_high=1.0),  # two classes
        _history("mse", "MseLossBackward0", target_evenness=0.89, target_high=5.0),  # ratings
        _history("mse", "MseLossBackward0", target_evenness=0.0, target_high=2.3),  # a quantity
        _tokens(27, 0.1),  # levels of a quantity
        _tokens(27, 0.9, 0.99),  # all alike: the roughness is noise
        _tokens(1000, 0.9),  # a score of each word
        _history("binary-cross-entropy", "BinaryCrossEntropyBackward0", target_low=0.0, target_high=1.2),  # of a GAN
        _history("binary-cross-entropy-with-logits", _BINARY_NODE),  # some targets are left out by a mask
        History.of(Facts(loss=Loss("nll", (_NLL, _SOFT))), probability_total=[11.0]),  # too early
    )
