"""The mode `route`: sends each test question to one client's adapter, and compares its accuracy with other ways to choose.

References are public questions, which every client's adapter answers at home. The verdicts and one number, the mean length of
an answer, go up through a gate. With `route.questions=own` every client has a router of its own: the adapters come down to it,
and its private questions stay where they are.
"""

import functools
import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from pubswap_jax.after import merging, routing
from pubswap_jax.after.adapters import Own, lora_of, own_adapters, rank_of, with_rank
from pubswap_jax.files import bytes_text
from pubswap_jax.policy import attention
from pubswap_jax.policy.adapter import each_layer
from pubswap_jax.policy.model import Transformer
from pubswap_jax.questions.load import Questions
from pubswap_jax.records import Record
from pubswap_jax.run import evaluation
from pubswap_jax.run.assembly import Run, assemble
from pubswap_jax.run.ledger import Gate
from pubswap_jax.run.methods import Routing, make_routing
from pubswap_jax.run.pass_at_k import Evaluation, interval, pass_at_k_each
from pubswap_jax.types import Array, PyTree, at_least_f32

FOLDER = "route"


class Known(NamedTuple):
    """What one router knows: n reference questions with their embeddings, and how well each of M adapters answers them."""

    embedded: np.ndarray  # f[n, D]
    values: np.ndarray  # f[n, M], accuracy less the weighted cost
    topics: list[str]  # of the questions


class Choice(NamedTuple):
    """Which adapter answers each of q test questions: by the router, and by the simplest alternative."""

    routed: np.ndarray  # int[q], by the router
    single: np.ndarray  # int[q], the adapter that is best on the references, the same one for all questions of a topic


def route(config, workdir: pathlib.Path) -> str:
    """Routes the test questions of the run in `workdir`, writes route.jsonl and figures.json, and returns the table."""
    return route_run(assemble(config), config, workdir)


def route_run(run: Run, config, workdir: pathlib.Path) -> str:
    """Routes the test questions of an assembled run: writes route.jsonl and figures.json, and returns the table."""
    asked, found = make_routing(config), own_adapters(run, workdir)
    examine = evaluation.make_examine(run, lambda: None)
    homes, account = references(run, found, asked, examine)
    test, embedded = run.data.test, hidden_states(run, run.data.test)
    topics = [problem.topic for problem in test.problems]
    scores = np.stack([pass_at_k_each(one.correct, 1) for one in evaluation.own(run, examine, _placed(run, found), test)])
    average = pass_at_k_each(_average(run, config, found).correct, 1)
    inliers = [choose(asked, home, embedded, topics, held_out=False) for home in homes]
    outliers = [choose(asked, home, embedded, topics, held_out=True) for home in homes] if len(set(topics)) > 1 else []
    figures = compared(scores, average, topics, inliers, outliers)
    _write(workdir, found, test, inliers, figures)
    return summary(run, found, homes, account, figures)


# --- what a router knows ------------------------------------------------------------------------------------------------


def references(run: Run, found: Own, asked: Routing, examine) -> tuple[list[Known], dict[str, list[int]]]:
    """Has adapters answer reference questions: what each router knows, and the bytes that crossed, by direction and kind."""
    split, gate = run.data.split, _gate(run, found)
    rows = [split.clients[client] for client in found.clients] if asked.own else [split.public]
    if not all(rows):
        raise ValueError("config.route.questions=public: the run has no public questions; set route.questions=own")
    if asked.own:
        # Every client sends its adapter, and gets those of the others.
        sent = {"adapter": _sent(run, found)}
        gate.channel.up(Record("adapters", "up", sent))
        for _ in found.clients[1:]:
            gate.channel.down(Record("adapters", "down", sent))
    known = []
    for some in rows:
        some = some[: asked.most]
        questions = Questions(
            [run.data.train.problems[i] for i in some], jax.tree.map(lambda x, s=some: x[s], run.data.train.prompts)
        )
        answered = evaluation.own(run, examine, _placed(run, found), questions)
        length = np.array([one.lengths.mean() for one in answered], np.float32)
        correct = np.stack([one.correct for one in answered])
        if not asked.own:
            correct, length = _crossed(gate, correct, length)
        cost = asked.cost * length / run.policy.config.max_new_tokens
        values = correct.mean(-1).T - cost
        known.append(Known(hidden_states(run, questions), values, [problem.topic for problem in questions.problems]))
    return known, gate.account


def _gate(run: Run, found: Own) -> Gate:
    sent = {"adapter": _sent(run, found)}
    return Gate(len(run.data.split.public), {"up/adapters": sent, "down/adapters": sent})


def _sent(run: Run, found: Own) -> PyTree:
    return each_layer(jax.vmap(run.policy.config.adapter.upload), found.adapters)


def _crossed(gate: Gate, correct: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sends the clients' results on public questions up, counted by `gate`: verdicts bool[M, n, samples], lengths f32[M, n]."""
    ids = np.broadcast_to(np.arange(correct.shape[1], dtype=np.int32), correct.shape[:2])
    verdicts = {"correct": correct, "reward": correct.astype(np.float32)}
    up = gate.channel.up(Record("verdicts", "up", verdicts, ids=ids))
    return up.arrays["correct"], gate.channel.up(Record("counters", "up", {"length": length})).arrays["length"]


def hidden_states(run: Run, questions: Questions) -> np.ndarray:
    """Embeds questions: f32[n, D], the base model's last hidden state at each prompt's last token."""
    size, count, found = run.examiner.batch, len(questions.problems), []
    for start in range(0, count, size):
        # The last batch is padded with the last question: a smaller batch would compile a second program.
        rows = np.minimum(np.arange(start, start + size), count - 1)
        tokens, mask = (jax.device_put(x[rows]) for x in (questions.prompts.tokens, questions.prompts.mask))
        found.append(jax.device_get(_states(run.policy.model, run.policy.base["params"], tokens, mask)))
    return np.concatenate(found)[:count]


@functools.partial(jax.jit, static_argnums=0)
def _states(model: Transformer, params: PyTree, tokens: Array, mask: Array) -> Array:
    """The model's last hidden state at each prompt's last token: tokens [B, P] -> f32[B, D]."""
    hidden = model.apply({"params": params}, tokens, attention.positions(mask), attention.causal(mask), method="hidden")
    return at_least_f32(hidden[:, -1])  # prompts are padded on the left


# --- routes and their figures -------------------------------------------------------------------------------------------


def choose(asked: Routing, known: Known, embedded: np.ndarray, topics: Sequence[str], held_out: bool) -> Choice:
    """Routes the test questions. With `held_out`, references with a question's own topic are left out: the topic is new."""
    routed, single = np.zeros((2, len(topics)), int)
    for topic in dict.fromkeys(topics) if held_out else [None]:
        left = [i for i, of in enumerate(known.topics) if of != topic]
        if not left:  # all references are of this topic: nothing is known, and the first adapter answers
            continue
        rows = [i for i, of in enumerate(topics) if topic in (None, of)]
        built = asked.build(known.embedded[left], known.values[left])
        routed[rows] = routing.route(built, embedded[rows], asked.sharpness)
        single[rows] = np.argmax(known.values[left].mean(0))
    return Choice(routed, single)


def compared(
    scores: np.ndarray, average: np.ndarray, topics: Sequence[str], inliers: Sequence[Choice], outliers: Sequence[Choice]
) -> dict[str, tuple[float, float, float]]:
    """{way to choose an adapter: (mean accuracy, low, high)} with 95 % bootstrap intervals over q questions.

    `scores` f64[M, q]: each adapter's accuracy on each question; `average` f64[q]: that of the averaged adapter.

    Figures of several routers are means over them.
    """
    at = np.arange(scores.shape[1])
    best = np.zeros(len(at), int)
    for topic in dict.fromkeys(topics):
        rows = [i for i, of in enumerate(topics) if of == topic]
        best[rows] = np.argmax(scores[:, rows].mean(1))
    each = {"average adapter": average, "mean of adapters": scores.mean(0)}
    each |= {"oracle, adapter of each topic": scores[best, at], "oracle, adapter of each question": scores.max(0)}
    for name, choices in (("known topics", inliers), ("held-out topics", outliers)):
        if choices:
            routed = np.mean([scores[choice.routed, at] for choice in choices], axis=0)
            single = np.mean([scores[choice.single, at] for choice in choices], axis=0)
            each |= {f"routed, {name}": routed, f"best single adapter, {name}": single}
            each |= {f"routed − best single, {name}": routed - single, f"routed − average, {name}": routed - average}
    return {name: (float(x.mean()), *interval(x, lowest=-1.0 if "−" in name else 0.0)) for name, x in each.items()}


def _placed(run: Run, found: Own) -> PyTree:
    return run.place.put(found.adapters)


def _average(run: Run, config, found: Own) -> Evaluation:
    """Evaluates, on the test questions, one adapter whose ΔW is the mean of all clients' ΔW, exact at the sum of the ranks."""
    everybody = tuple(range(len(found.clients)))
    blocks = [merging.average()(block, everybody).block for block in found.blocks]
    rank = rank_of(blocks)
    _, adapter = lora_of(run.policy.config, blocks, rank)
    examine = evaluation.make_examine(with_rank(run, config, rank), lambda: None)
    (answered,) = examine(evaluation.one(run.place.put(adapter)), run.data.test)
    return answered


def summary(run: Run, found: Own, homes: Sequence[Known], account: dict[str, list[int]], figures: dict) -> str:
    """Text for the terminal: accuracy of the router beside other ways to choose, and the bytes that crossed."""
    crossed = ", ".join(f"{name} {bytes_text(sum(sizes))}" for name, sizes in sorted(account.items()))
    whose = "public" if len(homes) == 1 else "private, one router for each client"
    said = [
        f"{len(run.data.test.problems)} test questions, {run.examiner.samples} samples each, to {len(found.clients)} clients' "
        f"adapters of round {found.round}",
        f"references: {' + '.join(str(len(home.values)) for home in homes)} questions, {whose}",
        f"crossed for the references: {crossed}",
        f"{'pass@1':<44}{'mean':>9}{'95 % interval':>20}",
    ]
    said += [f"{name:<44}{mean:>9.4f}{f'{low:.4f} to {high:.4f}':>20}" for name, (mean, low, high) in figures.items()]
    return "\n".join(said)


def _write(workdir: pathlib.Path, found: Own, test: Questions, inliers: Sequence[Choice], figures: dict) -> None:
    """Writes two files: route.jsonl, which has the client that each router chose for each test question, and figures.json."""
    folder = workdir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        json.dumps({"id": problem.id, "topic": problem.topic, "clients": [found.clients[c.routed[i]] for c in inliers]})
        for i, problem in enumerate(test.problems)
    ]
    (folder / "route.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "figures.json").write_text(
        json.dumps({"clients": found.clients, "round": found.round, "figures": figures}) + "\n"
    )
