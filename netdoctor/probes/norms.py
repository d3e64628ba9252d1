"""What batch norms will use in evaluation mode, against what they see in training; and which layers know the mode."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from netdoctor.probes.named import Named, named


def running(modules: Iterable[tuple[str, nn.Module]]) -> Named | None:
    """Mean and standard deviation over all units that each batch norm in training mode has gathered for evaluation."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    with torch.no_grad():
        for name, module in modules:
            if isinstance(module, _BatchNorm) and module.training and module.running_mean is not None:
                mean, variance = module.running_mean.float(), module.running_var
                if variance is not None:
                    spread = variance.float().mean() + mean.square().mean() - mean.mean().square()
                    found[name] = mean.mean(), spread.clamp_min(0).sqrt()
    return named(("running_mean", "running_std"), found)


def training_share(modules: Iterable[nn.Module]) -> float | None:
    """Share of the dropout layers and batch norms that are in training mode; None where there are none."""
    modes = [
        module.training
        for module in modules
        if (isinstance(module, _DropoutNd) and module.p > 0)
        or (isinstance(module, _BatchNorm) and module.running_mean is not None)
    ]
    return sum(modes) / len(modes) if modes else None
