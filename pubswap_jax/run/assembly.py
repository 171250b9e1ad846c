"""Builds a `Run` from a config: the model, the questions and their split, the algorithm, the evaluation's sampler."""

import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.compilation_cache import compilation_cache

from pubswap_jax import settings
from pubswap_jax.algorithm import losses
from pubswap_jax.algorithm.aggregation import alone, mean
from pubswap_jax.algorithm.distortion import make_measure
from pubswap_jax.algorithm.pubswap import Algorithm, pubswap
from pubswap_jax.devices import mesh
from pubswap_jax.policy.logps import check_positions, response_logps
from pubswap_jax.policy.model import Transformer, init_adapter
from pubswap_jax.questions import embedded
from pubswap_jax.questions.load import HOMEWORK, Questions, Wanted, load_questions
from pubswap_jax.questions.partition import Split
from pubswap_jax.questions.problem import KINDS
from pubswap_jax.questions.schedule import Schedule, participants
from pubswap_jax.questions.schedule import rows as schedule_rows
from pubswap_jax.questions.tokens import INSTRUCTIONS, Tokenizer, load_tokenizer
from pubswap_jax.run.judge import grade, grade_together, make_judge
from pubswap_jax.run.pass_at_k import make_sampler
from pubswap_jax.run.placement import make_devices, make_place, make_place_questions, placed
from pubswap_jax.types import Aggregator, Array, Batch, Hparams, ModelConfig, PyTree, ServerState
from pubswap_jax.verifier import pool
from pubswap_jax.weights import hf_folder
from pubswap_jax.weights.hf_config import read_config
from pubswap_jax.weights.hf_folder import base_digest as base_digest
from pubswap_jax.weights.pretrained import load_pretrained

LORA_STREAM = 2**32 - 1  # no round has this number; rounds are folded into the same key


class Run(NamedTuple):
    """The fixed parts of a run. ServerState and ClientState hold the parts that change from step to step."""

    config: Any
    base: pathlib.Path  # the base model's folder
    tokenizer: Tokenizer
    model_config: ModelConfig
    params: PyTree
    server: ServerState  # before the first round
    algorithm: Algorithm
    measure: Callable  # M·β of a public step; see algorithm/distortion.py
    judge: Callable
    schedule: Schedule
    train: Questions
    split: Split
    validation: Questions
    test: Questions
    batch: Callable[[int, int], Batch]  # (round, step)
    hparams: Callable[[int, int], Hparams]  # (round, step)
    present: Callable[[int], np.ndarray]  # (round) -> bool[C]
    weights: Callable[[int], Array | None]  # (round) -> f32[C]; None: equal weights
    sampler: Callable
    greedy: Callable
    grade: Callable
    place: Callable[..., PyTree]  # (tree, sharding=replicated) -> arrays on the run's devices
    place_questions: Callable[[PyTree, int], PyTree]  # (tree [B, ...], number of models) -> sharded arrays
    key: Array
    evaluation_key: Array
    notes: list[str]  # questions and settings without effect, and why; one line each


def assemble(config) -> Run:
    """Loads the model and the questions and builds the run. A mistake in the config raises an error of one line."""
    if config.verifier.workers:
        pool.set_workers(config.verifier.workers)
    keep_programs(config.compilation_cache)
    devices = make_devices(config)
    base = base_folder(config)
    tokenizer = make_tokenizer(config, base)
    check_context(config, read_config(base))
    shardings = devices and partial(mesh.params_sharding, devices)
    loaded, params = load_pretrained(base, dtype=config.model.dtype, shardings=shardings, scan_layers=config.model.scan_layers)
    model_config = adapt(config, loaded, tokenizer)
    model = Transformer(model_config)
    key = jax.random.key(config.seed)
    shapes = jax.eval_shape(lambda: params)  # `init_adapter` is jitted: eager, it would compile one program per leaf
    adapter = jax.jit(lambda key: init_adapter(key, model, shapes))(jax.random.fold_in(key, LORA_STREAM))
    place = make_place(devices)
    asked = load_questions(questions_of(config), tokenizer)
    schedule = make_schedule(config)
    if schedule.period and not asked.split.public:
        raise ValueError("no public questions for the public steps: raise data.public, or set federation.swap_period to 0")
    sampling = {"max_new_tokens": config.training.max_new_tokens, "temperature": config.evaluation.temperature}
    sampling |= {"top_k": config.evaluation.top_k, "top_p": config.evaluation.top_p, "min_p": config.evaluation.min_p}
    return Run(
        config=config,
        base=base,
        tokenizer=tokenizer,
        model_config=model_config,
        params=params,
        server=place(beginning(config, adapter)),
        algorithm=placed(make_algorithm(config, model), devices, config.federation.num_clients),
        measure=make_measure(partial(response_logps, model), *_weighing(config)),
        judge=make_judge(tokenizer, config.verifier.timeout),
        schedule=schedule,
        train=asked.train,
        split=asked.split,
        validation=asked.validation,
        test=asked.test,
        batch=make_batches(config, schedule, asked.train, asked.split, devices),
        hparams=make_hparams(config, schedule, place),
        present=partial(present, config),
        weights=make_weights(config, asked.split, place),
        sampler=make_sampler(model, samples=config.evaluation.samples, **sampling),
        greedy=make_sampler(model, samples=1, greedy=True, **sampling),
        grade=partial(grade_together, partial(grade, tokenizer, timeout=config.verifier.timeout)),
        place=place,
        place_questions=make_place_questions(devices),
        key=place(key),
        evaluation_key=place(jax.random.key(config.evaluation.seed)),
        notes=asked.notes + _never_public(schedule, config.federation.rounds) + _without_gradient(config.training),
    )


def beginning(config, adapter: PyTree) -> ServerState:
    """The server before the first round. It holds averaged moments from the start, so that its pytree never changes."""
    server = ServerState.create(adapter).replace(memory=make_aggregator(config).init(adapter))
    averaged = config.federation.average and config.federation.moments == "average"
    return server.replace(moments=jax.jit(make_optimizer(config).init)(adapter)) if averaged else server


def keep_programs(folder: str) -> None:
    """Turns on JAX's persistent compilation cache in this folder; empty: does nothing."""
    if not folder:
        return
    path = pathlib.Path(folder).expanduser().absolute()
    path.mkdir(parents=True, exist_ok=True)
    compilation_cache.reset_cache()  # a process that has compiled before would ignore the new folder otherwise
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _never_public(schedule: Schedule, rounds: int) -> list[str]:
    steps = ((round, step) for round in range(rounds) for step in range(schedule.length))
    if not schedule.period or any(schedule.public(*at) for at in steps):
        return []
    return [f"no step is public: federation.swap_period={schedule.period} is more than there is; 0 says that it is meant"]


def _without_gradient(training) -> list[str]:
    if (training.kl, training.kl_in) != ("k1", "loss") or not training.kl_coef:
        return []
    return ["training.kl=k1 in the loss has no gradient on average: set training.kl_in=reward, or training.kl=k2"]


# --- the model ----------------------------------------------------------------------------------------------------------


def base_folder(config) -> pathlib.Path:
    """The base model's folder; an embedded model if the config names none."""
    if not config.model.path:
        preset, _ = HOMEWORK.get(config.data.name, ("easy", "math"))
        return embedded.tiny_path(preset)
    return hf_folder.find_folder(config.model.path)


def check_context(config, model_config: ModelConfig) -> None:
    """Raises if the longest prompt and the longest response together exceed the base model's context."""
    prompt = ("config.data.max_prompt_tokens", config.data.max_prompt_tokens)
    check_positions(model_config, prompt, ("config.training.max_new_tokens", config.training.max_new_tokens))


def make_tokenizer(config, folder: pathlib.Path) -> Tokenizer:
    told = config.model.instruction
    return load_tokenizer(
        folder,
        system=config.model.system or None,
        instructions=INSTRUCTIONS if told == "default" else dict.fromkeys(KINDS, told),
        chat_template_kwargs={} if config.model.thinking == "default" else {"enable_thinking": config.model.thinking == "on"},
    )


def adapt(config, model_config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The loaded model config with the run's LoRA and remat settings and the tokenizer's stop tokens."""
    return model_config.replace(
        lora_rank=config.model.lora_rank,
        lora_alpha=config.model.lora_alpha,
        lora_targets=settings.targets(config),
        remat=config.model.remat,
        eos_ids=tuple(dict.fromkeys((*model_config.eos_ids, *tokenizer.stop_ids))),
        pad_id=tokenizer.pad_id,
        max_new_tokens=config.training.max_new_tokens,
    )


# --- the algorithm ------------------------------------------------------------------------------------------------------


def make_algorithm(config, model) -> Algorithm:
    training, federation = config.training, config.federation
    one_cpu = jax.default_backend() == "cpu" and config.mesh.client * config.mesh.data * config.mesh.model == 1
    advantages, normalise = _weighing(config)
    loss = settings.chosen(config, "training.loss")
    return pubswap(
        model,
        make_optimizer(config),
        num_clients=federation.num_clients,
        group=training.group,
        swap=settings.chosen(config, "federation.swap"),
        loss=partial(loss, dual_clip=True) if training.dual_clip else loss,
        aggregator=make_aggregator(config),
        average_moments=federation.moments == "average",
        microbatch=training.microbatch or None,
        clients_at_once=1 if one_cpu else None,
        inner_epochs=training.inner_epochs,
        advantages=advantages,
        normalise=normalise,
        kl=settings.chosen(config, "training.kl"),
        kl_in_reward=training.kl_in == "reward",
        truncation=settings.chosen(config, "training.truncation"),
        importance=losses.truncated_importance(training.importance_cap) if training.importance_cap else None,
    )


def make_aggregator(config) -> Aggregator:
    return mean() if config.federation.average else alone()


def _weighing(config) -> tuple[Callable, Callable]:
    """The advantage function and the normaliser of the config."""
    return settings.chosen(config, "training.advantages"), settings.chosen(config, "training.normalise")


def make_optimizer(config) -> optax.GradientTransformation:
    """AdamW without its learning rate, which is a field of Hparams."""
    parts = [optax.clip_by_global_norm(config.training.clip_norm)] if config.training.clip_norm else []
    parts.append(optax.scale_by_adam())
    if config.training.weight_decay:
        parts.append(optax.add_decayed_weights(config.training.weight_decay))
    return optax.chain(*parts)


def make_schedule(config) -> Schedule:
    return Schedule(config.federation.steps, config.federation.swap_period, config.federation.swap_unit)


def make_hparams(config, schedule: Schedule, place: Callable = jax.device_put) -> Callable[[int, int], Hparams]:
    names = ("lr", "clip_low", "clip_high", "dual_clip", "kl_coef", "prox_coef", "swap_weight", "temperature")
    constant = place(Hparams.create(**{name: config.training[name] for name in names}))

    def hparams(round: int, step: int) -> Hparams:
        done = round * schedule.length + step + 1
        if done >= config.training.warmup:
            return constant
        return constant.replace(
            lr=place(np.asarray(config.training.lr * done / config.training.warmup, jnp.result_type(float)))
        )

    return hparams


def make_weights(config, split: Split, place: Callable = jax.device_put) -> Callable[[int], Array | None]:
    sizes = np.array([len(questions) for questions in split.clients], float)
    base = sizes if config.federation.weights == "size" else np.ones_like(sizes)

    def weights(round: int) -> Array | None:
        if config.federation.weights == "uniform" and not config.federation.participants:
            return None
        return place(np.asarray(base * present(config, round), jnp.result_type(float)))

    return weights


def present(config, round: int) -> np.ndarray:
    return participants(config.seed, round, config.federation.num_clients, config.federation.participants)


def taking_part(run: Run, round: int) -> np.ndarray | None:
    """int32[k]: the clients that a round computes; None: all of them.

    A mesh computes all clients, since each device holds some of them; absent clients get weight zero in the average.
    """
    mesh, present = run.config.mesh, run.present(round)
    if present.all() or mesh.client * mesh.data * mesh.model > 1:
        return None
    return np.flatnonzero(present).astype(np.int32)


def make_batches(config, schedule, train: Questions, split: Split, devices) -> Callable[[int, int], Batch]:
    clients, size = config.federation.num_clients, config.training.prompts
    place, sharding = make_place(devices), devices and mesh.data_sharding(devices, clients, size)

    def batch(round: int, step: int) -> Batch:
        taking_part = config.federation.participants
        rows = schedule_rows(split, schedule, size, seed=config.seed, round=round, step=step, taking_part=taking_part)
        prompts = place(jax.tree.map(lambda x: x[rows], train.prompts), sharding)
        answers = [[train.problems[i] for i in row] for row in rows]
        return Batch(prompts, answers, public=schedule.public(round, step))

    return batch


def questions_of(config) -> Wanted:
    """What the config says about questions, for `load_questions`."""
    names = ("name", "path", "test_path", "test_name", "public_path", "max_prompt_tokens", "max_questions")
    names += ("test", "validation", "public", "partition")
    return Wanted(
        seed=config.seed,
        num_clients=config.federation.num_clients,
        fields=config.data.fields.to_dict(),
        partitioned=settings.chosen(config, "data.partition"),
        **{name: config.data[name] for name in names},
    )
