"""The assembly: one factory of pure functions, written for one client and vmapped over the client axis.

A private step and a public step are the same step: prompts → rollout → verdict → update. A public one shares its prompts among
the clients and inserts `swap` before the update.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from pubswap_jax.algorithm.aggregation import broadcast, check_weights, choose, fedavg, mean, sound
from pubswap_jax.algorithm.losses import group_advantages, grpo_term, keep_truncated, kl_k1, per_sequence
from pubswap_jax.algorithm.swap import apply_swap, balanced, check_present, no_swap, swap_metrics
from pubswap_jax.algorithm.update import make_update
from pubswap_jax.policy.logps import check_temperature
from pubswap_jax.policy.sampling import sample
from pubswap_jax.types import (
    Aggregator,
    Array,
    Batch,
    ClientState,
    Hparams,
    Prompts,
    PyTree,
    Rollout,
    ServerState,
    SwapPlan,
    Verdict,
)


class Algorithm(NamedTuple):
    """One federated RLVR algorithm. Everything is stacked over clients; every function is pure and compiled."""

    init_clients: Callable[..., ClientState]  # (server, clients=None) -> clients
    rollout: Callable[..., Rollout]  # (params, clients, prompts, key, hparams) -> rollouts
    swap: Callable[..., tuple[Rollout, Verdict, SwapPlan]]  # (rollouts, verdicts, key, present=None)
    update: Callable[..., tuple[ClientState, dict[str, Array]]]
    # ^ (params, server, clients, prompts, rollouts, verdicts, plan, hparams) -> clients, metrics [C]
    aggregate: Callable[..., ServerState]  # (server, clients, weights) -> server


@flax.struct.dataclass
class StepRecord:
    """All that one step did, stacked over clients; on a private step before and after are the same."""

    rollouts: Rollout
    verdicts: Verdict
    swapped_rollouts: Rollout
    swapped_verdicts: Verdict
    plan: SwapPlan
    metrics: dict[str, Array]  # f32[C]


def pubswap(
    model,
    tx: optax.GradientTransformation,
    *,
    num_clients: int,
    group: int,
    swap: Callable[..., SwapPlan] = balanced,
    loss: Callable = grpo_term,
    aggregator: Aggregator = mean(),
    average_moments: bool = False,
    max_new_tokens: int | None = None,
    microbatch: int | None = None,
    clients_at_once: int | None = None,
    inner_epochs: int = 1,
    advantages: Callable = group_advantages,
    normalise: Callable = per_sequence,
    kl: Callable | None = None,
    kl_in_reward: bool = False,
    truncation: Callable = keep_truncated,
    importance: Callable | None = None,
    eos_ids: Sequence[int] | None = None,
    pad_id: int | None = None,
) -> Algorithm:
    """PubSwap (arXiv 2604.12160) as reconstructed from its public descriptions; docs/readings.md has the readings.

    Args:
      model: a Linen module with collections `params` and `lora`, and a `config`.
      tx: an optax transformation *without* a learning rate: adapter ← adapter − hparams.lr · direction.
      num_clients: C. States with another number of clients run too (a client's own process has C = 1).
      group: G, responses a prompt (the paper's K).
      swap: the planner of a public step; `no_swap` is the control.
      loss: a token's term, e.g. `grpo_term`; one of losses.py.
      aggregator: how the clients' adapters become the server's; `mean()` averages A and B apart, `alone()` shares nothing.
      average_moments: `aggregate` averages the optimizer's moments too, and clients start a round from them.
        Reading: the default resets them, since the paper says that a reset matters and not how it is done.
      max_new_tokens: R; by default the config's.
      microbatch: prompts at a time in the update; must divide B. The result does not depend on it.
      clients_at_once: clients whose updates run as one batch; None: all, as a mesh wants it. On a CPU one is fastest where a
        model is small, for its activations stay in the cache. The result does not depend on it.
      inner_epochs: gradient steps on one rollout; the clip acts only from the second one on.
      advantages: rewards [B, G] -> advantages [B, G].
      normalise: mask [B, G, R] -> the weight of every token, over the whole batch and all microbatches.
      kl: an estimator of losses.py against the base model, which costs one more forward pass. In the loss `kl_k2` has the
        gradient of KL(policy‖base), `kl_k3` that of KL(base‖policy), and `kl_k1` none on average.
      kl_in_reward: subtract hparams.kl_coef · Σ kl of a response from its reward instead, before advantages are computed. Only
        `kl_k1` is taken: there it has the gradient of KL(policy‖base) of whole responses. The KL is that before the first
        inner epoch. Advantages that divide by the rewards' deviation divide the KL too; see configs/README.md.
      truncation: what becomes of responses cut off by the length limit, one of losses.py.
      importance: (scorer log-probs, sampler log-probs) -> weights of a client's own tokens, e.g. `truncated_importance(2.)`.
      eos_ids, pad_id: by default the config's.
    """
    if group < 2:
        raise ValueError(f"group: at least 2 responses a prompt expected, since advantages compare them; got {group}")
    if num_clients < 1:
        raise ValueError(f"num_clients: 1 or more expected, got {num_clients}")
    if inner_epochs < 1:
        raise ValueError(f"inner_epochs: 1 or more expected, got {inner_epochs}")
    if kl_in_reward and kl is not kl_k1:
        raise ValueError("kl_in_reward: kl=kl_k1 expected; in the reward no other one has the gradient of the KL divergence")
    config = model.config
    max_new_tokens = config.max_new_tokens if max_new_tokens is None else max_new_tokens
    eos_ids = config.eos_ids if eos_ids is None else tuple(eos_ids)
    pad_id = config.pad_id if pad_id is None else pad_id

    @jax.jit
    def init_clients(server: ServerState, clients: ClientState | None = None) -> ClientState:
        if clients is not None and not aggregator.shares:
            return clients
        adapter = broadcast(server.adapter, num_clients if clients is None else clients.id.shape[0])
        if clients is not None:
            return clients.replace(adapter=adapter)
        moments = server.moments if average_moments and jax.tree.leaves(server.moments) else tx.init(server.adapter)
        return ClientState(jnp.arange(num_clients, dtype=jnp.int32), adapter, broadcast(moments, num_clients))

    @jax.jit
    def rollout(params: PyTree, clients: ClientState, prompts: Prompts, key: Array, hparams: Hparams) -> Rollout:
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, clients.id)
        return sample(
            model,
            params,
            clients.adapter,
            prompts,
            keys,
            group=group,
            max_new_tokens=max_new_tokens,
            temperature=hparams.temperature,
            eos_ids=eos_ids,
            pad_id=pad_id,
        )

    @jax.jit
    def exchange(
        rollouts: Rollout, verdicts: Verdict, key: Array, present: Array | None = None
    ) -> tuple[Rollout, Verdict, SwapPlan]:
        plan = swap(key, verdicts.correct, present)
        tokens, mask, verdicts = apply_swap(plan, (rollouts.tokens, rollouts.mask, verdicts))
        # A donor's log-probs stay at home: the ratio is against the receiver's own old policy.
        logps = jnp.where(plan.swapped[..., None], 0.0, rollouts.logps)
        return Rollout(tokens, mask, logps), verdicts, plan

    update_client = make_update(
        model,
        tx,
        loss=loss,
        microbatch=microbatch,
        inner_epochs=inner_epochs,
        advantages=advantages,
        normalise=normalise,
        kl=kl,
        kl_in_reward=kl_in_reward,
        truncation=truncation,
        importance=importance,
        eos_ids=eos_ids,
    )

    @jax.jit
    def update(params, server, clients, prompts, rollouts, verdicts, plan, hparams):
        check_shapes(prompts, rollouts, verdicts, plan)
        one = partial(update_client, params, server.adapter, hparams=hparams)
        stacked = (clients, prompts, rollouts, verdicts, plan.swapped)
        if clients_at_once is None:
            return jax.vmap(one, spmd_axis_name="client")(*stacked)
        return jax.lax.map(lambda client: one(*client), stacked, batch_size=clients_at_once)

    def aggregate(server: ServerState, clients: ClientState, weights: Array | None = None) -> ServerState:
        # Checked before jit, inside which no weight is known.
        return average_clients(server, clients, check_weights(weights, jax.tree.leaves(clients.adapter)[0].shape[0]))

    @jax.jit
    def average_clients(server, clients, weights):
        following = server.replace(round=server.round + 1)
        if not aggregator.shares:
            return following
        moments_too = average_moments and jax.tree.leaves(clients.opt_state)
        weights = jnp.where(sound((clients.adapter, clients.opt_state) if moments_too else clients.adapter), weights, 0)
        somebody = weights.sum() > 0  # else the adapter stays what it was
        keep = partial(jax.tree.map, lambda new, old: jnp.where(somebody, new, old))
        memory = server.memory if jax.tree.leaves(server.memory) else aggregator.init(server.adapter)
        fresh = jnp.zeros(weights.shape, jnp.int32)
        adapter, remembered = aggregator.apply(memory, server.adapter, clients.adapter, weights, fresh)
        following = following.replace(adapter=keep(adapter, server.adapter), memory=keep(remembered, memory))
        if not moments_too:
            return following
        moments = server.moments if jax.tree.leaves(server.moments) else tx.init(server.adapter)
        return following.replace(moments=keep(fedavg(clients.opt_state, weights), moments))

    return Algorithm(init_clients, rollout, exchange, update, aggregate)


def client_step(
    algorithm: Algorithm,
    params: PyTree,
    server: ServerState,
    clients: ClientState,
    batch: Batch,
    judge: Callable[[Rollout, Batch], Verdict],
    key: Array,
    hparams: Hparams,
    weights: Array | None = None,
    present: Array | None = None,
) -> tuple[ClientState, StepRecord]:
    """One step of all clients, private or public. A client of weight 0 is absent: it comes back as it was.

    `present` bool[C] says who takes part where it is known already; None: whoever has a weight.
    """
    count = clients.id.shape[0]
    if present is not None:
        present = check_present(present, count)
    elif weights is not None:
        present = check_weights(weights, count) > 0
    rollout_key, swap_key = _two_keys(key)
    rollouts = algorithm.rollout(params, clients, batch.prompts, rollout_key, hparams)
    verdicts = judge(rollouts, batch)
    if batch.public:
        swapped_rollouts, swapped_verdicts, plan = algorithm.swap(rollouts, verdicts, swap_key, present)
    else:
        swapped_rollouts, swapped_verdicts, plan = rollouts, verdicts, _own(swap_key, verdicts.correct)
    updated, metrics = algorithm.update(
        params, server, clients, batch.prompts, swapped_rollouts, swapped_verdicts, plan, hparams
    )
    if present is not None:
        updated = choose(present, updated, clients)
    metrics |= _swap_metrics(plan, verdicts, swapped_verdicts, swapped_rollouts.mask)
    return updated, StepRecord(rollouts, verdicts, swapped_rollouts, swapped_verdicts, plan, metrics)


def round_step(
    algorithm: Algorithm,
    params: PyTree,
    server: ServerState,
    batches: Sequence[Batch],
    judge: Callable[[Rollout, Batch], Verdict],
    key: Array,
    hparams: Hparams,
    weights: Array | None = None,
    clients: ClientState | None = None,
) -> tuple[ServerState, ClientState, dict[str, Array]]:
    """`client_step` over the batches, then `aggregate`; the clients come back as they were before averaging.

    `key` is the run's: it is folded with the round and the step. With a judge written in jax.numpy the whole round can be
    jitted, differentiated and vmapped. Metrics are f32[steps, C].
    """
    if not batches:
        raise ValueError("batches: at least one expected, one a step")
    check_temperature(hparams.temperature)
    clients = algorithm.init_clients(server, clients)
    if weights is not None:
        weights = check_weights(weights, clients.id.shape[0])
    round_key = jax.random.fold_in(key, server.round)
    records = []
    for step, batch in enumerate(batches):
        step_key = jax.random.fold_in(round_key, step)
        clients, record = client_step(algorithm, params, server, clients, batch, judge, step_key, hparams, weights)
        records.append(record.metrics)
    metrics = jax.tree.map(lambda *steps: jnp.stack(steps), *records)
    return algorithm.aggregate(server, clients, weights), clients, metrics


@jax.jit
def step_key(key: Array, at: Array) -> Array:
    """The run's key folded with (round, step), as `round_step` does. key, uint32[2] -> key."""
    return jax.random.fold_in(jax.random.fold_in(key, at[0]), at[1])


def check_shapes(prompts: Prompts, rollouts: Rollout, verdicts: Verdict, plan: SwapPlan) -> None:
    """Everything an update reads speaks of the same clients, prompts and groups; a ValueError names what does not."""
    if rollouts.tokens.ndim != 4:
        raise ValueError(f"rollouts.tokens: [C, B, G, R] expected, got {list(rollouts.tokens.shape)}")
    slots = rollouts.tokens.shape[:3]
    expected = {
        "rollouts.mask": (rollouts.mask, rollouts.tokens.shape),
        "verdicts.reward": (verdicts.reward, slots),
        "plan.swapped": (plan.swapped, slots),
        "prompts.tokens": (prompts.tokens, (*slots[:2], prompts.tokens.shape[-1])),
        "prompts.mask": (prompts.mask, prompts.tokens.shape),
    }
    for name, (array, shape) in expected.items():
        if array.shape != tuple(shape):
            raise ValueError(f"{name}: shape {list(shape)} expected beside rollouts of {list(slots)}, got {list(array.shape)}")


# Compiled, so that a step is a few programs and no constant of theirs is sent from the host. The plan of no swap reads none of
# its arguments, but must lie on their devices.
_two_keys, _own, _swap_metrics = jax.jit(jax.random.split), jax.jit(no_swap, keep_unused=True), jax.jit(swap_metrics)
