"""Channels that carry records as bytes, for clients and a server in processes of their own.

A client's process runs the federation with one client, its own, and `client_end` as its channel. The server's process calls
`serve` for every event; it needs no model.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pubswap_jax.algorithm.aggregation import broadcast
from pubswap_jax.algorithm.server import exchange
from pubswap_jax.records import Record, joined
from pubswap_jax.types import Array, Channel, Rollout, Server, ServerState, Verdict


def packed(channel: Channel) -> Channel:
    """The same channel, with every record turned into bytes and back: nothing crosses but what the bytes say."""

    def by(way: Callable[[Record], Record]) -> Callable[[Record], Record]:
        def carry(record: Record) -> Record:
            passed = way(record)
            count = len(jax.tree.leaves(passed.arrays)[0])
            there = joined([Record.unpack(passed.pack(client), passed) for client in range(count)])
            return there.replace(who=record.who)

        return carry

    return Channel(by(channel.up), by(channel.down))


def client_end(send: Callable[[bytes], None], receive: Callable[[], bytes]) -> Channel:
    """A client's end of a connection. `down` waits for the server's record; its argument says what arrays to expect."""

    def up(record: Record) -> Record:
        send(record.pack())
        return record

    return Channel(up, lambda record: Record.unpack(receive(), record))


def server_end(ends: Sequence[tuple[Callable[[bytes], None], Callable[[], bytes]]], channel: Channel) -> Channel:
    """The server's end of all connections, as (send, receive). Every record passes `channel`, the server's gate."""

    def up(record: Record) -> Record:
        found = joined([Record.unpack(receive(), record) for _, receive in ends])
        return channel.up(found.replace(who=record.who))

    def down(record: Record) -> Record:
        passed = channel.down(record)
        for client, (send, _) in enumerate(ends):
            send(passed.pack(client))
        return passed

    return Channel(up, down)


def serve(
    server: Server, state: ServerState, channel: Channel, kind: str, shapes: Mapping, ids=None, key: Array | None = None
) -> ServerState:
    """The server's half of one event, for clients that all take part.

    Args:
      kind: the event's.
      shapes: what the clients' records hold: `rollouts` and `verdicts` of a step [C, ...], `counters`, and `uploads`.
      ids: int32[C, B], the public questions of a public step.
      key: of a public step's swap.
    """
    count = len(jax.tree.leaves(shapes["counters"])[0])
    if kind == "open":
        channel.down(Record("adapters", "down", broadcast(server.download(state), count)))
    if kind == "public":
        exchange(server, channel, key, (Rollout(*shapes["rollouts"]), Verdict(*shapes["verdicts"])), ids, None, None)
    if kind in ("private", "public"):
        channel.up(Record("counters", "up", shapes["counters"]))
    if kind == "close":
        uploads = channel.up(Record("adapters", "up", shapes["uploads"])).arrays
        return server.aggregate(state, uploads, jnp.ones(count), jnp.zeros(count, np.int32), {})
    return state
