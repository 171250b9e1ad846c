"""The server of PubSwap: it plans swaps and aggregates, and is built without a model."""

from functools import partial

import jax
import jax.numpy as jnp

from pubswap_jax.algorithm.aggregation import broadcast, choose, fedavg, mean, sound
from pubswap_jax.algorithm.swap import apply_swap, balanced
from pubswap_jax.records import Record
from pubswap_jax.types import Aggregator, Array, Channel, Planner, PyTree, Rollout, Server, ServerState, SwapPlan, Verdict


def make_server(planner: Planner = balanced, aggregator: Aggregator = mean(), *, moments: str = "reset") -> Server:
    """A PubSwap server: `planner` plans its swaps, `aggregator` makes its next adapter. It knows no model."""

    def init(adapter: PyTree, opt_state: PyTree) -> ServerState:
        averaged = opt_state if moments == "average" and aggregator.shares else ()
        return ServerState(adapter, averaged, jnp.zeros((), jnp.int32), aggregator.init(adapter))

    def download(server: ServerState) -> PyTree | None:
        if not aggregator.shares:
            return None
        return {"adapter": server.adapter} | ({"moments": server.moments} if moments == "average" else {})

    def send(server: ServerState, num_clients: int) -> PyTree:
        coming = broadcast(download(server), num_clients)
        sent = aggregator.sends(server.memory, num_clients)
        starts = {} if aggregator.starts is None else {"adapter": aggregator.starts(server.memory)}
        return coming | starts | ({"sent": sent} if jax.tree.leaves(sent) else {})

    def swap(key: Array, correct: Array, responses: PyTree, present: Array | None = None) -> tuple[PyTree, SwapPlan]:
        plan = planner(key, correct, present)
        return apply_swap(plan, responses), plan

    def aggregate(server: ServerState, uploads: PyTree, weights: Array, staleness: Array, extra: PyTree) -> ServerState:
        if not aggregator.shares:
            return server.replace(round=server.round + 1)
        here = sound(uploads)
        weights = jnp.where(here, weights, 0)
        # A user's rule may multiply a NaN by its weight of 0.
        adapters = choose(here, uploads["adapter"], broadcast(server.adapter, here.shape[0]))
        due = jnp.asarray(aggregator.due(server.memory, weights), jnp.int32)
        following = server.replace(round=server.round + due)
        somebody = weights.sum() > 0  # else the adapter stays what it was
        keep = partial(jax.tree.map, lambda new, old: jnp.where(somebody, new, old))
        adapter, memory = aggregator.apply(server.memory, server.adapter, adapters, weights, staleness, extra)
        following = following.replace(adapter=keep(adapter, server.adapter), memory=keep(memory, server.memory))
        if not jax.tree.leaves(uploads.get("moments", ())):  # an optimizer without state has none to average
            return following
        return following.replace(moments=keep(fedavg(uploads["moments"], weights), server.moments))

    return Server(download, swap, aggregate, init, send, aggregator.needs, aggregator.gathers)


def exchange(server: Server, channel: Channel, key: Array, own: tuple[Rollout, Verdict], ids, who, present) -> tuple:
    """A public step's exchange: own responses and verdicts go up, swapped ones come down.

    Returns what comes down, and the plan.
    """
    rollouts, verdicts = own
    channel.down(Record("questions", "down", {"numbers": ids}, ids, who))
    said = channel.up(Record("responses", "up", {"tokens": rollouts.tokens, "mask": rollouts.mask}, ids, who)).arrays
    found = channel.up(Record("verdicts", "up", {"correct": verdicts.correct, "reward": verdicts.reward}, ids, who)).arrays
    swapped, plan = server.swap(key, found["correct"], said | found, present)
    given = channel.down(Record("responses", "down", swapped | {"slots": plan.swapped}, ids, who)).arrays
    return given, plan.replace(swapped=given["slots"])
