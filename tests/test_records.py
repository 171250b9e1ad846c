"""Records as bytes: what `unpack` reads is what `pack` was given, and a federation over bytes is the federation."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_rounds import CLIENTS, HPARAMS, KEY, federation, same, world

import pubswap_jax as ps
from pubswap_jax.records import Record, joined, sent_bits, sent_rewards
from pubswap_jax.run.channel import packed

C, B, G, R = 3, 2, 4, 5
ALL = np.ones((C, B, G), bool)


def rollouts(rng, slots=ALL):
    """Tokens and their mask, True up to the end; zeros outside of `slots`. Some responses are empty, some are full."""
    lengths = rng.integers(0, R + 1, (C, B, G))
    mask = (np.arange(R) < lengths[..., None]) & slots[..., None]
    return {"tokens": np.where(mask, rng.integers(1, 99, mask.shape), 0).astype(np.int32), "mask": mask}


def verdicts(rng, slots=ALL, finer=False):
    correct = (rng.random((C, B, G)) < 0.5) & slots
    reward = correct + (rng.random(correct.shape) * slots if finer else 0)
    return {"correct": correct, "reward": reward.astype(np.float32)}


def rewards(rng):
    asked = rng.random((C, B)) < 0.5
    reward = np.where(asked[..., None], rng.normal(size=(C, B, G)), 0).astype(np.float32)
    return {"asked": asked, "reward": np.where(reward > 1, np.nan, reward)}  # a missing reward crosses as NaN


def a_record(kind, direction, seed):
    rng = np.random.default_rng(seed)
    slots = rng.random((C, B, G)) < 0.5
    layers = lambda *lead: {"q": {"a": rng.normal(size=(*lead, 4, 2)), "b": rng.normal(size=(*lead, 2)).astype(np.float32)}}  # noqa: E731
    arrays = {
        ("adapters", "down"): lambda: {"adapter": layers(C)},
        ("adapters", "up"): lambda: {"adapter": layers(C), "moments": (layers(C), rng.integers(0, 9, C, np.int32), ())},
        ("questions", "down"): lambda: {"numbers": rng.integers(0, 99, (C, B), np.int32)},
        ("responses", "up"): lambda: rollouts(rng),
        ("responses", "down"): lambda: rollouts(rng, slots) | verdicts(rng, slots, finer=seed % 2) | {"slots": slots},
        ("verdicts", "up"): lambda: verdicts(rng, finer=seed % 2),
        ("rewards", "up"): lambda: rewards(rng),
        ("counters", "up"): lambda: {"loss": rng.normal(size=C).astype(np.float32), "swapped": np.zeros(C)},
        ("transcripts", "up"): lambda: {"row": rng.integers(0, 256, (C, 17)).astype(np.uint8)},
    }[kind, direction]()
    ids = rng.integers(0, 99, (C, B), np.int32) if kind in ("questions", "responses", "verdicts", "rewards") else None
    return Record(kind, direction, arrays, ids)


KINDS = [
    ("adapters", "down"),
    ("adapters", "up"),
    ("questions", "down"),
    ("responses", "up"),
    ("responses", "down"),
    ("verdicts", "up"),
    ("rewards", "up"),
    ("counters", "up"),
    ("transcripts", "up"),
]


def shapes(record):
    return record.replace(arrays=jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), record.arrays))


@pytest.mark.parametrize("kind, direction", KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_unpack_reads_what_pack_wrote(kind, direction, seed):
    record = a_record(kind, direction, seed)
    found = joined([Record.unpack(record.pack(client), shapes(record)) for client in range(C)])
    assert (found.kind, found.direction) == (kind, direction)
    same(found.arrays, record.arrays)
    for x, y in zip(jax.tree.leaves(found.arrays), jax.tree.leaves(record.arrays), strict=True):
        assert x.dtype == y.dtype
    same(found.ids, record.ids)


def head(record, client=0):
    return json.loads(record.pack(client).partition(b"\n")[0])


def test_only_swapped_slots_cross_down():
    """What stands in a slot that was not swapped does not cross: the reader gets zeros there."""
    record = a_record("responses", "down", 0)
    slots = record.arrays["slots"]
    noise = {
        name: np.where(slots.reshape(*slots.shape, *[1] * (x.ndim - 3)), x, 1).astype(x.dtype)
        for name, x in record.arrays.items()
        if name != "slots"
    }
    noisy = record.replace(arrays=noise | {"slots": slots})
    for client in range(C):
        assert noisy.pack(client) == record.pack(client)
    assert head(record)["parts"]["lengths"][1] == slots[0].sum()


def test_only_tokens_up_to_the_end_cross():
    record = a_record("responses", "up", 0)
    noise = np.where(record.arrays["mask"], record.arrays["tokens"], 7)
    assert record.replace(arrays=record.arrays | {"tokens": noise}).pack(1) == record.pack(1)
    assert head(record, 1)["parts"]["tokens"][1] == record.arrays["mask"][1].sum()


@pytest.mark.parametrize("kind, direction", [("verdicts", "up"), ("responses", "down")])
def test_rewards_cross_only_where_they_differ_from_the_bit(kind, direction):
    record = a_record(kind, direction, 0)
    assert all("reward" not in head(record, client)["parts"] for client in range(C))
    slots = record.arrays.get("slots", ALL)
    assert slots[1].any() and (kind == "verdicts" or not slots[2].all())
    b, g = np.argwhere(slots[1])[0]
    reward = record.arrays["reward"].copy()
    reward[1, b, g] += 0.25
    if kind == "responses":
        reward[2][~slots[2]] = 9.0  # a slot that was not swapped
    record = record.replace(arrays=record.arrays | {"reward": reward})
    assert ["reward" in head(record, client)["parts"] for client in range(C)] == [False, True, False]
    assert sent_rewards(reward, record.arrays["correct"], slots).tolist() == [False, True, False]
    found = Record.unpack(record.pack(1), record).arrays["reward"][0]
    same(found, np.where(slots[1], reward[1], 0))


def test_bits_cross_down_only_where_a_wrong_response_was_given():
    """Balanced gives right responses alone: the reader knows them."""
    record = a_record("responses", "down", 0)
    right = record.replace(
        arrays=record.arrays | {n: record.arrays["slots"].astype(record.arrays[n].dtype) for n in ("correct", "reward")}
    )
    assert "correct" not in head(right)["parts"] and "correct" in head(record)["parts"]
    same(Record.unpack(right.pack(0), right).arrays["correct"][0], record.arrays["slots"][0])
    slots = np.array([[[True, False]], [[True, True]]])
    correct = np.array([[[True, False]], [[True, False]]])
    assert sent_bits(correct, slots, down=True).tolist() == [False, True]
    assert sent_bits(correct, slots, down=False).tolist() == [True, True]


def test_a_record_of_another_kind_or_direction_is_refused():
    record = a_record("verdicts", "up", 0)
    with pytest.raises(ValueError, match="counters going up expected, got verdicts going up"):
        Record.unpack(record.pack(), a_record("counters", "up", 0))
    down = a_record("adapters", "down", 0)
    with pytest.raises(ValueError, match="adapters going up expected, got adapters going down"):
        Record.unpack(down.pack(), a_record("adapters", "up", 0))


def test_other_arrays_are_refused():
    record = a_record("adapters", "down", 0)
    for other in (
        {"adapter": {"q": {"a": np.zeros((C, 4, 3)), "b": np.zeros((C, 2), np.float32)}}},
        {"adapter": {"q": {"a": np.zeros((C, 4, 2)), "b": np.zeros((C, 2))}}},
        {"adapter": {"q": {"a": np.zeros((C, 4, 2))}}},
    ):
        with pytest.raises(ValueError, match="a record with other arrays than expected"):
            Record.unpack(record.pack(), Record("adapters", "down", other))


def test_records_are_joined_in_their_order():
    record = a_record("questions", "down", 1)
    apart = [Record.unpack(record.pack(client), record) for client in (2, 0)]
    found = joined(apart)
    same(found.arrays["numbers"], record.arrays["numbers"][[2, 0]])
    same(found.ids, record.ids[[2, 0]])
    assert joined([Record.unpack(a_record("counters", "up", 0).pack(), a_record("counters", "up", 0))]).ids is None


# --- a federation over bytes --------------------------------------------------------------------------------------------


def two_rounds(channel, moments):
    """Two rounds of a private and a public step. -> state, metrics, figures"""
    one, batches, found = federation(moments=moments), world()[3][1:], []
    state = one.init(world()[2])
    for round in range(2):
        state = one.open(state, channel)
        for step, batch in enumerate(batches):
            key = jax.random.fold_in(KEY, 10 * round + step)
            state, record = one.step(world()[1], state, batch, ps.parity_judge, channel, key, HPARAMS)
            found.append((record.metrics, record.plan))
        state, figures = one.close(state, channel)
        found.append(figures)
    return state, found


@pytest.mark.parametrize("moments", ["reset", "average", "keep"])
def test_two_rounds_over_bytes_are_the_direct_ones_to_the_bit(moments):
    crossed = []

    def noting(record):
        crossed.append((record.direction, record.kind))
        return record

    state, found = two_rounds(packed(ps.Channel(noting, noting)), moments)
    expected, others = two_rounds(ps.direct, moments)
    same(state, expected)
    same(found, others)
    assert any(one[1].swapped.any() for one in found if isinstance(one, tuple)), "a swap took place"
    public = [("down", "questions"), ("up", "responses"), ("up", "verdicts"), ("down", "responses")]
    counters = [("up", "counters")]
    assert crossed == 2 * [("down", "adapters"), *counters, *public, *counters, ("up", "adapters")]
    assert state.clients.id.shape == (CLIENTS,) and isinstance(state.server.adapter, dict) and jnp.isfinite(state.round)
