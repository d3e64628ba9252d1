"""Weights that stay as they are: no step, a step of other parameters, or one that changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from netdoctor import remedies
from netdoctor.facts import Facts, Group, Parameter
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.progress import progress
from netdoctor.rules.base import rule


@rule(Severity.ERROR, explains=("loss-plateau", "not-learning"))
def weights_not_updated(
    history: History,
    *,
    elsewhere: int = 20,  # backward passes and steps of other optimizers (a GAN's first phase is shorter or detached)
    unstepped: int = 100,  # backward passes without any step (gradients are accumulated over 64 at most)
    idle: int = 60,  # steps with learning rate 0 (a warm-up from 0 takes up to 50)
    samples: int = 5,  # steps that change nothing before it counts
    resolution: float = 1e-6,  # step over weight that float32 still adds (its epsilon is 6e-8)
    patience: int = 100,  # steps without learning before what no optimizer holds is more than a note
    most: float = 0.5,  # share of the model that no optimizer holds, or that does not move
) -> Iterator[Evidence | Skipped]:
    """Gradients arrive, and the weights do not change.

    ## What it looks at
    Backward passes that reach the model before any optimizer with its parameters steps, while sampled weights stay the
    same; learning rates; which parameters the optimizers hold; and sampled weights before and after each step.

    ## Why it matters
    The program runs, the loss is printed, and nothing is learned.

    ## When it is wrong
    A model that only passes gradients on (a frozen critic, an attacked classifier) is not meant to change. Parameters
    left out of every optimizer are usually frozen that way on purpose: a note, as long as the model learns.

    ## References
    Jiang et al. 2025, TrainCheck (case accelerate-2665); Micikevicius et al. 2018, section 3.1, on fp16 updates.
    """
    facts = history.facts
    if facts.unstepped >= elsewhere:
        if facts.steps_elsewhere >= elsewhere - 1:
            yield _held_nowhere(facts)
        elif facts.unstepped >= unstepped:
            yield _never_stepped(facts)
        return
    if not len(history.table("learning_rate")):
        yield Skipped("no optimizer step of this model seen yet")
        return
    zero = _idle(history)
    if zero > idle:
        state = progress(history)
        learned = state is not None and state.learned
        yield Evidence(
            message=f"The learning rate of every param group has been 0 for {zero} steps",
            readings=(Reading("steps with learning rate 0", float(zero), float(idle), "steps", _span(history, zero)),),
            confidence=0.95,
            severity=Severity.NOTE if learned else None,
            remedies=(_rate(facts),),
        )
        return
    yield from _left_out(history, samples, most, patience)
    yield from _rounded_away(history, samples, resolution, most)


def _held_nowhere(facts: Facts) -> Evidence:
    return Evidence(
        message=f"{facts.unstepped} backward passes reached the model and optimizers stepped {facts.steps_elsewhere} "
        "times, but none of them holds any of its parameters: no weight has changed",
        readings=(Reading("steps of other optimizers", float(facts.steps_elsewhere), 0.0, "steps"),),
        confidence=0.9,
        remedies=(remedies.take_over(),),
    )


def _never_stepped(facts: Facts) -> Evidence:
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


def _idle(history: History) -> int:
    """Steps for which every learning rate has been 0, up to now."""
    table = history.table("learning_rate")
    if not len(table) or not np.isfinite(table.values[-1]).any() or np.nanmax(np.abs(table.values[-1])) > 0:
        return 0
    moving = np.flatnonzero((np.nan_to_num(table.values) != 0).any(1))
    start = table.steps[moving[-1] + 1] if len(moving) else table.steps[0]
    return int(history.step - start + 1)


def _span(history: History, steps: int) -> tuple[int, int]:
    return history.step - steps + 1, history.step


def _rate(facts: Facts) -> Remedy:
    kind = facts.groups[0].optimizer if facts.groups else "SGD"
    rate = 1e-3 if kind.startswith(remedies.ADAPTIVE) else 0.1
    return Remedy(
        f"Set the learning rate, {rate:g} to begin with, and look at the scheduler that made it 0",
        f'for group in optimizer.param_groups:\n    group["lr"] = group["initial_lr"] = {rate:g}',
        "Kingma & Ba 2015, section 2",
    )


def _left_out(history: History, samples: int, most: float, patience: int) -> Iterator[Evidence]:
    """Trainable parameters that get gradients and belong to no optimizer."""
    facts, table = history.facts, history.table("gradient_rms")
    outside = [p for p in facts.parameters if p.group is None and p.trainable]
    if not outside or len(table) < samples or not any(p.group is not None for p in facts.parameters):
        return
    alive = set(np.array(table.columns)[(table.values[-samples:] > 0).any(0)].tolist())
    outside = [p for p in outside if p.name in alive]
    if not outside:
        return
    share = sum(p.size for p in outside) / max(sum(p.size for p in facts.parameters if p.trainable), 1)
    state = progress(history) if share > most and history.step >= patience else None
    names = tuple(dict.fromkeys(p.layer for p in outside))
    yield Evidence(
        message=f"No optimizer holds {len(outside)} trainable parameters of {len(names)} layers, {share:.0%} of the "
        "model, though they get gradients",
        layers=names,
        readings=(Reading("share of the model outside every optimizer", share, most, "", (1, history.step)),),
        severity=Severity.WARNING if state is not None and state.stalled else Severity.NOTE,
        confidence=0.7,
        remedies=(
            remedies.add_missing_parameters([p.name for p in outside]),
            Remedy(
                "Or freeze them, if that is meant: their gradients cost time",
                "\n".join(f"model.get_parameter({p.name!r}).requires_grad_(False)" for p in outside[:20]),
            ),
        ),
    )


def _rounded_away(history: History, samples: int, resolution: float, most: float) -> Iterator[Evidence]:
    """Steps that the format of the weights rounds to nothing."""
    update, rates = history.table("update_rms"), history.table("learning_rate")
    facts, held = (
        history.facts,
        {p.name: p for p in history.facts.parameters if p.role == "weight" and p.group is not None},
    )
    if len(update) < samples or not held or not len(rates):
        return
    gradients, weights = history.latest("clipped_gradient_rms"), history.latest("weight_rms")
    still, judged = [], 0
    for index, name in enumerate(update.columns):
        parameter = held.get(name)
        if parameter is None or parameter.group is None or not gradients.get(name) or not weights.get(name):
            continue
        judged += 1
        rate = float(rates.values[-1, parameter.group]) if parameter.group < rates.values.shape[1] else 0.0
        adaptive = facts.groups[parameter.group].optimizer.startswith(remedies.ADAPTIVE) if facts.groups else False
        direction = gradients[name] / (gradients[name] + 1e-7) if adaptive else gradients[name]  # Adam's epsilon
        expected = rate * direction / weights[name]
        if expected > resolution and (update.values[-samples:, index] == 0).all():
            still.append((name, expected))
    if not still:
        return
    share, (name, expected) = len(still) / judged, max(still, key=lambda entry: entry[1])
    yield Evidence(
        message=f"{len(still)} of {judged} weights did not change in {samples} sampled steps, though gradient and "
        f"learning rate ask for {expected:.1g} of their size a step ({name}): too little for their number format",
        layers=tuple(held[name].layer for name, _ in still),
        readings=(Reading(f"update of {name}", 0.0, expected, "", (int(update.steps[-samples]), history.step)),),
        severity=Severity.WARNING if share >= most else Severity.NOTE,
        confidence=0.8,
        remedies=(
            Remedy(
                "Keep the weights in float32 and compute in half precision under autocast",
                "model.float()\ndevice = next(model.parameters()).device.type\n"
                "with torch.autocast(device, dtype=torch.bfloat16):\n"
                "    loss = loss_fn(model(x), y)",
                "Micikevicius et al. 2018, section 3.1",
                "small steps add up",
                treatment=lambda model, optimizer: model.float(),
            ),
        ),
    )


_FACTS = Facts(
    parameters=(Parameter("fc.weight", "fc", (4, 4), "weight", group=0),),
    groups=(Group("SGD", 0, 0.1),),
    optimizers_elsewhere=0,
)
FIRES: tuple[History, ...] = (
    History(Facts(unstepped=20, steps_elsewhere=20, optimizers_elsewhere=1)),
    History(Facts(unstepped=100)),
    History.of(_FACTS, steps=range(1, 100, 10), learning_rate={"0": [0.0] * 10}),
    History.of(
        _FACTS,
        learning_rate={"0": [0.1] * 5},
        update_rms={"fc.weight": [0.0] * 5},
        clipped_gradient_rms={"fc.weight": [1e-3] * 5},
        weight_rms={"fc.weight": [1.0] * 5},
    ),
)
QUIET: tuple[History, ...] = (
    History(Facts(unstepped=50)),  # accumulates gradients, or too early
    History.of(_FACTS, steps=range(1, 50, 10), learning_rate={"0": [0.0] * 5}),  # a warm-up from 0
    History.of(_FACTS, steps=range(1, 100, 10), learning_rate={"0": [0.1] * 10}, update_rms={"fc.weight": [1e-3] * 10}),
)
