"""A config becomes what it names."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_world import CHARACTERS, finished, small_config

from pubswap_jax import settings
from pubswap_jax.algorithm import losses
from pubswap_jax.algorithm.swap import no_swap
from pubswap_jax.fields import FIELDS
from pubswap_jax.policy.model import Transformer
from pubswap_jax.questions.schedule import Schedule, participants
from pubswap_jax.questions.schedule import rows as schedule_rows
from pubswap_jax.questions.tokens import save_char_tokenizer
from pubswap_jax.run import assembly, judge
from pubswap_jax.types import LINEAR_LAYERS, Llama3Rope, Rollout, Verdict


def test_model_and_adapter_are_the_configs():
    run, _ = finished()
    assert (
        run.model_config.adapter.settings == (("rank", 2), ("alpha", 64.0)) and run.model_config.lora_targets == LINEAR_LAYERS
    )
    assert run.model_config.eos_ids == run.tokenizer.stop_ids and run.model_config.max_new_tokens == 3
    again = assembly.init_adapter(
        jax.random.fold_in(run.key, assembly.LORA_STREAM), assembly.Transformer(run.model_config), run.params
    )
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(run.server.adapter), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("names, targets", [("attention", LINEAR_LAYERS[:4]), ("q_proj, down_proj", ("q_proj", "down_proj"))])
def test_targets_by_name(names, targets):
    run, _ = finished()
    config = run.config.copy_and_resolve_references()
    config.model.lora_targets = names
    assert assembly.adapt(config, run.model_config, run.tokenizer).lora_targets == targets
    config.model.lora_targets = "q_projection"
    with pytest.raises(ValueError, match="'q_projection' is none of all, attention, q_proj"):
        assembly.adapt(config, run.model_config, run.tokenizer)


def test_the_contexts_length_is_checked_before_weights_are_read(tmp_path):
    """The limit itself is allowed, one token more is not; llama3's scaling does not change it."""
    config = small_config(tmp_path, data__max_prompt_tokens=1021)
    (tmp_path / "base" / "model.safetensors").write_bytes(b"not read")
    with pytest.raises(ValueError, match="not a safetensors file"):
        assembly.assemble(config)
    config.training.max_new_tokens = 4
    with pytest.raises(ValueError, match="1025 positions together, and the base has 1024 .max_position_embeddings."):
        assembly.assemble(config)
    run, _ = finished()
    stretched = run.model_config.replace(rope_scaling=Llama3Rope(32.0, 1.0, 4.0, 64))
    with pytest.raises(ValueError, match="the base has 1024"):
        assembly.check_context(config, stretched)


def test_the_kl_is_where_the_config_says(monkeypatch):
    run, _ = finished()
    config = run.config.copy_and_resolve_references()
    asked = []
    monkeypatch.setattr(assembly, "pubswap", lambda *args, **settings: asked.append(settings))
    assembly.make_algorithm(config, None)
    config.training.kl, config.training.kl_in, config.training.kl_coef = "k1", "reward", 0.1
    assembly.make_algorithm(config, None)
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
def test_every_choice_builds_an_algorithm_whose_round_can_be_traced(name, choice):
    run = finished()[0]
    config = run.config.copy_and_resolve_references()
    none = name == "training.kl" and choice == "none"
    beside = {} if none else WITH.get(name, {}) | WITH.get(f"{name}={choice}", {})
    for field, value in {**beside, name: choice}.items():
        settings.override(config, field, str(value))
    settings.check(config)
    algorithm, schedule = assembly.make_algorithm(config, Transformer(run.model_config)), assembly.make_schedule(config)
    server, batch = assembly.beginning(config, run.server.adapter), run.batch(0, 1)
    hparams = assembly.make_hparams(config, schedule)(0, 0)

    def round_of_one_step(key):
        clients = algorithm.init_clients(server)
        rollouts = algorithm.rollout(run.params, clients, batch.prompts, key, hparams)
        verdicts = Verdict.from_correct(rollouts.mask.sum(-1) > 2)
        rollouts, verdicts, plan = algorithm.swap(rollouts, verdicts, key)
        clients, metrics = algorithm.update(run.params, server, clients, batch.prompts, rollouts, verdicts, plan, hparams)
        return algorithm.aggregate(server, clients), metrics

    after, metrics = jax.eval_shape(round_of_one_step, jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape, after.adapter) == jax.tree.map(lambda x: x.shape, server.adapter)
    assert metrics["loss"].shape == (config.federation.num_clients,)


def test_a_run_may_say_how_cut_off_responses_and_negative_advantages_count():
    made = {}
    run = finished()[0]
    bounded = {"dual_clip": 1.0, "inner_epochs": 3}
    for name, changes in {"plain": {}, "masked": {"truncation": "mask"}, "bounded": bounded}.items():
        config = run.config.copy_and_resolve_references()
        for field, value in {"lr": 1.0, "clip_norm": 0.0, **changes}.items():
            settings.override(config, f"training.{field}", str(value))
        algorithm = assembly.make_algorithm(config, Transformer(run.model_config))
        hparams, batch = assembly.make_hparams(config, run.schedule)(0, 0), run.batch(0, 0)
        clients = algorithm.init_clients(run.server)
        rollouts = run.algorithm.rollout(run.params, clients, batch.prompts, run.key, hparams)
        cut = rollouts.replace(mask=jnp.ones_like(rollouts.mask), tokens=jnp.full_like(rollouts.tokens, 3))  # no end token
        verdicts = Verdict.from_correct(jnp.arange(cut.mask[..., 0].size).reshape(cut.mask.shape[:-1]) % 2 == 0)
        plan = no_swap(run.key, verdicts.correct)
        _, made[name] = algorithm.update(run.params, run.server, clients, batch.prompts, cut, verdicts, plan, hparams)
    assert (np.asarray(made["plain"]["truncated"]) == 1).all() and np.asarray(made["plain"]["grad_norm"]).min() > 0
    assert (np.asarray(made["masked"]["grad_norm"]) == 0).all(), "cut off responses have no term"
    assert (np.asarray(made["bounded"]["loss"]) != np.asarray(made["plain"]["loss"])).any()


def test_warm_up_reaches_the_learning_rate_and_counts_over_rounds():
    run, _ = finished()
    config = run.config.copy_and_resolve_references()
    config.training.warmup = 6
    hparams = assembly.make_hparams(config, Schedule(4, 2))
    rates = [float(hparams(step // 4, step % 4).lr) for step in range(8)]
    np.testing.assert_allclose(rates, np.minimum(np.arange(1, 9) / 6, 1) * 0.02, rtol=1e-6)


def test_the_optimizer_clips_and_decays():
    run, _ = finished()
    config = run.config.copy_and_resolve_references()
    config.training.clip_norm, config.training.weight_decay = 0.5, 0.1
    tx, x = assembly.make_optimizer(config), {"a": np.array([3.0, 4.0], np.float32)}
    updates, _ = tx.update(x, tx.init(x), x)
    obvious = optax.chain(optax.clip_by_global_norm(0.5), optax.scale_by_adam(), optax.add_decayed_weights(0.1))
    np.testing.assert_allclose(updates["a"], obvious.update(x, obvious.init(x), x)[0]["a"])


def test_weights_by_size_and_by_presence():
    run, _ = finished()
    config = run.config.copy_and_resolve_references()
    assert assembly.make_weights(config, run.split)(0) is None
    config.federation.weights = "size"
    assert assembly.make_weights(config, run.split)(0).tolist() == [len(part) for part in run.split.clients]
    config.federation.participants = 2
    for round in range(4):
        weights = assembly.make_weights(config, run.split)(round)
        assert (np.asarray(weights) > 0).tolist() == participants(4, round, 3, 2).tolist()


def test_batches_are_the_addressed_rows():
    run, _ = finished()
    private, public = run.batch(0, 0), run.batch(0, 1)
    assert (private.public, public.public) == (False, True)
    rows = schedule_rows(run.split, run.schedule, 4, seed=4, round=0, step=0)
    assert [[p.id for p in row] for row in private.answers] == [[run.train.problems[i].id for i in row] for row in rows]
    np.testing.assert_array_equal(private.prompts.tokens, run.train.prompts.tokens[rows])
    assert all(row == public.answers[0] for row in public.answers)


def test_clients_are_spread_over_a_mesh(tmp_path):
    run = assembly.assemble(small_config(tmp_path, mesh__client=3))
    clients = run.algorithm.init_clients(run.server)
    assert all(len(leaf.sharding.device_set) == 3 for leaf in jax.tree.leaves(clients.adapter))
    assert len(run.batch(0, 0).prompts.tokens.sharding.device_set) == 3


def test_the_bases_digest_sees_every_file(tmp_path):
    config = small_config(tmp_path)
    before = assembly.base_digest(tmp_path / "base")
    file = tmp_path / "base" / "tokenizer_config.json"
    file.write_text(file.read_text() + " ")
    assert assembly.base_digest(tmp_path / "base") != before and config.model.path


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
    monkeypatch.setattr(assembly, "base_folder", lambda config: (_ for _ in ()).throw(ValueError("enough")))
    with pytest.raises(ValueError, match="enough"):
        assembly.assemble(small_config(tmp_path, compilation_cache=tmp_path / "cache"))
    assert asked == [str(tmp_path / "cache")]


def responses(run, sampler):
    """Token ids of the responses to four validation questions."""
    prompts, numbers = jax.tree.map(lambda x: x[:4], run.validation.prompts), np.arange(4, dtype=np.int32)
    adapters = jax.tree.map(lambda x: x[None], run.server.adapter)
    return np.asarray(sampler(run.params, adapters, prompts, numbers, run.evaluation_key).tokens)


NARROW = {"evaluation__top_k": 1, "evaluation__min_p": 1.0, "evaluation__top_p": 1e-6, "evaluation__temperature": 1e-6}


@pytest.mark.parametrize("field", NARROW)
def test_the_evaluation_samples_as_the_config_says(field, tmp_path):
    """Each setting leaves only the likeliest token, so every sample is the greedy response."""
    free = finished()[0]
    greedy = responses(free, free.greedy)
    assert (responses(free, free.sampler) != greedy).any()
    run = assembly.assemble(small_config(tmp_path, **{field: NARROW[field]}))
    np.testing.assert_array_equal(responses(run, run.sampler), np.repeat(greedy, 2, axis=2))


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
    assert workers == [3] and jax.random.key_data(run.evaluation_key).tolist() == [0, 5]
    batch, hparams = run.batch(0, 0), run.hparams(0, 0)
    slots = (*batch.prompts.tokens.shape[:2], config.training.group, 3)
    rollouts = Rollout(jnp.full(slots, 3), jnp.ones(slots, bool), jnp.zeros(slots))
    run.judge(rollouts, batch)
    run.grade(rollouts, batch.answers)
    assert limits == [7.5, 7.5]
    np.testing.assert_allclose((hparams.temperature, hparams.clip_low, hparams.clip_high), (0.5, 0.1, 0.4), rtol=1e-6)
    question = run.tokenizer.hf.decode(run.train.prompts.tokens[0], skip_special_tokens=True)
    assert question == "1+2" + run.train.problems[0].prompt
