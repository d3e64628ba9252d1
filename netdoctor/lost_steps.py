"""Steps that change no weight: none at all, of other parameters, at rate 0, without gradients, or rounded away."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from netdoctor import remedies
from netdoctor.facts import Facts
from netdoctor.findings import Evidence, Reading, Remedy, Severity
from netdoctor.history import History
from netdoctor.progress import progress

COARSEST = 2**-8  # of a number, what bfloat16 may lose in one addition; float16 2**-11, float32 2**-24


def held_nowhere(facts: Facts) -> Evidence:
    """Optimizers step, and hold parameters of another model."""
    return Evidence(
        message=f"{facts.unstepped} backward passes reached the model and optimizers stepped {facts.steps_elsewhere} "
        "times, but none of them holds any of its parameters: no weight has changed",
        readings=(Reading("steps of other optimizers", float(facts.steps_elsewhere), 0.0, "steps"),),
        confidence=0.9,
        remedies=(
            Remedy(
                "Build the optimizer from the model that is trained, after it was copied, converted or wrapped",
                "optimizer = type(optimizer)(model.parameters(), lr=optimizer.param_groups[0]['lr'])",
                "TrainCheck, case accelerate-2665",
                "the steps change this model",
                treatment=_take_over,
            ),
        ),
    )


def _take_over(model: object, optimizer: object) -> None:
    """Make ``optimizer`` hold the parameters of ``model`` in place of those that it holds."""
    settings = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}  # type: ignore[attr-defined]
    optimizer.param_groups.clear()  # type: ignore[attr-defined]
    optimizer.state.clear()  # type: ignore[attr-defined]
    optimizer.add_param_group({**settings, "params": list(model.parameters())})  # type: ignore[attr-defined]


def never_stepped(facts: Facts) -> Evidence:
    """No optimizer steps."""
    return Evidence(
        message=f"{facts.unstepped} backward passes reached the model and no optimizer made a step: no weight has "
        "changed",
        readings=(Reading("backward passes without a step", float(facts.unstepped), 0.0),),
        confidence=0.85,
        remedies=(
            Remedy(
                "Call optimizer.step() after backward()", "loss.backward()\noptimizer.step()\noptimizer.zero_grad()"
            ),
        ),
    )


def idle(history: History, most: int, ended: float, agreeing: float, left: float) -> Evidence | None:
    """All learning rates have been 0 for more than so many steps.

    A note where the model has learned: the training is over. A warning where it was over before its half, with loss
    left, and gradients that agree on how to lower it: a schedule in epochs that was stepped once a batch.
    """
    zero = _idle_steps(history)
    if zero <= most:
        return None
    state = progress(history)
    learned = state is not None and state.learned
    since = history.step - zero + 1
    steps, cosines = history.series("cosine")
    cosine = float(np.mean(cosines[steps > since])) if (steps > since).any() else 0.0
    early = since > 1 and zero > ended * history.step and cosine > agreeing
    early = early and state is not None and state.recent > left * state.reference > 0
    after = f", after {since - 1} steps at more" if early else ""
    readings = [Reading("steps with learning rate 0", float(zero), float(most), "steps", (since, history.step))]
    if early:
        readings.append(Reading("cosine of successive gradients", cosine, agreeing, "", (since, history.step)))
    return Evidence(
        message=f"The learning rate of every param group has been 0 for {zero} steps{after}"
        + (f"; the gradients still agree on how to lower the loss (cosine {cosine:+.2f})" if early else ""),
        readings=tuple(readings),
        confidence=0.95,
        severity=Severity.NOTE if learned and not early else Severity.WARNING if learned else None,
        remedies=(*((remedies.step_once_an_epoch(),) if early else ()), _rate(history.facts)),
    )


def _idle_steps(history: History) -> int:
    """Steps for which every learning rate has been 0, up to now."""
    table = history.table("learning_rate")
    if not len(table) or not np.isfinite(table.values[-1]).any() or np.nanmax(np.abs(table.values[-1])) > 0:
        return 0
    moving = np.flatnonzero((np.nan_to_num(table.values) != 0).any(1))
    start = table.steps[moving[-1] + 1] if len(moving) else table.steps[0]
    return int(history.step - start + 1)


def _rate(facts: Facts) -> Remedy:
    kind = facts.groups[0].optimizer if facts.groups else "SGD"
    rate = 1e-3 if kind.startswith(remedies.ADAPTIVE) else 0.1
    return Remedy(
        f"Set the learning rate, {rate:g} to begin with, and look at the scheduler that made it 0",
        f'for group in optimizer.param_groups:\n    group["lr"] = group["initial_lr"] = {rate:g}',
        "Kingma & Ba 2015, section 2",
    )


def cleared(history: History, samples: int) -> Evidence | None:
    """Gradients that arrive and are gone when the optimizer steps."""
    statistics = ("gradient_rms", "clipped_gradient_rms", "gradient_missing", "update_rms")
    tables = [history.table(name) for name in statistics]
    if min(map(len, tables)) < samples or not (tables[-1].values[-1] == 0).any():
        return None
    held = [p.name for p in history.facts.parameters if p.group is not None and p.trainable]
    held = [name for name in held if all(name in table.place for table in tables)]
    if not held:
        return None
    arrived, used, missing, update = (table.values[-samples:, [table.place[name] for name in held]] for table in tables)
    gone = ((missing == 1) | (used == 0)).all() and (update == 0).all()
    if not gone or not (arrived > 0).any(1).all():
        return None
    return Evidence(
        message=f"Gradients arrive, but are gone when the optimizer steps, in each of the last {samples} samples: no "
        "weight has changed",
        readings=(
            Reading("gradient after backward()", float(np.nanmedian(arrived)), None, "loss/w"),
            Reading("gradients left for the step", 0.0, float(len(held))),
        ),
        confidence=0.95,
        remedies=(
            Remedy(
                "Clear gradients before backward() or after step(), never between the two",
                "optimizer.zero_grad()\nloss.backward()\noptimizer.step()",
                "PyTorch documentation, torch.optim.Optimizer.zero_grad",
                "the weights change",
            ),
        ),
    )


def rounded_away(history: History, samples: int, resolution: float, most: float) -> Iterator[Evidence]:
    """Steps that change nothing: the format of the weights rounds them away, or the optimizer writes elsewhere."""
    update, rates = history.table("update_rms"), history.table("learning_rate")
    facts = history.facts
    held = {p.name: p for p in facts.parameters if p.role == "weight" and p.group is not None}
    if len(update) < samples or not held or not len(rates) or not (update.values[-1] == 0).any():
        return
    gradients, weights = history.latest("clipped_gradient_rms"), history.latest("weight_rms")
    still, judged = [], 0
    for index, name in enumerate(update.columns):
        parameter = held.get(name)
        if parameter is None or parameter.group is None or not gradients.get(name) or not weights.get(name):
            continue
        rate = float(rates.values[-1, parameter.group]) if parameter.group < rates.values.shape[1] else 0.0
        kind = facts.groups[parameter.group].optimizer if facts.groups else ""
        if kind == "LBFGS":  # finds the length of its steps by itself, 0 at a minimum
            continue
        judged += 1
        adaptive = kind.startswith(remedies.ADAPTIVE)
        direction = gradients[name] / (gradients[name] + 1e-7) if adaptive else gradients[name]  # Adam's epsilon
        expected = rate * direction / weights[name]
        if expected > resolution and (update.values[-samples:, index] == 0).all():
            still.append((name, expected))
    if not still:
        return
    share, (name, expected) = len(still) / judged, max(still, key=lambda entry: entry[1])
    rounded = expected < COARSEST
    why = "too little for their number format" if rounded else "the optimizer's step() does not write into them"
    yield Evidence(
        message=f"{len(still)} of {judged} weights did not change in {samples} sampled steps, though gradient and "
        f"learning rate ask for {expected:.1g} of their size a step ({name}): {why}",
        layers=tuple(held[name].layer for name, _ in still),
        readings=(Reading(f"update of {name}", 0.0, expected, "", (int(update.steps[-samples]), history.step)),),
        severity=Severity.WARNING if share >= most else Severity.NOTE,
        confidence=0.8,
        remedies=(remedies.weights_in_float32("bfloat16") if rounded else _in_place(),),
    )


def _in_place() -> Remedy:
    return Remedy(
        "Let step() change the parameters in place: p = p - … binds the name to another tensor",
        "with torch.no_grad():\n"
        "    for group in self.param_groups:\n"
        '        for p in group["params"]:\n'
        '            p.add_(p.grad, alpha=-group["lr"])',
        "PyTorch documentation, torch.optim.Optimizer.step; torch.optim.SGD",
        "the weights of the model are those that the optimizer changes",
    )
