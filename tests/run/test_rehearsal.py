"""What a federation says of itself on shapes: the records that may cross. Programs compiled ahead are in test_programs.py."""

import jax
import pytest
from small_world import config_of, federated_as, finished

from pubswap_jax.records import Record
from pubswap_jax.run import state
from pubswap_jax.run.ledger import Refused
from pubswap_jax.run.rehearsal import make_gate


def test_the_gate_admits_the_adapters_of_the_run_and_no_others():
    run, _ = finished()
    at = state.beginning(run)
    gate = make_gate(run, at)
    assert set(gate.shapes) == {"up/adapters", "down/adapters"} and gate.first
    opened = run.federation.open(at.federation, gate.channel)
    run.federation.close(opened, gate.channel)
    assert all(min(sizes) > 0 for sizes in gate.account.values())
    other = jax.tree.map(lambda x: x[..., :1], {"adapter": opened.clients.adapter})
    with pytest.raises(Refused, match="not as the run's adapters are"):
        gate.channel.up(Record("adapters", "up", other))


def test_where_everybody_trains_alone_no_adapter_may_cross():
    run, _ = finished()
    alone = federated_as(run, config_of(run, federation__average=False))
    at = state.beginning(alone)
    gate = make_gate(alone, at)
    assert gate.shapes == {}
    with pytest.raises(Refused, match="leaves that the run's adapters do not have"):
        gate.channel.up(Record("adapters", "up", {"adapter": at.federation.clients.adapter}))
