"""Copies, scripts, transforms and wrappers of a watched model.

Pickles, deep copies and `torch.save` (25, 26) stand in `tests/test_harmless.py`, as do double watches and what is left
behind (38).
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.optim.swa_utils import AveragedModel

from tests.twins import faults, mlp, same, silent, steps


def counted(monitor: Any) -> dict[str, int]:
    return {name: len(monitor.history.table(name)) for name in monitor.history.statistics}


def test_averaged_models() -> None:
    """Pitfall 26: forward hooks are copied along; the copy must not report as the model."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with silent(model, every=1) as monitor:
        average = AveragedModel(model)
        for _ in range(3):
            steps(model, optimizer, 1)
            average.update_parameters(model)
            rows = counted(monitor)
            average(100 * torch.randn(8, 12)).sum().backward()
            assert counted(monitor) == rows
        assert monitor.step == 3
        assert monitor.history.latest("input_rms")["0"] < 2


def test_replicas_of_data_parallel() -> None:
    """Pitfall 27: replicas share the hooks, and run in threads of their own."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with silent(model, every=1) as monitor:
        replica = copy.copy(model)._replicate_for_data_parallel()
        for index, module in enumerate(model):
            replica._modules[str(index)] = module._replicate_for_data_parallel()
            replica._modules[str(index)].__dict__.update(module._parameters)
        thread = threading.Thread(target=lambda: replica(100 * torch.randn(8, 12)))
        thread.start()
        thread.join()
        steps(model, optimizer, 1)
        assert monitor.step == 1
        assert monitor.history.latest("input_rms")["0"] < 2
        assert faults(monitor) == []


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_wrappers_around_the_model(wrap: Callable[[nn.Module], Any]) -> None:
    """Pitfall 30: the model inside is watched, under its own names."""
    model = mlp()
    wrapped = wrap(model)
    with silent(wrapped, every=1) as monitor:
        assert silent(model) is monitor
        assert [p.name for p in monitor.history.facts.parameters][:2] == ["0.weight", "0.bias"]
        assert monitor.history.facts.model == "Sequential"


def test_wrappers_inside_the_model() -> None:
    """Pitfall 30: names are those without the wrappers, and lead to the layers all the same."""

    def make() -> nn.Sequential:
        return nn.Sequential(*(nn.Sequential(nn.Linear(12, 12), nn.ReLU()) for _ in range(2)), nn.Linear(12, 4))

    model = make()
    apply_activation_checkpointing(model, check_fn=lambda module: module is model[0])
    model._modules["1"] = torch.compile(model[1], backend="eager")  # type: ignore[assignment]
    expected = silent(plain := make())
    with silent(model, every=1) as monitor:
        facts = monitor.history.facts
        assert facts.layers == expected.history.facts.layers
        assert facts.parameters == expected.history.facts.parameters
        for parameter in facts.parameters:
            assert model.get_parameter(parameter.name).shape == plain.get_parameter(parameter.name).shape
        steps(model, torch.optim.SGD(model.parameters(), 0.1), 2)
        assert "0.0" in monitor.history.latest("activation_rms")
    expected.close()


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_torchscript() -> None:
    """Pitfall 28: scripted modules take no hooks; their weights and gradients are seen, and what is not is said."""

    def run(watched: bool) -> tuple[list[Tensor], Any]:
        torch.manual_seed(0)
        model = nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(12, 16), nn.ReLU())), nn.Linear(16, 4))
        monitor = silent(model, every=1) if watched else None
        return steps(model, torch.optim.SGD(model.parameters(), 0.1), 4), monitor

    plain, (watched, monitor) = run(False)[0], run(True)
    assert same(plain, watched)
    assert monitor.history.latest("gradient_rms")["0.0.weight"] > 0
    assert monitor.history.latest("activation_rms").keys() == {"1"}
    (told,) = faults(monitor)
    assert told.startswith("activations of layer 0.0")
    assert "TorchScript takes no hooks" in told
    monitor.close()


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_scripting_a_watched_model_is_refused_clearly() -> None:
    """Pitfall 28: not supported; the message says what to do."""
    model = nn.Sequential(nn.Linear(12, 4))
    with (
        silent(model),
        pytest.raises(AttributeError, match=r"script it before netdoctor.watch\(\), or call monitor.close"),
    ):
        torch.jit.script(model)
    assert torch.jit.script(model)(torch.ones(1, 12)).shape == (1, 4)


def test_transforms_of_torch_func() -> None:
    """Pitfall 29: inside vmap and grad nothing may be written to a buffer."""
    model, x = mlp(), torch.randn(5, 12)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(given: dict[str, Tensor], row: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(model, given, (row[None],))
        return out.square().sum()

    def everything() -> list[Tensor]:
        return [
            torch.func.vmap(model)(x),
            *torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x).values(),
            torch.func.jvp(model, (x,), (x,))[1],
            torch.func.jacrev(model)(x[0]),
        ]

    expected = everything()
    with silent(model, every=1) as monitor:
        assert same(expected, everything())
        assert faults(monitor) == []
        steps(model, torch.optim.SGD(model.parameters(), 0.1), 1)
        assert monitor.history.latest("activation_rms").keys() == {"0", "1", "2", "3", "4"}


def test_tied_weights() -> None:
    """Pitfall 30: a parameter with two names is one, and updated once."""

    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens: Tensor) -> Tensor:
            out: Tensor = self.head(self.embedding(tokens))
            return out

    model = Language()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with silent(model, every=1) as monitor:
        for _ in range(3):
            tokens = torch.randint(0, 20, (16,))
            F.cross_entropy(model(tokens), tokens).backward()
            optimizer.step()
            optimizer.zero_grad()
        assert monitor.history.table("update_rms").columns == ("embedding.weight",)
        assert monitor.history.latest("activation_rms").keys() == {"embedding", "head"}
        assert faults(monitor) == []


class Engine(nn.Module):
    """As `deepspeed.initialize` returns it."""

    def __init__(self) -> None:
        super().__init__()
        self.module = mlp()


Engine.__module__ = "deepspeed.runtime.engine"


def test_deepspeed_is_refused_clearly() -> None:
    """Pitfall 40: not supported; gradients are kept in flat partitions that no parameter shows."""
    with pytest.raises(NotImplementedError, match=r"Engine is not supported: DeepSpeed keeps .* FSDP2"):
        silent(Engine())
    model = mlp()
    setattr(model[0].weight, "ds_id", 0)  # noqa: B010
    with pytest.raises(NotImplementedError, match="DeepSpeed ZeRO"):
        silent(model)


def test_xla_is_refused_clearly() -> None:
    """Pitfall 43: not supported; statistics stall a TPU."""

    class OnTpu(nn.Linear):
        def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
            yield "weight", type("Parameter", (), {"device": torch.device("xla")})()

    with pytest.raises(NotImplementedError, match=r"'weight' is on an XLA device, which is not supported"):
        silent(OnTpu(3, 2))


def test_warnings_stay_the_user_s() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with silent(model := mlp(), every=1):
            steps(model, torch.optim.SGD(model.parameters(), 0.1), 2)
