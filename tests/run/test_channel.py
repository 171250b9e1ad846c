"""What crosses in a run: only what the channel returned, nothing of a private question, and as many bytes as were booked."""

import dataclasses
import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_world import CHARACTERS, config_of, event_at, finished

from pubswap_jax import loop
from pubswap_jax.algorithm.federation import direct
from pubswap_jax.devices import hosts
from pubswap_jax.questions.load import Questions
from pubswap_jax.questions.tokens import left_pad
from pubswap_jax.records import Record
from pubswap_jax.run import assembly, channel, journal, recorder, state
from pubswap_jax.run.ledger import Gate, Refused
from pubswap_jax.types import Channel


@pytest.fixture
def run():
    return finished()[0]


@pytest.fixture
def gate(run):
    """The gate as the training loop makes it."""
    return loop.make_gate(run, state.beginning(run))


def opened(run, by=direct):
    return run.federation.open(run.federation.init(run.policy.adapter), by)


def step(run, by, number, *, at=None, batch=None, judge=None, who=None):
    event = event_at(run, 0, number)
    at, batch = opened(run) if at is None else at, run.data.batch(event) if batch is None else batch
    key, hparams = jax.random.key(number), run.hparams(event)
    return run.federation.step(run.policy.base, at, batch, judge or run.judge, by, key, hparams, who)


def altered(kind, direction, change):
    """A channel that returns changed arrays for one kind of record, and every other record as it is."""

    def by(record):
        if (record.kind, record.direction) != (kind, direction):
            return record
        return record.replace(arrays=change(dict(record.arrays)))

    return Channel(by, by)


def same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_the_gate_changes_nothing(run, gate):
    same(opened(run, gate.channel), opened(run))
    for number in (0, 1):
        gated, record = step(run, gate.channel, number)
        plain, other = step(run, direct, number)
        same((gated, record.metrics), (plain, other.metrics))
        same(run.federation.close(gated, gate.channel), run.federation.close(plain, direct))


def test_bytes_in_between_change_nothing(run):
    """Everything that the other side reads is in the bytes of `Record.pack`."""
    at = opened(run, channel.packed(direct))
    same(at, opened(run))
    for number in (0, 1):
        packed, record = step(run, channel.packed(direct), number, at=at)
        plain, other = step(run, direct, number)
        same((packed, record.metrics, record.swapped_verdicts), (plain, other.metrics, other.swapped_verdicts))
        same(run.federation.close(packed, channel.packed(direct)), run.federation.close(plain, direct))


# --- nothing but what came out of the channel is read -------------------------------------------------------------------


def test_a_client_starts_from_the_adapter_that_came_out_of_the_channel(run):
    doubled = lambda arrays: arrays | {"adapter": jax.tree.map(lambda x: 2 * x + 1, arrays["adapter"])}  # noqa: E731
    at = opened(run, altered("adapters", "down", doubled))
    for own, server in zip(jax.tree.leaves(at.clients.adapter), jax.tree.leaves(at.server.adapter), strict=True):
        np.testing.assert_array_equal(own, np.broadcast_to(2 * server + 1, own.shape))


def test_the_server_averages_the_uploads_that_came_out_of_the_channel(run):
    ones = lambda arrays: {"adapter": jax.tree.map(jnp.ones_like, arrays["adapter"])}  # noqa: E731
    at, _ = run.federation.close(opened(run), altered("adapters", "up", ones))
    assert all((np.asarray(leaf) == 1).all() for leaf in jax.tree.leaves(at.server.adapter))


def test_the_server_swaps_the_responses_that_came_out_of_the_channel(run):
    """Every sent response becomes one token, 3: that is what receivers learn from, and own slots stay their own."""

    def threes(arrays):
        first = jnp.arange(arrays["mask"].shape[-1]) == 0
        mask = jnp.broadcast_to(first, arrays["mask"].shape)
        return arrays | {"tokens": jnp.where(mask, 3, arrays["tokens"]), "mask": mask}

    _, record = step(run, altered("responses", "up", threes), 1)
    after, swapped = record.swapped_rollouts, np.asarray(record.plan.swapped)
    assert swapped.any() and (np.asarray(after.mask)[swapped].sum(-1) == 1).all()
    assert (np.asarray(after.tokens)[swapped][:, 0] == 3).all()
    np.testing.assert_array_equal(np.asarray(after.tokens)[~swapped], np.asarray(record.rollouts.tokens)[~swapped])


def test_the_plan_reads_the_verdicts_that_came_out_of_the_channel(run):
    nothing = lambda arrays: arrays | {"correct": jnp.zeros_like(arrays["correct"])}  # noqa: E731
    _, record = step(run, altered("verdicts", "up", nothing), 1)
    assert np.asarray(step(run, direct, 1)[1].plan.swapped).any() and not np.asarray(record.plan.swapped).any()


def test_a_client_learns_from_the_responses_that_came_out_of_the_channel(run):
    """Slots that the channel withholds stay the client's own; with all of them withheld, nothing was swapped."""
    withheld = lambda arrays: arrays | {"slots": jnp.zeros_like(arrays["slots"])}  # noqa: E731
    at, record = step(run, altered("responses", "down", withheld), 1)
    full, other = step(run, direct, 1)
    assert np.asarray(other.plan.swapped).any() and not np.asarray(record.plan.swapped).any()
    same(record.swapped_rollouts.tokens, record.rollouts.tokens)
    assert any((np.asarray(a) != b).any() for a, b in zip(*map(jax.tree.leaves, (at.clients, full.clients)), strict=True))

    wrong = lambda arrays: arrays | {"reward": jnp.where(arrays["slots"], 0.5, arrays["reward"])}  # noqa: E731
    _, record = step(run, altered("responses", "down", wrong), 1)
    swapped = np.asarray(record.plan.swapped)
    assert (np.asarray(record.swapped_verdicts.reward)[swapped] == 0.5).all()


def test_figures_are_those_that_came_out_of_the_channel(run):
    _, record = step(run, altered("counters", "up", lambda arrays: {"loss": arrays["loss"] + 1}), 0)
    _, plain = step(run, direct, 0)
    assert set(record.metrics) == {"loss"}
    np.testing.assert_array_equal(record.metrics["loss"], plain.metrics["loss"] + 1)


def test_a_refusal_ends_the_step(run, gate):
    gate.public = 0
    with pytest.raises(Refused, match="questions that are not public"):
        step(run, gate.channel, 1)


def test_a_private_batch_cannot_be_swapped_whatever_it_calls_itself(run, gate):
    private = run.data.batch(event_at(run, 0, 0))
    assert not private.public and (np.asarray(private.ids) == -1).all()
    step(run, gate.channel, 0)
    assert set(gate.account) == {"up/counters"}, "of a private step only figures cross"
    with pytest.raises(Refused, match="questions that are not public"):
        step(run, gate.channel, 0, batch=private.replace(public=True))
    assert set(gate.account) == {"up/counters"}


def test_only_adapters_as_the_federation_sends_them_cross(run, gate):
    at = opened(run)
    upload = {"adapter": at.clients.adapter}
    gate.channel.up(Record("adapters", "up", upload))
    for extra in ({"moments": at.clients.opt_state}, {"prompts": jnp.zeros((3, 4))}):
        with pytest.raises(Refused, match="leaves that the run's adapters do not have"):
            gate.channel.up(Record("adapters", "up", upload | extra))


# --- canaries and bytes -------------------------------------------------------------------------------------------------


def listened(monkeypatch, crossed):
    admit = Gate.admit

    def admitted(gate, direction, record):
        passed = admit(gate, direction, record)
        here = np.ones(3, bool) if record.who is None else np.asarray(record.who)
        crossed.append((record.kind, direction, [passed.pack(c) if here[c] else b"\n" for c in range(3)]))
        return passed

    monkeypatch.setattr(Gate, "admit", admitted)


def test_a_hundred_canaries_in_private_questions_and_answers_stay_at_home(run, tmp_path, monkeypatch):
    private = sorted({i for client in run.data.split.clients for i in client})
    chance = random.Random(1)
    width, tokenizer = run.data.train.prompts.tokens.shape[1], run.policy.tokenizer
    texts = {i: "".join(chance.choice(CHARACTERS[:3]) for _ in range(width - 1)) for i in private}
    secrets = {i: "".join(chance.choice(CHARACTERS[:3]) for _ in range(12)) for i in private}
    problems = [
        dataclasses.replace(p, prompt=texts[i], answer=secrets[i], id=f"canary-{i}") if i in texts else p
        for i, p in enumerate(run.data.train.problems)
    ]
    encoded = [tokenizer.encode(p) for p in problems]
    questions = Questions(problems, left_pad(encoded, np.arange(len(encoded)), width, tokenizer.pad_id))
    asked = run.data._replace(train=questions)
    batch = assembly.make_batches(config_of(run), asked, run.place)
    # A transcript shows private questions to people: it is the one record that may hold them.
    planted = run._replace(data=asked._replace(batch=batch), log=run.log._replace(transcripts=0))
    crossed = []
    listened(monkeypatch, crossed)
    loop.train(planted, tmp_path)
    seen = [batch(event_at(planted, round, number)).answers for round in range(2) for number in range(4)]
    ids = {p.id for answers in seen for client in answers for p in client}
    assert len(private) * 2 >= 100 and len(ids & {f"canary-{i}" for i in private}) > 20, "canaries were trained on"
    canaries = [np.array(tokenizer.hf(t).input_ids, np.int32) for t in [*texts.values(), *secrets.values()]]
    raw = b"|".join(data for _, _, clients in crossed for data in clients)
    assert len(raw) > 10_000 and {kind for kind, _, _ in crossed} == {
        "adapters",
        "questions",
        "responses",
        "verdicts",
        "counters",
    }
    for tokens, text in zip(canaries, [*texts.values(), *secrets.values()], strict=True):
        assert tokens[:8].tobytes() not in raw and text.encode() not in raw
    assert not any(f"canary-{i}".encode() in raw for i in private)

    # The bytes that the journal has are those that the records are written with, after their line of JSON.
    booked, counted = np.zeros(3, int), np.zeros(3, int)
    for row in journal.read(tmp_path, "metrics"):
        for name, sizes in row.items():
            if name.startswith("ledger/"):
                booked += sizes
    for _, _, clients in crossed:
        counted += [len(data.partition(b"\n")[2]) for data in clients]
    assert booked.tolist() == counted.tolist() and booked.all()


def test_transcripts_pass_the_gate_with_their_bytes_and_only_where_they_are_asked_for(run, tmp_path, monkeypatch):
    line = np.zeros((3, 9), np.uint8)
    with pytest.raises(Refused, match="this run keeps none"):
        loop.make_gate(run._replace(log=run.log._replace(transcripts=0)), state.beginning(run)).channel.up(
            Record("transcripts", "up", {"row": line}, who=np.arange(3) == 0)
        )
    loop.train(run, tmp_path)
    sizes = [np.zeros(3, int) for _ in range(2)]
    for row in journal.read(tmp_path, "rollouts"):
        sizes[row["round"]][row["client"]] += len(json.dumps(row).encode())
    booked = [row["ledger/up/transcripts"] for row in journal.read(tmp_path, "metrics") if "ledger/up/transcripts" in row]
    assert booked == [size.tolist() for size in sizes]
    assert run.log.transcripts == -1 and recorder.transcripts_a_step(run.log) == 1
    monkeypatch.setattr(hosts, "several", lambda: True)
    assert recorder.transcripts_a_step(run.log) == 0


def test_a_reward_that_is_not_its_bit_crosses_and_costs_its_bytes(run, gate):
    plain = run.judge

    def judge(rollouts, batch):
        """A different reward in every slot of the last two clients, below one half where the answer is wrong."""
        verdicts = plain(rollouts, batch)
        finer = (1 + jnp.arange(verdicts.reward.size, dtype=float)).reshape(verdicts.reward.shape) / verdicts.reward.size / 3
        return verdicts.replace(reward=verdicts.correct + finer.at[0].set(0.0))

    _, record = step(run, gate.channel, 1, judge=judge)
    before, after, plan = (np.asarray(x) for x in (record.verdicts.reward, record.swapped_verdicts.reward, record.plan.source))
    swapped = np.asarray(record.plan.swapped)
    assert swapped.any() and (after[~swapped] == before[~swapped]).all(), "own slots keep their reward"
    _, prompts, group = plan.shape
    for c, b, g in zip(*np.nonzero(swapped), strict=True):
        assert after[c, b, g] == before[plan[c, b, g] // group, b, plan[c, b, g] % group], "the donor's reward"
    assert gate.account["up/rewards"] == [0, 4 * prompts * group, 4 * prompts * group]
    other = (swapped & (after != 1)).any((1, 2))  # clients whose swapped responses do not all have their bit as reward
    assert other.any() and gate.account["down/rewards"] == (4 * swapped.sum((1, 2)) * other).tolist()
    gate.close_round()
    step(run, gate.channel, 1)
    assert "up/rewards" not in gate.account, "a reward that is its bit costs nothing more"
    assert "down/verdicts" not in gate.account, "responses that are all right need no bit"


# --- two sides that share nothing but bytes -----------------------------------------------------------------------------
