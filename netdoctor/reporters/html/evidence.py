"""Which picture shows the evidence of a finding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from netdoctor.findings import Finding
from netdoctor.history import History
from netdoctor.reporters.html.figures.layers_by_steps import drawable
from netdoctor.reporters.html.naming import titled
from netdoctor.reporters.html.thumbnails import over_layers, over_run, over_weights

When = Literal["first", "last", "run"]

# Disease: the statistic that shows it, and when: over the layers at the first or the last sample, or over the run.
PICTURES: dict[str, tuple[str, When]] = {
    "poor-initialization": ("activation_signal", "first"),
    "symmetric-initialization": ("unit_spread", "first"),
    "unnormalized-input": ("input_rms", "first"),
    "constant-input": ("input_signal", "first"),
    "vanishing-gradient": ("gradient_rms", "last"),
    "exploding-gradient": ("gradient_norm", "run"),
    "noisy-gradient": ("cosine", "run"),
    "stale-gradient": ("gradient_norm", "run"),
    "gradient-underflow": ("gradient_rms", "last"),
    "loss-scale-collapse": ("loss", "run"),
    "replicas-diverged": ("replica_spread", "last"),
    "no-gradient": ("gradient_rms", "last"),
    "dead-units": ("dead_share", "last"),
    "saturated-units": ("saturated_share", "last"),
    "covariate-shift": ("input_mean", "last"),
    "representation-collapse": ("activation_signal", "last"),
    "logit-growth": ("attention_logit", "last"),
    "attention-collapse": ("softmax_entropy", "last"),
    "expert-imbalance": ("softmax_balance", "last"),
    "learning-rate-too-small": ("update_ratio", "run"),
    "learning-rate-too-large": ("update_ratio", "run"),
    "weights-not-updated": ("update_ratio", "last"),
    "weight-growth": ("weight_rms", "last"),
    "missing-nonlinearity": ("activation_std", "first"),
    "excess-dropout": ("activation_std", "first"),
    "dropout-before-batchnorm": ("activation_std", "first"),
    "bias-before-batchnorm": ("gradient_rms", "last"),
    "small-batch-batchnorm": ("input_mean", "last"),
    "wrong-mode": ("loss", "run"),
    "over-regularized": ("weight_rms", "last"),
    "non-finite": ("loss", "run"),
    "oscillating-loss": ("loss", "run"),
    "loss-plateau": ("loss", "run"),
    "loss-spike": ("loss", "run"),
    "diverging-loss": ("loss", "run"),
    "not-learning": ("loss", "run"),
    "overfitting": ("loss", "run"),
    "underfitting": ("loss", "run"),
    "train-val-mismatch": ("loss", "run"),
    "unexpected-initial-loss": ("loss", "run"),
    "unnormalized-target": ("loss", "run"),
    "class-imbalance": ("loss", "run"),
    "constant-output": ("loss", "run"),
    "redundant-softmax": ("loss", "run"),
    "silent-broadcast": ("loss", "run"),
    "summed-loss": ("update_ratio", "first"),
    "loss-mismatch": ("loss", "run"),
    "wrong-output-activation": ("loss", "run"),
    "mixed-samples": ("loss", "run"),
    "input-not-used": ("gradient_rms", "last"),
    "class-collapse": ("loss", "run"),
}
HOMES = {  # the picture of each statistic of the run
    "loss": "loss",
    "val_loss": "loss",
    "constant_loss": "loss",
    "gradient_norm": "gradient-norm",
    "clipped_gradient_norm": "gradient-norm",
    "cosine": "cosine",
    "learning_rate": "learning-rate",
    "update_ratio": "updates",
}
TABLE = "table-layers"


@dataclass(frozen=True)
class Picture:
    """Where to look.

    Attributes:
        anchor: Of the picture, or of the table of layers.
        title: What it shows.
        statistic: That the map of layers and steps should show, "" where another picture is meant.
        small: A small picture for the finding's card, None where there is nothing to draw.
    """

    anchor: str
    title: str
    statistic: str = ""
    small: dict[str, Any] | None = None


def picture_of(finding: Finding, history: History) -> Picture | None:
    """The picture of a finding's evidence; for a rule that is not known here the layers it names, else the loss."""
    statistic, when = PICTURES.get(finding.rule, ("", "run"))
    if when != "run" and drawable(history, statistic):
        return Picture(
            "figure-layers", titled(statistic), statistic, over_layers(finding, history, statistic, when == "first")
        )
    if statistic == "update_ratio" and drawable(history, statistic):
        return Picture("figure-updates", "Size of the steps", "", over_weights(finding, history))
    if statistic not in ("", "loss") and when == "run" and len(history.series(statistic)[0]):
        return Picture(f"figure-{HOMES[statistic]}", titled(statistic), "", over_run(finding, history, statistic))
    if finding.layers and not statistic and history.facts.layers:
        return Picture(TABLE, "Layers")
    if len(history.table("loss")) or len(history.table("val_loss")):
        return Picture("figure-loss", "Loss", "", over_run(finding, history, "loss"))
    return Picture(TABLE, "Layers") if history.facts.layers else None
