"""What crosses in a run: only what the gate returned, nothing of a private question, and as many bytes as were booked."""

import dataclasses
import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_world import CHARACTERS, finished

from pubswap_jax import loop
from pubswap_jax.algorithm.pubswap import client_step
from pubswap_jax.devices import hosts
from pubswap_jax.questions.load import Questions
from pubswap_jax.questions.tokens import left_pad
from pubswap_jax.run import journal, ledger, recorder, tree
from pubswap_jax.run.assembly import make_batches
from pubswap_jax.run.channel import in_parts
from pubswap_jax.run.journal import Clock
from pubswap_jax.run.ledger import Gate, Refused
from pubswap_jax.run.programs import Ahead
from pubswap_jax.types import Verdict


@pytest.fixture
def run():
    return finished()[0]


@pytest.fixture
def behind_gate(run):
    """(gate, algorithm, judge) as the training loop makes them."""
    clients = run.algorithm.init_clients(run.server)
    gate = Gate((run.train.problems[i].id for i in run.split.public), loop.crossing(run.config, clients))
    return gate, *loop.observed(run, gate, Clock(), Ahead(), lambda: None)


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
    config = run.config.copy_and_resolve_references()
    config.log.transcripts = 0  # a transcript shows private questions to people: it is the one record that may hold them
    batch = make_batches(config, run.schedule, questions, run.split, None)
    planted = run._replace(config=config, train=questions, batch=batch)
    crossed, admit = [], Gate.admit

    def listened(gate, record, present=None):
        passed = admit(gate, record, present)
        clients = range(run.config.federation.num_clients)
        crossed.append((type(record).__name__, record.direction, [[np.asarray(x) for x in record.payload(c)] for c in clients]))
        return passed

    monkeypatch.setattr(Gate, "admit", listened)
    loop.train(planted, tmp_path)
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
    for row in journal.read(tmp_path, "metrics"):
        for name, sizes in row.items():
            if name.startswith("ledger/"):
                booked[name] = np.add(booked.get(name, 0), sizes)
    counted = {}
    kinds = {t.__name__: name for t, name in ledger.NAMES.items()}
    for kind, direction, clients in crossed:
        name = f"ledger/{direction}/{kinds[kind]}"
        counted[name] = np.add(counted.get(name, 0), [sum(x.nbytes for x in arrays) for arrays in clients])
    assert {k: v.tolist() for k, v in booked.items()} == {k: v.tolist() for k, v in counted.items()}


def test_transcripts_pass_the_gate_with_their_bytes_and_only_where_they_are_asked_for(run, tmp_path, monkeypatch):
    with pytest.raises(Refused, match="this run keeps none"):
        Gate([], None).admit(ledger.Transcript(0, 3, {"question": "1+1="}))
    loop.train(run, tmp_path)
    sizes = [np.zeros(3, int) for _ in range(2)]
    for row in journal.read(tmp_path, "rollouts"):
        sizes[row["round"]][row["client"]] += len(json.dumps(row).encode())
    booked = [row["ledger/up/transcripts"] for row in journal.read(tmp_path, "metrics") if "ledger/up/transcripts" in row]
    assert booked == [size.tolist() for size in sizes]
    monkeypatch.setattr(hosts, "several", lambda: True)
    assert run.config.log.transcripts == -1 and recorder.transcripts_a_step(run.config) == 0
    monkeypatch.setattr(hosts, "several", lambda: False)
    assert recorder.transcripts_a_step(run.config) == 1


def test_a_reward_that_is_more_than_the_bit_crosses_with_its_response_and_is_counted(run, behind_gate):
    gate, algorithm, _ = behind_gate
    plain = run.judge

    def judge(rollouts, batch):
        """A different reward in every slot, below one half where the answer is wrong."""
        verdicts = plain(rollouts, batch)
        finer = jnp.arange(verdicts.reward.size, dtype=float).reshape(verdicts.reward.shape) / verdicts.reward.size / 2
        return verdicts.replace(reward=verdicts.correct + finer)

    gated = loop.observed(run._replace(judge=judge), gate, Clock(), Ahead(), lambda: None)
    _, record = step(run, *gated, 1)
    before, after, plan = (np.asarray(x) for x in (record.verdicts.reward, record.swapped_verdicts.reward, record.plan.source))
    swapped = np.asarray(record.plan.swapped)
    assert swapped.any() and (after[~swapped] == before[~swapped]).all(), "own slots keep their reward"
    clients, prompts, group = plan.shape
    for c, b, g in zip(*np.nonzero(swapped), strict=True):
        assert after[c, b, g] == before[plan[c, b, g] // group, b, plan[c, b, g] % group], "the donor's reward"
    assert gate.bytes["up/rewards"] == [4 * prompts * group] * clients
    assert gate.bytes["down/rewards"] == (4 * swapped.sum((1, 2))).tolist()
    step(run, algorithm, plain, 0)
    gate.close_round()
    step(run, *loop.observed(run, gate, Clock(), Ahead(), lambda: None), 1)
    assert "up/rewards" not in gate.bytes, "a reward that is its bit costs nothing more"


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


@pytest.mark.parametrize("size", [1, 2, 3])
def test_those_who_take_part_do_as_they_would_alone_and_nobody_else_is_computed(run, size):
    computed, who = [], np.array([0, 2], np.int32)

    def judge(rollouts, batch):
        computed.append(rollouts.tokens.shape[0])
        return run.judge(rollouts, batch)

    algorithm, judged = in_parts(run.algorithm, judge, size, Clock(), lambda: None, who)
    clients, batch = run.algorithm.init_clients(run.server), run.batch(0, 0)
    present = jnp.array([True, False, True])
    arguments = jax.random.key(0), run.hparams(0, 0), None, present
    updated, record = client_step(algorithm, run.params, run.server, clients, batch, judged, *arguments)
    assert computed == {1: [1, 1], 2: [2], 3: [2]}[size]
    assert not np.asarray(record.rollouts.mask[1]).any(), "nobody samples for an absent client"
    for leaf, old in zip(jax.tree.leaves(updated), jax.tree.leaves(clients), strict=True):
        assert (np.asarray(leaf[1]) == np.asarray(old[1])).all()
    for c in who:
        alone, prompts = tree.part((clients, batch.prompts), int(c), 1)
        one = batch.replace(prompts=prompts, answers=[batch.answers[c]])
        own, said = client_step(run.algorithm, run.params, run.server, alone, one, run.judge, *arguments[:2])
        assert np.asarray(said.rollouts.tokens[0]).tolist() == np.asarray(record.rollouts.tokens[c]).tolist()
        for leaf, other in zip(jax.tree.leaves(own.adapter), jax.tree.leaves(updated.adapter), strict=True):
            np.testing.assert_allclose(leaf[0], other[c], atol=1e-5)


def test_a_stop_between_two_parts_discards_the_step(run):
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 2:
            raise loop.Stopped

    algorithm, judged = in_parts(run.algorithm, lambda *_: Verdict.from_correct(np.zeros((1, 4, 4), bool)), 1, Clock(), check)
    with pytest.raises(loop.Stopped):
        step(run, algorithm, judged, 0, clients=run.algorithm.init_clients(run.server))
