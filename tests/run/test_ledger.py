"""The gate: what may cross, what may not, and how many bytes it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pubswap_jax.algorithm.aggregation import broadcast
from pubswap_jax.run import ledger
from pubswap_jax.run.ledger import Adapters, Counters, Gate, Questions, Refused, Responses, VerdictBits

PUBLIC = ("open/1", "open/2")
LORA = {"layer": {"a": jnp.ones((4, 2)), "b": jnp.zeros((2, 3))}}
MASK = np.zeros((2, 2, 2, 5), bool)
MASK[0, :, :, :2], MASK[1, 0, 0, :5] = True, True
TOKENS = np.arange(40, dtype=np.int32).reshape(2, 2, 2, 5)
SLOTS = np.zeros((2, 2, 2), bool)
SLOTS[1, 0, 0] = True

RECORDS = {
    "up/adapters": (Adapters(broadcast(LORA, 2), "up"), [56, 56]),  # (4·2 + 2·3) floats
    "down/questions": (Questions(PUBLIC, np.array([[0, 1], [0, 1]], np.int32)), [8, 8]),
    "up/responses": (Responses(PUBLIC, TOKENS, MASK), [4 * (8 + 4), 4 * (5 + 4)]),  # tokens and four lengths
    "down/responses": (Responses(PUBLIC, TOKENS, MASK, SLOTS, "down"), [0, 4 * (5 + 1 + 1)]),  # tokens, a length and a slot
    "up/verdicts": (VerdictBits(PUBLIC, MASK[..., 0]), [1, 1]),  # four bits
    "up/counters": (Counters({"loss": jnp.zeros(2), "reward": jnp.ones(2)}), [8, 8]),
}


@pytest.fixture
def gate():
    return Gate(PUBLIC, broadcast(LORA, 2))


@pytest.mark.parametrize("name", RECORDS)
def test_the_bytes_are_those_counted_by_hand_and_those_of_the_arrays(gate, name):
    record, by_hand = RECORDS[name]
    gate.admit(record)
    assert gate.bytes == {name: by_hand}
    assert by_hand == [sum(array.nbytes for array in record.payload(client)) for client in range(2)]


def test_an_absent_client_sends_nothing_and_a_round_starts_at_zero(gate):
    gate.admit(RECORDS["up/adapters"][0], present=np.array([True, False]))
    gate.admit(RECORDS["up/adapters"][0], present=np.array([True, False]))
    assert gate.close_round() == {"up/adapters": [112, 0]}
    assert gate.close_round() == {}


@pytest.mark.parametrize("kind", [Questions, Responses, VerdictBits])
def test_records_of_a_private_question_are_refused_and_not_named(gate, kind):
    ids = ("open/1", "mercy/patient 17")
    content = {
        Questions: (np.zeros((2, 2), np.int32),),
        Responses: (TOKENS, MASK),
        VerdictBits: (MASK[..., 0],),
    }[kind]
    with pytest.raises(Refused, match="1 questions that are not public") as error:
        gate.admit(kind(ids, *content))
    assert "patient" not in str(error.value) and gate.bytes == {}


@pytest.mark.parametrize(
    "record, message",
    [
        ("What is the dose?", "a str may not cross"),
        ({"tokens": TOKENS}, "a dict may not cross"),
        (Adapters({"layer": {"a": jnp.ones((2, 4, 2))}}, "up"), "not all of them"),
        (Adapters(broadcast({"layer": LORA["layer"] | {"notes": jnp.ones(2)}}, 2), "up"), "do not have"),
        (
            Adapters(broadcast({"layer": {"a": jnp.ones((4, 2)), "b": jnp.zeros((2, 4))}}, 2), "up"),
            "not as the run's adapters are",
        ),
        (Adapters(broadcast(LORA, 2), "sideways"), "up or down"),
        (Responses(PUBLIC, TOKENS.astype(np.float32), MASK), "is not its array"),
        (VerdictBits(PUBLIC, TOKENS), "is not its array"),
        (Counters({"What is the dose?": jnp.zeros(2)}), "plain name"),
        (Counters({"loss": jnp.zeros((2, 1000))}), "one number a client"),
    ],
)
def test_what_is_no_record_is_refused(gate, record, message):
    with pytest.raises(Refused, match=message):
        gate.admit(record)
    assert gate.bytes == {}


def test_only_what_the_gate_returned_can_be_opened(gate):
    record = RECORDS["up/adapters"][0]
    passed = gate.admit(record)
    assert gate.open(passed) is record
    for other in (record, ledger.Passed(record), Gate(PUBLIC, broadcast(LORA, 2)).admit(record)):
        with pytest.raises(Refused, match="without the gate's approval"):
            gate.open(other)
    gate.withdraw(passed)
    with pytest.raises(Refused, match="without the gate's approval"):
        gate.open(passed)


def test_totals_beside_the_two_other_protocols(gate):
    for record, _ in RECORDS.values():
        gate.admit(record)
    gate.admit(Adapters(broadcast(LORA, 2), "down"))
    account = gate.close_round()
    result = ledger.totals([account, account], full_model=1000)
    assert result["sent"] == 2 * (112 + 112 + 16 + 84 + 28 + 2 + 16)
    assert result["full_model_averaging"] == 2 * (4 * 1000 + 16)
    # Everything but the donations, and the other client's responses for each of the two.
    assert result["sharing_every_response"] == 2 * (112 + 112 + 16 + 84 + 2 + 16 + 84)
    assert result["up/responses"] == 2 * 84


def test_sizes_need_no_copy_of_an_adapter(gate):
    with jax.transfer_guard("disallow"):
        gate.admit(RECORDS["up/adapters"][0])
