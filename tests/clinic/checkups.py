"""Checks programs up before their first step: `netdoctor.checkup` on each case's own model, batch, loss and optimizer.

A program of the clinic is a loop. What `checkup` asks for is cut out of its first turn: the arguments of the model are
the batch, and what the loop does with its output until `backward` is the loss function. Where a turn calls the model
several times, or only parts of it, the whole turn is the loss function ``loss_fn(model, batch)``, run with the modules
of the copy in place of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import netdoctor
from netdoctor import Severity
from tests.clinic.case import Case, Program
from tests.clinic.catalogue import Run, case_of
from tests.clinic.table import Table

FILLING = 100  # turns that a memory of past games may take to fill before the first step

FAULTS: dict[str, tuple[str, ...]] = {
    "redundant softmax": (
        *("softmax-before-cross-entropy", "softmax-in-forward", "sigmoid-before-loss-with-logits"),
        "softmax-over-the-vocabulary",
    ),
    "missing nonlinearity": (*("linear-layers-in-a-row", "activations-forgotten-in-forward", "convolutions-in-a-row"),),
    "unscaled input": (
        *("pixels-up-to-255", "pixels-divided-twice", "raw-wine", "raw-breast-cancer", "one-column-in-other-units"),
        *("raw-sensor-series", "raw-pixels-into-sigmoids"),
    ),
    "too small initialisation": (
        *("tiny-normal-weights", "convolutions-with-tiny-weights", "twenty-four-layers-with-default-weights"),
    ),
    "too large initialisation": (
        *("unit-normal-weights", "growing-convolutions", "autoencoder-with-wide-uniform-weights"),
        *("recurrent-weights-too-large", "thirty-residual-blocks-without-norm"),
    ),
    "sum-reduced loss": ("loss-summed-over-the-batch",),
    "missing parameters": (
        *("optimizer-of-an-older-copy", "head-replaced-after-the-optimizer", "list-of-unregistered-layers"),
        "encoder-left-out-of-the-optimizer",
    ),
    "silent broadcast": ("column-against-row", "column-against-row-by-hand", "forecast-against-row"),
}


@dataclass(frozen=True)
class Checkup:
    """What one checkup said: slugs and messages, the worst first, of warnings and errors; why it could not be made."""

    run: Run
    causes: tuple[str, ...]
    said: tuple[tuple[str, str], ...] = ()
    failed: str = ""

    @property
    def right(self) -> bool:
        return any(slug in self.causes for slug, _ in self.said)


def check_up(run: Run) -> Checkup:
    """Build a program and have it checked up, untrained."""
    case = case_of(run)
    causes = case.causes if run.group == "sick" else ()
    try:
        diagnosis = _diagnose(case, run)
    except Exception as error:  # noqa: BLE001  # counted and shown
        return Checkup(run, causes, failed=f"{type(error).__name__}: {error}".splitlines()[0])
    least = Severity.NOTE if case.note and run.group == "sick" else Severity.WARNING
    said = tuple((each.rule, each.message) for each in diagnosis.findings if each.severity >= least)
    return Checkup(run, causes, said)


def _diagnose(case: Case, run: Run) -> netdoctor.Diagnosis:
    program, state = _built(case, run)
    calls = _calls(*_built(case, run))
    if len(calls) == 1 and all(isinstance(each, Tensor) for each in calls[0]):
        with suppress(Exception):  # a loss that asks for the very inputs that went in
            return netdoctor.checkup(
                program.model, (*calls[0], None), _loss_of_output(program, state), program.optimizer
            )

    def loss_of_model(model: nn.Module, batch: Any) -> Tensor:
        copied = dict(model.named_modules())
        return _loss(program, state, {module: copied[name] for name, module in program.model.named_modules()})

    return netdoctor.checkup(program.model, None, loss_of_model, program.optimizer)


def _loss_of_output(program: Program, state: Tensor) -> Callable[[Any, Any], Tensor]:
    def loss_fn(output: Any, target: Any) -> Tensor:
        forward = program.model.forward

        def answer(*args: Any, **kwargs: Any) -> Any:
            return output if torch.is_grad_enabled() else forward(*args, **kwargs)

        return _loss(program, state, {program.model: answer})

    return loss_fn


def _built(case: Case, run: Run) -> tuple[Program, Tensor]:
    """The program, and the random state in which its first turn begins."""
    torch.manual_seed(run.seed)
    return case.build(run.group == "sick"), torch.get_rng_state()


def _calls(program: Program, state: Tensor) -> list[tuple[Any, ...]]:
    """Arguments of each outermost call with gradients until the first loss: of the model, else of a part, and None."""
    calls: list[tuple[Any, ...]] = []
    depth = 0

    def noted(module: nn.Module) -> Callable[..., Any]:
        forward = module.forward

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            if not depth and torch.is_grad_enabled():
                calls.append(args if module is program.model and not kwargs else (None,))
            depth += 1
            try:
                return forward(*args, **kwargs)
            finally:
                depth -= 1

        return call

    _loss(program, state, {module: noted(module) for module in program.model.modules()})
    return calls


class _Reached(Exception):  # ends a turn, and is no error
    def __init__(self, loss: Tensor) -> None:
        self.loss = loss


def _loss(program: Program, state: Tensor, forwards: dict[nn.Module, Callable[..., Any]]) -> Tensor:
    """What the first `backward` of the first turn is called on after one of ``forwards`` ran with gradients."""
    torch.set_rng_state(state)
    with ExitStack() as stack:
        ran = [stack.enter_context(_forward(module, forward)) for module, forward in forwards.items()]
        stack.enter_context(_until_backward(lambda: any(each for each in ran)))
        try:
            for turn in range(1, FILLING):
                program.step(turn)
        except _Reached as reached:
            return reached.loss
    raise RuntimeError(f"the first {FILLING} turns have no backward pass through the model")


@contextmanager
def _forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[list[bool]]:
    """Another forward for a module; what comes tells whether it ran with gradients."""
    ran: list[bool] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            ran.append(True)
        return forward(*args, **kwargs)

    own = module.__dict__.get("forward")
    module.forward = call
    try:
        yield ran
    finally:
        del module.forward
        if own is not None:
            module.forward = own


@contextmanager
def _until_backward(ready: Callable[[], bool]) -> Iterator[None]:
    backward = torch.Tensor.backward

    def reached(self: Tensor, *args: Any, **kwargs: Any) -> None:
        if ready():
            raise _Reached(self)
        backward(self, *args, **kwargs)

    torch.Tensor.backward = reached  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.backward = backward  # type: ignore[method-assign]


def checkup_tables(checkups: Iterable[Checkup]) -> list[Table]:
    """How often each common fault was found, and how often there was an alarm on a healthy program."""
    known = [each for each in checkups if not each.failed]
    sick = {(each.run.case, each.run.seed): each for each in known if each.run.group == "sick"}
    rows = []
    for fault, names in FAULTS.items():
        of_fault = [each for (name, _), each in sick.items() if name in names]
        if of_fault:
            rows.append((fault, _share(each.right for each in of_fault)))
    if sick:
        rows.append(("any fault", _share(each.right for each in sick.values())))
    for group in ("twins", "healthy"):
        well = [each for each in known if each.run.group == group]
        if well:
            rows.append((f"{group} with a warning", _share(bool(each.said) for each in well)))
    return [Table("Checkups before the first step", ("", "runs"), tuple(rows))]


def missed(checkups: Iterable[Checkup]) -> Iterator[str]:
    """A line for each common fault that was not found, each alarm on a healthy program, and each failure."""
    common = {name for names in FAULTS.values() for name in names}
    for each in checkups:
        run = f"{each.run.group} {each.run.case} {each.run.seed}"
        if each.failed:
            yield f"{run}: failed: {each.failed}"
        elif each.run.group != "sick":
            yield from (f"{run}: {slug}: {message}" for slug, message in each.said)
        elif each.run.case in common and not each.right:
            yield f"{run}: not found; said {', '.join(slug for slug, _ in each.said) or 'nothing'}"


def _share(done: Iterable[bool]) -> str:
    each = list(done)
    return f"{sum(each)} of {len(each)} ({100 * sum(each) / len(each):.0f} %)" if each else ""
