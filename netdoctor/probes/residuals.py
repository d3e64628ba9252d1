"""Whether what the model gets wrong has structure: the errors of samples that lie next to each other, compared."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from netdoctor.loss_path import Path

ROWS = 64  # samples of a batch
FEATURES = 1024  # of an input, and values of an error
FEWEST = 8  # samples: of fewer none is near another


def agreement(path: Path, given: Tensor) -> Tensor | None:
    """Correlation of each sample's error with that of its nearest neighbour among the batch's inputs, a 0-d tensor.

    Noise in the targets differs between neighbours, what the model could not express is common to them: 0 where all is
    learned that the inputs tell, up to 1 where it is not. None where the loss or the input do not show it.

    References: lack-of-fit tests with near replicates (Christensen 1989; Miller et al. 1998); von Neumann's ratio.
    """
    if not given.is_floating_point() or given.ndim < 2 or len(given) < FEWEST:
        return None
    errors = _errors(path)
    if errors is None or errors.shape[0] != given.shape[0]:
        return None
    count = min(len(given), ROWS)
    errors = errors[:count].float().reshape(count, -1)[:, :FEATURES]
    inputs = given[:count].detach().float().flatten(1)
    inputs = inputs[:, :: -(-inputs.shape[1] // FEATURES)]
    distances = torch.cdist(inputs, inputs)
    distances = distances.masked_fill(distances <= 1e-6 * distances.amax(), torch.inf)  # a sample drawn twice, itself
    nearest = distances.argmin(1)
    errors = errors - errors.mean(0)
    return (errors * errors[nearest]).sum() / errors.square().sum()


def _errors(path: Path) -> Tensor | None:
    """Prediction minus target of each sample, [batch, …]."""
    node = path.loss_node
    if node is None or "_saved_target" not in dir(node):
        return None
    output: Tensor = node._saved_self.detach()
    target: Tensor = node._saved_target.detach()
    kind = path.kind
    if kind in ("cross-entropy", "nll"):
        if output.ndim != 2:
            return None
        valid = (target != node._saved_ignore_index).unsqueeze(1)
        wanted = F.one_hot(target.clamp(0, output.shape[1] - 1), output.shape[1])
        errors: Tensor = (output.exp() - wanted) * valid
        return errors
    if output.shape != target.shape or not output.ndim:
        return None
    if kind == "binary-cross-entropy-with-logits":
        return output.sigmoid() - target
    return output - target if kind in ("binary-cross-entropy", "mse", "smooth-l1") else None
