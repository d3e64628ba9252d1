"""Moves small results to the host, and small arrays to the device, without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


def sent(array: ArrayLike, device: torch.device) -> Tensor:
    """An array on a device: to CUDA from pinned memory, for from other memory the host would wait for it."""
    tensor = torch.from_numpy(np.array(array))  # a copy: the device may read it later
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def together(tensors: Sequence[Tensor]) -> Tensor:
    """``torch.stack`` of what may lie on several devices, on one that is not the CPU, for copies to it can be async."""
    if len({tensor.device for tensor in tensors}) > 1:
        device = next(tensor.device for tensor in tensors if tensor.device.type != "cpu")
        tensors = [tensor.to(device, non_blocking=True) for tensor in tensors]
    return torch.stack(list(tensors))


class Transfer:
    """The way of one tensor to the host: from a CUDA device through pinned memory, in the background.

    On the CPU the tensor is there at once and shared. Other devices are read when `numpy` is called.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if tensor.device.type == "cuda":
            host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
            host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensor.device))
            tensor = host
        self._tensor = tensor

    @property
    def ready(self) -> bool:
        """Whether `numpy` would not wait."""
        return self._tensor.device.type == "cpu" and (self._event is None or self._event.query())

    def numpy(self) -> NDArray[Any]:
        """The values; waits for them where they are not there yet."""
        if self._event is not None:
            self._event.synchronize()
        array: NDArray[Any] = self._tensor.cpu().numpy()
        return array
