"""Games with a KL term against hand-computable values, and the KL settings of the product against the known optimum."""

import jax
import numpy as np
import pytest

from experiments.kl_games import learners, oracle, study
from experiments.kl_games.games import References, best_column, best_row, equilibrium, gap, log_softmax, nash


def references(chance, games, actions):
    return References(*(log_softmax(chance.normal(size=(games, actions))) for _ in range(2)))


def test_equilibria_have_no_gap_and_other_policies_do():
    chance = np.random.default_rng(0)
    A, refs = chance.uniform(-1, 1, (50, 3, 3)), references(chance, 50, 3)
    for beta in (0.0, 0.03, 0.3, 3.0):
        betas = np.full(50, beta)
        _, mu, nu = equilibrium(A, betas, refs)
        np.testing.assert_allclose(mu.sum(-1), 1)
        np.testing.assert_allclose(gap(A, mu, nu, betas, refs), 0, atol=1e-9)
        assert (gap(A, np.roll(mu, 1, -1), nu, betas, refs) > 1e-4).mean() > 0.8
    # Both answers are fixed points of the other player's best response.
    np.testing.assert_allclose(best_row(A, nu, betas, refs.rows), mu, atol=1e-8)
    np.testing.assert_allclose(best_column(A, mu, betas, refs.columns), nu, atol=1e-8)
    with pytest.raises(ValueError, match="zero for all games of the batch or for none"):
        equilibrium(A[:2], np.array([0.0, 1.0]), References(*(ref[:2] for ref in refs)))


def test_games_that_a_person_can_solve():
    pennies, saddle = [[1.0, -1], [-1, 1]], [[0.5, 0.2], [-0.3, 0.1]]
    uneven = [[3.0, -1], [-1, 1]]  # 3p − (1 − p) = −p + (1 − p): p = 1/3
    mu, nu = nash(np.array([pennies, saddle, uneven]))
    np.testing.assert_allclose(mu, [[0.5, 0.5], [1, 0], [1 / 3, 2 / 3]])
    np.testing.assert_allclose(nu, [[0.5, 0.5], [0, 1], [1 / 3, 2 / 3]])
    one = np.array([[[np.log(4.0), 0.0], [0.0, 0.0]]])
    uniform = np.log(np.full((1, 2), 0.5))
    np.testing.assert_allclose(best_row(one, np.array([[1.0, 0.0]]), np.ones(1), uniform), [[0.8, 0.2]])  # 4 : 1
    np.testing.assert_allclose(best_row(one, np.array([[1.0, 0.0]]), np.full(1, 0.5), uniform), [[16 / 17, 1 / 17]])


def test_optimism_finds_the_equilibrium_and_its_opposite_does_not():
    A, refs = study.matrix_games(8)
    zero, some, marks = np.zeros(8), np.full(8, 0.1), [500, 1000]
    right, wrong = (learners.omg(A, zero, refs, marks, np.random.default_rng(1), sign=sign) for sign in (1, -1))
    late, late_wrong = (np.diff(regret).mean() for regret in (right, wrong))
    assert late_wrong > 3 * late
    with_kl = learners.omg(A, some, refs, marks, np.random.default_rng(1))
    assert np.diff(with_kl).mean() < 0.5 * late < 0.5 * right[:, 0].mean(), "a KL term, and time, make regret grow less"


@pytest.mark.slow
def test_markov_games_by_backward_induction_and_by_learning():
    game, refs = study.markov_games(4)
    beta = np.full(4, study.SOMG_BETA)
    exact = learners.backward_induction(game, beta, refs)
    np.testing.assert_allclose(learners.exploitability(game, exact, beta, refs), 0, atol=1e-9)
    early, late = learners.somg(game, beta, refs, [50, 1500], np.random.default_rng(3))
    far, near = (study._policy_distance(one, exact).mean() for one in (early, late))
    assert near < 0.1 < far
    assert (learners.exploitability(game, late, beta, refs) > 0).all()


# --- the oracle of the KL term ---------------------------------------------------------------------------------------------

START = np.log(study.START)


def bandit(reward="graded", beta=0.5):
    return oracle.Bandit(np.array(study.BANDITS[reward]), np.log(study.REFERENCE), beta)


def reached(one, kl, place, advantages, **options):
    return oracle.ascend(oracle.expected_gradient(one, kl, place, oracle.ADVANTAGES[advantages], group=3), START, **options)


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("reward", list(study.BANDITS))
def test_the_optimum_of_the_kl_is_reached_by_k1_in_the_reward_and_k2_in_the_loss_alone(reward):
    one = bandit(reward)
    star = oracle.optimum(one)
    weights = np.array(study.REFERENCE) * np.exp(one.reward / one.beta)
    np.testing.assert_allclose(star, weights / weights.sum())
    apart = {(kl, place): oracle.distance(reached(one, kl, place, "leave one out"), star) for kl, place in study.SETTINGS}
    assert apart["k1", "reward"] <= 1e-3 and apart["k2", "loss"] <= 1e-3
    assert apart["k1", "loss"] >= 1e-2 and apart["k3", "loss"] >= 1e-2
    assert reached(one, "k1", "loss", "leave one out").argmax() == one.reward.argmax()


def test_k3_in_the_loss_has_the_optimum_of_the_exchanged_divergence():
    # Σ of π(a)(r(a) − r̄) + β(π_ref(a) − π(a)) is zero in every a: π = β π_ref / (β + r̄ − r).
    one = bandit()
    policy = reached(one, "k3", "loss", "leave one out")
    expected = one.beta * np.array(study.REFERENCE) / (one.beta + policy @ one.reward - one.reward)
    np.testing.assert_allclose(policy, expected, atol=1e-6)


def test_the_expected_gradient_is_that_of_the_regularised_reward():
    one = bandit()

    def objective(logits):
        logps = jax.nn.log_softmax(logits)
        return jax.numpy.exp(logps) @ (one.reward - one.beta * (logps - one.log_ref))

    wanted = jax.grad(objective)(START)
    for kl, place in (("k1", "reward"), ("k2", "loss")):
        found = oracle.expected_gradient(one, kl, place, oracle.leave_one_out, group=3)(START)
        np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_the_group_mean_changes_beta_in_the_loss_and_not_in_the_reward():
    one = bandit()
    in_loss, _ = oracle.effective_beta(one, reached(one, "k2", "loss", "group mean"))
    assert in_loss == pytest.approx(one.beta * 3 / 2, rel=1e-6)  # G/(G − 1)
    assert oracle.distance(reached(one, "k1", "reward", "group mean"), oracle.optimum(one)) < 1e-6


def test_the_deviation_changes_beta_in_the_loss_and_in_the_reward_only_the_noise():
    one = bandit("one right token")
    effective, off = oracle.effective_beta(one, reached(one, "k2", "loss", "mean and std"))
    assert effective < 0.8 * one.beta and off < 1e-6
    falling, constant = (reached(one, "k1", "reward", "mean and std", rate=0.1, decay=decay) for decay in (True, False))
    assert oracle.distance(falling, oracle.optimum(one)) < 1e-3 < oracle.distance(constant, oracle.optimum(one)) < 0.1
