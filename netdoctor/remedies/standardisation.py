"""Inputs of zero mean and unit variance."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from netdoctor.facts import Layer
from netdoctor.findings import Remedy
from netdoctor.remedies.operation import Operation
from netdoctor.remedies.procedure import Procedure

CUT = 3.0  # deviations beyond which a value says no more than that it is large: 0.3 % of a normal distribution
KEPT = 4096  # values of a feature, of which quartiles are known to 2 % of a deviation


def standardise(layer: Layer, mean: float, std: float) -> Remedy:
    """Scale the input of the first layer by one mean and one std."""
    return Remedy(
        action=f"Standardise the input with its measured mean {mean:.3g} and standard deviation {std:.3g}",
        code=f"x = (x - {mean:.4g}) / {std:.4g}  # in the data pipeline, the same for training, validation and test",
        source="LeCun et al. 1998, Efficient BackProp, section 4.3",
        effect="the first layer's gradients fit those of the others; start again with fresh weights",
        treatment=Procedure(
            functools.partial(
                _prepend,
                layer=layer.name,
                make=functools.partial(_Standardise, mean, std),
                described=f"minus {mean:.4g}, over {std:.4g}",
            )
        ),
        restart=True,
    )


def standardise_features(layer: Layer) -> Remedy:
    """Scale each feature of the input of the first layer by its own mean and std."""
    axes = {"conv": "images: mean and std over all but the channels"}.get(layer.kind, "and nothing else on test data")
    return Remedy(
        action="Standardise each feature of the input with its own mean and standard deviation",
        code="mean, std = x_train.mean(0), x_train.std(0).clamp_min(1e-6)\n"
        f"x_train, x_test = (x_train - mean) / std, (x_test - mean) / std  # {axes}",
        source="LeCun et al. 1998, Efficient BackProp, section 4.3; sklearn.preprocessing.StandardScaler",
        effect="features count by what they tell, not by their unit; start again with fresh weights",
        treatment=Procedure(
            functools.partial(
                _prepend,
                layer=layer.name,
                make=_StandardiseFeatures,
                described="each feature by its mean and std over the training inputs so far",
            )
        ),
        restart=True,
    )


def standardise_robustly(layer: Layer) -> Remedy:
    """Scale each feature by what most of its values are, and cut the others."""
    return Remedy(
        action=f"Standardise each feature with its median and quartiles, and cut at {CUT:g} deviations: some values "
        "stand far out, as placeholders of missing ones do",
        code="low, median, high = x_train.quantile(torch.tensor([0.25, 0.5, 0.75]), 0)\n"
        f"x = ((x - median) / ((high - low) / 1.349)).clamp(-{CUT:g}, {CUT:g})  # training, validation and test alike\n"
        "# better still where you know them: put the median in the place of missing values, and a column that says so",
        source="Huber 1981, Robust Statistics, section 5.1; sklearn.preprocessing.RobustScaler",
        effect="the scale is that of the usual values; start again with fresh weights",
        treatment=Procedure(
            functools.partial(
                _prepend,
                layer=layer.name,
                make=_StandardiseRobustly,
                described=f"each feature by its median and quartiles, within {CUT:g} deviations",
            )
        ),
        restart=True,
    )


def _prepend(operation: Operation, layer: str, make: Callable[[], Any], described: str) -> None:
    """Let a pre-hook change what ``layer`` is given."""
    handle = operation.module(layer).register_forward_pre_hook(make())
    operation.attach(f"input of {layer or 'the model'}", handle, described)


class _Standardise:
    """Forward pre-hook: the input minus ``mean`` over ``std``."""

    def __init__(self, mean: float, std: float) -> None:
        self.mean, self.std = mean, std

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return ((args[0] - self.mean) / self.std, *args[1:])


class _StandardiseFeatures:
    """Forward pre-hook: each feature by its mean and std over all training inputs so far."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x: Tensor = args[0]
        axis = _features(module, x)
        if module.training or self.sums is None:
            flat = x.detach().transpose(0, axis).flatten(1).double()
            seen = torch.stack((torch.full_like(flat[:, 0], flat.shape[1]), flat.sum(1), flat.square().sum(1)))
            self.sums = seen if self.sums is None else self.sums + seen
        count, total, squares = self.sums
        mean = total / count
        std = (squares / count - mean.square()).clamp_min(0).sqrt()
        std = torch.where(std > 1e-6 * mean.abs(), std, torch.ones_like(std))  # a constant feature stays 0
        return (_scaled(x, mean, std, axis).to(x.dtype), *args[1:])


class _StandardiseRobustly:
    """Forward pre-hook: each feature by the median and the quartiles of the first training inputs, and cut."""

    def __init__(self) -> None:
        self.kept: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x: Tensor = args[0]
        axis = _features(module, x)
        if self.kept is None or (module.training and self.kept.shape[1] < KEPT):
            flat = x.detach().transpose(0, axis).flatten(1).float()[:, :KEPT]
            self.kept = flat if self.kept is None else torch.cat((self.kept, flat), 1)
        low, median, high = self.kept.quantile(self.kept.new_tensor([0.25, 0.5, 0.75]), 1)
        spread = (high - low) / 1.349  # of a normal distribution: its standard deviation
        spread = torch.where(spread > 1e-6 * median.abs(), spread, self.kept.std(1, correction=0))
        spread = torch.where(spread > 1e-6 * median.abs(), spread, torch.ones_like(spread))  # a constant feature
        return (_scaled(x, median, spread, axis).clamp(-CUT, CUT).to(x.dtype), *args[1:])


def _features(module: nn.Module, x: Tensor) -> int:
    """The axis over features of what a layer is given."""
    return 1 if isinstance(module, nn.modules.conv._ConvNd) else x.ndim - 1


def _scaled(x: Tensor, middle: Tensor, spread: Tensor, axis: int) -> Tensor:
    """Each feature minus its middle, over its spread."""
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    return (x - middle.reshape(shape)) / spread.reshape(shape)


def standardise_targets(layer: Layer, mean: float, std: float, factor: float) -> Remedy:
    """Train on targets of mean 0 and std 1; ``factor`` on the learning rate does the same for a loss in large units."""
    return Remedy(
        action=f"Standardise the target with its mean {mean:.4g} and standard deviation {std:.4g}",
        code=f"y = (y - {mean:.6g}) / {std:.6g}  # before the loss; with several columns each by its own\n"
        f"answer = {std:.6g} * model(x) + {mean:.6g}  # where an answer in the target's unit is needed",
        source="LeCun et al. 1998, Efficient BackProp, section 4.5; Bishop 1995, section 8.2",
        effect="outputs stay in the scale that weights and learning rates are made for; start with fresh weights",
        restart=True,
        treatment=Procedure(functools.partial(_answer_in_units, layer=layer.name, mean=mean, std=std, factor=factor))
        if layer.kind == "linear"
        else None,
    )


def _answer_in_units(operation: Operation, layer: str, mean: float, std: float, factor: float) -> None:
    """The same seen from the other side: the last layer's output is scaled to the target."""
    if operation.optimizer is not None:
        for parameter in operation.model.parameters():
            operation.forget(parameter)
        for index, group in enumerate(operation.optimizer.param_groups):
            operation.set_option(index, "lr", group["lr"] * factor)
    hook = operation.module(layer).register_forward_hook(_InUnits(mean, std))
    operation.attach(f"the output of {layer}", hook, "in the unit of the target")


class _InUnits:
    """Forward hook: the output in the unit of the target."""

    def __init__(self, mean: float, std: float) -> None:
        self.mean, self.std = mean, std

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return output * self.std + self.mean
