"""Evaluation during a run: the base model on both splits, each round on validation, the best round on test questions."""

from collections.abc import Callable

import jax
import numpy as np

from pubswap_jax.run.assembly import Run
from pubswap_jax.run.pass_at_k import Evaluation, comparison, evaluate
from pubswap_jax.run.recorder import Recorder
from pubswap_jax.types import Event, PyTree

Examine = Callable[..., list[Evaluation]]


def make_examine(run: Run, check: Callable[[], None]) -> Examine:
    """Returns examine(adapters [M, ...], questions, greedy=False) -> M Evaluations, with the run's model and settings.

    `check` may raise between two batches to stop the run.
    """

    def grade(rollouts, problems):
        check()
        return run.examiner.grade(rollouts, problems)

    def examine(adapters: PyTree, questions, greedy: bool = False) -> list[Evaluation]:
        return evaluate(run.examiner._replace(grade=grade), run.policy.base, adapters, questions, greedy)

    return examine


def examined(run: Run, examine: Examine, recorder: Recorder, event: Event, state: PyTree) -> dict[str, object]:
    """Does an `evaluate` event and returns its figures: of the base model before the first round, else of trained adapters."""
    return base(run, examine, recorder) if event.round < 0 else trained(run, examine, recorder, event, state)


def base(run: Run, examine: Examine, recorder: Recorder) -> dict[str, object]:
    """Evaluates the base model before training, on the validation and on the test questions."""
    adapter, scores = one(run.policy.adapter), {}
    for split, questions in (("validation", run.data.validation), ("test", run.data.test)):
        (evaluation,) = examine(adapter, questions)
        scores[split] = recorder.evaluation(0, split, "global", evaluation)["pass@1"]
    _greedy(run, examine, recorder, 0, adapter)
    return {"eval/pass@1": scores["validation"]}


def trained(run: Run, examine: Examine, recorder: Recorder, event: Event, state: PyTree) -> dict[str, object]:
    """Evaluates the shared adapter, and each client's own from before the averaging, on the validation questions.

    Where there is no shared adapter, `eval/pass@1` is the mean over clients.
    """
    round = event.round + 1
    if round % run.examiner.every and round != run.rounds:
        return {}
    shared, adapters = run.federation.shared(state), run.federation.own(state)
    common = [] if shared is None else examine(one(shared), run.data.validation)
    # Without a shared adapter, evaluate all clients, not only those present: each has its own model in every round.
    who = np.flatnonzero(np.ones_like(event.who) if shared is None else event.who)
    asked = adapters is not None and (run.examiner.clients or shared is None)
    each = own(run, examine, adapters, run.data.validation, who) if asked else []
    # Write all rows here, not after each `examine`: `check` may raise in between, and a resumed run would write a row twice.
    values = {}
    for evaluation in common:
        figures = recorder.evaluation(round, "validation", "global", evaluation)
        values |= {f"eval/{name}": value for name, value in figures.items()}
    if each:
        named = zip(who.tolist(), each, strict=True)
        figures = {i: recorder.evaluation(round, "validation", f"client {i}", e)["pass@1"] for i, e in named}
        values["clients/pass@1"] = [figures.get(i) for i in range(len(event.who))]
        values |= {"eval/pass@1": sum(figures.values()) / len(figures)} if shared is None else {}
    return values


def best(run: Run, examine: Examine, recorder: Recorder, round: int, state: PyTree) -> None:
    """Evaluates the best round on the test questions. Does nothing for round 0, the base model, which is evaluated already."""
    if round == 0:
        return
    shared = run.federation.shared(state)
    if shared is not None:
        (evaluation,) = examine(one(shared), run.data.test)
        recorder.evaluation(round, "test", "global", evaluation)
        _greedy(run, examine, recorder, round, one(shared))
        return
    for i, evaluation in enumerate(own(run, examine, run.federation.own(state), run.data.test)):
        recorder.evaluation(round, "test", f"client {i}", evaluation)


def _greedy(run, examine, recorder, round, adapter) -> None:
    if run.examiner.greedy:
        (evaluation,) = examine(adapter, run.data.test, greedy=True)
        recorder.evaluation(round, "test", "global, greedy", evaluation)


def own(run: Run, examine: Examine, adapters: PyTree, questions, who: np.ndarray | None = None) -> list[Evaluation]:
    """Evaluates the clients' own adapters, those of clients int[k] `who`, a few at a time. None: all clients."""
    return [evaluation for part in parts(run, adapters, who) for evaluation in examine(part, questions)]


def parts(run: Run, adapters: PyTree, who: np.ndarray | None = None) -> list[PyTree]:
    """Divides stacked adapters [C, ...] into parts of at most `run.part` clients: those of int[k] `who`, or all."""
    total = jax.tree.leaves(adapters)[0].shape[0]
    who = np.arange(total) if who is None else who
    size = run.part or total
    if len(who) == total <= size:
        return [adapters]
    return [run.rows.take(adapters, jax.device_put(who[i : i + size].astype(np.int32))) for i in range(0, len(who), size)]


def one(adapter: PyTree) -> PyTree:
    """Gives one adapter a leading axis of length 1, as evaluation takes it."""
    return jax.tree.map(lambda x: x[None], adapter)


def tested(run: Run, state: PyTree, found: dict[tuple[int, str, str], Evaluation], round: int) -> bool:
    """Whether the test questions are done: `found` has every evaluation of the best round on them."""
    if round == 0 or run.federation.shared(state) is not None:
        models = ["global"] + (["global, greedy"] if run.examiner.greedy else [])
    else:
        models = [f"client {i}" for i in range(jax.tree.leaves(run.federation.own(state))[0].shape[0])]
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
