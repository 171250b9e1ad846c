"""What crosses in a run: only what the gate returned, nothing of a private question, and as many bytes as were booked."""

import dataclasses
import random

import jax
import numpy as np
import pytest
from small_world import CHARACTERS, finished

from pubswap_jax import ledger, metrics, train
from pubswap_jax.ahead import Ahead
from pubswap_jax.assembly import make_batches
from pubswap_jax.evaluate import Questions
from pubswap_jax.exchange import in_parts
from pubswap_jax.ledger import Gate, Refused
from pubswap_jax.metrics import Clock
from pubswap_jax.steps import client_step
from pubswap_jax.tokens import left_pad
from pubswap_jax.types import Verdict


@pytest.fixture
def run():
    return finished()[0]


@pytest.fixture
def behind_gate(run):
    """(gate, algorithm, judge) as the training loop makes them."""
    clients = run.algorithm.init_clients(run.server)
    gate = Gate((run.train.problems[i].id for i in run.split.public), train.crossing(run.config, clients))
    return gate, *train.observed(run, gate, Clock(), Ahead(), lambda: None)


def step(run, algorithm, judge, number, clients=None, batch=None):
    clients = algorithm.init_clients(run.server) if clients is None else clients
    batch = run.batch(0, number) if batch is None else batch
    return client_step(algorithm, run.params, run.server, clients, batch, judge, jax.random.key(number), run.hparams(0, 0))


def test_the_gate_changes_nothing(run, behind_gate):
    _, algorithm, judge = behind_gate
    for number in (0, 1):
        gated, record = step(run, algorithm, judge, number)
        plain, other = step(run, run.algorithm, run.judge, number)
        for one, two in zip(jax.tree.leaves((gated, record.metrics)), jax.tree.leaves((plain, other.metrics)), strict=True):
            assert np.asarray(one).tobytes() == np.asarray(two).tobytes()


@pytest.mark.parametrize("kind", [ledger.Adapters, ledger.Responses, ledger.VerdictBits])
def test_without_its_approval_the_step_fails(run, behind_gate, monkeypatch, kind):
    gate, algorithm, judge = behind_gate
    admit = gate.admit

    def withdrawn(record, present=None):
        passed = admit(record, present)
        if type(record) is kind:
            gate.withdraw(passed)
        return passed

    monkeypatch.setattr(gate, "admit", withdrawn)
    with pytest.raises(Refused, match=f"a {kind.__name__} without the gate's approval"):
        step(run, algorithm, judge, 1)


def test_a_private_batch_cannot_be_swapped_whatever_it_calls_itself(run, behind_gate):
    gate, algorithm, judge = behind_gate
    private = run.batch(0, 0)
    with pytest.raises(Refused, match="questions that are not public"):
        step(run, algorithm, judge, 0, batch=private.replace(public=True))
    clients = algorithm.init_clients(run.server)
    rollouts = algorithm.rollout(run.params, clients, private.prompts, jax.random.key(0), run.hparams(0, 0))
    verdicts = judge(rollouts, private)
    with pytest.raises(Refused, match="only the rollouts of the public batch under way"):
        algorithm.swap(rollouts, verdicts, jax.random.key(0))
    step(run, algorithm, judge, 1, clients=clients)
    with pytest.raises(Refused, match="only the rollouts of the public batch under way"):
        algorithm.swap(rollouts, verdicts, jax.random.key(0))
    assert all("responses" not in name or sum(sizes) for name, sizes in gate.bytes.items())


def test_a_hundred_canaries_in_private_questions_and_answers_stay_at_home(run, tmp_path, monkeypatch):
    private = sorted({i for client in run.split.clients for i in client})
    chance = random.Random(1)
    width = run.train.prompts.tokens.shape[1]
    texts = {i: "".join(chance.choice(CHARACTERS[:3]) for _ in range(width - 1)) for i in private}
    secrets = {i: "".join(chance.choice(CHARACTERS[:3]) for _ in range(12)) for i in private}
    problems = [
        dataclasses.replace(p, prompt=texts[i], answer=secrets[i], id=f"canary-{i}") if i in texts else p
        for i, p in enumerate(run.train.problems)
    ]
    encoded = [run.tokenizer.encode(p) for p in problems]
    questions = Questions(problems, left_pad(encoded, np.arange(len(encoded)), width, run.tokenizer.pad_id))
    planted = run._replace(train=questions, batch=make_batches(run.config, run.schedule, questions, run.split, None))
    crossed, admit = [], Gate.admit

    def listened(gate, record, present=None):
        passed = admit(gate, record, present)
        clients = range(run.config.federation.num_clients)
        crossed.append((type(record).__name__, record.direction, [[np.asarray(x) for x in record.payload(c)] for c in clients]))
        return passed

    monkeypatch.setattr(Gate, "admit", listened)
    train.train(planted, tmp_path)
    asked = {p.id for row in range(2) for s in range(4) for client in planted.batch(row, s).answers for p in client}
    assert len(private) * 2 >= 100 and len(asked & {f"canary-{i}" for i in private}) > 20, "canaries were trained on"
    canaries = [np.array(run.tokenizer.hf(t).input_ids, np.int32) for t in [*texts.values(), *secrets.values()]]
    haystack = b"|".join(
        x.astype(np.int32).tobytes() for _, _, clients in crossed for arrays in clients for x in arrays if x.dtype.kind == "i"
    )
    raw = b"|".join(x.tobytes() for _, _, clients in crossed for arrays in clients for x in arrays)
    assert len(haystack) > 1000
    for ids, text in zip(canaries, [*texts.values(), *secrets.values()], strict=True):
        assert ids[:8].tobytes() not in haystack and text.encode() not in raw
    assert not any(f"canary-{i}".encode() in raw for i in private)

    booked = {}  # and the bytes are those of the arrays
    for row in metrics.read(tmp_path, "metrics"):
        for name, sizes in row.items():
            if name.startswith("ledger/"):
                booked[name] = np.add(booked.get(name, 0), sizes)
    counted = {}
    kinds = {t.__name__: name for t, name in ledger.NAMES.items()}
    for kind, direction, clients in crossed:
        name = f"ledger/{direction}/{kinds[kind]}"
        counted[name] = np.add(counted.get(name, 0), [sum(x.nbytes for x in arrays) for arrays in clients])
    assert {k: v.tolist() for k, v in booked.items()} == {k: v.tolist() for k, v in counted.items()}


# --- parts --------------------------------------------------------------------------------------------------------------


def test_parts_give_what_the_whole_gives_and_are_verified_in_turn(run):
    order = []

    def judge(rollouts, batch):
        order.append((rollouts.tokens.shape[0], len(batch.answers)))
        return run.judge(rollouts, batch)

    algorithm, judged = in_parts(run.algorithm, judge, 1, Clock(), lambda: None)
    parts, record = step(run, algorithm, judged, 1, clients=run.algorithm.init_clients(run.server))
    whole, other = step(run, run.algorithm, run.judge, 1)
    assert order == [(1, 1)] * 3
    assert record.rollouts.tokens.tolist() == other.rollouts.tokens.tolist()
    for one, two in zip(jax.tree.leaves((parts, record.metrics)), jax.tree.leaves((whole, other.metrics)), strict=True):
        np.testing.assert_allclose(np.asarray(one, float), np.asarray(two, float), atol=2e-4)


def test_a_stop_between_two_parts_discards_the_step(run):
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 2:
            raise train.Stopped

    algorithm, judged = in_parts(run.algorithm, lambda *_: Verdict.from_correct(np.zeros((1, 4, 4), bool)), 1, Clock(), check)
    with pytest.raises(train.Stopped):
        step(run, algorithm, judged, 0, clients=run.algorithm.init_clients(run.server))
