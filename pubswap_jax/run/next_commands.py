"""What comes after an export: shell commands that serve the exported folder with vLLM and evaluate it with lm_eval."""

import json
import pathlib
import shlex
from collections.abc import Sequence

from pubswap_jax.run.assembly import Run
from pubswap_jax.weights.peft_checks import CONFIG
from pubswap_jax.weights.tensorfile import read_json

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's --max-lora-rank may be
USUAL_RANK = 16  # what --max-lora-rank is if it is left out
TASKS = {"medqa": "medqa_4options", "medmcqa": "medmcqa"}  # data set -> task of lm_eval; of all other sets: gsm8k


def next_commands(run: Run, folders: Sequence[pathlib.Path]) -> list[str]:
    """A line for each command. `folders`: what `export_run` has written; the first adapter and a merged model are used."""
    path, adapter, merged = run.settings["model.path"], folders[0], folders[-1]
    named = bool(path) and not pathlib.Path(path).expanduser().exists()  # on the hub
    base = path if named else str(run.policy.folder)
    revision = run.settings["model.revision"] if named else ""
    lines = [_serve(base, revision, adapter), _evaluate(run, {"pretrained": base, "revision": revision, "peft": str(adapter)})]
    if not (merged / CONFIG).exists():
        lines += [shlex.join(["vllm", "serve", str(merged)]), _evaluate(run, {"pretrained": str(merged)})]
    return lines


def _serve(base: str, revision: str, adapter: pathlib.Path) -> str:
    """`vllm serve` of the base with an adapter, which a request names as its model: `global` or `client_0`."""
    rank = read_json(adapter / CONFIG)["r"]
    largest = next((most for most in RANKS if most >= rank), None)
    if largest is None:
        return f"# vLLM serves adapters of rank {RANKS[-1]} at most, and this one has {rank}: export with --merge=bfloat16"
    module = f"{adapter.name}={adapter}"
    if module.count("=") > 1 or "," in module:  # vLLM splits name=path at every =, and takes a text with a comma for JSON
        module = json.dumps({"name": adapter.name, "path": str(adapter)})
    words = ["vllm", "serve", base, *(["--revision", revision] if revision else []), "--enable-lora", "--lora-modules", module]
    return shlex.join(words + (["--max-lora-rank", str(largest)] if largest > USUAL_RANK else []))


def _evaluate(run: Run, arguments: dict[str, str]) -> str:
    """`lm_eval` of a model, or of a base with an adapter, on the tasks that are nearest to the run's questions."""
    sets = "+".join(run.settings[f"data.{name}"] for name in ("name", "test_name")).split("+")
    tasks = list(dict.fromkeys(TASKS[name] for name in sets if name in TASKS)) or ["gsm8k"]
    given = ",".join(f"{name}={value}" for name, value in arguments.items() if value)
    words = ["lm_eval", "--model", "hf", "--model_args", given, "--tasks", ",".join(tasks)]
    return shlex.join(words + (["--apply_chat_template"] if run.policy.tokenizer.hf.chat_template else []))
