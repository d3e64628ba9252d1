"""The clinic itself: names that exist, bounds in time, a case for every disease."""

from __future__ import annotations

import pytest
import torch

from netdoctor.rules import ALL
from tests.clinic.case import Case
from tests.clinic.catalogue import cases

DISEASES = {
    *("poor-initialization", "symmetric-initialization", "unexpected-initial-loss", "unnormalized-input"),
    *("unnormalized-target", "constant-input", "input-not-used", "vanishing-gradient", "exploding-gradient"),
    *("non-finite", "no-gradient", "stale-gradient", "noisy-gradient", "gradient-underflow", "loss-scale-collapse"),
    *("dead-units", "saturated-units", "covariate-shift", "representation-collapse", "attention-collapse"),
    *("logit-growth", "expert-imbalance", "learning-rate-too-small", "learning-rate-too-large", "oscillating-loss"),
    *("loss-plateau", "weights-not-updated", "weight-growth", "over-regularized", "not-learning", "diverging-loss"),
    *("loss-spike", "overfitting", "underfitting", "train-val-mismatch", "class-imbalance", "class-collapse"),
    *("missing-nonlinearity", "redundant-softmax", "wrong-output-activation", "constant-output", "loss-mismatch"),
    *("silent-broadcast", "excess-dropout", "dropout-before-batchnorm", "bias-before-batchnorm"),
    *("small-batch-batchnorm", "wrong-mode", "summed-loss", "mixed-samples"),
}
ELSEWHERE = {"replicas-diverged"}  # needs processes


def test_every_disease_has_its_cases() -> None:
    causes = [cause for case in cases("sick").values() for cause in case.causes]
    assert set(causes) == DISEASES
    assert {rule.slug for rule in ALL} <= DISEASES | ELSEWHERE


@pytest.mark.parametrize("case", cases("sick").values(), ids=lambda case: case.name)
def test_guilty_layers_exist_and_the_finding_is_due_within_the_run(case: Case) -> None:
    assert 0 < case.by <= case.steps
    if case.layers:
        torch.manual_seed(0)
        assert {*case.layers} <= {name for name, _ in case.build(True).model.named_modules()}
