"""Moves small results to the host without waiting for the device."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


class Transfer:
    """The way of one tensor to the host: from a CUDA device through pinned memory, in the background.

    On the CPU the tensor is there at once and shared. Other devices are read when `numpy` is called.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if tensor.device.type == "cuda":
            host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
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
