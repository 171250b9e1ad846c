"""The laboratory of the experiments: a seed beside others fares as it does in the product's own loop."""

import json

import numpy as np
import pytest

from experiments.figures import interval, paired
from experiments.laboratory import KEPT, config_of, train
from experiments.methods import picture, study
from pubswap_jax.train import train_and_evaluate

SMALL = {
    "federation.num_clients": 2,
    "federation.rounds": 1,
    "federation.steps": 2,
    "training.prompts": 2,
    "training.group": 4,
    "data.max_questions": 256,
    "data.test": 16,
    "data.validation": 8,
}


def config(seed):
    return config_of("configs/math.py:hard", seed, SMALL)


def test_a_seed_beside_another_fares_as_in_the_product(tmp_path):
    after = train([config(1), config(2)], say=lambda line: None)[1][1]
    train_and_evaluate(config(2), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = {"private": rows[1], "public": rows[2]}
    for name in KEPT:
        mean = np.mean([row[f"{phase}/{name}"] for phase, row in steps.items()])
        np.testing.assert_allclose(mean, after[name], rtol=1e-3, err_msg=name)
    assert after["reward"] > 0
    (finished,) = (row for row in rows if "ledger/up/adapters" in row)
    np.testing.assert_allclose(np.mean(finished["round/drift"]), after["drift"], rtol=1e-3)
    sent = sum(sum(sizes) for name, sizes in finished.items() if name.startswith("ledger/") and "counters" not in name)
    assert after["bytes"] == sent


def test_every_method_is_a_config():
    for method in study.METHODS:
        changes = study.changes_of(method, "configs/math.py:hard", {})
        built = config_of("configs/math.py:hard", 3, changes)
        assert built.training.prompts * built.federation.num_clients == 32


def test_the_table_pairs_seeds(tmp_path):
    rows = lambda *scores: [{"global": s, "clients": s, "bytes": 10**6, "cpu_seconds": 2.0} for s in scores]  # noqa: E731
    results = {
        picture.CONTROL: {"1": rows(0.1, 0.3, 0.6), "2": rows(0.1, 0.4, 0.45)},
        "PubSwap": {"1": rows(0.1, 0.55, 0.7), "2": rows(0.1, 0.6, 0.75)},
    }
    text = picture.table(results, [1, 2])
    assert paired(results["PubSwap"], results[picture.CONTROL], 1).startswith("+0.225")
    assert "| 1 1 | 2.0 | 4 |" in text and "2 >2" in text and "3.0 (1 of 2)" in text
    mean, half = interval(np.array([1.0, 2.0, 3.0]))
    assert (mean, half) == (2.0, pytest.approx(2.484, abs=1e-3))
    picture.draw(results, tmp_path / "picture.png", "two methods")
    assert (tmp_path / "picture.svg").read_text().startswith("<?xml")
