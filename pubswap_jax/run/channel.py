"""Channels that carry records as bytes, for clients and a server in processes of their own.

A run in one process does not use this file: its channel is the gate of ledger.py. Here a client's process runs the
federation with one client, its own, and `client_end` as its channel. The server's process makes a service and calls it for
every event; no model is loaded there.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pubswap_jax.algorithm.aggregation import broadcast
from pubswap_jax.algorithm.server import exchange
from pubswap_jax.records import Record, joined
from pubswap_jax.types import Array, Channel, PyTree, Rollout, Server, ServerState, Verdict


def packed(channel: Channel) -> Channel:
    """The same channel, except that records leave it as bytes that were read again: nothing crosses but what the bytes say."""

    def by(way: Callable[[Record], Record]) -> Callable[[Record], Record]:
        def carry(record: Record) -> Record:
            passed = way(record)
            count = len(jax.tree.leaves(passed.arrays)[0])
            there = joined([Record.unpack(passed.pack(client), passed) for client in range(count)])
            return there.replace(who=record.who)

        return carry

    return Channel(by(channel.up), by(channel.down))


def client_end(send: Callable[[bytes], None], receive: Callable[[], bytes]) -> Channel:
    """The channel of a client's process, over a connection. `down` waits for the server's record.

    The argument of `down` says what arrays to expect.
    """

    def up(record: Record) -> Record:
        send(record.pack())
        return record

    return Channel(up, lambda record: Record.unpack(receive(), record))


def server_end(ends: Sequence[tuple[Callable[[bytes], None], Callable[[], bytes]]], channel: Channel) -> Channel:
    """The channel of the server's process, over connections to all clients as (send, receive).

    Every record passes `channel`, the server's gate.
    """

    def up(record: Record) -> Record:
        found = joined([Record.unpack(receive(), record) for _, receive in ends])
        return channel.up(found.replace(who=record.who))

    def down(record: Record) -> Record:
        passed = channel.down(record)
        for client, (send, _) in enumerate(ends):
            send(passed.pack(client))
        return passed

    return Channel(up, down)


def make_service(
    server: Server, channel: Channel, responses: tuple[int, int, int, int], extra: PyTree | None = None
) -> Callable[..., ServerState]:
    """Returns the server's half of one event: serve(state, kind, ids=None, key=None) -> state. All clients take part.

    `ids`, int32[C, B], are the public questions of a public step, and `key` is the step's.

    Args:
      channel: the server's end.
      responses: C, B, G and R of a public step.
      extra: shapes [C, ...] of what the clients' correction sends beside the adapter, as SCAFFOLD's {"control": ...}.
    """
    count = responses[0]
    compiled = server._replace(swap=jax.jit(server.swap), aggregate=jax.jit(server.aggregate))
    slots, reward = jax.ShapeDtypeStruct(responses[:3], bool), jax.ShapeDtypeStruct(responses[:3], float)
    tokens, mask = (jax.ShapeDtypeStruct(responses, dtype) for dtype in (np.int32, bool))
    expected = Rollout(tokens, mask, None), Verdict(reward, slots, None)  # only the arrays that cross

    def serve(state: ServerState, kind: str, ids=None, key: Array | None = None) -> ServerState:
        coming = server.download(state)
        if kind == "open" and coming is not None:
            channel.down(Record("adapters", "down", server.send(state, count)))
        if kind == "public":
            exchange(compiled, channel, jax.random.split(key)[1], expected, ids, None, None)
        if kind in ("private", "public"):
            channel.up(Record("counters", "up", {}))
        if kind == "close":
            uploads = {}
            if coming is not None:  # an upload has the shapes of a download, and those of `extra`
                like = broadcast(coming, count) | ({"extra": extra} if extra else {})
                uploads = channel.up(Record("adapters", "up", like)).arrays
            ones, fresh = jnp.ones(count), jnp.zeros(count, jnp.int32)
            return compiled.aggregate(state, uploads, ones, fresh, uploads.get("extra", {}))
        return state

    return serve
