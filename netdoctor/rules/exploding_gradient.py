"""Gradients that grow over the layers or over time, or dwarf the weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from netdoctor import remedies
from netdoctor.depth import profile
from netdoctor.derived import of_facts
from netdoctor.facts import WEIGHTED, Facts, Layer, Parameter, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.gains import highest_rates, momentum
from netdoctor.history import History
from netdoctor.measured_remedies import standardise_targets
from netdoctor.progress import progress
from netdoctor.rules.base import rule


@rule(Severity.WARNING, explains=("non-finite", "covariate-shift", "underfitting", "loss-plateau", "not-learning"))
def exploding_gradient(
    history: History,
    *,
    growth: float = 100.0,  # × the median of the first 8 norms; measured: healthy runs reach 43 (deep CNN)
    update: float = 1.0,  # step over weight norm; measured: healthy ≤ 0.2, zero-initialised branches included
    loss_growth: float = 10.0,  # × the first losses: what tells an explosion from large but harmless gradients
    depth_severe: float = 1e3,  # gradient at the first over the last outputs; measured: healthy ≤ 55
    depth_ratio: float = 100.0,  # the same, where nothing is learned (AutoTrainer 70, torchmortem 100)
    gradual: float = 0.25,  # power of that at the median layer: 0.5 if all multiply alike; branches from zero on: 0
    clipping: float = 100.0,  # × by which clipping cuts every gradient
    echo: float = 1.5,  # rms times root of the size of a recurrent weight: orthogonal ones have 1, torch's default 0.6
    leverage: float = 50.0,  # ‖g‖·‖w‖ over the loss: 1 % of the weights is half of the loss; healthy: 40, identity 150
    patience: int = 50,  # steps without learning before ``depth_ratio`` counts
) -> Iterator[Evidence | Skipped]:
    """Gradients grow by orders of magnitude over the layers or over time, or make steps larger than the weights.

    ## What it looks at
    The norm of all gradients before clipping against its median over the first 8 samples, the size of the steps against
    the weights, both only where the loss rises with them; the loss's gradient at the first layers' outputs against
    the last layers'; and recurrent weights that are larger than an orthogonal matrix, where the loss hangs on them many
    times over. Where clipping cuts growth off, the rule is quiet.

    ## Why it matters
    One such step throws the weights to where no gradient leads back, or to NaN.

    ## When it is wrong
    Gradients of a sum over the batch, or of targets in raw units, are large and train well: they are judged by their
    growth only. Curricula and changes of the loss may raise gradients 100 times for good.

    ## References
    Pascanu et al. 2013; Philipp et al. 2017; Zhang et al. 2021, AutoTrainer (first/last > 70). Saxe et al. 2014 and
    Sompolinsky et al. 1988 (recurrent weights).
    """
    norms = history.series("gradient_norm")[1]
    if len(norms) < 1:
        yield Skipped("no gradient norm was measured")
        return
    losses = history.series("loss")[1]
    lost = bool(len(history.table("non_finite_loss"))) and not np.isfinite(_last(history, "loss"))
    start = float(abs(losses[0])) if len(losses) else 0.0
    risen = lost or (len(losses) > 2 and float(losses[-3:].max()) > loss_growth * start)
    cut = _cut(history)
    if risen and not (cut is not None and np.median(cut) > 2):
        yield from _blown_up(history, norms, growth, update, loss_growth, lost)
        return
    through_time = _through_time(history, echo, leverage)
    if through_time is not None:
        yield through_time
        return
    depth = profile(history)
    ratio = depth.output_ratio if depth is not None else np.zeros(1)
    first = float(
        np.max(ratio[: max(1, len(ratio) // 4)], where=np.isfinite(ratio[: max(1, len(ratio) // 4)]), initial=0)
    )
    if first > depth_ratio and float(np.nanmedian(ratio)) < first**gradual:
        depth = None  # a jump at one layer is no growth over them
    always = cut is not None and len(cut) >= 8 and float(cut.min()) > clipping
    if not ((depth is not None and first > depth_ratio) or always):
        return
    state = progress(history)
    if state is not None and state.learned:
        return
    stalled = state is not None and state.stalled and history.step >= patience
    if depth is not None and (first > depth_severe or (first > depth_ratio and stalled)):
        factor = first ** (1 / (len(ratio) - 1))
        yield Evidence(
            message=f"Gradients grow {factor:.2g}× per layer on their way back: at {spoken(depth.layers[0])} they are "
            f"{first:.2g} times those of the last layers (healthy: up to 50)",
            layers=depth.layers[: int(np.argmax(~(ratio > depth_ratio))) or len(ratio)],
            readings=(Reading("gradient at the first over the last outputs", first, depth_ratio, "", depth.steps),),
            confidence=0.9 if first > depth_severe else 0.75,
            remedies=(
                *_initialisation(history),
                remedies.from_the_start(remedies.clip_gradients(_bounding_norm(history) or 1.0)),
                remedies.normalise(history.facts, depth.layers[:-1]),
            ),
        )
    elif always and stalled and cut is not None:
        yield _clipped(norms, cut, clipping)


def _blown_up(
    history: History, norms: NDArray[np.float32], growth: float, update: float, loss_growth: float, lost: bool
) -> Iterator[Evidence]:
    """Growth over time, or steps that dwarf the weights, of a run whose loss went up."""
    steps, losses = history.series("gradient_norm")[0], history.series("loss")[1]
    usual = float(np.median(norms[:8][: max(1, len(norms) // 2)]))
    peak = float(norms[-8:].max())
    roles = {parameter.name: parameter for parameter in history.facts.parameters if parameter.role == "weight"}
    table, started = history.table("update_ratio"), history.first("weight_rms")
    places = [i for i, name in enumerate(table.columns) if name in roles and started.get(name, 1.0) > 0]
    rows = table.values[:, places]
    rows = rows[np.isfinite(rows).any(1)][-8:]  # those before everything was NaN
    largest = np.where(np.isfinite(rows), rows, 0).max(0, initial=0)
    worst = float(largest.max(initial=0))
    if not (peak > growth * usual or worst > update):
        return
    span = (int(steps[0]), int(steps[-1]))
    end = "is NaN or Inf" if lost else f"rose from {losses[0]:.3g} to {losses[-3:].max():.3g}"
    grew = peak > growth * usual
    grown = f"grew from {usual:.3g} to {peak:.3g}" if grew else f"have a norm of {peak:.3g}"
    dwarf = f", steps reached {worst:.2g} times the weights" if worst > update else ""
    early = np.where(np.isfinite(rows), rows, 0)[:3].max(1, initial=0)
    factor = min(max(0.01 / max(float(np.median(early)) if len(early) else 1.0, 1e-9), 1e-4), 0.1)
    rates = highest_rates(history)
    rate = float(rates[-1]) if len(rates) else None
    lower = remedies.scale_learning_rate(float(f"{factor:.1g}"), rate)
    norm = _bounding_norm(history)
    if norm is None:  # clipping bounds no step of an adaptive optimizer
        cures: tuple[Remedy, ...] = (lower, remedies.clip_gradients(float(f"{usual:.2g}") if grew else 1.0))
    else:
        clip = remedies.clip_gradients(norm)
        held = remedies.both(remedies.clip_gradients(10 * norm), remedies.scale_learning_rate(0.1, rate))
        cures = (held, clip, *_rescale(history, clip), lower)
    first = standardise_targets(history) if scaled_target(history) else _initialisation(history)
    names = [table.columns[places[i]] for i in np.argsort(-largest) if largest[i] > update]
    names.sort(
        key=lambda name: roles[name].layer == _output(history.facts)
    )  # its gradient is as large as what comes in
    names = names[:5]
    yield Evidence(
        message=f"Gradients {grown}{dwarf}, and the loss {end}",
        layers=tuple(dict.fromkeys(roles[name].layer for name in names)),
        readings=(
            Reading("gradient norm", peak, growth * usual, "loss/w", span),
            Reading("largest step over weight norm", worst, update, "", span),
        ),
        confidence=0.9,
        remedies=(*first, *map(remedies.from_the_start, cures)),
    )


def _output(facts: Facts) -> str:
    """Name of the last executed layer with weights."""
    return next((layer.name for layer in reversed(facts.layers) if layer.kind in WEIGHTED and layer.called), "")


def _through_time(history: History, echo: float, leverage: float) -> Evidence | None:
    """Recurrent weights that multiply the state at each step by more than 1, and gradients that show it."""
    held = _recurrent_weights(history.facts)
    if not held:
        return None
    state = progress(history)
    gradients, weights, (steps, losses) = (
        history.table("gradient_rms"),
        history.table("weight_rms"),
        history.series("loss"),
    )
    if len(gradients) < 3 or len(weights) < 3 or len(losses) < 3 or (state is not None and state.learned):
        return None
    for parameter in held:
        name = parameter.name
        if name not in gradients.columns:
            continue
        rms = weights.values[:8, weights.place[name]].astype(float)
        pulled = gradients.values[:8, gradients.place[name]].astype(float)
        rows = np.minimum(np.searchsorted(steps, gradients.steps[:8]), len(losses) - 1)
        gain = float(rms[0]) * parameter.shape[-1] ** 0.5
        lever = float(np.median(rms * pulled * parameter.size / np.maximum(np.abs(losses[rows]), 1e-30)))
        if gain > echo and lever > leverage:
            return Evidence(
                message=f"The recurrent weights of {spoken(parameter.layer)} multiply its state by about {gain:.2g} at "
                f"each time step, and the gradients on their way back: 1 % of {name} changes the loss by {lever:.0f} %",
                layers=(parameter.layer,),
                readings=(
                    Reading("rms of the recurrent weights times the root of their size", gain, echo, "", (1, 1)),
                    Reading("gradient norm times weight norm over the loss", lever, leverage, "", (1, int(steps[-1]))),
                ),
                confidence=0.85,
                remedies=(
                    remedies.orthogonal_recurrence(history.facts.layer(parameter.layer)),
                    remedies.clip_gradients(1.0),
                ),
            )
    return None


@of_facts
def _recurrent_weights(facts: Facts) -> list[Parameter]:
    kinds = {layer.name: layer.kind for layer in facts.layers}
    return [p for p in facts.parameters if kinds.get(p.layer) == "recurrent" and "weight_hh" in p.name]


def scaled_target(history: History, bound: float = 10.0) -> bool:
    """Whether a regression's targets are in raw units: at the start, for those that a model makes grow with it."""
    return history.first("target_rms").get("", 0.0) > bound


def _clipped(norms: NDArray[np.float32], cut: NDArray[np.float64], bound: float) -> Evidence:
    factor, usual = float(np.median(cut)), float(np.median(norms[-8:]))
    return Evidence(
        message=f"Clipping cuts every gradient {factor:.0f}×, from a norm of {usual:.3g}: it sets the step, and the "
        "model does not learn",
        readings=(Reading("gradient norm before over after clipping", factor, bound),),
        confidence=0.6,
        remedies=(remedies.clip_gradients(float(f"{usual:.2g}")),),
    )


def _cut(history: History) -> NDArray[np.float64] | None:
    """By how much clipping cut the last 8 gradients."""
    before, after = history.table("gradient_norm"), history.table("clipped_gradient_norm")
    if not len(before) or len(before) != len(after):
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (before.values[-8:, 0] / after.values[-8:, 0]).astype(float)
    ratio = ratio[np.isfinite(ratio)]
    return ratio if len(ratio) else None


def _last(history: History, statistic: str) -> float:
    table = history.table(statistic)
    return float(table.values[-1].max()) if len(table) else float("nan")


def _initialisation(history: History) -> tuple[Remedy, ...]:
    """Re-initialise where the weights are larger than what keeps the variance."""
    facts, stds = history.facts, history.first("weight_std")
    large = [
        layer.name
        for layer in facts.layers
        if layer.kind in ("linear", "conv")
        and (weight := facts.weight(layer.name)) is not None
        and stds.get(weight.name, 0.0) > 1.5 * remedies.ideal_std(layer)
    ]
    return (remedies.initialise(facts, large),) if large else ()


def _rescale(history: History, clip: Remedy, ill: float = 5.0) -> tuple[Remedy, ...]:
    """Fit the weights to the data where the first loss was ``ill`` times that of an output that knows nothing."""
    uninformed, start = history.first("uninformed_loss").get("", np.inf), history.first("loss").get("", 0.0)
    layers = [each.name for each in history.facts.layers if each.called and each.kind in ("linear", "conv")]
    if not layers or start <= ill * abs(uninformed):
        return ()
    return (remedies.both(remedies.rescale_by_data(layers), clip),)


def _bounding_norm(history: History, share: float = 0.01) -> float | None:
    """Gradient norm of which the optimizer makes a step of ``share`` of the weights; None where it rescales them.

    By default 1 % of the weights, what learning rates are chosen for, and momentum adds up the steps.
    """
    facts, started = history.facts, history.first("weight_rms")
    rates = highest_rates(history)
    squares = sum(p.size * started.get(p.name, 0.0) ** 2 for p in facts.parameters if p.role == "weight")
    adaptive = any(group.optimizer.startswith(remedies.ADAPTIVE) for group in facts.groups)
    if adaptive or not facts.groups or not len(rates) or not rates[-1] > 0 or not squares > 0:
        return None
    return float(f"{share * squares**0.5 * (1 - min(momentum(facts), 0.99)) / rates[-1]:.2g}")


def _history(norms: list[float], loss: list[float], outputs: dict[str, float] | None = None) -> History:
    names = tuple(outputs or {"fc1": 1.0, "fc2": 1.0, "fc3": 1.0})
    facts = Facts(
        layers=tuple(Layer(name, "linear", "Linear", "", 64, 64, 64, "relu") for name in names),
        parameters=tuple(Parameter(f"{name}.weight", name, (64, 64), "weight") for name in names),
    )
    count = len(loss)
    return History.of(
        facts,
        gradient_norm=norms,
        loss=loss,
        gradient_rms={f"{name}.weight": [1.0] * count for name in names},
        activation_gradient_rms={
            name: [value] * count for name, value in (outputs or dict.fromkeys(names, 1.0)).items()
        },
    )


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history([1.0, 1.1, 1.0, 50.0, 900.0], [2.0, 2.0, 2.1, 30.0, 4e3]),
        _history([5.0] * 12, [9e3] * 12, {"fc1": 1e5, "fc2": 1e3, "fc3": 10.0, "fc4": 1.0}),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history([1.0] * 12, [2.3 - 0.1 * i for i in range(12)]),  # healthy
        _history([450.0] * 12, [2e4 * 0.8**i for i in range(12)]),  # raw targets that train
        _history([1.0] * 8 + [150.0] * 4, [2.3 - 0.1 * i for i in range(12)]),  # grows, and learns
        _history(
            [5.0] * 12, [9e3] * 12, {"stem": 1e5, "fc1": 2.0, "fc2": 1.0, "fc3": 1.0, "fc4": 1.0}
        ),  # branches at 0
        _history([1.0], [2.3]),  # too early
    )
