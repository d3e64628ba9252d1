"""Validation unlike training from the start."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from netdoctor import validation
from netdoctor.facts import Facts, Layer, Loss
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.remedies import gather_faster
from netdoctor.rules.base import rule


@rule(Severity.WARNING, explains=("overfitting",))
def train_val_mismatch(
    history: History,
    *,
    learned: float = 0.25,  # of the constant prediction's loss that training gained before the first pass that counts
    behind: float = 0.05,  # by so much less validation gained, where a cause is seen; half of it at the first pass
    worse: float = 0.0,  # gain of validation where none is seen: worse than a constant, though training learned
    moved: float = 1.0,  # standard deviations between the means of the inputs; small validation sets reach 0.25
    scaled: float = 2.0,  # factor between their standard deviations; augmentation reaches 1.3
    stale: float = 0.5,  # standard deviations, or logarithm of a factor, between what a batch norm holds and gets
    far: float = 0.2,  # gap at the first pass that makes half of ``stale`` enough
    passes: int = 3,  # that show a gap without a cause; one less where the first pass over the data told of it
    beyond: float = 2.0,  # × training's gain, that validation lost at first; guesses of the same width lose it once
    soon: float = 2.5,  # passes over the data, by which validation must have come first, where these are known
    sigmas: float = 4.0,  # standard errors that what was gained on new samples must reach
    window: int = 20,  # losses before a pass that tell how training does
) -> Iterator[Evidence | Skipped]:
    """From the first passes on the validation loss is far above the training loss.

    ## What it looks at
    What training and validation each gained over the best constant prediction for their own targets, at the first
    validation pass after training has learned something and at the last one. The causes that can be seen: mean and
    standard deviation of the model's input in training and in validation, and what batch norms hold for evaluation
    against what they get in training. Where no cause is seen: validation that never is better than a constant, though
    training gained a lot on samples that it had not seen before, in its first pass over the data and within the second
    one. Where samples do not come again, or nobody knows whether they do: validation that is worse than a constant in
    the first pass, and stays so; or so much worse that no learning by heart explains it.

    ## Why it matters
    In the first epoch every batch is new: the training loss is then what unseen data cost too. A validation loss far
    above it does not come from learning by heart but from another preprocessing, another mode, or stale statistics.

    ## When it is wrong
    A validation set from another distribution is the task, not a fault. A first pass after many epochs on few samples
    may be overfitting; a validation loss that starts high without a visible cause and goes on rising is left to that.
    Few variants that augmentation makes of each sample pass for samples of their own.

    ## References
    Ioffe & Szegedy 2015, section 3.1. Zhang et al. 2017, Understanding deep learning requires rethinking
    generalization (labels of noise take many passes). Breck et al. 2019, Data validation for machine learning
    (training-serving skew).
    """
    steps, values = history.series("val_loss")
    reference = history.series("constant_loss")[1]
    if not len(values) or not len(reference):
        yield Skipped("no validation loss seen" if not len(values) else "no loss to hold the validation loss against")
        return
    gains = validation.gains(history, float(reference[-1]), window)
    counted = [(step, train, val) for step, train, val in gains if train >= learned]
    if not counted:
        yield Skipped("nothing learned before a validation pass")
        return
    (first, train_first, val_first), (last, train_last, val_last) = counted[0], counted[-1]
    if train_last < val_last:
        return
    shift = validation.input_shift(history, moved, scaled)
    plain = validation.input_shift(history, 3 * moved, 2 * scaled)  # no augmentation does that
    if not plain and train_last - val_last < behind:
        return
    early = train_first - val_first  # before anything can have been learned by heart
    lag = validation.stale_norms(history, stale / 2 if early > far else stale) if early > behind / 2 else None
    new = None
    one_pass = validation.pass_steps(history)
    if not (shift or lag) and one_pass is not None:
        vals = [(step, val) for step, _, val in gains if step >= one_pass]
        new = validation.unseen_gain(history, float(reference[-1]), one_pass)
        if new is None or new[0] < max(learned, sigmas * new[1]) or max(val for _, val in vals) > worse:
            return
        if len(vals) < passes - 1 or vals[0][0] > soon * one_pass:
            return
    elif not (shift or lag):
        unlearned = early > behind / 2 and max(val_first, val_last) <= worse
        lost = val_first < -beyond * train_first  # of squares, 1 + r² is what guesses of r² times the variance cost
        if len(counted) < passes or not unlearned or (val_last < val_first - behind and not lost):
            return  # what gets worse and worse is overfitting's
    at = int(np.searchsorted(steps, last))
    causes = [cause[0] for cause in (shift, lag) if cause]
    if not causes:
        causes = ["the validation data, their preprocessing or the mode of the model differ"]
    began, gain = f"At the first validation pass, step {first}, training had gained", train_first
    if new is not None:
        began = f"On samples it could not know by heart, in two passes of {one_pass:.0f} steps, training gained"
        gain = new[0]
    yield Evidence(
        message=f"{began} {gain:.0%} over a constant prediction and validation {val_first:.0%}; now {train_last:.0%} "
        f"and {val_last:.0%}: {'; '.join(causes)}.",
        layers=lag[1] if lag else (),
        readings=(
            Reading("gain of validation over a constant", val_last, train_last - behind, "", (first, last)),
            Reading("validation loss", float(values[at]), None, "loss", (last, last)),
            *((Reading("gain on new samples", new[0], learned, "", (1, round(2 * (one_pass or 0)))),) if new else ()),
            *(reading for cause in (shift, lag) if cause for reading in cause[2]),
        ),
        confidence=0.95 if shift or lag else 0.85 if new else 0.7,
        remedies=(
            *((_preprocess(),) if shift else ()),
            *(_refresh(history.facts, lag[1]) if lag else ()),
            _train_on_validation(),
        ),
    )


def _preprocess() -> Remedy:
    return Remedy(
        "Prepare validation data as the training data: the same scaling, with the training set's mean and deviation",
        "mean, std = x_train.mean(0), x_train.std(0)\n"
        "x_train, x_val = (x_train - mean) / std, (x_val - mean) / std  # not with the statistics of x_val",
        "Hastie et al. 2009, The Elements of Statistical Learning, section 7.10.2",
        "the validation loss is that of the training's task",
    )


def _refresh(facts: Facts, norms: tuple[str, ...], usual: float = 0.1) -> tuple[Remedy, ...]:
    """Against what batch norms hold: shorter memory, or statistics of the weights as they are where it is short."""
    anew = Remedy(
        "Gather the statistics anew before validation: the weights move faster than the batch norms remember",
        "torch.optim.swa_utils.update_bn(train_loader, model)  # a pass without gradients; then model.eval()",
        "Izmailov et al. 2018, Averaging Weights Leads to Wider Optima, section 3.2; Wu & Johnson 2021, Rethinking "
        "'Batch' in BatchNorm, section 3",
        "the norms hold what the present weights make of the training data",
    )
    if any(facts.layer(name).momentum >= usual for name in norms):
        return (anew,)
    faster = Remedy(
        "Let the batch norms gather faster: momentum 0.1 is torch's default (it weighs the new batch)",
        "for module in model.modules():\n"
        "    if isinstance(module, nn.modules.batchnorm._BatchNorm):\n"
        "        module.reset_running_stats()\n"
        "        module.momentum = 0.1",
        "PyTorch documentation, BatchNorm2d; Ioffe & Szegedy 2015, algorithm 2",
        "within 30 steps they hold what they see",
        treatment=gather_faster(usual),
    )
    return faster, anew


def _train_on_validation() -> Remedy:
    return Remedy(
        "Validate on training samples: if their loss is as high, it is the mode or the preprocessing, not the data",
        "model.eval()\nwith torch.no_grad():\n    print(loss_fn(model(x_train[:256]), y_train[:256]))\nmodel.train()",
        "Karpathy 2019, A Recipe for Training Neural Networks, step 2",
    )


def _history(
    val: list[float], shift: float = 0.0, loss: float | list[float] = 0.4, running: float = 1.0, one_pass: float = 0.0
) -> History:
    layers = (Layer("1", "norm", "BatchNorm2d", called=True),)
    count = 20 * len(val)
    history = History.of(
        Facts(layers=layers, loss=Loss("cross-entropy")),
        loss=loss if isinstance(loss, list) else [loss] * count,
        constant_loss=[2.3] * count,
        model_input_mean=[0.0] * count,
        model_input_std=[1.0] * count,
        pass_steps=[one_pass] * count if one_pass else [],
        input_mean={"1": [0.0] * count},
        input_std={"1": [1.0] * count},
        running_mean={"1": [0.0] * count},
        running_std={"1": [running] * count},
    )
    for place, value in enumerate(val):
        step = 20 * (place + 1)
        for name, number in (("val_loss", value), ("val_constant_loss", 2.3), ("val_input_mean", shift)):
            history.record(step, name, [number])
        history.record(step, "val_input_std", [1.0 + shift])
    return history


_LEARNING = [2.3 * (0.97**step + 0.01 * (-1) ** step) for step in range(80)]
_BY_HEART = [2.3 * (0.75 ** (step // 20) + 0.01 * (-1) ** step) for step in range(80)]


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history([1.9, 2.5, 2.6], shift=5.0),
        _history([1.5, 1.4], running=3.0),
        _history([3.0, 3.1, 3.05]),
        _history([7.0, 9.0, 8.5]),  # worse and worse, and at first already far beyond what guessing costs
        _history([2.4, 3.5, 4.5, 5.0], loss=_LEARNING, one_pass=20),  # worse and worse, as it is in the first pass
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history([0.5, 0.4, 0.3]),  # healthy
        _history([0.02], loss=0.01),  # converged
        _history([0.45, 0.42], shift=3.0),  # another input, and no harm
        _history([0.7, 1.5, 2.5]),  # overfitting
        _history([2.5], loss=2.2),  # too early
        _history([2.4, 3.5, 4.5, 9.0], loss=_LEARNING, one_pass=5),  # labels of noise, after four passes
        _history([7.0, 9.0, 8.5], one_pass=7),  # by heart before anyone validated
        _history([2.4, 3.5, 4.5, 9.0], loss=_BY_HEART, one_pass=20),  # it gains from pass to pass, not within
        _history([2.4, 1.5, 1.0, 0.8], loss=_LEARNING, one_pass=20),  # healthy, of one class at first
    )
