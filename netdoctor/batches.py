"""The loss of one batch, whatever form batch, model and loss function have."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

TARGETS = ("labels", "label", "targets", "target", "y")  # keys of a dict batch that hold the target


def loss_of(model: nn.Module, batch: Any, loss_fn: Any = None) -> Tensor:
    """A scalar that can be differentiated.

    * ``loss_fn`` is None: the model returns its loss, as those of transformers do: a scalar, ``.loss``, ``["loss"]``,
      or a tuple with it in front.
    * Its first argument is called ``model``: ``loss_fn(model, batch)``, for losses written by hand.
    * Else ``loss_fn(model(inputs), target)``: the batch is a pair of them, or a dict with the target under one of
      `TARGETS`. Inputs that are a tuple or a dict are spread over the model's arguments.

    Raises:
        TypeError: What came out is no scalar tensor, or the batch holds no target; says what was expected.
    """
    if loss_fn is None:
        return _scalar(own_loss(_forward(model, batch)), "the model, called without a loss function,")
    if takes_model(loss_fn):
        return _scalar(loss_fn(model, batch), "loss_fn(model, batch)")
    inputs, target = split(batch)
    return _scalar(loss_fn(_forward(model, inputs), target), "loss_fn(model(inputs), target)")


def takes_model(loss_fn: Any) -> bool:
    """Whether a loss function runs the model itself: ``loss_fn(model, batch)``."""
    if isinstance(loss_fn, nn.Module):
        return False
    try:
        parameters = list(inspect.signature(loss_fn).parameters)
    except (TypeError, ValueError):
        return False
    return parameters[:1] == ["model"]


def split(batch: Any) -> tuple[Any, Any]:
    """Inputs and target of a batch.

    Raises:
        TypeError: There is no telling which is which.
    """
    if isinstance(batch, Mapping):
        key = next((key for key in TARGETS if key in batch), None)
        if key is None:
            raise TypeError(f"a dict batch holds its target under one of {', '.join(TARGETS)}; got {', '.join(batch)}")
        given = {name: value for name, value in batch.items() if name != key}
        return (next(iter(given.values())) if len(given) == 1 else given), batch[key]
    if isinstance(batch, (tuple, list)) and len(batch) >= 2:
        *inputs, target = batch
        return (inputs[0] if len(inputs) == 1 else tuple(inputs)), target
    raise TypeError(
        f"a batch is a pair (inputs, target) or a dict, not {type(batch).__name__}; "
        "for any other give loss_fn(model, batch)"
    )


def inputs_of(batch: Any, loss_fn: Any) -> Any:
    """What the model is called with; None where the loss function alone knows."""
    if loss_fn is None:
        return batch
    return None if takes_model(loss_fn) else split(batch)[0]


def on_device(batch: Any, model: nn.Module) -> Any:
    """The batch with its tensors on the device of the model's first parameter."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device)
        if isinstance(value, Mapping):
            return {key: moved(each) for key, each in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(moved, value))
        return type(value)(map(moved, value)) if isinstance(value, (list, tuple)) else value

    return moved(batch)


class Repeated:
    """An iterator that can be gone through again: it keeps what it gave.

    Args:
        iterator: Gives each batch once.
    """

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator
        self._given: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        place = 0
        while True:
            if place == len(self._given):
                try:
                    self._given.append(next(self._iterator))
                except StopIteration:
                    return
            yield self._given[place]
            place += 1


def repeatable(loader: Iterable[Any]) -> Iterable[Any]:
    """The loader, or what makes one of an iterator."""
    return Repeated(loader) if isinstance(loader, Iterator) else loader


def endless(loader: Iterable[Any]) -> Iterator[Any]:
    """Its batches, again and again.

    Raises:
        ValueError: It gives no batch.
    """
    while True:
        count = 0
        for batch in loader:
            count += 1
            yield batch
        if not count:
            raise ValueError("the loader gives no batch")


def _forward(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def own_loss(output: Any) -> Any:
    """The loss that a model of transformers returns, wherever it stands in its output; else what is in its place."""
    if isinstance(output, Mapping):
        return output.get("loss")
    if isinstance(output, (tuple, list)):
        return output[0] if output else None
    return getattr(output, "loss", output)


def _scalar(loss: Any, source: str) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shape = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f"{source} must give a loss, a tensor with one element, not {shape}")
    return loss.reshape(())
