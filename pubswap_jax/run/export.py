"""The best round's adapters, as arrays or as PEFT folders with a model card; and the evaluation of a PEFT folder."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from pubswap_jax import settings
from pubswap_jax.fields import field_named
from pubswap_jax.policy.adapter import init_adapter
from pubswap_jax.policy.model import Transformer
from pubswap_jax.run import checkpoint, earlier, evaluation, given, manifest, state
from pubswap_jax.run.assembly import Run, assemble, examination
from pubswap_jax.run.card import base_name, card_of
from pubswap_jax.run.methods import make_federation
from pubswap_jax.run.next_commands import next_commands
from pubswap_jax.run.pass_at_k import Evaluation, by_topic, evaluate, pass_at_k, summary
from pubswap_jax.run.policy import base_folder, beside_warmup, digest_of, load_policy, make_basis, make_tokenizer, model_of
from pubswap_jax.run.recorder import KS
from pubswap_jax.run.state import RunState, place_of
from pubswap_jax.types import ModelConfig, PyTree
from pubswap_jax.weights.basis import basis_digest, check_basis
from pubswap_jax.weights.pretrained import export_adapter, load_adapter, merge_adapter, param_shapes


class BestRound(NamedTuple):
    """The adapter of a run's best round, and the config and base model to use it with:

    _, base = load_pretrained(found.base, scan_layers=found.config.scan_layers)
    sample(Transformer(found.config), base | {"basis": found.basis}, found.adapter, ...)
    export_adapter("folder", found.adapter, found.config, str(found.base), basis=found.basis)
    """

    round: int  # 0: the base model was the best
    score: float  # pass@1 on the validation questions
    adapter: PyTree  # the averaged adapter; where there is none, the clients' own adapters, leaves [C, ...]
    config: ModelConfig  # of the base model with this adapter
    base: pathlib.Path  # the base model's folder
    settings: dict  # the run's config: dotted field name -> value
    basis: PyTree  # the frozen arrays of the adapter family; {} for LoRA
    shared: bool = True  # whether `adapter` is the averaged one


def best(workdir: str | pathlib.Path) -> BestRound:
    """The best round of the run in `workdir`. Reads the checkpoint, run.json and the base model, but no questions."""
    workdir = pathlib.Path(workdir)
    config, _ = earlier.config_of(workdir)
    base = base_folder(config)
    earlier.agree(settings.flatten(config), digest_of(config, base), workdir, "export")
    folder = workdir / "checkpoints"
    given.agree(earlier.described(workdir).get("given", {}), {}, workdir, ("aggregator",))  # it shapes the server's state
    last = newest(workdir)
    round, score = checkpoint.notes(last)["best"]
    model = Transformer(model_of(config, make_tokenizer(config, base)))
    shapes = {"params": param_shapes(model.config)}
    basis = make_basis(config, model, shapes)
    check_basis(str(workdir / earlier.RUN), earlier.described(workdir).get("basis_sha256", ""), basis_digest(basis))
    adapter = jax.eval_shape(lambda: init_adapter(jax.random.key(0), model, shapes))
    federation = make_federation(config, model)
    template = federation.saved(jax.eval_shape(federation.init, adapter))
    found = checkpoint.load(state.best_of(folder, round, last.round), template)
    shared = federation.shared(found)
    if shared is None:
        return BestRound(round, score, federation.own(found), model.config, base, settings.flatten(config), basis, False)
    joined, adapter, basis = beside_warmup(config.model.warmup, model.config, shared, basis)
    return BestRound(round, score, adapter, joined, base, settings.flatten(config), basis)


def best_of_run(run: Run, workdir: pathlib.Path) -> BestRound:
    """The adapter of the best round with its config and base model, for a run that is already assembled."""
    at = best_state(run, workdir)
    shared = run.federation.shared(at.federation)
    if shared is None:
        own = run.federation.own(at.federation)
        return BestRound(*at.best, own, run.policy.config, run.policy.folder, run.settings, run.policy.base["basis"], False)
    config, adapter, basis = _leaving(run, shared)
    return BestRound(*at.best, adapter, config, run.policy.folder, run.settings, basis)


def export(
    config, workdir: pathlib.Path, merge: str = "", say: Callable[[str], None] = lambda line: None
) -> list[pathlib.Path]:
    """Writes PEFT folders to `workdir/export`: the average (`global`) and each participant's own. Returns the paths.

    The adapters are relative to the model of `model.path`: the ranks of a warm-up adapter are part of them. `merge`: dtype of
    a model folder `merged`, that model with the average merged into its weights; empty: none is written. `say` is called with
    each command that could come next.
    """
    run = assemble(config)
    folders = export_run(run, workdir, merge=merge)
    for line in next_commands(run, folders):
        say(line)
    return folders


def export_run(run: Run, workdir: pathlib.Path, folder: pathlib.Path | None = None, merge: str = "") -> list[pathlib.Path]:
    """Writes PEFT folders, as `export` does, for a run that is already assembled; to `folder` if it is given."""
    at = best_state(run, workdir)
    shared, own = run.federation.shared(at.federation), run.federation.own(at.federation)
    adapters = {f"client_{i}": jax.tree.map(lambda x, i=i: x[i], own) for i in with_own(run, at)}
    if shared is not None:
        adapters = {"global": shared} | adapters
    folders = []
    for name, adapter in adapters.items():
        written = (folder or workdir / "export") / name
        for file in written.glob("README.md" if folder else "*"):  # a caller's folder may hold files that are not ours
            file.unlink()
        exported, adapter, basis = _leaving(run, adapter)
        export_adapter(written, adapter, exported, base_name(run), basis=basis)
        (written / "README.md").write_text(card_of(run, at, workdir, name))
        folders.append(written)
    return folders + ([_merged(run, at, workdir, folder or workdir / "export", merge)] if merge else [])


def _merged(run: Run, at: RunState, workdir: pathlib.Path, folder: pathlib.Path, dtype: str) -> pathlib.Path:
    """Writes the model folder `merged`, the base with an adapter merged into its weights. It replaces an earlier one."""
    shared, written = run.federation.shared(at.federation), folder / "merged"
    if shared is None:
        raise ValueError(f"--merge={dtype}: {workdir} has no averaged adapter; merge a client's with pubswap_jax.merge_adapter")
    for file in written.glob("*"):
        file.unlink()
    exported, adapter, basis = _leaving(run, shared)
    merge_adapter(written, run.policy.folder, adapter, exported, basis=basis, dtype=dtype)
    card = card_of(run, at, workdir, "global").replace("library_name: peft", "library_name: transformers")
    (written / "README.md").write_text(card.replace("A LoRA adapter, ", "The base model, merged with a LoRA adapter, "))
    return written


def _leaving(run: Run, adapter: PyTree) -> tuple[ModelConfig, PyTree, PyTree]:
    """An adapter in the form that leaves a run: config, arrays and basis, relative to the model of `model.path`.

    A warm-up's ranks are part of it.
    """
    return beside_warmup(run.settings["model.warmup"], run.policy.config, adapter, run.policy.base["basis"])


def with_own(run: Run, at: RunState) -> list[int]:
    """The clients whose own adapter is exported: all; with averaging, those who took part in the last round."""
    own = run.federation.own(at.federation)
    if own is None:
        return []
    if run.federation.shared(at.federation) is None:
        return list(range(jax.tree.leaves(own)[0].shape[0]))
    return np.flatnonzero(run.timeline(at.number - 1).who).tolist() if place_of(run, at.number)[0] else []


def evaluate_adapter(config, workdir: pathlib.Path, adapter: str) -> str:
    """Evaluates the PEFT folder `adapter` on the config's test questions, as text; empty: the best round in `workdir`.

    A PEFT folder is relative to the model of `model.path`, so a warm-up adapter is not merged beside it.
    """
    if adapter:
        config = _with(config, {"model.warmup": ""})
    run = assemble(config)
    if adapter:
        ours = run.policy.config
        found, loaded = load_adapter(adapter, ours)
        changes = {f"model.lora_{name}": value for name, value in found.adapter.settings}
        changes |= {"model.lora_targets": ",".join(found.lora_targets)}
        changes |= {
            name: field_named(name).default for name in ("model.adapter", "model.heads", "model.bases", "federation.heads")
        }
        run = run if found == ours else assemble(_with(config, changes))
        return _figures(run, loaded)
    return evaluate_run(run, workdir)


def evaluate_file(config, workdir: pathlib.Path, adapter: str, file: str) -> str:
    """Evaluates the PEFT folder `adapter` on the questions of `file`, as text; empty: the best round in `workdir`."""
    plain = _with(config, {"model.warmup": ""})
    policy = load_policy(plain)
    if adapter:
        (model_config, loaded), basis = load_adapter(adapter, policy.config), {}
    else:
        found = best(workdir)
        model_config, loaded, basis = found.config, found.adapter, found.basis
        if not found.shared:
            raise ValueError(f"{workdir}: its clients trained alone; name one of its exported adapters with --adapter")
    policy = policy._replace(model=Transformer(model_config), base=policy.base | {"basis": basis})
    examiner, questions = examination(plain, policy, file)
    (seen,) = evaluate(examiner, policy.base, evaluation.one(loaded), questions)
    return "\n".join([f"{len(questions.problems)} questions of {file}, {examiner.samples} samples each", *_lines(seen)])


def evaluate_run(run: Run, workdir: pathlib.Path) -> str:
    """Evaluates the run's best round on its test questions, as text."""
    at = best_state(run, workdir)
    if not place_of(run, at.number)[0]:
        return _figures(run, run.policy.adapter)
    shared = run.federation.shared(at.federation)
    return _alone(run, at) if shared is None else _figures(run, shared)


def _figures(run: Run, adapter: PyTree) -> str:
    examine = evaluation.make_examine(run, lambda: None)
    (found,) = examine(evaluation.one(adapter), run.data.test)
    return "\n".join([_asked(run), *_lines(found)])


def _lines(found: Evaluation) -> list[str]:
    lines = [f"{name:<24}{value:>8.4f}" for name, value in summary(found, KS).items()]
    return lines + [f"pass@1 in {name:<14}{value:>8.4f}" for name, value in by_topic(found).items() if name]


def _alone(run: Run, at: RunState) -> str:
    """pass@1 of each client's own model and their mean, as text, for a run without averaging, which has no common model."""
    examine = evaluation.make_examine(run, lambda: None)
    found = evaluation.own(run, examine, run.federation.own(at.federation), run.data.test)
    figures = [pass_at_k(one.correct, 1) for one in found]
    lines = [_asked(run), f"{'pass@1, mean of clients':<24}{sum(figures) / len(figures):>8.4f}"]
    return "\n".join(lines + [f"{f'pass@1 of client {i}':<24}{figure:>8.4f}" for i, figure in enumerate(figures)])


def _asked(run: Run) -> str:
    return f"{len(run.data.test.problems)} test questions, {run.examiner.samples} samples each"


def best_state(run: Run, workdir: pathlib.Path) -> RunState:
    """The state of the run in `workdir` at the end of its best round."""
    return state.load_best(workdir / "checkpoints", last_state(run, workdir), run)


def last_state(run: Run, workdir: pathlib.Path) -> RunState:
    """The newest state of the run in `workdir`. Raises if `run` is another one."""
    last = newest(workdir)
    earlier.agree(run.settings, run.policy.digest, workdir, "eval")
    before, ours = earlier.described(workdir), manifest.describe(run)
    given.agree(before.get("given", {}), ours["given"], workdir, ("aggregator", "questions"))
    check_basis(str(workdir / earlier.RUN), before.get("basis_sha256", ""), ours["basis_sha256"])
    same_data = all(ours["config"][name] == before["config"].get(name) for name in ours["config"] if name.startswith("data."))
    if same_data and before.get("asked_sha256", ours["asked_sha256"]) != ours["asked_sha256"]:
        raise ValueError(
            f"{workdir}: the validation and test questions: the files hold others than before; put the old ones back"
        )
    return state.load(last, run)[0]


def newest(workdir: pathlib.Path) -> checkpoint.Checkpoint:
    found = checkpoint.newest(workdir / "checkpoints", print)
    if found is None:
        raise ValueError(f"{workdir}: no checkpoint in it; give the --workdir of a run, or train one first")
    return found


def _with(config, changes: dict[str, object]):
    changed = settings.changed(config, changes)
    settings.check(changed, trained=True)
    return changed
