"""Steps are those of the optimizers, however many there are and from wherever they are called."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netdoctor.probes import optimizers
from tests.twins import faults, mlp, same, silent


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(8, 12), torch.randint(0, 4, (8,))


def test_backward_inside_a_closure() -> None:
    """Pitfall 10: when the step begins there is no gradient yet, or that of the last step."""
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    norms: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)))
        return loss

    with silent(model, every=1) as monitor:
        for _ in range(3):
            x, y = batch()
            optimizer.step(closure)
        assert monitor.step == 3
        assert monitor.history.series("gradient_norm")[1].tolist() == pytest.approx(norms, rel=1e-4)
        assert monitor.history.series("clipped_gradient_norm")[1].tolist() == pytest.approx([0.1] * 3, rel=1e-3)


def test_accumulation_whose_last_part_runs_in_a_closure() -> None:
    """Pitfalls 8 and 10 together, as in Lightning: the losses of all parts are those of the step."""
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    sums: list[float] = []

    def part() -> Tensor:
        x, y = batch()
        loss = F.cross_entropy(model(x), y) / 3
        loss.backward()
        sums[-1] += loss.item()
        return loss

    with silent(model, every=1) as monitor:
        for _ in range(4):
            optimizer.zero_grad()
            sums.append(0.0)
            part()
            part()
            optimizer.step(part)
            monitor.observe(accuracy=0.5)
        assert monitor.step == 4
        assert monitor.history.series("loss")[1].tolist() == pytest.approx(sums)
        assert monitor.history.series("metric/accuracy")[0].tolist() == [1, 2, 3, 4]


def test_optimizer_in_backward() -> None:
    """Pitfall 11: an optimizer for each parameter steps as soon as its gradient is there, and frees it."""

    def run(watched: bool) -> tuple[list[Tensor], Any]:
        torch.manual_seed(0)
        model = mlp()
        monitor = silent(model, every=1) if watched else None
        each = {p: torch.optim.Adam([p], 1e-2) for p in model.parameters()}

        def step(parameter: Tensor) -> None:
            each[parameter].step()  # type: ignore[index]
            each[parameter].zero_grad()  # type: ignore[index]

        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(step)
        for _ in range(5):
            x, y = batch()
            F.cross_entropy(model(x), y).backward()
        return [p.detach() for p in model.parameters()], monitor

    plain, (watched, monitor) = run(False)[0], run(True)
    assert same(plain, watched)
    assert monitor.step == 5
    assert len(monitor.history.series("loss")[0]) == 5
    for name in ("gradient_rms", "update_rms"):
        assert monitor.history.table(name).values.shape == (5, 6)
        assert (monitor.history.table(name).values > 0).all()
    assert monitor.history.first("update_rms")["0.weight"] == pytest.approx(1e-2, rel=0.1)
    assert not monitor.history.table("gradient_missing").values.any()
    assert not monitor.history.facts.several_losses
    assert faults(monitor) == []
    monitor.close()


def test_gan_with_an_optimizer_that_steps_seldom() -> None:
    """Pitfall 39: five steps of the critic for one of the generator."""
    generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 6))
    critic = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
    whole = nn.ModuleDict({"generator": generator, "critic": critic})
    to_generator = torch.optim.Adam(generator.parameters(), 1e-3)
    to_critic = torch.optim.Adam(critic.parameters(), 1e-3)
    with silent(whole, every=1) as monitor:
        for step in range(20):
            to_critic.zero_grad()
            (critic(generator(torch.randn(8, 4)).detach()).mean() - critic(torch.randn(8, 6)).mean()).backward()
            to_critic.step()
            if step % 5 == 4:
                to_generator.zero_grad()
                (-critic(generator(torch.randn(8, 4))).mean()).backward()
                to_generator.step()
        assert monitor.step == 20
        table = monitor.history.table("update_rms")
        for name in ("generator.0.weight", "critic.0.weight"):
            updates = table.values[:, table.columns.index(name)]
            assert (updates > 0).sum() == (4 if name.startswith("generator") else 20)
        assert faults(monitor) == []


def test_module_of_the_step_hooks() -> None:
    """Pitfall 41: ``torch.optim.optimizer`` is no attribute of ``torch.optim``."""
    home = importlib.import_module("torch.optim.optimizer")
    assert vars(optimizers)["register_optimizer_step_pre_hook"] is home.register_optimizer_step_pre_hook


def test_frozen_then_unfrozen() -> None:
    """Pitfall 31: what is frozen when the watch begins is seen from the step on at which it is thawed."""
    model = mlp()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with silent(model, every=1) as monitor:
        for step in range(6):
            if step == 3:
                model[0].requires_grad_(True)
            x, y = batch()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            assert monitor.history.facts.parameters[0].trainable == (step >= 3)
        steps, values = monitor.history.series("gradient_rms", "0.weight")
        assert steps.tolist() == [4, 5, 6]
        assert (values > 0).all()
        assert monitor.history.facts.parameters[0].connected
        assert monitor.diagnose().findings == ()


def test_replaced_parameters() -> None:
    """Pitfall 31: other parameters in place of those that there were when the watch began."""
    model = mlp()
    with silent(model, every=1) as monitor:
        model[0].weight = nn.Parameter(torch.randn(16, 12) * 0.3)
        model[4] = nn.Linear(16, 4)  # as fine-tuning replaces the head
        model.double().float()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(4):
            x, y = batch()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
        assert [p.group for p in monitor.history.facts.parameters] == [0] * 6
        assert (monitor.history.table("update_rms").values > 0).all()
        assert monitor.history.latest("weight_rms")["0.weight"] == pytest.approx(
            float(model[0].weight.detach().square().mean().sqrt()), rel=0.05
        )
        (told,) = faults(monitor)
        assert told.startswith("activations of layer 4 are not seen")
        assert [finding.rule for finding in monitor.diagnose().findings] == []


def test_parameters_that_are_added() -> None:
    """An adapter that comes after the watch has begun: parameters of other names."""

    class Adapted(nn.Module):
        def __init__(self, base: nn.Module) -> None:
            super().__init__()
            self.base, self.down, self.up = base, nn.Linear(12, 2), nn.Linear(2, 16)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.base(x) + self.up(self.down(x))
            return out

    model = mlp()
    with silent(model, every=1) as monitor:
        model.requires_grad_(False)
        model[0] = Adapted(model[0])
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
        for _ in range(3):
            x, y = batch()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
        assert monitor.step == 3
        names = {p.name for p in monitor.history.facts.parameters if p.trainable}
        assert names == {"0.down.weight", "0.down.bias", "0.up.weight", "0.up.bias"}
        assert monitor.history.first("update_rms")["0.up.weight"] == pytest.approx(1e-2, rel=0.1)
