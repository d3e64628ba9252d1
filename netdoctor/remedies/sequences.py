"""Puts a module behind another one, where that can be done without a doubt and no parameter changes its name."""

from __future__ import annotations

from torch import nn

from netdoctor.remedies.operation import Operation
from netdoctor.remedies.wording import brief
from netdoctor.treatment import Change, RemedyError


def put_behind(operation: Operation, name: str, module: nn.Module) -> None:
    """Run ``module`` on the output of the one called ``name``.

    A module without parameters makes room for a Sequential of the two. Behind a layer that stands in a plain
    `nn.Sequential` it goes in front of the next module, or, where that one has parameters too, in between.

    Raises:
        RemedyError: The layer does not stand in an `nn.Sequential`: what takes its output is up to the program.
    """
    old = operation.module(name)
    if not _has_parameters(old):
        operation.replace(name, nn.Sequential(old, module))
        return
    owner, _, leaf = name.rpartition(".")
    sequence = operation.module(owner)
    if not name or type(sequence).forward is not nn.Sequential.forward:
        raise RemedyError(f"{name or 'the model'} does not stand in an nn.Sequential: change it as the code says")
    keys = list(sequence._modules)
    place = keys.index(leaf) + 1
    after = sequence._modules[keys[place]] if place < len(keys) else None
    if after is not None and not _has_parameters(after):
        operation.replace(f"{owner}.{keys[place]}".lstrip("."), nn.Sequential(module, after))
    else:
        _insert(operation, sequence, place, f"{leaf}_{type(module).__name__.lower()}", module, owner)


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _insert(operation: Operation, sequence: nn.Module, place: int, key: str, module: nn.Module, owner: str) -> None:
    children = sequence._modules
    before = dict(children)
    if key in children:
        raise RemedyError(f"{owner or 'the model'} has a module {key} already")
    module.train(sequence.training)
    items = list(before.items())
    children.clear()
    children.update({**dict(items[:place]), key: module, **dict(items[place:])})

    def back() -> None:
        children.clear()
        children.update(before)

    operation.record(Change(f"{owner}.{key}".lstrip("."), "none", brief(module)), back)
