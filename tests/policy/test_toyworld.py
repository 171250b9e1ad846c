"""The toy world: what its judge calls right, and the snippet of docs/gradients.md as users paste it."""

import pathlib
import re
import runpy

import jax.numpy as jnp
import numpy as np
import pytest

import pubswap_jax as ps
from pubswap_jax.policy import toyworld

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "gradients.md"


def test_the_judge_asks_for_parity_and_for_at_least_one_token(getkey):
    batch = ps.toy_batches(getkey(), num_clients=1, num_prompts=1)[0]
    tokens = jnp.array([[[[3, 4, 16, 15], [2, 16, 15, 15], [16, 15, 15, 15], [1, 1, 1, 1]]]])
    mask = jnp.array([[[[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]]], bool)
    rollouts = ps.Rollout(tokens, mask, jnp.zeros(tokens.shape))
    odd = ps.parity_judge(rollouts, batch.replace(answers=jnp.array([[1]])))
    even = ps.parity_judge(rollouts, batch.replace(answers=jnp.array([[0]])))
    assert odd.correct.tolist() == [[[True, False, False, False]]]
    assert even.correct.tolist() == [[[False, True, False, True]]]
    assert even.reward.tolist() == [[[0, 1, 0, 1]]] and even.status.dtype == jnp.int8


def test_batches_are_two_private_and_one_public_of_left_padded_questions(getkey):
    batches = ps.toy_batches(getkey(), num_clients=3, num_prompts=40)
    assert [batch.public for batch in batches] == [False, False, True]
    for batch in batches:
        tokens, mask = np.asarray(batch.prompts.tokens), np.asarray(batch.prompts.mask)
        assert mask[..., -1].all() and (np.diff(mask.astype(int), axis=-1) >= 0).all() and not mask.all()
        digits = np.where(tokens < 10, tokens, 0).sum(-1)
        np.testing.assert_array_equal(digits % 2, batch.answers)
    assert [batch.ids is None for batch in batches] == [True, True, False], "public questions have numbers, which may cross"
    assert np.asarray(batches[2].ids).tolist() == [list(range(40))] * 3
    rows = np.asarray(batches[2].prompts.tokens)
    assert (rows == rows[:1]).all() and (
        np.asarray(batches[0].prompts.tokens)[0] != np.asarray(batches[0].prompts.tokens)[1]
    ).any()


def test_targets_are_right_answers():
    prompts, tokens = ps.toy_targets
    rollouts = ps.Rollout(tokens[None], np.ones_like(tokens, bool)[None], np.zeros(tokens.shape)[None])
    answers = (prompts.tokens[:, 0] + prompts.tokens[:, 2]) % 2
    assert ps.parity_judge(rollouts, ps.Batch(prompts, answers[None])).correct.all()


def test_a_random_policy_is_right_about_half_of_the_time(getkey):
    model, base, adapter = ps.toy(getkey())
    batch = ps.toy_batches(getkey(), num_clients=2, num_prompts=64)[0]
    adapters = ps.broadcast(adapter, 2)
    rollouts = ps.sample(model, base, adapters, batch.prompts, getkey(), group=4, max_new_tokens=4)
    assert 0.3 < ps.parity_judge(rollouts, batch).correct.mean() < 0.7
    assert toyworld.TOY_CONFIG.vocab_size == 17


def snippet():
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "ps.toy(" in code]
    return code


def test_the_snippet_of_the_page_on_gradients_is_traced(capsys):
    """With shapes in place of numbers: the calls and names are right, and nothing is compiled."""
    traced = snippet().replace("print(jax.jit(", "print(functools.partial(jax.eval_shape, ")
    exec("import functools\n" + traced, {})
    gradients, grid = capsys.readouterr().out.splitlines()
    assert "lr=ShapeDtypeStruct(shape=(), dtype=float32)" in gradients
    assert gradients.endswith("ShapeDtypeStruct(shape=(4,), dtype=float32))")
    assert grid == "ShapeDtypeStruct(shape=(5,), dtype=float32)"


@pytest.mark.slow
def test_the_snippet_of_the_page_on_gradients_runs(tmp_path, capsys):
    (tmp_path / "snippet.py").write_text(snippet())
    runpy.run_path(str(tmp_path / "snippet.py"))
    printed = capsys.readouterr().out
    numbers = dict(re.findall(r"(\w+)=Array\((\S+?),", printed))
    assert set(numbers) >= {"lr", "swap_weight"} and float(numbers["lr"]) != 0 and float(numbers["swap_weight"]) != 0
    assert "nan" not in printed and "inf" not in printed and len(printed.splitlines()) == 2
