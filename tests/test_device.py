"""A sampled step never waits for the device, seen without one.

The model lives on torch's meta device, which has no values: whatever would wait for a value raises there, in netdoctor
as on CUDA. What a copy between devices waits for is told by the operations themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.twins import MODELS, logits, silent


class Waiting(TorchDispatchMode):
    """Raises where netdoctor copies between devices, or indexes with what is on another one, and would wait for it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _caller() == "netdoctor":
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            devices = {tensor.device.type for tensor in tensors if tensor.ndim}  # numbers are passed as they are
            if func is torch.ops.aten._to_copy.default and not kwargs.get("non_blocking"):
                devices |= {tensors[0].device.type, torch.device(kwargs.get("device") or tensors[0].device).type}
            if len(devices) > 1:
                raise RuntimeError(f"{func} waits: it is given what is on {sorted(devices)}")
        if func is torch.ops.aten.reciprocal.default and not isinstance(args[0], Tensor):
            args = (torch.tensor(float(args[0])),)  # a number that autograd has saved as a tensor comes as a number
        return func(*args, **kwargs)


def _caller() -> str:
    """Who computes: netdoctor, its one way to send arrays without waiting, or the program."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name, function = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        if name == "netdoctor.probes.transfer" and function == "sent":
            return "sent"
        if name.startswith("netdoctor.") and function not in ("backward", "loss_function", "step"):
            return "netdoctor"
        frame = frame.f_back
    return "program"


@contextmanager
def valueless(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.Tensor, "is_meta", False)  # else netdoctor leaves such tensors out
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())  # there is none on meta
    with Waiting():
        yield


def classify(output: Tensor) -> Tensor:
    return F.cross_entropy(output, torch.zeros(len(output), dtype=torch.long, device="meta"))


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "cross-entropy": classify,
    "accumulated": lambda output: classify(output) / 4,
    "mse": lambda output: F.mse_loss(output, torch.zeros(output.shape, device="meta")),
    "l1": lambda output: F.l1_loss(output, torch.zeros(output.shape, device="meta")),
    "smooth l1": lambda output: F.smooth_l1_loss(output, torch.zeros(output.shape, device="meta")),
    "by hand": lambda output: (output - torch.zeros(output.shape, device="meta")).square().mean(),
    "binary": lambda output: F.binary_cross_entropy_with_logits(output, torch.zeros(output.shape, device="meta")),
    "classes by hand": lambda output: -output.log_softmax(1)[:, 0].mean(),
}


def train(model: nn.Module, loss_of: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What failed of netdoctor in some steps and a validation."""
    model = model.to("meta")
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    monitor = silent(model, every=1)
    with valueless(monkeypatch):
        for _ in range(6):
            loss_of(logits(model(torch.zeros(8, 12, device="meta")))).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False)
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            loss_of(logits(model(torch.zeros(8, 12, device="meta"))))
        monitor.observe(torch.zeros((), device="meta"), val_loss=torch.zeros((), device="meta"))
    assert monitor.step == 6
    faults = dict(monitor.faults)
    assert monitor._recorder._readings.waiting == 6 or faults
    monitor._recorder.close()
    monitor.closed = True
    return faults


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(MODELS[name](), classify, monkeypatch) == {}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(MODELS["mlp"](), LOSSES[name], monkeypatch) == {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = MODELS["mlp"]().to(dtype)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(x.to(dtype))
            return out.float()

    assert train(Half(), classify, monkeypatch) == {}


def test_waiting_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of the tests: a value that is asked for, a copy that waits."""
    from netdoctor.probes import norms

    for waits in (lambda modules: float(torch.zeros((), device="meta")), lambda modules: torch.zeros(3).to("meta")):
        monkeypatch.setattr(norms, "running", waits)
        assert train(MODELS["mlp"](), classify, monkeypatch) != {}
