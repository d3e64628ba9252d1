"""Turns what the probes see of one model's training into its history."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from threading import get_ident
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from netdoctor.best_checkpoint import BestCheckpoint
from netdoctor.facts import Facts, Parameter
from netdoctor.history import History
from netdoctor.layer_graph import LayerGraph
from netdoctor.loss_path import loss_path
from netdoctor.nodes import Node
from netdoctor.probes import entries, gates, losses, norms, optimizers, residuals, unseen
from netdoctor.probes.activations import ActivationProbe
from netdoctor.probes.anatomy import describe_layers, describe_parameters
from netdoctor.probes.curves import TrainingLosses, ValidationLosses
from netdoctor.probes.dropping import Droppings
from netdoctor.probes.leftovers import Leftovers
from netdoctor.probes.loss_scale import LossScale
from netdoctor.probes.mode import Mode
from netdoctor.probes.origin import Origins
from netdoctor.probes.outside import uncompiled
from netdoctor.probes.parameters import ParameterProbe
from netdoctor.probes.planes import PLANES
from netdoctor.probes.readings import Readings, Sample
from netdoctor.probes.repeats import Repeats
from netdoctor.probes.rest import Rest
from netdoctor.probes.scalars import Scalars
from netdoctor.probes.schedule import Schedule
from netdoctor.probes.sharding import splits
from netdoctor.probes.stray import StrayPasses
from netdoctor.probes.thorough import Pacing
from netdoctor.probes.together import Together

KEPT = 256  # losses kept before they are moved into the history
SAMPLES = 32  # samples kept before they are decoded: below 10 MB with 200 layers
REST = 20  # steps between two samples from which it pays to take the hooks off
IDLE = 50  # steps without one of several optimizers, after which it is not waited for
TARGETS = 64  # batches that tell the best constant prediction, and after them the thorough samples
BURSTS = 8  # steps sampled and judged out of turn after a NaN or Inf loss, or one that jumps


class Recorder:
    """Listens to the forward passes, backward passes and optimizer steps of one model.

    Args:
        model: The model; only a weak reference is kept.
        modules: The modules to hook, by name.
        schedule: Decides which steps are sampled.
        step_ended: Called after each sampled step; its cost is accounted for by the caller.
        fail: Called once with the name of a part that failed and its exception; that part stops.

    Attributes:
        history: The numbers.
        step: Optimizer steps seen so far.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        modules: dict[str, nn.Module],
        schedule: Schedule,
        step_ended: Callable[[], None],
        fail: Callable[[str, Exception], None],
    ) -> None:
        layers = describe_layers(modules)
        self.history = History(Facts(type(model).__name__, layers))
        self.step = 0
        self._model = weakref.ref(model)
        self._schedule = schedule
        self._step_ended = step_ended
        self._report_failure = fail
        self._at_once = 1 if schedule.sampling.every is None else PLANES  # steps whose samples are reduced at once
        self._activations = ActivationProbe(modules, layers, self._fail, self._at_once)
        self._readings = Readings([layer.name for layer in layers], ())
        self._scalars = Scalars()
        self._together = Together(self._scalars)
        self._parameters: ParameterProbe
        self._names: dict[int, str]
        self._take_in(describe_parameters(model))
        self._holdings = optimizers.Holdings()
        self._graph = LayerGraph(self.history, self._activations, self._readings, self._holdings)
        self._mode = Mode(self._activations)
        self._droppings = Droppings()
        self._scale = LossScale(self._scalars)
        self._losses = TrainingLosses(self._scalars)
        self._stray: StrayPasses | None = StrayPasses(self._parameters.tensors)
        self._bursts = 0  # steps sampled out of turn
        self._validation = ValidationLosses(self._scalars)
        self.best: BestCheckpoint | None = None
        self._sampled = self._prelude = False  # whether this step, or the next one, is sampled
        self._thorough = False  # whether this sample is one
        self._pacing = Pacing()
        self._leftovers = Leftovers()
        self._repeats = Repeats()
        self._rest: Rest | None = None
        self._closures = False  # whether an optimizer calls a closure
        self._spent = self._prelude_spent = 0.0
        self._ticked = 0  # the last step at which the clock was looked at
        if optimizer is not None:
            self._holdings.of(optimizer, self._names)
        self._activations.divide(splits(model)[0])
        self._activations.attach(model, modules)
        self._plan()
        losses.listen(self)
        optimizers.listen(self)

    def resume(self, history: History, step: int) -> None:
        """Go on with the history of a run that has made ``step`` steps."""
        self.history, self.step, self._ticked = history, step, step
        self._graph.history = history
        self._holdings.start_after(step)
        self._schedule.sampling.start_after(step)
        self._schedule.judging.start_after(step)
        self._plan()

    def close(self) -> None:
        """Remove every hook and let go of the parameters."""
        if self.best is not None:
            self.flush()
            self.best.decide(self._validation.latest)
        losses.unlisten(self)
        optimizers.unlisten(self)
        self._together.leave()
        self._activations.detach()
        self._parameters, self._origins, self._holdings = ParameterProbe({}), Origins({}), optimizers.Holdings()

    def flush(self, wait: bool = True) -> None:
        """Move what the device has delivered into the history; all of it where ``wait``, which may take a while."""
        try:
            self._wake()
            if self._validation.pending:
                self._validation.settle(self.history.facts.loss)
            self._graph.arrive(wait)
            for sample in self._together.arrived(wait):
                self._readings.add(sample)
            self._scalars.flush(self.history, wait)
            self._readings.flush(self.history, wait)
        except Exception as error:  # noqa: BLE001
            self._fail("the readings", error)

    @property
    def validated(self) -> bool:
        """Whether a validation pass has ended since the last `flush`."""
        return self._validation.pending

    @property
    def unseen(self) -> tuple[str, ...]:
        """What cannot be seen of this model, in sentences."""
        told = [f"the numbers are those of this rank alone: {self._together.why}"] if self._together.why else []
        return (*told, *unseen.sentences(self.history, self._activations, self._graph.guessed))

    def observe(self, statistic: str, value: Tensor | float) -> None:
        """Record an explicit value for the present step."""
        try:
            self._wake()
            if statistic == "val_loss":
                self._validation.observed(self.step, value)
                if self.best is not None:
                    self.best.observed(self.step, value)
            else:
                self._losses.observed(self.step, statistic, value)
        except Exception as error:  # noqa: BLE001
            self._fail("observed values", error)

    def predicted(self, output: Tensor, target: Tensor) -> None:
        """Take in a prediction and its target, where the loss does not show them."""
        try:
            self._losses.predicted(self.step, output, target)
        except Exception as error:  # noqa: BLE001
            self._fail("observed predictions", error)

    # What the probes tell. Nothing here may raise into the user's loop.

    def _elsewhere(self) -> bool:
        """Whether this thread is another one than the model's: what happens in it is another model's."""
        return self._activations.thread != get_ident()

    @uncompiled
    def before_backward(self, loss: Tensor) -> None:
        try:
            if self._elsewhere():
                return
            if self._rest is not None:
                self._rest.add(loss)
            else:
                self._see_loss(loss)
        except Exception as error:  # noqa: BLE001
            self._fail("the loss", error)

    def _see_loss(self, loss: Tensor) -> None:
        start = perf_counter()
        if self._validation.pending:
            self._validation.settle(self.history.facts.loss)
        if self.best is not None:
            self.best.decide(self._validation.latest)
        self._droppings.forget()
        if self._sampled:
            self._activations.settle()
        value = self._losses.add(loss)
        if isinstance(value, float) and math.isfinite(value):
            self._origins.clear()
        elif value is not None:
            self._trace(loss, value)
        if self._sampled:
            self._leftovers.look(self._holdings.parameters())
            self._mode.look()
            if loss.grad_fn is None:
                self._losses.tell("rootless_loss", 1.0)
            else:
                self._read_graph(loss.grad_fn)
        self._activations.given = None
        self._spent += perf_counter() - start

    @uncompiled
    def after_backward(self) -> None:
        if (not self._sampled and self._stray is None) or self._elsewhere():
            return
        start = perf_counter()
        try:
            if self._stray is not None and self._stray.passed(self._activations.passes):
                self._unstepped()
            if self._sampled:
                self._activations.settle()
                self._leftovers.passed(self._holdings.parameters())
            self._parameters.see_accumulated()
        except Exception as error:  # noqa: BLE001
            self._fail("gradients", error)
        self._spent += perf_counter() - start

    @uncompiled
    def evaluated(self, batch: losses.Evaluated) -> None:
        try:
            model, probe = self._model(), self._activations
            if model is None or self._elsewhere():
                return
            counted = probe.keep_counting()
            if model.training and (not counted or probe.last_pass_with_gradients):
                return  # only the passes tell a validation without eval() from a training pass
            opens = self._validation.opens(self.step)
            self._wake()
            self._validation.add(self.step, batch)
            if self.best is not None:
                self.best.evaluated(opens)
            if opens:
                self._mode.note_validation(self._validation)
                self._note_dropping(model)
            probe.given = None
        except Exception as error:  # noqa: BLE001
            self._fail("validation losses", error)

    @uncompiled
    def dropping(self, function: str, rate: float) -> None:
        try:
            model = self._model()
            if model is not None and not self._elsewhere():
                self._wake()
                self._droppings.look(model, function, rate)
        except Exception as error:  # noqa: BLE001
            self._fail("functions that drop", error)

    def _note_dropping(self, model: nn.Module) -> None:
        """Record whether a function dropped in the first batch of a validation pass in evaluation mode."""
        found = self._droppings.found
        if found is not None:
            self.history.facts = self.history.facts.with_changes(dropping=(found.function, found.module))
        if not model.training and self.history.facts.dropping:
            self._validation.note("val_dropping", 0.0 if found is None else found.rate)

    def before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            self._activations.given = None
            if self._rest is not None and id(optimizer) == self._rest.optimizer:
                if optimizers.closure_of(args, kwargs) is None:
                    return None
                self._wake()
            return self._begin_step(optimizer, args, kwargs)
        except Exception as error:  # noqa: BLE001
            self._fail("optimizer steps", error)
        return None

    def _begin_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        start = perf_counter()
        holding = self._holding(optimizer)
        if holding.names:
            self._activations.thread = get_ident()  # compiled forward passes do not tell
        elif self._elsewhere():
            return None
        self._enter(holding)
        changed = None
        if holding.names and (self._sampled or self._prelude):
            changed = self._see_before(holding.names, args, kwargs)
        self._spent += perf_counter() - start
        return changed

    def after_step(self, optimizer: Optimizer) -> None:
        try:
            if self._rest is not None and id(optimizer) == self._rest.optimizer:
                self.step += 1
                if not self._rest.stepped(optimizer):
                    self._wake()
                    self._end(perf_counter())
            else:
                self._see_step(optimizer)
        except Exception as error:  # noqa: BLE001
            self._fail("optimizer steps", error)

    def _see_step(self, optimizer: Optimizer) -> None:
        start = perf_counter()
        holding = self._holdings.of(optimizer, self._names)
        if holding.names:
            self._meet()
            at_work = self._holdings.at_work(self.step - IDLE)
            self._losses.after_step(self.step, id(optimizer), alone=len(at_work) == 1)
            self._scale.stepped(optimizer)
            ends = all(other.step == self.step for other in at_work)
            if self._sampled:
                self._measure(holding, at_once=not ends)
            if ends:
                self._end(start)
                return
        elif not self._elsewhere():
            self._losses.stepped_elsewhere()
        self._spent += perf_counter() - start

    @uncompiled
    def step_skipped(self, optimizer: Optimizer) -> None:
        """It counts as a step of the program, and nothing but its loss is recorded."""
        start = perf_counter()
        try:
            if self._elsewhere():
                return
            holding = self._holding(optimizer)
            self._enter(holding)
            if holding.names:
                self._meet()
                at_work = self._holdings.at_work(self.step - IDLE)
                self._losses.after_step(self.step, id(optimizer), alone=len(at_work) == 1)
                self._scale.skip()
                self._leftovers.take(id(optimizer))
                self._scale.keep(self.step, self._losses.scale)
                if all(other.step == self.step for other in at_work):
                    self._end(start)
                    return
        except Exception as error:  # noqa: BLE001
            self._fail("optimizer steps", error)
        self._spent += perf_counter() - start

    def _enter(self, holding: optimizers.Holding) -> None:
        """An optimizer's step begins, or is left out."""
        if holding.names:
            self._wake()
        elif self._rest is not None:
            self._rest.stale = True
        self._losses.before_step(bool(holding.names))
        if self._stray is not None:
            self._stray = self._stray.stepped(bool(holding.names))
            if self._stray is None and self.history.facts.unstepped:
                self.history.facts = self.history.facts.with_changes(unstepped=0)
        if holding.names:
            if holding.step == self.step:
                self.step += 1
            holding.step = self.step

    def _meet(self) -> None:
        """Look for other ranks at the first step: where a closure is called, the model has not run before."""
        model = None if self._together.met else self._model()
        if model is not None:
            self._together.meet(model, self._activations, self._parameters, self._schedule.sampling)

    def _see_before(self, held: dict[str, int], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        probe = self._parameters

        def see_used() -> None:
            probe.see_used(held)

        if self._sampled and not probe.sampled:
            probe.see_before()
        changed = optimizers.wrap_closure(args, kwargs, see_used)
        if changed is None:
            see_used()
        self._closures = changed is not None
        return changed

    def _measure(self, holding: optimizers.Holding, at_once: bool) -> None:
        """Reduce a sampled step to its sums; ``at_once`` where more of it comes."""
        self._learn_groups()
        self._mode.keep(self._scalars, self.step, self._model())
        self._graph.sampled()
        self._parameters.see_after()
        scale = self._scale.keep(self.step, self._losses.scale)
        fused = getattr(holding.optimizer(), "grad_scale", None) is not None
        parameters = self._parameters.reduce(holding.names, scale, fused, at_once)
        thorough = self._activations.look_thoroughly(self._together.replicas) if self._thorough else None
        rates, layers = self._holdings.learning_rates(), self._activations.reduce(at_once)
        modules = self._activations.modules() if self._thorough else None
        parts = (norms.running(modules), gates.spread(modules)) if modules is not None else ()
        named = tuple(part for part in parts if part is not None)
        sample = Sample(self.step, layers, parameters, rates, thorough, self._graph.softmaxes, named)
        self._together.add(sample)
        if self._thorough:
            for name, count in entries.reached(self._model(), self.history.facts, holding.names).items():
                self._scalars.keep(self.step, "gradient_nonzero", count, name)
        self._recognise()
        left = self._leftovers.take(id(holding.optimizer()))
        if left is not None:
            self._scalars.keep(self.step, "leftover_gradient", left, str(min(holding.names.values())))

    def _recognise(self) -> None:
        """Know samples again that were seen before."""
        found, self._activations.fingerprints = self._activations.fingerprints, None
        if found is not None:
            self._repeats.add(self.step, found, self._activations.samples * self._together.replicas)
            steps = self._repeats.steps_of_a_pass(self.step)
            if steps is not None:
                self._scalars.keep(self.step, "pass_steps", steps)

    def _holding(self, optimizer: Optimizer) -> optimizers.Holding:
        if self._holdings.strange(optimizer, self._names):
            self._look_up()
        return self._holdings.of(optimizer, self._names)

    def _look_up(self) -> None:
        """See whether other parameters have come in place of those that were known: sharded ones, adapters."""
        model = self._model()
        found = {} if model is None else describe_parameters(model)
        if found and {name: id(tensor) for name, (tensor, _) in found.items()} != self._ids:
            self.flush()
            self._take_in(found)

    def _take_in(self, parameters: dict[str, tuple[nn.Parameter, Parameter]]) -> None:
        if self._together.met:
            self._together.leave()
            self.flush()
            self._together = Together(self._scalars)
        self._parameters = ParameterProbe(parameters, self._at_once)
        self._ids = {name: id(tensor) for name, (tensor, _) in parameters.items()}
        self._names = {identity: name for name, identity in self._ids.items()}
        self._origins = Origins({name: tensor for name, (tensor, _) in parameters.items()})
        self._readings.replace_parameters(self._parameters.facts)
        self.history.facts = self.history.facts.with_changes(parameters=self._parameters.facts)

    def _learn_groups(self) -> None:
        facts, trainable = self.history.facts, self._parameters.trainable
        told = len(facts.groups), facts.optimizers_elsewhere, facts.trainable
        if told != (len(self._holdings.groups), self._holdings.elsewhere, trainable):
            held = self._holdings.held
            self._graph.read_again()  # what was thawed is connected from now on
            parameters = tuple(
                replace(p, group=held.get(p.name), trainable=asks)
                for p, asks in zip(facts.parameters, trainable, strict=True)
            )
            self.history.facts = facts.with_changes(
                groups=tuple(self._holdings.groups),
                parameters=parameters,
                optimizers_elsewhere=self._holdings.elsewhere,
                strangers=self._graph.loose(),
            )

    def _end(self, start: float) -> None:
        """Account for the step and plan the next one."""
        own = self._spent + self._activations.spent + perf_counter() - start
        schedule = self._schedule
        cost = schedule.tick(own, max(self.step - self._ticked, 1), self._sampled)
        self._ticked = self.step
        if self._sampled:
            schedule.sampling.done(self.step, cost + self._prelude_spent, schedule.step_seconds)
            if self._losses.several != self.history.facts.several_losses:
                self.history.facts = self.history.facts.with_changes(several_losses=self._losses.several)
        self._together.end_step(self.step, schedule.sampling)
        if self._sampled:
            self._step_ended()
        self._prelude_spent = own if self._prelude and not self._sampled else 0.0
        if self._scalars.waiting >= KEPT or self._readings.waiting + self._together.waiting >= SAMPLES:
            self.flush(wait=False)
        if (self._losses.non_finite or self._losses.jumps.jumped) and self._bursts < BURSTS:
            self._bursts += 1
            if not self._together.active:  # the others have not seen it
                schedule.sampling.next = min(schedule.sampling.next, self.step + 1)
            schedule.judging.next = min(schedule.judging.next, self.step + 1)
        self._plan()
        schedule.resume()

    def _plan(self) -> None:
        """Prepare the next step."""
        ahead = self._schedule.sampling.next - self.step
        self._sampled = ahead <= 1
        self._prelude = ahead <= 2
        self._spent = self._activations.spent = 0.0
        self._thorough = self._sampled and self._pacing.due(self.step + 1)
        if self._activations.on or self._sampled:
            keeping = self._thorough or not self._targets_known
            self._activations.begin(self._sampled, self._thorough, keeping, self._repeats.due(self.step + 1))
            self._graph.softmaxes = None
        if self._sampled or self._prelude:
            self._parameters.begin()
        elif ahead > REST and self._stray is None and not self._closures and not self._together.asking:
            self._begin_rest(ahead - 2)

    def _begin_rest(self, steps: int) -> None:
        """Do nothing for so many steps but keep the losses, where a single optimizer is at work."""
        at_work = self._holdings.at_work(self.step - IDLE)
        if len(at_work) == 1:
            optimizer = id(at_work[0].optimizer())
            each = self._see_rested if self._losses.scale is not None or self._together.active else None
            self._rest = Rest(
                optimizer, self.step, min(steps, KEPT), self._losses.value, self._trace, self._losses.jumps, each
            )
            self._activations.rest()

    def _see_rested(self, optimizer: Optimizer) -> None:
        self._scale.stepped(optimizer)
        self._together.poll()

    def _wake(self) -> None:
        """The rest is over, where there is one."""
        rest, self._rest = self._rest, None
        if rest is not None:
            self._losses.take_over(rest)
            for holding in self._holdings.at_work(rest.since - 1):
                holding.step = self.step

    def _read_graph(self, root: Node) -> None:
        """Learn the graph of layers once, the softmaxes on thorough samples, predictions and targets on early ones."""
        probe = self._activations
        if probe.nodes or (self._thorough and probe.compiled):
            path = self._graph.read(root, self._names)
        elif self._targets_known:
            return
        else:
            path = loss_path(root)
            if not path.nodes:
                path = loss_path(root, probe.last)
        self._losses.read(path, probe.outputs)
        if probe.given is not None and probe.last_pass_with_gradients and path.nodes:
            with torch.no_grad():
                self._losses.tell("residual_agreement", residuals.agreement(path, probe.given))

    @property
    def _targets_known(self) -> bool:
        """Whether enough batches were seen to tell the best constant prediction."""
        return len(self.history.table("constant_loss")) >= TARGETS

    def _trace(self, loss: Tensor, value: Tensor | float) -> None:
        """Trace a NaN or Inf back. On the CPU the loss is known at once, elsewhere once a flush has told of one."""
        if isinstance(value, float) or self._losses.non_finite:
            found = self._origins.look(loss, value, self.step + 1)
            if found is not None:
                self.history.facts = self.history.facts.with_changes(non_finite=found)

    def _unstepped(self) -> None:
        """Backward passes reach the model and nothing changes its weights: tell the rules, for no step will."""
        stray = self._stray
        if stray is not None:
            self.history.facts = self.history.facts.with_changes(
                unstepped=stray.count,
                steps_elsewhere=stray.steps_elsewhere,
                optimizers_elsewhere=self._holdings.elsewhere,
            )
            self._step_ended()

    def _fail(self, what: str, error: Exception) -> None:
        self._sampled = self._prelude = False
        with suppress(Exception):  # what failed may fail again
            self._wake()
        self._schedule.sampling.stop()
        self._together.leave(at_once=True)
        self._activations.detach()
        self._report_failure(what, error)
