"""NS-NAC and BORL-NS-NAC (arXiv 2504.16415) on a small MDP whose rewards and moves vary.

A batch of N runs goes side by side, each with its own MDP. `Reading:` the paper's update forms are known to us from summaries
only. The projection of Q clips every entry to ±Q_LIMIT. The constant in front of β is ours: the study sweeps it.
"""

from itertools import product
from typing import NamedTuple

import numpy as np

from experiments.bandit import exp3

Q_LIMIT = 10.0
GRID = 65  # points between the two ends of an MDP at which the best average reward is computed


class Varying(NamedTuple):
    """The MDP at phase x in [0, 1] is (1 − x) times the first end plus x times the second.

    reward f64[2, N, S, A] in [0, 1], move f64[2, N, S, A, S].
    """

    reward: np.ndarray
    move: np.ndarray


class Rates(NamedTuple):
    """f64[N] each: `values` is α = γ of the critic and the average reward, `policy` is β; `restart` int[N], 0 for never."""

    values: np.ndarray
    policy: np.ndarray
    restart: np.ndarray


def varying(seeds: int, states: int = 4, actions: int = 3) -> Varying:
    """Random ends. The second end has the first one's rewards with actions exchanged, so that the best actions change."""
    chance = np.random.default_rng(0)
    reward = chance.random((seeds, states, actions))
    move = chance.dirichlet(np.ones(states), (2, seeds, states, actions))
    return Varying(np.stack([reward, np.roll(reward, 1, axis=-1)]), move)


def budget(mdp: Varying, phase: np.ndarray) -> np.ndarray:
    """Δ_T = Σₜ ‖rₜ₊₁ − rₜ‖_∞ + max ‖Pₜ₊₁ − Pₜ‖₁ over states and actions. f64[N]."""
    ends = np.abs(np.diff(mdp.reward, axis=0)[0]).max((1, 2)), np.abs(np.diff(mdp.move, axis=0)[0]).sum(-1).max((1, 2))
    return np.abs(np.diff(phase)).sum() * sum(ends)


def triangle(length: int, ways: int) -> np.ndarray:
    """A phase that goes `ways` times from one end to the other; 0 ways: it stays at the first end. f64[length]."""
    x = ways * np.arange(length) / length
    return np.where(np.floor(x) % 2 == 0, x % 1, 1 - x % 1)


def best_average(mdp: Varying, phase: np.ndarray) -> np.ndarray:
    """J*: the largest average reward of a deterministic policy at every phase. f64[N, T]."""
    return np.stack([np.interp(phase, np.linspace(0, 1, GRID), one) for one in _on_the_grid(mdp)])


def _on_the_grid(mdp: Varying) -> np.ndarray:
    _, N, S, A = mdp.reward.shape
    best = np.zeros((N, GRID))
    for k, x in enumerate(np.linspace(0, 1, GRID)):
        reward, move = ((1 - x) * ends[0] + x * ends[1] for ends in mdp)
        for policy in product(range(A), repeat=S):
            chain, gain = move[:, range(S), policy], reward[:, range(S), policy]
            best[:, k] = np.maximum(best[:, k], (_stationary(chain) * gain).sum(-1))
    return best


def _stationary(chain: np.ndarray) -> np.ndarray:
    """d with dP = d and Σd = 1. f64[N, S, S] -> f64[N, S]."""
    S = chain.shape[-1]
    system = np.swapaxes(chain, -1, -2) - np.eye(S)
    system[:, -1] = 1.0
    return np.linalg.solve(system, np.broadcast_to(np.eye(S)[-1][:, None], (len(chain), S, 1)))[..., 0]


def rates_of(change: np.ndarray, constant: float, *, restart: bool = True) -> Rates:
    """The paper's orders for Δ_T/T: α = γ = (Δ_T/T)^⅓, β = constant · (Δ_T/T)^½, a restart every (T/Δ_T)^⅚ steps."""
    every = np.round(change ** (-5 / 6)).astype(int) if restart else np.zeros(len(change), int)
    return Rates(change ** (1 / 3), constant * change**0.5, every)


def play(mdp: Varying, phase: np.ndarray, rates: Rates, chance: np.random.Generator) -> np.ndarray:
    """NS-NAC from a uniform policy: the mean reward of every step, f64[N, T]. `phase` is f64[T], or f64[T, N].

    One step: η ← η + γ(r − η); Q(s, a) ← clip(Q + α(r − η + Q(s', a') − Q)); π(a|s) ∝ π(a|s) exp(β Q(s, a)) in all states.
    Policy, Q and η begin again after every `restart` steps.
    """
    _, N, S, A = mdp.reward.shape
    runs, every = np.arange(N), np.where(rates.restart > 0, rates.restart, len(phase) + 1)
    logits, Q, eta = np.zeros((N, S, A)), np.zeros((N, S, A)), np.zeros(N)
    state, rewards = chance.integers(S, size=N), np.zeros((N, len(phase)))
    action, uniform = chance.integers(A, size=N), chance.random((len(phase), 2, N, 1))
    for t, x in enumerate(phase):
        again = (t > 0) & (t % every == 0)
        if again.any():
            logits[again], Q[again], eta[again] = 0.0, 0.0, 0.0
        cell = runs, state, action
        reward = (1 - x) * mdp.reward[0][cell] + x * mdp.reward[1][cell]
        move = (1 - x)[..., None] * mdp.move[0][cell] + x[..., None] * mdp.move[1][cell]
        rewards[:, t] = reward
        after = _drawn(move, uniform[t, 0])
        weights = np.exp(logits[runs, after] - logits[runs, after].max(-1, keepdims=True))
        following = _drawn(weights, uniform[t, 1])
        eta += rates.values * (reward - eta)
        error = reward - eta + Q[runs, after, following] - Q[cell]
        Q[cell] = np.clip(Q[cell] + rates.values * error, -Q_LIMIT, Q_LIMIT)
        logits += rates.policy[:, None, None] * Q
        state, action = after, following
    return rewards


def _drawn(weights: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    below = weights.cumsum(-1)
    return np.minimum((uniform * below[:, -1:] > below).sum(-1), weights.shape[-1] - 1)


def in_epochs(mdp: Varying, phase: np.ndarray, arms: list[Rates], epoch: int, chance, at_once: int = 100) -> np.ndarray:
    """The mean reward of every epoch played by every arm: f64[arms, N, epochs], with `at_once` epochs side by side.

    Every epoch is a fresh NS-NAC, so that what an arm earns in it does not depend on the arms of earlier epochs.
    """
    N, found = mdp.reward.shape[1], []
    phases = phase.reshape(-1, epoch).T  # [epoch, epochs]
    for start in range(0, phases.shape[1], at_once):
        some = phases[:, start : start + at_once]
        copies = len(arms) * some.shape[1]  # arms, then epochs, then MDPs
        many = Varying(*(np.concatenate([ends] * copies, 1) for ends in mdp))
        rates = [np.concatenate([np.tile(values, some.shape[1]) for values in kind]) for kind in zip(*arms, strict=True)]
        rewards = play(many, np.tile(np.repeat(some, N, 1), len(arms)), Rates(*rates), chance)
        found.append(np.moveaxis(rewards.mean(1).reshape(len(arms), some.shape[1], N), 1, 2))
    return np.concatenate(found, 2)


def borl(earned: np.ndarray, chance: np.random.Generator, *, scaled: bool) -> np.ndarray:
    """BORL-NS-NAC: EXP3 chooses the arm of every epoch by the mean rewards f64[arms, N, epochs]. The chosen int[N, epochs].

    EXP3 sees the reward of the chosen arm alone. `scaled`: EXP3 of losses, with rewards scaled to the range that this run has
    seen; else EXP3 of gains, with rewards as they are.
    """
    K, N, epochs = earned.shape
    gamma, eta = exp3.exploration(K, epochs), exp3.rate(K, epochs)
    log_weights, chosen = np.zeros((N, K)), np.zeros((N, epochs), int)
    lowest, highest = np.full(N, np.inf), np.full(N, -np.inf)
    for t in range(epochs):
        chosen[:, t] = _drawn(exp3.probabilities(log_weights, 0.0 if scaled else gamma), chance.random((N, 1)))
        rewards = earned[chosen[:, t], np.arange(N), t]
        lowest, highest = np.minimum(lowest, rewards), np.maximum(highest, rewards)
        for i, arm in enumerate(chosen[:, t]):
            if not scaled:
                log_weights[i] = exp3.updated(log_weights[i], gamma, arm, rewards[i])
            elif highest[i] > lowest[i]:
                reward = (rewards[i] - lowest[i]) / (highest[i] - lowest[i])
                log_weights[i] = exp3.updated_by_loss(log_weights[i], eta, arm, reward)
    return chosen
