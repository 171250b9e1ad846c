"""FedGRPO as a run: what leaves a client, a run that is killed and resumed, its lines, its export and its report."""

import dataclasses
import json
import random

import jax
import numpy as np
import pytest
from small_world import CHARACTERS, small_config, write_base

from pubswap_jax import loop, settings
from pubswap_jax.questions.load import Questions
from pubswap_jax.questions.tokens import left_pad
from pubswap_jax.run import assembly, export, journal
from pubswap_jax.run.ledger import Gate

FEDGRPO = {
    "federation__method": "fedgrpo",
    "federation__rounds": 2,
    "federation__steps": 2,
    "federation__auxiliary": 6,
    "federation__neighbours": 3,
    "data__public": 0.3,
    "evaluation__every": 2,
    "model__lora_targets": "q_proj,v_proj",  # one layer and two adapters: programs that compile soon
}
KINDS = {  # the records of the protocol, and the arrays of each
    ("questions", "down"): {"numbers"},
    ("verdicts", "up"): {"correct", "reward"},
    ("responses", "down"): {"tokens", "mask", "slots"},
    ("rewards", "up"): {"asked", "reward"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose private questions and answers are made-up texts that occur nowhere else."""
    folder = tmp_path_factory.mktemp("fedgrpo")
    config = small_config(folder, **FEDGRPO, model__path=str(write_base(folder / "shallow", num_hidden_layers=1)))
    made, chance = assembly.assemble(config), random.Random(1)
    train, tokenizer, width = made.data.train, made.policy.tokenizer, made.data.train.prompts.tokens.shape[1]
    text = lambda length: "".join(chance.choice(CHARACTERS[:3]) for _ in range(length))  # noqa: E731
    private = {i for own in made.data.split.clients for i in own}
    problems = [
        dataclasses.replace(p, prompt=text(width - 1), answer=text(12), id=f"canary-{i}") if i in private else p
        for i, p in enumerate(train.problems)
    ]
    encoded = [tokenizer.encode(p) for p in problems]
    asked = Questions(problems, left_pad(encoded, np.arange(len(encoded)), width, tokenizer.pad_id))
    planted = assembly.Asked(asked, made.data.split, made.data.validation, made.data.test, [])
    batch = assembly.make_batches(config, planted, made.place, labelled=6)
    return made._replace(data=made.data._replace(train=asked, batch=batch))


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """(last state, folder, [(kind, direction, arrays, bytes of each client)]) of the run, trained to its end."""
    folder, crossed, admit = tmp_path_factory.mktemp("whole"), [], Gate.admit

    def noting(gate, direction, record):
        passed = admit(gate, direction, record)
        crossed.append((record.kind, direction, set(record.arrays), [passed.pack(client) for client in range(3)]))
        return passed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Gate, "admit", noting)
        return loop.train(run, folder), folder, crossed


def test_no_canary_leaves_a_client_and_the_records_are_those_of_the_protocol(run, whole):
    _, folder, crossed = whole
    assert {(kind, direction): arrays for kind, direction, arrays, _ in crossed} == KINDS
    assert [kind for kind, *_ in crossed] == ["questions", "verdicts", "responses", "rewards"], "a survey, and a lesson"
    private = [problem for problem in run.data.train.problems if problem.id.startswith("canary-")]
    shown = {row["question"] for row in journal.read(folder, "rollouts")}
    assert len(private) > 50 and shown & {p.prompt for p in private}, "clients were trained on the canaries"
    raw = b"|".join(data for *_, clients in crossed for data in clients)
    for problem in private:
        for text in (problem.prompt, problem.answer):
            tokens = np.array(run.policy.tokenizer.hf(text).input_ids, np.int32)
            assert tokens[:8].tobytes() not in raw and text.encode() not in raw
    assert b"canary" not in raw and len(raw) > 500


def test_the_ledger_has_the_bytes_of_the_records_and_the_report_those_of_averaging(run, whole):
    _, folder, crossed = whole
    rounds = [row for row in journal.read(folder, "metrics") if "step" not in row][1:]
    booked = [{name: sizes for name, sizes in row.items() if name.startswith("ledger/")} for row in rounds]
    assert booked[0] == {} and booked[1]["ledger/up/verdicts"] == [1, 1, 1], "six bits of each client"
    # Four questions with two experts, four candidates of four bytes each, and which four were asked.
    assert sum(booked[1]["ledger/up/rewards"]) == 4 * 2 * 4 * 4 + 3
    written = sum(len(data.partition(b"\n")[2]) for *_, clients in crossed for data in clients)
    assert sum(sum(sizes) for sizes in booked[1].values()) == written
    adapter = sum(leaf.nbytes for leaf in jax.tree.leaves(run.policy.adapter))
    assert json.loads((folder / "run.json").read_text())["adapter_bytes"] == adapter > 0
    text = (folder / "report.html").read_text()
    assert "averaging adapters in every round" in text and "Experts" in text and "Competence" in text


class Killed(BaseException):
    """As kill -9: nothing of ours catches it."""


def outcome(state, workdir):
    rows = {name: journal.read(workdir, name) for name in ("metrics", "evaluations", "rollouts")}
    rows["metrics"] = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows["metrics"]]
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(state)], rows


@pytest.mark.parametrize("calls", [3, 4], ids=["in the survey", "in the lesson"])
def test_a_killed_run_is_resumed_to_the_bit(run, whole, tmp_path, calls):
    kept, judged = run._replace(save_every=1), []

    def dies(rollouts, batch):
        judged.append(0)
        if len(judged) == calls:
            raise Killed
        return run.judge(rollouts, batch)

    with pytest.raises(Killed):
        loop.train(kept._replace(judge=dies), tmp_path)
    found = outcome(loop.train(kept, tmp_path), tmp_path)
    assert found == outcome(*whole[:2])


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan], ids=["zeros", "ones", "NaN"])
def test_experts_that_say_nothing_are_survived_with_a_line(run, tmp_path, value, capsys):
    """Absent or wrong experts: every reward of a lesson is the same, or not a number."""

    def judge(rollouts, batch):
        verdict = run.judge(rollouts, batch)
        lesson = batch.public and not batch.labelled
        reward = jax.device_put(np.full(verdict.reward.shape, value, np.float32))
        return verdict.replace(reward=reward) if lesson else verdict

    last, said = loop.train(run._replace(judge=judge), tmp_path), capsys.readouterr().out
    missing = "are missing or not finite, and left out"
    line = missing if np.isnan(value) else f"gave every candidate the reward {value:g}, which teaches nothing"
    assert len([one for one in said.splitlines() if one.startswith("round 2: ") and one.endswith(line)]) >= 2, said
    for x, y in zip(*map(jax.tree.leaves, (run.federation.shared(last), run.policy.adapter)), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_a_run_is_exported_and_evaluated_from_its_folder(run, whole):
    folder = whole[1]
    assert [one.name for one in export.export_run(run, folder)] == ["global"]
    assert "pass@1" in export.evaluate_run(run, folder)
    assert jax.tree.map(np.shape, export.best(folder).adapter) == jax.tree.map(np.shape, run.policy.adapter)


@pytest.mark.slow
def test_the_preset_learns(tmp_path):
    """Without answers to its questions, the server's policy learns the embedded world."""
    loop.train_and_evaluate(settings.load("math:fedgrpo"), tmp_path)
    base, *_, best = [row for row in journal.read(tmp_path, "evaluations") if row["split"] == "test"]
    assert best["figures"]["pass@1"] > base["figures"]["pass@1"] + 0.4
