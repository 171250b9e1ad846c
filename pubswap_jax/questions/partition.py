"""Splits questions into a public set and one private set per client.

A partition is a function (problems, num_clients, rng) -> one array of indices per client. The arrays are disjoint, non-empty,
and together contain every index.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from pubswap_jax.questions.leakage import near_copies
from pubswap_jax.questions.problem import Problem, topics
from pubswap_jax.questions.schedule import OVERLAP, PARTITION

Partition = Callable[[Sequence[Problem], int, np.random.Generator], list[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Split:
    """Which questions belong to whom: indices into one list of training questions, each in exactly one of the lists below."""

    public: list[int]
    clients: list[list[int]]
    removed: dict[str, list[int]]  # 'test' | 'public' -> near copies of questions in that set; not used for training

    def manifest(self) -> dict:
        """The split as a dict for JSON, as run.json has it. `Split(**manifest)` makes the split again."""
        return dataclasses.asdict(self)


def split(
    problems: Sequence[Problem],
    num_clients: int,
    partition: Partition,
    *,
    seed: int,
    public: float | Sequence[int] = 0.02,
    test: Sequence[Problem] = (),
) -> Split:
    """Removes near copies of `test`, draws the public set, removes near copies of it, and partitions the rest over clients.

    `public` is a share of the questions, or the indices of a given public set. Reading: 2 %, IID over topics.
    """
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, PARTITION))))
    leaked = near_copies(problems, test) >= 0 if len(test) else np.zeros(len(problems), bool)
    left = np.flatnonzero(~leaked)
    if isinstance(public, float | int):
        chosen = left[draw_iid([problems[i] for i in left], _public_size(public, len(left)), rng)]
    else:
        chosen = np.array([i for i in public if not leaked[i]], int)
    left = np.setdiff1d(left, chosen)
    twin = near_copies([problems[i] for i in left], [problems[i] for i in chosen]) >= 0
    copies, left = left[twin], left[~twin]
    _check_clients(num_clients, len(left), f"; {len(copies)} others are near copies of public questions" if len(copies) else "")
    parts = partition([problems[i] for i in left], num_clients, rng)
    return Split(
        public=_listed(chosen),
        clients=[_listed(left[part]) for part in parts],
        removed={"test": _listed(np.flatnonzero(leaked)), "public": _listed(copies)},
    )


def iid(problems: Sequence[Problem], num_clients: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Partition: clients of equal size, drawn uniformly."""
    _check_clients(num_clients, len(problems))
    return np.array_split(rng.permutation(len(problems)), num_clients)


def dirichlet(alpha: float) -> Partition:
    """Returns the partition with clients of equal size, where client i draws its topic mixture q_i ~ Dir(alpha T p).

    p are the T topics' shares.

    The mixtures are then fitted to the number of questions per topic. A small alpha gives each client few topics (the limit is
    `by_topic`); a large alpha gives each client all topics. See Hsu et al. 2019.
    Reading: alpha counts per topic, so equally frequent topics give the symmetric Dir(alpha, ..., alpha).
    """
    _check_alpha(alpha)

    def partition(problems: Sequence[Problem], num_clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        _check_clients(num_clients, len(problems))
        piles = _shuffled_piles(problems, rng)
        sizes = np.array([len(pile) for pile in piles])
        shares = np.array([len(part) for part in np.array_split(np.arange(len(problems)), num_clients)])
        wanted = rng.dirichlet(np.maximum(alpha * len(piles) * sizes / sizes.sum(), 1e-6), size=num_clients)
        counts = _fitted(wanted, shares, sizes)
        cuts = [np.split(pile, np.cumsum(column)[:-1]) for pile, column in zip(piles, counts.T, strict=True)]
        return [np.concatenate(parts) for parts in zip(*cuts, strict=True)]

    return partition


def _fitted(wanted: np.ndarray, rows: np.ndarray, columns: np.ndarray, rounds: int = 300) -> np.ndarray:
    """Integers near `wanted` with the given row and column sums: Sinkhorn scaling, then rounding by largest remainders."""
    table = wanted + 1e-9  # a column of zeros could not be scaled up to its sum
    for _ in range(rounds):
        table = table * (columns / table.sum(0))
        table = table * (rows / table.sum(1))[:, None]
    table = table * np.minimum(1, columns / table.sum(0))  # no column above its sum, even before convergence
    counts = np.floor(table).astype(int)
    while (short := columns - counts.sum(0)).any():
        open_cells = (rows - counts.sum(1) > 0)[:, None] & (short > 0)
        counts[np.unravel_index(np.argmax(np.where(open_cells, table - counts, -np.inf)), table.shape)] += 1
    return counts


def by_topic(problems: Sequence[Problem], num_clients: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Partition: every client gets whole topics, and counts differ by at most one.

    If there are more clients than topics, clients share single topics.
    """
    _check_clients(num_clients, len(problems))
    piles = _shuffled_piles(problems, rng)
    order = rng.permutation(len(piles))
    if len(piles) >= num_clients:
        return [np.concatenate([piles[topic] for topic in order[client::num_clients]]) for client in range(num_clients)]
    holders = np.ones(len(piles), int)
    for _ in range(num_clients - len(piles)):
        holders[np.argmax([len(pile) / count for pile, count in zip(piles, holders, strict=True)])] += 1
    return [part for topic in order for part in np.array_split(piles[topic], holders[topic])]


def size_skew(alpha: float) -> Partition:
    """Returns the partition with client sizes ~ Dir(alpha, ..., alpha), at least one question each, and one topic mixture."""
    _check_alpha(alpha)

    def partition(problems: Sequence[Problem], num_clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        _check_clients(num_clients, len(problems))
        shares = rng.dirichlet(np.full(num_clients, max(alpha, 1e-6)))
        spare = len(problems) - num_clients
        ends = np.arange(1, num_clients + 1) + np.floor(np.cumsum(shares) * spare + 0.5).astype(int)
        return np.split(rng.permutation(len(problems)), ends[:-1])

    return partition


def natural(problems: Sequence[Problem], num_clients: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Partition by the source in the data: the first part of an id ('mercy' in 'mercy/17'), never divided between clients.

    Sources go, largest first, to the smallest client so far.
    """
    del rng  # deterministic
    piles = collections.defaultdict(list)
    for i, problem in enumerate(problems):
        piles[problem.id.split("/")[0]].append(i)
    if len(piles) < num_clients:
        keys = ", ".join(list(piles)[:5])
        raise ValueError(f"federation.num_clients is {num_clients}, but the questions' ids have {len(piles)} keys: {keys}")
    parts = [[] for _ in range(num_clients)]
    for pile in sorted(piles.values(), key=len, reverse=True):
        min(parts, key=len).extend(pile)
    return [np.array(part) for part in parts]


def overlapped(dealt: Split, share: float, labelled: int, seed: int) -> Split:
    """The split in which every client also holds this share of the public questions after the first `labelled`.

    Every client's share is drawn by itself, so several clients may hold a question.
    """
    if not share:
        return dealt
    asked = np.array(dealt.public[labelled:], int)
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, OVERLAP))))
    drawn = [asked[rng.permutation(len(asked))[: round(share * len(asked))]] for _ in dealt.clients]
    clients = [_listed(np.union1d(own, more)) for own, more in zip(dealt.clients, drawn, strict=True)]
    return dataclasses.replace(dealt, clients=clients)


def holders(dealt: Split, rows: np.ndarray) -> np.ndarray:
    """Which clients hold these questions among their own. int[B] -> bool[C, B]."""
    return np.stack([np.isin(rows, own) for own in dealt.clients])


def draw_iid(problems: Sequence[Problem], size: int, rng: np.random.Generator) -> np.ndarray:
    """Draws `size` questions in proportion to the topics' shares, rounded by largest remainders. Returns their indices."""
    piles = _shuffled_piles(problems, rng)
    exact = np.array([len(pile) for pile in piles]) * (size / max(1, len(problems)))
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: size - counts.sum()]] += 1
    return np.concatenate([pile[:count] for pile, count in zip(piles, counts, strict=True)] or [np.zeros(0, int)]).astype(int)


def _shuffled_piles(problems: Sequence[Problem], rng: np.random.Generator) -> list[np.ndarray]:
    """One shuffled array of indices per topic, ordered by topic name."""
    topics = np.array([problem.topic for problem in problems])
    return [rng.permutation(np.flatnonzero(topics == topic)) for topic in np.unique(topics)]


def _public_size(public: float, total: int) -> int:
    if not 0 <= public < 1:
        raise ValueError(f"data.public is a share of the questions, 0 <= public < 1, not {public}")
    return max(1, round(public * total)) if public else 0


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < np.inf:
        raise ValueError(f"data.alpha must be greater than 0 and finite, not {alpha}")


def _check_clients(num_clients: int, total: int, lost: str = "") -> None:
    if num_clients < 1:
        raise ValueError(f"federation.num_clients must be at least 1, not {num_clients}")
    if total < num_clients:
        raise ValueError(f"federation.num_clients is {num_clients}, but there are {total} private questions to share{lost}")


def _listed(indices: np.ndarray) -> list[int]:
    return sorted(int(i) for i in indices)


def counts(split: Split, problems: Sequence[Problem]) -> tuple[list[str], np.ndarray]:
    """The topics, and int[T, 1 + C]: per topic, the number of public questions and of each client's private questions."""
    held = [split.public, *split.clients]
    names = topics([problems[i] for part in held for i in part])
    row = {name: t for t, name in enumerate(names)}
    table = np.zeros((len(names), len(held)), int)
    for column, part in enumerate(held):
        for i in part:
            table[row[problems[i].topic], column] += 1
    return names, table
