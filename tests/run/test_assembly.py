"""A config becomes what it names."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_world import CHARACTERS, config_of, event_at, finished, small_config

from pubswap_jax.algorithm.federation import direct
from pubswap_jax.questions.schedule import participants
from pubswap_jax.questions.schedule import rows as schedule_rows
from pubswap_jax.questions.tokens import save_char_tokenizer
from pubswap_jax.run import assembly, judge, methods
from pubswap_jax.run.pass_at_k import make_sampler
from pubswap_jax.types import Rollout


def test_weights_by_size_and_by_presence():
    run, _ = finished()
    config = config_of(run)
    split, sizes = run.data.split, [len(part) for part in run.data.split.clients]
    whole = event_at(run, 0, 3)
    assert assembly.make_weights(config, split)(whole) is None
    config.federation.weights = "size"
    assert assembly.make_weights(config, split)(whole).tolist() == sizes
    config.federation.participants = 2
    timeline = methods.make_timeline(config, methods.make_schedule(config))
    for round in range(4):
        event, there = timeline(timeline.number(round, 0)), participants(4, round, 3, 2)
        assert event.who.tolist() == there.tolist() and there.sum() == 2
        assert assembly.make_weights(config, split)(event).tolist() == (sizes * there).tolist()
        config.federation.weights = "uniform"
        assert assembly.make_weights(config, split)(event).tolist() == there.astype(float).tolist()
        config.federation.weights = "size"


def test_batches_are_the_addressed_rows():
    run, _ = finished()
    private, public = (run.data.batch(event_at(run, 0, step)) for step in (0, 1))
    assert (private.public, public.public) == (False, True)
    rows = schedule_rows(run.data.split, 4, seed=4, event=event_at(run, 0, 0))
    asked = run.data.train
    assert [[p.id for p in row] for row in private.answers] == [[asked.problems[i].id for i in row] for row in rows]
    np.testing.assert_array_equal(private.prompts.tokens, asked.prompts.tokens[rows])
    assert all(row == public.answers[0] for row in public.answers)
    numbered = [asked.problems[i].id for i in run.data.split.public]
    assert [[numbered[number] for number in row] for row in public.ids] == [[p.id for p in row] for row in public.answers]
    assert (private.ids == -1).all(), "a private question has no number that could cross"


def test_clients_are_spread_over_a_mesh(tmp_path):
    run = assembly.assemble(small_config(tmp_path, mesh__client=3))
    state = run.federation.open(run.federation.init(run.policy.adapter), direct)
    for leaf in jax.tree.leaves(state.clients.adapter):
        assert len(leaf.sharding.device_set) == 3 and leaf.sharding.shard_shape(leaf.shape)[0] == 1
    assert len(run.data.batch(event_at(run, 0, 0)).prompts.tokens.sharding.device_set) == 3


@pytest.mark.slow
def test_compiled_programs_are_found_again_by_a_later_start(tmp_path):
    """Two starts with the same folder: the second reads what the first wrote, and writes nothing new."""
    code = """
import sys, jax, ml_collections
from pubswap_jax.questions.tokens import save_char_tokenizer
from pubswap_jax.run import assembly, judge
jax.jit(lambda x: x + 1)(1.0)  # a process that has compiled before
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
assembly.keep_programs(ml_collections.ConfigDict({"compilation_cache": sys.argv[1]}))
jax.jit(lambda x: x * 2 + 1)(1.0)
print(hits.count("/jax/compilation_cache/cache_hits"))
"""
    seen = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code, tmp_path / "cache"], capture_output=True, text=True, check=True)
        seen.append((int(done.stdout), sorted(path.name for path in (tmp_path / "cache").glob("*-cache"))))
    (first, written), (second, after) = seen
    assert first == 0 < second and written == after != []


def test_the_config_names_the_folder_of_compiled_programs(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(assembly, "keep_programs", asked.append)
    monkeypatch.setattr(assembly, "load_policy", lambda *_: (_ for _ in ()).throw(ValueError("enough")))
    with pytest.raises(ValueError, match="enough"):
        assembly.assemble(small_config(tmp_path, compilation_cache=tmp_path / "cache"))
    assert [config.compilation_cache for config in asked] == [str(tmp_path / "cache")]


def responses(run, sampler):
    """Token ids of the responses to four validation questions."""
    prompts, numbers = jax.tree.map(lambda x: x[:4], run.data.validation.prompts), np.arange(4, dtype=np.int32)
    adapters = jax.tree.map(lambda x: x[None], run.policy.adapter)
    return np.asarray(sampler(run.policy.base, adapters, prompts, numbers, run.examiner.key).tokens)


NARROW = {"evaluation__top_k": 1, "evaluation__min_p": 1.0, "evaluation__top_p": 1e-6, "evaluation__temperature": 1e-6}


@pytest.mark.parametrize("field", NARROW)
def test_the_evaluation_samples_as_the_config_says(field, tmp_path):
    """Each setting leaves only the likeliest token, so every sample is the greedy response."""
    free = finished()[0]
    greedy = responses(free, make_sampler(free.policy.model, samples=1, max_new_tokens=3, greedy=True))
    assert (responses(free, free.examiner.sampler) != greedy).any()
    run = assembly.assemble(small_config(tmp_path, **{field: NARROW[field]}))
    np.testing.assert_array_equal(responses(run, run.examiner.sampler), np.repeat(greedy, 2, axis=2))


def test_fields_of_the_verifier_the_prompt_and_the_seed_reach_what_they_name(tmp_path, monkeypatch):
    workers, limits = [], []
    assembly.pool.shared()  # made here, since its workers are only counted below
    monkeypatch.setattr(assembly.pool, "set_workers", workers.append)
    verify = judge.verify
    monkeypatch.setattr(judge, "verify", lambda *args, timeout, **how: limits.append(timeout) or verify(*args, **how))
    config = small_config(tmp_path, verifier__workers=3, verifier__timeout=7.5, model__system="1+2", evaluation__seed=5)
    save_char_tokenizer(tmp_path / "base", CHARACTERS, "{% for message in messages %}{{ message.content }}{% endfor %}")
    config.training.temperature, config.training.clip_low, config.training.clip_high = 0.5, 0.1, 0.4
    run = assembly.assemble(config)
    assert workers == [3] and jax.random.key_data(run.examiner.key).tolist() == [0, 5]
    batch, hparams = run.data.batch(event_at(run, 0, 0)), run.hparams(event_at(run, 0, 0))
    slots = (*batch.prompts.tokens.shape[:2], config.training.group, 3)
    rollouts = Rollout(jnp.full(slots, 3), jnp.ones(slots, bool), jnp.zeros(slots))
    run.judge(rollouts, batch)
    run.examiner.grade(rollouts, batch.answers)
    assert limits == [7.5, 7.5]
    np.testing.assert_allclose((hparams.temperature, hparams.clip_low, hparams.clip_high), (0.5, 0.1, 0.4), rtol=1e-6)
    question = run.policy.tokenizer.hf.decode(run.data.train.prompts.tokens[0], skip_special_tokens=True)
    assert question == "1+2" + run.data.train.problems[0].prompt
