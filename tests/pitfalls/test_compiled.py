"""Pitfalls 20 to 24: models that are compiled, before or after they are watched, in one piece or block by block."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from netdoctor import Monitor
from tests.twins import faults, same, silent

SAMPLED = [1, 3, 5]  # of 6 steps
Train = Callable[[nn.Module, "torch.optim.Optimizer"], list[Tensor]]


class Block(nn.Module):
    def __init__(self, checkpointed: bool) -> None:
        super().__init__()
        self.norm, self.up, self.relu, self.down = (
            nn.LayerNorm(12),
            nn.Linear(12, 32),
            nn.ReLU(inplace=True),
            nn.Linear(32, 12),
        )
        self.checkpointed = checkpointed

    def inner(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.relu(self.up(self.norm(x))))
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = checkpoint(self.inner, x, use_reentrant=False) if self.checkpointed else self.inner(x)
        return x + out


class Net(nn.Module):
    """A residual net, whose blocks share their code."""

    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(12, 12), nn.Linear(12, 4)
        self.blocks = nn.ModuleList(Block(checkpointed) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(x)
        return out


@dataclass
class Run:
    seen: list[Tensor]
    graphs: int
    breaks: int
    monitor: Any


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def batch(size: int = 16) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 12), torch.randint(0, 4, (size,))


def whole(model: nn.Module, backend: str) -> Any:
    return torch.compile(model, backend=backend)


def in_place(model: nn.Module, backend: str) -> Any:
    model.compile(backend=backend)
    return model


def each_block(model: Any, backend: str) -> Any:
    for block in model.blocks:
        block.compile(backend=backend)
    return model


def wrapped_blocks(model: Any, backend: str) -> Any:
    for place, block in enumerate(model.blocks):
        model.blocks[place] = torch.compile(block, backend=backend)
    return model


def eager(model: nn.Module, backend: str) -> Any:
    return model


WAYS = {"whole": whole, "in place": in_place, "each block": each_block, "wrapped blocks": wrapped_blocks}


def train(way: Callable[..., Any], watched: str = "", backend: str = "eager", checkpointed: bool = False) -> Run:
    """Six steps, watched "before" compiling, "after" it, or "late": after two steps."""
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    torch.manual_seed(0)
    model = Net(checkpointed)
    monitor = silent(model, every=2) if watched == "before" else None
    called = way(model, backend)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    seen: list[Tensor] = []
    for step in range(6):
        if watched == ("after" if step == 0 else "late") and monitor is None and step in (0, 2):
            monitor = silent(called, every=2)
        x, y = batch()
        out = called(x)
        loss = F.cross_entropy(out, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += [out.detach(), loss.detach()]
    seen += [p.detach() for p in model.parameters()]
    graphs, breaks = counters["stats"]["unique_graphs"], len(counters["graph_break"])
    if monitor is not None:
        monitor.close()
    return Run(seen, graphs, breaks, monitor)


def assert_same_statistics(monitor: Monitor, expected: Monitor, relative: float = 1e-5) -> None:
    assert set(monitor.history.statistics) == set(expected.history.statistics)
    for name in expected.history.statistics:
        table, other = monitor.history.table(name), expected.history.table(name)
        assert set(table.columns) == set(other.columns), name
        values = table.values[:, [table.columns.index(column) for column in other.columns]]
        assert values == pytest.approx(other.values, rel=relative, abs=1e-6, nan_ok=True), name


@pytest.mark.parametrize("watched", ["before", "after", "late"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_outputs_graphs_and_statistics(way: Callable[..., Any], watched: str) -> None:
    """Two graphs in place of one, no break, everything as without watching, and the numbers of an eager run."""
    plain, run = train(way), train(way, watched)
    assert same(plain.seen, run.seen)
    assert run.breaks == plain.breaks == 0
    assert plain.graphs == 1
    assert run.graphs == (3 if watched == "late" else 2)  # what was compiled before the watch is compiled again
    if watched == "late":
        assert run.monitor.history.table("activation_rms").steps.tolist() == [1, 3]
        assert "blocks.1.up" in run.monitor.history.latest("activation_gradient_rms")
    else:
        assert_same_statistics(run.monitor, train(eager, "before").monitor)


@pytest.mark.parametrize(("way", "backend"), [(each_block, "inductor"), (whole, "aot_eager")])
def test_ahead_of_time(way: Callable[..., Any], backend: str) -> None:
    """Functionalised, and as C++."""
    plain, run = train(way, "", backend), train(way, "before", backend)
    assert same(plain.seen, run.seen)
    assert (plain.graphs, run.graphs, run.breaks) == (1, 2, 0)
    assert_same_statistics(run.monitor, train(eager, "before").monitor, 1e-3)


@pytest.mark.parametrize(("way", "backend"), [(whole, "eager"), (each_block, "aot_eager")])
def test_checkpoints_inside(way: Callable[..., Any], backend: str) -> None:
    """Pitfalls 19 and 20 together."""
    plain, run = train(way, "", backend, checkpointed=True), train(way, "before", backend, checkpointed=True)
    assert same(plain.seen, run.seen)
    assert (plain.graphs, run.graphs, run.breaks) == (1, 2, 0)
    assert_same_statistics(run.monitor, train(eager, "before").monitor)


def test_what_is_learned_of_the_layers() -> None:
    """The graph of autograd is hidden; what feeds what shows in the values."""
    compiled, plain = train(whole, "before").monitor, train(eager, "before").monitor
    facts, expected = compiled.history.facts, plain.history.facts
    assert [layer.name for layer in facts.layers] == [layer.name for layer in expected.layers]
    for layer, other in zip(facts.layers, expected.layers, strict=True):
        assert (layer.called, layer.samples, layer.dtype) == (other.called, other.samples, other.dtype)
        if layer.name.endswith(("up", "down", "relu", "blocks.0.norm")):
            assert layer.inputs == other.inputs, layer.name
        if not layer.name.endswith(("down", "head")):
            assert layer.nonlinearity == other.nonlinearity, layer.name
    assert facts.layer("blocks.1.norm").inputs == ("blocks.0.down",)  # of stem and blocks.0.down, added up
    assert facts.layer("blocks.0.down").residual
    assert [(p.name, p.connected) for p in facts.parameters] == [(p.name, p.connected) for p in expected.parameters]
    assert facts.loss.kind == "cross-entropy"
    told = faults(compiled)
    assert any(sentence.startswith("what feeds blocks.1.norm, blocks.2.norm, head is not seen") for sentence in told)
    assert any(sentence.startswith("softmaxes inside compiled graphs") for sentence in told)
    assert compiled.diagnose().findings == plain.diagnose().findings


def run_twice(train: Callable[[nn.Module, torch.optim.Optimizer], list[Tensor]], model: Callable[[], nn.Module]) -> Any:
    """Train unwatched and watched: the monitor, and how many graphs and kinds of graph breaks each had."""
    results, counts, monitor = [], [], None
    for watched in (False, True):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        torch.manual_seed(0)
        net = model()
        monitor = silent(net, every=2) if watched else None
        seen = train(net, torch.optim.Adam(net.parameters(), 1e-2))
        results.append([*seen, *(p.detach() for p in net.parameters())])
        counters = torch._dynamo.utils.counters
        counts.append((counters["stats"]["unique_graphs"], len(counters["graph_break"])))
    assert monitor is not None
    monitor.close()
    assert same(*results)
    for statistic in ("activation_rms", "activation_gradient_rms", "gradient_rms"):
        assert monitor.history.table(statistic).steps.tolist() == SAMPLED, statistic
    return monitor, counts


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))


def usual(optimizer: torch.optim.Optimizer, loss: Tensor, step: Callable[[], Any] | None = None) -> Tensor:
    optimizer.zero_grad()
    loss.backward()
    (step or optimizer.step)()
    return loss.detach()


def test_loss_inside_the_compiled_function() -> None:
    def training(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        loss = torch.compile(lambda x, y: F.cross_entropy(model(x), y), backend="aot_eager", fullgraph=True)
        return [usual(optimizer, loss(*batch())) for _ in range(6)]

    monitor, counts = run_twice(training, small)
    assert counts == [(1, 0), (2, 0)]
    assert len(monitor.history.table("loss")) == 6
    assert any("monitor.observe(output=…, target=…)" in sentence for sentence in faults(monitor))


def test_whole_step_compiled() -> None:
    def training(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        @torch.compile(backend="eager")
        def step(x: Tensor, y: Tensor) -> Tensor:
            return usual(optimizer, F.cross_entropy(model(x), y))

        return [step(*batch()) for _ in range(6)]

    _, ((graphs, _), (watched_graphs, _)) = run_twice(training, small)
    assert watched_graphs <= 2 * graphs  # the hooks of the optimizer break the graph, as any do


def test_compiled_optimizer() -> None:
    def training(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        step = torch.compile(optimizer.step, backend="eager")
        return [usual(optimizer, F.cross_entropy(model(x), y), step) for x, y in (batch() for _ in range(6))]

    _, ((graphs, breaks), (watched_graphs, watched_breaks)) = run_twice(training, small)
    assert watched_graphs <= graphs
    assert watched_breaks <= breaks


def test_dynamic_shapes_and_evaluation() -> None:
    """Evaluation passes read no flag: there is one graph of them."""

    def training(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        compiled = torch.compile(model, backend="eager", dynamic=True, fullgraph=True)
        seen = []
        for step in range(6):
            x, y = batch(8 + step)
            seen.append(usual(optimizer, F.cross_entropy(compiled(x), y)))
            model.eval()
            with torch.no_grad():
                seen.append(compiled(x))
            model.train()
        return seen

    _, counts = run_twice(training, small)
    assert counts == [(2, 0), (3, 0)]


@dataclass
class Wrapped:
    label: str
    logits: Tensor


class Wrapping(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], Any], take: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.inner = Inner(wrap)
        self.head = nn.Linear(8, 4)
        self.take = take

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.take(self.inner(x)))
        return out


class Inner(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 8) / 3)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(x @ self.weight)


@pytest.mark.parametrize(
    ("wrap", "take"),
    [
        (lambda y: {"logits": y}, lambda given: given["logits"]),
        (lambda y: (y > 0, (y,)), lambda given: given[1][0]),
        (lambda y: Wrapped("", y), lambda given: given.logits),
    ],
    ids=["dict", "tuple", "dataclass"],
)
def test_nested_outputs(wrap: Callable[[Tensor], Any], take: Callable[[Any], Tensor]) -> None:
    def training(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        return [usual(optimizer, F.cross_entropy(compiled(x), y)) for x, y in (batch() for _ in range(6))]

    monitor, counts = run_twice(training, lambda: Wrapping(wrap, take))
    assert counts == [(1, 0), (2, 0)]
    assert "inner" in monitor.history.latest("activation_rms")


def test_graph_breaks_of_the_user() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x))
            torch._dynamo.graph_break()
            out: Tensor = self.head(torch.relu(self.second(x)))
            return out

    def training(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        compiled = torch.compile(model, backend="eager")
        return [usual(optimizer, F.cross_entropy(compiled(x), y)) for x, y in (batch() for _ in range(6))]

    monitor, ((graphs, breaks), (watched_graphs, watched_breaks)) = run_twice(training, Broken)
    assert (watched_graphs, watched_breaks) == (2 * graphs, breaks)
    assert monitor.history.latest("activation_rms").keys() == {"first", "second", "head"}


def test_compiled_in_the_middle_of_the_training() -> None:
    """Hooks that rest at that moment come back into the graph."""
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with silent(model, every=30) as monitor:
        called: Any = model
        for step in range(70):
            if step == 20:
                called = torch.compile(model, backend="eager")
            usual(optimizer, F.cross_entropy(called(torch.randn(8, 12)), torch.randint(0, 4, (8,))))
        assert monitor.history.table("activation_rms").steps.tolist() == [1, 31, 61]
        assert monitor.history.series("activation_rms", "0")[0].tolist() == [1, 31, 61]


@pytest.mark.parametrize("first", [0, 10])
def test_a_function_that_was_compiled_before_the_watch(first: int) -> None:
    """Pitfall 22: what holds the model is not known, so that it cannot be compiled again; it is said."""
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    compiled = torch.compile(lambda x: model(x).square().mean(), backend="eager")
    usual(optimizer, compiled(torch.randn(8, 12)))
    with silent(model, every=1) as monitor:
        for step in range(first + 5):
            x = torch.randn(8, 12)
            usual(optimizer, model(x).square().mean() if step < first else compiled(x))
        (told,) = faults(monitor)
        assert told.startswith("activations of layer 0, layer 2 are not seen")
        assert told.endswith("or was compiled before the watch")
        assert len(monitor.history.table("gradient_rms")) == first + 5


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_traced_and_exported_as_before() -> None:
    """Pitfall 29: nothing of netdoctor is baked into what is exported."""
    model = small()
    x = torch.randn(8, 12)
    with silent(model, every=1) as monitor:
        assert torch.equal(torch.jit.trace(model, x)(x), model(x))
        for strict in (False, True):
            exported = torch.export.export(model, (x,), strict=strict)
            assert torch.equal(exported.module()(x), model(x))
            assert "netdoctor" not in str(exported.graph)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(3):
            usual(optimizer, F.cross_entropy(model(x), torch.randint(0, 4, (8,))))
        assert faults(monitor) == []
        assert len(monitor.history.table("activation_rms")) == 3


def test_copies_and_closed_monitors_leave_nothing_in_graphs() -> None:
    model = small()
    with silent(model, every=1) as monitor:
        torch.compile(copy.deepcopy(model), backend="eager")(torch.randn(8, 12)).sum().backward()
        assert len(monitor.history.statistics) == 0
        compiled = torch.compile(model, backend="eager")
        usual(torch.optim.SGD(model.parameters(), 0.1), compiled(torch.randn(8, 12)).square().mean())
        assert len(monitor.history.table("activation_rms")) == 1
    compiled(torch.randn(8, 12)).sum().backward()
    assert len(monitor.history.table("activation_rms")) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_graphs() -> None:
    """Pitfall 24: what is sampled is written to fixed addresses, outside the graphs."""
    results = []
    for watched in (False, True):
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = small().cuda()
        monitor = silent(model, every=3) if watched else None
        compiled = torch.compile(model, mode="reduce-overhead")
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(12):
            torch.compiler.cudagraph_mark_step_begin()
            usual(optimizer, F.cross_entropy(compiled(torch.randn(8, 12).cuda()), torch.randint(0, 4, (8,)).cuda()))
        results.append([p.detach().cpu() for p in model.parameters()])
        if monitor is not None:
            assert monitor.history.table("activation_rms").steps.tolist() == [1, 4, 7, 10]
            monitor.close()
    assert same(*results)
