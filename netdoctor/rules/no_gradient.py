"""Trainable parameters that the loss does not reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from netdoctor import remedies
from netdoctor.facts import WEIGHTED, Facts, Layer, Parameter, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules.base import rule


@rule(Severity.WARNING, explains=("weights-not-updated", "underfitting", "loss-plateau", "not-learning"))
def no_gradient(
    history: History,
    *,
    samples: int = 5,  # steps without any gradient before it counts: conditional branches come and go
    patience: int = 20,  # samples before a note about a branch that is never used
    zero_loss: float = 1e-6,  # a loss this small may well have no gradient: everything fits
) -> Iterator[Evidence | Skipped]:
    """Parameters that the optimizer holds never get a gradient, or every gradient is exactly zero.

    ## What it looks at
    Whether ``.grad`` was None at every sampled step of the optimizer that holds the parameter, whether its layer took
    part in the forward pass, with gradients or under ``no_grad``, and whether the loss was computed from anything. A
    warning where the network's first layers are cut off from the loss (``detach``, numpy, argmax on the way), where
    layers run under ``no_grad``, where a second tower with an embedding of its own gets nothing, or where all gradients
    are exactly zero; a note about other side branches.

    ## Why it matters
    What gets no gradient stays as it was initialised, and the layers behind it learn from noise.

    ## When it is wrong
    Parameters may be left out on purpose, by ``detach`` in place of ``requires_grad_(False)``. Experts and branches may
    be used later. A slow copy that gives targets under ``no_grad`` is meant so: layers with a twin that learns are not
    reported. Parameters that no optimizer holds are not judged here.

    ## References
    PyTorch issue 61470 and the ``find_unused_parameters`` note of DistributedDataParallel; Schoop et al. 2021, UMLAUT.
    """
    table = history.table("gradient_missing")
    reached = bool(len(table)) and not table.values[-1].any()  # all of them, in the last sample (NaN is not false)
    seen = np.isfinite(table.values[-samples:] if reached else table.values).sum(0) if len(table) else np.zeros(0, int)
    if not (seen >= samples).any():
        yield Skipped(f"fewer than {samples} samples of the gradients")
        return
    norms, losses = history.series("gradient_norm")[1], history.series("loss")[1]
    if len(norms) >= samples and not norms.any() and len(losses) and abs(float(losses[-1])) > zero_loss:
        yield _all_zero(history, norms)
        return
    if reached:
        return
    with np.errstate(invalid="ignore"):
        never = (seen >= samples) & ~(table.values == 0).any(0)
    if not never.any():
        return
    if never[seen > 0].all():
        if len(history.table("rootless_loss")) >= samples:
            yield _rootless(history)
        return
    facts, missing = history.facts, {name for name, none in zip(table.columns, never, strict=True) if none}
    owners: dict[str, list[Parameter]] = {}
    for parameter in facts.parameters:
        if parameter.name in table.columns:
            owners.setdefault(parameter.layer, []).append(parameter)
    without = {name for name, own in owners.items() if all(parameter.name in missing for parameter in own)}
    span = (int(table.steps[0]), int(table.steps[-1]))
    called = [layer.name for layer in facts.layers if layer.called and layer.name in owners]
    first_reached = next((index for index, name in enumerate(called) if name not in without), 0)
    cut_off, sides = called[:first_reached], [name for name in called[first_reached:] if name in without]
    uncalled = [layer for layer in facts.layers if not layer.called and layer.name in without]
    silent, unused = ([x.name for x in uncalled if x.ungraded is ungraded] for ungraded in (True, False))
    if silent and not _copies(facts, silent, called):
        yield _under_no_grad(silent, int(seen.max()), span)
    if cut_off:
        yield Evidence(
            message=f"{_listed(cut_off)} {'run' if len(cut_off) > 1 else 'runs'} in the forward pass, but never "
            f"{'get' if len(cut_off) > 1 else 'gets'} a gradient in {int(seen.max())} samples, while "
            f"{spoken(called[first_reached])} and later layers do: the way back is cut between the two",
            layers=tuple(cut_off),
            readings=(Reading("layers without gradient", float(len(cut_off)), 0.0, "", span),),
            confidence=0.9,
            remedies=(_connect(cut_off[-1], called[first_reached]), remedies.freeze_layers(cut_off)),
        )
    tower = _tower(facts, sides, [name for name in called if name not in without])
    if tower and int(seen.max()) >= patience:
        yield Evidence(
            message=f"{_listed(tower)} run in the forward pass and read an input of their own, but never get a "
            f"gradient in {int(seen.max())} samples: between them and the loss the way back is cut",
            layers=tuple(tower),
            readings=(Reading("layers without gradient", float(len(tower)), 0.0, "", span),),
            confidence=0.85,
            remedies=(_connect(tower[-1], "the loss"), remedies.freeze_layers(tower)),
        )
    sides = [name for name in sides if name not in tower]
    for names, several, one in (
        (sides, "run, but the loss does not use their output", "runs, but the loss does not use its output"),
        (unused, "are never called in training", "is never called in training"),
    ):
        if names and int(seen.max()) >= patience:
            yield Evidence(
                message=f"{_listed(names)} {several if len(names) > 1 else one}: no gradient in {int(seen.max())} "
                "samples",
                layers=tuple(names),
                readings=(Reading("layers without gradient", float(len(names)), 0.0, "", span),),
                severity=Severity.NOTE,
                confidence=0.8,
                remedies=(remedies.freeze_layers(names),),
            )


def _copies(facts: Facts, names: Sequence[str], called: Sequence[str]) -> bool:
    """Whether each of the layers has the same parameters as one that learns: a target network, a momentum encoder."""
    shapes = {layer.name: tuple(p.shape for p in facts.parameters if p.layer == layer.name) for layer in facts.layers}
    return {shapes[name] for name in names} <= {shapes[name] for name in called}


def _tower(facts: Facts, sides: Sequence[str], learning: Sequence[str]) -> list[str]:
    """Layers in a row without a gradient, from an embedding on, which reads what no other layer made.

    Empty where layers of the same shapes learn: a target network, a momentum encoder.
    """
    start = next((place for place, name in enumerate(sides) if facts.layer(name).kind == "embedding"), len(sides))
    tower = list(sides[start:])
    mixing = any(facts.layer(name).kind in WEIGHTED for name in tower)
    return tower if mixing and not _copies(facts, tower, learning) else []


def _under_no_grad(names: Sequence[str], samples: int, span: tuple[int, int]) -> Evidence:
    them, run = ("them", "run") if len(names) > 1 else ("it", "runs")
    return Evidence(
        message=f"{_listed(names)} {run} under no_grad in training, though the optimizer holds {them}: no gradient in "
        f"{samples} samples",
        layers=tuple(names),
        readings=(Reading("layers without gradient", float(len(names)), 0.0, "", span),),
        confidence=0.9,
        remedies=(
            Remedy(
                "Take no_grad, inference_mode or set_grad_enabled(False) off the training pass",
                f"# in forward, around {spoken(names[0])}: no torch.no_grad(); validation alone belongs under it",
                "PyTorch documentation, autograd mechanics, locally disabling gradient computation",
                "these layers learn",
            ),
            remedies.freeze_layers(names),
        ),
    )


def _all_zero(history: History, norms: NDArray[np.float32]) -> Evidence:
    facts = history.facts
    last = next((layer for layer in reversed(facts.layers) if layer.units and layer.called), None)
    constant = bool({"softmax", "log_softmax"} & {layer.function or layer.nonlinearity for layer in facts.layers})
    single = constant and last is not None and last.units == 1
    sigmoid = Remedy(
        "Use a sigmoid for a single output: softmax over one unit is always 1",
        "loss = F.binary_cross_entropy_with_logits(logits, y.float())  # and no softmax in the model",
        effect="the output can change",
    )
    look = Remedy(
        "Find the operation whose slope is 0: round, sign, argmax, comparison, clamp, softmax over one unit",
        "print(loss.grad_fn, loss.grad_fn.next_functions)",
    )
    return Evidence(
        message=f"Every gradient is exactly 0 in all {len(norms)} samples: the loss does not depend on the weights"
        + (", for softmax over one unit is always 1" if single else ""),
        layers=(last.name,) if single and last is not None else (),
        readings=(Reading("gradient norm", 0.0, 0.0, "loss/w", (1, history.step)),),
        confidence=0.95,
        remedies=(sigmoid, look) if single else (look,),
    )


def _rootless(history: History) -> Evidence:
    count = len(history.table("rootless_loss"))
    return Evidence(
        message=f"backward() starts from a tensor that was made anew in all {count} samples, not from what the model "
        "computed: no parameter gets a gradient",
        readings=(Reading("samples of a loss without a graph", float(count), 0.0, "", (1, history.step)),),
        severity=Severity.ERROR,
        confidence=0.97,
        remedies=(
            Remedy(
                "Call backward() on the loss as the loss function returns it",
                "loss = loss_fn(model(x), y)  # no torch.tensor(loss), .item(), .detach(), .data or requires_grad_()\n"
                "loss.backward()",
                "PyTorch documentation, torch.tensor (no autograd history) and autograd mechanics",
                "gradients reach the weights",
            ),
        ),
    )


def _listed(names: Sequence[str]) -> str:
    if len(names) <= 2:
        return " and ".join(spoken(name) for name in names)
    return f"{spoken(names[0])} … {spoken(names[-1])} ({len(names)} layers)"


def _connect(last: str, first: str) -> Remedy:
    last, first = spoken(last), spoken(first)
    return Remedy(
        f"Connect {last} with {first}: no detach(), .data, numpy, argmax or no_grad() between them",
        f"# in forward, between {last} and {first}: h = h, in place of h = h.detach()",
        "PyTorch documentation, autograd mechanics",
        f"{last} and the layers before it get gradients",
    )


def _history(
    rows: int, missing: dict[str, float], called: bool = True, ungraded: bool = False, words: str = ""
) -> History:
    facts = Facts(
        layers=tuple(
            Layer(
                name,
                "embedding" if name == words else "linear",
                called=not value or (called and not ungraded),
                ungraded=ungraded and value > 0,
            )
            for name, value in missing.items()
        ),
        parameters=tuple(Parameter(f"{name}.weight", name, (4, len(name)), "weight") for name in missing),
    )
    readings = {f"{name}.weight": [value] * rows for name, value in missing.items()}
    return History.of(facts, gradient_missing=readings, gradient_norm=[1.0] * rows, loss=[2.3] * rows)


def _rootless_history(rows: int) -> History:
    history = _history(5, {"encoder": 1.0, "head": 1.0})
    history.record_rows(range(1, rows + 1), "rootless_loss", [[1.0]] * rows)
    return history


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history(5, {"encoder": 1.0, "head": 0.0}),
        History.of(gradient_missing={"fc.weight": [0.0] * 5}, gradient_norm=[0.0] * 5, loss=[0.7] * 5),
        _history(5, {"head": 0.0, "encoder": 1.0}, ungraded=True),
        _history(20, {"image": 0.0, "words": 1.0, "sentence": 1.0}, words="words"),
        _rootless_history(5),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history(30, {"encoder": 0.0, "head": 0.0}),  # healthy
        _history(30, {"encoder": 0.0, "expert": 1.0, "head": 0.0}, called=False),  # never called: a note
        _history(30, {"online": 0.0, "target": 1.0, "head": 0.0}, ungraded=True),  # a slow copy that gives targets
        _history(30, {"image": 0.0, "auxiliary": 1.0}),  # an unused head: a note
        _history(30, {"enc": 0.0, "out": 0.0, "key": 1.0, "tip": 1.0}, words="key"),  # a slow copy that is detached
        _history(3, {"encoder": 1.0, "head": 0.0}),  # too early
        _rootless_history(1),  # a batch without targets
        History.of(
            gradient_missing={"fc.weight": [0.0] * 9}, gradient_norm=[0.0] * 9, loss=[0.0] * 9
        ),  # fits perfectly
    )
