"""The pipeline from hidden states to mutual information: a planted structure is found, and none in shuffled blocks."""

import jax
import numpy as np
import pytest

from experiments.planning import codes, information, policy, study


def test_mutual_information_by_hand():
    same = np.array([0, 1, 2, 3] * 5)
    assert information.mutual_information(same, same, 4) == pytest.approx(2)
    assert information.mutual_information(same, same // 2, 4) == pytest.approx(1)
    every = np.stack(np.meshgrid(range(4), range(4)), -1).reshape(-1, 2)
    assert information.mutual_information(*every.T, 4) == pytest.approx(0)
    found = {"bits": [0.5, 2.5, 1.0], "chance": [0.5, 0.5, 0.0]}
    np.testing.assert_allclose(information.normalised(found), [0, 1, 0.5])


def test_too_few_used_codes_are_not_reported():
    chance = np.random.default_rng(0)
    sequences = chance.integers(31, size=(100, 4))
    assert information.used(sequences, 64) == 31
    assert information.by_offset(sequences, 64, chance) is None
    assert information.by_offset(sequences, 62, chance) is not None


def test_blocks_are_positions_side_by_side():
    hidden = np.arange(2 * 5 * 3).reshape(2, 5, 3)
    blocks = codes.in_blocks(hidden, 2)
    assert blocks.shape == (2, 2, 6)
    np.testing.assert_array_equal(blocks[1, 1], hidden[1, 2:4].reshape(-1))


@pytest.mark.slow
def test_the_loss_has_the_terms_of_its_docstring():
    model = codes.VQVAE(features=6, codes=4, width=8, size=2)
    blocks = jax.random.normal(jax.random.key(0), (5, 6))
    params = model.init(jax.random.key(1), blocks)
    params["params"]["codes"] = jax.numpy.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    total, terms = codes.loss(model, codes.Weights(1, 1, 1), params, blocks)
    decoded, encoded, nearest, code, table = model.apply(params, blocks)
    obvious = [min(range(4), key=lambda k: np.sum((np.array(e) - np.array(table[k])) ** 2)) for e in encoded]
    np.testing.assert_array_equal(code, obvious)
    assert terms["rec"] == pytest.approx(float(np.mean((decoded - blocks) ** 2)))
    assert terms["vq"] == pytest.approx(1.25 * float(np.mean((nearest - encoded) ** 2)))
    assert terms["cos"] == pytest.approx(4 / 12, abs=1e-5)  # of 12 ordered pairs, 4 are opposite, 8 orthogonal
    assert terms["ent"] >= 0
    assert total == pytest.approx(float(sum(terms.values())), rel=1e-6)
    slope = jax.grad(lambda p: codes.loss(model, codes.Weights(0, 0, 0), p, blocks)[0])(params)["params"]
    assert np.abs(slope["encoded"]["kernel"]).max() > 0, "the reconstruction's gradient passes the quantisation"
    assert np.abs(slope["codes"]).max() == 0


@pytest.mark.slow
def test_a_planted_structure_is_found_and_none_in_shuffled_blocks():
    hidden = study.planted(1, sequences=1200, symbols=16)
    planted, mixed = (study.measure(hidden, 32, 1, shuffle=shuffle, steps=300) for shuffle in (False, True))
    above, nothing = (np.array(one["information"]["bits"]) - one["information"]["chance"] for one in (planted, mixed))
    assert planted["used"] >= 16 and mixed["used"] >= 16
    assert above[study.OFFSET - 1] > 2.5  # of 4 bits
    assert np.abs(np.delete(above, study.OFFSET - 1)).max() < 0.1 and np.abs(nothing).max() < 0.1
    assert information.normalised(planted["information"]).argmax() == study.OFFSET - 1


def test_means_of_clients_and_bits_above_chance():
    def one(bits):
        return {"used": 64, "information": {"bits": bits, "chance": [0.5, 0.5]}, "shuffled": None}

    merged = policy._mean_of([one([1.5, 0.5]), one([2.5, 1.5])])
    assert merged["used"] == 64 and merged["shuffled"] is None
    np.testing.assert_allclose(policy.above([merged]), [[1.5, 0.5]])
    assert policy.above([one([1.0, 1.0]), one([1.0, 1.0]) | {"information": None}]) is None
    assert "not reported" in policy.table({"before": [one([1.0, 1.0]), one([1.0, 1.0]) | {"information": None}]})


@pytest.mark.slow
def test_hidden_states_of_unlike_scales_show_the_planted_structure_and_their_shuffled_codes_none(monkeypatch):
    monkeypatch.setattr(policy, "K", 32)
    hidden = study.planted(1, sequences=1200, symbols=16)
    found = policy.measured(hidden * np.linspace(1, 50, hidden.shape[1])[:, None] + 7, study.WIDTH, 1)
    bits, control = policy.above([found])[0], policy.above([found], "shuffled")[0]
    assert bits.argmax() == study.OFFSET - 1 and bits.max() > 2 and np.abs(control).max() < 0.2
