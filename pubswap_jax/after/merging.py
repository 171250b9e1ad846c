"""FlexMerge (arXiv 2505.23209): merges N adapters block by block, greedily, and stops at any size from 1x to Nx.

A block is a group of linear layers, for example one layer of the transformer. Its task vector is ΔW = P Q of all of them.
Groups of a block start with one adapter each. The globally most similar pair of groups is merged, until one group is left in
each block. ΔW is never formed, except by `ties`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Group = tuple[int, ...]  # adapters that share a block, in ascending order


class Factors(NamedTuple):
    """The change of one linear layer's matrix as a product of two low-rank factors, ΔW = P Q."""

    p: np.ndarray  # [in, k]; of N adapters [N, in, k]
    q: np.ndarray  # [k, out]; of N adapters [N, k, out]


Block = Mapping[str, Factors]  # linear layer -> factors


class Step(NamedTuple):
    """One merge: the block, the two groups that become one, and how similar they are."""

    block: int
    members: Group  # of both groups
    similarity: float  # the least cosine between a member of one group and a member of the other


class Merged(NamedTuple):
    """The block of a merged group: its factors, and the error of cutting them to a rank."""

    block: Block  # P [in, k], Q [k, out]
    error: float  # ‖ΔW − P Q‖ / ‖ΔW‖ over the block; 0: exact


Merge = Callable[[Block, Group], Merged]  # (the N adapters' block, two or more members) -> the block that they share


# --- which groups share a block -----------------------------------------------------------------------------------------


def gram(block: Block) -> np.ndarray:
    """f64[N, N]: the inner products ⟨ΔWᵢ, ΔWⱼ⟩ = Σ (PᵢᵀPⱼ) ⊙ (QᵢQⱼᵀ) of N adapters in one block, summed over its layers."""
    total = 0.0
    for p, q in block.values():
        clients, _, rank = p.shape
        columns, rows = _beside(p), q.reshape(clients * rank, -1)
        # x.T @ x of one array is computed as a symmetric product, at half the cost.
        inner = (columns.T @ columns) * (rows @ rows.T)
        total = total + inner.reshape(clients, rank, clients, rank).sum((1, 3), dtype=np.float64)
    return total


def cosines(products: np.ndarray) -> np.ndarray:
    """Pairwise cosines from a Gram matrix [N, N]. A zero vector has cosine 0 with all others.

    They are rounded to 6 decimals. Otherwise the last bits, which differ between machines, would decide ties.
    """
    norms = np.sqrt(np.diagonal(products))
    scale = np.where(norms > 0, 1 / np.where(norms > 0, norms, 1), 0)
    return np.round(products * scale[:, None] * scale, 6)


def order(similarity: np.ndarray) -> list[Step]:
    """The order in which FlexMerge merges: all B (N − 1) merges of B blocks and N clients, the most similar pair first.

    `similarity` is f64[B, N, N], the cosines of each block.

    The similarity of two groups is the minimum over pairs of their members. Ties go to the lower block, then to the pair of
    groups with the lower least members.
    """
    between = np.array(similarity, float)
    blocks, clients, _ = between.shape
    between[:, ~np.triu(np.ones((clients, clients), bool), 1)] = -np.inf  # a pair stands once, at [lower, higher]
    members = [{i: (i,) for i in range(clients)} for _ in range(blocks)]  # a group is named by its least member
    steps = []
    for _ in range(blocks * (clients - 1)):
        block, first, second = (int(i) for i in np.unravel_index(np.argmax(between), between.shape))
        joined = tuple(sorted(members[block][first] + members[block].pop(second)))
        steps.append(Step(block, joined, float(between[block, first, second])))
        members[block][first] = joined
        pairs, gone = between[block], []
        for other in members[block]:
            if other != first:
                (a, b), (c, d) = sorted((first, other)), sorted((second, other))
                pairs[a, b] = min(pairs[a, b], pairs[c, d])
                gone.append((c, d))
        for pair in [*gone, (first, second)]:
            pairs[pair] = -np.inf
    return steps


def groups_at(steps: Sequence[Step], size: float, clients: int, weights: np.ndarray) -> list[list[Group]]:
    """Each block's groups when merging stops: after the fewest steps that leave at most `size` models.

    `weights`: blocks' sizes.
    """
    if not 1 <= size <= clients:
        raise ValueError(f"size={size:g}: 1 to {clients} expected, since there are {clients} adapters")
    groups = [{(i,) for i in range(clients)} for _ in weights]
    for step in steps:
        if size_of(groups, weights) <= size + 1e-9:
            break
        groups[step.block] = {group for group in groups[step.block] if not set(group) <= set(step.members)} | {step.members}
    return [sorted(block) for block in groups]


def size_of(groups: Sequence[Sequence[Group]], weights: np.ndarray) -> float:
    """How many models' worth of blocks the groups need, 1 to N: one block a group, weighed by parameters, `weights` f64[B]."""
    counts = np.array([len(block) for block in groups], float)
    return float(counts @ weights / np.sum(weights))


def group_of(groups: Sequence[Group], client: int) -> Group:
    """The group of one block that contains the client."""
    return next(group for group in groups if client in group)


# --- the block that a group shares --------------------------------------------------------------------------------------


def own(block: Block, client: int) -> Block:
    """The block with one adapter's factors alone, taken from a block that holds all adapters."""
    return {name: Factors(p[client], q[client]) for name, (p, q) in block.items()}


def average(rank: int = 0) -> Merge:
    """Returns the merge (1/n) Σ ΔWᵢ of n adapters of rank r: exact at rank n·r, or cut to `rank` by an SVD."""
    return task_arithmetic(1.0, rank)


def task_arithmetic(scale: float = 1.5, rank: int = 0) -> Merge:
    """Returns the merge (scale/n) Σ ΔWᵢ of n adapters of rank r (Ilharco et al., arXiv 2212.04089).

    It is exact at rank n·r, or cut to `rank` by an SVD.

    Reading: the factor is that of the mean, as in FlexMerge's experiments with images, whose scale is 1.5.
    """

    def merge(block: Block, members: Group) -> Merged:
        chosen, share = list(members), scale / len(members)
        merged = {}
        for name, (p, q) in block.items():
            merged[name] = Factors(p.dtype.type(share) * _beside(p[chosen]), q[chosen].reshape(-1, q.shape[-1]))
        return cut(merged, rank) if rank else Merged(merged, 0.0)

    return merge


def ties(density: float = 0.2, rank: int = 0) -> Merge:
    """Returns the TIES merge (arXiv 2306.01708): trims small entries, elects signs, and averages the entries that agree.

    Each adapter keeps its largest `density` of a block's entries. An entry's sign is that of the sum. The result is the mean
    over the adapters that kept the entry with this sign. It has full rank, and is cut to the best approximation of rank `rank`;
    0: n·r. The threshold needs the dense matrices of one adapter's whole block, and the merge those of all members of a layer.
    """

    def merge(block: Block, members: Group) -> Merged:
        thresholds = {i: _threshold(own(block, i), density) for i in members}
        merged, lost, whole = {}, 0.0, 0.0
        for name, (p, q) in block.items():
            dense = _elected([_trimmed(p[i] @ q[i], thresholds[i]) for i in members])
            merged[name] = _leading(dense, rank or len(members) * p.shape[-1])
            lost += float(np.sum(np.square(dense - merged[name].p @ merged[name].q)))
            whole += float(np.sum(np.square(dense)))
        return Merged(merged, (lost / whole) ** 0.5 if whole else 0.0)

    return merge


def cut(block: Block, rank: int) -> Merged:
    """The best approximation of a block by this rank, computed from its factors P and Q by an SVD: ΔW is not formed."""
    merged, lost, whole = {}, 0.0, 0.0
    for name, (p, q) in block.items():
        (left, upper), (right, lower) = np.linalg.qr(p), np.linalg.qr(q.T)
        u, sigma, v = np.linalg.svd(upper @ lower.T, full_matrices=False)
        kept = min(rank, len(sigma))
        merged[name] = Factors(left @ u[:, :kept] * sigma[:kept], v[:kept] @ right.T)
        lost, whole = lost + float(np.sum(sigma[kept:] ** 2)), whole + float(np.sum(sigma**2))
    return Merged(merged, (lost / whole) ** 0.5 if whole else 0.0)


def _beside(p: np.ndarray) -> np.ndarray:
    """Joins the adapters' columns side by side: [N, in, k] -> [in, N·k]."""
    return np.moveaxis(p, 0, 1).reshape(p.shape[1], -1)


def _threshold(block: Block, density: float) -> float:
    """The magnitude above which a share `density` of the block's entries lies."""
    entries = np.concatenate([np.abs(p @ q).ravel() for p, q in block.values()])
    kept = max(1, int(np.ceil(density * entries.size - 1e-9)))
    return float(np.partition(entries, entries.size - kept)[entries.size - kept])


def _trimmed(dense: np.ndarray, threshold: float) -> np.ndarray:
    return np.where(np.abs(dense) >= threshold, dense, 0)


def _elected(trimmed: Sequence[np.ndarray]) -> np.ndarray:
    """For each entry, the mean over the adapters whose value has the sign of the sum of all values; 0 where that sum is 0."""
    sign = np.sign(sum(trimmed))
    total, count = np.zeros_like(trimmed[0]), np.zeros_like(trimmed[0])
    for one in trimmed:
        agrees = (np.sign(one) == sign) & (sign != 0)
        total += np.where(agrees, one, 0)
        count += agrees
    return total / np.maximum(count, 1)


def _leading(dense: np.ndarray, rank: int) -> Factors:
    """The best approximation of a dense matrix W by this rank, as factors; from eigenvectors of the smaller of W Wᵀ and WᵀW."""
    rank = min(rank, *dense.shape)
    wide = dense.astype(np.float64)
    if dense.shape[0] <= dense.shape[1]:
        left = np.linalg.eigh(wide @ wide.T)[1][:, ::-1][:, :rank]
        return Factors(left.astype(dense.dtype), (left.T @ wide).astype(dense.dtype))
    right = np.linalg.eigh(wide.T @ wide)[1][:, ::-1][:, :rank]
    return Factors((wide @ right).astype(dense.dtype), right.T.astype(dense.dtype))
