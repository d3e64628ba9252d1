"""Which models a program trains, and how early that is known."""

from __future__ import annotations

import copy
import functools
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules_of_torch
from torch.optim import LBFGS, SGD, Adam, Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

import netdoctor
from netdoctor.probes import optimizers
from netdoctor.running.discovery import PATIENCE, Discovery

INIT = Optimizer.__init__


class Found:
    """The models found so far, and how many optimizer steps had been made when each of them was."""

    def __init__(self) -> None:
        self.models: list[nn.Module] = []
        self.steps: list[int] = []
        self.calls: list[int] = []
        self.made = self.called = 0

    def __call__(self, model: nn.Module) -> None:
        self.models.append(model)
        self.steps.append(self.made)
        self.calls.append(self.called)


@pytest.fixture
def found() -> Iterator[Found]:
    """A search that is on during the test; counts steps and forward passes of `Net`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = Found()
    discovery = Discovery(found)
    discovery.start()
    handle = register_optimizer_step_post_hook(lambda *given: setattr(found, "made", found.made + 1))
    Net.forwarded = lambda: setattr(found, "called", found.called + 1)
    yield found
    handle.remove()
    discovery.stop()
    assert Optimizer.__init__ is INIT
    assert not hooked()
    assert discovery not in optimizers._listeners


pytestmark = pytest.mark.filterwarnings("error")


def hooked() -> bool:
    return bool(modules_of_torch._global_forward_pre_hooks)


class Net(nn.Module):
    """A small network; its methods can be called, too."""

    forwarded: Callable[[], None]

    def __init__(self, wide: int = 4, out: int = 2) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(wide, 8), nn.ReLU())
        self.head = nn.Linear(8, out)

    def forward(self, x: Tensor) -> Tensor:
        Net.forwarded()
        out: Tensor = self.head(self.body(x))
        return out


def step(optimizer: Optimizer, output: Tensor) -> None:
    optimizer.zero_grad()
    output.square().mean().backward()
    optimizer.step()


def data() -> Tensor:
    return torch.randn(8, 4)


def test_before_the_first_forward_pass(found: Found) -> None:
    net = Net()
    assert not hooked()
    optimizer = SGD(net.parameters(), 0.1)
    assert hooked()
    assert found.models == []
    for _ in range(3):
        step(optimizer, net(data()))
        assert not hooked()
    assert (found.models, found.steps, found.calls) == ([net], [0], [0])


def test_not_without_an_optimizer(found: Found) -> None:
    net = Net()
    net(data()).sum().backward()
    assert not hooked()
    assert found.models == []


def test_evaluation_is_no_training(found: Found) -> None:
    net, teacher = Net(), Net()
    optimizer = SGD(net.parameters(), 0.1)
    with torch.no_grad():
        net(data())
    with torch.inference_mode():
        net(data())
    teacher.requires_grad_(False)(data())
    assert found.models == []
    step(optimizer, net(data()))
    assert found.models == [net]


@pytest.mark.parametrize("frozen", [True, False])
def test_a_feature_extractor_is_left_out(found: Found, frozen: bool) -> None:
    extractor, head = Net(4, 8).requires_grad_(not frozen), Net(8)
    optimizer = SGD(head.parameters(), 0.1)
    for _ in range(2):
        step(optimizer, head(extractor(data())))
    assert found.models == [head]


def test_fine_tuning_a_head_is_training_the_whole(found: Found) -> None:
    net = Net()
    net.body.requires_grad_(False)
    optimizer = SGD(net.head.parameters(), 0.1)
    step(optimizer, net(data()))
    assert found.models == [net]


def adversaries() -> tuple[Net, Net, Optimizer, Optimizer]:
    generator, critic = Net(4, 4), Net()
    return generator, critic, SGD(generator.parameters(), 0.1), SGD(critic.parameters(), 0.1)


@pytest.mark.parametrize("within_one_module", [True, False])
def test_both_models_of_a_gan(found: Found, within_one_module: bool) -> None:
    generator, critic, of_generator, of_critic = adversaries()
    gan = nn.ModuleDict({"generator": generator, "critic": critic}) if within_one_module else None
    fake = generator(data())
    step(of_critic, critic(fake.detach()))
    assert not hooked()
    step(of_generator, critic(fake))
    assert found.models == [generator, critic]
    assert found.steps == [0, 0]
    assert gan is None or gan not in found.models


def test_a_second_model_that_comes_late(found: Found) -> None:
    generator, critic, of_generator, of_critic = adversaries()
    for _ in range(PATIENCE + 5):
        step(of_critic, critic(data()))
    assert not hooked()  # the search has cost enough
    step(of_generator, critic(generator(data())))
    assert found.models == [critic, generator]
    assert found.steps == [0, PATIENCE + 5]


def test_an_optimizer_that_is_never_used_costs_nothing_for_long(found: Found) -> None:
    net, other = Net(), Net()
    optimizer, unused = SGD(net.parameters(), 0.1), SGD(other.parameters(), 0.1)
    for _ in range(PATIENCE):
        assert hooked()
        step(optimizer, net(data()))
    assert not hooked()
    assert found.models == [net]
    del unused


def test_models_one_after_the_other(found: Found) -> None:
    kinds = []
    for wide in (4, 5, 6):
        net = Net(wide)
        optimizer = Adam(net.parameters())
        for _ in range(2):
            step(optimizer, net(torch.randn(8, wide)))
        kinds.append(next(found.models.pop().parameters()).shape[1])
        del net, optimizer
        gc.collect()
    assert kinds == [4, 5, 6]
    assert not hooked()


def test_a_model_whose_methods_are_called(found: Found) -> None:
    net = Net()
    wrapper = nn.Sequential(net)  # owns no more
    optimizer = SGD(net.parameters(), 0.1)
    step(optimizer, net.head(net.body(data())))
    assert found.models == [net]
    assert found.steps == [0]
    assert not hooked()
    del wrapper


def test_two_models_of_one_optimizer(found: Found) -> None:
    encoder, decoder = Net(4, 4), Net()
    optimizer = SGD([*encoder.parameters(), *decoder.parameters()], 0.1)
    step(optimizer, decoder(encoder(data())))
    assert found.models == [encoder, decoder]
    assert found.steps == [0, 0]


def test_two_optimizers_of_one_model(found: Found) -> None:
    net = Net()
    several = [SGD(net.body.parameters(), 0.1), Adam(net.head.parameters())]
    net(data()).sum().backward()
    for optimizer in several:
        optimizer.step()
    assert found.models == [net]
    assert not hooked()


def test_parameters_of_no_module(found: Found) -> None:
    net, temperature = Net(), nn.Parameter(torch.ones(()))
    optimizer = SGD([*net.parameters(), temperature], 0.1)
    step(optimizer, net(data()) * temperature)
    step(optimizer, net(data()) * temperature)
    assert found.models == [net]
    assert not hooked()


def test_a_head_that_was_replaced_too_late(found: Found) -> None:
    net = Net()
    optimizer = SGD(net.parameters(), 0.1)
    net.head = nn.Linear(8, 3)
    step(optimizer, net(data()))
    assert found.models == [net]
    assert not hooked()


@pytest.mark.parametrize("alive", [True, False])
def test_an_optimizer_of_another_instance(found: Found, alive: bool) -> None:
    net, other = Net(), Net()
    optimizer = SGD(other.parameters(), 0.1)
    if not alive:
        del other
        gc.collect()
    net(data()).sum().backward()
    optimizer.step()
    assert found.models == [net]
    assert found.steps == [0]


def test_a_closure_that_holds_all(found: Found) -> None:
    net = Net()
    optimizer = LBFGS(net.parameters(), max_iter=2)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = net(data()).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert found.models == [net]
    assert found.calls == [0]


def test_a_model_that_is_never_called(found: Found) -> None:
    net = Net()
    optimizer = SGD(net.parameters(), 0.1)
    for _ in range(2):
        parameters = dict(net.named_parameters())
        step(optimizer, data() @ parameters["body.0.weight"].T @ parameters["head.weight"].T)
    assert found.models == [net]


def test_an_optimizer_that_was_never_constructed(found: Found) -> None:
    net = Net()
    optimizer = SGD.__new__(SGD)
    optimizer.__setstate__(SGD([*net.parameters()], 0.1).__getstate__())
    found.models.clear()
    step(optimizer, net(data()))
    assert found.models == [net]


def test_a_lazy_model_once_it_has_shapes(found: Found) -> None:
    net = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(2))
    optimizer = SGD(net.parameters(), 0.1)
    for _ in range(2):
        step(optimizer, net(data()))
    assert found.models == [net]
    assert found.steps == [0]


@pytest.mark.parametrize("wrap", [nn.DataParallel, functools.partial(torch.compile, backend="eager")])
def test_wrapped_models(found: Found, wrap: Callable[[nn.Module], Any]) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    net = Net()
    wrapped = wrap(net)
    optimizer = SGD(wrapped.parameters(), 0.1)
    for _ in range(3):
        step(optimizer, wrapped(data()))
    assert found.models == [net]
    assert sum(torch._dynamo.utils.counters["graph_break"].values()) <= 1  # of `Net.forwarded`


def test_compiled_while_another_model_is_sought(found: Found) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    other = Net()
    optimizer, unused = SGD(net.parameters(), 0.1), SGD(other.parameters(), 0.1)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    for _ in range(PATIENCE + 3):
        step(optimizer, compiled(data()))
    assert found.models == [net]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
    del unused


def test_compiled_in_place(found: Found) -> None:
    torch._dynamo.reset()
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    net.compile(backend="eager")
    optimizer = SGD(net.parameters(), 0.1)
    for _ in range(3):
        step(optimizer, net(data()))
    assert found.models == [net]
    assert found.steps == [0]


@pytest.mark.parametrize("late", [True, False])
def test_a_model_found_at_the_first_step_is_watched_from_it_on(late: bool) -> None:
    monitors: list[netdoctor.Monitor] = []
    discovery = Discovery(lambda model: monitors.append(netdoctor.watch(model, reporters=[], every=1)))
    discovery.start()
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = SGD(net.parameters(), 0.1)
    for _ in range(5):
        step(optimizer, data() @ next(net.parameters()).T if late else net(data()))
    discovery.stop()
    (monitor,) = monitors
    monitor.close()
    assert monitor.step == 5
    assert len(monitor.history.table("update_ratio")) == 5
    assert monitor.faults == {}


def test_a_forked_child_finds_nothing(found: Found) -> None:
    net = Net()
    optimizer = SGD(net.parameters(), 0.1)
    child = os.fork()
    if not child:
        step(optimizer, net(data()))
        os._exit(len(found.models))
    assert os.waitpid(child, 0)[1] == 0
    step(optimizer, net(data()))
    assert found.models == [net]


def test_copies_are_other_models(found: Found) -> None:
    net = Net()
    average = copy.deepcopy(net)
    optimizer = SGD(net.parameters(), 0.1)
    average(data())
    step(optimizer, net(data()))
    assert found.models == [net]


def test_errors_of_the_program_stay_as_they_are(found: Found) -> None:
    with pytest.raises(ValueError, match="empty parameter list"):
        SGD([], 0.1)
    with pytest.raises(ValueError, match="Invalid learning rate"):
        SGD(Net().parameters(), -1.0)
    net = Net()
    optimizer = SGD(net.parameters(), 0.1)
    with pytest.raises(RuntimeError):
        net(torch.randn(3, 3))
    step(optimizer, net(data()))
    assert found.models == [net]


def test_errors_of_the_search_stay_inside(caplog: pytest.LogCaptureFixture) -> None:
    def fail(model: nn.Module) -> None:
        raise ZeroDivisionError

    discovery = Discovery(fail)
    discovery.start()
    net = nn.Linear(4, 2)
    optimizer = SGD(net.parameters(), 0.1)
    for _ in range(3):
        step(optimizer, net(data()))
    discovery.stop()
    assert len(caplog.records) == 1
    assert not hooked()
