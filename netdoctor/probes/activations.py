"""Activations of the watched layers and the gradients at their outputs, on sampled steps."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Collection, Container
from threading import get_ident
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._C import _current_graph_task_id as graph_task
from torch._C import _get_tracing_state as tracing
from torch._C import _set_grad_enabled as set_gradients
from torch._C._functorch import peek_interpreter_stack as transforming
from torch.compiler import is_compiling
from torch.utils.hooks import RemovableHandle

from netdoctor.facts import WEIGHTED, Layer
from netdoctor.nodes import Node
from netdoctor.probes import memory, repeats
from netdoctor.probes.anatomy import unit_axis
from netdoctor.probes.blocks import Block
from netdoctor.probes.comparisons import ELEMENTS
from netdoctor.probes.compiled import ROOT, Marked, forget
from netdoctor.probes.hooks import ForwardHook, GradientHook, PassHook
from netdoctor.probes.lineage import Lineage
from netdoctor.probes.mixing import exchanged
from netdoctor.probes.planes import Planes
from netdoctor.probes.ranks import enclosing
from netdoctor.probes.reductions import reduce_gradients, reduce_layers
from netdoctor.probes.sampled import LayerSample
from netdoctor.probes.sampling import first_tensor, plain
from netdoctor.probes.sharding import Span, Split, along, block_of, input_block, pending
from netdoctor.probes.thorough import ThoroughSample
from netdoctor.probes.transfer import Transfer, sent
from netdoctor.probes.unseen import is_callable, is_scripted
from netdoctor.probes.waiting import Waiting
from netdoctor.statistics import SATURATION
from netdoctor.structure import Form, Graph

BLANK = 3  # sampled steps without a call after which the layers pass for unseen
HOOKED = (*WEIGHTED, "embedding")  # kinds at whose output the gradient is sampled
LAST = 4  # outputs kept: those of the last layers, and of a generator or a discriminator that is called before
NOTHING = Transfer(torch.zeros(0, 2, device="cpu"))  # the sums of no gradients
PASSES = 4  # of a step, the last ones, whose graph is kept: those before belong to an evaluation or a rollout


class ActivationProbe:
    """Activations of the watched layers and the gradients at their outputs, on sampled steps.

    Args:
        modules: Module of each layer by name.
        layers: Their facts, in the same order: a layer's place is its slot.
        fail: Called with an exception that happened in here; sampling stops for good.
        planes: Steps whose samples are reduced together.

    Attributes:
        on: Whether this step is sampled; an instance attribute that every hook reads.
        passes: Forward passes of the root so far, those in rest left out.
        counting: Whether passes are counted in rest too.
        compiled: Slots of the layers that run in compiled graphs; that of the root comes after the layers.
        thread: Which thread trains the model: the one that ran the last of them.
        spent: Seconds spent in the hooks since it was last reset.
        layers: Their facts; a layer's place is its slot.
        forms: In order of execution, of each layer's output at its first call.
        given: The input of the root's last pass, in sampled steps or without gradients, until it was looked at.
        fingerprints: Of the samples in the root's first pass with gradients, in sampled steps that ask for them.
        samples: In all such passes of such a step.
        ungraded: Names of the layers that ran without gradients inside a pass of the root with gradients.
        nodes: Autograd node of each layer's output with the layer's name, in steps that are traced.
        last: Autograd node of each weight layer's output likewise, in steps where predictions are read.
        outputs: What some of the last of them, and the root, made, by node.
        scripted: Names of the layers that take no hook.
        transparent: Names of the layers that are nonlinearities, and of those that are dropout.
        parallel: The DistributedDataParallel in which the root ran in the last sampled step.
        splits: Of the layers that several ranks compute together, by module, how.
        shared: Whether other ranks are asked for their samples.
    """

    def __init__(
        self,
        modules: dict[str, nn.Module],
        layers: tuple[Layer, ...],
        fail: Callable[[str, Exception], None],
        planes: int = 1,
    ) -> None:
        self.on = False
        self.passes = 0
        self.last_pass_with_gradients = True
        self.thread = get_ident()
        self.spent = 0.0
        self.forms: dict[str, Form] = {}
        self.given: Tensor | None = None
        self.fingerprints: Tensor | None = None
        self.samples = 0
        self.ungraded: set[str] = set()
        self._without: list[str] = []  # layers that ran without gradients since the root's last pass
        self.nodes: dict[Node, str] = {}
        self.last: dict[Node, str] = {}
        self.outputs: dict[Node, Tensor] = {}
        self.input_floating: bool | None = None
        self.batch = 0
        self._fail = fail
        self.layers = layers
        self.transparent = tuple({layer.name for layer in layers if layer.kind == k} for k in ("activation", "dropout"))
        self._waiting = Waiting()
        self._tracing = self._keeping = False
        self._recognising = True
        self._traced: deque[list[Node]] = deque([[]])  # nodes of the last passes, those of the present one last
        self.counting = False
        self.compiled: set[int] = set()
        self._modules: list[weakref.ref[nn.Module]] = []  # of each layer, then the root
        self._hooks: list[ForwardHook | PassHook] = []
        self._handles: list[RemovableHandle | None] = []
        self._resting = False
        self._blank = 0  # sampled steps in a row in which no hook was called
        self.scripted = tuple(name for name, module in modules.items() if is_scripted(module))
        self._callable = tuple(name for name, module in modules.items() if is_callable(module))
        self._axes = [unit_axis(layer.kind, modules[layer.name]) for layer in layers]
        self._axis_of_shape: dict[torch.Size, int] = {}
        self._pass_of = [-1] * len(layers)  # the pass of this step that was sampled; kept until the next sampled step
        self._input_slots: dict[int, int] = {}
        for slot, layer in enumerate(layers):
            if layer.kind in WEIGHTED or layer.kind in ("norm", "other"):
                self._input_slots[slot] = len(layers) + len(self._input_slots)
        self._sources = np.full(len(layers), -1)  # slot that holds the input of each layer
        self._evaluating = np.full(len(layers), np.nan)
        self._seen: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}  # id -> tensor, version, slot
        self._series: dict[int, Tensor] = {}  # slot -> input of a recurrent layer, in steps that are traced
        self._planes = (
            Planes(len(layers) + len(self._input_slots), count=planes),
            Planes(len(layers), count=planes),
        )
        self.activations, self.gradients = (planes.present for planes in self._planes)
        self._taken = False  # whether what the present planes hold has been handed on
        self._limits: dict[int, float] = {}  # slot -> bound of its elements, of those that feed a bounded nonlinearity
        self._bounds: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self.parallel: weakref.ref[nn.Module] | None = None
        self.splits: dict[nn.Module, Split] = {}
        self._spans: dict[torch.Size, Span] = {}  # of the last split layer with an output of this shape
        self.shared = False

    @property
    def called(self) -> tuple[Container[str], Collection[str]]:
        """Names of the layers that were called, none where no call is seen any more, and of those that could be."""
        return (*(self.forms if self._blank < BLANK else ()), *self.scripted), self._callable

    def attach(self, model: nn.Module, modules: dict[str, nn.Module]) -> None:
        """Install one hook on each layer and one on the root."""
        own = [modules[layer.name] for layer in self.layers]
        self._modules = [weakref.ref(module) for module in (*own, model)]
        weighted = [layer.kind in WEIGHTED for layer in self.layers]
        self._hooks = [ForwardHook(self, slot, Marked(self, slot, weighted[slot])) for slot in range(len(own))]
        self._hooks.append(PassHook(self, Marked(self, ROOT)))
        self._handles = [None] * len(self._hooks)
        self._install()

    def rest(self) -> None:
        """Take off the hooks until the next sampled step; those that torch.compile has taken in stay."""
        for place, handle in enumerate(self._handles):
            root = place == len(self.layers)
            called = self.passes > 0 and not self.counting if root else self.layers[place].name in self.forms
            if handle is not None and called and place not in self.compiled:
                handle.remove()
                self._handles[place] = None
        self._resting = True
        self.given = None

    def keep_counting(self) -> bool:
        """Count the passes in rest too, from now on; whether they were counted up to now."""
        counted, self.counting = self.counting or not self._resting, True
        if not counted:
            self._install()
        return counted

    def _install(self) -> None:
        """Put the hooks on that are off: in rest, that of the root alone."""
        hooked = False
        for place, reference in enumerate(self._modules):
            wanted = not self._resting or place == len(self.layers)
            module = reference() if wanted and self._handles[place] is None else None
            if module is not None and not is_scripted(module):
                whole = place == len(self.layers)
                self._handles[place] = module.register_forward_hook(self._hooks[place], with_kwargs=whole)
                hooked = True
        root = self._modules[-1]() if hooked else None
        if root is not None:
            forget(root)

    def detach(self) -> None:
        """Remove every hook for good; the user's own stay."""
        self.on = False
        self._waiting.forget()
        for handle in self._handles:
            if handle is not None:
                handle.remove()
        self._modules, self._hooks, self._handles = [], [], []
        self.nodes.clear()
        self.last.clear()
        self.outputs.clear()

    def forward(self, slot: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Sample one call of a layer: the first of each forward pass; a later pass replaces an earlier one."""
        start = perf_counter()
        try:
            if (
                self._due(slot)
                and "_is_replica" not in module.__dict__  # DataParallel's, on threads of their own
                and not is_compiling()
                and tracing() is None  # else of torch.jit.trace
                and transforming() is None
            ):
                if torch.is_grad_enabled():
                    if graph_task() == -1 and self._waiting.take(slot, module, args, output):
                        self._pass_of[slot] = self.passes
                        if self._waiting.full:
                            self._quietly(self._catch_up)
                    else:
                        self._quietly(self._sample_at_once, slot, module, args, output)
                else:
                    if graph_task() == -1:
                        self._without.append(self.layers[slot].name)
                    if module.training:
                        self._look_ahead(slot, output)
        except Exception as error:  # noqa: BLE001  # whatever it is, the user's forward pass goes on
            self._fail("activations", error)
        self.spent += perf_counter() - start

    @staticmethod
    def _quietly(sample: Callable[..., None], *args: Any) -> None:
        """Sample without gradients, where they are on; a with statement would take longer than what it guards."""
        set_gradients(False)
        try:
            sample(*args)
        finally:
            set_gradients(True)

    def _sample_at_once(self, slot: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._catch_up()
        self._sample(slot, module, args, output)
        if type(output) is Tensor and output.is_cpu:
            self._waiting.watch(slot, output)

    def _catch_up(self) -> None:
        """Sample what waits; without gradients only."""
        if not self._waiting.idle:
            calls, gradients = self._waiting.release()
            for call in calls:
                self._sample(call.slot, call.module, call.args, call.output)
            for each in gradients:
                self._sample_gradient(each.slot, each.tensor, each.axis)

    def settle(self) -> None:
        """Sample what waits, before a backward pass, after it, and before anything else that looks at the samples."""
        if self._waiting.idle:
            return
        start = perf_counter()
        try:
            with torch.no_grad():
                self._catch_up()
            self._waiting.learn()
        except Exception as error:  # noqa: BLE001
            self._fail("activations", error)
        self.spent += perf_counter() - start

    def passed(self, gradients: bool, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> None:
        """The root has run, with gradients or without."""
        self.settle()
        self.passes += 1
        self.thread = get_ident()
        self.last_pass_with_gradients = gradients
        if self._traced[-1]:
            self._traced.append([])
            if len(self._traced) > PASSES:
                self._let_go(self._traced.popleft())
        if self.on:
            parallel = enclosing()
            self.parallel = None if parallel is None else weakref.ref(parallel)
            if gradients and self._recognising:
                self._recognise((*args, *(kwargs or {}).values()))
        if self.on or not gradients:
            self.given = args[0].detach() if args and isinstance(args[0], Tensor) else None
            if gradients:
                self.ungraded.update(self._without)
            self._without.clear()

    def _recognise(self, given: tuple[Any, ...]) -> None:
        """Note what is needed to know the samples of a pass again: of the step's first one, which ones they are."""
        try:
            if tracing() is None and transforming() is None:
                start = perf_counter()
                self.samples += repeats.batch_size(given)
                if self.fingerprints is None:
                    self.fingerprints = repeats.fingerprints(given)
                self.spent += perf_counter() - start
        except Exception as error:  # noqa: BLE001
            self._fail("samples", error)

    def _let_go(self, nodes: list[Node]) -> None:
        for node in nodes:
            self.nodes.pop(node, None)
            self.last.pop(node, None)
            self.outputs.pop(node, None)

    def ran_compiled(self, slot: int, output: Tensor | None, given: Tensor | None) -> None:
        """A layer, or the root, has run in a compiled graph, with gradients."""
        start = perf_counter()
        try:
            self.compiled.add(slot if output is not None else len(self.layers))
            module = self._modules[slot]() if self.on and self._modules else None
            if output is None:
                self.passed(True)
            elif module is not None and self._due(slot):
                self.settle()
                self._seen.clear()  # compiled kernels write over tensors and leave no trace of it
                self._sample(slot, module, () if given is None else (given,), output)
                self._seen.clear()
        except Exception as error:  # noqa: BLE001  # an exception here would end the user's forward pass
            self._fail("activations of compiled layers", error)
        self.spent += perf_counter() - start

    def backward(
        self, slot: int, gradient: Tensor, axis: int, block: Block | None = None, at_once: bool = False
    ) -> None:
        """Sample the gradient at a layer's output."""
        start = perf_counter()
        try:
            if not self.on:
                pass
            elif torch.is_grad_enabled():  # create_graph=True
                self._quietly(self._sample_gradient, slot, gradient, axis, block)
            elif at_once or not self._waiting.take_gradient(slot, gradient, axis):
                self._sample_gradient(slot, gradient, axis, block)
            elif self._waiting.full:
                self._catch_up()
        except Exception as error:  # noqa: BLE001
            self._fail("activation gradients", error)
        self.spent += perf_counter() - start

    def _sample_gradient(self, slot: int, gradient: Tensor, axis: int, block: Block | None = None) -> None:
        local = plain(gradient)
        if local is not None:
            self.gradients.store(slot, local, axis, block)

    def answered(self, output: Any) -> None:
        """Keep what the root made, on steps where predictions are read."""
        try:
            if self._keeping and torch.is_grad_enabled() and tracing() is None and transforming() is None:
                produced = first_tensor(output)
                if produced is not None and produced.grad_fn is not None:
                    self._keep(produced)
        except Exception as error:  # noqa: BLE001
            self._fail("outputs", error)

    def _keep(self, produced: Tensor) -> None:
        """A loss written by hand may compare it with a target, and keeps the difference alone."""
        if type(produced) is Tensor and produced.numel() <= ELEMENTS:
            self.outputs.pop(produced.grad_fn, None)
            self.outputs[produced.grad_fn] = produced.detach()
            if len(self.outputs) > LAST:
                del self.outputs[next(iter(self.outputs))]

    def _sample(self, slot: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        given = args[0] if args else None
        if type(given) is not Tensor or not given.is_floating_point():
            given = first_tensor(args)
        if not self.forms and args:
            leaf = args[0] if isinstance(args[0], Tensor) else given
            if leaf is not None:
                self.input_floating = leaf.is_floating_point()
                self.batch = leaf.shape[0] if leaf.ndim else 0
        if given is not None and slot in self._input_slots:
            self._sample_input(slot, given)
        produced = output if type(output) is Tensor and output.is_floating_point() else first_tensor(output)
        local = None if produced is None else plain(produced)
        if produced is None or local is None:
            return
        reads = self.layers[slot].kind in ("recurrent", "attention")
        axis = self._note_form(slot, local, given if reads else None)
        block = None
        if self.splits or type(produced) is not Tensor:
            if pending(produced):
                return
            block = self._block(slot, module, produced, local, axis)
        self._pass_of[slot] = self.passes if graph_task() == -1 else max(self.passes - 1, 0)
        if self._tracing and self.layers[slot].kind == "recurrent" and args:
            series = memory.keep(module, args[0])
            if series is not None:
                self._series[slot] = series
        if self.layers[slot].kind in ("norm", "dropout"):
            self._evaluating[slot] = not module.training
        self.activations.store(slot, local, axis, block)
        self._seen[id(produced)] = (weakref.ref(produced), produced._version, slot)
        if produced.requires_grad:
            node = produced.grad_fn if self._tracing or self._keeping else None
            if node is not None:
                self._traced[-1].append(node)
            if self._tracing and node is not None:
                self.nodes.setdefault(node, self.layers[slot].name)  # a container's is its last layer's
            if self._keeping and node is not None and self.layers[slot].kind in WEIGHTED:
                self._keep(produced)
                self.last[node] = self.layers[slot].name
            if self.layers[slot].kind in HOOKED:  # what nonlinearities and norms get, the layer before gets too
                produced.register_hook(GradientHook(self, slot, axis, block))

    def _due(self, slot: int) -> bool:
        """Whether a layer is called for the first time in this pass: checkpoints call it again while backward runs."""
        if graph_task() == -1:
            return self._pass_of[slot] != self.passes
        return self._pass_of[slot] < max(self.passes - 1, 0)  # the pass is over and counted

    def _look_ahead(self, slot: int, output: Any) -> None:
        """Note the order of execution where a checkpoint runs its layers without gradients first."""
        produced = first_tensor(output)
        local = None if produced is None else plain(produced)
        if local is not None:
            self._note_form(slot, local)

    def _note_form(self, slot: int, output: Tensor, sequences: Tensor | None = None) -> int:
        """Dimension over units of a layer's output; what it looks like is noted at its first call."""
        axis, name = self.axis(slot, output), self.layers[slot].name
        if name not in self.forms:
            units = output.shape[axis] if output.ndim else 1
            dtype, batch = str(output.dtype).removeprefix("torch."), output.shape[0] if output.ndim else 0
            self.forms[name] = Form(output.numel() // max(units, 1), dtype, batch, exchanged(sequences))
        return axis

    def _sample_input(self, slot: int, given: Tensor) -> None:
        seen = self._seen.get(id(given))
        if seen is not None and seen[0]() is given and seen[1] == given._version:
            self._sources[slot] = seen[2]  # the output of the layer before, sampled already
            return
        local = plain(given)
        if local is not None:
            axis = self._axes[slot]
            axis = -1 if axis is None or local.ndim <= axis else axis
            block = block_of(given) if type(given) is not Tensor else None
            if block is None and self.splits:
                module = self._modules[slot]()
                block = input_block(self.splits.get(module) if module is not None else None, local, axis)
            self.activations.store(self._input_slots[slot], local, axis, block)
            self._sources[slot] = self._input_slots[slot]

    def _block(self, slot: int, module: nn.Module, produced: Tensor, local: Tensor, axis: int) -> Block | None:
        """Which part of a layer's output is on this rank."""
        block = block_of(produced) if type(produced) is not Tensor else None
        if block is not None:
            return block
        split = self.splits.get(module)
        if split is None and self._axes[slot] is None:  # a nonlinearity takes what stands before it
            return along(self._spans.get(local.shape), local, axis)
        span = None if split is None else split.output
        if span is None:
            self._spans.pop(local.shape, None)
        else:
            self._spans[local.shape] = span
        return along(span, local, axis)

    def divide(self, splits: dict[nn.Module, Split]) -> None:
        """Several ranks compute layers together; what was sampled in this step without knowing it is forgotten."""
        if splits != self.splits:
            self.splits = splits
            self.activations.clear()
            self.gradients.clear()

    def axis(self, slot: int, output: Tensor) -> int:
        """Dimension over units: the layer's own, else that of the last layer with an output of this shape."""
        axis = self._axes[slot]
        if axis is None:
            return self._axis_of_shape.get(output.shape, 1 if output.ndim >= 4 else -1)
        axis = -1 if output.ndim <= axis else axis
        self._axis_of_shape[output.shape] = axis
        return axis

    def begin(self, on: bool, tracing: bool = False, keeping: bool = False, recognising: bool = True) -> None:
        """Start a step, sampled or not.

        Args:
            on: Whether it is sampled.
            tracing: Keep the layers' autograd nodes until the next one begins.
            keeping: Keep what the last of them made, too.
            recognising: Take the fingerprints of the samples.
        """
        if on:
            self._pass_of = [-1] * len(self.layers)  # a model whose methods are called has no passes to count
            if self._resting:
                self._resting = False
                self._install()
        if self._taken:
            for planes in self._planes:
                planes.advance()
            self._taken = False
        self.activations, self.gradients = (planes.present for planes in self._planes)
        self.activations.clear()
        self.gradients.clear()
        self._sources[:] = -1
        self._evaluating[:] = np.nan
        self._seen.clear()
        self._waiting.forget()
        self._without.clear()
        self.given = self.fingerprints = None
        self.samples = 0
        self._series.clear()
        self.nodes.clear()
        self.last.clear()
        self.outputs.clear()
        self._tracing, self._keeping, self._recognising = tracing, keeping, recognising
        self._traced = deque([[]])
        self.on = on

    def modules(self) -> list[tuple[str, nn.Module]]:
        """The watched layers that still exist, by name."""
        found = [(layer.name, module()) for layer, module in zip(self.layers, self._modules, strict=False)]
        return [(name, module) for name, module in found if module is not None]

    def bind(self, layers: tuple[Layer, ...]) -> None:
        """Take over what the graph told of the layers: the nonlinearities decide where saturation is counted."""
        known = {layer.name: SATURATION.get(layer.nonlinearity) for layer in layers}
        limits = {slot: known.get(layer.name) for slot, layer in enumerate(self.layers)}
        self._limits = {slot: limit for slot, limit in limits.items() if limit is not None}
        self._bounds.clear()

    def reduce(self, at_once: bool = True) -> LayerSample:
        """What the hooks sampled, as sums on their way to the host.

        Args:
            at_once: Do not wait for the next samples: this one is not the last of its step.
        """
        self.settle()
        self._blank = 0 if self.activations.filled.any() else self._blank + 1
        rows = self.activations.counts()[1] / np.maximum(self.activations.units, 1)
        gradients = self.gradients.counts()[1]
        self._taken = True
        layers, outputs = self._planes
        sums = layers.take(self._reduce_layers, at_once or self.shared)
        of_gradients = outputs.take(self._reduce_gradients, at_once or self.shared)
        parts = tuple(
            (self.activations.on(device), found, of_gradients.get(device, NOTHING)) for device, found in sums.items()
        )
        return LayerSample(
            rows, self.activations.units, gradients, self._sources.copy(), self._evaluating.copy(), parts
        )

    def _reduce_layers(self, first: int, end: int) -> dict[torch.device, Tensor]:
        planes, slots = self._planes[0].values, self._planes[0].filled(first, end)
        return {d: reduce_layers(v[first:end], self._bounds_on(d), self.shared, slots) for d, v in planes.items()}

    def _reduce_gradients(self, first: int, end: int) -> dict[torch.device, Tensor]:
        planes, slots = self._planes[1].values, self._planes[1].filled(first, end)
        return {device: reduce_gradients(values[first:end], slots) for device, values in planes.items()}

    def trace_back(self, graph: Graph) -> Lineage:
        """What the samples of this step tell of the parts of a graph that are hidden."""
        dtypes = {name: form.dtype for name, form in self.forms.items()}
        return Lineage(graph, self.activations, self.layers, dtypes, self._sources.copy())

    def look_thoroughly(self, replicas: int = 1) -> ThoroughSample:
        """What takes longer than `reduce`: distributions, ranks and the memory of recurrent layers.

        Args:
            replicas: Between how many ranks the batch is divided whose mean loss counts.
        """
        remembered: dict[int, Tensor] = {}
        for slot, series in self._series.items():
            module = self._modules[slot]()
            if isinstance(module, nn.RNNBase):
                remembered[slot] = memory.time_gradient(module, series)
        sources = self._sources.copy()
        return ThoroughSample(self.activations, self.gradients, len(self.layers), sources, remembered, replicas)

    def _bounds_on(self, device: torch.device) -> tuple[Tensor, Tensor] | None:
        if not self._limits:
            return None
        if device not in self._bounds:
            slots, limits = list(self._limits), list(self._limits.values())
            self._bounds[device] = sent(slots, device), sent(np.array(limits, np.float32), device)
        return self._bounds[device]
