"""Remedies that several rules share, with code for the very model, and those that can be carried out in place."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from netdoctor.facts import Facts, Layer
from netdoctor.findings import Remedy

# Gains that preserve the variance (He et al. 2015, section 2.2; Glorot & Bengio 2010; torch.nn.init.calculate_gain).
GAINS = {
    "relu": math.sqrt(2.0),
    "leaky_relu": math.sqrt(2.0),
    "gelu": math.sqrt(2.0),
    "silu": math.sqrt(2.0),
    "mish": math.sqrt(2.0),
    "hardswish": math.sqrt(2.0),
    "elu": math.sqrt(1.5),
    "selu": 1.0,
    "tanh": 5.0 / 3.0,
    "sigmoid": 4.0,  # its slope at 0 is 1/4
}

# Optimizers that divide the gradient's scale out.
ADAPTIVE = ("Adam", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adafactor", "Lion", "Rprop", "LAMB")


def gain(nonlinearity: str) -> float:
    """Factor on 1/sqrt(fan-in) by which the weights make up for what the nonlinearity takes from the signal."""
    return GAINS.get(nonlinearity, 1.0)


def ideal_std(layer: Layer) -> float:
    """Weight std that keeps the forward variance through this layer and its nonlinearity."""
    return gain(layer.nonlinearity) / math.sqrt(max(layer.fan_in, 1))


def names_code(names: Sequence[str], width: int = 56) -> str:
    """A Python tuple of layer names, one line where it fits."""
    one = "(" + ", ".join(f'"{name}"' for name in names) + ("," if len(names) == 1 else "") + ")"
    if len(one) <= width:
        return one
    lines, line = [], "   "
    for name in names:
        if len(line) + len(name) + 5 > width:
            lines.append(line)
            line = "   "
        line += f' "{name}",'
    return "(\n" + "\n".join([*lines, line]) + "\n)"


def after_sigmoid(facts: Facts, layer: str) -> bool:
    """Whether sigmoids alone feed ``layer``: its inputs then lie around 1/2."""
    before = [each for each in facts.layers if each.name in facts.layer(layer).inputs]
    return bool(before) and all("sigmoid" in (each.function or each.nonlinearity) for each in before)


def initialise(facts: Facts, layers: Sequence[str]) -> Remedy:
    """Re-initialise the weights of ``layers`` with the variance-preserving std of each, biases with zero.

    Behind sigmoids a bias of minus half the sum of the weights takes out the mean of their outputs, 1/2: without it the
    units of a deep stack drift to their bounds.
    """
    stds = {name: ideal_std(facts.layer(name)) for name in layers}
    functions = {facts.layer(name).nonlinearity for name in layers}
    rectified = functions & {"relu", "leaky_relu", "gelu", "silu", "mish", "hardswish"}
    scheme = "Kaiming" if rectified else "Xavier"
    low, high = min(stds.values()), max(stds.values())
    values = f"{low:.3g}" if math.isclose(low, high, rel_tol=0.01) else f"{low:.3g} … {high:.3g}"
    factor = ", ".join(sorted({f"{gain(f):.3g} ({f if f in GAINS else 'linear'})" for f in functions}))
    centred = tuple(name for name in layers if after_sigmoid(facts, name))
    biased = {parameter.layer for parameter in facts.parameters if parameter.role == "bias"}
    groups: dict[tuple[str, str], list[str]] = {}  # std and what the bias becomes -> layers
    for name in layers:
        bias = "" if name not in biased else "centred" if name in centred else "zero"
        groups.setdefault((f"{stds[name]:.4g}", bias), []).append(name)
    lines = {
        "": "",
        "zero": "\n    nn.init.zeros_(layer.bias)",
        "centred": "\n    layer.bias.data = -0.5 * layer.weight.data.flatten(1).sum(1)  # sigmoids average 1/2",
    }
    code = "\n".join(
        f"for name in {names_code(names)}:\n    layer = model.get_submodule(name)\n"
        f"    nn.init.normal_(layer.weight, std={std}){lines[bias]}"
        for (std, bias), names in groups.items()
    )
    return Remedy(
        action=f"Initialise with {scheme}: weight std {values}, gain {factor}",
        code=code,
        source="He et al. 2015, section 2.2" if rectified else "Glorot & Bengio 2010, section 4.2",
        effect="activations and gradients keep their scale from layer to layer",
        treatment=functools.partial(_initialise, stds=stds, centred=centred),
    )


def _initialise(model: nn.Module, optimizer: Any, *, stds: dict[str, float], centred: Sequence[str] = ()) -> None:
    for name, std in stds.items():
        layer: Any = model.get_submodule(name)
        nn.init.normal_(layer.weight, std=std)
        if getattr(layer, "bias", None) is not None:
            nn.init.zeros_(layer.bias)
            if name in centred:
                with torch.no_grad():
                    layer.bias.sub_(0.5 * layer.weight.flatten(1).sum(1))
        if optimizer is not None:
            for parameter in layer.parameters(recurse=False):
                optimizer.state.pop(parameter, None)  # moments of the old weights would undo the new ones


def scale_learning_rate(factor: float, now: float | None = None) -> Remedy:
    """Multiply the learning rate of every param group by ``factor``."""
    target = f" from {now:.3g} to {now * factor:.3g}" if now else ""
    times = max(factor, 1 / factor)
    size = f"{times:,.0f}×" if times >= 100 else f"{times:.3g}×"
    return Remedy(
        action=f"{'Raise' if factor > 1 else 'Lower'} the learning rate {size}{target}",
        code=f'for group in optimizer.param_groups:\n    group["lr"] *= {factor:.6g}',
        source="Bengio 2012, Practical recommendations, section 3.1",
        treatment=functools.partial(_scale_learning_rate, factor=factor),
    )


def _scale_learning_rate(model: nn.Module, optimizer: Any, *, factor: float) -> None:
    if optimizer is None:
        raise ValueError("this remedy changes the learning rate: pass the optimizer, remedy.apply(model, optimizer)")
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].mul_(factor)
        else:
            group["lr"] *= factor


def clip_gradients(norm: float) -> Remedy:
    """Clip the norm of all gradients at ``norm`` before each step."""
    return Remedy(
        action=f"Clip the gradient norm at {norm:.3g}, between backward() and step()",
        code=f"torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm={norm:.3g})",
        source="Pascanu et al. 2013, section 3.2",
        effect="single large gradients no longer throw the weights away",
        treatment=functools.partial(_clip_gradients, norm=norm),
    )


def _clip_gradients(model: nn.Module, optimizer: Any, *, norm: float) -> Any:
    if optimizer is None:
        raise ValueError("this remedy clips before each step: pass the optimizer, remedy.apply(model, optimizer)")

    def clip(optimizer: Any, args: Any, kwargs: Any) -> None:
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], norm)

    return optimizer.register_step_pre_hook(clip)


def replace_by_relu(model: nn.Module, modules: Sequence[str]) -> None:
    """Put a ReLU in the place of each of ``modules``."""
    for name in modules:
        model.set_submodule(name, nn.ReLU())


def kaiming(model: nn.Module, optimizer: Any, layers: Sequence[str]) -> None:
    """Weights of ``layers`` by Kaiming for ReLU, biases zero, and no memory of the old ones in the optimizer."""
    weights = {name: getattr(model.get_submodule(name), "weight") for name in layers}  # noqa: B009
    _initialise(model, optimizer, stds={name: math.sqrt(2.0 / weight[0].numel()) for name, weight in weights.items()})


def freeze(model: Any, layers: Sequence[str]) -> None:
    """Ask for no gradients of ``layers`` any more."""
    for name in layers:
        model.get_submodule(name).requires_grad_(False)


def normalise(facts: Facts, layers: Sequence[str]) -> Remedy:
    """Put a normalisation behind each of ``layers``, before its nonlinearity."""
    put, said = [], []
    for layer in map(facts.layer, layers):
        if layer.kind in ("recurrent", "attention") or not layer.name:
            said.append(f"# after {layer.name or 'the model'}: nn.LayerNorm({layer.units})")
        elif layer.kind == "conv":
            norm = layer.type.replace("Conv", "BatchNorm").replace("Transpose", "")
            put.append(f'    "{layer.name}": nn.{norm}({layer.units}),')
        else:
            put.append(f'    "{layer.name}": nn.BatchNorm1d({layer.units}),')
    if put:
        put = ["norms = {  # nn.LayerNorm in sequence models", *put, "}", "for name, norm in norms.items():"]
        put.append("    model.set_submodule(name, nn.Sequential(model.get_submodule(name), norm))")
        put.append('    optimizer.add_param_group({"params": norm.parameters()})')
    return Remedy(
        action="Normalise: BatchNorm (LayerNorm in sequence models) between each layer and its nonlinearity",
        code="\n".join([*put, *said]),
        source="Ioffe & Szegedy 2015, section 3; Ba et al. 2016",
        effect="every layer sees inputs of zero mean and unit variance, whatever the layers before it do",
    )


def start_again(facts: Facts, layers: Sequence[str], factor: float) -> Remedy:
    """Re-initialise ``layers`` and go on with ``factor`` times the learning rate that ruined their weights."""
    rates = [group.learning_rate for group in facts.groups]
    fresh, slower = initialise(facts, layers), scale_learning_rate(factor, rates[0] if len(rates) == 1 else None)

    def treatment(model: nn.Module, optimizer: Any) -> None:
        slower.apply(model, optimizer)
        fresh.apply(model, optimizer)

    return Remedy(
        action=f"{slower.action} and start again with fresh weights: what the steps ruined does not recover by itself",
        code=f"{slower.code}\n{fresh.code}",
        source=f"{slower.source}; {fresh.source}",
        effect="steps of about 1 % of the weights",
        treatment=treatment,
    )


def slower(update_ratio: float) -> float:
    """Factor on the learning rate that makes of updates of ``update_ratio`` updates of about 1 %; at most 0.5."""
    wanted = min(max(0.01 / max(update_ratio, 1e-9), 1e-4), 0.5)
    return float(f"{wanted:.0e}")


def standardise(layer: Layer, mean: float, std: float) -> Remedy:
    """Scale the input of the first layer by one mean and one std."""
    return Remedy(
        action=f"Standardise the input with its measured mean {mean:.3g} and standard deviation {std:.3g}",
        code=f"x = (x - {mean:.4g}) / {std:.4g}  # in the data pipeline, the same for training, validation and test",
        source="LeCun et al. 1998, Efficient BackProp, section 4.3",
        effect="the first layer's gradients fit those of the others; start again with fresh weights",
        treatment=functools.partial(_prepend, layer=layer.name, make=functools.partial(_Standardise, mean, std)),
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
        treatment=functools.partial(_prepend, layer=layer.name, make=_StandardiseFeatures),
    )


def _prepend(model: nn.Module, optimizer: Any, *, layer: str, make: Any) -> Any:
    """Let a pre-hook change what ``layer`` is given; returns the handle that takes it off again."""
    return model.get_submodule(layer).register_forward_pre_hook(make())


class _Standardise:
    """Forward pre-hook: the input minus ``mean`` over ``std``."""

    def __init__(self, mean: float, std: float) -> None:
        self.mean, self.std = mean, std

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return ((args[0] - self.mean) / self.std, *args[1:])


class _StandardiseFeatures:
    """Forward pre-hook: each feature by its mean and std over all training inputs so far."""

    def __init__(self) -> None:
        self.sums: torch.Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x: torch.Tensor = args[0]
        axis = 1 if isinstance(module, nn.modules.conv._ConvNd) else x.ndim - 1
        if module.training or self.sums is None:
            flat = x.detach().transpose(0, axis).flatten(1).double()
            seen = torch.stack((torch.full_like(flat[:, 0], flat.shape[1]), flat.sum(1), flat.square().sum(1)))
            self.sums = seen if self.sums is None else self.sums + seen
        count, total, squares = self.sums
        mean = total / count
        std = (squares / count - mean.square()).clamp_min(0).sqrt()
        std = torch.where(std > 1e-6 * mean.abs(), std, torch.ones_like(std))  # a constant feature stays 0
        shape = [-1 if i == axis else 1 for i in range(x.ndim)]
        return (((x - mean.reshape(shape)) / std.reshape(shape)).to(x.dtype), *args[1:])


def replace_by_leaky_relu(modules: Sequence[str]) -> Remedy:
    """Give the units of ``modules`` a slope where they are silent; functional ReLUs take a human hand."""
    if modules:
        code = f"for name in {names_code(modules)}:\n    model.set_submodule(name, nn.LeakyReLU(0.01))"
    else:
        code = "# in forward():\nx = F.leaky_relu(x, 0.01)  # instead of F.relu(x)"
    return Remedy(
        action="Replace ReLU by LeakyReLU, which lets a gradient through silent units",
        code=code,
        source="Maas et al. 2013, Rectifier nonlinearities improve neural network acoustic models",
        effect="silent units can come back",
        treatment=functools.partial(_replace_by_leaky_relu, modules=tuple(modules)) if modules else None,
    )


def _replace_by_leaky_relu(model: nn.Module, optimizer: Any, *, modules: Sequence[str]) -> None:
    for name in modules:
        model.set_submodule(name, nn.LeakyReLU(0.01))


def find_learning_rate() -> Remedy:
    """Measure the learning rate with a range test."""
    return Remedy(
        action="Measure it: on a copy of the model, raise the rate at each step and see where the loss falls fastest",
        code="trial = copy.deepcopy(model)\n"
        "sweep = type(optimizer)(trial.parameters(), lr=1e-6)\n"
        "for _ in range(100):\n"
        "    sweep.zero_grad()\n"
        "    loss = loss_fn(trial(x), y)\n"
        "    loss.backward()\n"
        "    sweep.step()\n"
        '    print(sweep.param_groups[0]["lr"], loss.item())\n'
        '    sweep.param_groups[0]["lr"] *= 1.15',
        source="Smith 2017, Cyclical Learning Rates, section 3.3",
        effect="the largest rate at which the loss still falls steadily",
    )


def warm_up(steps: int) -> Remedy:
    """Let the learning rate rise over the first steps."""
    return Remedy(
        action=f"Warm up: let the learning rate rise over the first {steps} steps",
        code=f"warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters={steps})\n"
        "# and warmup.step() after each optimizer.step()",
        source="Goyal et al. 2017, section 2.2",
        effect="the first steps, where curvature is highest, stay small",
    )


def leave_out(module: str, function: str, action: str, source: str, effect: str) -> Remedy:
    """Do without the nonlinearity that a module, or else forward(), applies to the output."""
    code = f'model.set_submodule("{module}", nn.Identity())'
    return Remedy(
        action=action,
        code=code if module else f"# in forward(): return the output of the last layer as it is, without {function}",
        source=source,
        effect=effect,
        treatment=functools.partial(_replace, module=module, make=nn.Identity) if module else None,
    )


def _replace(model: nn.Module, optimizer: Any, *, module: str, make: Any) -> None:
    """Put what ``make`` makes in the place of a module."""
    model.set_submodule(module, make())


def use_sigmoid(model: nn.Module, optimizer: Any, *, module: str) -> None:
    """Put a sigmoid in the place of a module."""
    _replace(model, optimizer, module=module, make=nn.Sigmoid)


def quiet_head(model: nn.Module, optimizer: Any, *, layer: str, std: float | None) -> None:
    """Normal weights of ``std`` (None leaves them) and no bias."""
    module: Any = model.get_submodule(layer)
    if std is not None:
        nn.init.normal_(module.weight, std=std)
    if getattr(module, "bias", None) is not None:
        nn.init.zeros_(module.bias)
    if optimizer is not None:
        for parameter in module.parameters(recurse=False):
            optimizer.state.pop(parameter, None)


def standardise_targets(layer: Layer, mean: float, std: float, factor: float) -> Remedy:
    """Train on targets of mean 0 and std 1; ``factor`` on the learning rate does the same for a loss in large units."""
    return Remedy(
        action=f"Standardise the target with its mean {mean:.4g} and standard deviation {std:.4g}",
        code=f"y = (y - {mean:.6g}) / {std:.6g}  # before the loss; with several columns each by its own\n"
        f"answer = {std:.6g} * model(x) + {mean:.6g}  # where an answer in the target's unit is needed",
        source="LeCun et al. 1998, Efficient BackProp, section 4.5; Bishop 1995, section 8.2",
        effect="outputs stay in the scale that weights and learning rates are made for; start with fresh weights",
        treatment=functools.partial(_answer_in_units, layer=layer.name, mean=mean, std=std, factor=factor)
        if layer.kind == "linear"
        else None,
    )


def _answer_in_units(model: nn.Module, optimizer: Any, *, layer: str, mean: float, std: float, factor: float) -> Any:
    """The same seen from the other side: the last layer's output is scaled to the target."""
    if optimizer is not None:
        optimizer.state.clear()
        _scale_learning_rate(model, optimizer, factor=factor)
    return model.get_submodule(layer).register_forward_hook(_InUnits(mean, std))


class _InUnits:
    """Forward hook: the output in the unit of the target."""

    def __init__(self, mean: float, std: float) -> None:
        self.mean, self.std = mean, std

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return output * self.std + self.mean
