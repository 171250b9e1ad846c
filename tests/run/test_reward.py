"""Own rewards: what functions are given, how their values are added, and one line for each misuse."""

import hashlib
import importlib.util
import threading

import numpy as np
import pytest

from pubswap_jax.run import reward
from pubswap_jax.run.reward import Responses, given, load, score

ASKED = Responses(
    prompts=["2+2", "2+2", "3+3"],
    completions=[r"it is \boxed{4}", "five", r"\boxed{7}"],
    completion_ids=[[5, 6, 7], [5], list(range(1000))],
    answer=["4", "4", "6"],
    correct=[True, False, False],
    columns={"solution": ["4", "4", "6"], "level": [1, 1, 2]},
)
FILE = """
LIMIT = 3
def close(completions, answer, **others):
    return [0.5 if a in c else -0.5 for c, a in zip(completions, answer)]
def closer(level):
    return [None if one == 2 else one for one in level]
"""


def scored(*functions, weights=None, **more):
    rewards = [given(function) for function in functions]
    return score(rewards, weights or [1.0] * len(rewards), ASKED, **more)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rewards.py"
    path.write_text(FILE)
    return path


def test_the_weighted_sum_and_what_is_left_out(file):
    rewards, weights = load(f"{file}:close,{file}:closer, verifier", "2,10,0.25")
    found = score(rewards, weights, ASKED)
    np.testing.assert_array_equal(found.reward, [2 * 0.5 + 10 + 0.25, -1.0 + 10 + 0, -1.0 + 0])
    np.testing.assert_array_equal(found.each[f"{file}:closer"], [1, 1, np.nan])
    assert not found.left_out.any() and set(found.seconds) == {f"{file}:close", f"{file}:closer", "verifier"}
    alone = score(rewards[1:2], [10.0], ASKED)
    np.testing.assert_array_equal(alone.left_out, [False, False, True])
    np.testing.assert_array_equal(alone.reward, [10, 10, 0])


def test_the_built_in_functions():
    rewards, weights = load("verifier,format,length")
    found = score(rewards, weights, ASKED)
    np.testing.assert_array_equal(list(found.each.values()), [[1, 0, 0], [1, 0, 1], [-0.003, -0.001, -1]])
    chat = score(rewards, weights, ASKED, conversational=True)
    np.testing.assert_array_equal(chat.reward, found.reward)


def test_a_function_is_given_keywords_only_and_what_it_names():
    seen = {}

    def everything(**offered):
        seen.update(offered)
        return [0] * 3

    def some(completions, level, temperature=0.5):
        assert temperature == 0.5 and level == [1, 1, 2] and completions == ASKED.completions
        return np.zeros(3, np.float32)

    scored(everything, some)
    assert set(seen) == {"prompts", "completions", "completion_ids", "answer", "correct", "solution", "level"}
    assert seen["prompts"] == ["2+2", "2+2", "3+3"] and seen["correct"] == [True, False, False]
    scored(everything, conversational=True)
    assert seen["prompts"][2] == [{"role": "user", "content": "3+3"}]
    assert seen["completions"][1] == [{"role": "assistant", "content": "five"}]


def test_a_function_cannot_change_what_the_next_one_sees():
    def steals(completions, **_):
        completions.clear()
        return [0, 0, 0]

    assert scored(steals, lambda completions: [len(completions)] * 3).reward.tolist() == [3, 3, 3]


def test_the_bit_of_the_swap():
    found = scored(lambda level: [0.9, 1.0, None])
    verified = np.array([True, False, True])
    assert reward.bits(found, verified, None).tolist() == [True, False, False]
    assert reward.bits(found, verified, 1.0).tolist() == [False, True, False]
    assert reward.bits(found, verified, -1.0).tolist() == [True, True, False]


def raises(**_):
    raise KeyError("level 9\nmore")


@pytest.mark.parametrize(
    "function, message",
    [
        (raises, "reward raises: KeyError: 'level 9"),
        (lambda **_: [1, 2], "reward <lambda>: 2 values for 3 responses; return one for each"),
        (lambda **_: [1, float("nan"), 2], "reward <lambda>: nan for response 1; return a finite number, or None"),
        (lambda **_: [1, 2, float("inf")], "reward <lambda>: inf for response 2; return a finite number, or None"),
        (lambda **_: None, "reward <lambda>: a number or None for each response expected, got None"),
        (lambda **_: ["good", 1, 2], "reward <lambda>: a number or None for each response expected, got ['good', 1, 2]"),
        (lambda **_: 1.0, "reward <lambda>: a number or None for each response expected, got 1.0"),
        (lambda solutions: [0] * 3, "reward <lambda>: no column 'solutions'; did you mean solution?"),
        (lambda x, /: [0] * 3, "reward <lambda>: no column 'x'; there are solution, level, prompts"),
    ],
)
def test_a_misuse_in_a_call_is_one_line_with_the_name(function, message):
    with pytest.raises(ValueError) as error:
        scored(function)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "functions, weights, message",
    [
        ("verifer", "", "reward.functions=verifer: no such function; did you mean verifier?, and FILE:FUNCTION"),
        ("DIR/rewards.py", "", "rewards.py: no such function; write DIR/rewards.py:FUNCTION"),
        ("DIR/reward.py:close", "", "no such file DIR/reward.py; did you mean DIR/rewards.py?"),
        ("DIR/rewards.py:clos", "", "DIR/rewards.py:clos: no such function; did you mean close?"),
        ("DIR/rewards.py:LIMIT", "", "DIR/rewards.py:LIMIT: not a function; there are close, closer"),
        ("DIR/broken.py:close", "", "broken.py:1: SyntaxError: "),
        ("DIR/imports.py:close", "", "imports.py: ModuleNotFoundError: No module named 'nowhere'"),
        ("verifier,verifier", "", "reward: verifier, verifier: two functions have the same name"),
        ("verifier,format", "1", "reward.weights has 1 numbers for 2 functions (verifier, format); give one for each"),
        ("verifier", "much", "reward.weights: 'much' is no number; write reward.weights=0.2,1.0"),
        ("verifier", "nan", "reward.weights=nan: finite numbers expected"),
    ],
)
def test_a_misuse_in_a_flag_is_one_line(functions, weights, message, file):
    (file.parent / "broken.py").write_text("def close(:")
    (file.parent / "imports.py").write_text("import nowhere")
    here = str(file.parent)
    with pytest.raises(ValueError) as error:
        load(functions.replace("DIR", here), weights)
    assert message.replace("DIR", here) in str(error.value) and "\n" not in str(error.value)


def test_texts_for_a_function_that_wants_messages_are_named():
    chat = lambda completions: [float(bool(one[0]["content"])) for one in completions]  # noqa: E731
    assert scored(chat, conversational=True).reward.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="reward <lambda>: TypeError: .* set reward.form=messages for lists of messages"):
        scored(chat)


def test_a_value_that_is_no_function_is_refused():
    with pytest.raises(ValueError, match="reward: a function expected, got 'verifier'"):
        given("verifier")


def test_a_slow_call_is_named_while_it_runs(monkeypatch):
    """The message comes before the call ends: the function waits for it."""
    monkeypatch.setattr(reward, "SLOW", 0.01)
    said, heard = [], threading.Event()

    def slow(**_):
        assert heard.wait(60)
        return [0] * 3

    found = scored(slow, say=lambda line: (said.append(line), heard.set()))
    assert said == ["reward slow has run for 0.01 s on 3 responses, and a step waits for it"]
    assert found.seconds["slow"] >= 0.01


def test_the_manifest_and_what_a_resume_refuses(file):
    rewards, weights = load(f"{file}:close,verifier", "0.2,1.0")
    before = reward.described(rewards, weights)
    assert before[0] == {"name": f"{file}:close", "sha256": hashlib.sha256(FILE.encode()).hexdigest(), "weight": 0.2}
    assert before[1]["sha256"] == ""
    reward.agree(before, before, "run")
    with pytest.raises(
        ValueError, match="run: the run's rewards were 0.2 .*close, 1 verifier, not 0.5 .*close, 1 verifier; name"
    ):
        reward.agree(before, reward.described(rewards, [0.5, 1.0]), "run")
    with pytest.raises(ValueError, match="were .*, not none; name another --workdir"):
        reward.agree(before, [], "run")
    file.write_text(FILE + "# changed")
    with pytest.raises(ValueError, match="run: the code of reward .*close has changed since the run began"):
        reward.agree(before, reward.described(*load(f"{file}:close,verifier", "0.2,1.0")), "run")


def test_a_function_given_in_python_is_known_by_its_source():
    one, same, other = given(raises), given(raises), given(scored)
    assert one.name == "raises" and one.sha256 == same.sha256 != other.sha256
    assert len(given(np.square).sha256) == 64


@pytest.mark.parity
@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl, of the extra parity, is not installed")
def test_the_rewards_of_trl_run_unchanged():
    from trl.rewards import accuracy_reward, think_format_reward

    asked = ASKED._replace(completions=["<think>2 and 2</think>\n\\boxed{4}", "<think>\\boxed{4}", "\\boxed{7}"])
    found = score([given(accuracy_reward), given(think_format_reward)], [1.0, 0.5], asked, conversational=True)
    assert found.each["think_format_reward"].tolist() == [1, 0, 0]
    assert found.each["accuracy_reward"].tolist() == [1, 1, 0]
