"""Noisy homework: the world's laws, and the model that is shipped for it."""

import importlib.util
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pubswap_jax.policy.model import Transformer, init_adapter
from pubswap_jax.questions import embedded
from pubswap_jax.questions.leakage import near_copies
from pubswap_jax.questions.load import Questions
from pubswap_jax.questions.problem import KINDS
from pubswap_jax.questions.tokens import left_pad, load_tokenizer
from pubswap_jax.run.judge import grade
from pubswap_jax.run.pass_at_k import Examiner, evaluate, make_sampler, pass_at_k
from pubswap_jax.verifier.score import score
from pubswap_jax.weights.pretrained import load_pretrained

ROOT = pathlib.Path(__file__).parents[2]
PLAIN = dict.fromkeys(KINDS, "")


def numbers(problem):
    return [int(n) for n in re.findall(r"\d+", problem.prompt)]


def test_a_question_by_hand():
    asked = embedded.problems("train", seed=0, count=64)
    coins = next(p for p in asked if p.topic == "nickels")
    a, b = numbers(coins)
    assert coins.answer == str(5 * a + b)
    assert embedded.demonstrations(coins)["twelves"][0] == rf"twelves: \boxed{{{12 * a + b}}}"


def test_eight_topics_have_their_own_procedures_and_several_forms():
    assert len(embedded.TOPICS) >= 8 and len(embedded.PROCEDURES) >= 8
    assert {topic.procedure for topic in embedded.TOPICS.values()} == set(embedded.PROCEDURES)
    assert {len(set(topic.forms)) for topic in embedded.TOPICS.values()} == {embedded.FORMS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", embedded.RIGHT)
def test_the_right_procedure_is_right_and_no_wrong_one_ever_is(preset, kind):
    asked = embedded.problems("test", seed=3, count=1600, preset=preset, kind=kind)
    shown = [(p, name, *said) for p in asked for name, said in embedded.demonstrations(p).items()]
    texts, golds = [text for *_, text, _ in shown], [p.answer for p, *_ in shown]
    judged = score(texts, golds, kind=kind, options=[p.options for p, *_ in shown])
    follows = np.array([name == embedded.TOPICS[p.topic].procedure for p, name, *_ in shown])
    np.testing.assert_array_equal(judged, follows)
    shares = np.array([share for *_, share in shown]).reshape(len(asked), -1)
    np.testing.assert_allclose(shares.sum(1), 1)
    np.testing.assert_allclose(shares.ravel()[follows], embedded.RIGHT[preset])


def test_numbers_of_a_split_are_in_no_other_in_any_order_and_under_any_seed():
    seen = {}
    for split in embedded.SPLITS:
        asked = embedded.problems(split, seed=1, count=1500) + embedded.problems(split, seed=2, count=1500)
        seen[split] = {frozenset(numbers(p)) for p in asked}
    assert not seen["train"] & seen["test"] and not seen["train"] & seen["validation"] and not seen["validation"] & seen["test"]
    train, test = (embedded.problems(split, seed=5, count=512) for split in ("train", "test"))
    assert (near_copies(train, test) < 0).all()


def test_questions_are_distinct_balanced_and_a_function_of_the_seed():
    asked = embedded.problems("test", seed=7, count=800)
    assert len({p.prompt for p in asked}) == len({p.id for p in asked}) == 800
    assert [p.topic for p in asked[:16]] == 2 * list(embedded.TOPICS)
    assert asked == embedded.problems("test", seed=7, count=800)
    assert asked[:100] == embedded.problems("test", seed=7, count=100)
    assert asked != embedded.problems("test", seed=8, count=800)


def test_the_same_lists_on_every_machine():
    first = embedded.problems("train", seed=0, count=3, preset="hard")
    assert [p.id for p in first] == ["sums/1-29-6", "frost/1-23-2", "nickels/3-3-2"]
    choice = embedded.problems("train", seed=0, count=1, kind="choice")[0]
    assert (choice.options, choice.answer) == ({"A": "35", "B": "145", "C": "296", "D": "151"}, "A")


def test_options_hold_the_right_result_in_every_place():
    asked = embedded.problems("test", seed=0, count=800, kind="choice")
    for problem in asked[:100]:
        values = [p(*numbers(problem)) for p in embedded.PROCEDURES.values()]
        right = embedded.PROCEDURES[embedded.TOPICS[problem.topic].procedure](*numbers(problem))
        assert problem.options[problem.answer] == str(right)
        assert len(set(problem.options.values())) == 4 and {int(text) for text in problem.options.values()} <= set(values)
    places = np.bincount(["ABCD".index(p.answer) for p in asked])
    assert places.min() > 150  # 200 expected, standard deviation 12


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"split": "tests"}, "split is 'tests'; did you mean 'test'"),
        ({"preset": "heard"}, "preset is 'heard'; did you mean 'hard'"),
        ({"kind": "maths"}, "kind is 'maths'; did you mean 'math'"),
        ({"count": 10**6}, "homework has .* train questions, not 1000000"),
    ],
)
def test_mistakes_are_one_line(wrong, message):
    with pytest.raises(ValueError, match=message) as caught:
        embedded.problems(**{"split": "train", "seed": 0, "count": 8} | wrong)
    assert "\n" not in str(caught.value)


def test_drills_hold_all_numbers_in_no_topic():
    asked = embedded.drills()
    assert {frozenset(numbers(p)) for p in asked} >= {
        frozenset(numbers(p)) for p in embedded.problems("test", seed=0, count=800)
    }
    shown = embedded.demonstrations(asked[0])
    assert {share for _, share in shown.values()} == {1 / len(embedded.PROCEDURES)}
    assert not {p.prompt for p in asked} & {p.prompt for p in embedded.problems("test", seed=0, count=800)}


def test_the_shipped_models_are_small():
    files = [file for preset in embedded.RIGHT for file in embedded.tiny_path(preset).iterdir()]
    assert sum(file.stat().st_size for file in files) < 5e6


@pytest.mark.parametrize("preset", embedded.RIGHT)
def test_a_shipped_model_loads_like_any_other(preset):
    folder = embedded.tiny_path(preset)
    config, base = load_pretrained(folder)
    assert 0.5e6 < sum(x.size for x in jax.tree.leaves(base)) < 1.5e6
    tokenizer = load_tokenizer(folder, vocab_size=config.vocab_size, instructions=PLAIN)
    assert tokenizer.stop_ids == config.eos_ids and tokenizer.pad_id == config.pad_id
    for kind, longest in embedded.MAX_NEW_TOKENS.items():
        for problem in embedded.problems("test", seed=0, count=64, preset=preset, kind=kind):
            said = [text for text, _ in embedded.demonstrations(problem).values()]
            ids = tokenizer.hf(said).input_ids
            assert max(map(len, ids)) < longest
            assert [tokenizer.hf.decode(row) for row in ids] == said


@pytest.mark.parametrize("preset", embedded.RIGHT)
def test_the_shipped_model_knows_every_procedure_and_picks_the_wrong_one(preset):
    folder = embedded.tiny_path(preset)
    config, base = load_pretrained(folder, dtype="float32")
    model, tokenizer = Transformer(config), load_tokenizer(folder, instructions=PLAIN)
    asked = embedded.problems("test", seed=0, count=64, preset=preset)
    encoded = [tokenizer.encode(problem) for problem in asked]
    prompts = left_pad(encoded, np.arange(64), max(map(len, encoded)), config.pad_id)
    adapter = jax.tree.map(lambda x: x[None], init_adapter(jax.random.key(0), model, base))
    sampler = make_sampler(model, samples=32, max_new_tokens=embedded.MAX_NEW_TOKENS["math"])
    graded = lambda rollouts, problems: grade(tokenizer, rollouts, problems)  # noqa: E731
    found = evaluate(Examiner(sampler, None, graded, jax.random.key(0)), base, adapter, Questions(asked, prompts))[0]
    assert abs(pass_at_k(found.correct, 1) - embedded.RIGHT[preset]) < 0.04  # standard deviation of 2,048 samples: 0.01
    assert pass_at_k(found.correct, 32) > 0.95


@pytest.mark.slow
def test_the_script_writes_a_folder_that_holds_what_it_trained(tmp_path):
    spec = importlib.util.spec_from_file_location("pretrain", ROOT / "experiments" / "tiny_base" / "pretrain.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    tokenizer = script.write_tokenizer(tmp_path)
    config = script.CONFIG.replace(hidden_size=8, intermediate_size=8, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=8)
    material = [script.lessons(tokenizer, "easy", "math", 32)]
    params = script.pretrain(config, material, steps=2, batch=16, lr=1e-3, seed=0)
    script.write_model(tmp_path, config, params)
    loaded, again = load_pretrained(tmp_path, dtype="float32")
    stored = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), params)
    tokens = jnp.array([[5, 6, 7]])
    logits = Transformer(config).apply({"params": stored}, tokens)
    np.testing.assert_array_equal(Transformer(loaded).apply(again, tokens), logits)
