"""Learning by reward on a line of places, and from what an expert did."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal
from torch.optim import Adam, RMSprop

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss, supervised

STATES = 12
AFTER = torch.stack([(torch.arange(STATES) + move).clamp(0, STATES - 1) for move in (-1, 0, 1)], 1)
REWARD = -(AFTER < STATES - 1).float()  # the right end is free


def _see(state: Tensor) -> Tensor:
    return F.one_hot(state, STATES).float()


@healthy(steps=300, bound=0.21)
def double_q_learning_with_a_slow_target() -> Program:
    """The loss rises while the values grow away from zero, and falls as they settle."""
    network = models.mlp(STATES, 48, 3)
    target = copy.deepcopy(network).requires_grad_(False)
    optimizer = Adam(network.parameters(), lr=5e-3)
    truth = torch.zeros(STATES, 3)
    for _ in range(200):
        truth = REWARD + 0.9 * truth.amax(1)[AFTER]

    def step(i: int) -> None:
        state, action = torch.randint(STATES, (64,)), torch.randint(3, (64,))
        after = _see(AFTER[state, action])
        with torch.no_grad():
            chosen = network(after).argmax(1, keepdim=True)
            aim = REWARD[state, action] + 0.9 * target(after).gather(1, chosen).squeeze(1)
        value = network(_see(state)).gather(1, action.unsqueeze(1)).squeeze(1)
        optimizer.zero_grad()
        F.smooth_l1_loss(value, aim).backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(target.parameters(), network.parameters(), strict=True):
                slow.lerp_(fast, 0.1)

    def loss() -> float:
        """Mean square error of the values, of the true ones' variance."""
        with torch.no_grad():
            return float(F.mse_loss(network(torch.eye(STATES)), truth) / truth.var())

    return Program(network, optimizer, step, loss)


@healthy(steps=300, bound=0.074)
def deterministic_policy_through_a_critic() -> Program:
    """The actor follows the critic's slope; its loss is a value, negative or positive, and says nothing by itself."""
    model = nn.ModuleDict({"actor": nn.Sequential(models.mlp(3, 32, 1), nn.Tanh()), "critic": models.mlp(4, 48, 48, 1)})
    plan = torch.randn(3, 1)
    first = Adam(model["actor"].parameters(), lr=1e-3)
    second = Adam(model["critic"].parameters(), lr=5e-3)

    def reward(state: Tensor, action: Tensor) -> Tensor:
        return 1 - (action - torch.tanh(state @ plan)).square()

    def step(i: int) -> None:
        state = torch.randn(64, 3)
        with torch.no_grad():
            action = (model["actor"](state) + 0.3 * torch.randn(64, 1)).clamp(-1, 1)
        error = F.mse_loss(model["critic"](torch.cat((state, action), 1)), reward(state, action))
        second.zero_grad()
        error.backward()
        second.step()
        value = model["critic"](torch.cat((state, model["actor"](state)), 1))
        first.zero_grad()
        (-value.mean()).backward()
        first.step()

    def loss() -> float:
        with torch.no_grad():
            state = torch.randn(2000, 3)
            return float(1 - reward(state, model["actor"](state)).mean())

    return Program(model, first, step, loss)


@healthy(steps=250, bound=0.014)
def steering_copied_from_an_expert() -> Program:
    task = data.split(torch.randn(2000, 6), torch.zeros(2000, 2))
    plan = torch.randn(6, 2) / 3
    task = task._replace(y=torch.tanh(2 * task.x @ plan), y_val=torch.tanh(2 * task.x_val @ plan))
    policy = nn.Sequential(models.mlp(6, 48, 48, 2, activation=nn.Tanh), nn.Tanh())
    optimizer = RMSprop(policy.parameters(), lr=1e-3)
    loss = mean_loss(policy, task.x_val, task.y_val, F.mse_loss)
    return supervised(policy, optimizer, task, nn.MSELoss(), loss, batch=64, validate=True)


@healthy(steps=250, bound=0.084)
def policy_with_a_learned_spread() -> Program:
    """A Gaussian policy by REINFORCE over few episodes: noisy gradients, a spread that shrinks as it learns."""

    class Policy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = models.mlp(4, 32, 1, activation=nn.Tanh)
            self.log_spread = nn.Parameter(torch.zeros(1))

        def forward(self, state: Tensor) -> Normal:
            return Normal(self.mean(state), self.log_spread.exp().clamp(0.1, 2.0))

    policy = Policy()
    plan = torch.randn(4, 1)
    optimizer = Adam(policy.parameters(), lr=1e-2)

    def step(i: int) -> None:
        state = torch.randn(64, 4)
        choice = policy(state)
        action = choice.sample()
        reward = -(action - 2 * torch.tanh(state @ plan)).square()
        advantage = (reward - reward.mean()) / reward.std()
        optimizer.zero_grad()
        (-(choice.log_prob(action) * advantage).mean()).backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            state = torch.randn(2000, 4)
            return float((policy(state).mean - 2 * torch.tanh(state @ plan)).square().mean())

    return Program(policy, optimizer, step, loss)
