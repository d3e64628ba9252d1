"""Learning by reward: what goes wrong in values and policies."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.optim import SGD, Adam, RMSprop

from tests.clinic import models
from tests.clinic.case import Program, sick

STATES, ACTIONS = 12, 3


class Walk:
    """A line of twelve places; actions go left, stay, or go right. Each step costs 1, the right end is free."""

    def __init__(self, discount: float = 0.9) -> None:
        self.discount = discount
        left = torch.arange(STATES)
        self.after = torch.stack([(left + move).clamp(0, STATES - 1) for move in (-1, 0, 1)], 1)
        self.reward = -(self.after < STATES - 1).float()

    def sample(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        state, action = torch.randint(STATES, (count,)), torch.randint(ACTIONS, (count,))
        return state, action, self.reward[state, action], self.after[state, action]

    def values(self) -> Tensor:
        """The true action values [states, actions], by iterating Bellman's equation."""
        values = torch.zeros(STATES, ACTIONS)
        for _ in range(200):
            values = self.reward + self.discount * values.amax(1)[self.after]
        return values


def _see(state: Tensor) -> Tensor:
    return F.one_hot(state, STATES).float()


def _learner(
    network: nn.Module, optimizer: torch.optim.Optimizer, walk: Walk, scale: float, broadcast: bool
) -> Program:
    """Q-learning from random transitions, with a target network that is copied every ten steps."""
    target = models.mlp(STATES, 48, ACTIONS)
    truth = walk.values()

    def step(i: int) -> None:
        if i % 10 == 1:
            target.load_state_dict({name: value for name, value in network.state_dict().items() if name[0] in "02"})
        state, action, reward, after = walk.sample(64)
        with torch.no_grad():
            aim = scale * reward + walk.discount * target(_see(after)).amax(1)
        chosen = network(_see(state)).gather(1, action.unsqueeze(1))
        loss = F.smooth_l1_loss(chosen, aim) if broadcast else F.smooth_l1_loss(chosen.squeeze(1), aim)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        """Mean square error of the values, of the true ones' variance."""
        with torch.no_grad():
            answer = network(torch.eye(STATES)) / scale
            return float(F.mse_loss(answer, truth) / truth.var())

    return Program(network, optimizer, step, loss)


@sick("silent-broadcast", steps=250, by=5, bound=0.45)
def gathered_values_against_a_row(fault: bool) -> Program:
    """Gather leaves a column, rewards come as a row: each value is compared with each target."""
    network = models.mlp(STATES, 48, ACTIONS)
    return _learner(network, Adam(network.parameters(), lr=5e-3), Walk(), 1.0, broadcast=fault)


@sick("wrong-output-activation", "dead-units", "no-gradient", steps=250, by=10, bound=0.45)
def values_that_cannot_be_negative(fault: bool) -> Program:
    """A ReLU after every layer, the last one too, where all rewards are costs."""
    network = models.mlp(STATES, 48, ACTIONS)
    if fault:
        network.append(nn.ReLU())
    return _learner(network, RMSprop(network.parameters(), lr=3e-3), Walk(), 1.0, broadcast=False)


@sick("unnormalized-target", "learning-rate-too-small", steps=250, by=50, bound=0.45)
def rewards_in_thousands(fault: bool) -> Program:
    network = models.mlp(STATES, 48, ACTIONS)
    optimizer = Adam(network.parameters(), lr=5e-3)
    return _learner(network, optimizer, Walk(), 5000.0 if fault else 1.0, broadcast=False)


@sick(
    "over-regularized",
    "underfitting",
    "not-learning",
    steps=200,
    by=100,
    bound=-0.8,
)
def bonus_for_entropy_too_large(fault: bool) -> Program:
    """A policy that is paid ten times more for being undecided than for being right."""
    policy = models.mlp(6, 32, 4, activation=nn.Tanh)
    best = torch.randn(6, 4)
    optimizer = Adam(policy.parameters(), lr=5e-3)

    def step(i: int) -> None:
        context = torch.randn(128, 6)
        choice = Categorical(logits=policy(context))
        action = choice.sample()
        reward = (action == (context @ best).argmax(1)).float()
        gain = choice.log_prob(action) * (reward - reward.mean())
        loss = -gain.mean() - (10.0 if fault else 0.001) * choice.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        """The mean reward of the policy, negated."""
        with torch.no_grad():
            context = torch.randn(2000, 6)
            chances = policy(context).softmax(1)
            return -float(chances.gather(1, (context @ best).argmax(1, keepdim=True)).mean())

    return Program(policy, optimizer, step, loss)


@sick("saturated-units", "unnormalized-input", steps=200, by=50, bound=0.035)
def raw_observations_into_tanh(fault: bool) -> Program:
    """Positions in millimetres and speeds in pixels go into a policy of tanh units, cloned from an expert."""
    policy = models.mlp(4, 48, 48, 2, activation=nn.Tanh)
    observations = torch.randn(2000, 4)
    plan = 0.5 * torch.randn(4, 2)
    moves = torch.sin(observations @ plan)
    scale = torch.tensor([800.0, 300.0, 1000.0, 500.0]) if fault else torch.ones(4)
    optimizer = SGD(policy.parameters(), lr=0.1, momentum=0.9)

    def step(i: int) -> None:
        chosen = torch.randint(len(observations), (64,))
        optimizer.zero_grad()
        F.mse_loss(policy(scale * observations[chosen]), moves[chosen]).backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float(F.mse_loss(policy(scale * observations), moves))

    return Program(policy, optimizer, step, loss)


@sick("weights-not-updated", steps=250, by=60, bound=0.5)
def critic_whose_optimizer_never_steps(fault: bool) -> Program:
    """Two optimizers, and the same one called twice."""
    model = nn.ModuleDict({"actor": models.mlp(STATES, 32, ACTIONS), "critic": models.mlp(STATES, 32, 1)})
    walk = Walk()
    first = Adam(model["actor"].parameters(), lr=5e-3)
    second = Adam(model["critic"].parameters(), lr=5e-3)

    def step(i: int) -> None:
        state = torch.randint(STATES, (64,))
        choice = Categorical(logits=model["actor"](_see(state)))
        action = choice.sample()
        value = model["critic"](_see(state)).squeeze(1)
        with torch.no_grad():
            aim = walk.reward[state, action] + 0.9 * model["critic"](_see(walk.after[state, action])).squeeze(1)
        advantage = aim - value
        loss = -(choice.log_prob(action) * advantage.detach()).mean() + advantage.square().mean()
        first.zero_grad()
        second.zero_grad()
        loss.backward()
        first.step()
        (first if fault else second).step()

    def loss() -> float:
        """Error of the critic, of the variance of the best values."""
        with torch.no_grad():
            truth = walk.values().amax(1, keepdim=True)
            return float(F.mse_loss(model["critic"](torch.eye(STATES)), truth) / truth.var())

    return Program(model, first, step, loss)
