"""Forward hooks that sample activations, and tensor hooks that sample their gradients.

A hook stays on its module until `close` and costs one flag test while nothing is sampled. Full backward hooks are not
used: they fail on in-place operations and keep torch.compile from working.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from threading import get_ident
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from netdoctor.facts import WEIGHTED, Layer
from netdoctor.probes.anatomy import unit_axis
from netdoctor.probes.sampling import UNITS, Samples, first_tensor, plain
from netdoctor.statistics import ACTIVATIONS, INPUTS, SATURATION, Array, Mask, compute, reduce_samples, unpack
from netdoctor.structure import Node

DEAD_WINDOW = 10  # samples without output before a unit counts as dead: 640 inputs and more


class ForwardHook:
    """Samples one module's output; copies and pickles of the module carry a stub that does nothing."""

    def __init__(self, probe: ActivationProbe | None, slot: int) -> None:
        self.probe = probe
        self.slot = slot

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if torch.compiler.is_dynamo_compiling():  # first: a guard on what follows would compile the model again
            return
        probe = self.probe
        if probe is None or not probe.on:
            return
        probe.forward(self.slot, module, args, output)

    def __deepcopy__(self, memo: dict[int, Any]) -> ForwardHook:
        return ForwardHook(None, self.slot)

    def __reduce__(self) -> tuple[Any, ...]:
        return ForwardHook, (None, self.slot)


class PassHook:
    """Counts the forward passes of the root and remembers whether the last one had gradients."""

    def __init__(self, probe: ActivationProbe | None) -> None:
        self.probe = probe

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if torch.compiler.is_dynamo_compiling():
            return
        probe = self.probe
        if probe is not None and "_is_replica" not in module.__dict__:  # DataParallel's, on threads of their own
            probe.passes += 1
            probe.thread = get_ident()
            probe.last_pass_with_gradients = torch.is_grad_enabled()

    def __deepcopy__(self, memo: dict[int, Any]) -> PassHook:
        return PassHook(None)

    def __reduce__(self) -> tuple[Any, ...]:
        return PassHook, (None,)


class GradientHook:
    """Samples the gradient that arrives at one output."""

    def __init__(self, probe: ActivationProbe, slot: int, axis: int) -> None:
        self.probe = probe
        self.slot = slot
        self.axis = axis

    def __call__(self, gradient: Tensor) -> None:
        self.probe.backward(self.slot, gradient, self.axis)


class ActivationProbe:
    """Activations of the watched layers and the gradients at their outputs, on sampled steps.

    Args:
        modules: Module of each layer by name.
        layers: Their facts, in the same order: a layer's place is its slot.
        fail: Called with an exception that happened in here; sampling stops for good.

    Attributes:
        on: Whether this step is sampled; an instance attribute that every hook reads.
        passes: Forward passes of the root so far.
        thread: Which thread trains the model: the one that ran the last of them.
        spent: Seconds spent in the hooks since it was last reset.
        layers: Their facts; a layer's place is its slot.
        order: Slots in order of execution.
        nodes: Autograd node of each layer's output, kept only while ``tracing``.
    """

    def __init__(
        self, modules: dict[str, nn.Module], layers: tuple[Layer, ...], fail: Callable[[str, Exception], None]
    ) -> None:
        self.on = False
        self.tracing = True
        self.passes = 0
        self.last_pass_with_gradients = True
        self.thread = get_ident()
        self.spent = 0.0
        self.order: list[int] = []
        self.nodes: dict[Node, int] = {}
        self.input_floating: bool | None = None
        self.batch = 0
        self._fail = fail
        self.layers = layers
        self._handles: list[RemovableHandle] = []
        self._axes = [unit_axis(layer.kind, modules[layer.name]) for layer in layers]
        self._axis_of_shape: dict[torch.Size, int] = {}
        self._pass_of = [-1] * len(layers)
        self._input_slots: dict[int, int] = {}
        for slot, layer in enumerate(layers):
            if layer.kind in WEIGHTED or layer.kind in ("norm", "other"):
                self._input_slots[slot] = len(layers) + len(self._input_slots)
        self._sources: dict[int, int] = {}  # layer slot -> slot that holds its input
        self._seen: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}  # id -> tensor, version, slot
        self.activations = Samples(len(layers) + len(self._input_slots))
        self.gradients = Samples(len(layers))
        self._last_active = np.zeros((len(layers), 0), np.int64)
        self._samples = np.zeros(len(layers), np.int64)
        self._bounds: dict[torch.device, Tensor | None] = {}
        self._bounded = np.zeros(len(layers), np.bool_)

    def attach(self, model: nn.Module, modules: dict[str, nn.Module]) -> None:
        """Install one hook on each layer and one on the root."""
        for slot, layer in enumerate(self.layers):
            self._handles.append(modules[layer.name].register_forward_hook(ForwardHook(self, slot)))
        self._handles.append(model.register_forward_hook(PassHook(self)))

    def detach(self) -> None:
        """Remove every hook; the user's own stay."""
        self.on = False
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.nodes.clear()

    def forward(self, slot: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Sample one call of a layer: the first of each forward pass; a later pass replaces an earlier one."""
        start = perf_counter()
        try:
            if (
                self._pass_of[slot] != self.passes
                and torch.is_grad_enabled()
                and torch._C._current_graph_task_id() == -1  # else a checkpoint's second forward
                and not torch.compiler.is_compiling()
                and torch._C._get_tracing_state() is None  # else of torch.jit.trace
                and not getattr(module, "_is_replica", False)
                and torch._C._functorch.peek_interpreter_stack() is None
            ):
                self._sample(slot, args, output)
        except Exception as error:  # noqa: BLE001  # whatever it is, the user's forward pass goes on
            self._fail("activations", error)
        self.spent += perf_counter() - start

    def backward(self, slot: int, gradient: Tensor, axis: int) -> None:
        """Sample the gradient at a layer's output."""
        start = perf_counter()
        try:
            local = plain(gradient)
            if self.on and local is not None:
                self.gradients.store(slot, local, axis)
        except Exception as error:  # noqa: BLE001
            self._fail("activation gradients", error)
        self.spent += perf_counter() - start

    def _sample(self, slot: int, args: tuple[Any, ...], output: Any) -> None:
        given = first_tensor(args)
        if not self.order and args:
            leaf = args[0] if isinstance(args[0], Tensor) else given
            if leaf is not None:
                self.input_floating = leaf.is_floating_point()
                self.batch = leaf.shape[0] if leaf.ndim else 0
        if given is not None and slot in self._input_slots:
            self._sample_input(slot, given)
        produced = first_tensor(output)
        local = None if produced is None else plain(produced)
        if produced is None or local is None:
            return
        if self._samples[slot] == 0 and slot not in self.order:
            self.order.append(slot)
        self._pass_of[slot] = self.passes
        axis = self._axis(slot, local)
        self.activations.store(slot, local, axis)
        self._seen[id(produced)] = (weakref.ref(produced), produced._version, slot)
        if produced.requires_grad:
            if self.tracing and produced.grad_fn is not None:
                self.nodes.setdefault(produced.grad_fn, slot)  # a container's output is its last layer's
            if self.layers[slot].kind in WEIGHTED:  # what nonlinearities and norms get, the layer before gets too
                produced.register_hook(GradientHook(self, slot, axis))

    def _sample_input(self, slot: int, given: Tensor) -> None:
        seen = self._seen.get(id(given))
        if seen is not None and seen[0]() is given and seen[1] == given._version:
            self._sources[slot] = seen[2]  # the output of the layer before, sampled already
            return
        local = plain(given)
        if local is not None:
            axis = self._axes[slot]
            axis = -1 if axis is None or local.ndim <= axis else axis
            self.activations.store(self._input_slots[slot], local, axis)
            self._sources[slot] = self._input_slots[slot]

    def _axis(self, slot: int, output: Tensor) -> int:
        """Dimension over units: the layer's own, else that of the last layer with an output of this shape."""
        axis = self._axes[slot]
        if axis is None:
            return self._axis_of_shape.get(output.shape, 1 if output.ndim >= 4 else -1)
        axis = -1 if output.ndim <= axis else axis
        self._axis_of_shape[output.shape] = axis
        return axis

    def begin(self, on: bool) -> None:
        """Start a step, sampled or not."""
        self.activations.clear()
        self.gradients.clear()
        self._sources.clear()
        self._seen.clear()
        self._pass_of = [-1] * len(self.layers)  # a model whose methods are called has no passes that could be counted
        self.on = on

    def bind(self, layers: tuple[Layer, ...]) -> None:
        """Take over what the graph told of the layers: the nonlinearities decide where saturation is counted."""
        known = {layer.name: layer.nonlinearity for layer in layers}
        bounds = [SATURATION.get(known.get(layer.name, ""), np.inf) for layer in self.layers]
        bounds += [np.inf] * len(self._input_slots)
        bounded = any(np.isfinite(bounds))
        self._bounds = {
            device: torch.tensor(bounds, dtype=torch.float32, device=device) if bounded else None
            for device in self.activations.values
        }
        self._bounded = np.isfinite(bounds[: len(self.layers)])

    def measure(self) -> dict[str, Array]:
        """Statistics of every layer, in slot order; NaN where a layer was not called."""
        layers = len(self.layers)
        if not self.activations.values:
            return {}
        sums = np.zeros((self.activations.slots, 5 + UNITS))
        for device, values in self.activations.values.items():
            here = self.activations.on(device)
            sums[here] = reduce_samples(values, self._bounds.get(device)).cpu().numpy()[here]
        filled = self.activations.filled
        rows = np.where(filled, self.activations.rows, 0)
        everything = unpack(sums, rows, self.activations.units)
        of_all = compute(ACTIVATIONS, everything)
        measured = {name: values[:layers] for name, values in of_all.items()}
        measured["saturated_share"] = np.where(self._bounded, measured["saturated_share"], np.nan)
        measured["dead_share"] = self._dead_share(everything.unit_high[:layers], filled[:layers])
        measured["non_finite_activation"] = np.where(
            filled[:layers], ~np.isfinite(everything.squares[:layers]), np.nan
        ).astype(float)
        source = np.array([self._sources.get(slot, -1) for slot in range(layers)])
        for statistic in INPUTS:  # an input is some layer's output, or was sampled like one
            same = of_all[statistic.name.replace("input", "activation")]
            measured[statistic.name] = np.where(source >= 0, same[source], np.nan)
        measured["activation_gradient_rms"] = self._gradient_rms()
        return measured

    def _gradient_rms(self) -> Array:
        result = np.full(len(self.layers), np.nan)
        count = self.gradients.rows * self.gradients.units
        for values in self.gradients.values.values():
            norm = torch.linalg.vector_norm(values.flatten(1), dim=1).cpu().numpy().astype(float)
            filled = self.gradients.filled & (count > 0)
            result[filled] = norm[filled] / np.sqrt(count[filled])
        return result

    def _dead_share(self, unit_high: Array, filled: Mask) -> Array:
        """Share of units without output above 0 in the last `DEAD_WINDOW` samples; NaN before there were as many."""
        if self._last_active.shape != unit_high.shape:
            self._last_active = np.zeros(unit_high.shape, np.int64)
        self._samples += filled.astype(np.int64)
        active = ~(unit_high <= 0) & filled[:, None]  # NaN is not silence
        self._last_active = np.where(active, self._samples[:, None], self._last_active)
        units = np.maximum(self.activations.units[: len(filled)], 1)
        inside = np.arange(unit_high.shape[1])[None, :] < units[:, None]
        dead = (self._samples[:, None] - self._last_active >= DEAD_WINDOW) & inside
        known = (self._samples >= DEAD_WINDOW) & filled
        return np.where(known, dead.sum(1) / units, np.nan)
