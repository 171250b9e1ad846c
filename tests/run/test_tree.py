"""Rows of stacked trees against numpy indexing."""

import jax
import numpy as np

from pubswap_jax.run import tree

STACKED = {"x": np.arange(24.0).reshape(4, 3, 2), "y": {"z": np.arange(4, dtype=np.int32)}}


def same(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert a.dtype == b.dtype and np.asarray(a).tolist() == np.asarray(b).tolist()


def test_parts_joined_are_the_whole():
    assert tree.length(STACKED) == 4
    stacked = jax.device_put(STACKED)
    same(tree.joined([tree.part(stacked, 0, 3), tree.part(stacked, 3, 1)]), stacked)
    assert tree.joined([stacked]) is stacked


def test_rows_spread_and_put_back():
    stacked, who = jax.device_put(STACKED), np.array([3, 1], np.int32)
    some = tree.rows(stacked, who)
    same(some, jax.tree.map(lambda x: x[who], stacked))
    there = np.array([False, True, False, True])
    zeroed = {"x": STACKED["x"] * there[:, None, None], "y": {"z": STACKED["y"]["z"] * there}}
    same(tree.spread(some, who, 4), jax.device_put(jax.tree.map(lambda x, y: x.astype(y.dtype), zeroed, STACKED)))
    same(tree.put_back(jax.tree.map(lambda x: x * 0, stacked), some, who), tree.spread(some, who, 4))
    same(tree.put_back(stacked, some, who), stacked)


def test_other_rows_of_the_same_number_run_the_same_program():
    tree.rows(STACKED, np.array([0, 1], np.int32))
    compiled = tree.rows._cache_size()
    tree.rows(STACKED, np.array([2, 3], np.int32))
    assert tree.rows._cache_size() == compiled
