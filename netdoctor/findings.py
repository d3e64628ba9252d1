"""What a rule sees and what netdoctor says: values that compare with ``==`` and know nothing of torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

from netdoctor.treatment import RemedyError, Treatment


class Severity(IntEnum):
    """How much a finding matters: a note informs, a warning costs quality or time, an error ruins the run."""

    NOTE = 10
    WARNING = 20
    ERROR = 30


@dataclass(frozen=True)
class Reading:
    """One number behind a finding.

    Attributes:
        name: What was measured, in the field's words ("gradient rms of fc1").
        value: The measured number.
        bound: The number it was held against, None where the value only informs.
        unit: Unit of both ("" for ratios).
        steps: First and last optimizer step that the number summarises.
    """

    name: str
    value: float
    bound: float | None = None
    unit: str = ""
    steps: tuple[int, int] = (0, 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "value": _number(self.value),
            "bound": None if self.bound is None else _number(self.bound),
            "unit": self.unit,
            "steps": [int(step) for step in self.steps],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Reading:
        """The inverse of `to_dict`."""
        bound, (first, last) = data["bound"], data["steps"]
        number = None if bound is None else float(bound)
        return cls(str(data["name"]), float(data["value"]), number, str(data["unit"]), (int(first), int(last)))


@dataclass(frozen=True)
class Remedy:
    """One way to cure a finding.

    Attributes:
        action: What to do, one imperative sentence.
        code: Python that does it to this very model, ready to paste.
        source: Where the advice comes from (paper, section).
        effect: What to expect of it.
        treatment: Carries it out: a `netdoctor.remedies.Procedure`, or a function ``treatment(model, optimizer)``. None
            where it takes a human hand.
        restart: Whether it only helps from the start: build model and optimizer anew, apply it there, train again.
        unbounded: Whether what it cures is a loss without a lower bound: a lower loss then tells of no better remedy.
    """

    action: str
    code: str = ""
    source: str = ""
    effect: str = ""
    treatment: Callable[[Any, Any], object] | None = field(default=None, compare=False, repr=False)
    restart: bool = False
    unbounded: bool = False

    @property
    def applicable(self) -> bool:
        """Whether `apply` can carry the remedy out, as far as can be told without looking at the model."""
        return self.treatment is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the treatment itself is left out."""
        return {
            "action": self.action,
            "code": self.code,
            "source": self.source,
            "effect": self.effect,
            "applicable": self.applicable,
            "restart": self.restart,
            "unbounded": self.unbounded,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Remedy:
        """The inverse of `to_dict`, without a treatment."""
        return cls(
            str(data["action"]),
            str(data["code"]),
            str(data["source"]),
            str(data["effect"]),
            restart=bool(data.get("restart", False)),
            unbounded=bool(data.get("unbounded", False)),
        )

    def apply(self, model: Any, optimizer: Any = None, loss_fn: Any = None) -> Treatment:
        """Carry the remedy out in place, on a new or half-trained model.

        Args:
            model: A ``torch.nn.Module``.
            optimizer: What trains it; the remedies that change it, or its memory of old weights, need it.
            loss_fn: The criterion module, for remedies that change that.

        Returns:
            What was changed, with the way back: ``undo()``.

        Raises:
            RemedyError: The remedy needs a human hand, or cannot be sure on this model; nothing was changed. It says
                why, and its ``code`` what to change.
        """
        if self.treatment is None:
            raise RemedyError(
                f"this remedy cannot be applied automatically: {self.action}. "
                f"Change the program as its .code says:\n{self.code}"
            )
        from netdoctor.remedies.procedure import carry_out  # which imports torch

        return carry_out(self.treatment, self.action, model, optimizer, loss_fn)


@dataclass(frozen=True)
class Evidence:
    """What a rule yields when it recognises its disease.

    Attributes:
        message: One sentence with the numbers.
        layers: Dotted module names, the most responsible first; empty for the whole model.
        readings: The numbers behind the message.
        confidence: Probability that this is the cause, 0 to 1.
        remedies: The best first.
        severity: Overrides the rule's own severity.
    """

    message: str
    layers: tuple[str, ...] = ()
    readings: tuple[Reading, ...] = ()
    confidence: float = 0.9
    remedies: tuple[Remedy, ...] = ()
    severity: Severity | None = None


@dataclass(frozen=True)
class Skipped:
    """A rule that cannot judge, and why: "too early" is not "healthy"."""

    reason: str
    rule: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"rule": self.rule, "reason": self.reason}


@dataclass(frozen=True)
class Finding:
    """One disease of the training, with the symptoms that it explains.

    Attributes:
        rule: Slug of the rule ("vanishing-gradient").
        severity: NOTE, WARNING or ERROR.
        step: Optimizer step at which it was found, from 1.
        message: One sentence with the numbers.
        layers: Dotted module names, the most responsible first; empty for the whole model.
        readings: The numbers behind the message.
        confidence: Probability that this is the cause, 0 to 1.
        remedies: The best first.
        symptoms: Findings that this one causes; cure this one and they go.
    """

    rule: str
    severity: Severity
    step: int
    message: str
    layers: tuple[str, ...] = ()
    readings: tuple[Reading, ...] = ()
    confidence: float = 0.9
    remedies: tuple[Remedy, ...] = ()
    symptoms: tuple[Finding, ...] = ()

    def expecting(self, effects: Mapping[str, str]) -> Finding:
        """The same with other effects of its remedies, and of its symptoms', by action."""
        if not effects:
            return self
        remedies = tuple(replace(r, effect=effects.get(r.action, r.effect)) for r in self.remedies)
        return replace(self, remedies=remedies, symptoms=tuple(each.expecting(effects) for each in self.symptoms))

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from netdoctor.notebook import finding_html

        return finding_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; numbers that JSON lacks are the strings "NaN", "Infinity" and "-Infinity"."""
        return {
            "rule": self.rule,
            "severity": self.severity.name,
            "step": int(self.step),
            "message": self.message,
            "layers": list(self.layers),
            "readings": [reading.to_dict() for reading in self.readings],
            "confidence": _number(self.confidence),
            "remedies": [remedy.to_dict() for remedy in self.remedies],
            "symptoms": [symptom.to_dict() for symptom in self.symptoms],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Finding:
        """The inverse of `to_dict`, but that remedies cannot be applied: the model is not there."""
        return cls(
            rule=str(data["rule"]),
            severity=Severity[data["severity"]],
            step=int(data["step"]),
            message=str(data["message"]),
            layers=tuple(map(str, data["layers"])),
            readings=tuple(Reading.from_dict(reading) for reading in data["readings"]),
            confidence=float(data["confidence"]),
            remedies=tuple(Remedy.from_dict(remedy) for remedy in data["remedies"]),
            symptoms=tuple(cls.from_dict(symptom) for symptom in data["symptoms"]),
        )


@dataclass(frozen=True)
class Diagnosis:
    """The verdict at one step.

    Attributes:
        step: Optimizer step of the verdict.
        findings: The worst first, symptoms under their causes.
        skipped: Rules that could not judge, and why.
    """

    step: int
    findings: tuple[Finding, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    @property
    def healthy(self) -> bool:
        """No finding of severity warning or error. Read ``skipped`` for what could not be judged."""
        return all(finding.severity < Severity.WARNING for finding in self.findings)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from netdoctor.notebook import diagnosis_html

        return diagnosis_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, as in `Finding.to_dict`."""
        return {
            "step": int(self.step),
            "healthy": self.healthy,
            "findings": [finding.to_dict() for finding in self.findings],
            "skipped": [skipped.to_dict() for skipped in self.skipped],
        }


def _number(value: float) -> float | str:
    """What JSON can hold: NaN and the infinities by name, so that ``float()`` gives them back."""
    number = float(value)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return number
