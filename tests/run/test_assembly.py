"""A config becomes what it names."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_world import CHARACTERS, config_of, event_at, finished, small_config

from pubswap_jax import settings
from pubswap_jax.algorithm import losses
from pubswap_jax.algorithm.federation import direct
from pubswap_jax.fields import FIELDS
from pubswap_jax.questions.schedule import participants
from pubswap_jax.questions.schedule import rows as schedule_rows
from pubswap_jax.questions.tokens import save_char_tokenizer
from pubswap_jax.run import assembly, judge
from pubswap_jax.run.pass_at_k import make_sampler
from pubswap_jax.types import Rollout, Verdict


def test_the_kl_is_where_the_config_says(monkeypatch):
    run, _ = finished()
    config = config_of(run)
    asked = []
    monkeypatch.setattr(assembly, "pubswap", lambda *args, **settings: asked.append(settings))
    assembly.make_federation(config, None)
    config.training.kl, config.training.kl_in, config.training.kl_coef = "k1", "reward", 0.1
    assembly.make_federation(config, None)
    assert [(how["kl"], how["kl_in_reward"]) for how in asked] == [(None, False), (losses.kl_k1, True)]
    assert assembly._without_gradient(config.training) == []
    config.training.kl_in = "loss"
    (line,) = assembly._without_gradient(config.training)
    assert "k1 in the loss has no gradient on average: set training.kl_in=reward" in line


WITH = {  # what a choice needs beside it
    "training.kl": {"training.kl_coef": 0.1},
    "training.kl_in=reward": {"training.kl": "k1", "training.kl_coef": 0.1},
    "training.truncation=penalise": {"training.truncation_buffer": 2},
}
NUMBERS = {"training.dual_clip": 3.0, "training.importance_cap": 2.0, "training.inner_epochs": 2, "training.clip_high": 0.3}
OF_ALGORITHM = [field for field in FIELDS if field.name.startswith(("training.", "federation."))]
CHOICES = [(field.name, choice) for field in OF_ALGORITHM for choice in field.choices]


@pytest.mark.parametrize(("name", "choice"), [*CHOICES, *NUMBERS.items()])
def test_every_choice_builds_a_federation_whose_round_can_be_traced(name, choice):
    run = finished()[0]
    config = config_of(run)
    none = name == "training.kl" and choice == "none"
    beside = {} if none else WITH.get(name, {}) | WITH.get(f"{name}={choice}", {})
    for field, value in {**beside, name: choice}.items():
        settings.override(config, field, str(value))
    settings.check(config)
    federation, schedule = assembly.make_federation(config, run.policy.model), assembly.make_schedule(config)
    batch, hparams = run.data.batch(event_at(run, 0, 1)), assembly.make_hparams(config, schedule.length)(event_at(run, 0, 0))

    def round_of_one_step(key):
        state = federation.open(federation.init(run.policy.adapter), direct)
        judge = lambda rollouts, batch: Verdict.from_correct(rollouts.mask.sum(-1) > 2)  # noqa: E731
        state, record = federation.step(run.policy.base, state, batch, judge, direct, key, hparams)
        return federation.close(state, direct)[0], record.metrics

    after, metrics = jax.eval_shape(round_of_one_step, jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape, after.server.adapter) == jax.tree.map(lambda x: x.shape, run.policy.adapter)
    assert metrics["loss"].shape == (config.federation.num_clients,)


def test_a_run_may_say_how_cut_off_responses_and_negative_advantages_count():
    made, run = {}, finished()[0]

    def cut_off(base, clients, prompts, keys, hparams):
        shape = (*prompts.tokens.shape[:2], 4, 3)
        return Rollout(jnp.full(shape, 3), jnp.ones(shape, bool), jnp.full(shape, -2.0))  # no end token

    def every_second(rollouts, batch):
        shape = rollouts.mask.shape[:-1]
        return Verdict.from_correct(jnp.arange(np.prod(shape)).reshape(shape) % 2 == 0)

    def program(name, function):
        return cut_off if name == "rollout" else jax.jit(function)

    bounded = {"dual_clip": 1.0, "inner_epochs": 3}
    for name, changes in {"plain": {}, "masked": {"truncation": "mask"}, "bounded": bounded}.items():
        config = config_of(run)
        for field, value in {"lr": 1.0, "clip_norm": 0.0, **changes}.items():
            settings.override(config, f"training.{field}", str(value))
        federation = assembly.make_federation(config, run.policy.model, program)
        event = event_at(run, 0, 0)
        arguments = run.data.batch(event), every_second, direct, run.key, assembly.make_hparams(config, run.steps)(event)
        state = federation.open(federation.init(run.policy.adapter), direct)
        made[name] = federation.step(run.policy.base, state, *arguments)[1].metrics
    assert (np.asarray(made["plain"]["truncated"]) == 1).all() and np.asarray(made["plain"]["grad_norm"]).min() > 0
    assert (np.asarray(made["masked"]["grad_norm"]) == 0).all(), "cut off responses have no term"
    assert (np.asarray(made["bounded"]["loss"]) != np.asarray(made["plain"]["loss"])).any()


def test_warm_up_reaches_the_learning_rate_and_counts_over_rounds():
    run, _ = finished()
    config = config_of(run)
    config.training.warmup = 6
    hparams = assembly.make_hparams(config, 4)
    rates = [float(hparams(event_at(run, step // 4, step % 4)).lr) for step in range(8)]
    np.testing.assert_allclose(rates, np.minimum(np.arange(1, 9) / 6, 1) * 0.02, rtol=1e-6)


def test_the_optimizer_clips_and_decays():
    run, _ = finished()
    config = config_of(run)
    config.training.clip_norm, config.training.weight_decay = 0.5, 0.1
    tx, x = assembly.make_optimizer(config), {"a": np.array([3.0, 4.0], np.float32)}
    updates, _ = tx.update(x, tx.init(x), x)
    obvious = optax.chain(optax.clip_by_global_norm(0.5), optax.scale_by_adam(), optax.add_decayed_weights(0.1))
    np.testing.assert_allclose(updates["a"], obvious.update(x, obvious.init(x), x)[0]["a"])


def test_weights_by_size_and_by_presence():
    run, _ = finished()
    config = config_of(run)
    split, sizes = run.data.split, [len(part) for part in run.data.split.clients]
    whole = event_at(run, 0, 3)
    assert assembly.make_weights(config, split)(whole) is None
    config.federation.weights = "size"
    assert assembly.make_weights(config, split)(whole).tolist() == sizes
    config.federation.participants = 2
    timeline = assembly.make_timeline(config, assembly.make_schedule(config))
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
import sys, jax
from pubswap_jax.questions.tokens import save_char_tokenizer
from pubswap_jax.run import assembly, judge
jax.jit(lambda x: x + 1)(1.0)  # a process that has compiled before
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
assembly.keep_programs(sys.argv[1])
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
    assert asked == [str(tmp_path / "cache")]


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
