"""The best round's adapters, as arrays or as PEFT folders with a model card; and the evaluation of a PEFT folder."""

import pathlib
from typing import NamedTuple

import jax
import numpy as np

from pubswap_jax import settings
from pubswap_jax.run import checkpoint, earlier, evaluation, journal, state
from pubswap_jax.run.assembly import Run, adapt, assemble, base_digest, base_folder, make_tokenizer
from pubswap_jax.run.pass_at_k import by_topic, pass_at_k, summary
from pubswap_jax.run.recorder import KS
from pubswap_jax.run.state import Standing
from pubswap_jax.types import ModelConfig, PyTree
from pubswap_jax.weights.hf_config import read_config
from pubswap_jax.weights.pretrained import export_adapter, load_adapter

CARD = """---
base_model: {base}
library_name: peft
tags: [lora, grpo, federated]
---

# {name}

A LoRA adapter (rank {rank}, alpha {alpha:g}) trained by pubswap_jax, federated reinforcement learning with verifiable rewards:
{clients} clients, {steps} steps between two averagings, swap `{swap}`. This is {whose} after round {round} of {rounds},
the best one by the validation questions.

| pass@1 | base | this run's best |
|---|---|---|
{cells}

The figures are those of {tested} on the run's test questions; base SHA-256 {digest}.
"""


class BestRound(NamedTuple):
    """The adapter of a run's best round, and the config and base model to use it with:

    _, params = load_pretrained(found.base, scan_layers=found.config.scan_layers)
    sample(Transformer(found.config), params, found.adapter, ...)
    export_adapter("folder", found.adapter, found.config, str(found.base))
    """

    round: int  # 0: the base model was the best
    score: float  # pass@1 on the validation questions
    adapter: PyTree  # the averaged adapter; if federation.average is False, the clients' own adapters, leaves [C, ...]
    config: ModelConfig  # of the base model with this adapter
    base: pathlib.Path  # the base model's folder
    settings: dict  # the run's config: dotted field name -> value


def best(workdir: str | pathlib.Path) -> BestRound:
    """The best round of the run in `workdir`. Reads the checkpoint, run.json and the base model, but no questions."""
    workdir = pathlib.Path(workdir)
    config, _ = earlier.config_of(workdir)
    base = base_folder(config)
    earlier.agree(config, base_digest(base), workdir, "export")
    folder = workdir / "checkpoints"
    newest = _newest(workdir)
    round, score = checkpoint.notes(newest)["best"]
    found = next((c for c in checkpoint.listed(folder) if (c.round, c.step) == (round, 0)), None)
    trouble = "it is not there" if found is None else checkpoint.problem(found.path)
    if trouble:
        raise ValueError(f"{workdir}: the best round, {round}, cannot be read: {trouble}; the newest is {newest.path.name}")
    arrays = checkpoint.arrays(found)
    adapter = arrays["server" if config.federation.average else "clients"]["adapter"]
    loaded = read_config(base).replace(scan_layers=config.model.scan_layers)
    model_config = adapt(config, loaded, make_tokenizer(config, base))
    return BestRound(round, score, adapter, model_config, base, settings.flatten(config))


def export(config, workdir: pathlib.Path) -> list[pathlib.Path]:
    """Writes PEFT folders to `workdir/export`: the average (`global`) and each participant's own. Returns the paths."""
    return export_run(assemble(config), workdir)


def export_run(run: Run, workdir: pathlib.Path) -> list[pathlib.Path]:
    """`export` for an assembled run."""
    config, at = run.config, best_standing(run, workdir)
    adapters = {f"client_{i}": jax.tree.map(lambda x, i=i: x[i], at.clients.adapter) for i in _with_own(run, at.round)}
    if config.federation.average:
        adapters = {"global": at.server.adapter} | adapters
    folders = []
    for name, adapter in adapters.items():
        folder = workdir / "export" / name
        for file in folder.glob("*"):
            file.unlink()
        export_adapter(folder, adapter, run.model_config, str(config.model.path or f"pubswap_jax/{run.base.name}"))
        (folder / "README.md").write_text(_card(run, at, workdir, name))
        folders.append(folder)
    return folders


def _with_own(run: Run, round: int) -> list[int]:
    """The clients with an adapter of their own after `round` rounds: with averaging, the last round's participants."""
    if not run.config.federation.average:
        return list(range(run.config.federation.num_clients))
    return np.flatnonzero(run.present(round - 1)).tolist() if round else []


def evaluate_adapter(config, workdir: pathlib.Path, adapter: str) -> str:
    """Evaluates the PEFT folder `adapter` on the config's test questions, as text; empty: the best round in `workdir`."""
    run = assemble(config)
    if adapter:
        found, loaded = load_adapter(adapter, run.model_config)
        changes = {name: getattr(found, name) for name in ("lora_rank", "lora_alpha", "lora_targets")}
        run = run if found == run.model_config else assemble(_with_adapter(config, changes))
        return _figures(run, loaded)
    return evaluate_run(run, workdir)


def evaluate_run(run: Run, workdir: pathlib.Path) -> str:
    """Evaluates the run's best round on its test questions, as text."""
    at = best_standing(run, workdir)
    return _figures(run, at.server.adapter) if run.config.federation.average or not at.round else _alone(run, at)


def _figures(run: Run, adapter: PyTree) -> str:
    examine = evaluation.make_examine(run, lambda: None)
    (found,) = examine(jax.tree.map(lambda x: x[None], adapter), run.test)
    lines = [_asked(run)]
    lines += [f"{name:<24}{value:>8.4f}" for name, value in summary(found, KS).items()]
    lines += [f"pass@1 in {name:<14}{value:>8.4f}" for name, value in by_topic(found).items()]
    return "\n".join(lines)


def _alone(run: Run, at: Standing) -> str:
    """pass@1 of each client's own model, and the mean, as text. Without averaging there is no common model."""
    found = evaluation.own(run, evaluation.make_examine(run, lambda: None), at.clients, run.test)
    figures = [pass_at_k(one.correct, 1) for one in found]
    lines = [_asked(run), f"{'pass@1, mean of clients':<24}{sum(figures) / len(figures):>8.4f}"]
    return "\n".join(lines + [f"{f'pass@1 of client {i}':<24}{figure:>8.4f}" for i, figure in enumerate(figures)])


def _asked(run: Run) -> str:
    return f"{len(run.test.problems)} test questions, {run.config.evaluation.samples} samples each"


def best_standing(run: Run, workdir: pathlib.Path) -> Standing:
    """The state of the run in `workdir` at the end of its best round."""
    newest = _newest(workdir)
    earlier.agree(run.config, base_digest(run.base), workdir, "eval")
    before, ours = earlier.described(workdir), state.describe(run)
    same_data = all(ours["config"][name] == before["config"].get(name) for name in ours["config"] if name.startswith("data."))
    if same_data and before.get("asked_sha256", ours["asked_sha256"]) != ours["asked_sha256"]:
        raise ValueError(
            f"{workdir}: the validation and test questions: the files hold others than before; put the old ones back"
        )
    return state.load_best(workdir / "checkpoints", state.load(newest, run)[0], run)


def _newest(workdir: pathlib.Path) -> checkpoint.Checkpoint:
    found = checkpoint.newest(workdir / "checkpoints", print)
    if found is None:
        raise ValueError(f"{workdir}: no checkpoint in it; give the --workdir of a run, or train one first")
    return found


def _with_adapter(config, changes: dict):
    changed = config.copy_and_resolve_references()
    changed.model.lora_rank, changed.model.lora_alpha = changes["lora_rank"], changes["lora_alpha"]
    changed.model.lora_targets = ",".join(changes["lora_targets"])
    settings.check(changed)
    return changed


def _card(run: Run, at: Standing, workdir: pathlib.Path, name: str) -> str:
    federation = run.config.federation
    model = "global" if federation.average else name.replace("_", " ")
    tested = [row for row in journal.read(workdir, "evaluations") if row["split"] == "test"]
    figures = {(row["round"], row["model"]): row["by_topic"] | {"all": row["figures"]["pass@1"]} for row in tested}
    base, best = figures.get((0, "global"), {}), figures.get((at.round, model), {})
    cells = [f"| {topic} | {base[topic]:.3f} | {best[topic]:.3f} |" for topic in base if topic in best]
    return CARD.format(
        base=run.config.model.path or f"pubswap_jax/{run.base.name}",
        name=f"{workdir.name}, {name}",
        rank=run.model_config.lora_rank,
        alpha=run.model_config.lora_alpha,
        clients=federation.num_clients,
        steps=federation.steps,
        swap=federation.swap,
        whose="the averaged adapter" if name == "global" else f"{name.replace('_', ' ')}'s own adapter, before averaging",
        tested="the averaged model" if federation.average else "this client's model",
        round=at.round,
        rounds=federation.rounds,
        cells="\n".join(cells),
        digest=state.base_digest(run.base),
    )
