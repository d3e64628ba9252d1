"""The examination before training: what one batch tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from netdoctor import arguments
from netdoctor.batches import inputs_of, loss_of, on_device
from netdoctor.copies import apart, at_rest, copy_training
from netdoctor.diagnose import diagnose
from netdoctor.findings import Diagnosis
from netdoctor.history import History
from netdoctor.monitor import Monitor
from netdoctor.probes.anatomy import watched_modules
from netdoctor.probes.holders import holds, holds_masters, other_holders, with_holders
from netdoctor.probes.mixing import sample_mixing
from netdoctor.probes.schedule import Schedule
from netdoctor.rules.base import Rule

# Rules whose patience is meant for a training that goes on; here one sample is all there will ever be.
TUNED: dict[str, dict[str, Any]] = {"weights-not-updated": {"samples": 1, "elsewhere": 1}}


def checkup(
    model: nn.Module,
    batch: Any,
    loss_fn: Any = None,
    optimizer: Optimizer | None = None,
    *,
    rules: Iterable[str | Rule] | None = None,
    ignore: Iterable[str] = (),
) -> Diagnosis:
    """Examine a training before its first step: structure, initialisation, gradients, inputs, loss.

    A copy of the model makes one step on the batch, watched as `watch` does; the rules that need more say so in
    `Diagnosis.skipped`. The model, its buffers, gradients and mode, the optimizer and all random numbers stay as they
    are, bit for bit.

    Args:
        model: The model, new or half-trained.
        batch: One batch as the training loop gets it: ``(inputs, target)`` or a dict.
        loss_fn: ``loss_fn(model(inputs), target)``, ``loss_fn(model, batch)`` where its first argument is called
            ``model``, or None for models that return their loss.
        optimizer: With it the first step is examined too, and whether all parameters are in it; LBFGS is not.
        rules: Rules to ask, or their slugs; default all.
        ignore: Slugs of rules not to ask.

    Raises:
        TypeError: ``model`` is no module, or the batch has no form that ``loss_fn`` takes.
        ValueError: The model cannot be copied, or a rule is unknown.
    """
    arguments.check_model(model)
    arguments.check_optimizer(optimizer)
    asked = tuple(_tuned(rule) for rule in arguments.chosen_rules(rules, ignore))
    foreign = optimizer is not None and not holds(optimizer, model)
    others = [] if optimizer is None else other_holders(optimizer, model)
    with apart(model):
        still = optimizer is None or foreign or isinstance(optimizer, LBFGS)  # which looks at many losses in a step
        copied, stepping, criterion = copy_training(model, None if still else optimizer, loss_fn)
        if not copied.training:
            copied.train()
        if still:
            stepping = at_rest(None if foreign else optimizer, model, copied)
        moved = on_device(batch, copied)
        history = examine(copied, stepping, lambda: loss_of(copied, moved, criterion), inputs_of(moved, criterion))
    if still:
        _forget_optimizer(history)
    history.facts = with_holders(history.facts, model, others)
    if optimizer is not None and foreign and not others and not holds_masters(optimizer, model):
        history.facts = history.facts.with_changes(unstepped=1, steps_elsewhere=1, optimizers_elsewhere=1)
    return diagnose(history, asked)


def examine(model: nn.Module, optimizer: Optimizer, loss: Callable[[], Tensor], inputs: Any) -> History:
    """What one training step on ``model`` shows, and whether the samples of ``inputs`` mix in it.

    Args:
        model: Is changed.
        optimizer: Makes the step.
        loss: Runs the model.
        inputs: What the model is called with: a tensor, a tuple or a dict; None where that is not known.
    """
    mixing = None if inputs is None else sample_mixing(model, inputs)
    monitor = Monitor(model, None, watched_modules(model), (), (), Schedule(1.0, 1))
    try:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        history = monitor.history
    finally:
        monitor.close()
    if mixing is not None:
        history.record(history.step, "sample_mixing", [mixing])
    return history


def _tuned(rule: Rule) -> Rule:
    return rule.tuned(**TUNED[rule.slug]) if rule.slug in TUNED and not rule.thresholds else rule


def _forget_optimizer(history: History) -> None:
    """The one that made the history is none to judge: it changed nothing."""
    facts = history.facts
    without = tuple(replace(parameter, group=None) for parameter in facts.parameters)
    history.facts = facts.with_changes(groups=(), parameters=without)
