"""The gate between clients, its record types, and the count of transmitted bytes.

Only the record types below can leave or reach a client. The swap and the averaging read only records that the gate returned,
so a bug cannot send private questions. The gate protects against bugs in this program, not against a client that lies about
its own data.
"""

import dataclasses
import json
import re
import weakref
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from pubswap_jax.devices.hosts import fetch
from pubswap_jax.types import Array, PyTree

DIRECTIONS = ("up", "down")
COUNTER = re.compile(r"[a-z][a-z0-9_]{0,31}")


class Refused(Exception):
    """Raised for a record that must not cross, or for a record that the gate did not admit."""


@dataclasses.dataclass(frozen=True, eq=False)
class Adapters:
    """Adapters, and moments if they are averaged, leaves [C, ...]. Sent up for the averaging, and down when a round begins."""

    tree: PyTree
    direction: str

    def payload(self, client: int) -> Iterator[Array]:
        return (leaf[client] for leaf in jax.tree.leaves(self.tree))

    def sizes(self) -> np.ndarray:
        num_clients = jax.tree.leaves(self.tree)[0].shape[0]
        return np.full(num_clients, sum(leaf.nbytes // num_clients for leaf in jax.tree.leaves(self.tree)))


@dataclasses.dataclass(frozen=True, eq=False)
class Questions:
    """The public questions of a step, as numbers in the public list, int32[C, B]."""

    ids: tuple[str, ...]
    numbers: np.ndarray
    direction: str = "down"

    def payload(self, client: int) -> Iterator[Array]:
        yield self.numbers[client]

    def sizes(self) -> np.ndarray:
        return np.full(len(self.numbers), self.numbers[0].nbytes)


@dataclasses.dataclass(frozen=True, eq=False)
class Responses:
    """Responses to public questions: the tokens int32[C, B, G, R] where mask is True. Only swapped slots are sent down."""

    ids: tuple[str, ...]
    tokens: Array
    mask: Array
    slots: np.ndarray | None = None  # bool[C, B, G]; None: all
    direction: str = "up"

    def payload(self, client: int) -> Iterator[Array]:
        mask = fetch(self.mask)[client]
        if self.slots is not None:
            mask = mask[self.slots[client]]
            yield np.flatnonzero(self.slots[client]).astype(np.int32)
        tokens = fetch(self.tokens)[client]
        yield (tokens if self.slots is None else tokens[self.slots[client]])[mask]
        yield mask.sum(-1).astype(np.int32)  # the lengths, from which the receiver restores the mask

    def sizes(self) -> np.ndarray:
        slots = np.ones(self.mask.shape[:3], bool) if self.slots is None else self.slots
        lengths = fetch(self.mask).sum(-1)
        words = (lengths * slots).sum((1, 2)) + slots.sum((1, 2)) * (1 if self.slots is None else 2)
        return 4 * words


@dataclasses.dataclass(frozen=True, eq=False)
class VerdictBits:
    """Whether each response is correct, bool[C, B, G]; sent as one bit each."""

    ids: tuple[str, ...]
    correct: Array
    direction: str = "up"

    def payload(self, client: int) -> Iterator[Array]:
        yield np.packbits(fetch(self.correct)[client].reshape(-1))

    def sizes(self) -> np.ndarray:
        return np.full(self.correct.shape[0], -(-int(np.prod(self.correct.shape[1:])) // 8))


@dataclasses.dataclass(frozen=True, eq=False)
class Rewards:
    """Rewards of public responses, f32[C, B, G]. Sent with the responses, and only if some reward differs from its verdict bit.

    A client sends up the rewards of a whole batch. Only those of swapped slots are sent down; `Responses` holds their places.
    """

    ids: tuple[str, ...]
    values: Array
    slots: np.ndarray | None = None  # bool[C, B, G]; None: all
    direction: str = "up"

    def payload(self, client: int) -> Iterator[Array]:
        values = fetch(self.values)[client]
        yield values.reshape(-1) if self.slots is None else values[self.slots[client]]

    def sizes(self) -> np.ndarray:
        slots = np.ones(self.values.shape, bool) if self.slots is None else self.slots
        return slots.sum((1, 2)) * self.values.dtype.itemsize


@dataclasses.dataclass(frozen=True, eq=False)
class Transcript:
    """A client's question, answer and responses as text, for people to read; the batch may be private.

    Transcripts are not part of the method. The gate admits them only if the run's config asks for transcripts.
    """

    client: int
    num_clients: int
    row: dict
    direction: str = "up"

    def payload(self, client: int) -> Iterator[Array]:
        if client == self.client:
            yield np.frombuffer(json.dumps(self.row).encode(), np.uint8)

    def sizes(self) -> np.ndarray:
        return np.array([sum(x.nbytes for x in self.payload(client)) for client in range(self.num_clients)])


@dataclasses.dataclass(frozen=True, eq=False)
class Counters:
    """A step's metrics by name, f32[C] each, for the progress bar and the report."""

    values: dict[str, Array]
    direction: str = "up"

    def payload(self, client: int) -> Iterator[Array]:
        return (fetch(value)[client : client + 1] for value in self.values.values())

    def sizes(self) -> np.ndarray:
        leaves = list(self.values.values())
        return np.full(leaves[0].shape[0], sum(leaf.dtype.itemsize for leaf in leaves))


NAMES = {
    Adapters: "adapters",
    Questions: "questions",
    Responses: "responses",
    VerdictBits: "verdicts",
    Rewards: "rewards",
    Counters: "counters",
    Transcript: "transcripts",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Passed:
    """A record that the gate has admitted."""

    record: Adapters | Questions | Responses | VerdictBits | Rewards | Counters | Transcript


class Gate:
    """`admit` checks a record, counts its bytes and returns it as `Passed`; `open` returns that record until it is withdrawn.

    Args:
      public_ids: ids of the public questions; records of other questions are refused.
      adapters: the run's adapters, leaves [C, ...]; only trees with the same leaves and shapes may cross. None: none may.
      transcripts: whether transcripts, also of private questions, may cross.
    """

    def __init__(self, public_ids: Iterable[str], adapters: PyTree, transcripts: bool = False):
        self.public_ids = frozenset(public_ids)
        self.transcripts = transcripts
        self.adapters = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), adapters)
        self.bytes: dict[str, list[int]] = {}  # "direction/name" -> bytes of each client since `close_round`
        self._approved: weakref.WeakSet[Passed] = weakref.WeakSet()

    def admit(self, record, present: np.ndarray | None = None) -> Passed:
        """Admits a record or raises Refused. Bytes are counted only for the clients in bool[C] `present`; None: all."""
        if type(record) not in NAMES:
            raise Refused(f"a {type(record).__name__} may not cross; only {', '.join(t.__name__ for t in NAMES)} may")
        if record.direction not in DIRECTIONS:
            raise Refused(f"direction {record.direction!r}: up or down expected")
        _CHECKS[type(record)](self, record)
        sizes = record.sizes() * (1 if present is None else np.asarray(present))
        name = f"{record.direction}/{NAMES[type(record)]}"
        self.bytes[name] = np.add(self.bytes.get(name, 0), sizes).tolist()
        passed = Passed(record)
        self._approved.add(passed)
        return passed

    def open(self, passed: Passed):
        """The record that was admitted. The swap and the averaging read only what `open` returns."""
        if not isinstance(passed, Passed) or passed not in self._approved:
            raise Refused(f"a {type(getattr(passed, 'record', passed)).__name__} without the gate's approval")
        return passed.record

    def withdraw(self, passed: Passed) -> None:
        self._approved.discard(passed)

    def close_round(self) -> dict[str, list[int]]:
        """The round's bytes, "direction/name" -> bytes of each client. Resets the counts to zero."""
        account, self.bytes = dict(sorted(self.bytes.items())), {}
        return account


def _check_questions(gate: Gate, record) -> None:
    private = [name for name in record.ids if name not in gate.public_ids]
    if private:
        # Give the count, not the ids: an id may reveal something about a private question.
        raise Refused(f"{type(record).__name__} of {len(private)} questions that are not public; a private batch stays at home")
    array, kind, axes = {
        Questions: lambda: (record.numbers, np.integer, 2),
        Responses: lambda: (record.tokens, np.integer, 4),
        VerdictBits: lambda: (record.correct, np.bool_, 3),
        Rewards: lambda: (record.values, np.floating, 3),
    }[type(record)]()
    if not np.issubdtype(array.dtype, kind) or array.ndim != axes or array.shape[1] != len(record.ids):
        found = f"{array.dtype}{list(array.shape)}"
        raise Refused(f"{type(record).__name__}: {found} is not its array for {len(record.ids)} questions")


def _check_adapters(gate: Gate, record: Adapters) -> None:
    expected = gate.adapters
    # The first round sends no moments.
    if isinstance(record.tree, dict) and set(record.tree) == {"adapter"} < set(expected or ()):
        expected = {"adapter": expected["adapter"]}
    ours = jax.tree_util.tree_leaves_with_path(expected)
    theirs = jax.tree_util.tree_leaves_with_path(record.tree)
    if [path for path, _ in ours] != [path for path, _ in theirs]:
        raise Refused("Adapters: leaves that the run's adapters do not have, or not all of them")
    for (path, leaf), (_, other) in zip(ours, theirs, strict=True):
        if other.shape != leaf.shape or other.dtype != leaf.dtype:
            name = jax.tree_util.keystr(path)
            raise Refused(f"Adapters: {name} is {other.dtype}{list(other.shape)}, not as the run's adapters are")


def _check_counters(gate: Gate, record: Counters) -> None:
    for name, value in record.values.items():
        if not COUNTER.fullmatch(name) or value.ndim != 1 or not np.issubdtype(value.dtype, np.floating):
            raise Refused(f"Counters: {name[:32]!r} is not one number a client under a plain name")


def _check_transcript(gate: Gate, record: Transcript) -> None:
    if not gate.transcripts:
        raise Refused("Transcript: this run keeps none (log.transcripts)")
    if not 0 <= record.client < record.num_clients:
        raise Refused(f"Transcript: client {record.client} of {record.num_clients}")


_CHECKS = {
    Adapters: _check_adapters,
    Questions: _check_questions,
    Responses: _check_questions,
    VerdictBits: _check_questions,
    Rewards: _check_questions,
    Counters: _check_counters,
    Transcript: _check_transcript,
}


def totals(accounts: Iterable[dict[str, list[int]]], full_model: int) -> dict[str, int]:
    """Bytes of a run by direction and kind, and the bytes that two other protocols would send.

    `full_model_averaging` sends whole models instead of adapters, and no public questions. `sharing_every_response` sends
    every client's responses to all other clients, instead of the swapped responses only.
    """
    result = {"sent": 0, "full_model_averaging": 0, "sharing_every_response": 0}
    for account in accounts:
        for name, sizes in account.items():
            result[name] = result.get(name, 0) + sum(sizes)
            result["sent"] += sum(sizes)
            if name.endswith("/adapters"):
                result["full_model_averaging"] += full_model * sum(size > 0 for size in sizes)
            if name.endswith(("/counters", "/transcripts")):
                result["full_model_averaging"] += sum(sizes)
            if name not in ("down/responses", "down/rewards"):
                result["sharing_every_response"] += sum(sizes)
        for shared in (account.get(name, []) for name in ("up/responses", "up/rewards")):
            result["sharing_every_response"] += sum(shared) * max(sum(size > 0 for size in shared) - 1, 0)
    return result
