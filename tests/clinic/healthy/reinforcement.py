"""Learning by reward, where the loss says little."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.optim import Adam, RMSprop

from tests.clinic import models
from tests.clinic.case import Program, healthy
from tests.clinic.turns import Loop, turns


@healthy(steps=300, bound=-0.8)
def reinforce_on_a_bandit() -> Program:
    means = torch.randn(4, 6)  # four situations, six arms
    policy = models.mlp(4, 32, 6, activation=nn.Tanh)
    optimizer = Adam(policy.parameters(), lr=5e-3)
    average = torch.zeros(())

    def step(i: int) -> None:
        nonlocal average
        context = torch.randint(4, (64,))
        choice = Categorical(logits=policy(F.one_hot(context, 4).float()))
        arm = choice.sample()
        reward = means[context, arm] + 0.5 * torch.randn(64)
        loss = -(choice.log_prob(arm) * (reward - average)).mean() - 0.01 * choice.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average = 0.9 * average + 0.1 * reward.mean()

    def loss() -> float:
        with torch.no_grad():
            chances = policy(torch.eye(4)).softmax(1)
        best, none = means.amax(1).mean(), means.mean()
        return float((none - (chances * means).sum(1).mean()) / (best - none))  # -1 is the best

    return Program(policy, optimizer, step, loss)


SIDE, HORIZON = 5, 20


MOVES = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])


class Grid:
    """Many walks at once over a grid of 5x5: from anywhere to the corner; -0.1 a step, 1 at the goal."""

    def __init__(self, walks: int) -> None:
        self.places = torch.randint(SIDE, (walks, 2))
        self.places[(self.places == SIDE - 1).all(1)] = 0
        self.over = torch.zeros(walks, dtype=torch.bool)

    def observe(self) -> Tensor:
        return torch.cat([F.one_hot(part, SIDE) for part in self.places.unbind(1)], 1).float()

    def move(self, action: Tensor) -> Tensor:
        """The reward; walks that are over stay where they are and get none."""
        moved = (self.places + MOVES[action]).clamp(0, SIDE - 1)
        self.places = torch.where(self.over[:, None], self.places, moved)
        arrived = (self.places == SIDE - 1).all(1) & ~self.over
        reward = torch.where(self.over, 0.0, torch.where(arrived, 1.0, -0.1))
        self.over = self.over | arrived
        return reward


def greedy_return(policy: Callable[[Tensor], Tensor], walks: int = 200) -> float:
    """What the best actions by this network's scores earn on average, negated: a loss."""
    grid, total = Grid(walks), torch.zeros(walks)
    with torch.no_grad():
        for _ in range(HORIZON):
            total += grid.move(policy(grid.observe()).argmax(1))
    return -total.mean().item()


@healthy(steps=150, bound=-0.22)
def reinforce_with_baseline_on_a_grid() -> Program:
    policy = models.mlp(2 * SIDE, 64, 4)
    optimizer = Adam(policy.parameters(), lr=5e-3)

    def train() -> Loop:
        while True:
            grid, log_probs, rewards, alive = Grid(32), [], [], []
            for _ in range(HORIZON):
                alive.append(~grid.over)
                choice = Categorical(logits=policy(grid.observe()))
                action = choice.sample()
                log_probs.append(choice.log_prob(action))
                rewards.append(grid.move(action))
            reward, mask = torch.stack(rewards), torch.stack(alive)
            to_go = reward.flip(0).cumsum(0).flip(0)
            advantage = (to_go - to_go[mask].mean()) / to_go[mask].std()
            loss = -(torch.stack(log_probs) * advantage)[mask].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield

    return Program(policy, optimizer, turns(train()), lambda: greedy_return(policy))


@healthy(steps=800, bound=-0.11)
def q_learning_with_target_network() -> Program:
    network = models.mlp(2 * SIDE, 64, 64, 4)
    target = copy.deepcopy(network)
    optimizer = Adam(network.parameters(), lr=1e-3)
    memory: deque[tuple[Tensor, ...]] = deque(maxlen=400)

    def train() -> Loop:
        turn, grid, age = 0, Grid(16), 0
        while True:
            turn += 1
            state = grid.observe()
            with torch.no_grad():
                best = network(state).argmax(1)
            explore = torch.rand(16) < max(0.05, 1 - turn / 400)
            action = torch.where(explore, torch.randint(4, (16,)), best)
            playing = ~grid.over
            reward = grid.move(action)
            memory.append(tuple(part[playing] for part in (state, action, reward, grid.observe(), grid.over)))
            age += 1
            if age == HORIZON or grid.over.all():
                grid, age = Grid(16), 0
            if turn > 20:
                drawn = [memory[i] for i in torch.randint(len(memory), (8,)).tolist()]
                states, actions, rewards, following, over = (torch.cat(part) for part in zip(*drawn, strict=True))
                with torch.no_grad():
                    aim = rewards + 0.95 * target(following).amax(1) * ~over
                loss = F.smooth_l1_loss(network(states).gather(1, actions[:, None]).squeeze(1), aim)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), 10.0)
                optimizer.step()
            if turn % 40 == 0:
                target.load_state_dict(network.state_dict())
            yield

    return Program(network, optimizer, turns(train()), lambda: greedy_return(network))


@healthy(steps=400, bound=-0.2)
def actor_and_critic_with_two_optimizers() -> Program:
    actor, critic = models.mlp(2 * SIDE, 64, 4, activation=nn.Tanh), models.mlp(2 * SIDE, 64, 1, activation=nn.Tanh)
    model = nn.ModuleDict({"actor": actor, "critic": critic})
    actor_optimizer = Adam(actor.parameters(), lr=3e-3)
    critic_optimizer = RMSprop(critic.parameters(), lr=3e-3)

    def train() -> Loop:
        while True:
            grid = Grid(64)
            for _ in range(HORIZON):
                state, playing = grid.observe(), ~grid.over
                if not playing.any():
                    break
                choice = Categorical(logits=actor(state))
                action = choice.sample()
                reward = grid.move(action)
                value = critic(state).squeeze(1)
                with torch.no_grad():
                    following = critic(grid.observe()).squeeze(1) * ~grid.over
                advantage = reward + 0.95 * following - value
                critic_loss = advantage[playing].pow(2).mean()
                critic_optimizer.zero_grad()
                critic_loss.backward()
                critic_optimizer.step()
                bonus = 0.01 * choice.entropy()
                actor_loss = -(choice.log_prob(action) * advantage.detach() + bonus)[playing].mean()
                actor_optimizer.zero_grad()
                actor_loss.backward()
                actor_optimizer.step()
                yield

    return Program(model, actor_optimizer, turns(train()), lambda: greedy_return(actor))


class ActorCritic(nn.Module):
    """One body, two heads; the policy's head starts small, the usual gain of orthogonal initialisation elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        first, second = nn.Linear(2 * SIDE, 64), nn.Linear(64, 64)
        self.body = nn.Sequential(first, nn.Tanh(), second, nn.Tanh())
        self.policy = nn.Linear(64, 4)
        self.value = nn.Linear(64, 1)
        for layer, gain in ((first, 2**0.5), (second, 2**0.5), (self.policy, 0.01), (self.value, 1.0)):
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)

    def forward(self, state: Tensor) -> tuple[Categorical, Tensor]:
        hidden = self.body(state)
        return Categorical(logits=self.policy(hidden)), self.value(hidden).squeeze(-1)


@healthy(steps=240, bound=-0.17)
def proximal_policy_optimisation() -> Program:
    model = ActorCritic()
    optimizer = Adam(model.parameters(), lr=3e-3, eps=1e-5)

    def rollout() -> tuple[Tensor, ...]:
        grid, states, actions, log_probs, rewards, alive = Grid(32), [], [], [], [], []
        with torch.no_grad():
            for _ in range(HORIZON):
                states.append(grid.observe())
                alive.append(~grid.over)
                choice, _ = model(states[-1])
                actions.append(choice.sample())
                log_probs.append(choice.log_prob(actions[-1]))
                rewards.append(grid.move(actions[-1]))
        to_go = torch.stack(rewards).flip(0).cumsum(0).flip(0)
        mask = torch.stack(alive)
        return tuple(part[mask] for part in (torch.stack(states), torch.stack(actions), torch.stack(log_probs), to_go))

    def train() -> Loop:
        while True:
            states, actions, old, to_go = rollout()
            for _ in range(3):
                for chosen in torch.randperm(len(states)).chunk(4):
                    choice, value = model(states[chosen])
                    advantage = to_go[chosen] - value.detach()
                    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                    ratio = (choice.log_prob(actions[chosen]) - old[chosen]).exp()
                    gain = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
                    loss = -gain + 0.5 * F.mse_loss(value, to_go[chosen]) - 0.01 * choice.entropy().mean()
                    optimizer.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                    optimizer.step()
                    yield

    return Program(model, optimizer, turns(train()), lambda: greedy_return(lambda state: model(state)[0].logits))
