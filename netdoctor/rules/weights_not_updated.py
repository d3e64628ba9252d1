"""Weights that stay as they are: no step, a step of other parameters, or one that changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from netdoctor import left_out, lost_steps
from netdoctor.facts import Facts, Group, Layer, Loss, Parameter
from netdoctor.findings import Evidence, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules.base import rule


@rule(Severity.ERROR, explains=("underfitting", "loss-plateau", "not-learning"))
def weights_not_updated(
    history: History,
    *,
    elsewhere: int = 20,  # backward passes and steps of other optimizers (a GAN's first phase is shorter or detached)
    unstepped: int = 100,  # backward passes without any step (gradients are accumulated over 64 at most)
    idle: int = 60,  # steps with learning rate 0 (a warm-up from 0 takes up to 50)
    ended: float = 0.5,  # share of the run at learning rate 0: a schedule made for the run ends with less of it
    agreeing: float = 0.1,  # cosine of successive gradients: above, they still lead somewhere
    left: float = 0.1,  # of the constant prediction's loss: below, the run has converged
    samples: int = 5,  # steps that change nothing before it counts
    resolution: float = 1e-6,  # step over weight that float32 still adds (its epsilon is 6e-8)
    patience: int = 100,  # steps without learning before what no optimizer holds is more than a note
    most: float = 0.5,  # share of the model that no optimizer holds, or that does not move
    crawl: float = 1e-3,  # of a layer's weights that the whole run moved at most, and
    beside: float = 300.0,  # times less than the others: 2.6 a layer is usual (Howard & Ruder 2018, section 3.2)
) -> Iterator[Evidence | Skipped]:
    """Gradients arrive, and the weights do not change.

    ## What it looks at
    Backward passes that reach the model before any optimizer with its parameters steps, while sampled weights stay the
    same; learning rates; gradients that are gone when the optimizer steps; which parameters the optimizers hold, and
    whether those that they do not hold, or that are frozen, have still the random weights that torch gave them;
    parameters between the layers that the model does not know of; and sampled weights before and after each step.

    ## Why it matters
    The program runs, the loss is printed, and nothing is learned.

    ## When it is wrong
    A model that only passes gradients on (a frozen critic, an attacked classifier) is not meant to change. Trained
    parameters left out of every optimizer are usually frozen that way on purpose: a note, as long as the model learns
    and nobody has thawed them meanwhile. A learning rate of 0 is one too, once the model has learned what it can.
    Random features on purpose are reported where the output layer is among them, else they are a note.

    ## References
    Jiang et al. 2025, TrainCheck (case accelerate-2665); Micikevicius et al. 2018, section 3.1, on fp16 updates.
    """
    facts = history.facts
    if facts.unstepped >= elsewhere:
        if facts.steps_elsewhere >= elsewhere - 1:
            yield lost_steps.held_nowhere(facts)
        elif facts.unstepped >= unstepped:
            yield lost_steps.never_stepped(facts)
        return
    if not len(history.table("learning_rate")):
        yield Skipped("no optimizer step of this model seen yet")
        return
    nothing = lost_steps.idle(history, idle, ended, agreeing, left) or lost_steps.cleared(history, samples)
    if nothing is not None:
        yield nothing
        return
    yield from left_out.strangers(facts, history.step, elsewhere)
    yield from left_out.forgotten(history, elsewhere, most, patience)
    yield from left_out.frozen(history, samples, most)
    yield from left_out.crawling(history, elsewhere, crawl, beside)
    yield from lost_steps.rounded_away(history, samples, resolution, most)


_FACTS = Facts(
    parameters=(Parameter("fc.weight", "fc", (4, 4), "weight", group=0),),
    groups=(Group("SGD", 0, 0.1),),
    optimizers_elsewhere=0,
)


def _parts(std: float, left: bool = False, frozen: bool = False, slow: float = 1.0) -> History:
    """Three layers with weights of that deviation; the last two left out, frozen, or at ``slow`` times the rate."""
    names = ("encoder", "neck", "head")
    held = {"encoder": 0, "neck": 1, "head": 1} if slow < 1 else dict.fromkeys(names, 0)
    parameters = tuple(
        Parameter(
            f"{name}.weight",
            name,
            (16, 16),
            "weight",
            trainable=name == "encoder" or not frozen,
            group=held[name] if name == "encoder" or not (left or frozen) else None,
        )
        for name in names
    )
    layers = tuple(Layer(name, "linear", "Linear", called=True) for name in names)
    facts = Facts(layers=layers, parameters=parameters, loss=Loss(layer="head"), groups=(Group("SGD", 0, 0.1),) * 2)
    every = {p.name: [1e-3] * 30 for p in parameters if p.trainable}
    return History.of(
        facts,
        learning_rate={"0": [0.1] * 30, "1": [0.1 * slow] * 30},
        gradient_rms=every,
        weight_rms={p.name: [std] * 30 for p in parameters},
        weight_std={p.name: [std] * 30 for p in parameters},
        update_ratio={name: [1e-3 * (1 if name.startswith("encoder") else slow)] * 30 for name in every},
    )


_CLEARED = History.of(
    _FACTS,
    learning_rate={"0": [0.1] * 5},
    gradient_rms={"fc.weight": [0.1] * 5},
    clipped_gradient_rms={"fc.weight": [np.nan] * 5},
    gradient_missing={"fc.weight": [1.0] * 5},
    update_rms={"fc.weight": [0.0] * 5},
)


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _CLEARED,
        _parts(0.1443, left=True),  # std of torch's own initialisation, 1/sqrt(3 * 16)
        _parts(0.1443, frozen=True),
        _parts(0.1443, slow=1e-5),
        History.of(_FACTS.with_changes(strangers=4), learning_rate={"0": [0.1] * 30}),
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


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _parts(0.4, left=True),  # trained weights that are kept: a note
        _parts(0.4, frozen=True),
        _parts(0.4, slow=1e-5),
        _parts(0.1443, slow=1e-2),  # a smaller rate
        History(Facts(unstepped=50)),  # accumulates gradients, or too early
        History.of(_FACTS, steps=range(1, 50, 10), learning_rate={"0": [0.0] * 5}),  # a warm-up from 0
        History.of(
            _FACTS, steps=range(1, 100, 10), learning_rate={"0": [0.1] * 10}, update_rms={"fc.weight": [1e-3] * 10}
        ),
    )
