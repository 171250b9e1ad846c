"""A digest of an adapter family's frozen arrays, by which a later load notices that its own frozen arrays differ."""

import hashlib

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from pubswap_jax.types import PyTree


def basis_digest(basis: PyTree) -> str:
    """SHA-256 of the paths, dtypes, shapes and bytes of all frozen arrays; empty for a family without frozen arrays."""
    if not basis:
        return ""
    total = hashlib.sha256()
    for path, leaf in sorted(flatten_dict(basis).items()):
        array = np.asarray(jax.device_get(leaf))
        total.update(f"{'/'.join(path)} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return total.hexdigest()


def check_basis(where: str, theirs: str, ours: str) -> None:
    """Raises if the digest noted in `where` is not that of the frozen arrays at hand. An empty note is not checked."""
    if theirs and theirs != ours:
        raise ValueError(
            f"{where}: the adapter's frozen arrays are others: SHA-256 {theirs[:12]} before, {ours[:12] or 'none'} now; give "
            f"the seed, the family and the versions of JAX and numpy that the adapter was trained with"
        )
