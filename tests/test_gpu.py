"""On a CUDA device: sampled steps do not wait for it, and leave the training as it is.

`tests/test_device.py` holds the first on machines without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netdoctor import Monitor
from netdoctor.probes.transfer import Transfer, sent
from tests.twins import MODELS, Checkpointed, faults, logits, same, silent

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    torch.cuda.set_sync_debug_mode("default")
    torch.use_deterministic_algorithms(False)


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(16, 12, device="cuda"), torch.randint(0, 4, (16,), device="cuda")) for _ in range(count)]


def train(model: nn.Module, optimizer: Any, count: int, scaler: Any = None, dtype: Any = None) -> list[Tensor]:
    """Losses and weights of steps that do not wait by themselves."""
    seen = []
    for x, y in batches(count):
        with torch.autocast("cuda", dtype, enabled=dtype is not None):
            loss = F.cross_entropy(logits(model(x)), y)
        (loss if scaler is None else scaler.scale(loss)).backward()
        optimizer.step() if scaler is None else scaler.step(optimizer)
        if scaler is not None:
            scaler.update()
        optimizer.zero_grad()
        seen.append(loss.detach())
    return [*seen, *(parameter.detach() for parameter in model.parameters())]


def without_waiting(model: nn.Module, optimizer: Any, **options: Any) -> Monitor:
    """The monitor after steps that were all sampled; whatever waits raises, which netdoctor tells as a fault."""
    monitor = silent(model, every=1)
    train(model, optimizer, 3, **options)  # buffers are made, kernels loaded
    torch.cuda.set_sync_debug_mode("error")
    train(model, optimizer, 30, **options)
    torch.cuda.set_sync_debug_mode("default")
    assert faults(monitor) == []
    assert monitor.step == 33
    for name in ("loss", "activation_rms", "gradient_norm", "update_rms", "learning_rate", "effective_rank"):
        assert len(monitor.history.table(name)), name
    assert len(monitor.history.table("activation_rms")) == 33
    monitor.close()
    return monitor


@pytest.mark.parametrize("make", [make for make in MODELS.values() if make is not Checkpointed])
def test_sampled_steps_do_not_wait(make: Callable[[], nn.Module]) -> None:
    model = make().cuda()
    without_waiting(model, torch.optim.Adam(model.parameters(), 1e-2))


def test_a_learning_rate_on_the_device() -> None:
    model = MODELS["mlp"]().cuda()
    rate = torch.full((), 1e-2, device="cuda")
    monitor = without_waiting(model, torch.optim.Adam(model.parameters(), rate, capturable=True))
    assert monitor.history.latest("learning_rate")["0"] == pytest.approx(1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision(dtype: torch.dtype) -> None:
    """A fused optimizer takes the scale off by itself; others let the scaler wait."""
    model = MODELS["mlp"]().cuda()
    scaler = torch.amp.GradScaler("cuda", enabled=dtype is torch.float16)
    without_waiting(model, torch.optim.Adam(model.parameters(), 1e-2, fused=True), scaler=scaler, dtype=dtype)


def test_half_precision_weights() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = MODELS["mlp"]().bfloat16()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(x.bfloat16())
            return out.float()

    model = Half().cuda()
    without_waiting(model, torch.optim.SGD(model.parameters(), 1e-2))


@pytest.mark.parametrize("name", MODELS)
def test_training_is_bit_identical(name: str) -> None:
    results = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = MODELS[name]().cuda()
        monitor = silent(model, every=1) if watched else None
        results.append(train(model, torch.optim.Adam(model.parameters(), 1e-2), 20))
        if monitor is not None:
            assert faults(monitor) == []
            monitor.close()
    assert same(*results)


def test_deterministic_algorithms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    model = MODELS["mlp"]().cuda()
    with silent(model, every=1) as monitor:
        train(model, torch.optim.Adam(model.parameters(), 1e-2), 5)
        for x, _ in batches(3):
            F.l1_loss(model(x), torch.randn(16, 4, device="cuda")).backward()
        assert faults(monitor) == []


def test_transfers() -> None:
    there = sent([1, 2, 3], torch.device("cuda"))
    back = Transfer(there)
    assert back.numpy().tolist() == [1, 2, 3]
    assert back.ready
    assert back._tensor.is_pinned()
