"""Records: the messages that cross between clients and a server, and how a record becomes bytes.

A record is stacked over clients. `pack` writes one client's share; `unpack` reads it on the other side. Only what the reader
cannot know is written: of a response the tokens up to its end, and of a swapped batch only the swapped slots.
"""

import json
from typing import Any

import flax.struct
import jax
import numpy as np

from pubswap_jax.types import PyTree

KINDS = ("adapters", "questions", "responses", "verdicts", "rewards", "counters", "transcripts")
SLOTS = ("responses", "verdicts")  # kinds with an entry for every response [C, B, G]


@flax.struct.dataclass
class Record:
    """One message of every client in `who`, in one direction.

    The arrays of each kind, leaves [C, ...]:
      adapters     adapter; down also `sent`, of the aggregation rule; up also `extra`, of the clients' correction;
                   both ways the optimizer's moments, if moments are averaged
      questions    numbers int32[C, B]
      responses    tokens, mask [C, B, G, R]; going down also slots, correct, reward [C, B, G]
      verdicts     correct, reward [C, B, G]
      rewards      reward [C, B, G], asked bool[C, B]; only rewards of questions that were asked are written
      counters     f32[C] by name
      transcripts  row uint8[C, L], JSON
    """

    kind: str = flax.struct.field(pytree_node=False)
    direction: str = flax.struct.field(pytree_node=False)  # up | down
    arrays: PyTree
    ids: Any = None  # int32[C, B], the questions it speaks of
    who: Any = None  # bool[C]; None: everybody

    def pack(self, client: int = 0) -> bytes:
        """One client's share of the record as bytes: a line of JSON that describes the arrays, then the arrays."""
        own = jax.tree.map(lambda x: np.asarray(x)[client], self.arrays)
        parts = own if self.kind == "counters" else {str(i): np.asarray(x) for i, x in enumerate(jax.tree.leaves(own))}
        parts = _slots(own) if self.kind in SLOTS else parts
        parts = _rewards(own) if self.kind == "rewards" else parts
        head = {"kind": self.kind, "direction": self.direction}
        head["ids"] = None if self.ids is None else np.asarray(self.ids)[client].tolist()
        head["parts"] = {name: [part.dtype.str, part.size] for name, part in parts.items()}
        return json.dumps(head).encode() + b"\n" + b"".join(part.tobytes() for part in parts.values())

    @staticmethod
    def unpack(data: bytes, like: "Record") -> "Record":
        """Reads one client's record, C = 1, from bytes. `like` is a record of the same kind, which gives the shapes.

        Counters name themselves, so a reader of counters needs no `like.arrays`.
        """
        line, _, rest = data.partition(b"\n")
        head, parts, at = json.loads(line), {}, 0
        if (head["kind"], head["direction"]) != (like.kind, like.direction):
            raise ValueError(f"{like.kind} going {like.direction} expected, got {head['kind']} going {head['direction']}")
        for name, (dtype, size) in head["parts"].items():
            parts[name] = np.frombuffer(rest, dtype, size, at)
            at += parts[name].nbytes
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), like.arrays)
        if like.kind == "counters":
            arrays = {name: part.reshape(()) for name, part in parts.items()}
        elif like.kind == "rewards":
            arrays = _of_rewards(parts, one)
        else:
            arrays = _of_slots(parts, one) if like.kind in SLOTS else _of_leaves(list(parts.values()), one)
        ids = None if head["ids"] is None else np.array([head["ids"]], np.int32)
        return Record(like.kind, like.direction, jax.tree.map(lambda x: x[None], arrays), ids)


def joined(records: list[Record]) -> Record:
    """Joins several records of one kind into one record, with the clients in this order."""
    arrays = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(record.arrays for record in records))
    ids = None if records[0].ids is None else np.concatenate([record.ids for record in records])
    return records[0].replace(arrays=arrays, ids=ids)


def sent_rewards(reward: np.ndarray, correct: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """Whether rewards must be written beside verdicts: where some reward in `slots` bool[..., B, G] differs from its bit.

    -> bool[...].
    """
    return ((reward != correct) & slots).any((-2, -1))


def sent_bits(correct: np.ndarray, slots: np.ndarray, down: bool) -> np.ndarray:
    """Whether verdicts must be written. Always going up; going down, swaps of right responses alone need none. -> bool[...]."""
    return np.ones(slots.shape[:-2], bool) if not down else (~correct & slots).any((-2, -1))


def _slots(own: dict) -> dict[str, np.ndarray]:
    """Picks the responses of one client's swapped or own slots, as flat arrays to be written."""
    shape = own["correct"].shape if "correct" in own else own["mask"].shape[:2]
    slots, parts = own.get("slots", np.ones(shape, bool)), {}
    if "slots" in own:
        parts["slots"] = np.flatnonzero(slots).astype(np.int32)
    if "tokens" in own:
        mask = own["mask"][slots]
        parts |= {"tokens": own["tokens"][slots][mask].astype(np.int32), "lengths": mask.sum(-1).astype(np.int32)}
    if "correct" in own:
        if sent_bits(own["correct"], slots, "slots" in own):
            parts["correct"] = np.packbits(own["correct"][slots])
        if sent_rewards(own["reward"], own["correct"], slots):
            parts["reward"] = own["reward"][slots]
    return parts


def _of_slots(parts: dict[str, np.ndarray], like: dict) -> dict[str, np.ndarray]:
    shape = next(x.shape[:2] for x in like.values())
    slots, found = np.ones(shape, bool), {}
    if "slots" in like:
        slots = np.isin(np.arange(slots.size), parts["slots"]).reshape(shape)
        found["slots"] = slots
    if "tokens" in like:
        tokens, mask = np.zeros(like["tokens"].shape, np.int32), np.zeros(like["mask"].shape, bool)
        mask[slots] = np.arange(mask.shape[-1]) < parts["lengths"][:, None]
        tokens[mask] = parts["tokens"]
        found |= {"tokens": tokens, "mask": mask}
    if "correct" in like:
        correct = slots.copy()
        if "correct" in parts:
            correct[slots] = np.unpackbits(parts["correct"], count=int(slots.sum())).astype(bool)
        reward = correct.astype(like["reward"].dtype)
        if "reward" in parts:
            reward[slots] = parts["reward"]
        found |= {"correct": correct, "reward": reward}
    return found


def _rewards(own: dict) -> dict[str, np.ndarray]:
    """Picks one client's rewards of the questions that it was asked, to be written."""
    return {"asked": np.packbits(own["asked"]), "reward": own["reward"][own["asked"]]}


def _of_rewards(parts: dict[str, np.ndarray], like: dict) -> dict[str, np.ndarray]:
    """The inverse of `_rewards`: one client's reward array from the values that were read; 0 for questions not asked."""
    asked = np.unpackbits(parts["asked"], count=like["asked"].size).astype(bool)
    reward = np.zeros(like["reward"].shape, like["reward"].dtype)
    reward[asked] = parts["reward"].reshape(-1, reward.shape[-1])
    return {"reward": reward, "asked": asked}


def _of_leaves(parts: list[np.ndarray], like: PyTree) -> PyTree:
    wanted = jax.tree.leaves(like)
    found = [(part.size, part.dtype) for part in parts]
    if found != [(int(np.prod(x.shape)), np.dtype(x.dtype)) for x in wanted]:
        raise ValueError("a record with other arrays than expected: both sides need the same adapter and settings")
    leaves = [part.reshape(x.shape) for part, x in zip(parts, wanted, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
