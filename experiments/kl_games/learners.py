"""OMG and SOMG (arXiv 2510.13060) on tabular games: both players best-respond to optimistic estimates in order to explore.

`Reading:` the paper's constants are not public to us. Ours: ridge λ = 1, bonus η/√(λ + n) of a cell that was seen n times (the
linear bonus η‖φ‖ for one-hot features), and a bonus twice as large for SOMG. Payoffs are ±1 coins with mean A.
"""

from typing import NamedTuple

import numpy as np

from experiments.kl_games.games import (
    References,
    best_column,
    best_row,
    equilibrium,
    gap,
    lower_value,
    times,
    upper_value,
)

RIDGE = 1.0


def omg(A, beta, refs: References, marks, chance: np.random.Generator, *, eta: float = 1.0, sign: float = 1.0) -> np.ndarray:
    """The sum of duality gaps of (μₜ, νₜ) up to every mark, f64[N, marks]; `sign` of −1 turns the bonus round.

    One step: (μ, ν) is the equilibrium of the ridge estimate Ā. μ̃ and ν̃ are the best responses to ν and μ under Ā + b and
    Ā − b. The pairs (μ̃, ν) and (μ, ν̃) are played once each.
    """
    games = np.arange(len(A))
    count, total, regret = np.zeros_like(A), np.zeros_like(A), np.zeros(len(A))
    kept, log_mu = [], None
    for t in range(1, marks[-1] + 1):
        estimate, bonus = total / (RIDGE + count), sign * eta / np.sqrt(RIDGE + count)
        log_mu, mu, nu = equilibrium(estimate, beta, refs, log_mu)
        regret += gap(A, mu, nu, beta, refs)
        optimist = best_row(estimate + bonus, nu, beta, refs.rows), best_column(estimate - bonus, mu, beta, refs.columns)
        for rows, columns in ((optimist[0], nu), (mu, optimist[1])):
            i, j = draw(rows, chance), draw(columns, chance)
            total[games, i, j] += coin(A[games, i, j], chance)
            count[games, i, j] += 1
        if t in marks:
            kept.append(regret.copy())
    return np.stack(kept, 1)


def draw(policy: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """One action of every row of f64[N, n]."""
    below = policy.cumsum(-1)
    return np.minimum((chance.random((len(policy), 1)) * below[:, -1:] > below).sum(-1), policy.shape[-1] - 1)


def coin(mean: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """+1 or −1 with the given mean."""
    return np.where(chance.random(mean.shape) < (1 + mean) / 2, 1.0, -1.0)


class MarkovGame(NamedTuple):
    """`reward` f64[N, H, S, n, n] in [−1, 1]; `move` f64[N, H, S, n, n, S]: the probabilities of the next state."""

    reward: np.ndarray
    move: np.ndarray


class Solution(NamedTuple):
    """μ and ν of every step and state, f64[N, H, S, n], and the values f64[N, H, S]."""

    mu: np.ndarray
    nu: np.ndarray
    value: np.ndarray


def backward_induction(game: MarkovGame, beta: np.ndarray, refs: References) -> Solution:
    """The exact equilibrium: from the last step to the first, every state is a matrix game of reward + next value."""
    N, H, S, n, _ = game.reward.shape
    mu, nu, value = np.zeros((N, H, S, n)), np.zeros((N, H, S, n)), np.zeros((N, H + 1, S))
    for h in reversed(range(H)):
        Q = game.reward[:, h] + times(game.move[:, h].reshape(N, S * n * n, S), value[:, h + 1]).reshape(N, S, n, n)
        for s in range(S):
            _, mu[:, h, s], nu[:, h, s] = equilibrium(Q[:, s], beta, refs)
            value[:, h, s] = upper_value(Q[:, s], nu[:, h, s], beta, refs)
    return Solution(mu, nu, value[:, :H])


def somg(game: MarkovGame, beta, refs: References, marks, chance: np.random.Generator, *, eta: float = 1.0) -> list[Solution]:
    """The equilibria of the estimates before the pairs of episodes in `marks`; twice the usual bonus ("superoptimistic").

    Backward over the steps, three ridge fits of reward + next value: Q̄ with the values of the equilibrium, Q⁺ and Q⁻ with the
    values of the best responses, plus and minus the bonus. Played are (μ̃, ν) and (μ, ν̃), as in OMG.
    """
    N, H, S, n, _ = game.reward.shape
    tables = np.zeros((N, H, S, n, n)), np.zeros((N, H, S, n, n)), np.zeros((N, H, S, n, n, S))  # Σ reward, visits, moves
    start, kept = [[None] * S for _ in range(H)], []
    for episode in range(marks[-1] + 1):
        plan, optimist = _plan(*tables, beta, refs, 2 * eta, start)
        if episode in marks:
            kept.append(plan)
        for rows, columns in ((optimist[0], plan.nu), (plan.mu, optimist[1])):
            _episode(game, rows, columns, tables, chance)
    return kept


def _plan(total, count, moved, beta, refs: References, eta: float, start):
    N, H, S, n, _ = total.shape
    shape = (N, H, S, n)
    mu, nu, up, down = np.zeros(shape), np.zeros(shape), np.zeros(shape), np.zeros(shape)
    middle, high, low = np.zeros((N, H + 1, S)), np.zeros((N, H + 1, S)), np.zeros((N, H + 1, S))
    for h in reversed(range(H)):
        bonus = eta / np.sqrt(RIDGE + count[:, h])
        fits = [_fit(total[:, h], count[:, h], moved[:, h], value[:, h + 1]) for value in (middle, high, low)]
        Q, Q_high, Q_low = np.clip(fits[0], h - H, H - h), fits[1] + bonus, fits[2] - bonus
        for s in range(S):
            start[h][s], mu[:, h, s], nu[:, h, s] = equilibrium(Q[:, s], beta, refs, start[h][s])
            up[:, h, s] = best_row(Q_high[:, s], nu[:, h, s], beta, refs.rows)
            down[:, h, s] = best_column(Q_low[:, s], mu[:, h, s], beta, refs.columns)
            middle[:, h, s] = upper_value(Q[:, s], nu[:, h, s], beta, refs)
            high[:, h, s] = upper_value(Q_high[:, s], nu[:, h, s], beta, refs)
            low[:, h, s] = lower_value(Q_low[:, s], mu[:, h, s], beta, refs)
    return Solution(mu, nu, middle[:, :H]), (up, down)


def _fit(total, count, moved, value):
    """Ridge regression on one-hot features: (Σ reward + next value) / (λ + n). f64[N, S, n, n]."""
    N, S, n, _ = total.shape
    return (total + times(moved.reshape(N, S * n * n, S), value).reshape(N, S, n, n)) / (RIDGE + count)


def _episode(game: MarkovGame, rows, columns, tables, chance) -> None:
    total, count, moved = tables
    games, steps = np.arange(len(rows)), rows.shape[1]
    state = chance.integers(rows.shape[2], size=len(rows))
    for h in range(steps):
        i, j = draw(rows[games, h, state], chance), draw(columns[games, h, state], chance)
        cell = games, h, state, i, j
        after = draw(game.move[cell], chance)
        total[cell] += coin(game.reward[cell], chance)
        count[cell] += 1
        moved[(*cell, after)] += 1
        state = after


def exploitability(game: MarkovGame, found: Solution, beta, refs: References) -> np.ndarray:
    """The duality gap of whole policies, mean over first states: best responses to each by backward induction. f64[N]."""
    N, H, S, n, _ = game.reward.shape
    high, low = np.zeros((N, S)), np.zeros((N, S))
    for h in reversed(range(H)):
        flat = game.move[:, h].reshape(N, S * n * n, S)
        above, below = (game.reward[:, h] + times(flat, value).reshape(N, S, n, n) for value in (high, low))
        high = np.stack([upper_value(above[:, s], found.nu[:, h, s], beta, refs) for s in range(S)], 1)
        low = np.stack([lower_value(below[:, s], found.mu[:, h, s], beta, refs) for s in range(S)], 1)
    return (high - low).mean(-1)
