"""Remedies that several rules share, with code for the very model, and those that can be carried out in place."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
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


def append_relu(model: nn.Module, layers: Sequence[str]) -> None:
    """Put a ReLU behind each of ``layers``."""
    for name in layers:
        model.set_submodule(name, nn.Sequential(model.get_submodule(name), nn.ReLU()))


def remove_biases(model: nn.Module, pairs: Sequence[tuple[str, str]]) -> None:
    """Take the bias off layers that feed a batch norm, and off what the batch norm has gathered: outputs stay."""
    for name, norm in pairs:
        layer: Any = model.get_submodule(name)
        gathered: Any = model.get_submodule(norm)
        if gathered.running_mean is not None and gathered.running_mean.shape == layer.bias.shape:
            gathered.running_mean.sub_(layer.bias.detach())
        layer.bias = None


def replace_batch_norms(model: nn.Module, norms: dict[str, bool]) -> None:
    """Put a norm with the same weight and bias in the place of batch norms, one that looks at each sample alone.

    Args:
        model: Where they are.
        norms: Their names, and whether each normalises rows (LayerNorm) or maps of channels (GroupNorm).
    """
    for name, of_rows in norms.items():
        old: Any = model.get_submodule(name)
        units = old.num_features
        groups = next(count for count in (8, 4, 2, 1) if (units % count == 0 and units >= 2 * count) or count == 1)
        new = nn.LayerNorm(units) if of_rows else nn.GroupNorm(groups, units)
        if old.affine:
            new.weight, new.bias = old.weight, old.bias  # what the optimizer holds
        model.set_submodule(name, new.train(old.training))


def hold(model: nn.Module, optimizer: Any) -> None:
    """Give the optimizer every trainable parameter of the model that it does not hold, in a group of its own."""
    if optimizer is None:
        raise ValueError("this remedy changes the optimizer: pass it, remedy.apply(model, optimizer)")
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    loose = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in held]
    if loose:
        optimizer.add_param_group({"params": loose})


def unfreeze(model: nn.Module, optimizer: Any, layers: Sequence[str]) -> None:
    """Ask for gradients of ``layers`` and let the optimizer hold them."""
    for name in layers:
        model.get_submodule(name).requires_grad_(True)
    hold(model, optimizer)


def register_lists(model: nn.Module, optimizer: Any) -> None:
    """Turn plain lists and dicts of modules into registered ones, and give their parameters to the optimizer."""
    for module in list(model.modules()):
        for name, value in list(vars(module).items()):
            several = list(value.values()) if isinstance(value, dict) else value
            if name.startswith("_") or not isinstance(several, (list, tuple)) or not several:
                continue
            if all(isinstance(each, nn.Module) for each in several):
                delattr(module, name)
                setattr(module, name, nn.ModuleDict(value) if isinstance(value, dict) else nn.ModuleList(several))
    hold(model, optimizer)


def set_rate_of(model: nn.Module, optimizer: Any, parameters: Sequence[str], rate: float) -> None:
    """Give the param groups that hold parameters of these names this learning rate."""
    if optimizer is None:
        raise ValueError("this remedy changes the learning rate: pass the optimizer, remedy.apply(model, optimizer)")
    meant = {id(model.get_parameter(name)) for name in parameters}
    for group in optimizer.param_groups:
        if any(id(parameter) in meant for parameter in group["params"]):
            group["lr"] = rate


def set_weight_decay(optimizer: Any, value: float) -> None:
    """Give every param group this weight decay."""
    if optimizer is None:
        raise ValueError("this remedy changes the weight decay: pass the optimizer, remedy.apply(model, optimizer)")
    for group in optimizer.param_groups:
        group["weight_decay"] = value


def bound_weights(model: nn.Module, optimizer: Any, bounds: dict[str, float]) -> Any:
    """After each step scale the weights of these names down to at most this rms; returns the hook's handle."""
    if optimizer is None:
        raise ValueError("this remedy acts after each step: pass the optimizer, remedy.apply(model, optimizer)")

    def bound(*_: Any) -> None:
        with torch.no_grad():
            for name, rms in bounds.items():
                weight = model.get_parameter(name)
                weight.mul_((rms / weight.square().mean().sqrt()).clamp(max=1))

    bound()
    return optimizer.register_step_post_hook(bound)


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


def orthogonal_recurrence(layer: str) -> Remedy:
    """Recurrent weights that keep the length of the state."""
    return Remedy(
        action="Start with orthogonal recurrent weights, which keep the state's length, or use an LSTM or GRU",
        code=f'for name, weight in model.get_submodule("{layer}").named_parameters():\n'
        '    if "weight_hh" in name:\n        for gate in weight.data.split(weight.shape[1]):\n'
        "            nn.init.orthogonal_(gate)",
        source="Saxe et al. 2014, section 3; Pascanu et al. 2013, section 2",
        effect="state and gradients neither grow nor shrink from one time step to the next",
        treatment=functools.partial(_orthogonal_recurrence, layer=layer),
    )


def _orthogonal_recurrence(model: nn.Module, optimizer: Any, *, layer: str) -> None:
    for name, weight in model.get_submodule(layer).named_parameters():
        if "weight_hh" in name:
            for gate in weight.data.split(weight.shape[1]):
                nn.init.orthogonal_(gate)
            if optimizer is not None:
                optimizer.state.pop(weight, None)  # moments of the old weights would undo the new ones


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


def cosine_decay(steps: int) -> Remedy:
    """Let the learning rate fall to zero over the run."""
    return Remedy(
        action="Or plan it: decay the rate over the whole run along a cosine",
        code=f"scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max={steps})\n"
        "# T_max: all steps of the run; and scheduler.step() after each optimizer.step()",
        source="Loshchilov & Hutter 2017, SGDR",
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


def autocast_to_bfloat16(facts: Facts) -> Remedy:
    """Let autocast use bfloat16, which has the range of float32, in place of float16."""
    return Remedy(
        action="Use bfloat16 in place of float16: it has the range of float32, and needs no scaler",
        code="with torch.autocast(x.device.type, dtype=torch.bfloat16):\n    loss = loss_fn(model(x), y)",
        source="Kalamkar et al. 2019, A Study of BFLOAT16 for Deep Learning Training",
        effect="numbers down to 1e-38 and up to 3e38 are kept; on GPUs from Ampere on at full speed",
        treatment=_autocast_to_bfloat16,
    )


def _autocast_to_bfloat16(model: nn.Module, optimizer: Any) -> Any:
    """Change autocast's type whenever the model is called inside it; returns the handle that ends it."""
    return model.register_forward_pre_hook(_to_bfloat16)


def _to_bfloat16(module: nn.Module, args: Any) -> None:
    device = next(module.parameters()).device.type
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16:
        torch.set_autocast_dtype(device, torch.bfloat16)  # until autocast's end, which puts back what was before
        torch.clear_autocast_cache()


def weights_in_float32(kind: str) -> Remedy:
    """Keep the weights in float32 and compute in half precision by autocast."""
    dtype = kind if kind in ("float16", "bfloat16") else "bfloat16"
    return Remedy(
        action="Keep the weights in float32, and compute in half precision by autocast alone",
        code=f"model.float()  # before the optimizer is made\n"
        f"with torch.autocast(x.device.type, dtype=torch.{dtype}):\n    loss = loss_fn(model(x), y)",
        source="Micikevicius et al. 2018, section 3.1",
        effect="steps of a ten-millionth of a weight still count",
        treatment=_weights_in_float32,
    )


def _weights_in_float32(model: nn.Module, optimizer: Any) -> Any:
    """In place, and what is given to the model in half precision likewise; returns the handle that ends the latter."""
    model.float()
    model.zero_grad()
    for state in () if optimizer is None else optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16):
                state[name] = value.float()
    return model.register_forward_pre_hook(_given_in_float32)


def _given_in_float32(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    halves = (torch.bfloat16, torch.float16)
    return tuple(a.float() if isinstance(a, torch.Tensor) and a.dtype in halves else a for a in args)


def scale_weights(factors: Mapping[str, float], action: str, source: str, effect: str) -> Remedy:
    """Multiply weights and biases of layers, each by its factor; of attention layers those of queries and keys."""
    entries = "".join(f'\n    "{name}": {factor:.4g},' for name, factor in factors.items())
    return Remedy(
        action=action,
        code=f"factors = {{{entries}\n}}\n"
        "for name, factor in factors.items():\n"
        "    layer = model.get_submodule(name)\n"
        "    with torch.no_grad():\n"
        "        if isinstance(layer, nn.MultiheadAttention):\n"
        "            layer.in_proj_weight[: 2 * layer.embed_dim] *= factor  # queries and keys\n"
        "        else:\n"
        "            for parameter in layer.parameters(recurse=False):\n"
        "                parameter *= factor",
        source=source,
        effect=effect,
        treatment=functools.partial(_scale_weights, factors=dict(factors)),
    )


def _scale_weights(model: nn.Module, optimizer: Any, *, factors: dict[str, float]) -> None:
    with torch.no_grad():
        for name, factor in factors.items():
            layer: Any = model.get_submodule(name)
            if isinstance(layer, nn.MultiheadAttention):
                layer.in_proj_weight[: 2 * layer.embed_dim].mul_(factor)
            else:
                for parameter in layer.parameters(recurse=False):
                    parameter.mul_(factor)
            _forget(layer, optimizer)


def _forget(layer: nn.Module, optimizer: Any) -> None:
    """Moments of the old weights would undo the new ones."""
    for parameter in layer.parameters(recurse=False) if optimizer is not None else ():
        optimizer.state.pop(parameter, None)


def xavier_attention(layers: Sequence[str]) -> Remedy:
    """Initialise the query, key and value weights of attention layers as torch does."""
    return Remedy(
        action="Initialise query, key and value weights with Xavier",
        code=f"for name in {names_code(layers)}:\n"
        "    nn.init.xavier_uniform_(model.get_submodule(name).in_proj_weight)",
        source="Glorot & Bengio 2010, section 4.2; Vaswani et al. 2017, section 3.2.1",
        effect="logits of variance 1: each query attends to all keys until it has learned which count",
        treatment=functools.partial(_xavier_attention, layers=tuple(layers)),
    )


def _xavier_attention(model: nn.Module, optimizer: Any, *, layers: Sequence[str]) -> None:
    for name in layers:
        layer: Any = model.get_submodule(name)
        nn.init.xavier_uniform_(layer.in_proj_weight)
        _forget(layer, optimizer)


def orthogonal(layer: Layer) -> Remedy:
    """Initialise recurrent weights orthogonally, those of input with Xavier; ReLU keeps what the identity keeps."""
    return Remedy(
        action="Initialise the recurrent weights orthogonally (with the identity before ReLU), the others with Xavier",
        code=f"layer = model.get_submodule({layer.name!r})\n"
        'rectified = getattr(layer, "nonlinearity", "") == "relu"\n'
        "for name, weight in layer.named_parameters():\n"
        '    if "weight_hh" in name:\n'
        "        for gate in weight.data.split(layer.hidden_size):\n"
        "            (nn.init.eye_ if rectified else nn.init.orthogonal_)(gate)\n"
        '    elif "weight_ih" in name:\n'
        "        nn.init.xavier_uniform_(weight)",
        source="Saxe et al. 2014, section 4; Le et al. 2015, A simple way to initialize recurrent networks",
        effect="states and gradients keep their size from step to step",
        treatment=functools.partial(_orthogonal, name=layer.name),
    )


def _orthogonal(model: nn.Module, optimizer: Any, *, name: str) -> None:
    layer: Any = model.get_submodule(name)
    rectified = getattr(layer, "nonlinearity", "") == "relu"
    for key, weight in layer.named_parameters(recurse=False):
        if "weight_hh" in key:
            for gate in weight.data.split(layer.hidden_size):
                nn.init.eye_(gate) if rectified else nn.init.orthogonal_(gate)
        elif "weight_ih" in key:
            nn.init.xavier_uniform_(weight)
    _forget(layer, optimizer)


def remember(layer: Layer, length: int) -> Remedy:
    """Let a gated layer hold its state over ``length`` steps at first, by the bias of the gate that keeps it."""
    return Remedy(
        action=f"Let the gates keep their state over {length} steps at first: biases log(u), u from 1 to {length}",
        code=f"layer = model.get_submodule({layer.name!r})\n"
        "size = layer.hidden_size\n"
        "for name, bias in layer.named_parameters():\n"
        '    if "bias" in name:  # LSTM: the forget gate opens, the input gate closes; GRU: the update gate keeps\n'
        "        nn.init.zeros_(bias)\n"
        f"        keep = torch.rand(size, device=bias.device).mul({max(length - 2, 1)}).add(1).log()\n"
        '        if "bias_ih" in name:\n'
        "            bias.data[size : 2 * size] = keep\n"
        "            if isinstance(layer, nn.LSTM):\n"
        "                bias.data[:size] = -keep",
        source="Tallec & Ollivier 2018, Can recurrent neural networks warp time?; Jozefowicz et al. 2015, section 3",
        effect="the gradient at the first inputs is there from the first step on",
        treatment=functools.partial(_remember, name=layer.name, length=length),
    )


def _remember(model: nn.Module, optimizer: Any, *, name: str, length: int) -> None:
    layer: Any = model.get_submodule(name)
    size = layer.hidden_size
    with torch.no_grad():
        for key, bias in layer.named_parameters(recurse=False):
            if "bias" in key:
                bias.zero_()
                if "bias_ih" in key:
                    keep = torch.rand(size, device=bias.device).mul(max(length - 2, 1)).add(1).log()
                    bias[size : 2 * size] = keep
                    if isinstance(layer, nn.LSTM):
                        bias[:size] = -keep
    _forget(layer, optimizer)


def gated(layer: Layer, length: int) -> Remedy:
    """Put a GRU in the place of a plain recurrent layer, with gates that hold the state over ``length`` steps."""
    keep = remember(layer, length)
    return Remedy(
        action="Use a GRU in place of the plain recurrent layer: its gates can carry the state over many steps",
        code=f"old = model.get_submodule({layer.name!r})\n"
        "new = nn.GRU(old.input_size, old.hidden_size, old.num_layers, old.bias, old.batch_first, old.dropout,\n"
        "             old.bidirectional)\n"
        f"model.set_submodule({layer.name!r}, new)  # before the optimizer is made\n{keep.code}",
        source=f"Cho et al. 2014, section 2.3; {keep.source}",
        effect=keep.effect,
        treatment=functools.partial(_gated, name=layer.name, length=length) if layer.type == "RNN" else None,
    )


def _gated(model: nn.Module, optimizer: Any, *, name: str, length: int) -> None:
    old: Any = model.get_submodule(name)
    form = (old.num_layers, old.bias, old.batch_first, old.dropout, old.bidirectional)
    weight = old.weight_hh_l0
    new = nn.GRU(old.input_size, old.hidden_size, *form, device=weight.device, dtype=weight.dtype)
    new.train(old.training)
    model.set_submodule(name, new)
    _remember(model, None, name=name, length=length)
    fresh = dict(zip(map(id, old.parameters()), new.parameters(), strict=True))
    for group in optimizer.param_groups if optimizer is not None else ():
        group["params"] = [fresh.get(id(parameter), parameter) for parameter in group["params"]]
    _forget(old, optimizer)


def slow_groups(factors: Mapping[int, float]) -> Remedy:
    """Multiply the learning rates of some param groups, each by its factor."""
    groups = ", ".join(f"of group {index} {1 / factor:.3g}×" for index, factor in factors.items())
    return Remedy(
        action=f"Lower the learning rate {groups}",
        code="\n".join(f'optimizer.param_groups[{index}]["lr"] *= {factor:.6g}' for index, factor in factors.items()),
        source="Bengio 2012, Practical recommendations, section 3.1",
        treatment=functools.partial(_slow_groups, factors=dict(factors)),
    )


def _slow_groups(model: nn.Module, optimizer: Any, *, factors: dict[int, float]) -> None:
    if optimizer is None:
        raise ValueError("this remedy changes learning rates: pass the optimizer, remedy.apply(model, optimizer)")
    for index, factor in factors.items():
        optimizer.param_groups[index]["lr"] *= factor


def in_turn(first: Remedy, second: Remedy) -> Remedy:
    """Both, one after the other."""

    def treatment(model: nn.Module, optimizer: Any) -> None:
        first.apply(model, optimizer)
        second.apply(model, optimizer)

    return Remedy(
        action=f"{first.action}; then {second.action[:1].lower()}{second.action[1:]}",
        code=f"{first.code}\n{second.code}",
        source=f"{first.source}; {second.source}",
        effect=second.effect,
        treatment=treatment if first.applicable and second.applicable else None,
    )


def balance_experts(gate: Layer, experts: int) -> Remedy:
    """Fresh weights for a gate, and the gradient of a balance loss as large as its own while experts are unequal."""
    std = 0.1 * gate.fan_in**-0.5
    return Remedy(
        action="Initialise the gate anew, and give it the gradient of a balance loss",
        code=f"gate = model.get_submodule({gate.name!r})\n"
        f"nn.init.normal_(gate.weight, std={std:.3g})\n"
        "if gate.bias is not None:\n"
        "    nn.init.zeros_(gate.bias)\n\n"
        "def balanced(module, args, logits):\n"
        "    if not logits.requires_grad:\n"
        "        return\n"
        "    chances = logits.detach().softmax(-1).flatten(0, -2)\n"
        f"    load = F.one_hot(chances.argmax(-1), {experts}).to(chances).mean(0)\n"
        f"    excess = ({experts} * (load * chances.mean(0)).sum() - 1).clamp(0, 1)\n"
        "    push = chances * (load - (chances * load).sum(-1, keepdim=True))\n"
        "    push = (excess * push / push.norm().clamp_min(1e-12)).view_as(logits)\n"
        "    logits.register_hook(lambda gradient: gradient + 3 * gradient.norm() * push)\n\n"
        "gate.register_forward_hook(balanced)",
        source="Fedus et al. 2022, Switch Transformers, equation 4",
        effect="every expert gets rows to learn from; where all get the same, nothing is added",
        treatment=functools.partial(_balance_experts, name=gate.name, std=std),
    )


def _balance_experts(model: nn.Module, optimizer: Any, *, name: str, std: float) -> Any:
    gate: Any = model.get_submodule(name)
    nn.init.normal_(gate.weight, std=std)
    if gate.bias is not None:
        nn.init.zeros_(gate.bias)
    _forget(gate, optimizer)
    return gate.register_forward_hook(_balanced)


def _balanced(module: nn.Module, args: Any, logits: torch.Tensor) -> None:
    """Forward hook: add the gradient of experts * sum(load * mean chance), scaled to that of the logits."""
    if not logits.requires_grad:
        return
    chances = logits.detach().softmax(-1).flatten(0, -2)
    experts = chances.shape[-1]
    load = nn.functional.one_hot(chances.argmax(-1), experts).to(chances).mean(0)
    excess = (experts * (load * chances.mean(0)).sum() - 1).clamp(0, 1)
    push = chances * (load - (chances * load).sum(-1, keepdim=True))
    push = (excess * push / push.norm().clamp_min(1e-12)).view_as(logits)
    logits.register_hook(lambda gradient: gradient + 3 * gradient.norm() * push)


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
