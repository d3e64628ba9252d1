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


ADAPTIVE = (
    "Adam",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Adagrad",
    "Adafactor",
    "Lion",
    "Rprop",
    "LAMB",
)  # divide the scale out


def gain(nonlinearity: str) -> float:
    """Factor on 1/sqrt(fan-in) by which the weights make up for what the nonlinearity takes from the signal."""
    return GAINS.get(nonlinearity, 1.0)


def ideal_std(layer: Layer) -> float:
    """Weight std that keeps the forward variance through this layer and its nonlinearity."""
    return gain(layer.nonlinearity) / math.sqrt(max(layer.fan_in, 1))


def names_code(names: Sequence[str], width: int = 72) -> str:
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
    transposed = any("Transpose" in facts.layer(name).type for name in layers)  # their fan-in is not weight[0].numel()
    if len({gain(function) for function in functions}) == 1 and not transposed:
        call = f"std={gain(next(iter(functions))):.4g} / layer.weight[0].numel() ** 0.5"
    else:
        call = "std=std"
    if call == "std=std":
        pairs = ", ".join(f'"{name}": {std:.4g}' for name, std in stds.items())
        code = f"for name, std in {{{pairs}}}.items():\n    layer = model.get_submodule(name)\n"
    else:
        code = f"for name in {names_code(layers)}:\n    layer = model.get_submodule(name)\n"
    code += (
        f"    nn.init.normal_(layer.weight, {call})\n    if layer.bias is not None:\n        nn.init.zeros_(layer.bias)"
    )
    centred = tuple(name for name in layers if after_sigmoid(facts, name))
    if centred:
        code += (
            f"\nfor name in {names_code(centred)}:  # sigmoids average 1/2: take it out\n"
            "    layer = model.get_submodule(name)\n"
            "    if layer.bias is not None:\n"
            "        layer.bias.data = -0.5 * layer.weight.data.flatten(1).sum(1)"
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
    return Remedy(
        action=f"{'Raise' if factor > 1 else 'Lower'} the learning rate {max(factor, 1 / factor):.3g}×{target}",
        code=f'for group in optimizer.param_groups:\n    group["lr"] *= {factor:.3g}',
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
    described = [facts.layer(name) for name in layers]
    lines = []
    for layer in described[:6]:
        if layer.kind == "conv":
            norm = f"nn.{layer.type.replace('Conv', 'BatchNorm').replace('Transpose', '')}({layer.units})"
        elif layer.kind in ("recurrent", "attention"):
            norm = f"nn.LayerNorm({layer.units})"
        else:
            norm = f"nn.BatchNorm1d({layer.units})"
        lines.append(f"# after {layer.name or 'the model'}: {norm}")
    if len(described) > 6:
        lines.append(f"# … and after {len(described) - 6} more")
    return Remedy(
        action="Normalise: BatchNorm (LayerNorm in sequence models) between each layer and its nonlinearity",
        code="\n".join(lines),
        source="Ioffe & Szegedy 2015, section 3; Ba et al. 2016",
        effect="every layer sees inputs of zero mean and unit variance, whatever the layers before it do",
    )


def find_learning_rate() -> Remedy:
    """Measure the learning rate with a range test."""
    return Remedy(
        action="Measure it: a range test on a copy of the model takes a hundred steps",
        code="curve = netdoctor.find_lr(model, loader, loss_fn, optimizer)\nprint(curve.suggestion)",
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
