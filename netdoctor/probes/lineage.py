"""Which layer feeds which, told by their values: where autograd's graph is hidden by a compiler or a checkpoint.

A layer whose sampled input equals another's sampled output takes it as it is, or through the nonlinearity that makes
them equal. Where nothing fits, for two paths are added or the tensor is reshaped, a layer is taken to follow the one
that ran before it, on a path that others join.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from netdoctor.facts import Layer
from netdoctor.probes.sampling import Samples
from netdoctor.probes.transfer import Transfer
from netdoctor.structure import Graph

NEAR = 16  # layers that ran before, which are tried
FINE, COARSE = 1e-4, 1e-2  # relative tolerance of a function in full precision, and in half: it has 3 digits
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "softplus": F.softplus,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
    "relu6": F.relu6,
}


@dataclass
class Lineage:
    """The samples of one step, on their way to the host.

    Args:
        graph: What autograd told; layers whose inputs it knows are left as they are.
        samples: Outputs of the layers, then inputs.
        layers: Facts of the layers in the order of their slots.
        dtypes: Of the output of those that were called, in order of execution.
        sources: Slot that holds the input of each layer, -1 where it was not seen.

    Attributes:
        guessed: Layers that nothing fits to, after `read`.
    """

    graph: Graph
    samples: Samples
    layers: Sequence[Layer]
    dtypes: Mapping[str, str]
    sources: NDArray[np.int64]
    guessed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._values = [Transfer(values.clone()) for values in self.samples.values.values()]
        self._on = [self.samples.on(device) for device in self.samples.values]
        self._rows, self._units = self.samples.rows.copy(), self.samples.units.copy()
        self._filled = self.samples.filled.copy()

    @property
    def ready(self) -> bool:
        """Whether the samples have arrived."""
        return all(values.ready for values in self._values)

    def read(self) -> Graph:
        """The graph with what the samples add to it."""
        slots = {layer.name: slot for slot, layer in enumerate(self.layers)}
        order = list(self.dtypes)
        outputs = {name: self._sample(slots[name]) for name in order}
        for place, name in enumerate(order):
            layer = self.layers[slots[name]]
            if place and not self.graph.inputs.get(name):
                before = list(reversed(order[max(place - NEAR, 0) : place]))
                self._link(layer, before, outputs, int(self.sources[slots[name]]))
        return self.graph

    def _link(self, layer: Layer, before: list[str], outputs: Mapping[str, Tensor | None], source: int) -> None:
        kinds = {each.name: each.kind for each in self.layers}
        through = [name for name in before if kinds[name] != "dropout"]
        if layer.kind == "dropout":
            found, function = before[0], "identity"
        elif layer.kind == "activation":
            functions = {layer.function: FUNCTIONS[layer.function]} if layer.function in FUNCTIONS else {}
            found, function = self._origin(outputs[layer.name], before, outputs, functions)
        else:
            given = self._sample(source) if source >= 0 else None
            found, function = self._origin(given, before, outputs, {"identity": lambda x: x, **FUNCTIONS})
        while kinds.get(found) == "dropout":  # stands between layers without separating them
            found = next(iter(self.graph.inputs.get(found, ())), "")
        if found:
            self.graph.inputs[layer.name] = (found,)
            if layer.kind != "dropout" and found not in self.graph.mixed:
                self.graph.nonlinearity.setdefault(found, function)
        elif through and layer.kind != "other":  # a module around layers only passes on
            self.graph.inputs[layer.name] = (through[0],)
            self.graph.mixed.add(through[0])
            self.guessed.append(layer.name)

    def _origin(
        self,
        given: Tensor | None,
        before: Sequence[str],
        outputs: Mapping[str, Tensor | None],
        functions: Mapping[str, Callable[[Tensor], Tensor]],
    ) -> tuple[str, str]:
        """The layer whose output is ``given``, and the function between; empty where there is none."""
        if given is None:
            return "", ""
        for name, function in functions.items():
            for source in before:
                output = outputs[source]
                if output is None or output.shape != given.shape:
                    continue
                exact = 0.0 if name == "identity" else FINE if self.dtypes[source] == "float32" else COARSE
                if _same(function(output[:1]), given[:1], exact) and _same(function(output), given, exact):
                    return source, name
        return "", ""

    def _sample(self, slot: int) -> Tensor | None:
        if not self._filled[slot]:
            return None
        for here, values in zip(self._on, self._values, strict=True):
            if here[slot]:
                return torch.from_numpy(values.numpy()[slot, : self._rows[slot], : self._units[slot]])
        return None


def _same(first: Tensor, second: Tensor, tolerance: float) -> bool:
    scale = float(second.abs().amax()) if second.numel() else 0.0
    return bool(torch.allclose(first, second, rtol=tolerance, atol=tolerance * scale * 0.1, equal_nan=True))
