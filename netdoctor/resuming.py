"""What a checkpoint keeps of a run, so that a monitor of the same model goes on from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from netdoctor.history import History


def state_of(history: History, step: int) -> dict[str, Any]:
    """A run that has made ``step`` steps: numbers and a tensor, which ``torch.load(weights_only=True)`` reads."""
    data = bytearray(history.to_bytes())
    return {"step": step, "history": torch.frombuffer(data, dtype=torch.uint8)}


def history_of(state: Mapping[str, Any], present: History) -> tuple[History, int]:
    """The history in a state and the steps made, ready to be gone on with.

    Args:
        state: What `state_of` returned.
        present: The history that it is to take the place of; its facts tell of the model.

    Raises:
        ValueError: The state is none, is damaged, or is of another model.
    """
    data, step = state.get("history"), state.get("step")
    if not isinstance(data, torch.Tensor) or data.dtype != torch.uint8 or not isinstance(step, int):
        raise ValueError(f"no state of a netdoctor monitor: it holds {sorted(state)}; pass what state_dict() returned")
    history = History.from_bytes(data.cpu().numpy().tobytes())
    before, now = ({(p.name, p.shape) for p in facts.parameters} for facts in (history.facts, present.facts))
    layers = [{layer.name for layer in facts.layers} for facts in (history.facts, present.facts)]
    if before != now or layers[0] != layers[1]:
        differing = sorted({name for name, _ in before ^ now} | (layers[0] ^ layers[1]))
        raise ValueError(
            f"the state is of another model: they differ in {', '.join(differing[:3])}"
            f"{f' and {len(differing) - 3} more' if len(differing) > 3 else ''}"
        )
    history.context["resumed"] = step
    return history, step
