"""Finds the models that a program trains, as it runs: `netdoctor run` watches what is found here.

A model is what an optimizer trains. So nothing is looked for until the program makes an optimizer: programs that only
evaluate are left alone. From then on a hook that is common to all modules sees every forward pass. The first one with
gradients whose module owns parameters that an optimizer is to train is that of a model, and the hook runs before it:
the model is watched from its very first step, at its initial weights. Frozen feature extractors, teachers and
evaluations before the training own no such parameters, or run without gradients.

What is called may be but a part: ``vae.encoder(x)`` is followed by ``vae.decoder(z)``. If it does not own all that its
optimizers train, the module around it that owns most of it is the model; that is found among all living modules. What
is wrapped (DataParallel, DistributedDataParallel, torch.compile) is the model, not the wrapper.

A GAN has two models. The hook stays while optimizers that have never stepped hold parameters of no known model, and at
most for `PATIENCE` steps, for it costs about a microsecond a module call. What an optimizer turns out to train at its
first step is then found among all living modules, one forward pass late. The same holds for models that are never
called as modules, and for those that are called only where torch.compile sees them (``model.compile()``).

An optimizer that was made for another instance than the one that is called trains nothing. When it steps, no model is
known and its parameters have no gradients, then the first module whose forward pass had gradients is the model: this
fault has to be told.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from netdoctor.probes import optimizers
from netdoctor.probes.anatomy import unwrapped

log = logging.getLogger("netdoctor")

PATIENCE = 100  # optimizer steps for which forward passes are searched for models that are still missing


class Discovery:
    """Calls ``found`` once with each model that the program trains, in the process that made this.

    Args:
        found: Is given the model; whatever it raises is logged.
    """

    def __init__(self, found: Callable[[nn.Module], object]) -> None:
        self._found = found
        self._process = os.getpid()
        self._models: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._idle: weakref.WeakSet[Optimizer] = weakref.WeakSet()  # made, but never stepped
        self._busy: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._passed: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # called, but not held by an optimizer
        self._orphan: Callable[[], nn.Module | None] = lambda: None  # the first of them with gradients
        self._hook: RemovableHandle | None = None
        self._steps = 0  # since the last optimizer was made
        self._original = Optimizer.__init__
        self._patch = _then(self._original, self._made)

    def start(self) -> None:
        """Look for models from now on."""
        Optimizer.__init__ = self._patch  # type: ignore[method-assign]
        optimizers.listen(self)

    def stop(self) -> None:
        """Look no more; no hook and no patch is left behind."""
        optimizers.unlisten(self)
        self._unhook()
        if Optimizer.__init__ is self._patch:
            Optimizer.__init__ = self._original  # type: ignore[method-assign]
        self._found = lambda model: None

    # What the program does. Nothing here may raise into it.

    def _made(self, optimizer: Optimizer) -> None:
        """The program has made an optimizer."""
        self._idle.add(optimizer)
        self._passed.clear()
        self._steps = 0
        if self._hook is None and self._sought():
            self._hook = register_module_forward_pre_hook(self._before_forward)
            warnings.filterwarnings("ignore", "Using `torch.compile.module.` when there are global hooks", UserWarning)

    def _before_forward(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Any module is about to run; those inside come after those around them."""
        if torch.compiler.is_dynamo_compiling():
            return
        try:
            if torch.is_grad_enabled() and module not in self._passed and os.getpid() == self._process:
                self._called(module)
        except Exception:
            log.exception("netdoctor cannot tell whether %s is trained", type(module).__name__)
            self._unhook()

    def before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """An optimizer begins its step."""
        if (optimizer in self._busy and self._hook is None) or os.getpid() != self._process:
            return
        try:
            self._steps += 1
            if optimizer not in self._busy:
                self._busy.add(optimizer)
                self._idle.discard(optimizer)
                self._starts(optimizer)
            if self._hook is not None and (self._steps >= PATIENCE or not self._sought()):
                self._unhook()
        except Exception:
            log.exception("netdoctor cannot tell what %s trains", type(optimizer).__name__)

    def step_skipped(self, optimizer: Optimizer) -> None:
        """Tells nothing of which module is trained."""

    def after_step(self, optimizer: Optimizer) -> None:
        """An optimizer has made its step."""

    def _unhook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    # What follows from it.

    def _sought(self) -> set[int]:
        """Parameters that optimizers are going to train, and that belong to no known model."""
        return _trained(self._idle) - _owned(self._models)

    def _called(self, module: nn.Module) -> None:
        if not _owned([module]) & self._sought():
            self._passed.update(module.modules())
            if self._orphan() is None and any(p.requires_grad for p in module.parameters()):
                self._orphan = weakref.ref(module)
        elif not any(is_lazy(parameter) for parameter in module.parameters()):  # else it has no shape yet
            self._tell(self._model_around(unwrapped(module)))
            if not self._sought():
                self._unhook()

    def _model_around(self, module: nn.Module) -> nn.Module:
        own = _owned([module])
        trained: set[int] = set()
        for optimizer in self._idle:
            held = _trained([optimizer])
            trained |= held if held & own else set()
        if trained <= own:
            return module
        return _owner(trained, [each for each in _living() if any(inner is module for inner in each.modules())])

    def _starts(self, optimizer: Optimizer) -> None:
        """Its first step: from here on it is known what it trains."""
        orphan = self._orphan()
        alone = orphan is not None and not self._models and not _has_gradients(_held(optimizer))
        if orphan is not None and alone and _has_gradients(orphan.parameters()):
            self._tell(unwrapped(orphan))
            return
        missing = _trained([optimizer]) - _owned(self._models)
        while missing:
            candidates = [module for module in _living() if _owned([module]) & missing]
            if not candidates:
                break
            model = _owner(missing, candidates)
            self._tell(model)
            missing -= _owned([model])

    def _tell(self, model: nn.Module) -> None:
        self._models.add(model)
        self._found(model)


def _then(original: Callable[..., None], then: Callable[[Optimizer], None]) -> Callable[..., None]:
    @functools.wraps(original)
    def init(self: Optimizer, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        try:
            then(self)
        except Exception:
            log.exception("netdoctor cannot tell what %s trains", type(self).__name__)

    return init


def _held(optimizer: Optimizer) -> Iterator[Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _has_gradients(parameters: Iterable[Tensor]) -> bool:
    return any(parameter.grad is not None for parameter in parameters)


def _trained(several: Iterable[Optimizer]) -> set[int]:
    """Identities of the parameters that optimizers hold, frozen ones left out."""
    return {id(parameter) for optimizer in several for parameter in _held(optimizer) if parameter.requires_grad}


def _owned(modules: Iterable[nn.Module]) -> set[int]:
    """Identities of the parameters that modules have."""
    return {id(parameter) for module in modules for parameter in module.parameters()}


def _owner(parameters: set[int], candidates: Iterable[nn.Module]) -> nn.Module:
    """The smallest of the modules that own most of the parameters."""
    return max(candidates, key=lambda module: (len(parameters & _owned([module])), -sum(1 for _ in module.modules())))


def _living() -> list[nn.Module]:
    """Every module that there is and whose construction has begun in earnest; types alone tell: proxies lie."""
    return [each for each in gc.get_objects() if issubclass(type(each), nn.Module) and "_modules" in each.__dict__]
