"""A run small enough for tests: a random two-layer model of eight tokens, and questions that it answers right by chance."""

import contextlib
import functools
import json
import pathlib
import random
import tempfile
import threading

import jax
import safetensors.numpy
from hf_files import model_files
from ml_collections import ConfigDict

from pubswap_jax import loop, settings
from pubswap_jax.fields import default_config
from pubswap_jax.questions.tokens import save_char_tokenizer
from pubswap_jax.run import assembly, methods
from pubswap_jax.run.assembly import assemble
from pubswap_jax.run.recorder import COMPILED

CHARACTERS = "012+="

# Changes that make an embedded world quick for the laboratory.
LABORATORY = {
    "federation.num_clients": 2,
    "federation.rounds": 1,
    "federation.steps": 2,
    "training.prompts": 2,
    "training.group": 4,
    "data.max_questions": 256,
    "data.test": 16,
    "data.validation": 8,
}


def write_base(folder, **changes):
    """A random model that speaks CHARACTERS, in Hugging Face layout."""
    folder.mkdir(parents=True, exist_ok=True)
    save_char_tokenizer(folder, CHARACTERS)
    changes = {"max_position_embeddings": 1024} | changes  # room for the default of data.max_prompt_tokens
    fields, tensors = model_files("qwen2", vocab_size=8, eos_token_id=1, **changes)
    beyond = f"model.layers.{fields['num_hidden_layers']}."  # the files are of two layers
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(beyond)}
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:8].copy()
    (folder / "config.json").write_text(json.dumps(fields))
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return folder


def write_questions(path, count=120, seed=0):
    """Sums modulo 3 of made-up digits."""
    chance = random.Random(seed)
    rows = []
    for i in range(count):
        text = "".join(chance.choice("012") for _ in range(8)) + "+" + "".join(chance.choice("012") for _ in range(8)) + "="
        digit = str(sum(map(int, text.replace("+", "").replace("=", ""))) % 3)
        rows.append(
            {"id": f"q{i}", "question": text, "answer": digit, "topic": ("nought", "one", "two")[int(digit)], "level": ""}
        )
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def small_config(folder, **changes):
    """A config of that model and those questions: 3 clients, 2 rounds of 4 steps. `changes` are fields, __ for a dot."""
    config = default_config()
    values = {
        "model.path": str(write_base(folder / "base")),
        "data.path": str(write_questions(folder / "questions.jsonl")),
        "model.instruction": "",
        "model.lora_rank": 2,
        "data.test": 12,
        "data.validation": 12,
        "data.public": 0.2,
        "federation.num_clients": 3,
        "federation.rounds": 2,
        "federation.steps": 4,
        "training.group": 4,
        "training.prompts": 4,
        "training.max_new_tokens": 3,
        "training.lr": 0.02,
        "seed": 4,
        "evaluation.samples": 2,
        "evaluation.batch": 12,
        "log.tensorboard": "off",
    }
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    for name, value in values.items():
        settings.override(config, name, str(value))
    settings.check(config)
    return config


# Programs that no field of the `federation` section changes; `federated_as` compiles each of them once.
OF_ANY_FEDERATION = ("two_keys", "keys", "rollout", "own", "swap", "receive", "update", "choose", "swap_metrics", "drift")
_KEPT = {}


def config_of(run, **changes):
    """A config with the run's settings and these changes: fields, with __ for a dot. It is not checked."""
    config = default_config()
    for name, value in run.settings.items():
        section, _, leaf = name.rpartition(".")
        (config[section] if section else config)[leaf] = ConfigDict(value) if isinstance(value, dict) else value
    for name, value in changes.items():
        settings.override(config, name.replace("__", "."), str(value))
    return config


def federated_as(run, config):
    """The run under another `federation` section. Rollout, swap and update stay the same programs: they compile once."""

    def program(name, function):
        if name not in OF_ANY_FEDERATION:
            return run.programs(name, function)
        return _KEPT.setdefault((run.programs, name), run.programs(name, function))

    plan = methods.make_schedule(config)
    return run._replace(
        settings=settings.flatten(config),
        federation=methods.make_federation(config, run.policy.model, program),
        timeline=methods.make_timeline(config, plan),
        rounds=config.federation.rounds,
        steps=plan.length,
        hparams=methods.make_hparams(config, plan.length, run.place.put),
        weights=assembly.make_weights(config, run.data.split, run.place.put),
        save_every=config.checkpoint.steps,
        kept=config.checkpoint.keep,
    )


def event_at(run, round, step):
    """The private or public event of that step."""
    return run.timeline(run.timeline.number(round, step))


@functools.cache
def finished():
    """A run that is assembled, compiled and trained once for all tests: (run, its workdir). Don't write to it.

    `finished.compiled` has the programs that it compiled, and in which threads.
    """
    folder = tempfile.TemporaryDirectory(prefix="pubswap")
    finished.folder = folder  # removed when the process ends
    run = assemble(small_config(pathlib.Path(folder.name), checkpoint__steps=2))
    workdir = pathlib.Path(folder.name) / "run"
    workdir.mkdir()
    with compilations() as finished.compiled:
        loop.train(run, workdir)
    return run, workdir


@contextlib.contextmanager
def compilations():
    """[(name of the program, thread)] of what is compiled meanwhile."""
    found = []

    def listen(event, seconds, fun_name="", **_):
        if event == COMPILED:
            found.append((fun_name.removeprefix("jit(").removesuffix(")"), threading.current_thread()))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
