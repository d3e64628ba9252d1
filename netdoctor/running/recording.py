"""Records the first steps of a training, so that they can be made again on copies of the model."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from netdoctor.batches import own_loss
from netdoctor.copies import copy_training
from netdoctor.probes import losses, optimizers
from netdoctor.probes.outside import uncompiled

MOST_BYTES = 2**28  # of batches that are kept

View = tuple[tuple[int, ...], tuple[int, ...], int]


@dataclass
class Batch:
    """One backward pass: what the model was called with, and how its output became the loss.

    Attributes:
        args: Positional arguments of the model.
        kwargs: Its keyword arguments.
        function: torch's loss function; None where the model returns its loss.
        view: Size, strides and offset of what the function was given, a view of the model's output.
        rest: Its further arguments.
        options: Its keyword arguments.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    function: Callable[..., Tensor] | None = None
    view: View = ((), (), 0)
    rest: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    """The loss of a recorded batch by another model of the same form."""
    output = model(*batch.args, **batch.kwargs)
    if batch.function is None:
        loss: Tensor = own_loss(output)
        return loss
    return batch.function(output.contiguous().as_strided(*batch.view), *batch.rest, **batch.options)


class Recording:
    """Listens to a training from its first forward pass on, for at most ``most`` steps.

    Attributes:
        batches: One a step, of the first perhaps none.
        initial: Copies of model and optimizer before the first step; None until then.
        trouble: Why the steps cannot be made again, "" where they can.
        step_seconds: Mean duration of a step.
    """

    def __init__(self, model: nn.Module, most: int) -> None:
        self.batches: list[Batch] = []
        self.initial: tuple[nn.Module, Optimizer] | None = None
        self.trouble = ""
        self._model = weakref.ref(model)  # netdoctor's experiments take listeners away and ask for this
        self._most, self._bytes, self._started = most, 0, perf_counter()
        self._passes: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []  # since the last step
        self._calls: list[tuple[Callable[..., Tensor], Tensor, tuple[Any, ...], dict[str, Any], Any]] = []
        self._backward = self._steps = 0
        self._handles: list[RemovableHandle] = [model.register_forward_hook(_Hook(self), with_kwargs=True)]
        losses.listen(self)
        losses.overhear(self)
        optimizers.listen(self)

    @property
    def step_seconds(self) -> float:
        return (perf_counter() - self._started) / max(self._steps, 1)

    @property
    def open(self) -> bool:
        """Whether further steps are recorded."""
        return bool(self._handles)

    def stop(self, trouble: str = "") -> None:
        """Record no more."""
        self.trouble = self.trouble or trouble
        while self._handles:
            self._handles.pop().remove()
        losses.unlisten(self)
        losses.overhear_no_more(self)
        optimizers.unlisten(self)
        self._passes.clear()
        self._calls.clear()

    # What the program does. Nothing here may raise into it.

    def passed(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """The model ran."""
        if torch.is_grad_enabled() and module is self._model():
            self._passes.append((args, kwargs, output))

    def called(
        self, function: Callable[..., Tensor], input: Tensor, rest: Any, options: dict[str, Any], loss: Any
    ) -> None:
        """One of torch's loss functions ran with gradients."""
        self._calls.append((function, input, rest, options, loss))

    @uncompiled
    def before_backward(self, loss: Tensor) -> None:
        try:
            self._backward += 1
            if self._passes:
                self._take(loss)
            elif self._steps:
                self.stop("a loss is not that of the model's output")
        except Exception as error:  # noqa: BLE001
            self.stop(f"{type(error).__name__}: {error}")

    def after_backward(self) -> None:
        """Tells nothing more."""

    def dropping(self, *args: Any) -> None:
        """Nothing to do."""

    def evaluated(self, batch: losses.Evaluated) -> None:
        """Validation is not repeated."""

    @uncompiled
    def before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            model = self._model()
            if model is None or not self.open:
                return
            if self._backward != 1:
                self.stop("a step is more than one model call, one loss and one backward pass")
            elif self.initial is None:
                self.initial = copy_training(model, optimizer, None)[:2]
        except Exception as error:  # noqa: BLE001
            self.stop(str(error))

    def after_step(self, optimizer: Optimizer) -> None:
        self._steps += 1
        self._backward = 0
        self._passes.clear()
        self._calls.clear()
        if self._steps >= self._most or self._bytes > MOST_BYTES:
            self.stop()

    def step_skipped(self, optimizer: Optimizer) -> None:
        self.stop("a gradient scaler leaves out steps")

    def _take(self, loss: Tensor) -> None:
        (args, kwargs, output), *more = self._passes
        if more:
            self.stop("the model is called several times a step")
            return
        args, kwargs = _kept((args, kwargs))
        self._bytes += sum(t.numel() * t.element_size() for t in _tensors((args, kwargs)))
        if own_loss(output) is loss:
            self.batches.append(Batch(args, kwargs))
            return
        call = next((each for each in self._calls if each[4] is loss), None)
        if call is None and not self._steps:
            return  # of the first step: ``F.cross_entropy(model(x), y)`` takes the function before the model is watched
        if call is None:
            self.stop("the loss is not what one of torch's loss functions, or the model, returns")
            return
        function, given, rest, options, _ = call
        if not isinstance(output, Tensor) or not output.is_contiguous() or not _shares(given, output):
            self.stop("the loss function takes something else than the model's output")
            return
        offset = int(given.storage_offset()) - int(output.storage_offset())
        view = tuple(given.shape), tuple(given.stride()), offset
        rest, options = _kept((rest, options))
        self.batches.append(Batch(args, kwargs, function, view, rest, options))


class _Hook:
    """Forward hook of the model; copies and pickles of it carry one that does nothing."""

    def __init__(self, recording: Recording | None = None) -> None:
        self.recording = recording

    @uncompiled
    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self.recording is not None and not torch.compiler.is_dynamo_compiling():
            self.recording.passed(module, args, kwargs, output)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hook:
        return _Hook()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hook, ()


def _shares(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _kept(value: Any) -> Any:
    """The same, with copies of tensors: programs reuse their buffers."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _kept(each) for key, each in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_kept, value))
    return type(value)(map(_kept, value)) if type(value) in (list, tuple) else value


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    several = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for each in several for tensor in _tensors(each)]
