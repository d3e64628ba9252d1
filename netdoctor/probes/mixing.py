"""Whether the answer to a sample depends on the other samples of its batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from netdoctor.probes.sampling import first_tensor

FEWEST = 4  # samples a batch from which it is looked at: two answers have no spread to speak of


def sample_mixing(model: nn.Module, inputs: Any) -> float | None:
    """Change of the first sample's answer when the others change places, over the spread of the answers.

    In evaluation mode, where BatchNorm does not mix. None where it cannot be told: the batch is not the first
    dimension, an input is the same for all samples or a relation between them, or the model fails without gradients.
    """
    tensors = [value for value in _values(inputs) if isinstance(value, Tensor)]
    size = tensors[0].shape[0] if tensors and tensors[0].ndim else 0
    if size < FEWEST or any(not t.ndim or t.shape[0] != size or t.shape[1:2] == (size,) for t in tensors):
        return None
    if any(getattr(module, "batch_first", True) is False for module in model.modules()):
        return None
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            state = torch.get_rng_state()
            answers = _answers(model, inputs, size)
            torch.set_rng_state(state)  # the same noise, where the model draws some
            moved = _answers(model, _others_rolled(inputs), size)
    except Exception:  # noqa: BLE001  # a model that only runs in training, as those of detection
        return None
    finally:
        for module, mode in modes.items():
            module.training = mode
    if answers is None or moved is None or answers.shape != moved.shape or answers.shape[1:2] == (size,):
        return None  # an answer a pair of samples is a relation between them
    spread = float((answers - answers.mean(0)).abs().amax())
    change = float((answers[0] - moved[0]).abs().amax())
    return change / spread if spread > 0 else None


def exchanged(given: Tensor | None) -> bool:
    """Whether a tensor is a view whose first two dimensions are those of the tensor behind it the other way round.

    Both in the order of memory: `transpose` changes the strides, and a copy of what it gives is no view.
    """
    if given is None or given.ndim < 3 or given.shape[0] == given.shape[1] or 1 in given.shape[:2]:
        return False
    return _shape_behind(given) == (given.shape[1], given.shape[0], *given.shape[2:])


def _shape_behind(view: Tensor) -> tuple[int, ...] | None:
    """Shape of what `view` or `reshape` was called on; without gradients, of the tensor that owns the memory."""
    node: Any = view.grad_fn
    owner = view._base
    if node is not None:
        viewed = node.name().startswith(("ViewBackward", "UnsafeViewBackward"))
        return tuple(node._saved_self_sym_sizes) if viewed else None
    return tuple(owner.shape) if owner is not None and owner.is_contiguous() and view.is_contiguous() else None


def _answers(model: nn.Module, inputs: Any, size: int) -> Tensor | None:
    """The output, a row a sample; None where it has another form."""
    if isinstance(inputs, Mapping):
        output = model(**inputs)
    else:
        output = model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)
    candidates = output.values() if isinstance(output, Mapping) else (output,)
    for candidate in candidates:
        answer = first_tensor(candidate)
        if answer is not None and answer.ndim and answer.shape[0] == size:
            return answer.detach().float()
    return None


def _values(inputs: Any) -> list[Any]:
    if isinstance(inputs, Mapping):
        return list(inputs.values())
    return list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]


def _others_rolled(inputs: Any) -> Any:
    """The first sample where it was, all others one place further."""
    if isinstance(inputs, Mapping):
        return {name: _others_rolled(value) for name, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(_others_rolled(value) for value in inputs)
    return torch.cat((inputs[:1], inputs[1:].roll(1, 0))) if isinstance(inputs, Tensor) else inputs
