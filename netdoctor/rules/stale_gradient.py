"""Gradients of earlier steps that are still in the buffers: `zero_grad` is missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from netdoctor.facts import Facts, Group, Loss, Parameter
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules.base import rule

CAUSED = (
    "diverging-loss",
    "loss-spike",
    "learning-rate-too-large",
    "exploding-gradient",
    "non-finite",
    "vanishing-gradient",
    "saturated-units",
    "dead-units",
    "covariate-shift",
    "noisy-gradient",
    "oscillating-loss",
    "loss-plateau",
    "not-learning",
)


@rule(Severity.ERROR, explains=CAUSED)
def stale_gradient(
    history: History,
    *,
    samples: int = 3,  # sampled steps in a row that found them: who clears every other step does so between two
) -> Iterator[Evidence | Skipped]:
    """The gradients of each step are added to those of all steps before, for nothing clears them in between.

    ## What it looks at
    What is left in the ``.grad`` of the optimizer's first parameters when a backward pass begins, though the optimizer
    has used it: the least over the passes between two of its steps, so that one pass that finds them empty is enough.
    Programs that accumulate gradients, or clear them for each of several optimizers, have such a pass.

    ## Why it matters
    Steps follow gradients that belong to weights of long ago, as with a momentum of 1: the loss turns round, swings and
    rises.

    ## When it is wrong
    Gradients that are kept on purpose, scaled down in place as a momentum of one's own.

    ## References
    PyTorch tutorial "Zeroing out gradients in PyTorch"; Jiang et al. 2025, TrainCheck (case SO-60335387).
    """
    table = history.table("leftover_gradient")
    if len(table) < samples:
        yield Skipped(f"fewer than {samples} samples of what is left of the gradients")
        return
    for column, name in enumerate(table.columns):
        seen = np.flatnonzero(np.isfinite(table.values[:, column]))[-samples:]
        left = table.values[seen, column]
        if len(seen) < samples or not (left > 0).all():
            continue
        steps = (int(table.steps[seen[0]]), int(table.steps[seen[-1]]))
        facts, group = history.facts, int(name)
        several = facts.several_losses or facts.optimizers_elsewhere > 0
        alone = not several and sum(each.index == 0 for each in facts.groups) < 2
        kind = facts.groups[group].optimizer if group < len(facts.groups) else "the optimizer"
        used = history.series("clipped_gradient_norm")[1]
        grown = f"; the norm of all has grown from {used[0]:.3g} to {used[-1]:.3g}" if len(used) > 1 else ""
        yield Evidence(
            f"Each backward pass finds the gradients that {kind} has used already, up to {left[-1]:.3g}, and adds its "
            f"own to them: nothing clears them between steps {steps[0]} and {steps[1]}{grown}.",
            readings=(Reading("largest gradient left at the next backward pass", float(left[-1]), 0.0, "", steps),),
            confidence=0.95,
            remedies=(_clear(alone),),
        )
        return


def _clear(alone: bool) -> Remedy:
    several = "" if alone else "  # that of the parameters whose gradients this pass is for, before this pass"
    return Remedy(
        action="Clear the gradients before each backward pass"
        + ("" if alone else ": each optimizer's own, right before the pass whose gradients it uses"),
        code=f"optimizer.zero_grad(){several}\nloss.backward()\noptimizer.step()",
        source="PyTorch documentation, torch.optim.Optimizer.zero_grad",
        effect="each step follows the gradient of its own batch; start again with fresh weights",
        treatment=_clear_after_steps if alone else None,
    )


def _clear_after_steps(model: Any, optimizer: Any) -> Any:
    """Clear them now and after each step; returns the handle that ends it."""
    if optimizer is None:
        raise ValueError("this remedy clears gradients after each step: pass the optimizer")
    model.zero_grad()
    return optimizer.register_step_post_hook(_zero)


def _zero(optimizer: Any, args: Any, kwargs: Any) -> None:
    optimizer.zero_grad()


def _history(left: list[float], columns: int = 1) -> History:
    facts = Facts(
        parameters=(Parameter("fc.weight", "fc", (64, 64), "weight", group=0),),
        groups=(Group("SGD", 0, 0.1),),
        loss=Loss("cross-entropy"),
    )
    return History.of(
        facts,
        loss=[2.3] * len(left),
        leftover_gradient={str(column): left for column in range(columns)},
        clipped_gradient_norm=[1.0 + n for n in range(len(left))],
    )


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history([0.1, 0.2, 0.3, 0.4]),
        _history([0.0] * 5 + [0.2, 0.1, 0.3]),  # from some step on
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history([0.0] * 10),  # healthy
        _history([0.1, 0.0] * 6),  # accumulated over two steps
        _history([0.2, 0.2, 0.2, 0.0]),  # over by now
        _history([0.1, 0.2]),  # too early
    )
