"""What a model consists of: its layers and parameters, before any step."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import UninitializedParameter

from netdoctor.facts import WEIGHTED, Layer, Parameter

_FUNCTIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.LeakyReLU: "leaky_relu",
    nn.PReLU: "leaky_relu",
    nn.RReLU: "leaky_relu",
    nn.ELU: "elu",
    nn.CELU: "elu",
    nn.SELU: "selu",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.Mish: "mish",
    nn.Hardswish: "hardswish",
    nn.Hardtanh: "hardtanh",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Softplus: "softplus",
    nn.Softsign: "softsign",
    nn.Sigmoid: "sigmoid",
    nn.LogSigmoid: "logsigmoid",
    nn.Tanh: "tanh",
    nn.Softmax: "softmax",
    nn.Softmax2d: "softmax",
    nn.LogSoftmax: "log_softmax",
}
WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")  # what torch puts around a module
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)


def activation_function(module: nn.Module) -> str:
    """Name of the nonlinearity that a module computes ("relu"), "" where it is none; own classes go by their name."""
    for kind, name in _FUNCTIONS.items():
        if isinstance(module, kind):
            return name
    if not any(True for _ in module.parameters()) and not any(True for _ in module.children()):
        words = type(module).__name__.lower()
        for name in ("gelu", "silu", "swish", "sigmoid", "tanh", "softmax", "relu"):
            if name in words:
                return "silu" if name == "swish" else name
    return ""


def layer_kind(module: nn.Module) -> str:
    """linear, conv, recurrent, attention, embedding, norm, activation, dropout or other."""
    if isinstance(module, (nn.Linear, nn.Bilinear)) or type(module).__name__ == "Conv1D":
        return "linear"
    if isinstance(module, _ConvNd):
        return "conv"
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return "recurrent"
    if isinstance(module, nn.MultiheadAttention):
        return "attention"
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "embedding"
    if isinstance(module, _NORMS) or "Norm" in type(module).__name__:
        return "norm"
    if dropout_rate(module) is not None:
        return "dropout"
    return "activation" if activation_function(module) else "other"


def dropout_rate(module: nn.Module) -> float | None:
    """Probability with which a dropout layer drops a unit; None for other modules."""
    if isinstance(module, _DropoutNd):
        return float(module.p)
    return None


def inner_dropout(module: nn.Module) -> float:
    """Probability of the dropout inside recurrent layers and attention, 0 for other modules."""
    if isinstance(module, nn.RNNBase):
        return float(module.dropout) if module.num_layers > 1 else 0.0
    return float(module.dropout) if isinstance(module, nn.MultiheadAttention) else 0.0


def fans(module: nn.Module) -> tuple[int, int, int]:
    """(fan-in, fan-out, units) of a layer; zeros where it has none."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features, module.out_features
    if isinstance(module, _ConvNd):
        taps = prod(module.kernel_size)
        into = module.in_channels // module.groups * taps
        out = module.out_channels // module.groups * taps
        if isinstance(module, _ConvTransposeNd):  # each output is reached by taps / stride of the kernel
            into = max(1, into // prod(module.stride))
        return into, out, module.out_channels
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return int(module.input_size), int(module.hidden_size), int(module.hidden_size)
    if isinstance(module, nn.MultiheadAttention):
        return module.embed_dim, module.embed_dim, module.embed_dim
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return 0, 0, module.embedding_dim
    weight = getattr(module, "weight", None)
    if type(module).__name__ == "Conv1D" and weight is not None:  # transformers: weight is (in, out)
        return weight.shape[0], weight.shape[1], weight.shape[1]
    if isinstance(weight, nn.Parameter) and weight.ndim == 1:
        return 0, 0, weight.shape[0]
    return 0, 0, 0


def unit_axis(kind: str, module: nn.Module) -> int | None:
    """Dimension of the output that runs over units; None where it is that of the layer before."""
    if kind == "conv" or isinstance(module, (_NormBase, nn.GroupNorm)):
        return 1
    return None if kind in ("activation", "dropout", "other") else -1


def unwrapped(module: nn.Module) -> nn.Module:
    """The model inside what torch wraps around models."""
    while True:
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):  # torch.compile
            module = inner
        else:
            return module


def plain_name(name: str) -> str:
    """A dotted name without what `torch.compile` and wrappers inside the model add; lookups find it all the same."""
    if "_" not in name:
        return name
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def watched_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules worth hooking: those with parameters, nonlinearities, norms and dropout; a shared one once."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        around = plain_name(name.rpartition(".")[0])
        if name and found.get(around) is not model and isinstance(found.get(around), nn.MultiheadAttention):
            continue  # its out_proj is used as a weight, never called
        owns = any(p is not None for p in module._parameters.values())
        if owns or layer_kind(module) in ("norm", "activation", "dropout"):
            found[plain_name(name)] = module
    return found


def describe_layers(modules: dict[str, nn.Module]) -> tuple[Layer, ...]:
    """Facts of each watched module."""
    layers = []
    for name, module in modules.items():
        fan_in, fan_out, units = fans(module)
        kind = layer_kind(module)
        function, rate = activation_function(module), dropout_rate(module) or inner_dropout(module)
        first = kind in ("recurrent", "attention") and getattr(module, "batch_first", True) is False
        described = Layer(name, kind, type(module).__name__, function, fan_in, fan_out, units, rate=rate)
        momentum = (module.momentum or 0.0) if isinstance(module, _BatchNorm) else 0.0
        layers.append(replace(described, momentum=momentum, time_first=first))
    return tuple(layers)


def describe_parameters(model: nn.Module) -> dict[str, tuple[nn.Parameter, Parameter]]:
    """Each parameter of the model, tied ones once, with its facts; lazy ones that have no shape yet are left out."""
    modules = {plain_name(name): module for name, module in model.named_modules()}  # what is wrapped comes last
    found = {}
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            continue
        name = plain_name(name)
        owner, _, leaf = name.rpartition(".")
        kind = layer_kind(modules[owner])
        if kind in ("norm", "embedding"):
            role = kind
        elif parameter.ndim < 2:
            role = "bias" if "bias" in leaf else "other"
        else:
            role = "weight" if kind in WEIGHTED else "other"
        found[name] = (parameter, Parameter(name, owner, tuple(parameter.shape), role, parameter.requires_grad))
    return found
