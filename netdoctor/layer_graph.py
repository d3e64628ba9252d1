"""How the layers of one model hang together: read from autograd's graph, and from the samples where that is hidden."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from netdoctor import structure
from netdoctor.history import History
from netdoctor.loss_path import Path, describe_loss
from netdoctor.nodes import Node
from netdoctor.probes import softmaxes
from netdoctor.probes.activations import ActivationProbe
from netdoctor.probes.lineage import Lineage
from netdoctor.probes.optimizers import Holdings
from netdoctor.probes.readings import Readings
from netdoctor.stretches import stretches


class LayerGraph:
    """Puts what it learns into the facts of a history.

    Attributes:
        history: Of the model.
        guessed: Layers of which nothing tells what feeds them.
        softmaxes: Those of the step that was read last, where it was a thorough one.
    """

    def __init__(self, history: History, activations: ActivationProbe, readings: Readings, holdings: Holdings) -> None:
        self.history = history
        self.guessed: list[str] = []
        self.softmaxes: softmaxes.Softmaxes | None = None
        self._activations, self._readings, self._holdings = activations, readings, holdings
        self._known = 0  # called layers when the graph was read last
        self._partial: structure.Graph | None = None  # with hidden parts, until the step is sampled
        self._lineage: Lineage | None = None  # what tells of these parts
        self._strangers: list[weakref.ref[nn.Parameter]] = []  # parameters between the layers that are not the model's
        self._names: Mapping[int, str] = {}

    def read(self, root: Node, names: Mapping[int, str]) -> Path:
        """Learn the graph where there is something new, and the softmaxes.

        Args:
            root: Of the loss's graph, in a step whose layers are traced.
            names: Of the model's parameters, by ``id``.

        Returns:
            The path from the loss to the last layer.
        """
        probe = self._activations
        graph = structure.trace(root, probe.nodes, *probe.transparent)
        self._names = names
        told = graph.inputs or graph.hidden or probe.compiled  # else it is the loss of another model
        if len(probe.forms) > self._known and told:  # a branch may be called later
            if graph.hidden or probe.compiled:
                if not self.history.facts.loss.nodes:
                    loss = describe_loss(graph.path)
                    self.history.facts = self.history.facts.with_changes(loss=loss)
                self._partial = structure.without_nodes(graph)
            else:
                self._learn(graph)
        found = softmaxes.describe(graph.upstream, graph.path.nodes, probe.nodes, probe.layers, names)
        self.softmaxes = found or self.softmaxes
        return graph.path

    def read_again(self) -> None:
        """Have the graph read anew at the next chance: parameters were thawed or replaced."""
        self._known = 0

    def sampled(self) -> None:
        """The step that was read is sampled."""
        if self._partial is not None:
            self._lineage, self._partial = self._activations.trace_back(self._partial), None
            self.arrive(wait=False)

    def arrive(self, wait: bool) -> None:
        """Learn what the samples tell of the hidden parts, once these have arrived."""
        lineage = self._lineage
        if lineage is not None and (wait or lineage.ready):
            self._lineage = None
            self._learn(lineage.read())
            self.guessed = lineage.guessed

    def loose(self) -> int:
        """How many parameters between the layers neither the model nor an optimizer holds."""
        return self._holdings.count_loose(self._strangers)

    def _learn(self, graph: structure.Graph) -> None:
        probe = self._activations
        ids = {name: identity for identity, name in self._names.items()}
        facts = structure.learn(self.history.facts, graph, ids, probe.forms)
        between = stretches(graph, probe.nodes, probe.transparent[1], self._names)
        self._strangers = [weakref.ref(parameter) for parameter in between.strangers]
        layers = tuple(
            replace(
                layer,
                straight=layer.straight or layer.name in between.straight,
                dropouts=between.dropouts.get(layer.name, layer.dropouts),
                ungraded=not layer.called and layer.name in probe.ungraded,
            )
            for layer in facts.layers
        )
        self.history.facts = facts.with_changes(
            layers=layers, input_floating=probe.input_floating, batch=probe.batch, strangers=self.loose()
        )
        self._readings.arrange([layer.name for layer in facts.layers])
        probe.bind(facts.layers)
        self._known = len(probe.forms)
