"""The way of federating is the one that the config names."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_world import config_of, event_at, finished

from pubswap_jax import settings
from pubswap_jax.algorithm import losses
from pubswap_jax.algorithm.aggregation import mean
from pubswap_jax.algorithm.federation import direct
from pubswap_jax.algorithm.resampling import not_flat
from pubswap_jax.fields import FIELDS, default_config
from pubswap_jax.run import assembly, methods
from pubswap_jax.run.given import Given
from pubswap_jax.types import Rollout, Verdict


def test_the_kl_is_where_the_config_says(monkeypatch):
    run, _ = finished()
    config = config_of(run)
    asked = []
    monkeypatch.setattr(methods, "pubswap", lambda *args, **settings: asked.append(settings))
    methods.make_federation(config, None)
    config.training.kl, config.training.kl_in, config.training.kl_coef = "k1", "reward", 0.1
    methods.make_federation(config, None)
    assert [(how["kl"], how["kl_in_reward"]) for how in asked] == [(None, False), (losses.kl_k1, True)]
    assert assembly._without_gradient(config.training) == []
    config.training.kl_in = "loss"
    (line,) = assembly._without_gradient(config.training)
    assert "k1 in the loss has no gradient on average: set training.kl_in=reward" in line


WITH = {  # what a choice needs beside it
    "training.kl": {"training.kl_coef": 0.1},
    "training.kl_in=reward": {"training.kl": "k1", "training.kl_coef": 0.1},
    "federation.aggregate=fedecado": {"training.clip_norm": 0.0},
    "federation.method=fedrevive": {"federation.swap_period": 0, "federation.jobs": 2, "federation.s_max": 2.0},
    "federation.swap=sapo": {"federation.foreign": 2},
    "training.truncation=penalise": {"training.truncation_buffer": 2},
}
NUMBERS = {"training.dual_clip": 3.0, "training.importance_cap": 2.0, "training.inner_epochs": 2, "training.clip_high": 0.3}
OF_ALGORITHM = [field for field in FIELDS if field.name.startswith(("training.", "federation."))]
OF_FEDGRPO = ("federation.choice", "federation.compare")  # test_fedgrpo_run.py sets these
CHOICES = [(field.name, choice) for field in OF_ALGORITHM for choice in field.choices if field.name not in OF_FEDGRPO]
CHOICES.remove(("federation.method", "fedgrpo"))


@pytest.mark.parametrize(("name", "choice"), [*CHOICES, *NUMBERS.items()])
def test_every_choice_builds_a_federation_whose_round_can_be_traced(name, choice):
    run = finished()[0]
    config = config_of(run)
    none = name == "training.kl" and choice == "none"
    beside = {} if none else WITH.get(name, {}) | WITH.get(f"{name}={choice}", {})
    for field, value in {**beside, name: choice}.items():
        settings.override(config, field, str(value))
    settings.check(config)
    federation, schedule = methods.make_federation(config, run.policy.model), methods.make_schedule(config)
    batch, hparams = run.data.batch(event_at(run, 0, 1)), methods.make_hparams(config, schedule.length)(event_at(run, 0, 0))

    def round_of_one_step(key):
        state = federation.open(federation.init(run.policy.adapter), direct)
        judge = lambda rollouts, batch: Verdict.from_correct(rollouts.mask.sum(-1) > 2)  # noqa: E731
        state, record = federation.step(run.policy.base, state, batch, judge, direct, key, hparams)
        return federation.close(state, direct)[0], record.metrics

    after, metrics = jax.eval_shape(round_of_one_step, jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape, after.server.adapter) == jax.tree.map(lambda x: x.shape, run.policy.adapter)
    assert metrics["loss"].shape == (config.federation.num_clients,)


@pytest.mark.slow
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
        federation = methods.make_federation(config, run.policy.model, program)
        event = event_at(run, 0, 0)
        arguments = run.data.batch(event), every_second, direct, run.key, methods.make_hparams(config, run.steps)(event)
        state = federation.open(federation.init(run.policy.adapter), direct)
        made[name] = federation.step(run.policy.base, state, *arguments)[1].metrics
    assert (np.asarray(made["plain"]["truncated"]) == 1).all() and np.asarray(made["plain"]["grad_norm"]).min() > 0
    assert (np.asarray(made["masked"]["grad_norm"]) == 0).all(), "cut off responses have no term"
    assert (np.asarray(made["bounded"]["loss"]) != np.asarray(made["plain"]["loss"])).any()


def test_warm_up_reaches_the_learning_rate_and_counts_over_rounds():
    run, _ = finished()
    config = config_of(run)
    config.training.warmup = 6
    hparams = methods.make_hparams(config, 4)
    rates = [float(hparams(event_at(run, step // 4, step % 4)).lr) for step in range(8)]
    np.testing.assert_allclose(rates, np.minimum(np.arange(1, 9) / 6, 1) * 0.02, rtol=1e-6)


def test_the_optimizer_clips_and_decays():
    run, _ = finished()
    config = config_of(run)
    config.training.clip_norm, config.training.weight_decay = 0.5, 0.1
    tx, x = methods.make_optimizer(config), {"a": np.array([3.0, 4.0], np.float32)}
    updates, _ = tx.update(x, tx.init(x), x)
    obvious = optax.chain(optax.clip_by_global_norm(0.5), optax.scale_by_adam(), optax.add_decayed_weights(0.1))
    np.testing.assert_allclose(updates["a"], obvious.update(x, obvious.init(x), x)[0]["a"])


def test_a_way_of_federating_that_does_not_exist_is_named():
    config = config_of(finished()[0])
    config.federation.method = "pubswop"
    with pytest.raises(ValueError, match=r"federation.method='?pubswop.*pubswap"):
        settings.check(config)


def test_a_rule_of_python_and_partial_heads_exclude_each_other():
    config = default_config()
    config.federation.heads = "4,4,1"
    with pytest.raises(ValueError, match="federation.heads=4,4,1: it has a rule of its own; leave out aggregator="):
        methods.make_federation(config, None, given=Given(aggregator=mean()))


@pytest.mark.parametrize("rule", ["scaffold", "fedecado"])
def test_a_rule_of_python_does_not_keep_the_clients_half_of_another_rule(rule):
    config = default_config()
    config.federation.aggregate = rule
    with pytest.raises(ValueError, match=f"federation.aggregate={rule}: it also changes the clients' steps, .*aggregate=mean"):
        methods.make_federation(config, None, given=Given(aggregator=mean()))


def test_a_rule_of_python_is_refused_where_nothing_is_averaged():
    config = default_config()
    config.federation.average = False
    with pytest.raises(ValueError, match="federation.average=False: no adapter is averaged, by no rule; leave out aggregator="):
        methods.make_federation(config, None, given=Given(aggregator=mean()))


def test_groups_without_variance_count_as_the_config_says(monkeypatch):
    seen = []
    monkeypatch.setattr(methods, "pubswap", lambda model, tx, **how: seen.append(how["counted"]))
    for choice in ("keep", "exclude", "resample"):
        config = default_config()
        settings.override(config, "training.zero_variance", choice)
        methods.make_federation(config, None)
    assert seen == [None, not_flat, None], "resample replaces questions; what is left counts"


def test_asynchronous_clients_have_the_buffer_the_decay_and_the_distillation_of_the_config(monkeypatch):
    monkeypatch.setattr(methods, "pubswap", lambda model, tx, **how: how)
    monkeypatch.setattr(methods, "fedrevive", lambda model, inner, **how: inner | how)
    monkeypatch.setattr(methods, "buffered", lambda size, decay, of: (size, decay))
    config = default_config()
    fields = {"method": "fedbuff", "num_clients": 2, "steps": 2, "rounds": 5, "swap_period": 0, "speeds": "1,4", "free": 1}
    for name, value in {**fields, "buffer": 1, "staleness_decay": 1.5}.items():
        settings.override(config, f"federation.{name}", str(value))
    assert methods.make_federation(config, None)["aggregator"] == (1, 1.5)
    config.federation.method, config.federation.distil_steps = "fedrevive", 3
    config.training.microbatch = 1
    made = methods.make_federation(config, None)
    assert (made["aggregator"], made["rebase"], made["s_max"], made["how"].steps) == ((1, 0.0), methods.revived, 3.0, 3)
    assert made["how"].microbatch == 1
    timeline = methods.make_timeline(config, methods.make_schedule(config))
    assert [timeline(index).kind for index in range(timeline.length)].count("public") == 2, "two uploads are stale"
