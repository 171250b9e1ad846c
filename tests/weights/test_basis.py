"""The digest of an adapter family's frozen arrays: the same everywhere, and another one after one flipped sign."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pubswap_jax.weights.basis import basis_digest, check_basis


def test_a_flipped_sign_another_path_and_another_shape_give_other_digests():
    basis = {"layers_0": {"q_proj": {"a": jnp.arange(1.0, 7).reshape(2, 3)}}}
    found = basis_digest(basis)
    assert len(found) == 64 and found == basis_digest(jax.tree.map(np.array, basis))
    flipped = jax.tree.map(lambda x: x.at[1, 2].multiply(-1), basis)
    moved = {"layers_1": basis["layers_0"]}
    turned, narrow = (jax.tree.map(change, basis) for change in (lambda x: x.reshape(3, 2), lambda x: x.astype("bfloat16")))
    assert len({found, *map(basis_digest, (flipped, moved, turned, narrow))}) == 5


def test_a_note_is_compared_where_there_is_one():
    assert basis_digest({}) == ""
    check_basis("run.json", "", "f" * 64)
    check_basis("run.json", "f" * 64, "f" * 64)
    with pytest.raises(ValueError, match="run.json: the adapter's frozen arrays are others: SHA-256 0{12} before, f{12} now"):
        check_basis("run.json", "0" * 64, "f" * 64)
    with pytest.raises(ValueError, match="before, none now; give the seed"):
        check_basis("run.json", "0" * 64, "")
