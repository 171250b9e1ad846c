"""Zero-sum games with a KL term, solved exactly: f(μ, ν) = μᵀAν − β KL(μ‖μ_ref) + β KL(ν‖ν_ref).

The row player μ maximises. The leading axis of all arrays is a batch of games: A f64[N, n, n], β f64[N], policies f64[N, n].
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np

NEWTON_STEPS, TOLERANCE = 100, 1e-10


class References(NamedTuple):
    """The logarithms of both players' reference policies, f64[N, n] each."""

    rows: np.ndarray
    columns: np.ndarray


def times(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """[N, m, n], [N, n] -> [N, m]."""
    return (matrix @ vector[..., None])[..., 0]


def transposed(matrix: np.ndarray) -> np.ndarray:
    return np.swapaxes(matrix, -1, -2)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def best_row(A: np.ndarray, nu: np.ndarray, beta: np.ndarray, log_ref: np.ndarray) -> np.ndarray:
    """argmax_μ f(μ, ν) ∝ μ_ref exp(Aν/β); where β is 0, the first of the best rows."""
    return _gibbs(times(A, nu), beta, log_ref)


def best_column(A: np.ndarray, mu: np.ndarray, beta: np.ndarray, log_ref: np.ndarray) -> np.ndarray:
    """argmin_ν f(μ, ν) ∝ ν_ref exp(−Aᵀμ/β); where β is 0, the first of the best columns."""
    return _gibbs(-times(transposed(A), mu), beta, log_ref)


def _gibbs(payoff: np.ndarray, beta: np.ndarray, log_ref: np.ndarray) -> np.ndarray:
    if not beta.any():
        return np.eye(payoff.shape[-1])[payoff.argmax(-1)]
    return np.exp(log_softmax(log_ref + payoff / beta[:, None]))


def upper_value(A: np.ndarray, nu: np.ndarray, beta: np.ndarray, refs: References) -> np.ndarray:
    """max_μ f(μ, ν) = β log Σ μ_ref exp(Aν/β) + β KL(ν‖ν_ref). f64[N]."""
    return _soft_max(times(A, nu), beta, refs.rows) + beta * divergence(nu, refs.columns)


def lower_value(A: np.ndarray, mu: np.ndarray, beta: np.ndarray, refs: References) -> np.ndarray:
    """min_ν f(μ, ν). f64[N]."""
    return -_soft_max(-times(transposed(A), mu), beta, refs.columns) - beta * divergence(mu, refs.rows)


def gap(A: np.ndarray, mu: np.ndarray, nu: np.ndarray, beta: np.ndarray, refs: References) -> np.ndarray:
    """The duality gap max_μ' f(μ', ν) − min_ν' f(μ, ν'): 0 at the equilibrium and positive elsewhere. f64[N]."""
    return upper_value(A, nu, beta, refs) - lower_value(A, mu, beta, refs)


def divergence(policy: np.ndarray, log_ref: np.ndarray) -> np.ndarray:
    """KL(policy‖ref), with 0 log 0 = 0. f64[N]."""
    logs = np.log(np.where(policy > 0, policy, 1.0))
    return np.where(policy > 0, policy * (logs - log_ref), 0.0).sum(-1)


def _soft_max(payoff: np.ndarray, beta: np.ndarray, log_ref: np.ndarray) -> np.ndarray:
    if not beta.any():
        return payoff.max(-1)
    exponents = log_ref + payoff / beta[:, None]
    top = exponents.max(-1)
    return beta * (top + np.log(np.exp(exponents - top[:, None]).sum(-1)))


def equilibrium(A: np.ndarray, beta: np.ndarray, refs: References, start: np.ndarray | None = None):
    """The equilibrium (log μ, μ, ν). `start` is a guess of log μ; the answer does not depend on it where β > 0.

    β > 0: damped Newton steps on log μ = log μ_ref + A ν(μ)/β + const, where ν(μ) is the best response. The derivative is
    1 + A Cov(ν) Aᵀ Cov(μ)/β², whose eigenvalues are at least 1. β = 0: the equal supports of both players, one after the other.
    """
    if not beta.any():
        mu, nu = nash(A)
        return refs.rows, mu, nu
    if not beta.all():
        raise ValueError("beta: zero for all games of the batch or for none")
    theta = refs.rows if start is None else start
    error, mu, nu = _residual(A, beta, refs, theta)
    for _ in range(NEWTON_STEPS):
        size = np.abs(error).max(-1)
        if (size <= TOLERANCE).all():
            return theta, mu, nu
        slope = A @ _covariance(nu) @ transposed(A) @ _covariance(mu) / beta[:, None, None] ** 2
        move = np.linalg.solve(np.eye(A.shape[-1]) + slope, -error[..., None])[..., 0]
        theta, error, mu, nu = _shorter_until_better(A, beta, refs, (theta, error, mu, nu), move)
    raise RuntimeError(f"no equilibrium within {TOLERANCE} after {NEWTON_STEPS} steps: {size.max():.1e} is left")


def _residual(A, beta, refs, theta):
    mu = np.exp(log_softmax(theta))
    nu = best_column(A, mu, beta, refs.columns)
    error = theta - refs.rows - times(A, nu) / beta[:, None]
    return error - error.mean(-1, keepdims=True), mu, nu


def _shorter_until_better(A, beta, refs, here, move):
    size, scale = np.linalg.norm(here[1], axis=-1), np.ones(len(A))
    for _ in range(40):
        theta = log_softmax(here[0] + scale[:, None] * move)
        there = (theta, *_residual(A, beta, refs, theta))
        worse = (np.linalg.norm(there[1], axis=-1) > size) & (size > TOLERANCE)
        if not worse.any():
            break
        scale = np.where(worse, scale / 2, scale)
    return there


def _covariance(policy: np.ndarray) -> np.ndarray:
    return policy[..., None] * np.eye(policy.shape[-1]) - policy[..., None] * policy[..., None, :]


def nash(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An equilibrium without a KL term, f64[N, n] each, by supports of equal size: every game that is not degenerate has one.

    On supports I, J both players are indifferent: ν_J ∝ adj(A_IJ) 1 and μ_I ∝ adj(A_IJ)ᵀ 1. Of all candidates with no negative
    entry, the one with the smallest duality gap is the equilibrium.
    """
    n = A.shape[-1]
    if n > 3:
        raise ValueError("nash: at most three actions expected")
    found = []
    for size in range(1, n + 1):
        for rows in combinations(range(n), size):
            for columns in combinations(range(n), size):
                adjugate = _adjugate(A[:, rows][:, :, columns])
                found.append((_spread(adjugate.sum(-2), rows, n), _spread(adjugate.sum(-1), columns, n)))
    mu, nu = (np.stack(policies, 1) for policies in zip(*found, strict=True))
    gaps = (A[:, None] @ nu[..., None])[..., 0].max(-1) - (transposed(A)[:, None] @ mu[..., None])[..., 0].min(-1)
    valid = np.isfinite(gaps) & (mu >= 0).all(-1) & (nu >= 0).all(-1)
    best = np.where(valid, gaps, np.inf).argmin(1)
    chosen = np.arange(len(A)), best
    return mu[chosen], nu[chosen]


def _adjugate(A: np.ndarray) -> np.ndarray:
    if A.shape[-1] == 1:
        return np.ones_like(A)
    if A.shape[-1] == 2:
        return np.stack([np.stack([A[:, 1, 1], -A[:, 0, 1]], -1), np.stack([-A[:, 1, 0], A[:, 0, 0]], -1)], -2)
    a, b, c = A[:, 0], A[:, 1], A[:, 2]
    return np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], -1)


def _spread(policy: np.ndarray, support: tuple[int, ...], n: int) -> np.ndarray:
    """A policy over `support`, normalised, as one over n actions; NaN where the sum is zero."""
    whole, total = np.zeros((len(policy), n)), policy.sum(-1, keepdims=True)
    whole[:, support] = policy / np.where(total == 0, np.nan, total)
    return whole
