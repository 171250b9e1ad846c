"""Own rewards in a run: what functions see, what counts as right, what is logged, and what a resume refuses."""

import importlib.util
import json

import numpy as np
import pytest
from small_world import LABORATORY, config_of, finished

from pubswap_jax import loop
from pubswap_jax import settings as common_settings
from pubswap_jax.questions import embedded
from pubswap_jax.questions.problem import Problem
from pubswap_jax.run import assembly, journal, manifest
from pubswap_jax.run.judge import Grades, grade, make_judge, to_verdict
from pubswap_jax.run.reward import Scores, given
from pubswap_jax.run.rewarding import Own, Tally, make_own, rewarding, threshold, with_columns
from pubswap_jax.types import Rollout

FILE = """
def close(completions, answer, topic):
    assert all(one[0]["role"] == "assistant" for one in completions)
    return [None if t == "two" else 0.5 + 0.25 * (a in c[0]["content"]) for c, a, t in zip(completions, answer, topic)]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rewards.py"
    path.write_text(FILE)
    return path


def test_what_counts_as_right_and_a_response_left_out():
    status = np.array([[[1, 0, 0, 0]]], np.int8)
    grades = Grades(status, np.full(status.shape, ""), np.full(status.shape, ""))
    np.testing.assert_array_equal(to_verdict(grades).reward, [[[1, 0, 0, 0]]])
    own = grades._replace(bits=np.array([[[False, True, True, False]]]), worth=np.array([[[0.5, 1.0, 3.0, np.nan]]]))
    verdict = to_verdict(own)
    np.testing.assert_array_equal(verdict.reward, [[[0.5, 1.0, 3.0, 1.5]]])  # the mean of the others: no advantage
    np.testing.assert_array_equal(verdict.correct, own.bits)
    nobody = grades._replace(worth=np.full(status.shape, np.nan))
    np.testing.assert_array_equal(to_verdict(nobody).reward, np.zeros(status.shape))


def test_functions_see_every_response_with_its_own_question(file):
    run, _ = finished()
    tokenizer, seen = run.policy.tokenizer, {}

    def looks(**offered):
        seen.update(offered)
        return [float(i) for i in range(len(offered["answer"]))]

    asked = [Problem("a", "1=", "1", columns={"level": 3}), Problem("b", "2=", "2", columns={"hint": "two"})]
    tokens = np.array([[[[4, 1, 0], [5, 4, 1]], [[5, 1, 0], [1, 0, 0]]]], np.int32)
    mask = np.cumsum(tokens == 1, -1) - (tokens == 1) == 0
    own = with_columns(Own([given(looks)], [2.0], 4.0), asked)
    grades = rewarding(own, tokenizer)(lambda *of: grade(tokenizer, *of))(Rollout(tokens, mask, None), [asked])
    assert [one[0]["content"] for one in seen["completions"]] == ["1", "21", "2", ""]
    assert [one[0]["content"] for one in seen["prompts"]] == ["1=", "1=", "2=", "2="]
    assert seen["completion_ids"] == [[4, 1], [5, 4, 1], [5, 1], [1]] and seen["correct"] == [True, False, True, False]
    assert seen["level"] == [3, 3, None, None] and seen["hint"] == [None, None, "two", "two"]
    assert grades.worth.tolist() == [[[0, 2], [4, 6]]] and grades.correct.tolist() == [[[False, False], [True, True]]]


@pytest.mark.parametrize("form, prompt", [("auto", [{"role": "user", "content": "1="}]), ("text", "1=")])
def test_the_form_of_prompts_and_completions(form, prompt):
    run, _ = finished()
    seen, tokens = [], np.ones((1, 1, 2, 3), np.int32)

    def looks(prompts):
        seen.extend(prompts)
        return [0.0, 0.0]

    own = Own([given(looks)], [1.0], None, form)
    graded = rewarding(own, run.policy.tokenizer)(lambda *of: grade(run.policy.tokenizer, *of))
    graded(Rollout(tokens, tokens > 0, None), [[Problem("a", "1=", "1")]])
    assert seen == [prompt, prompt]


def test_the_tally_adds_parts_of_the_clients():
    def scores(*values):
        return Scores(np.zeros(4), np.zeros(4, bool), {"f.py:close": np.array(values, float)}, {"f.py:close": 1.5})

    tally = Tally()
    tally.note(scores(1, 2, np.nan, np.nan), (2, 1, 2))
    tally.note(scores(1, np.nan, 4, 6), (2, 1, 2))
    means, seconds = tally.take()
    np.testing.assert_array_equal(means["close"], [1.5, np.nan, 1, 5])
    assert seconds == {"close": 3.0} and tally.take() == ({}, {})


def test_questions_of_reasoning_gym_are_judged_by_their_own_verifiers():
    own = make_own("", "", "verifier", questions="reasoning_gym:chain_sum")
    assert [one.name for one in own.functions] == ["reasoning_gym"] and own.correct_at == 1.0 and not own.verified
    assert make_own("", "", "0.5", questions="reasoning_gym:chain_sum").correct_at == 0.5
    assert make_own("format", "", "verifier", questions="reasoning_gym:chain_sum").functions[0].name == "format"
    assert make_own("", "", "verifier", questions="math") is None


def test_the_verifier_must_read_answers_only_where_its_verdict_counts():
    assert make_own("", "", "verifier") is None
    assert make_own("format", "", "verifier").verified and make_own("format,verifier", "", "1.0").verified
    assert not make_own("format", "", "1.0").verified


@pytest.mark.parametrize(
    "section, message",
    [
        (("", "1.0", "verifier"), "config.reward.weights=1.0: no effect without a reward; set reward.functions"),
        (("", "", "1.0"), "config.reward.correct_at=1.0: no effect without a reward; set reward.functions"),
        (("format", "", "right"), "config.reward.correct_at=right: verifier or a number expected"),
        (("format", "", "nan"), "config.reward.correct_at=nan: verifier or a number expected"),
        (("", "", "verifier", "messages"), "config.reward.form=messages: no effect without a reward"),
    ],
)
def test_a_setting_that_means_nothing_is_one_line(section, message):
    with pytest.raises(ValueError) as error:
        make_own(*section)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match="reward.functions=format: no effect beside reward="):
        make_own("format", "", "verifier", given=[given(threshold)])


def test_a_column_that_is_missing_is_found_before_the_first_step():
    own, asked = Own([given(lambda solutions: [])], [1.0], None), [Problem("a", "1=", "1", columns={"solution": 3})]
    with pytest.raises(ValueError, match="the questions have no column 'solutions'; did you mean solution?"):
        with_columns(own, asked)


def with_rewards(run, file):
    """The finished run with a round less, and with own rewards."""
    changes = {"reward.functions": f"{file}:close,verifier", "reward.weights": "1.0,0.25", "reward.correct_at": "0.75"}
    changes |= {"reward.form": "messages"}
    settings = run.settings | changes | {"federation.rounds": 1}
    own, tally = with_columns(make_own(*changes.values()), run.data.train.problems), Tally()
    judge = make_judge(run.policy.tokenizer, rewarded=rewarding(own, run.policy.tokenizer, tally.note))
    timeline = run.timeline
    shorter = assembly.make_timeline(config_of(run, federation__rounds=1), assembly.make_schedule(config_of(run)))
    assert timeline.length > shorter.length
    return run._replace(settings=settings, own=own, tally=tally, judge=judge, rounds=1, timeline=shorter)


def test_a_run_with_own_rewards_logs_them_on_private_and_public_steps_and_refuses_others(file, tmp_path):
    run, workdir = with_rewards(finished()[0], file), tmp_path / "run"
    loop.train(run, workdir)
    steps = [row for row in journal.read(workdir, "metrics") if "step" in row]
    assert {"private/reward" in row for row in steps} == {True, False}  # both kinds
    for row in steps:
        kind = "public" if "public/reward" in row else "private"
        assert all(x is None or 0.5 <= x <= 0.75 for x in row["reward/close"]) and row["time/reward_close"] >= 0
        assert len(row["reward/verifier"]) == 3 and max(row[f"{kind}/reward"]) <= 1.0
    groups = journal.read(workdir, "rollouts")
    rewards = {one["reward"] for group in groups for one in group["responses"] if group["topic"] != "two"}
    assert rewards <= {0.5, 0.75, 1.0} and len(rewards) > 1
    described = json.loads((workdir / "run.json").read_text())["rewards"]
    assert [(one["name"], one["weight"]) for one in described] == [(f"{file}:close", 1.0), ("verifier", 0.25)]
    manifest.agree(workdir, run, fork=False)
    file.write_text(FILE + "# changed")
    with pytest.raises(ValueError, match="the code of reward .*rewards.py:close has changed since the run began"):
        manifest.agree(workdir, with_rewards(finished()[0], file), fork=False)


def test_the_swap_reads_the_bit_of_the_reward():
    """Private and public steps have one judge: its `correct` is what a swap sees."""
    run, _ = finished()
    own = Own([given(lambda completions: [float(len(one[0]["content"]) > 1) for one in completions])], [1.0], 1.0)
    judge = make_judge(run.policy.tokenizer, rewarded=rewarding(own, run.policy.tokenizer))
    event = next(run.timeline(i) for i in range(run.timeline.length) if run.timeline(i).kind == "public")
    batch, key = run.data.batch(event), loop.step_key(run.key, np.array([0, 1], np.uint32))
    channel = loop.make_gate(run, loop.state.beginning(run)).channel
    state = run.federation.open(run.federation.init(run.policy.adapter), channel, None)
    _, seen = run.federation.step(run.policy.base, state, batch, judge, channel, key, run.hparams(event), None)
    texts = run.policy.tokenizer.decode(*map(np.asarray, (seen.rollouts.tokens, seen.rollouts.mask)))
    long = np.array([len(text) > 1 for text in texts.ravel()]).reshape(texts.shape)
    np.testing.assert_array_equal(seen.verdicts.correct, long)
    assert np.asarray(seen.plan.swapped).any()
    np.testing.assert_array_equal(np.asarray(seen.swapped_verdicts.reward)[np.asarray(seen.plan.swapped)], 1.0)


@pytest.mark.parity
@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl, of the extra parity, is not installed")
@pytest.mark.filterwarnings("default")  # what trl and its packages say when they are imported
def test_the_rewards_of_trl_train_the_embedded_model_unchanged(tmp_path):
    asked = embedded.problems("train", seed=0, count=256)
    rows = [{"question": one.prompt, "answer": one.answer, "solution": rf"$\boxed{{{one.answer}}}$"} for one in asked]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "rewards.py").write_text("from trl.rewards import accuracy_reward, think_format_reward\n")
    config = common_settings.load("math")
    changes = LABORATORY | {"data.path": tmp_path / "questions.jsonl", "data.partition": "iid", "log.tensorboard": "off"}
    names = ",".join(f"{tmp_path}/rewards.py:{name}" for name in ("accuracy_reward", "think_format_reward"))
    changes |= {"reward.functions": names, "reward.form": "messages", "reward.correct_at": 1.0}
    for name, value in changes.items():
        common_settings.override(config, name, str(value))
    loop.train_and_evaluate(config, tmp_path / "run")
    steps = [row for row in journal.read(tmp_path / "run", "metrics") if "step" in row]
    for row in steps:
        kind = "public" if "public/reward" in row else "private"
        after = np.array(row[f"{kind}/correct"])  # the swap puts right responses for wrong ones
        assert (row["reward/accuracy_reward"] <= after).all() and (
            kind == "public" or row["reward/accuracy_reward"] == list(after)
        )
        assert row["reward/think_format_reward"] == [0, 0] and any(row[f"{kind}/grad_norm"])
    assert np.mean([row["reward/accuracy_reward"] for row in steps]) > 0
