"""The mode route on a run's folder: figures that a person can compute, and what crosses."""

import json
import shutil

import numpy as np
import pytest
from small_world import finished

from pubswap_jax import main
from pubswap_jax.after import proxrouter, routing
from pubswap_jax.after.adapters import own_adapters
from pubswap_jax.after.proxrouter import Choice, Known
from pubswap_jax.run import evaluation
from pubswap_jax.run.methods import Routing, make_routing

ROUTING = Routing(routing.neighbours(3), own=False, most=8, sharpness=20.0, cost=0.0)


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """A run's folder; the run itself is assembled once for all tests."""
    run, folder = finished()
    monkeypatch.setattr(proxrouter, "assemble", lambda config: run)
    return shutil.copytree(folder, tmp_path / "run")


def test_the_mode_needs_the_workdir_alone(workdir, capsys):
    run, _ = finished()
    assert main.main(["--mode=route", f"--workdir={workdir}"]) == 0
    said = capsys.readouterr().out
    assert f"references: {len(run.data.split.public)} questions, public" in said
    # Two verdicts a question, eight in a byte, and a number of four bytes, of three clients.
    verdicts = 3 * -(-2 * len(run.data.split.public) // 8)
    assert f"crossed for the references: up/counters 12 B, up/verdicts {verdicts} B" in said
    rows = [json.loads(line) for line in (workdir / "route" / "route.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [problem.id for problem in run.data.test.problems]
    assert all(len(row["clients"]) == 1 and row["clients"][0] in (0, 1, 2) for row in rows)
    figures = json.loads((workdir / "route" / "figures.json").read_text())["figures"]
    for name in ("routed, known topics", "routed, held-out topics", "average adapter", "oracle, adapter of each topic"):
        mean, low, high = figures[name]
        assert 0 <= low <= mean <= high <= 1
    assert figures["oracle, adapter of each question"][0] >= figures["oracle, adapter of each topic"][0]
    mine, single = figures["routed, known topics"][0], figures["best single adapter, known topics"][0]
    assert figures["routed − best single, known topics"][0] == pytest.approx(mine - single)


def test_private_references_stay_at_home(workdir):
    run, _ = finished()
    found, examine = own_adapters(run, workdir), evaluation.make_examine(run, lambda: None)
    homes, account = proxrouter.references(run, found, ROUTING._replace(own=True, cost=0.5), examine)
    assert account == {"up/adapters": [found.sent] * 3, "down/adapters": [2 * found.sent] * 3}, "those of two others come down"
    for home, client in zip(homes, found.clients, strict=True):
        mine = [run.data.train.problems[i] for i in run.data.split.clients[client][:8]]
        assert home.topics == [problem.topic for problem in mine] and home.values.shape == (8, 3)
        wrong = home.values.min(0)  # of a question that nobody answers: the cost alone, the same for a whole adapter
        assert (wrong >= -0.5).all() and (wrong < 0).all() and (home.values <= 1).all()


def test_verdicts_of_private_questions_do_not_pass(workdir):
    run, _ = finished()
    gate, total = proxrouter._gate(run, own_adapters(run, workdir)), len(run.data.split.public)
    proxrouter._crossed(gate, np.ones((3, total, 2), bool), np.ones(3, np.float32))
    with pytest.raises(Exception, match="verdicts of 3 questions that are not public"):
        proxrouter._crossed(gate, np.ones((3, total + 1, 2), bool), np.ones(3, np.float32))


def test_without_public_questions_the_message_names_the_field(workdir):
    run, _ = finished()
    bare = run._replace(data=run.data._replace(split=run.data.split.__class__([], run.data.split.clients, {})))
    with pytest.raises(ValueError, match="config.route.questions=public: .* no public questions; set route.questions=own"):
        proxrouter.references(bare, own_adapters(run, workdir), ROUTING, None)


def test_hidden_states_do_not_depend_on_padding_or_batch(workdir):
    run, _ = finished()
    test, some = run.data.test, [3, 1, 4, 7, 2]
    whole = proxrouter.hidden_states(run, test)
    assert whole.shape == (12, run.policy.config.hidden_size) and np.ptp(whole, axis=0).max() > 0
    prompts = test.prompts.replace(tokens=test.prompts.tokens[some], mask=test.prompts.mask[some])
    few = proxrouter.hidden_states(
        run._replace(examiner=run.examiner._replace(batch=4)), proxrouter.Questions([test.problems[i] for i in some], prompts)
    )
    np.testing.assert_allclose(few, whole[some], atol=1e-5)
    wider = prompts.replace(tokens=np.pad(prompts.tokens, ((0, 0), (3, 0))), mask=np.pad(prompts.mask, ((0, 0), (3, 0))))
    np.testing.assert_allclose(proxrouter.hidden_states(run, proxrouter.Questions(test.problems[:5], wider)), few, atol=1e-5)


def test_held_out_topics_are_routed_without_references_of_their_own():
    embedded = np.array([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]])
    known = Known(embedded, np.array([[1.0, 0], [1, 0], [0, 1], [0, 0.5]]), ["a", "a", "b", "b"])
    asked = ROUTING._replace(build=routing.neighbours(2))
    found = proxrouter.choose(asked, known, embedded[[0, 2]], ["a", "b"], held_out=False)
    assert found.routed.tolist() == [0, 1] and found.single.tolist() == [0, 0]  # means 0.5 and 0.375
    out = proxrouter.choose(asked, known, embedded[[0, 2]], ["a", "b"], held_out=True)
    assert out.routed.tolist() == [1, 0] and out.single.tolist() == [1, 0]
    alone = Known(embedded[:2], known.values[:2], ["a", "a"])
    assert proxrouter.choose(asked, alone, embedded[:1], ["a"], held_out=True).routed.tolist() == [0]


def test_figures_by_hand():
    scores = np.array([[1.0, 0, 0.5, 0], [0, 1, 1, 0.5]])
    choices = [Choice(np.array([0, 1, 1, 0]), np.array([1, 1, 1, 1])), Choice(np.array([0, 0, 1, 1]), np.array([1, 1, 1, 1]))]
    found = proxrouter.compared(scores, np.array([0.5, 0.5, 0, 0]), list("aabb"), choices, [])
    means = {name: mean for name, (mean, _, _) in found.items()}
    assert means == {
        "average adapter": 0.25,
        "mean of adapters": 0.5,
        "oracle, adapter of each topic": 0.5 * (0.5 + 0.75),  # topic a: a tie, the first; topic b: the second
        "oracle, adapter of each question": (1 + 1 + 1 + 0.5) / 4,
        "routed, known topics": (0.75 + 0.625) / 2,  # of two routers
        "best single adapter, known topics": 0.625,
        "routed − best single, known topics": (0.75 + 0.625) / 2 - 0.625,
        "routed − average, known topics": (0.75 + 0.625) / 2 - 0.25,
    }
    assert all(low <= mean <= high for mean, low, high in found.values())


def test_the_fields_reach_the_router():
    run, workdir = finished()
    flags = ["--config.route.references=neighbours", "--config.route.neighbours=7", "--config.route.questions=own"]
    flags += ["--config.route.most=9", "--config.route.sharpness=3.0", "--config.route.cost=0.25"]
    asked = make_routing(main.parse(["--mode=route", f"--workdir={workdir}", *flags]).config)
    assert asked[1:] == (True, 9, 3.0, 0.25)
    assert asked.build(np.eye(9), np.ones((9, 2))).nearest == 7
    asked = make_routing(main.parse(["--mode=route", f"--workdir={workdir}", "--config.route.clusters=3"]).config)
    assert len(asked.build(np.eye(9), np.ones((9, 2))).points) <= 3


def test_no_run_folder_is_one_line(tmp_path, capsys):
    assert main.main(["--mode=route", f"--workdir={tmp_path}", "--config.route.references=clusters"]) == 2
    assert "no run.json in it; give the --workdir of a run" in capsys.readouterr().err
