"""Training in evaluation mode, or validation in training mode."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from netdoctor import wiring
from netdoctor.facts import Facts, Layer, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules.base import rule


@rule(Severity.WARNING, explains=("train-val-mismatch", "overfitting"))
def wrong_mode(
    history: History,
    *,
    samples: int = 5,  # sampled steps in evaluation mode before it speaks
    apart: int = 5,  # steps between validation passes; losses without gradients at every step are a log, a teacher's
    late: int = 20,  # steps before the first pass, where there is only one
    identity: float = 0.01,  # of the input's spread: a batch norm that has gathered nothing changes less than this
    least: float = 0.05,  # probability of dropout that makes a difference
) -> Iterator[Evidence | Skipped]:
    """The whole model trains in evaluation mode, or is validated in training mode, or a function takes no mode.

    ## What it looks at
    The mode of the model at each sampled step, where it has dropout or batch norms, and that of these layers at the
    first batch of each validation pass, and whether functions as F.dropout drop there in evaluation mode. Evaluation
    mode from the first step on counts where the batch norms have gathered nothing yet: they pass on what they get.

    ## Why it matters
    In evaluation mode dropout is off and batch norms use what they have gathered: nothing, or what is out of date. In
    training mode the validation loss is that of a thinned network, and batch norms learn from the validation data.

    ## When it is wrong
    Fine-tuning in evaluation mode keeps the statistics of a trained model: not reported, as is a part of the layers.
    Monte Carlo dropout validates in training mode on purpose, or drops in evaluation mode.

    ## References
    PyTorch documentation, autograd mechanics, "Evaluation mode". TheDeepChecker; TrainCheck, case SO-41.
    """
    yield from _functions(history, apart, late, least)
    modes = history.series("model_evaluation_mode")
    if len(modes[1]) < samples:
        yield Skipped(f"fewer than {samples} samples")
        return
    layers = [
        layer
        for layer in history.facts.layers
        if layer.called and (wiring.is_batch_norm(layer) or (layer.kind == "dropout" and layer.rate >= least))
    ]
    if not layers:
        return
    yield from _training(history, layers, modes, samples, identity)
    yield from _validation(history, layers, apart, late)


def _training(
    history: History,
    layers: list[Layer],
    modes: tuple[NDArray[np.int64], NDArray[np.float32]],
    samples: int,
    identity: float,
) -> Iterator[Evidence]:
    steps, values = modes
    trained = np.flatnonzero(values == 0)
    since = int(trained[-1]) + 1 if len(trained) else 0
    if len(values) - since < samples or not {layer.name for layer in layers} <= wiring.switched_off(history):
        return
    norms = [layer.name for layer in layers if wiring.is_batch_norm(layer)]
    count = f"{len(layers)} dropout and batch norm layers" if len(layers) > 1 else layers[0].name
    if len(trained):
        before = [step for step in history.series("val_loss")[0] if step <= steps[since]]
        after = f", since the validation pass after step {before[-1]}" if before else f", since step {steps[since]}"
    elif norms and _gathered_nothing(history, norms, identity):
        after = ", from the first step on, and the batch norms have gathered nothing: they pass on what they get"
    else:
        return
    yield Evidence(
        message=f"The model trains in evaluation mode{after}: {count} do not do their work.",
        layers=tuple(layer.name for layer in layers),
        readings=(
            Reading("steps in evaluation mode", float(history.step - steps[since] + 1), 0.0, "steps"),
            Reading("share of sampled steps in evaluation mode", float(values.mean()), 0.0),
        ),
        confidence=0.95,
        remedies=(
            Remedy(
                "Switch to training mode before each epoch, and after each validation pass",
                "model.train()",
                "PyTorch documentation, Module.train",
                "dropout drops, batch norms normalise and gather",
                treatment=lambda model, optimizer: model.train(),
            ),
        ),
    )


def _gathered_nothing(history: History, norms: list[str], identity: float) -> bool:
    """Whether every batch norm gave out at the first sample what it got."""
    first = {name: history.first(name) for name in ("input_mean", "input_std", "activation_mean", "activation_std")}
    for norm in norms:
        mean, std, mean_after, std_after = (first[name].get(norm, np.nan) for name in first)
        if not (std > 0 and abs(mean_after - mean) < identity * std and abs(std_after - std) < identity * std):
            return False
    return True


def _functions(history: History, apart: int, late: int, least: float) -> Iterator[Evidence]:
    """Functions that drop where the module that calls them is in evaluation mode."""
    steps, rates = history.series("val_dropping")
    if not len(rates) or rates[-1] < least or not _spaced(steps[rates >= least], apart, late):
        return
    function, module = history.facts.dropping
    option = "dropout_p" if function.startswith("scaled") else "p"
    where = spoken(module)
    if option == "p":
        code = f"x = F.{function}(x, p={rates[-1]:.2g}, training=self.training)"
    else:
        code = f"F.{function}(q, k, v, dropout_p={rates[-1]:.2g} if self.training else 0.0)"
    yield Evidence(
        message=f"F.{function} drops {rates[-1]:.0%} in validation, though {where} is in evaluation mode: the function "
        f"does not know of the mode unless it is told.",
        layers=tuple(layer.name for layer in history.facts.layers if module and layer.name == module),
        readings=(Reading("probability of dropout in evaluation mode", float(rates[-1]), 0.0),),
        confidence=0.9,
        remedies=(
            Remedy(
                f"Let F.{function} follow the mode of its module",
                code,
                f"PyTorch documentation, torch.nn.functional.{function}",
                "the whole network answers in evaluation",
            ),
        ),
    )


def _spaced(steps: NDArray[np.int64], apart: int, late: int) -> bool:
    """Whether passes are a validation's, not those of a log or a teacher that runs at every step."""
    if not len(steps):
        return False
    return bool(steps[0] >= late if len(steps) == 1 else np.median(np.diff(steps)) >= apart)


def _validation(history: History, layers: list[Layer], apart: int, late: int) -> Iterator[Evidence]:
    steps, shares = history.series("val_training_share")
    wrong = steps[shares == 1]
    if not len(wrong) or shares[-1] < 1 or not _spaced(wrong, apart, late):
        return
    what = {
        "batch norms use and gather the statistics of the validation data": any(map(wiring.is_batch_norm, layers)),
        "dropout is at work": any(layer.kind == "dropout" for layer in layers),
    }
    yield Evidence(
        message=f"{len(wrong)} of {len(shares)} validation passes ran in training mode, the latest after step "
        f"{wrong[-1]}: {' and '.join(text for text, true in what.items() if true)}.",
        layers=tuple(layer.name for layer in layers),
        readings=(Reading("validation passes in training mode", float(len(wrong)), 0.0),),
        confidence=0.9,
        remedies=(
            Remedy(
                "Validate in evaluation mode",
                "model.eval()\nwith torch.no_grad():\n    ...  # the validation pass\nmodel.train()",
                "PyTorch documentation, Module.eval",
                "the loss of the model as it will be used",
            ),
        ),
    )


def _history(modes: list[float], share: tuple[float, ...] = (), std_after: float = 1.0, kind: str = "norm") -> History:
    type_, rate = ("BatchNorm2d", 0.0) if kind == "norm" else ("Dropout", 0.5)
    count = len(modes)
    history = History.of(
        Facts(layers=(Layer("1", kind, type_, called=True, rate=rate),)),
        model_evaluation_mode=modes,
        evaluation_mode={"1": modes},
        input_mean={"1": [0.1] * count},
        input_std={"1": [1.0] * count},
        activation_mean={"1": [0.1] * count},
        activation_std={"1": [std_after] * count},
    )
    for place, value in enumerate(share):
        history.record(20 * (place + 1), "val_training_share", [value])
    return history


def _function(rates: list[float], apart: int = 20) -> History:
    history = _history([0.0] * 8)
    history.facts = history.facts.with_changes(dropping=("dropout", "1"))
    for place, value in enumerate(rates):
        history.record(apart * (place + 1), "val_dropping", [value])
    return history


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history([0.0] * 10 + [1.0] * 8),
        _history([1.0] * 8),
        _history([0.0] * 8, (1.0, 1.0, 1.0)),
        _function([0.5, 0.5]),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history([0.0] * 20, (0.0, 0.0)),  # healthy
        _history([1.0] * 20, std_after=0.3),  # fine-tuning with the statistics of a trained model
        _function([0.5, 0.0]),  # mended
        _function([0.5] * 4, apart=1),  # a teacher's passes
        _history([1.0] * 20, kind="dropout"),  # fine-tuning without dropout
        _history([0.0] * 10 + [1.0] * 2),  # too early
    )
