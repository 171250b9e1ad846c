"""The laboratory of the experiments gives the figures of the product's own loop, and studies resume and report from them."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from small_world import LABORATORY

from experiments import cells
from experiments.aggregation import study as rules
from experiments.figures import interval, paired
from experiments.laboratory import KEPT, config_of, train
from experiments.methods import picture, study
from experiments.supervised import make_step, optimizer, responses
from experiments.sweeps import study as sweeps
from experiments.tau import study as tau
from experiments.ways import study as ways
from experiments.ways.encoder import bag_of_tokens
from experiments.ways.experts import worked
from pubswap_jax import Prompts, settings
from pubswap_jax.loop import train_and_evaluate
from pubswap_jax.policy.toyworld import TOY_CONFIG, toy
from pubswap_jax.questions import embedded
from pubswap_jax.run.methods import fedgrpo_of


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"federation.participants": 1, "federation.weights": "size", "training.warmup": 2}])
def test_the_rows_are_those_of_the_product(tmp_path, changes):
    built = config_of("configs/math.py:hard", 2, LABORATORY | changes)
    said, seen = [], []
    (rows,) = train([built], say=said.append, watch=lambda round, server: seen.append((round, int(server.round))))
    assert any(line.startswith("base model saved") for line in said) and seen == [(0, 0)]
    settings.override(built, "log.distortion", "off")  # measures nothing that is compared
    train_and_evaluate(built, tmp_path)
    found = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    base, private, public, finished = found
    here = [i for i, x in enumerate(finished["round/drift"]) if x is not None]
    assert len(here) == (built.federation.participants or 2)
    for name in KEPT:
        values = [step[f"{phase}/{name}"][i] for phase, step in (("private", private), ("public", public)) for i in here]
        np.testing.assert_allclose(np.mean(values), rows[1][name], rtol=1e-5, err_msg=name)
    assert [row["round"] for row in rows] == [0, 1] and rows[1]["reward"] > 0
    assert [row["global"] for row in rows] == [base["eval/pass@1"], finished["eval/pass@1"]]
    assert rows[1]["clients"] == pytest.approx(np.mean([finished["clients/pass@1"][i] for i in here]))
    assert rows[1]["drift"] == pytest.approx(np.mean([finished["round/drift"][i] for i in here]))
    assert rows[1]["residual"] == pytest.approx(finished["round/residual"])
    assert rows[1]["cosine"] == pytest.approx(finished["round/cosine"][0][1] if len(here) == 2 else 1.0)
    crossed = ("adapters", "questions", "responses", "verdicts", "rewards")
    assert rows[1]["bytes"] == sum(sum(s) for n, s in finished.items() if n.startswith("ledger/") and n.endswith(crossed))
    assert rows[1]["seconds"] > 0 and rows[1]["cpu_seconds"] > 0


def test_every_cell_of_the_studies_is_a_config_of_as_many_responses():
    asked = {method: study.changes_of(method, "configs/math.py:hard", {}) for method in study.METHODS}
    swept = sweeps.cells(list(sweeps.GROUPS), {})
    for changes in (*asked.values(), *tau.cells({}).values(), *swept.values()):
        built = config_of("configs/math.py:hard", 3, changes)
        assert built.training.prompts * built.training.group * built.federation.num_clients == 256
    assert {
        config_of("configs/math.py:hard", 1, c).federation.steps * c["federation.rounds"] for c in tau.cells({}).values()
    } == {360}


def test_a_study_goes_on_where_it_stopped(tmp_path, monkeypatch):
    asked, out = {"one": {}, "two": {"federation.swap": "no_swap"}}, tmp_path / "results.json"
    trained = []

    def train_one(missing, spec, changes, processes, keep, alterations):
        for name, seed in missing:
            if len(trained) == 3:
                raise KeyboardInterrupt
            trained.append((name, seed))
            keep(name, seed, [{"round": 0, "global": seed / 10}])

    monkeypatch.setattr(cells, "_one_a_core", train_one)
    with pytest.raises(KeyboardInterrupt):
        cells.fill(out, "configs/math.py:hard", asked, [1, 2])
    trained.clear()
    results = cells.fill(out, "configs/math.py:hard", asked, [1, 2])
    assert trained == [("two", 2)] and results == json.loads(out.read_text())
    assert results["one"]["2"] == [{"round": 0, "global": 0.2}]
    with pytest.raises(ValueError, match="federation.swap"):
        cells.fill(out, "configs/math.py:hard", {"bad": {"federation.swap": "never"}}, [1])


def test_the_studies_say_what_was_not_run(tmp_path):
    rows = [{"global": s, "clients": s, "zero_variance_before": 0.5} for s in (0.1, 0.3)]
    seeds = {"1": rows, "2": rows}
    assert (
        sweeps.table({sweeps.BASE: seeds, "K: 4 (twice the questions)": seeds}).count("not run")
        == len(sweeps.cells(list(sweeps.GROUPS), {})) - 2
    )
    assert tau.table({tau.name_of("PubSwap", 10): seeds}).count("not run") == 18
    sweeps.draw({sweeps.BASE: seeds}, tmp_path / "sweeps.png")
    tau.draw({tau.name_of("PubSwap", 10): seeds}, tmp_path / "tau.png")
    assert (tmp_path / "sweeps.svg").exists() and (tmp_path / "tau.png").exists()


def test_the_table_pairs_seeds(tmp_path):
    rows = lambda *scores: [{"global": s, "clients": s, "bytes": 10**6, "cpu_seconds": 2.0} for s in scores]  # noqa: E731
    results = {
        picture.CONTROL: {"1": rows(0.1, 0.3, 0.6), "2": rows(0.1, 0.4, 0.45)},
        "PubSwap": {"1": rows(0.1, 0.55, 0.7), "2": rows(0.1, 0.6, 0.75)},
    }
    text = picture.table(results, [1, 2])
    assert paired(results["PubSwap"], results[picture.CONTROL], 1).startswith("+0.225")
    assert "| 1 1 | 1.0 | 2 |" in text and "2 >2" in text and "2.0 (1 of 2)" in text
    mean, half = interval(np.array([1.0, 2.0, 3.0]))
    assert (mean, half) == (2.0, pytest.approx(2.484, abs=1e-3))
    picture.draw(results, tmp_path / "picture.png", "two methods")
    assert (tmp_path / "picture.svg").read_text().startswith("<?xml")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scaffold", "fedecado"])
def test_a_rule_with_a_half_in_the_clients_runs_through_the_gate(name):
    plain = {"training.clip_norm": 0.0, "training.lr": 1.0} if name == "fedecado" else {}
    changes = LABORATORY | {"federation.rounds": 2, "federation.aggregate": name} | plain
    (rows,) = train([config_of("configs/math.py:hard", 2, changes)], say=lambda line: None)
    assert len(rows) == 3 and np.isfinite([list(row.values()) for row in rows[1:]]).all() and rows[2]["drift"] > 0


def test_every_cell_of_the_study_of_rules_is_a_config_of_as_many_responses():
    cells_of_rules, alterations = rules.cells_of([*rules.GROUPS, "hostile"])
    assert set(alterations) < set(cells_of_rules)
    for name, changes in cells_of_rules.items():
        built = config_of("configs/math.py:hard", 3, changes)
        assert built.training.prompts * built.training.group * built.federation.num_clients == 256, name
        assert built.federation.steps * built.federation.rounds == rules.STEPS


def test_every_cell_of_the_study_of_ways_is_a_config_of_as_many_responses():
    for spec, found in ways.cells_of([*ways.HARD, *ways.DEFAULT], "experts").items():
        for name, changes in found.items():
            built = config_of(spec, 3, changes)
            one = built.federation.method == "fedgrpo"  # the server trains one policy
            clients = 1 if one else built.federation.num_clients
            assert built.training.prompts * built.training.group * clients == 256, name


@pytest.mark.slow
def test_asynchronous_clients_have_a_row_a_version_though_their_uploads_come_apart():
    changes = LABORATORY | {"federation.num_clients": 4, "federation.method": "fedbuff", "federation.speeds": "1,4"}
    changes |= {"federation.rounds": 2, "federation.swap_period": 0, "training.client_microbatch": 1, "data.public": 0.2}
    (rows,) = train([config_of("configs/math.py:tiny", 2, changes)], say=lambda line: None)
    assert [row["round"] for row in rows] == [0, 1, 2] and [row["time"] for row in rows[1:]] == [2.0, 4.0]
    assert all(row["seconds"] > 0 and row["cpu_seconds"] > 0 for row in rows[1:])


def test_supervised_steps_raise_the_likelihood_of_the_given_responses_alone():
    hf = lambda text, add_special_tokens: SimpleNamespace(input_ids=[int(digit) for digit in text])  # noqa: E731
    tokens, mask = responses(["12", "345"], SimpleNamespace(hf=hf, stop_ids=(16,), pad_id=15))
    assert tokens.tolist() == [[1, 2, 16, 15], [3, 4, 5, 16]] and mask.sum(1).tolist() == [3, 4]
    model, base, adapter = toy(jax.random.key(0), TOY_CONFIG)
    prompts = Prompts(np.array([[1, 10, 2, 11], [15, 15, 3, 11]], np.int32), np.array([[1, 1, 1, 1], [0, 0, 1, 1]], bool))
    tx = optimizer(1e-2)
    step, state, losses = make_step(model, tx), tx.init(adapter), []
    for _ in range(20):
        adapter, state, loss = step(base, adapter, state, prompts, tokens, mask)
        losses.append(float(loss))
    assert losses[-1] < losses[0] - 0.1
    other = np.where(mask, tokens, 7)  # what follows the stop token does not count
    assert float(step(base, adapter, state, prompts, other, mask)[2]) == pytest.approx(
        float(step(base, adapter, state, prompts, tokens, mask)[2]), abs=1e-6
    )


def test_an_expert_learns_the_right_procedure():
    problem = embedded.problems("train", seed=0, count=3, preset="hard")[2]
    assert problem.topic == "nickels" and worked(problem) == rf"fives: \boxed{{{problem.answer}}}"


def test_an_encoder_of_tokens_knows_no_order_and_no_padding():
    tokens = np.array([[3, 1, 3], [1, 3, 3], [9, 3, 1], [2, 2, 2]], np.int32)
    mask = np.array([[1, 1, 1], [1, 1, 1], [0, 1, 1], [1, 1, 1]], bool)
    found = np.asarray(bag_of_tokens(10).embed({}, Prompts(tokens, mask)))
    np.testing.assert_allclose(found @ found[0], [1, 1, 3 / 10**0.5, 0], atol=1e-6)
    assert found[2, 9] == 0 and found.shape == (4, 10)


def test_fedgrpo_of_a_config_takes_another_encoder():
    model, _, adapter = toy(jax.random.key(0), TOY_CONFIG)
    built = config_of("configs/math.py:fedgrpo", 1, {"federation.num_clients": 2, "federation.auxiliary": 5})
    for encoder, size in ((None, TOY_CONFIG.hidden_size), (bag_of_tokens(23), 23)):
        state = jax.eval_shape(fedgrpo_of(built, model, encoder=encoder).init, adapter)
        assert state.embedded.shape == (5, size)
