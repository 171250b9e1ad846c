"""A worker sends one byte per request, and ends when its connection is closed."""

import json
import socket

import pytest

from pubswap_jax import types
from pubswap_jax.verifier import worker


def test_the_status_words_are_those_of_types():
    assert worker.STATUSES == types.STATUSES


def test_requests_are_framed_and_carry_any_text():
    body = worker.request("½", "\ud800\x00", 1.0)
    size = worker.HEADER.unpack(body[:4])[0]
    assert json.loads(body[4:]) == ["½", "\ud800\x00", 1.0]
    assert size == len(body) - 4


def test_receive_joins_parts_and_meets_the_end():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"ab")
        theirs.sendall(b"c")
        assert worker.receive(ours, 3) == b"abc"
        theirs.close()
        with pytest.raises(EOFError):
            worker.receive(ours, 1)
