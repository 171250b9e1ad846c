"""The swap of responses between clients on a public step: planners choose who gives what to whom, `apply_swap` moves it.

The swap, the aggregation rules and the measures of drift are the only functions that mix clients.

A planner uses correctness bits alone: (key, correct bool[C, B, G], present bool[C]) -> SwapPlan. `apply_swap` then moves data
by one gather. Donors are always other clients. An absent client neither gives nor receives. Slots and donors are drawn
uniformly without replacement, independently for every receiver.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from pubswap_jax.algorithm.losses import masked_mean, zero_variance
from pubswap_jax.types import Array, PyTree, SwapPlan, Verdict


def check_present(present: Array | None, num_clients: int) -> Array:
    """Which clients take part, as bool[C]: all for None; for sizes or weights, those whose number is not 0."""
    present = jnp.ones(num_clients, bool) if present is None else jnp.asarray(present).astype(bool)
    if present.shape != (num_clients,):
        raise ValueError(f"present: bool[{num_clients}] expected, one a client, got shape {present.shape}")
    return present


def balanced(key: Array, correct: Array, present: Array | None = None) -> SwapPlan:
    """Planner of PubSwap: a group's wrong slots take other clients' right responses, until ⌊G/2⌋ of its responses are right.

    need = min(max(⌊G/2⌋ − c, 0), |D|, G − c), where c counts the group's right responses and D holds other clients' right ones.
    """

    def draw(key, own, pool, foreign):
        donors = pool & foreign
        return _draw(key, ~own, donors, _balanced_need(own, donors))

    return _plan(draw, key, correct, present)


def random_swap(key: Array, correct: Array, present: Array | None = None) -> SwapPlan:
    """Control for `balanced`: the same number of swaps per group, but any slot takes any response of other clients."""

    def draw(key, own, pool, foreign):
        anything = jnp.broadcast_to(foreign, pool.shape)
        return _draw(key, jnp.ones_like(own), anything, _balanced_need(own, pool & foreign))

    return _plan(draw, key, correct, present)


def rescue(key: Array, correct: Array, present: Array | None = None) -> SwapPlan:
    """Planner: a group without a right response takes one from another client."""

    def draw(key, own, pool, foreign):
        donors = pool & foreign
        return _draw(key, ~own, donors, jnp.where(own.any(-1), 0, jnp.minimum(donors.sum(-1), 1)))

    return _plan(draw, key, correct, present)


def swap_all(key: Array, correct: Array, present: Array | None = None) -> SwapPlan:
    """Planner: every wrong slot of a group takes another client's right response, as long as there are donors."""

    def draw(key, own, pool, foreign):
        donors = pool & foreign
        return _draw(key, ~own, donors, jnp.minimum(donors.sum(-1), (~own).sum(-1)))

    return _plan(draw, key, correct, present)


def max_variance(key: Array, correct: Array, present: Array | None = None) -> SwapPlan:
    """Planner: the fewest swaps that maximise a group's reward variance p(1 − p), as far as other clients' responses allow.

    A group with fewer than ⌊G/2⌋ right responses is treated as in `balanced`. In a group with more than ⌈G/2⌉, right slots take
    other clients' wrong responses until ⌈G/2⌉ right responses remain.
    """

    def draw(key, own, pool, foreign):
        few = own.sum(-1, keepdims=True) < own.shape[-1] // 2
        donors = (pool == few) & foreign  # right responses where the group has too few, else wrong responses
        excess = jnp.maximum(own.sum(-1) - (own.shape[-1] + 1) // 2, 0)
        need = jnp.where(few[..., 0], _balanced_need(own, donors), jnp.minimum(excess, donors.sum(-1)))
        return _draw(key, jnp.where(few, ~own, own), donors, need)

    return _plan(draw, key, correct, present)


def no_swap(key: Array, correct: Array, present: Array | None = None) -> SwapPlan:
    """Planner without a swap: every client keeps its own responses. For private steps, or as control of a public step."""
    correct, _ = _checked(correct, present)
    clients, _, group = correct.shape
    source = jnp.arange(clients * group, dtype=jnp.int32).reshape(clients, 1, group)
    # `correct & False`, not zeros: a compiled plan that reads nothing of `correct` would not lie on its devices.
    return SwapPlan(jnp.broadcast_to(source, correct.shape), correct & False)


def apply_swap(plan: SwapPlan, tree: PyTree) -> PyTree:
    """Moves the responses that a plan swaps, in every leaf [C, B, G, ...] of a tree.

    out[c, b, g] = leaf[client, b, slot] with client·G + slot = source[c, b, g].
    """
    clients, prompts, group = plan.source.shape

    def gather(leaf):
        if leaf.shape[:3] != plan.source.shape:
            raise ValueError(f"tree: leaves of shape {plan.source.shape} + (...) expected, as the plan has; got {leaf.shape}")
        pool = jnp.swapaxes(leaf, 0, 1).reshape(prompts, clients * group, *leaf.shape[3:])
        return jax.vmap(jax.vmap(lambda responses, source: responses[source]), in_axes=(None, 0))(pool, plan.source)

    return jax.tree.map(gather, tree)


# --- the draw ---------------------------------------------------------------------------------------------------------


def _plan(draw: Callable, key: Array, correct: Array, present: Array | None) -> SwapPlan:
    """Makes a SwapPlan: runs `draw(key, own bool[B, G], pool bool[B, C·G], foreign bool[1, C·G])` for every client.

    `foreign` marks the responses that this client may receive: those of other, present clients. It is all False if this client
    is absent.
    """
    correct, present = _checked(correct, present)
    clients, prompts, group = correct.shape
    pool = jnp.swapaxes(correct, 0, 1).reshape(prompts, clients * group)
    owner = jnp.repeat(jnp.arange(clients, dtype=jnp.int32), group)
    own_slots = jnp.arange(group, dtype=jnp.int32)

    def receive(client, own):
        foreign = ((owner != client) & present[owner] & present[client])[None]
        chosen, donor = draw(jax.random.fold_in(key, client), own, pool, foreign)
        return SwapPlan(jnp.where(chosen, donor, client * group + own_slots[None]), chosen)

    return jax.vmap(receive, spmd_axis_name="client")(jnp.arange(clients, dtype=jnp.int32), correct)


def _checked(correct: Array, present: Array | None) -> tuple[Array, Array]:
    correct = jnp.asarray(correct)
    if correct.ndim != 3 or correct.dtype != bool:
        raise ValueError(f"correct: bool[C, B, G] expected, got {correct.dtype}{list(correct.shape)}")
    return correct, check_present(present, correct.shape[0])


def _draw(key: Array, slots: Array, donors: Array, need: Array) -> tuple[Array, Array]:
    """Pairs `need` random slots with `need` random donors. bool[B, G], bool[B, N], int[B] -> bool[B, G], int32[B, G]."""
    slot_key, donor_key = jax.random.split(key)
    rank = jnp.argsort(_shuffled(slot_key, slots), axis=-1)
    donor = _shuffled(donor_key, donors)
    chosen = rank < need[:, None]
    last = donors.shape[-1] - 1  # the rank of a slot that is not chosen may exceed the number of donors
    return chosen, jnp.take_along_axis(donor, jnp.minimum(rank, last), axis=-1).astype(jnp.int32)


def _shuffled(key: Array, eligible: Array) -> Array:
    """For each row, the indices of its entries in a random order, those of eligible entries first."""
    return jnp.argsort(jnp.where(eligible, jax.random.uniform(key, eligible.shape), 2.0), axis=-1)


def _balanced_need(own: Array, donors: Array) -> Array:
    right, group = own.sum(-1), own.shape[-1]
    wanted = jnp.maximum(group // 2 - right, 0)
    return jnp.minimum(wanted, donors.sum(-1))


# --- metrics ---------------------------------------------------------------------------------------------------------


def swap_metrics(plan: SwapPlan, before: Verdict, after: Verdict, mask: Array) -> dict[str, Array]:
    """Swap metrics per client, f32[C] each: shares of swapped slots and tokens, of rescued groups and of zero-variance groups.

    `mask` is the mask of the rollouts after the swap. A rescued group had no right response before the swap and has one after
    it. `variance` is the reward variance of a group, averaged over groups: p(1 − p) if a share p of the group is right.
    """
    rescued = ~before.correct.any(-1) & after.correct.any(-1)
    return {
        "swapped": plan.swapped.mean(axis=(1, 2)),
        "swapped_tokens": masked_mean(jnp.broadcast_to(plan.swapped[..., None], mask.shape), mask, axis=(1, 2, 3)),
        "rescued": rescued.mean(axis=1),
        "zero_variance_before": zero_variance(before.reward).mean(axis=1),
        "zero_variance_after": zero_variance(after.reward).mean(axis=1),
        "variance_before": before.reward.var(axis=-1).mean(axis=1),
        "variance_after": after.reward.var(axis=-1).mean(axis=1),
    }


@jax.jit
def donor_matrix(plan: SwapPlan) -> Array:
    """The number of responses that each receiver (row) took from each donor (column). int32[C, C]."""
    clients, _, group = plan.source.shape
    donor = jax.nn.one_hot(plan.source // group, clients, dtype=jnp.int32)
    return jnp.sum(donor, axis=(1, 2), where=plan.swapped[..., None])
