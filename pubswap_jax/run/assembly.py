"""Builds a `Run` from a config: the policy, the questions, the federation, its timeline, and the evaluation's samplers.

The config is read here, in methods.py and in policy.py; what runs gets values.
"""

import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from pubswap_jax import settings
from pubswap_jax.algorithm.federation import Rows, make_rows
from pubswap_jax.questions import pile, schedule, sources
from pubswap_jax.questions.load import Asked, Questions, Wanted, load_questions
from pubswap_jax.questions.partition import Split, holders
from pubswap_jax.questions.schedule import Schedule
from pubswap_jax.run.experts import with_labelled
from pubswap_jax.run.given import NOTHING, Given
from pubswap_jax.run.journal import Clock
from pubswap_jax.run.judge import grade, grade_together, make_judge
from pubswap_jax.run.methods import make_federation, make_hparams, make_measurement, make_schedule, make_timeline
from pubswap_jax.run.pass_at_k import Examiner, make_sampler
from pubswap_jax.run.placement import Placement, make_devices, placement
from pubswap_jax.run.policy import Policy, base_folder, load_policy, make_tokenizer
from pubswap_jax.run.programs import Programs
from pubswap_jax.run.resampling import make_again
from pubswap_jax.run.rewarding import Own, Tally, make_own, rewarding, with_columns
from pubswap_jax.types import Array, Batch, Event, Federation, Hparams, Judge, Program, Timeline
from pubswap_jax.verifier import pool


class Data(NamedTuple):
    """The questions of a run: training, validation and test, their split over clients, and the batch of each event."""

    train: Questions  # public and private questions; `split` holds indices into them
    split: Split
    validation: Questions
    test: Questions
    batch: Callable[[Event], Batch]


class Log(NamedTuple):
    """What a run writes beside its metrics, as the config's section `log` says."""

    transcripts: int  # groups a step; -1: one, or none where several processes run
    distortion: str  # when M·β is measured: off, or after some public steps
    tensorboard: str  # on | off | auto
    wandb: str  # the project's name, or empty


class Run(NamedTuple):
    """Everything that a run needs and that stays fixed, made from its config. A `RunState` holds the parts that change."""

    settings: dict[str, Any]  # the config, field -> value
    policy: Policy
    data: Data
    federation: Federation
    timeline: Timeline
    rounds: int
    steps: int  # of one round
    judge: Judge
    measure: Callable | None  # M·β of a public step, see algorithm/distortion.py; None: no swap to measure
    hparams: Callable[[Event], Hparams]
    weights: Callable[[Event], Array | None]  # f32[C] of an averaging; None: equal weights
    key: Array
    examiner: Examiner
    place: Placement
    programs: Programs
    rows: Rows
    part: int | None  # clients at a time, in a step and in an evaluation; None: all
    save_every: int  # steps between two checkpoints within a round; 0: none
    kept: int  # checkpoints that are kept, beside the best round's
    log: Log
    notes: list[str]  # questions and settings without effect, and why; one line each
    own: Own | None  # rewards of the user's own; None: 1 for a right response, else 0
    tally: Tally  # what they gave in this step
    given: Given  # what was passed in Python

    def who(self, event: Event):
        """The clients of an event in the form that `Federation.step` takes: bool[C], or None for all of them.

        On one device only those who take part are computed. On a mesh each device holds some clients, and all are computed.
        """
        if event.who.all():
            return None
        return self.place.put(event.who) if self.place.spread else event.who

    def saves(self, event: Event) -> bool:
        """Whether a checkpoint is written after this step, before its round ends, as checkpoint.steps asks."""
        done = event.step + 1
        return bool(self.save_every) and done % self.save_every == 0 and done < self.steps


def assemble(config, given: Given = NOTHING) -> Run:
    """Loads the model and the questions and builds the run. A mistake in the config raises an error of one line.

    `given` replaces what the config names: rewards, the planner, the aggregation rule, the questions.
    """
    given.check()
    if config.verifier.workers:
        pool.set_workers(config.verifier.workers)
    keep_programs(config)
    own, tally = own_rewards(config, given), Tally()
    axes = config.mesh
    devices = make_devices(axes.client, axes.data, axes.model, config.training.client_microbatch)
    policy = load_policy(config, devices)
    asked, plan = load_questions(questions_of(config, own, given), policy.tokenizer), make_schedule(config)
    if plan.period and not asked.split.public:
        raise ValueError("no public questions for the public steps: raise data.public, or set federation.swap_period to 0")
    if own:
        own = with_columns(own, [*asked.train.problems, *asked.validation.problems, *asked.test.problems])
    place = placement(devices, config.federation.num_clients, config.training.prompts)
    programs = Programs(Clock(), place.shardings)
    timeline = make_timeline(config, plan)
    shared = {"labelled": config.federation.auxiliary, "overlap": config.federation.overlap, "seed": config.seed}
    asked, labelled = with_labelled(asked, timeline, **shared)
    key = jax.random.key(config.seed)
    return Run(
        settings=settings.flatten(config),
        policy=policy._replace(
            adapter=place.put(policy.adapter), base=policy.base | {"basis": place.put(policy.base["basis"])}
        ),
        data=Data(asked.train, asked.split, asked.validation, asked.test, make_batches(config, asked, place, labelled)),
        federation=make_federation(config, policy.model, programs, given),
        timeline=timeline,
        rounds=config.federation.rounds,
        steps=plan.length,
        judge=make_judge(
            policy.tokenizer,
            config.verifier.timeout,
            rewarding(own, policy.tokenizer, tally.note) if own else None,
            accept=config.verifier.accept,
        ),
        measure=make_measurement(config, policy.model, programs),
        hparams=make_hparams(config, plan.length, place.put),
        weights=make_weights(config, asked.split, place.put),
        key=place.put(key),
        examiner=make_examiner(config, policy, place, programs, own),
        place=place,
        programs=programs,
        rows=make_rows(programs),
        part=config.training.client_microbatch or None,
        save_every=config.checkpoint.steps,
        kept=config.checkpoint.keep,
        log=Log(config.log.transcripts, config.log.distortion, config.log.tensorboard, config.log.wandb),
        notes=asked.notes + _never_public(timeline, plan) + _without_gradient(config.training),
        own=own,
        tally=tally,
        given=given,
    )


def own_rewards(config, given: Given) -> Own | None:
    """The reward functions that the config names or the caller gives, or those that belong to the questions; None: 1 or 0."""
    reward, data = config.reward, config.data
    named = "" if data.path or given.questions is not None else data.name
    return make_own(reward.functions, reward.weights, reward.correct_at, reward.form, given.rewards, named)


def look(config) -> Asked:
    """Loads the questions that a run would ask, without the model's weights. `--mode=data` prints them."""
    own = own_rewards(config, NOTHING)
    folder = base_folder(config) if config.model.revision or not config.model.path else pathlib.Path(config.model.path)
    asked = load_questions(questions_of(config, own), make_tokenizer(config, folder))
    if own:
        with_columns(own, [*asked.train.problems, *asked.validation.problems, *asked.test.problems])
    return asked


def keep_programs(config) -> None:
    """Turns on JAX's persistent compilation cache in the config's folder, if it names one."""
    if not config.compilation_cache:
        return
    path = pathlib.Path(config.compilation_cache).expanduser().absolute()
    path.mkdir(parents=True, exist_ok=True)
    compilation_cache.reset_cache()  # a process that has compiled before would ignore the new folder otherwise
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _never_public(timeline: Timeline, plan: Schedule) -> list[str]:
    if not plan.period or any(timeline(number).kind == "public" for number in range(timeline.length)):
        return []
    return [f"no step is public: federation.swap_period={plan.period} is more than there is; 0 says that it is meant"]


def _without_gradient(training) -> list[str]:
    if (training.kl, training.kl_in) != ("k1", "loss") or not training.kl_coef:
        return []
    return ["training.kl=k1 in the loss has no gradient on average: set training.kl_in=reward, or training.kl=k2"]


# --- questions and evaluation -------------------------------------------------------------------------------------------


def make_weights(config, split: Split, place: Callable = jax.device_put) -> Callable[[Event], Array | None]:
    sizes = np.array([len(questions) for questions in split.clients], float)
    uniform = config.federation.weights != "size"  # of gain, the federation makes the weights out of equal ones
    share, equal = np.ones_like(sizes) if uniform else sizes, uniform and not config.federation.participants

    def weights(event: Event) -> Array | None:
        return None if equal and event.who.all() else place(np.asarray(share * event.who, jnp.result_type(float)))

    return weights


def make_batches(config, asked: Asked, place: Placement, labelled: int = 0) -> Callable[[Event], Batch]:
    seed, size = config.seed, config.training.prompts
    draws = config.training.resamples if config.training.zero_variance == "resample" else 0
    numbers = np.full(len(asked.train.problems), -1, np.int32)
    numbers[list(asked.split.public)] = np.arange(len(asked.split.public))

    shared = labelled and config.federation.overlap

    def batch_of(rows: np.ndarray, public: bool) -> Batch:
        prompts = place.put(jax.tree.map(lambda x: x[rows], asked.train.prompts), *([place.batch] if place.batch else []))
        answers = [[asked.train.problems[i] for i in row] for row in rows]
        return Batch(prompts, answers, public, numbers[rows])

    def batch(event: Event) -> Batch:
        rows = schedule.rows(asked.split, size, seed=seed, event=event, labelled=labelled)
        first = batch_of(rows, event.kind != "private").replace(labelled=event.kind == "auxiliary")
        if shared and event.kind == "public":
            first = first.replace(held=place.put(holders(asked.split, rows[0])))
        if not draws or first.public:
            return first
        others = partial(schedule.other_rows, asked.split, rows, seed=seed, event=event)
        return first.replace(again=make_again(lambda draw: batch_of(others(draw), False), draws, event.who))

    return batch


def make_examiner(config, policy: Policy, place: Placement, program: Program, own: Own | None = None) -> Examiner:
    asked, verifier = config.evaluation, {"timeout": config.verifier.timeout, "accept": config.verifier.accept}
    how = {"max_new_tokens": config.training.max_new_tokens, "temperature": asked.temperature}
    how |= {"top_k": asked.top_k, "top_p": asked.top_p, "min_p": asked.min_p}
    greedy = make_sampler(policy.model, samples=1, greedy=True, **how) if asked.greedy else None
    graded = partial(grade, policy.tokenizer, **verifier)
    if own and own.correct_at is not None:  # else own rewards do not change what is right
        graded = rewarding(own, policy.tokenizer)(graded)
    return Examiner(
        sampler=program("examine", make_sampler(policy.model, samples=asked.samples, **how)),
        greedy=greedy,
        grade=partial(grade_together, graded),
        key=place.put(jax.random.key(asked.seed)),
        put=place.put_questions,
        batch=asked.batch,
        samples=asked.samples,
        every=asked.every,
        clients=asked.clients,
    )


def examination(config, policy: Policy, file: str) -> tuple[Examiner, Questions]:
    """Prepares the evaluation of a model on a file's questions: returns what evaluates it, and the questions with prompts."""
    fields = sources.Fields.of(config.data.fields.to_dict())
    found = pile.usable(sources.local(file, fields), policy.tokenizer, config.data.max_prompt_tokens, "test")
    for line in found.notes:
        print(line)
    axes, clients = config.mesh, config.federation.num_clients
    devices = make_devices(axes.client, axes.data, axes.model, config.training.client_microbatch)
    place = placement(devices, clients, config.training.prompts)
    return make_examiner(config, policy, place, Programs(Clock(), place.shardings)), pile.padded(found.rows, policy.tokenizer)


def questions_of(config, own: Own | None = None, given: Given = NOTHING) -> Wanted:
    """The config's settings of questions, in the form that `load_questions` takes."""
    names = ("name", "path", "test_path", "test_name", "public_path", "max_prompt_tokens", "max_questions")
    names += ("test", "validation", "public", "partition")
    return Wanted(
        seed=config.seed,
        num_clients=config.federation.num_clients,
        fields=config.data.fields.to_dict(),
        partitioned=settings.chosen(config, "data.partition"),
        rows=given.questions,
        verified=own is None or own.verified,
        **{name: config.data[name] for name in names},
    )
