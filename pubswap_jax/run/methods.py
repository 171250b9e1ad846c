"""Builds the way of federating that a config names: its `Federation`, its timeline, its hyperparameters.

Together with assembly.py and policy.py this is where the config is read.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pubswap_jax import checks, settings
from pubswap_jax.algorithm.aggregation import alone, rebased
from pubswap_jax.algorithm.arrivals import arrivals, slowest_staleness
from pubswap_jax.algorithm.corrections import proximal
from pubswap_jax.algorithm.distortion import make_measure
from pubswap_jax.algorithm.experts import Judging
from pubswap_jax.algorithm.fedgrpo import fedgrpo
from pubswap_jax.algorithm.fedrevive import Distilling, fedrevive, revived
from pubswap_jax.algorithm.gain import by_gain
from pubswap_jax.algorithm.heads import given_heads, partial_heads
from pubswap_jax.algorithm.pubswap import pubswap
from pubswap_jax.algorithm.server_optimizers import buffered
from pubswap_jax.algorithm.timeline import experts_first, lockstep
from pubswap_jax.algorithm.truncation import truncated_importance
from pubswap_jax.algorithm.update import Learning
from pubswap_jax.field_table import CORRECTIONS, PLAIN_DESCENT
from pubswap_jax.policy.embedding import Encoder
from pubswap_jax.policy.logps import response_logps
from pubswap_jax.questions import schedule
from pubswap_jax.questions.schedule import Schedule
from pubswap_jax.run.experts import load_experts
from pubswap_jax.run.given import NOTHING, Given
from pubswap_jax.types import Aggregator, Correction, Event, Federation, Hparams, Program, Timeline, compiled


class Merging(NamedTuple):
    """Settings of `--mode=flexmerge`: how a run's adapters are merged when the run has ended, see after/merging.py."""

    size: float  # in models, 1 to the number of clients
    how: str  # the name of `merge`
    merge: Callable  # (block, members) -> the block that they share
    curve: bool  # whether the sizes from one to all are evaluated too


class Routing(NamedTuple):
    """Settings of `--mode=route`: how questions are routed to a run's adapters when the run has ended, see after/routing.py."""

    build: Callable  # (embeddings [n, D], utilities [n, M]) -> references
    own: bool  # whether every client routes by its private questions; False: by the public ones
    most: int  # questions of one router
    sharpness: float
    cost: float


class Sizes(NamedTuple):
    """The numbers of a run that decide its bytes and its time, see estimate.py."""

    clients: int
    part: int  # clients whose arrays of one step are in memory at a time
    prompts: int  # questions of a client in a step
    group: int
    prompt_tokens: int
    new_tokens: int
    rounds: int
    local: int  # private steps of a round
    steps: int  # steps of a round, extra public ones included
    epochs: int
    dtype: str
    recomputed: bool  # whether the backward pass computes every layer again
    devices: int
    model_shards: int
    watched: bool  # whether M·β is measured
    examined: int  # models at a time in an evaluation
    asked: int  # questions at a time in an evaluation
    sampling: dict  # of an evaluation: top_k, top_p, min_p, temperature, samples


def sizes_of(config) -> Sizes:
    training, federation, asked, mesh = config.training, config.federation, config.evaluation, config.mesh
    part = training.client_microbatch or federation.num_clients
    return Sizes(
        clients=federation.num_clients,
        part=part,
        prompts=training.prompts,
        group=training.group,
        prompt_tokens=config.data.max_prompt_tokens,
        new_tokens=training.max_new_tokens,
        rounds=federation.rounds,
        local=federation.steps,
        steps=make_schedule(config).length,
        epochs=training.inner_epochs,
        dtype=config.model.dtype,
        recomputed=config.model.remat == "block",
        devices=mesh.client * mesh.data * mesh.model,
        model_shards=mesh.model,
        watched=bool(config.log.distortion != "off" and federation.swap_period and federation.swap != "no_swap"),
        examined=part if asked.clients else 1,
        asked=asked.batch,
        sampling={name: asked[name] for name in ("top_k", "top_p", "min_p", "temperature", "samples")},
    )


def one_device(config):
    """The config of one device's share of the mesh: its clients, and its part of their questions."""
    own, mesh = config.copy_and_resolve_references(), config.mesh
    own.federation.num_clients = -(-config.federation.num_clients // mesh.client)
    own.federation.heads = ",".join(config.federation.heads.split(",")[: own.federation.num_clients])
    own.training.client_microbatch = -(-config.training.client_microbatch // mesh.client)
    own.training.prompts = -(-config.training.prompts // mesh.data)
    own.training.microbatch = math.gcd(config.training.microbatch, own.training.prompts) if config.training.microbatch else 0
    return own


def make_merging(config) -> Merging:
    return Merging(config.merge.size, config.merge.how, settings.chosen(config, "merge.how"), config.merge.curve)


def make_routing(config) -> Routing:
    route = config.route
    build = settings.chosen(config, "route.references")
    return Routing(build, route.questions == "own", route.most, route.sharpness, route.cost)


def make_federation(config, model, program: Program = compiled, given: Given = NOTHING) -> Federation:
    """Builds the `Federation` of the way of federating that the config names. No other file asks which one it is."""
    make = settings.chosen(config, "federation.method")
    if given.planner is None and given.aggregator is None:
        federation = make(config, model, program)
    elif make is not pubswap_of:
        raise ValueError(
            f"federation.method={config.federation.method}: it takes no planner= and no aggregator=; leave them out"
        )
    else:
        federation = pubswap_of(config, model, program, given)
    return by_gain(federation, program) if config.federation.weights == "gain" else federation


def pubswap_of(config, model, program: Program = compiled, given: Given = NOTHING) -> Federation:
    """`federation.method=pubswap`: LoRA averaging with swaps, and its ablations."""
    if given.aggregator is not None and checks.heads(config.federation.heads):
        raise ValueError(f"config.federation.heads={config.federation.heads}: it has a rule of its own; leave out aggregator=")
    if given.aggregator is not None and config.federation.aggregate in CORRECTIONS:
        raise ValueError(
            f"config.federation.aggregate={config.federation.aggregate}: it also changes the clients' steps, which aggregator= "
            f"would keep; set federation.aggregate=mean beside aggregator="
        )
    if given.aggregator is not None and not config.federation.average:
        raise ValueError("config.federation.average=False: no adapter is averaged, by no rule; leave out aggregator=")
    rule = given.aggregator or (make_aggregator(config) if config.federation.average else alone())
    return _pubswap(config, model, program, rule, given.planner)


def fedbuff_of(config, model, program: Program = compiled) -> Federation:
    """`federation.method=fedbuff`: clients of different speeds, whose uploads the server averages a few at a time."""
    rule = buffered(_places(config)["buffer"], config.federation.staleness_decay, of=make_aggregator(config))
    return _pubswap(config, model, program, rule, lockstep=False)


def fedrevive_of(config, model, program: Program = compiled) -> Federation:
    """`federation.method=fedrevive`: asynchronous clients, and the server distils stale uploads."""
    federation, training = config.federation, config.training
    rule = buffered(_places(config)["buffer"], 0.0, of=make_aggregator(config))
    inner = _pubswap(config, model, program, rule, lockstep=False, rebase=revived)
    s_max = federation.s_max or slowest_staleness(make_timeline(config, make_schedule(config)), _speeds(config))
    return fedrevive(
        model,
        inner,
        num_clients=federation.num_clients,
        group=training.group,
        s_max=s_max,
        how=Distilling(federation.distil_steps, federation.distil_lr, federation.distil_responses, training.microbatch or None),
        part=training.client_microbatch or None,
        program=program,
    )


def fedgrpo_of(config, model, program: Program = compiled, encoder: Encoder | None = None) -> Federation:
    """`federation.method=fedgrpo`: clients reward the candidates of a server's policy. `encoder` None: the base's own."""
    training, federation = config.training, config.federation
    return fedgrpo(
        model,
        make_optimizer(config),
        num_clients=federation.num_clients,
        group=training.group,
        how=make_learning(config),
        judging=Judging(
            experts=federation.experts,
            neighbours=federation.neighbours,
            auxiliary=federation.auxiliary,
            choose=settings.chosen(config, "federation.choice"),
            over=federation.compare,
            scale=training.advantages == "group",
        ),
        adapters=load_experts(federation.adapters, model.config),
        encoder=encoder,
        clients_at_once=1 if jax.default_backend() == "cpu" else None,
        part=training.client_microbatch or None,
        program=program,
    )


def _pubswap(config, model, program: Program, rule: Aggregator, planner=None, lockstep=True, rebase=rebased) -> Federation:
    training, federation = config.training, config.federation
    one_cpu = jax.default_backend() == "cpu" and config.mesh.client * config.mesh.data * config.mesh.model == 1
    return pubswap(
        model,
        make_optimizer(config),
        num_clients=federation.num_clients,
        group=training.group,
        planner=planner or settings.chosen(config, "federation.swap"),
        aggregator=rule,
        moments=federation.moments,
        clients_at_once=1 if one_cpu else None,
        part=training.client_microbatch or None,
        lockstep=lockstep,
        rebase=rebase,
        program=program,
        **make_learning(config)._asdict(),
    )


def make_learning(config) -> Learning:
    """How a client learns from its responses."""
    training = config.training
    loss = settings.chosen(config, "training.loss")
    return Learning(
        loss=partial(loss, dual_clip=True) if training.dual_clip else loss,
        advantages=settings.chosen(config, "training.advantages"),
        normalise=settings.chosen(config, "training.normalise"),
        counted=settings.chosen(config, "training.zero_variance"),
        kl=settings.chosen(config, "training.kl"),
        kl_in_reward=training.kl_in == "reward",
        truncation=settings.chosen(config, "training.truncation"),
        importance=truncated_importance(training.importance_cap) if training.importance_cap else None,
        correction=make_correction(config),
        microbatch=training.microbatch or None,
        inner_epochs=training.inner_epochs,
    )


def make_aggregator(config) -> Aggregator:
    """Builds the aggregation rule that the config names, one of the package's or the user's own."""
    if counts := checks.heads(config.federation.heads):
        return partial_heads(counts, config.model.heads, config.seed)
    rule = settings.chosen(config, "federation.aggregate")
    if not isinstance(rule, Aggregator):
        raise ValueError(
            f"config.federation.aggregate={config.federation.aggregate}: the function must return a pubswap_jax.Aggregator, "
            f"and it returns {type(rule).__name__}"
        )
    return rule


def make_correction(config) -> Correction:
    """Builds what the clients add to their gradients: the clients' half of the aggregation rule, or FedProx's term."""
    if checks.heads(config.federation.heads):
        return given_heads(config.model.heads)
    reference = CORRECTIONS.get(config.federation.aggregate)
    return settings.made(config, reference) if reference else proximal()


def make_optimizer(config) -> optax.GradientTransformation:
    """Builds the clients' optimizer: AdamW without its learning rate, which is a field of Hparams.

    Some rules need plain descent instead: those in PLAIN_DESCENT.
    """
    if config.federation.aggregate in PLAIN_DESCENT:
        return optax.identity()
    parts = [optax.clip_by_global_norm(config.training.clip_norm)] if config.training.clip_norm else []
    parts.append(optax.scale_by_adam())
    if config.training.weight_decay:
        parts.append(optax.add_decayed_weights(config.training.weight_decay))
    return optax.chain(*parts)


def make_measurement(config, model, program: Program = compiled) -> Callable | None:
    """Builds the measure of how far a swap moves a gradient (M·β), with the run's advantages and token weights; None if off."""
    if config.federation.swap == "no_swap" or not config.federation.swap_period or config.log.distortion == "off":
        return None
    if config.federation.method == "fedgrpo":  # nothing is swapped, whatever federation.swap says
        return None
    weighing = (settings.chosen(config, f"training.{name}") for name in ("advantages", "normalise"))
    return program("measure", make_measure(partial(response_logps, model), *weighing))


def make_schedule(config) -> Schedule:
    return Schedule(config.federation.steps, config.federation.swap_period, config.federation.swap_unit)


def make_timeline(config, plan: Schedule) -> Timeline:
    """Builds the timeline of the run's way of federating: the order of its steps, averagings and evaluations."""
    return TIMELINES[config.federation.method](config, plan)


def _lockstep(config, plan: Schedule) -> Timeline:
    federation = config.federation
    present = partial(schedule.participants, config.seed, num_clients=federation.num_clients, count=federation.participants)
    return lockstep(plan, federation.rounds, present)


def _arrivals(config, plan: Schedule, distils: bool = False) -> Timeline:
    order = partial(schedule.permutation, config.federation.num_clients, config.seed, schedule.PARTICIPATION)
    return arrivals(plan, config.federation.rounds, _speeds(config), order, **_places(config), distils=distils)


def _speeds(config) -> list[float]:
    """The speed of each asynchronous client, from `federation.speeds`, whose numbers are given to the clients in turn."""
    given = checks.speeds(config.federation.speeds)
    return [given[client % len(given)] for client in range(config.federation.num_clients)]


def _places(config) -> dict[str, int]:
    """The arguments of `arrivals`: jobs at a time (K), uploads per server update (B), idle clients before new jobs (O)."""
    federation = config.federation
    jobs = federation.jobs or federation.num_clients
    return {"jobs": jobs, "buffer": federation.buffer or jobs, "free": federation.free or jobs}


def _experts_first(config, plan: Schedule) -> Timeline:
    federation = config.federation
    return experts_first(plan.length, federation.rounds, federation.own_rounds, federation.refresh, federation.num_clients)


TIMELINES = {
    "pubswap": _lockstep,
    "fedbuff": _arrivals,
    "fedrevive": partial(_arrivals, distils=True),
    "fedgrpo": _experts_first,
}


def make_hparams(config, steps: int, place: Callable = jax.device_put) -> Callable[[Event], Hparams]:
    names = ("lr", "clip_low", "clip_high", "dual_clip", "kl_coef", "prox_coef", "swap_weight", "temperature")
    constant = place(Hparams.create(**{name: config.training[name] for name in names}))
    highest, warmup = config.training.lr, config.training.warmup

    def hparams(event: Event) -> Hparams:
        done = event.round * steps + event.step + 1
        if done >= warmup:
            return constant
        return constant.replace(lr=place(np.asarray(highest * done / warmup, jnp.result_type(float))))

    return hparams
