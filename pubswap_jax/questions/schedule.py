"""Schedule of public and private steps, and the question batch of every client at every step.

Everything is a function of (seed, round, step). There is no iterator state, so a resumed run gets the same batches.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from pubswap_jax.fields import field_named

# Random streams derived from one seed. Each stream's number is part of its key.
PRIVATE, PUBLIC, PARTICIPATION, PARTITION, AGAIN, OVERLAP = range(6)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Says which steps of a round are public, given the period, the unit and the number of steps.

    Reading: every `period`-th of a round's `steps` is public (unit 'step': t % p == p - 1). Unit 'extra' adds a public step
    after every `period` private steps. Unit 'round' makes all steps of every `period`-th round public. With period 0, no step
    is public.
    """

    steps: int  # the paper's tau: steps between two averagings; with unit 'extra', private steps only
    period: int = 2
    unit: str = "step"  # a choice of the field federation.swap_unit

    def __post_init__(self):
        units = field_named("federation.swap_unit").choices
        if self.unit not in units:
            raise ValueError(f"the schedule's unit is {self.unit!r}, not one of {', '.join(units)}")
        if self.steps < 1 or self.period < 0:
            raise ValueError(f"a schedule needs steps >= 1 and period >= 0, got {self.steps} and {self.period}")

    @property
    def length(self) -> int:
        """Number of steps in one round, including the public steps that unit 'extra' adds."""
        return self.steps + (self.steps // self.period if self.unit == "extra" and self.period else 0)

    def public(self, round: int, step: int) -> bool:
        """Whether a step of a round is public, so that all clients answer the same questions."""
        if not self.period:
            return False
        at = {"step": step, "extra": step, "round": round}[self.unit]
        every = self.period + (self.unit == "extra")
        return at % every == every - 1

    def public_before(self, round: int, step: int) -> tuple[int, int]:
        """Number of public steps before (round, step): in earlier rounds, and earlier in this round."""
        if not self.period:
            return 0, 0
        if self.unit == "round":
            return round // self.period * self.length, step * self.public(round, step)
        every = self.period + (self.unit == "extra")
        return round * (self.length // every), step // every

    def private_steps(self, round: int) -> int:
        """Number of private steps in a round."""
        if self.unit == "round":
            return 0 if self.public(round, 0) else self.length
        return self.length - self.public_before(1, 0)[0]


def shuffled(length: int, *key: int) -> np.ndarray:
    """A permutation of range(length), identical on every machine."""
    # Sort raw Philox bits, which numpy guarantees to be stable. `Generator.permutation` may change between numpy versions.
    bits = np.random.Philox(np.random.SeedSequence(key)).random_raw(length)
    return np.argsort(bits, kind="stable")


@functools.lru_cache(maxsize=256)
def permutation(length: int, *key: int) -> np.ndarray:
    """The same as `shuffled`, but the array is read-only and computed once for equal arguments."""
    order = shuffled(length, *key)
    order.setflags(write=False)
    return order


def stream(questions: Sequence[int], size: int, count: int, *key: int) -> np.ndarray:
    """Batch number `count`, of `size` questions. Each epoch is a new permutation; a batch may span two or more epochs."""
    if not len(questions):
        raise ValueError("a batch was asked of an empty list of questions")
    epochs, offsets = np.divmod(np.arange(count * size, (count + 1) * size), len(questions))
    orders = {epoch: permutation(len(questions), *key, int(epoch)) for epoch in np.unique(epochs)}
    return np.array([questions[orders[epoch][offset]] for epoch, offset in zip(epochs, offsets, strict=True)])


@functools.lru_cache(maxsize=4096)
def participants(seed: int, round: int, num_clients: int, count: int = 0) -> np.ndarray:
    """bool[C]: which clients take part in this round. `count` clients are drawn uniformly; 0 means all."""
    if not 0 <= count <= num_clients:
        raise ValueError(f"{count} of {num_clients} clients cannot take part")
    present = np.ones(num_clients, bool)
    if count:
        present[permutation(num_clients, seed, PARTICIPATION, round)[count:]] = False
    present.setflags(write=False)
    return present


def rows(split, size: int, *, seed: int, event, labelled: int = 0) -> np.ndarray:
    """The questions that every client gets at an event, int[C, B], as indices into the list of questions that was split.

    In a public step all clients get the same rows. A client's private stream advances only in rounds in which it takes part,
    so its epochs skip no question. The row of an absent client holds the questions that it gets when it returns. The first
    `labelled` public questions are those of an auxiliary step, int[1, labelled], and no public step asks them.
    """
    if event.kind == "auxiliary":
        return np.array([split.public[:labelled]])
    if event.kind == "public":
        if not len(split.public):
            raise ValueError("a public step needs public questions: raise data.public, or set federation.swap_period to 0")
        return np.tile(stream(split.public[labelled:], size, event.number, seed, PUBLIC), (len(event.who), 1))
    clients = enumerate(split.clients)
    return np.stack([stream(questions, size, int(event.served[c]), seed, PRIVATE, c) for c, questions in clients])


def other_rows(split, asked: np.ndarray, draw: int, *, seed: int, event) -> np.ndarray:
    """Replacement questions for every client at an event, int[C, B]: private ones that differ from those asked so far.

    `draw` is the number of the draw.

    The draws of a step have no question in common with each other, nor with `asked` int[C, B], as long as a client has enough.
    """
    size, found = asked.shape[1], []
    for client, questions in enumerate(split.clients):
        order = np.asarray(questions)[shuffled(len(questions), seed, AGAIN, client, event.round, event.step)]
        rest = order[~np.isin(order, asked[client])]
        rest = rest if len(rest) else order
        found.append(rest[np.arange(draw * size, (draw + 1) * size) % len(rest)])
    return np.stack(found)
