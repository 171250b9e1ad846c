"""Questions of reasoning_gym: topics, columns, the generators' own verifiers, and what is refused."""

import importlib.util
import types

import pytest

from pubswap_jax.questions import generators

REAL = importlib.util.find_spec("reasoning_gym") is not None


class Doubles:
    """A generator: twice the seed's number. Half the reward for an answer that is close."""

    def __init__(self, size=1, seed=0):
        self.size, self.seed = size, seed

    def __getitem__(self, i):
        return {"question": f"Twice {i + self.seed}?", "answer": str(2 * (i + self.seed)), "metadata": {"of": i}}

    def score_answer(self, answer, entry):
        return 1.0 if answer == entry["answer"] else 0.5


class Evaluates(Doubles):
    def score_answer(self, answer, entry):
        return float(eval(answer))


@pytest.fixture
def gym(monkeypatch):
    """A package like reasoning_gym with the generators `doubles`, `also` and `evaluates`."""
    made = {"doubles": (Doubles, None), "also": (Doubles, None), "evaluates": (Evaluates, None)}
    package = types.SimpleNamespace(
        factory=types.SimpleNamespace(DATASETS=made),
        create_dataset=lambda name, **how: made[name][0](**how),
        get_score_answer_fn=lambda name: made[name][0]().score_answer,
    )
    monkeypatch.setattr(generators, "_package", lambda spec: package)
    sources = {"Doubles": "class Doubles: ...", "Evaluates": "return float(eval(answer))"}
    # The module of both classes is this file, so their sources are given apart.
    monkeypatch.setattr(generators, "_source", lambda owner: sources[owner.__name__])
    generators._verifier.cache_clear()
    yield package
    generators._verifier.cache_clear()


def test_each_generator_is_a_topic_and_they_come_in_turn(gym):
    asked = generators.problems("reasoning_gym:doubles+also", 5, seed=3)
    assert [(one.id, one.topic) for one in asked[:3]] == [
        ("doubles/0", "doubles"),
        ("also/0", "also"),
        ("doubles/1", "doubles"),
    ]
    assert len(asked) == 5 and (asked[0].prompt, asked[0].answer) == ("Twice 3?", "6")
    assert len(generators.problems("reasoning_gym:doubles", 0, 0)) == generators.USUAL


def test_the_reward_is_that_of_the_questions_own_verifier(gym):
    columns = [one.columns["reasoning_gym"] for one in generators.problems("reasoning_gym:doubles", 5, seed=3)]
    said = [r"so \boxed{6}", "<answer> 8 </answer>", r"\boxed{9}", "10", r"\boxed{" + "1" * 5000 + "}"]
    assert generators.rewards(said, columns) == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert generators.rewards([[{"role": "assistant", "content": said[0]}]], columns[:1]) == [1.0]


def test_a_verifier_that_could_run_an_answer_is_refused(gym):
    with pytest.raises(ValueError, match="evaluates: its verifier's module uses eval, which may run an answer as code"):
        generators.problems("reasoning_gym:doubles+evaluates", 4, 0)
    with pytest.raises(ValueError, match="its verifier's module uses eval"):
        generators.rewards([r"\boxed{1}"], [{"generator": "evaluates", "entry": {}}])


def test_a_misspelt_generator_names_the_nearest(gym):
    with pytest.raises(ValueError, match="reasoning_gym has no generator 'double'; did you mean doubles?"):
        generators.problems("reasoning_gym:double", 4, 0)


@pytest.mark.skipif(REAL, reason="reasoning_gym is installed")
def test_without_the_package_the_extra_is_named():
    with pytest.raises(ValueError, match=r"reasoning_gym is not installed; pip install 'pubswap_jax\[reasoning-gym\]'"):
        generators.problems("reasoning_gym:leg_counting", 4, 0)


@pytest.mark.parity
@pytest.mark.skipif(not REAL, reason="reasoning_gym, of the extra parity, is not installed")
@pytest.mark.filterwarnings("default")
def test_the_real_package_offline():
    asked = generators.problems("reasoning_gym:leg_counting+chain_sum", 8, seed=1)
    columns = [one.columns["reasoning_gym"] for one in asked]
    assert generators.rewards([rf"\boxed{{{one.answer}}}" for one in asked], columns) == [1.0] * 8
    assert generators.rewards([r"\boxed{x}"] * 8, columns) == [0.0] * 8
    for name in (
        "string_insertion",
        "binary_matrix",
        "spiral_matrix",
        "n_queens",
        "countdown",
        "simple_integration",
        "composite",
    ):
        with pytest.raises(ValueError, match="may run an answer as code"):
            generators.problems(f"reasoning_gym:{name}", 4, 0)
