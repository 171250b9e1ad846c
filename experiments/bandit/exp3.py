"""EXP3 (Auer, Cesa-Bianchi, Freund, Schapire 2002) as functions of log-weights, with restarts (arXiv 1405.3316)."""

import math

import numpy as np


def exploration(arms: int, rounds: int) -> float:
    """γ = min(1, √(K ln K / ((e − 1) T))), the textbook's choice for rewards in [0, 1]."""
    return min(1.0, math.sqrt(arms * math.log(arms) / ((math.e - 1) * rounds)))


def probabilities(log_weights: np.ndarray, gamma: float) -> np.ndarray:
    """p = (1 − γ) w/Σw + γ/K. f64[..., K]."""
    weights = np.exp(log_weights - log_weights.max(-1, keepdims=True))
    return (1 - gamma) * weights / weights.sum(-1, keepdims=True) + gamma / log_weights.shape[-1]


def updated(log_weights: np.ndarray, gamma: float, arm: int, reward: float) -> np.ndarray:
    """w_arm ← w_arm exp(γ r / (p_arm K)): the reward of the arm that was played, divided by its probability."""
    if not 0 <= reward <= 1:
        raise ValueError(f"reward: between 0 and 1 expected, not {reward}")
    fresh = log_weights.copy()
    fresh[arm] += gamma * reward / (probabilities(log_weights, gamma)[arm] * len(log_weights))
    return fresh


def rate(arms: int, rounds: int) -> float:
    """η = √(2 ln K / (K T)), the textbook's choice for EXP3 of losses (Bubeck and Cesa-Bianchi 2012, arXiv 1204.5721)."""
    return math.sqrt(2 * math.log(arms) / (arms * rounds))


def updated_by_loss(log_weights: np.ndarray, eta: float, arm: int, reward: float) -> np.ndarray:
    """w_arm ← w_arm exp(−η (1 − r) / p_arm) with p = w/Σw: EXP3 of losses, which explores without a floor of γ/K."""
    if not 0 <= reward <= 1:
        raise ValueError(f"reward: between 0 and 1 expected, not {reward}")
    fresh = log_weights.copy()
    fresh[arm] -= eta * (1 - reward) / probabilities(log_weights, 0.0)[arm]
    return fresh


def replay(arms: int, gamma: float, restart: int, played: list[tuple[int, float]]) -> np.ndarray:
    """The log-weights after [(arm, reward), ...], all zero again after every `restart` rounds; a restart of 0 is never."""
    log_weights = np.zeros(arms)
    for t, (arm, reward) in enumerate(played, 1):
        log_weights = updated(log_weights, gamma, arm, reward)
        if restart and t % restart == 0:
            log_weights = np.zeros(arms)
    return log_weights
