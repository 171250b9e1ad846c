"""Mutual information between the codes of blocks at growing offsets, and what of it chance alone would show."""

import numpy as np


def mutual_information(first: np.ndarray, second: np.ndarray, codes: int) -> float:
    """I(A; B) in bits from counts of pairs int[N] of codes: Σ p(a, b) log₂ p(a, b)/(p(a) p(b))."""
    joint = np.bincount(first * codes + second, minlength=codes * codes).reshape(codes, codes) / len(first)
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    some = joint > 0
    return float((joint[some] * np.log2(joint[some] / apart[some])).sum())


def used(codes: np.ndarray, total: int) -> int:
    """How many of all codes occur."""
    return int((np.bincount(codes.reshape(-1), minlength=total) > 0).sum())


def by_offset(codes: np.ndarray, total: int, chance: np.random.Generator, shuffles: int = 5) -> dict | None:
    """{"bits", "chance"}: I between blocks at offset 1, 2, …; None where fewer than half of the codes are used.

    "chance" is the same estimate with the second block taken from another sequence: the bias of counting few pairs in many
    cells. Pairs of all starting blocks are counted together.
    """
    if used(codes, total) < total / 2:
        return None
    N, L = codes.shape
    found = {"bits": [], "chance": []}
    for offset in range(1, L):
        first, second = codes[:, :-offset], codes[:, offset:]
        found["bits"].append(mutual_information(first.reshape(-1), second.reshape(-1), total))
        mixed = [
            mutual_information(first.reshape(-1), second[chance.permutation(N)].reshape(-1), total) for _ in range(shuffles)
        ]
        found["chance"].append(float(np.mean(mixed)))
    return found


def normalised(found: dict) -> np.ndarray:
    """(I − chance) over the largest of them in the same experiment, as the paper's nMI. f64[offsets]."""
    above = np.array(found["bits"]) - np.array(found["chance"])
    return above / max(above.max(), 1e-12)
