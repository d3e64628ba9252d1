"""Most targets are of one class, and the model answers nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from netdoctor.ends import MOVING, head, last_layers
from netdoctor.facts import Facts, Layer, Loss
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.progress import progress
from netdoctor.rules.base import rule

CAUSED = ("learning-rate-too-small", "covariate-shift", "overfitting", "loss-plateau", "not-learning", "class-collapse")
PUT_TOGETHER = MOVING | {
    f"{name}Backward{version}" for name in ("Add", "Sub", "Mul", "Div", "Neg", "Sum", "Mean") for version in (0, 1)
}


@rule(Severity.WARNING, explains=CAUSED)
def class_imbalance(
    history: History,
    *,
    ratio: float = 10.0,  # of the most frequent class to the mean of the others (SageMaker Debugger, ClassImbalance)
    least: float = 0.5,  # share of the most frequent class: of many classes, as in language, one is 10x as frequent
    alone: float = 0.995,  # share from which there is only one class
    answers: float = 0.98,  # share of one class in the predictions: the model has given up the others
    patience: int = 20,  # steps: an untrained model, too, often answers with one class
    patience_tokens: int = 150,  # steps, where many answers belong to one sample: background and "no entity" come first
    batches: int = 3,  # of targets at least
    rare_answers: float = 0.9,  # share of the rarer answer in those to several labels, and in the weight of the targets
    in_turn: float = 0.9,  # share of one class in most batches: shuffled ones of 8 and more hold others
    rarely: float = 0.95,  # mean share of the frequent answer, several labels a sample: objects fill 8 % of an image
    given_up: int = 30,  # steps without a rare label, nothing learned; healthy segmenters had learned by step 20
    patience_labels: int = 60,  # steps, several labels a sample
) -> Iterator[Evidence | Skipped]:
    """One class is far more frequent in the targets, in all batches or in each by turns, and takes all predictions.

    ## What it looks at
    Shares of the classes in the targets of the first batches, times the class weights of the loss; the share of the
    class that the predictions favour in the last samples. The share of the most frequent class within single batches:
    far above that over all of them where the data are sorted. Where a sample has several labels, or each pixel one:
    whether the accuracy is exactly that of always giving the frequent answer while the loss is no better than that of
    a constant.

    ## Why it matters
    Always answering with the frequent class is the quickest gain, and where the others are rare there is little more to
    be gained by the loss's measure: they are learned late or never, while accuracy looks fine.

    ## When it is wrong
    Rare classes may be rare on purpose, and accuracy all that counts. Segmentation and tagging, where the background
    comes first, are given more steps. Language is not judged. As soon as the rare classes are predicted, or, of
    several labels, as soon as the loss tells that they are being learned, nothing is said. The rarer answer to several
    labels is judged where the weights of the loss ask for it.

    ## References
    He & Garcia 2009, Learning from imbalanced data. Buda et al. 2018, A systematic study of the class imbalance problem
    in convolutional neural networks (oversampling works best). Amazon SageMaker Debugger, ClassImbalance.
    """
    facts = history.facts
    loss = facts.loss
    shares, predicted = history.series("largest_class_share")[1], history.series("largest_predicted_share")[1]
    only = _only_one(history, alone)
    if facts.several_losses or len(shares) < batches or not loss.nodes or not (_direct(loss) or only):
        yield Skipped(f"fewer than {batches} batches of targets that are classes")
        return
    binary = loss.kind.startswith("binary")
    if binary and prod(loss.outputs[1:]) > 1:
        outvoted = _outvoted(history, rare_answers, patience)
        if outvoted is not None:
            yield outvoted
        elif history.step >= patience_labels:
            yield from _given_up(history, rarely, answers, given_up)
        else:
            yield Skipped(f"several labels a sample: fewer than {patience_labels} steps")
        return
    classes = 2 if binary else max(loss.classes, loss.softmax_extent)
    share, favoured = float(shares[-1]), float(np.median(predicted[-5:])) if len(predicted) else 0.0
    if classes < 2:
        return
    sorting = _sorted(history, in_turn) if history.step >= patience else None
    if sorting is not None:
        yield sorting
        return
    bound = max(least, ratio / (ratio + classes - 1))
    single = share >= alone
    if share < bound or history.step < (patience // 2 if single else patience):
        return
    if not single:
        state = progress(history)
        tokens = prod(loss.targets) > 2 * facts.batch > 0
        if favoured < answers or (tokens and (history.step < patience_tokens or (state is not None and state.learned))):
            return
    rare = 1 - share
    said = (
        "all targets so far are"
        if single and share > 1 - 1e-6
        else f"{share:.3g} of the targets, as the loss weighs them, are"
    )
    yield Evidence(
        message=f"Of {classes} classes, {said} of one"
        + (f", and so are {favoured:.0%} of the last predictions" if favoured >= answers else ""),
        layers=last_layers(facts),
        readings=(
            Reading("share of the most frequent class", share, bound),
            Reading("share of one class in the predictions", favoured, answers),
        ),
        confidence=0.95 if single else 0.85,
        severity=Severity.ERROR if single and share > 1 - 1e-6 else None,
        remedies=(_look(), _weigh(binary, rare)) if single else (_weigh(binary, rare), _sample()),
    )


def _only_one(history: History, alone: float) -> bool:
    """Whether a score put together from what several layers give, as a sum or product, is to be 1 everywhere.

    A critic further on, for which a generator's images are to be real, would compute with weights.
    """
    loss, shares = history.facts.loss, history.series("largest_class_share")[1]
    if not loss.kind.startswith("binary") or prod(loss.targets) != history.facts.batch or not len(shares):
        return False
    between = set(loss.nodes[1:])
    return bool(between) and between <= PUT_TOGETHER and float(shares[-1]) >= alone


def _outvoted(history: History, answers: float, patience: int) -> Evidence | None:
    """Answers to several labels a sample that are all the rarer one, for which the weights of the loss ask."""
    names = ("accuracy", "batch_class_share", "batch_class", "largest_predicted_share", "weighed_ones_share")
    seen = {name: history.series(name)[1][-5:] for name in names}
    if history.step < patience or any(len(values) < 5 for values in seen.values()):
        return None
    right, frequent, ones, favoured, weighed = (float(np.median(seen[name])) for name in names)
    weighed = 1 - weighed if ones else weighed
    if favoured < answers or weighed < answers or frequent < 0.6 or right > 1 - frequent + 0.1:
        return None
    return Evidence(
        message=f"{favoured:.0%} of the answers are the same, and the rarer one: {right:.0%} of them are right, where "
        f"the other would be right in {frequent:.0%}. The loss gives {weighed:.0%} of the weight to the rarer one",
        layers=last_layers(history.facts),
        readings=(
            Reading("share of right answers", right, frequent),
            Reading("share of the same answer in the predictions", favoured, answers),
            Reading("share of the rarer answer in the targets, as the loss weighs it", weighed, answers),
        ),
        confidence=0.9,
        remedies=(_weigh(True, frequent if ones else 1 - frequent),),
    )


def _sorted(history: History, in_turn: float) -> Evidence | None:
    """Batches of one class each, though over all of them there are several."""
    facts, seen = history.facts, history.series("batch_class_share")[1][-20:]
    if len(seen) < 8 or facts.batch < 8 or prod(facts.loss.targets) != facts.batch:
        return None
    typical, different = float(np.median(seen)), len(np.unique(history.series("batch_class")[1][-20:]))
    if typical < in_turn or different < 2:
        return None
    return Evidence(
        message=f"Batches hold one class each: {typical:.0%} of the {facts.batch} targets of a batch are of one class, "
        f"and the last {len(seen)} batches had {different} of them by turns: the data are sorted, not shuffled",
        layers=last_layers(facts),
        readings=(
            Reading("share of the most frequent class in a batch", typical, in_turn),
            Reading("classes by turns", float(different), 2.0),
        ),
        confidence=0.9,
        remedies=(_shuffle(),),
    )


def _given_up(history: History, rarely: float, answers: float, least: int) -> Iterator[Evidence]:
    """Several labels a sample, of which the rare ones are never given, and nothing is learned."""
    facts, state = history.facts, progress(history)
    (steps, frequent), accuracy = history.series("batch_class_share"), history.series("accuracy")[1]
    if state is None or state.constant is None or state.learned or len(accuracy) != len(frequent) or facts.batch < 8:
        return
    differs = np.flatnonzero(np.abs(accuracy - frequent) > 1e-6)  # else it is as if no other label existed
    begin = int(differs[-1]) + 1 if len(differs) else 0
    share, favoured = float(np.median(frequent)), history.series("largest_predicted_share")[1][begin:]
    if share < rarely or len(favoured) < 3 or history.step - steps[begin] < least or favoured.min() < answers:
        return
    yield Evidence(
        message=f"{1 - share:.2g} of the {prod(facts.loss.outputs[1:])} labels of a sample are rare ones, and since "
        f"step {steps[begin]} none has been given: {accuracy[-1]:.3g} are right, by the frequent answer alone",
        layers=last_layers(facts),
        readings=(
            Reading("mean share of the frequent answer", share, rarely),
            Reading(
                "share of one answer in the predictions",
                float(favoured.min()),
                answers,
                "",
                (int(steps[begin]), history.step),
            ),
            Reading("training loss", state.recent, state.constant, "loss"),
        ),
        confidence=0.85,
        remedies=(_weigh(True, 1 - share), _overlap()),
    )


def _overlap() -> Remedy:
    return Remedy(
        action="Or, for masks, add a loss that counts overlap and not background",
        code="chance = output.sigmoid()\n"
        "overlap = 2 * (chance * y).sum() / (chance.sum() + y.sum()).clamp_min(1)\n"
        "loss = loss + 1 - overlap",
        source="Milletari et al. 2016, V-Net, section 3",
        effect="an answer of nothing but background costs as much as it can",
    )


def _shuffle() -> Remedy:
    return Remedy(
        action="Shuffle the training data in every epoch",
        code="loader = torch.utils.data.DataLoader(dataset, batch_size=loader.batch_size, shuffle=True)",
        source="Bengio 2012, Practical recommendations, section 3.1.1; LeCun et al. 1998, section 4.2",
        effect="each step learns of all classes; with sorted data each forgets what the one before has learned",
    )


def _direct(loss: Loss) -> bool:
    """Whether the loss takes what the last layer gives: else the targets may be those of a critic further on."""
    found = head(loss)
    if loss.kind in ("cross-entropy", "nll"):
        return bool({"softmax", "log_softmax"} & set(found.functions)) or found.meets.startswith("NllLoss")
    return loss.kind.startswith("binary") and found.meets.startswith("BinaryCrossEntropy")


def _weigh(binary: bool, rare: float) -> Remedy:
    code = "counts = torch.bincount(y_train, minlength=classes).clamp_min(1)\n"
    code += "loss_fn = nn.CrossEntropyLoss(weight=counts.sum() / (len(counts) * counts.float()))"
    if binary:
        code = "# where ones are rare: zeros / ones\n"
        code += f"loss_fn = nn.BCEWithLogitsLoss(pos_weight=torch.tensor({(1 - rare) / max(rare, 1e-6):.3g}))"
    return Remedy(
        action="Weigh each class by the inverse of its frequency; if you do, are the weights the wrong way round?",
        code=code,
        source="King & Zeng 2001, Logistic regression in rare events data; PyTorch documentation, nn.CrossEntropyLoss",
        effect="a mistake on a rare class costs as much in sum as one on a frequent class",
    )


def _sample() -> Remedy:
    return Remedy(
        action="Or draw rare classes more often, and judge by the mean accuracy of the classes",
        code="chances = 1 / torch.bincount(y_train).clamp_min(1)[y_train]\n"
        "sampler = torch.utils.data.WeightedRandomSampler(chances, len(y_train))  # DataLoader(..., sampler=sampler)",
        source="Buda et al. 2018, section 4",
        effect="every batch holds all classes",
    )


def _look() -> Remedy:
    return Remedy(
        action="Look at the labels: not loaded, clamped, sorted by class, or drawn with inverted weights?",
        code="for _, y in zip(range(5), (y for _, y in loader)):\n    print(y.unique(return_counts=True))",
        source="Karpathy 2019, A Recipe for Training Neural Networks, step 1",
        effect="batches that hold all classes",
    )


def _history(share: float, favoured: float, classes: int = 2, steps: int = 40, loss: float = 0.2) -> History:
    nodes = ("NllLossBackward0", "LogSoftmaxBackward0")
    what = Loss(
        "cross-entropy", nodes, (32, classes), (32, classes), (32,), classes, layer="fc", softmax_extent=classes
    )
    facts = Facts(layers=(Layer("fc", "linear", called=True),), loss=what, batch=32)
    return History.of(
        facts,
        loss=[loss] * steps,
        largest_class_share=[share] * steps,
        largest_predicted_share=[favoured] * steps,
    )


def _turns(share: float, batch: float, classes: int = 3) -> History:
    history = _history(share, 0.5, 10)
    history.record_rows(range(1, 41), "batch_class_share", [[batch]] * 40)
    history.record_rows(range(1, 41), "batch_class", [[step * classes // 41] for step in range(40)])
    return history


def _rare_labels(loss: float, found: int = 0, rare: float = 0.02, steps: int = 80) -> History:
    """Forty labels a sample; the last ``found`` steps give rare ones."""
    nodes = ("BinaryCrossEntropyWithLogitsBackward0",)
    what = Loss("binary-cross-entropy-with-logits", nodes, (32, 40), (32, 40), (32, 40), layer="fc")
    facts = Facts(layers=(Layer("fc", "linear", called=True),), loss=what, batch=32)
    given = [1 - rare] * steps
    return History.of(
        facts,
        loss=[loss] * steps,
        constant_loss=[0.1] * steps,
        largest_class_share=[1.0] * steps,
        largest_predicted_share=[1.0] * (steps - found) + [0.99] * found,
        batch_class_share=given,
        accuracy=given[found:] + [1 - rare / 2] * found,
    )


def _labels(right: float, favoured: float, weighed: float) -> History:
    nodes = ("BinaryCrossEntropyWithLogitsBackward0",)
    what = Loss("binary-cross-entropy-with-logits", nodes, (32, 8), (32, 8), (32, 8), layer="fc")
    return History.of(
        Facts(layers=(Layer("fc", "linear", called=True),), loss=what, batch=32),
        loss=[3.0] * 100,
        largest_class_share=[0.99] * 100,
        weighed_ones_share=[weighed] * 100,
        batch_class=[0.0] * 100,
        largest_predicted_share=[favoured] * 100,
        batch_class_share=[0.74] * 100,
        accuracy=[right] * 100,
    )


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history(0.97, 1.0),
        _history(0.8, 1.0, 10),
        _history(1.0, 1.0, 10, 12),
        _turns(0.3, 1.0),  # sorted
        _rare_labels(0.11),
        _labels(0.28, 0.97, 0.98),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history(0.11, 0.2, 10),  # healthy
        _history(0.97, 0.95),  # rare, but found
        _history(0.8, 1.0),  # one in five
        _history(0.17, 1.0, 27),  # letters
        _history(0.97, 1.0, steps=10),  # too early
        _turns(0.3, 0.4),  # shuffled
        _labels(0.74, 0.98, 0.26),  # the frequent answer
        _labels(0.26, 0.98, 0.5),  # balanced, not learned yet
        _turns(0.5, 0.95, 1),  # one class is rare, and weighs more
        _rare_labels(0.05),  # about to be found
        _rare_labels(0.11, found=5),
        _rare_labels(0.11, rare=0.2),
        _rare_labels(0.11, steps=50),  # too early
    )
