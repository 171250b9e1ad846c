"""EXP3 against its textbook form, NS-NAC against a loop, and a training run that changes τ between blocks and goes on."""

import json
import math

import numpy as np
import pytest
from small_world import LABORATORY

from experiments.bandit import exp3, tabular, training, varying


def test_exp3_is_its_textbook_form():
    chance, gamma, arms = np.random.default_rng(0), 0.2, 4
    weights, log_weights, played = [1.0] * arms, np.zeros(arms), []
    for _ in range(300):
        p = [(1 - gamma) * w / sum(weights) + gamma / arms for w in weights]
        np.testing.assert_allclose(exp3.probabilities(log_weights, gamma), p, rtol=1e-9)
        arm, reward = int(chance.choice(arms, p=p)), float(chance.random())
        weights[arm] *= math.exp(gamma * (reward / p[arm]) / arms)
        log_weights = exp3.updated(log_weights, gamma, arm, reward)
        played.append((arm, reward))
    np.testing.assert_allclose(exp3.replay(arms, gamma, 0, played), log_weights)
    np.testing.assert_array_equal(exp3.replay(arms, gamma, 100, played), np.zeros(arms))
    np.testing.assert_allclose(exp3.replay(arms, gamma, 100, played[:150]), exp3.replay(arms, gamma, 0, played[100:150]))
    assert exp3.exploration(2, 1) == pytest.approx(math.sqrt(2 * math.log(2) / (math.e - 1)))
    with pytest.raises(ValueError, match="between 0 and 1"):
        exp3.updated(log_weights, gamma, 0, 1.5)


def test_exp3_finds_the_better_arm():
    chance, gamma, log_weights, last = np.random.default_rng(1), exp3.exploration(3, 2000), np.zeros(3), []
    for _ in range(2000):
        arm = int(chance.choice(3, p=exp3.probabilities(log_weights, gamma)))
        log_weights = exp3.updated(log_weights, gamma, arm, float(chance.random() < (0.3, 0.7, 0.3)[arm]))
        last.append(arm)
    assert np.mean(np.array(last[1000:]) == 1) > 0.8


def test_the_best_average_reward_and_the_budget_by_hand():
    # One state: the best average is the best reward. Along the way the two actions exchange theirs.
    reward = np.array([[[[0.2, 0.8]]], [[[0.8, 0.2]]]])
    mdp = varying.Varying(reward, np.ones((2, 1, 1, 2, 1)))
    np.testing.assert_allclose(varying.best_average(mdp, np.array([0.0, 0.5, 1.0])), [[0.8, 0.5, 0.8]])
    there_and_back = varying.triangle(8, 2)
    np.testing.assert_allclose(there_and_back, [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25])
    np.testing.assert_allclose(varying.budget(mdp, there_and_back), [0.6 * 1.75])
    # Two states, of which the action reaches its own in nine of ten cases; state 1 pays 1.
    move = np.full((2, 1, 2, 2, 2), 0.1)
    move[:, :, :, 0, 0] = move[:, :, :, 1, 1] = 0.9
    pays = np.tile(np.array([[0.0, 0.0], [1.0, 1.0]]), (2, 1, 1, 1))
    np.testing.assert_allclose(varying.best_average(varying.Varying(pays, move), np.zeros(1)), [[0.9]])


def test_ns_nac_is_its_update_written_as_a_loop():
    mdp, T = varying.varying(1), 60
    phase, rates = varying.triangle(T, 2), varying.Rates(np.array([0.3]), np.array([0.5]), np.array([25]))
    found = varying.play(mdp, phase, rates, np.random.default_rng(5))[0]
    chance = np.random.default_rng(5)
    state, action = int(chance.integers(4, size=1)[0]), int(chance.integers(3, size=1)[0])
    uniform = chance.random((T, 2, 1, 1))
    for t in range(T):
        if t % 25 == 0:
            policy, Q, eta = np.full((4, 3), 1 / 3), np.zeros((4, 3)), 0.0
        x = phase[t]
        reward, move = ((1 - x) * e[0, 0] + x * e[1, 0] for e in mdp)
        assert found[t] == pytest.approx(reward[state, action])
        after = int(np.searchsorted(move[state, action].cumsum(), uniform[t, 0, 0, 0]))
        following = int(np.searchsorted(policy[after].cumsum(), uniform[t, 1, 0, 0]))
        eta += 0.3 * (reward[state, action] - eta)
        Q[state, action] += 0.3 * (reward[state, action] - eta + Q[after, following] - Q[state, action])
        policy = policy * np.exp(0.5 * Q)
        policy /= policy.sum(1, keepdims=True)
        state, action = after, following


def test_a_restart_helps_where_the_mdp_varies_and_hurts_where_it_stays():
    found = tabular.run_restart(5, 6000)
    saved = {name: np.mean(lost["30.0"]["none"]) - np.mean(lost["30.0"]["restart"]) for name, lost in found.items()}
    assert saved["varies"] > 0 > saved["stays"]


def test_exp3_of_losses_is_its_textbook_form():
    chance, arms, eta = np.random.default_rng(2), 3, exp3.rate(3, 50)
    assert eta == pytest.approx(math.sqrt(2 * math.log(3) / 150))
    losses, log_weights = np.zeros(arms), np.zeros(arms)
    for _ in range(50):
        p = np.exp(-eta * losses) / np.exp(-eta * losses).sum()
        np.testing.assert_allclose(exp3.probabilities(log_weights, 0.0), p, rtol=1e-9)
        arm, reward = int(chance.choice(arms, p=p)), float(chance.random())
        losses[arm] += (1 - reward) / p[arm]
        log_weights = exp3.updated_by_loss(log_weights, eta, arm, reward)
    with pytest.raises(ValueError, match="between 0 and 1"):
        exp3.updated_by_loss(log_weights, eta, 0, -0.5)


def test_epochs_side_by_side_have_their_own_phase_mdp_and_arm():
    # With one action the policy plays no part: an epoch's mean reward is its reward at that phase.
    reward = np.array([[0.2, 0.4], [0.8, 0.6]]).reshape(2, 2, 1, 1)
    mdp, phase = varying.Varying(reward, np.ones((2, 2, 1, 1, 1))), np.repeat([0.0, 0.5, 1.0], 4)
    arms = [varying.Rates(np.full(2, 0.1), np.full(2, rate), np.zeros(2, int)) for rate in (0.1, 1.0)]
    found = varying.in_epochs(mdp, phase, arms, 4, np.random.default_rng(0), at_once=2)
    np.testing.assert_allclose(found, [[[0.2, 0.5, 0.8], [0.4, 0.5, 0.6]]] * 2)
    two = varying.varying(2)
    slow, fast = (varying.Rates(np.full(2, rate), np.full(2, rate), np.zeros(2, int)) for rate in (1e-6, 0.2))
    gained = varying.in_epochs(two, np.zeros(4000), [slow, fast], 1000, np.random.default_rng(0)).mean(2)
    assert (gained[1] > gained[0]).all()


@pytest.mark.parametrize("scaled", [True, False])
def test_borl_learns_the_better_arm_of_every_mdp(scaled):
    earned = np.full((2, 2, 3000), 0.4) + 0.1 * np.random.default_rng(0).random((2, 2, 3000))
    earned[0, 0] += 0.3
    earned[1, 1] += 0.3
    last = varying.borl(earned, np.random.default_rng(1), scaled=scaled)[:, 1500:]
    assert last[0].mean() < 0.2 and last[1].mean() > 0.8


def test_borl_is_no_worse_than_its_worst_arm():
    for grid, by_horizon in tabular.run_borl(3, (6000,)).items():
        ratios = {name: lost.mean() for name, lost in tabular.to_the_best(grid, by_horizon["6000"]).items()}
        arms = [ratios[name] for name in tabular.GRIDS[grid]]
        assert min(arms) == 1 < ratios[tabular.BORL] < max(arms)
        assert ratios[tabular.RANDOM] == pytest.approx(np.mean(arms), rel=1e-6)


# --- the training run ------------------------------------------------------------------------------------------------------

SMALL = {k: v for k, v in LABORATORY.items() if k not in ("federation.rounds", "federation.steps")} | {"data.validation": 16}


def test_a_reward_is_gain_per_byte():
    assert training.reward_of(0.0, 5_000_000) == 0.5
    assert training.reward_of(0.1, 5_000_000) == 1.0
    assert training.reward_of(0.1, 20_000_000) == pytest.approx(0.625)
    assert training.reward_of(-0.4, 5_000_000) == 0.0


def test_exp3_chooses_by_what_was_played_alone():
    choice = training.Choice(None, seed=3)
    rows = [{"arm": 1, "reward": 0.9}, {"arm": 0, "reward": 0.1}]
    arm, chances = choice.next(rows)
    assert choice.next(rows) == (arm, chances) and max(chances) == chances[1] and sum(chances) == pytest.approx(1)
    assert training.Choice(2, seed=3).next(rows) == (2, [0, 0, 1, 0])
    many = [{"arm": 1, "reward": 1.0}] * training.RESTART
    np.testing.assert_allclose(choice.next(many)[1], [0.25] * 4)  # it has restarted


def test_regret_is_against_the_best_finished_arm():
    def blocks(*rewards):
        return {"1": [{"reward": reward} for reward in rewards]}

    results = {"EXP3": blocks(0.5, 0.7), training.ARMS[0].name: blocks(0.9), training.ARMS[3].name: blocks(0.9, 0.8)}
    assert "at least, since 3 arms are not finished, 0.500" in training.regret(results)
    everything = results | {arm.name: blocks(0.6, 0.6) for arm in training.ARMS[:3]}
    assert training.regret(everything).startswith("Regret against the best fixed arm: 0.500")
    assert training.regret({"EXP3": blocks(0.5)}).startswith("Regret: not run")


@pytest.mark.slow
def test_a_run_changes_tau_between_blocks_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "ARMS", (training.Arm(1, 0), training.Arm(2, 2)))
    arms = iter([(0, [1, 0]), (1, [0, 1])])
    monkeypatch.setattr(training.Choice, "next", lambda self, blocks: next(arms))
    first = training.run(training.Choice(None, 1, blocks=1, steps=2), tmp_path, SMALL)
    both = training.run(training.Choice(None, 1, blocks=2, steps=2), tmp_path, SMALL)
    assert both[0] == first[0] and [block["rounds"] for block in both] == [2, 3]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [("public" if any(name.startswith("public/") for name in row) else "private") for row in rows if "step" in row]
    assert steps == ["private", "private", "private", "public"]
    assert both[1]["sent"] == both[0]["bytes"] + both[1]["bytes"] and both[0]["bytes"] > both[1]["bytes"] > 0
    results = {"EXP3": {"1": both}}
    monkeypatch.setattr(training, "COLOURS", {"EXP3": "#000000"} | {arm.name: "#0072b2" for arm in training.ARMS})
    assert training.table(results).count("not run") == 2 * 4 + 1
    training.draw(results, tmp_path / "training.png")
    assert (tmp_path / "training.svg").exists()
