"""Evaluation during a run: the base model on both splits, each round on validation, the best round on test questions."""

from collections.abc import Callable

import jax
import numpy as np

from pubswap_jax.run import tree
from pubswap_jax.run.assembly import Run
from pubswap_jax.run.pass_at_k import Evaluation, comparison, evaluate
from pubswap_jax.run.recorder import Recorder
from pubswap_jax.types import ClientState, PyTree, ServerState

Examine = Callable[..., list[Evaluation]]


def make_examine(run: Run, check: Callable[[], None]) -> Examine:
    """(adapters [M, ...], questions, greedy=False) -> M Evaluations. `check` may raise between two batches to stop the run."""

    def grade(rollouts, problems):
        check()
        return run.grade(rollouts, problems)

    def examine(adapters: PyTree, questions, greedy: bool = False) -> list[Evaluation]:
        sampler, size = run.greedy if greedy else run.sampler, run.config.evaluation.batch
        return evaluate(sampler, run.params, adapters, questions, run.evaluation_key, grade, size, run.place_questions)

    return examine


def base(run: Run, examine: Examine, recorder: Recorder) -> float:
    """Evaluates the base model on both splits before training. Returns pass@1 on the validation questions."""
    adapters = _alone(run.server)
    scores = {}
    for split, questions in (("validation", run.validation), ("test", run.test)):
        (evaluation,) = examine(adapters, questions)
        scores[split] = recorder.evaluation(0, split, "global", evaluation)["pass@1"]
    _greedy(run, examine, recorder, 0, adapters)
    return scores["validation"]


def trained(run: Run, examine: Examine, recorder: Recorder, server: ServerState, clients: ClientState) -> dict[str, object]:
    """Evaluates the averaged model, and each client's own model before averaging, on the validation questions.

    Without averaging there is no common model: `eval/pass@1` is the mean over clients.
    """
    config, round = run.config, int(server.round)
    if round % config.evaluation.every and round != config.federation.rounds:
        return {}
    average = config.federation.average
    common = examine(_alone(server), run.validation) if average else []
    # Without averaging, evaluate all clients, not only those present: each client has its own model in every round.
    who = np.flatnonzero(run.present(round - 1)) if average else np.arange(config.federation.num_clients)
    each = own(run, examine, clients, run.validation, who) if config.evaluation.clients or not average else []
    # Write all rows here, not after each `examine`: `check` may raise in between, and a resumed run would write a row twice.
    values = {}
    for evaluation in common:
        figures = recorder.evaluation(round, "validation", "global", evaluation)
        values |= {f"eval/{name}": value for name, value in figures.items()}
    if each:
        named = zip(who.tolist(), each, strict=True)
        figures = {i: recorder.evaluation(round, "validation", f"client {i}", e)["pass@1"] for i, e in named}
        values["clients/pass@1"] = [figures.get(i) for i in range(config.federation.num_clients)]
        values |= {} if average else {"eval/pass@1": sum(figures.values()) / len(figures)}
    return values


def best(run: Run, examine: Examine, recorder: Recorder, server: ServerState, clients: ClientState) -> None:
    """Evaluates the best round on the test questions. Round 0 is the base model, which `base` has evaluated."""
    round = int(server.round)
    if round == 0:
        return
    if run.config.federation.average:
        (evaluation,) = examine(_alone(server), run.test)
        recorder.evaluation(round, "test", "global", evaluation)
        _greedy(run, examine, recorder, round, _alone(server))
        return
    for i, evaluation in enumerate(own(run, examine, clients, run.test)):
        recorder.evaluation(round, "test", f"client {i}", evaluation)


def _greedy(run, examine, recorder, round, adapters) -> None:
    if run.config.evaluation.greedy:
        (evaluation,) = examine(adapters, run.test, greedy=True)
        recorder.evaluation(round, "test", "global, greedy", evaluation)


def own(run: Run, examine: Examine, clients: ClientState, questions, who: np.ndarray | None = None) -> list[Evaluation]:
    """Evaluates the own models of clients int[k] `who`, before averaging. None: all clients."""
    total = clients.id.shape[0]
    size = run.config.training.client_microbatch or total
    if who is None or len(who) == total:
        parts = (jax.tree.map(lambda x, i=i: x[i : i + size], clients.adapter) for i in range(0, total, size))
    else:
        parts = (tree.rows(clients.adapter, jax.device_put(who[i : i + size])) for i in range(0, len(who), size))
    return [evaluation for part in parts for evaluation in examine(part, questions)]


def _alone(server: ServerState) -> PyTree:
    return jax.tree.map(lambda x: x[None], server.adapter)


def tested(run: Run, found: dict[tuple[int, str, str], Evaluation], round: int) -> bool:
    """Whether `found` has every test evaluation of the best round."""
    average = run.config.federation.average or round == 0
    models = ["global"] if average else [f"client {i}" for i in range(run.config.federation.num_clients)]
    models += ["global, greedy"] if average and run.config.evaluation.greedy else []
    return all((round, "test", model) in found for model in models)


def final_table(found: dict[tuple[int, str, str], Evaluation], best_round: int) -> str:
    """A text table of pass@1 on the test questions by topic, of the base model and of the best round."""
    base_model = found[0, "test", "global"]
    finals = [
        e for (round, split, name), e in found.items() if round == best_round and split == "test" and "greedy" not in name
    ]
    lines = [f"{'topic':<24}{'questions':>10}{'base':>8}{'best':>8}   change [95 % interval]"]
    for name, count, before, after, low, high in comparison(base_model, finals):
        lines.append(f"{name[:23]:<24}{count:>10}{before:>8.3f}{after:>8.3f}   {after - before:+.3f} [{low:+.3f}, {high:+.3f}]")
    return "\n".join(lines)
