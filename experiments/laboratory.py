"""The laboratory of the experiments: several seeds of one config, trained side by side as one program a step.

The configs of a `train` differ in their seed and in scalars of `training`. The states of all are stacked: their clients
answer in one batch, and swap, update and averaging are the algorithm's own, vmapped. Alone, a seed meets the same questions and
draws the same samples. On the embedded world the judge compares tokens in jax.numpy; on other data it is the run's verifier.

    python -m experiments.laboratory --seeds 1 2 3       # side by side against one after the other
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from pubswap_jax import settings
from pubswap_jax.algorithm.drift import drift
from pubswap_jax.algorithm.swap import no_swap, swap_metrics
from pubswap_jax.policy.model import Transformer
from pubswap_jax.policy.sampling import sample
from pubswap_jax.questions import embedded
from pubswap_jax.questions.load import HOMEWORK, Questions
from pubswap_jax.questions.problem import Problem
from pubswap_jax.questions.schedule import rows as schedule_rows
from pubswap_jax.run import ledger
from pubswap_jax.run.assembly import Run, assemble
from pubswap_jax.run.pass_at_k import make_sampler
from pubswap_jax.types import Batch, ClientState, Prompts, Rollout, ServerState, Verdict

KEPT = ("reward", "swapped", "rescued", "zero_variance_before", "zero_variance_after", "grad_norm")


def config_of(spec: str, seed: int, changes: dict[str, Any]) -> ConfigDict:
    """A config file's preset with a seed and changed fields, e.g. {'federation.swap': 'no_swap'}."""
    config = settings.load(spec)
    for name, value in {"seed": seed, **changes}.items():
        settings.override(config, name, str(value))
    settings.check(config)
    if config.federation.participants or config.federation.weights != "uniform" or config.training.warmup:
        raise ValueError("the laboratory knows no federation.participants, federation.weights=size or training.warmup")
    return config


def train(
    configs: Sequence[ConfigDict],
    say: Callable[[str], None] = print,
    watch: Callable[[int, ServerState], None] = lambda round, servers: None,
    alter: Callable[[Run], Run] = lambda run: run,
) -> list[list[dict]]:
    """Trains every config to its last round. Per config: a row before the first round and one after each.

    `watch` sees the servers [S] before every round; `alter` changes an assembled run, its questions for one.
    """
    runs = [alter(assemble(config)) for config in configs]
    first, config = runs[0], runs[0].config
    width = max(run.train.prompts.tokens.shape[1] for run in runs)
    asked = [table_of(run, run.train, width) for run in runs]
    tested = [table_of(run, run.test, width) for run in runs]
    hparams = _stack([run.hparams(0, run.schedule.length) for run in runs])
    step, examine = make_step(first), make_examine(first, tested)
    servers = _stack([run.server for run in runs])
    history = [[{"round": 0, "global": score}] for score in examine(_alone(servers.adapter), None)]
    say("base " + " ".join(f"{rows[0]['global']:.3f}" for rows in history))
    keeps = config.federation.moments == "keep" or not config.federation.average
    clients = jax.vmap(first.algorithm.init_clients)(servers)
    for round in range(config.federation.rounds):
        begun, worked = time.perf_counter(), time.process_time()
        records, sent, start = [], np.zeros(len(runs), int), servers
        watch(round, servers)
        clients = jax.vmap(first.algorithm.init_clients)(servers, *([clients] if keeps else []))
        for t in range(first.schedule.length):
            public = first.schedule.public(round, t)
            batch = [_batch(run, table, round, t) for run, table in zip(runs, asked, strict=True)]
            keys = jnp.stack([jax.random.fold_in(jax.random.fold_in(run.key, round), t) for run in runs])
            clients, metrics, crossed = step(servers, clients, batch, public, keys, hparams)
            records.append(metrics)
            sent += crossed
        servers = jax.vmap(lambda server, trained: first.algorithm.aggregate(server, trained))(servers, clients)
        jax.block_until_ready(servers)
        seconds, worked = time.perf_counter() - begun, time.process_time() - worked
        own = examine(clients.adapter, max(1, len(first.test.problems) // config.federation.num_clients))
        scores = examine(_alone(servers.adapter), None) if config.federation.average else examine(clients.adapter, None)
        moved = jax.device_get(jax.vmap(drift)(clients.adapter, start.adapter))
        means = {name: np.mean([record[name] for record in records], axis=(0, 2)) for name in KEPT}
        averaged = _adapter_bytes(first, clients) if config.federation.average else 0
        for i, rows in enumerate(history):
            row = {"round": round + 1, "global": scores[i], "clients": own[i]}
            row |= {name: float(values[i]) for name, values in means.items()}
            row |= {"drift": float(moved["drift"][i].mean()), "cosine": _off_diagonal(moved["cosine"][i])}
            row |= {"residual": float(moved["residual"][i]), "bytes": int(sent[i]) + averaged}
            row |= {"seconds": seconds / len(runs), "cpu_seconds": worked / len(runs)}
            rows.append(row)
        swapped = means["swapped"].mean()
        say(f"round {round + 1}: {_figures(scores)} (own {_figures(own)}), swapped {swapped:.3f}, {seconds:.0f} s")
    return history


# --- questions ----------------------------------------------------------------------------------------------------------


class Table(NamedTuple):
    """Questions as arrays, [n, ...]. `answers` is what the judge reads: tokens in the embedded world, else the problems."""

    prompts: Prompts
    answers: Any


def _embedded(run: Run) -> bool:
    return run.config.data.name in HOMEWORK and not run.config.data.path


def table_of(run: Run, questions: Questions, width: int = 0) -> Table:
    missing = max(width - questions.prompts.tokens.shape[1], 0)
    tokens = np.pad(questions.prompts.tokens, ((0, 0), (missing, 0)), constant_values=run.model_config.pad_id)
    prompts = Prompts(tokens, np.pad(questions.prompts.mask, ((0, 0), (missing, 0))))
    if _embedded(run):
        return Table(prompts, _right(run, questions.problems))
    problems = np.empty(len(questions.problems), object)
    problems[:] = questions.problems
    return Table(prompts, problems)


def _right(run: Run, problems: Sequence[Problem]) -> np.ndarray:
    """The demonstrations that end in the questions' answers, as tokens with their end, padded as samples are. int32[n, R]."""
    said = [_ending(p, rf"\boxed{{{p.answer}}}") for p in problems]
    ids = [[*row, run.model_config.eos_ids[0]] for row in run.tokenizer.hf(said, add_special_tokens=False).input_ids]
    length = run.config.training.max_new_tokens
    return np.array([row + [run.model_config.pad_id] * (length - len(row)) for row in ids], np.int32)


def _ending(problem: Problem, end: str) -> str:
    return next(text for text, _ in embedded.demonstrations(problem).values() if text.endswith(end))


def _batch(run: Run, table: Table, round: int, step: int) -> Table:
    size = run.config.training.prompts
    rows = schedule_rows(run.split, run.schedule, size, seed=run.config.seed, round=round, step=step)
    return Table(jax.tree.map(lambda x: x[rows], table.prompts), table.answers[rows])


def make_judge(run: Run) -> Callable[[Rollout, np.ndarray], Verdict]:
    """(rollouts [M, B, G, R], answers [M, B, ...]) -> verdicts [M, B, G]."""
    if _embedded(run):
        # All tokens behind the procedure's name are those of the right answer.
        return jax.jit(lambda said, right: Verdict.from_correct(jnp.all(said.tokens[..., 1:] == right[..., None, 1:], axis=-1)))
    return lambda said, problems: run.judge(said, Batch(None, problems.tolist(), public=False))


# --- one step of all seeds ----------------------------------------------------------------------------------------------


def make_step(run: Run) -> Callable:
    """`client_step` with seeds before clients: (servers [S], clients [S, C], batches, public, keys [S], hparams [S])
    -> clients, metrics [S, C], bytes of the public exchange [S]."""
    algorithm, judge, config = run.algorithm, make_judge(run), run.config

    @jax.jit
    def respond(clients: ClientState, prompts: Prompts, keys, temperature):
        keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))(keys, clients.id)
        stacked = _merged((clients.adapter, prompts, keys))
        length, group = config.training.max_new_tokens, config.training.group
        return sample(
            Transformer(run.model_config), run.params, *stacked, group=group, max_new_tokens=length, temperature=temperature
        )

    @partial(jax.jit, static_argnames="public")
    def exchange(rollouts, verdicts, keys, public: bool):
        if public:
            after, judged, plan = jax.vmap(lambda *one: algorithm.swap(*one))(rollouts, verdicts, keys)
        else:
            after, judged, plan = rollouts, verdicts, jax.vmap(no_swap)(keys, verdicts.correct)
        return after, judged, plan, jax.vmap(swap_metrics)(plan, verdicts, judged, after.mask)

    @jax.jit
    def update(*stacked):
        one = partial(algorithm.update, run.params)
        if jax.default_backend() == "cpu":  # one after the other, for the activations of one stay in the cache
            return jax.lax.map(lambda seed: one(*seed), stacked)
        return jax.vmap(one)(*stacked)

    def step(servers, clients, batches: list[Table], public: bool, keys, hparams):
        seeds, prompts = len(batches), _stack([batch.prompts for batch in batches])
        keys = jax.vmap(jax.random.split)(keys)
        said = respond(clients, prompts, keys[:, 0], hparams.temperature[0])
        verdicts = judge(said, np.concatenate([batch.answers for batch in batches]))
        said, verdicts = jax.tree.map(lambda x: x.reshape(seeds, -1, *x.shape[1:]), (said, verdicts))
        after, judged, plan, moved = exchange(said, verdicts, keys[:, 1], public)
        clients, metrics = update(servers, clients, prompts, after, judged, plan, hparams)
        crossed = np.zeros(seeds, int)
        if public:
            each = (jax.tree.map(lambda x, i=i: x[i], (said, verdicts, plan, after)) for i in range(seeds))
            crossed = np.array([_public_bytes(*one) for one in each])
        metrics |= moved
        return clients, jax.device_get({name: metrics[name] for name in KEPT}), crossed

    return step


def _public_bytes(said: Rollout, verdicts: Verdict, plan, after: Rollout) -> int:
    """What one seed's public step sends, by the ledger's own records."""
    clients, prompts = said.mask.shape[:2]
    ids = ("",) * prompts
    records = (
        ledger.Questions(ids, np.zeros((clients, prompts), np.int32)),
        ledger.Responses(ids, said.tokens, said.mask),
        ledger.VerdictBits(ids, verdicts.correct),
        ledger.Responses(ids, after.tokens, after.mask, slots=jax.device_get(plan.swapped), direction="down"),
    )
    return sum(int(record.sizes().sum()) for record in records)


def _adapter_bytes(run: Run, clients: ClientState) -> int:
    """Up to be averaged and down again, of one seed's clients."""
    one = jax.tree.map(lambda x: x[0], clients)
    tree = (one.adapter, one.opt_state) if run.config.federation.moments == "average" else one.adapter
    return 2 * int(ledger.Adapters(tree, "up").sizes().sum())


def make_examine(run: Run, tables: Sequence[Table]) -> Callable:
    """(adapters [S, M, ...], how many questions or None) -> the mean accuracy of each seed's M models, one sample each."""
    sampler = make_sampler(Transformer(run.model_config), samples=1, max_new_tokens=run.config.training.max_new_tokens)
    judge, key = make_judge(run), run.evaluation_key

    def examine(adapters, count: int | None) -> list[float]:
        scores = []
        for i, table in enumerate(tables):
            mine = jax.tree.map(lambda x, i=i: x[i], adapters)
            models = jax.tree.leaves(mine)[0].shape[0]
            prompts, answers = jax.tree.map(lambda x: x[:count], table.prompts), table.answers[:count]
            said = sampler(run.params, mine, prompts, jnp.arange(len(answers)), key)
            scores.append(float(judge(said, np.stack([answers] * models)).correct.mean()))
        return scores

    return examine


def _stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _merged(tree):
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def _alone(adapters):
    return jax.tree.map(lambda x: x[:, None], adapters)


def _off_diagonal(cosines: np.ndarray) -> float:
    others = cosines[~np.eye(len(cosines), dtype=bool)]
    return float(others.mean()) if others.size else 1.0


def _figures(scores: Sequence[float]) -> str:
    return " ".join(f"{score:.3f}" for score in scores)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/math.py")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    a = parser.parse_args()
    config = partial(config_of, a.config, changes={"federation.rounds": 2, "data.test": 64})
    beside = train([config(seed) for seed in a.seeds])
    alone = [train([config(seed)])[0] for seed in a.seeds]
    together, apart = (np.mean([rows[2]["seconds"] for rows in found]) for found in (beside, alone))
    print(f"a round of one seed: {apart:.1f} s alone, {together:.1f} s of {len(a.seeds)} side by side: {apart / together:.2f}x")
    curves = [np.array([[row["global"] for row in rows] for rows in found]) for found in (beside, alone)]
    print(f"largest difference of an accuracy: {np.abs(curves[0] - curves[1]).max():.4f}")


if __name__ == "__main__":
    main()
