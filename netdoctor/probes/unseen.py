"""What cannot be seen of a model, in sentences: where something was missed, nothing else may pass for healthy."""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from typing import TYPE_CHECKING

from torch import nn

from netdoctor.facts import spoken
from netdoctor.history import History
from netdoctor.probes import compiled

if TYPE_CHECKING:
    from netdoctor.probes.activations import ActivationProbe

SAMPLES = 3  # of the gradients before a layer that was never called is told of
NAMED = 3  # layers named in a sentence


def is_scripted(module: nn.Module) -> bool:
    """Whether a module is TorchScript: no hook can be put on it."""
    return any(kind.__name__ in ("ScriptModule", "TopLevelTracedModule") for kind in type(module).__mro__)


def is_callable(module: nn.Module) -> bool:
    """Whether a module can be called and hooked: a list of parameters cannot."""
    return not is_scripted(module) and type(module).forward is not nn.Module.forward


def sentences(history: History, activations: ActivationProbe, guessed: Sequence[str]) -> tuple[str, ...]:
    """All that cannot be seen of the model that a probe is on; of layers ``guessed`` nothing tells what feeds them."""
    silent = uncalled(history, *activations.called)
    told = []
    if activations.scripted:
        told.append(
            f"activations of {listed(activations.scripted)} are not seen: TorchScript takes no hooks; their weights are"
        )
    if silent:
        told.append(
            f"activations of {listed(silent)} are not seen, though gradients reach the weights: the module itself is "
            "not called (but its forward(), or what came in its place), or was compiled before the watch"
        )
    if guessed:
        told.append(
            f"what feeds {listed(guessed)} is not seen, in a compiled graph or a re-entrant checkpoint: taken for the "
            "layer that runs before"
        )
    if activations.compiled:
        told.extend(in_compiled_graphs(history.facts.loss.kind))
    return tuple(told)


def in_compiled_graphs(loss: str) -> tuple[str, ...]:
    """What `torch.compile` hides, for a model whose loss is of the given kind."""
    hidden = ["softmaxes inside compiled graphs, such as those of attention, are not seen"]
    if not loss:
        hidden.append(
            "the kind of a loss that is computed in a compiled graph is not seen, nor are predictions and targets: "
            "monitor.observe(output=…, target=…) tells them"
        )
    if not compiled.GRADIENTS:
        hidden.append("gradients at the outputs of compiled layers are not seen before torch 2.13")
    return tuple(hidden)


def uncalled(history: History, seen: Container[str], callable_layers: Collection[str]) -> tuple[str, ...]:
    """Layers that were never called, though their weights get gradients.

    Args:
        history: Of the run.
        seen: Names of the layers that were called.
        callable_layers: Names of those that can be.
    """
    if len(history.table("gradient_rms")) < SAMPLES:
        return ()
    gradients = history.latest("gradient_rms")
    alive = {p.layer for p in history.facts.parameters if gradients.get(p.name, 0.0) > 0}
    return tuple(name for name in callable_layers if name in alive and name not in seen)


def listed(layers: Sequence[str]) -> str:
    """Some names of layers in a sentence: "fc1, fc2, fc3 and 4 more"."""
    more = f" and {len(layers) - NAMED} more" if len(layers) > NAMED else ""
    return ", ".join(spoken(layer) for layer in layers[:NAMED]) + more
