"""NaN or Inf, and where it came from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from netdoctor import remedies
from netdoctor.facts import Facts, Layer, NonFinite
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules.base import rule

CURES = {  # operation -> what keeps it finite
    "log": (
        "Keep the logarithm away from 0",
        "torch.log(p.clamp_min(1e-7))  # or F.log_softmax, F.logsigmoid of the logits",
    ),
    "sqrt": ("Keep the square root away from 0, where its slope is infinite", "torch.sqrt(x + 1e-8)"),
    "div": ("Keep the divisor away from 0", "x / (y + 1e-8)"),
    "exp": ("Keep the exponent below 80", "torch.exp(x.clamp(max=80))"),
    "pow": ("Keep the base of the power away from 0 and below 1e15", "(x + 1e-8) ** exponent"),
    "acos": ("Keep the argument inside (-1, 1)", "torch.acos(x.clamp(-1 + 1e-6, 1 - 1e-6))"),
    "norm": ("Keep the norm away from 0, where its slope is NaN", "torch.sqrt((x ** 2).sum() + 1e-8)"),
}
CURES |= {"log2": CURES["log"], "log10": CURES["log"], "log1p": CURES["log"], "linalgvectornorm": CURES["norm"]}


@rule(Severity.ERROR, explains=("not-learning",))
def non_finite(
    history: History,
    *,
    patience: int = 20,  # NaN losses that leave the weights finite: a gradient scaler needs 16 from 65536 down to 1
    growth: float = 10.0,  # × the first loss within 5 steps before: an overflow, of a run that diverges
) -> Iterator[Evidence | Skipped]:
    """The loss or the weights are NaN or Inf.

    ## What it looks at
    The loss of every step, the sampled weights, and the autograd graph of the first loss that is not finite: which
    operation made the value, after which layer, or whether it came in with the batch or with the weights.

    ## Why it matters
    Weights that are NaN stay NaN: nothing is learned from here on.

    ## When it is wrong
    A single bad loss whose step was skipped (a gradient scaler does that) is a note. NaN in activations or gradients
    alone, as masks and skipped steps leave them, is not reported.

    ## References
    Micikevicius et al. 2018, Mixed Precision Training; Blanchard et al. 2021, Accurately computing log-sum-exp.
    """
    weights = history.table("non_finite_weight")
    bad = np.flatnonzero(weights.values[-1] > 0) if len(weights) else np.zeros(0, int)
    lost, losses = history.table("non_finite_loss"), history.table("loss")
    if not len(losses) and not len(weights):
        yield Skipped("no loss and no weights seen yet")
        return
    if not len(lost) and not len(bad):
        return
    first = int(lost.steps[0]) if len(lost) else int(weights.steps[(weights.values > 0).any(1)][0])
    ongoing = len(lost) and lost.steps[-1] >= losses.steps[-1]
    untouched = len(weights) and not len(bad) and weights.steps[-1] > first  # the step was skipped
    scaled = history.facts.loss.nodes[:1] == ("MulBackward0",)  # a gradient scaler may skip this step: wait and see
    if ongoing and len(lost) < patience and not len(bad) and not untouched and scaled:
        return
    if not len(bad) and (not ongoing or (untouched and len(lost) < patience)):
        times = len(lost)
        yield Evidence(
            message=f"The loss was NaN or Inf {'once' if times == 1 else f'{times} times'}, at step {first} first; "
            f"the weights are finite{_where(history.facts.non_finite)}",
            severity=Severity.NOTE,
            confidence=0.9,
            remedies=_remedies(history, history.facts.non_finite, diverged=False),
        )
        return
    origin = history.facts.non_finite
    origin = (
        origin if origin.step and (not len(lost) or origin.step in (first, int(lost.steps[-1]))) else _sampled(history)
    )
    before = losses.values[losses.steps < first].max(1, initial=-np.inf) if len(losses) else np.zeros(0)
    before = before[np.isfinite(before)]
    diverged = len(before) > 1 and bool(np.abs(before[-5:]).max() > growth * np.abs(before[0]))
    what = "The loss" if len(lost) else "Weights"
    grown = f" after it rose from {before[0]:.3g} to {before[-5:].max():.3g}: the training diverged" if diverged else ""
    cause = "" if diverged else _where(origin)
    yield Evidence(
        message=f"{what} became NaN or Inf at step {first}{grown or cause}",
        layers=(origin.layer,) if origin.layer and not diverged else (),
        readings=(
            Reading(
                "parameters with NaN or Inf",
                float(len(bad)) or round(origin.share * len(history.facts.parameters)),
                0.0,
            ),
            *(
                (Reading("loss before", float(before[-1]), None, "loss", (first - 1, first - 1)),)
                if len(before)
                else ()
            ),
        ),
        confidence=0.95 if origin.stage in ("input", "target", "forward") or diverged else 0.75,
        remedies=_remedies(history, origin, diverged),
    )


def _sampled(history: History) -> NonFinite:
    """The origin by the first sample that shows one, where no graph was read: activation, gradient, weight."""
    seen = []
    for order, (statistic, stage) in enumerate(
        (("activation", "forward"), ("gradient", "backward"), ("weight", "weights"))
    ):
        table = history.table(f"non_finite_{statistic}")
        hit = np.argwhere(table.values > 0)
        if len(hit):
            columns = {table.columns[column] for row, column in hit if row == hit[0][0]}
            names = [layer.name for layer in history.facts.layers]
            owners = [column if stage == "forward" else column.rpartition(".")[0] for column in columns]
            owners.sort(key=lambda name: names.index(name) if name in names else len(names), reverse=stage != "forward")
            seen.append((int(table.steps[hit[0][0]]), order, stage, owners[0]))
    if not seen:
        return NonFinite()
    step, _, stage, layer = min(seen)
    return NonFinite(step, stage, layer)


def _where(origin: NonFinite) -> str:
    operation = f"the operation {origin.operation}" if origin.operation else "an operation"
    after = f" after layer {origin.layer}" if origin.layer else ""
    return {
        "input": ": the batch holds NaN or Inf" + (f" (first met at layer {origin.layer})" if origin.layer else ""),
        "target": ": the target holds NaN or Inf",
        "forward": f": {operation}{after} made it in the forward pass, from finite weights",
        "backward": f": the backward pass made it, first at layer {origin.layer}",
        "weights": ": the step before spoiled the weights, its backward pass gave NaN or Inf from a finite loss",
    }.get(origin.stage, "")


def _remedies(history: History, origin: NonFinite, diverged: bool) -> tuple[Remedy, ...]:
    norms, rates = history.series("gradient_norm")[1], history.table("learning_rate").values[-1:]
    usual = float(f"{np.median(norms[:8]):.2g}") if len(norms) and np.median(norms[:8]) < 1e3 else 1.0
    rate = float(rates.max()) if rates.size and np.isfinite(rates).all() else None
    stable = (remedies.scale_learning_rate(0.1, rate), remedies.clip_gradients(usual))
    if diverged:
        return stable
    if origin.stage in ("input", "target"):
        name = "x" if origin.stage == "input" else "y"
        return (
            Remedy(
                f"Clean the {'input' if name == 'x' else 'targets'}: drop or fill what is NaN or Inf",
                f"good = torch.isfinite({name}).flatten(1).all(1)\nx, y = x[good], y[good]\n"
                f"# or: {name} = torch.nan_to_num({name}, nan=0.0, posinf=0.0, neginf=0.0)",
                effect="no step is made from a batch that means nothing",
            ),
        )
    anomaly = Remedy(
        "Let autograd name the line that makes it",
        "with torch.autograd.detect_anomaly():\n    loss.backward()  # and compute the loss inside",
        "PyTorch documentation, torch.autograd.detect_anomaly",
    )
    if origin.operation in CURES:
        action, code = CURES[origin.operation]
        place = f"  # after layer {origin.layer}" if origin.layer else ""
        return Remedy(action, code + place, "Goodfellow et al. 2016, section 4.1", "every value stays finite"), anomaly
    if origin.stage in ("backward", "weights"):
        roots = Remedy(
            "Keep square roots, norms and divisions away from 0, where their slope is infinite",
            "torch.sqrt(x + 1e-8)  # in place of torch.sqrt(x); likewise x.norm() and x / y",
            effect="the gradient stays finite",
        )
        return roots, anomaly, *stable
    return *stable, anomaly


_FACTS = Facts(layers=(Layer("fc1", "linear"), Layer("fc2", "linear")))


def _history(losses: list[float], facts: Facts = _FACTS) -> History:
    history = History.of(facts, loss=losses)
    for step, loss in enumerate(losses, 1):
        if not np.isfinite(loss):
            history.record(step, "non_finite_loss", [1.0])
    return history


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history([2.3, 2.2, float("nan")]),
        _history([2.3, float("nan")], _FACTS.with_changes(non_finite=NonFinite(2, "input", "fc1"))),
        _history([2.3, 2.5, 9e9, float("inf")]),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        History.of(loss=[2.3, 2.2, 2.1]),  # healthy
        History.of(loss=[2.3, 2.2], non_finite_activation={"mask": [1.0, 1.0]}),  # a mask's -inf
        History.of(loss=[2.3, 2.2], non_finite_gradient={"fc1.weight": [1.0, 0.0]}),  # a gradient scaler's skipped step
        _history([2.3, float("inf"), 2.2]),  # one bad batch whose step was skipped: a note
    )
