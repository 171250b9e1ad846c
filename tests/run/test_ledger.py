"""The gate: what may cross, what may not, and how many bytes a record has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pubswap_jax.algorithm.aggregation import broadcast
from pubswap_jax.records import KINDS, Record
from pubswap_jax.run import ledger
from pubswap_jax.run.ledger import Gate, Refused

LORA = {"layer": {"a": jnp.ones((4, 2)), "b": jnp.zeros((2, 3))}}
STACKED = broadcast({"adapter": LORA}, 2)
IDS = np.array([[0, 1], [0, 1]], np.int32)
MASK = np.zeros((2, 2, 2, 5), bool)
MASK[0, :, :, :2], MASK[1, 0, 0, :5] = True, True
TOKENS = np.arange(40, dtype=np.int32).reshape(2, 2, 2, 5)
SLOTS = np.zeros((2, 2, 2), bool)
SLOTS[1, 0, 0] = True
CORRECT = MASK[..., 0]
BITS = CORRECT.astype(np.float32)
FINER = BITS.copy()
FINER[1] += 0.25  # only the second client has rewards that are not its verdicts' bits
ROW = np.broadcast_to(np.frombuffer(b'{"question": "1+1="}', np.uint8), (2, 20))


def responses(slots, correct, reward):
    arrays = {"tokens": TOKENS, "mask": MASK, "slots": slots, "correct": correct, "reward": reward}
    return Record("responses", "down", arrays, IDS)


RECORDS = {  # and each client's bytes by hand
    "adapters": (Record("adapters", "up", STACKED), {"up/adapters": [56, 56]}),  # (4·2 + 2·3) floats
    "questions": (Record("questions", "down", {"numbers": IDS}, IDS), {"down/questions": [8, 8]}),
    # Tokens and four lengths.
    "responses": (
        Record("responses", "up", {"tokens": TOKENS, "mask": MASK}, IDS),
        {"up/responses": [4 * (8 + 4), 4 * (5 + 4)]},
    ),
    # Tokens, a length and a slot.
    "swapped responses, all right": (responses(SLOTS, CORRECT, BITS), {"down/responses": [0, 4 * (5 + 1 + 1)]}),
    # One byte of verdicts for the client whose swapped response is wrong.
    "swapped responses, one wrong": (
        responses(SLOTS, ~CORRECT, 1 - BITS),
        {"down/responses": [0, 28], "down/verdicts": [0, 1]},
    ),
    "swapped responses with rewards": (
        responses(SLOTS, CORRECT, FINER),
        {"down/responses": [0, 28], "down/rewards": [0, 4]},
    ),
    "no swapped response": (responses(np.zeros_like(SLOTS), CORRECT, FINER), {"down/responses": [0, 0]}),
    # Four bits.
    "verdicts": (Record("verdicts", "up", {"correct": CORRECT, "reward": BITS}, IDS), {"up/verdicts": [1, 1]}),
    "verdicts with rewards": (
        Record("verdicts", "up", {"correct": CORRECT, "reward": FINER}, IDS),
        {"up/verdicts": [1, 1], "up/rewards": [0, 16]},
    ),
    # Two floats for every question that the client was asked about, and a byte that says which.
    "rewards": (
        Record("rewards", "up", {"reward": BITS, "asked": np.array([[True, False], [True, True]])}, IDS),
        {"up/rewards": [8 + 1, 16 + 1]},
    ),
    "counters": (Record("counters", "up", {"loss": jnp.zeros(2), "reward": jnp.ones(2)}), {"up/counters": [8, 8]}),
    "transcripts": (Record("transcripts", "up", {"row": ROW}, who=np.array([False, True])), {"up/transcripts": [0, 20]}),
}


@pytest.fixture
def gate():
    shapes = {"up/adapters": STACKED, "down/adapters": broadcast({"adapter": LORA, "moments": LORA}, 2)}
    return Gate(2, shapes, transcripts=True)


def cross(gate, record):
    return getattr(gate.channel, record.direction)(record)


@pytest.mark.parametrize("name", RECORDS)
def test_the_bytes_are_those_counted_by_hand_and_those_that_pack_writes(gate, name):
    record, by_hand = RECORDS[name]
    assert cross(gate, record) is record
    assert gate.account == by_hand
    here = np.ones(2, bool) if record.who is None else record.who
    packed = [len(record.pack(client).partition(b"\n")[2]) * here[client] for client in range(2)]
    assert np.sum(list(by_hand.values()), axis=0).tolist() == packed


def test_every_kind_is_among_them():
    assert {record.kind for record, _ in RECORDS.values()} == set(KINDS)


def test_an_absent_client_sends_nothing_and_a_round_starts_at_zero(gate):
    record = RECORDS["adapters"][0].replace(who=np.array([True, False]))
    cross(gate, record)
    cross(gate, record)
    assert gate.close_round() == {"up/adapters": [112, 0]}
    assert gate.close_round() == {} == gate.account


def test_an_account_goes_on_where_a_checkpoint_left_it():
    gate = Gate(2, {"up/adapters": STACKED}, account={"up/adapters": [1, 2]})
    cross(gate, RECORDS["adapters"][0])
    assert gate.account == {"up/adapters": [57, 58]}


def test_moments_come_down_from_the_second_round_on(gate):
    record = Record("adapters", "down", broadcast({"adapter": LORA, "moments": LORA}, 2))
    first = Gate(2, gate.shapes, first=True)
    assert first.close_round() == {}, "the evaluation of the base model, before the first round"
    cross(first, record)
    assert first.close_round() == {"down/adapters": [56, 56]}, "zeros that every client makes itself"
    cross(first, record)
    assert first.close_round() == {"down/adapters": [112, 112]}


@pytest.mark.parametrize("name", ["questions", "responses", "verdicts", "swapped responses, all right"])
@pytest.mark.parametrize("private", [-1, 2])
def test_records_of_a_private_question_are_refused_and_not_named(gate, name, private):
    record = RECORDS[name][0]
    ids = IDS.copy()
    ids[1, 1] = private
    with pytest.raises(Refused, match="of 1 questions that are not public") as error:
        cross(gate, record.replace(ids=ids))
    assert str(private) not in str(error.value).replace("of 1 questions", "") and gate.account == {}
    with pytest.raises(Refused, match="questions that are not public"):
        cross(gate, record.replace(ids=None))


@pytest.mark.parametrize(
    "direction, record, message",
    [
        ("up", "What is the dose?", "a str may not cross"),
        ("up", {"tokens": TOKENS}, "a dict may not cross"),
        ("up", Record("notes", "up", {"text": TOKENS}), "a notes may not cross"),
        ("up", Record("adapters", "up", {"adapter": {"layer": {"a": jnp.ones((2, 4, 2))}}}), "not all of them"),
        (
            "up",
            Record("adapters", "up", broadcast({"adapter": {"layer": LORA["layer"] | {"notes": jnp.ones(2)}}}, 2)),
            "do not have",
        ),
        (
            "up",
            Record("adapters", "up", broadcast({"adapter": {"layer": {"a": jnp.ones((4, 2)), "b": jnp.zeros((2, 4))}}}, 2)),
            "not as the run's adapters are",
        ),
        ("down", Record("adapters", "up", STACKED), "a record going up on its way down"),
        ("down", Record("adapters", "down", STACKED), "not all of them"),  # moments are missing
        ("up", Record("responses", "up", {"tokens": TOKENS.astype(np.float32), "mask": MASK}, IDS), "is not its array"),
        ("up", Record("responses", "up", {"tokens": TOKENS, "mask": MASK, "prompts": TOKENS}, IDS), "is not its array"),
        ("up", Record("responses", "up", {"tokens": TOKENS[:, :1], "mask": MASK}, IDS), "is not its array"),
        ("up", Record("verdicts", "up", {"correct": TOKENS}, IDS), "is not its array"),
        ("up", Record("counters", "up", {"What is the dose?": jnp.zeros(2)}), "plain name"),
        ("up", Record("counters", "up", {"loss": jnp.zeros((2, 1000))}), "one number a client"),
        ("up", Record("transcripts", "up", {"row": ROW}), "one client's at a time"),
        ("up", Record("transcripts", "up", {"row": ROW}, who=np.ones(2, bool)), "one client's at a time"),
    ],
)
def test_what_is_no_record_is_refused(gate, direction, record, message):
    with pytest.raises(Refused, match=message):
        getattr(gate.channel, direction)(record)
    assert gate.account == {}


def test_what_a_run_does_not_send_is_refused():
    gate = Gate(2)
    with pytest.raises(Refused, match="leaves that the run's adapters do not have"):
        cross(gate, RECORDS["adapters"][0])
    with pytest.raises(Refused, match="this run keeps none"):
        cross(gate, RECORDS["transcripts"][0])


def test_totals_beside_the_two_other_protocols(gate):
    for name in ("adapters", "questions", "responses", "swapped responses, all right", "verdicts", "counters"):
        cross(gate, RECORDS[name][0])
    cross(gate, Record("adapters", "down", broadcast({"adapter": LORA, "moments": LORA}, 2)))
    account = gate.close_round()
    result = ledger.totals([account, account], full_model=1000)
    assert result["sent"] == 2 * (112 + 224 + 16 + 84 + 28 + 2 + 16)
    assert result["full_model_averaging"] == 2 * (4 * 1000 + 16)
    # Everything but the donations, and the other client's responses for each of the two.
    assert result["sharing_every_response"] == 2 * (112 + 224 + 16 + 84 + 2 + 16 + 84)
    assert result["up/responses"] == 2 * 84


def test_sizes_need_no_copy_of_an_adapter(gate):
    with jax.transfer_guard("disallow"):
        cross(gate, RECORDS["adapters"][0])
