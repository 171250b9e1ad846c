"""What counts as cut off; the rest of update.py is tested through `Algorithm.update` in test_steps.py."""

import jax.numpy as jnp

from pubswap_jax.types import Rollout
from pubswap_jax.update import is_truncated


def test_a_response_is_truncated_where_it_fills_the_length_and_never_ends():
    tokens = jnp.array([[[5, 9, 0], [5, 6, 9], [5, 6, 7], [5, 6, 8]]])
    mask = jnp.array([[[True, True, False], [True] * 3, [True] * 3, [True] * 3]])
    rollout = Rollout(tokens, mask, jnp.zeros(tokens.shape))
    assert is_truncated(rollout, (9,)).tolist() == [[False, False, True, True]]
    assert is_truncated(rollout, (8, 9)).tolist() == [[False, False, True, False]]
    assert is_truncated(rollout, ()).tolist() == [[False, True, True, True]]
