"""The gate of a run: the channel that checks every record, counts its bytes, and refuses records that must not cross.

Refused are private questions and responses to them, arrays of other shapes than adapters have, and unasked transcripts.

The swap and the averaging read only what the channel returned, so a bug cannot send private questions. The gate protects
against bugs in this program, not against a client that lies about its own data.
"""

import re
from collections.abc import Iterable, Mapping
from functools import partial

import jax
import numpy as np

from pubswap_jax.devices.hosts import fetch
from pubswap_jax.records import KINDS, SLOTS, Record, sent_bits, sent_rewards
from pubswap_jax.types import Channel, PyTree

DIRECTIONS = ("up", "down")
COUNTER = re.compile(r"[a-z][a-z0-9_]{0,31}")
# The arrays of records about questions: dtype and number of axes.
ARRAYS = {
    "numbers": (np.integer, 2),
    "tokens": (np.integer, 4),
    "mask": (np.bool_, 4),
    "slots": (np.bool_, 3),
    "correct": (np.bool_, 3),
    "reward": (np.floating, 3),
    "asked": (np.bool_, 2),
}


class Refused(Exception):
    """Raised for a record that must not cross."""


class Gate:
    """The channel between clients and server in a run: checks every record, and counts its bytes by direction, kind and client.

    The counts are those since the round began.

    Args:
      public: the number of public questions; records of any other question are refused.
      shapes: "up/adapters" and "down/adapters" -> the arrays of such a record, or their shapes. Missing: none may cross.
      transcripts: whether transcripts, also of private questions, may cross.
      first: whether this is the first round, whose moments are zeros that every client makes itself.
      account: bytes that were counted before, "direction/name" -> bytes of each client.
    """

    def __init__(
        self,
        public: int,
        shapes: Mapping[str, PyTree] | None = None,
        *,
        transcripts: bool = False,
        first: bool = False,
        account: Mapping[str, list[int]] | None = None,
    ):
        self.public, self.shapes, self.transcripts, self.first = public, dict(shapes or {}), transcripts, first
        self.account: dict[str, list[int]] = dict(account or {})

    @property
    def channel(self) -> Channel:
        return Channel(partial(self.admit, "up"), partial(self.admit, "down"))

    def admit(self, direction: str, record: Record) -> Record:
        """Checks and counts a record, and returns it."""
        if not isinstance(record, Record) or record.kind not in KINDS:
            found = record.kind if isinstance(record, Record) else type(record).__name__
            raise Refused(f"a {found} may not cross; only {', '.join(KINDS)} may")
        if record.direction != direction:
            raise Refused(f"{record.kind}: a record going {record.direction} on its way {direction}")
        _CHECKS[record.kind](self, record)
        here = None if record.who is None else fetch(record.who)
        for name, size in self._sizes(record).items():
            size = size if here is None else size * here
            if size.any() or name == record.kind:
                entry = f"{direction}/{name}"
                self.account[entry] = np.add(self.account.get(entry, 0), size).tolist()
        return record

    def _sizes(self, record: Record) -> dict[str, np.ndarray]:
        """The bytes of every client's share of a record, int[C], by the name under which they are counted."""
        arrays = record.arrays
        if record.kind in SLOTS:
            return _slot_sizes(record.kind, arrays)
        if record.kind == "rewards":
            asked, reward = fetch(arrays["asked"]), arrays["reward"]
            each = reward.shape[2] * reward.dtype.itemsize
            return {"rewards": asked.sum(1) * each + -(-asked.shape[1] // 8)}
        if record.kind == "adapters" and self.first and record.direction == "down":
            arrays = {name: tree for name, tree in arrays.items() if name != "moments"}
        leaves = jax.tree.leaves(arrays)
        num_clients = leaves[0].shape[0]
        return {record.kind: np.full(num_clients, sum(leaf.nbytes // num_clients for leaf in leaves))}

    def close_round(self) -> dict[str, list[int]]:
        """Returns the bytes counted in this round, and sets the counts to zero."""
        account, self.account = dict(sorted(self.account.items())), {}
        self.first = self.first and not account  # the evaluation of the base model ends no round
        return account


def _slot_sizes(kind: str, arrays: Mapping) -> dict[str, np.ndarray]:
    """Bytes of responses and verdicts as `Record.pack` would write them, without moving tokens from the device."""
    down = "slots" in arrays
    shape = jax.tree.leaves(arrays)[0].shape[:3]
    slots = fetch(arrays["slots"]) if down else np.ones(shape, bool)
    found = {}
    if "mask" in arrays:
        lengths = fetch(arrays["mask"]).sum(-1)
        found["responses"] = 4 * ((lengths * slots).sum((1, 2)) + slots.sum((1, 2)) * (2 if down else 1))
    if "correct" in arrays:
        correct, reward = fetch(arrays["correct"]), arrays["reward"]
        count = slots.sum((1, 2))
        found["verdicts"] = -(-count // 8) * sent_bits(correct, slots, down)
        found["rewards"] = count * reward.dtype.itemsize * sent_rewards(fetch(reward), correct, slots)
    return found


def _check_questions(gate: Gate, record: Record) -> None:
    ids = np.asarray(-1 if record.ids is None else record.ids)
    private = int(((ids < 0) | (ids >= gate.public)).sum())
    if private:
        # Give the count, not the questions: even a number may reveal something about a private one.
        raise Refused(f"{record.kind} of {private} questions that are not public; a private batch stays at home")
    for name, array in record.arrays.items():
        kind, axes = ARRAYS.get(name, (None, 0))
        if kind is None or not np.issubdtype(array.dtype, kind) or array.ndim != axes or array.shape[:2] != ids.shape:
            found = f"{array.dtype}{list(array.shape)}"
            raise Refused(f"{record.kind}: {name}, {found}, is not its array for questions {list(ids.shape)}")


def _check_adapters(gate: Gate, record: Record) -> None:
    expected = gate.shapes.get(f"{record.direction}/adapters", {})
    ours, theirs = (jax.tree_util.tree_leaves_with_path(tree) for tree in (expected, record.arrays))
    if [path for path, _ in ours] != [path for path, _ in theirs]:
        raise Refused("adapters: leaves that the run's adapters do not have, or not all of them")
    for (path, leaf), (_, other) in zip(ours, theirs, strict=True):
        if other.shape != leaf.shape or other.dtype != leaf.dtype:
            name = jax.tree_util.keystr(path)
            raise Refused(f"adapters: {name} is {other.dtype}{list(other.shape)}, not as the run's adapters are")


def _check_counters(gate: Gate, record: Record) -> None:
    for name, value in record.arrays.items():
        if not COUNTER.fullmatch(name) or value.ndim != 1 or not np.issubdtype(value.dtype, np.floating):
            raise Refused(f"counters: {name[:32]!r} is not one number a client under a plain name")


def _check_transcript(gate: Gate, record: Record) -> None:
    if not gate.transcripts:
        raise Refused("transcripts: this run keeps none (log.transcripts)")
    if record.who is None or np.asarray(record.who).sum() != 1:
        raise Refused("transcripts: one client's at a time expected")


_CHECKS = {
    "adapters": _check_adapters,
    "questions": _check_questions,
    "responses": _check_questions,
    "verdicts": _check_questions,
    "rewards": _check_questions,
    "counters": _check_counters,
    "transcripts": _check_transcript,
}


def totals(accounts: Iterable[dict[str, list[int]]], full_model: int) -> dict[str, int]:
    """Adds up a run's rounds: bytes by direction and kind, and the bytes that two other protocols would send.

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
