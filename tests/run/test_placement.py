"""Where arrays go: on one device bound to nothing, on a mesh shared by it."""

import jax
import numpy as np
import pytest

from pubswap_jax.run import placement


def test_on_one_device_arrays_are_bound_to_nothing():
    assert placement.make_devices(1, 1, 1) is None
    place = placement.placement(None, 3, 4)
    assert not place.put(np.ones(3)).committed and not place.put_questions({"x": np.ones(3)}, 1)["x"].committed
    assert place.batch is None and place.shardings == {} and not place.spread


def test_questions_are_shared_by_all_devices_or_by_those_that_share_a_clients():
    devices = placement.make_devices(4, 2, 1)
    place = placement.placement(devices, 4, 8)
    assert place.put(np.ones(3)).sharding.is_fully_replicated and place.spread
    shares = [
        place.put_questions(np.zeros((count, 5)), models).sharding.shard_shape((count, 5))
        for count, models in ((8, 1), (8, 4), (7, 1))
    ]
    assert shares == [(1, 5), (4, 5), (7, 5)]


def test_many_processes_use_all_devices_and_share_the_clients(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"is 4, and 2 processes have 8 devices: .* --config.mesh.client=8"):
        placement.make_devices(4, 1, 1)
    with pytest.raises(ValueError, match="client_microbatch: 0 expected where processes share the clients"):
        placement.make_devices(8, 1, 1, client_microbatch=1)


def test_on_a_mesh_clients_are_sharded_where_they_start():
    devices = placement.make_devices(4, 1, 1)
    place = placement.placement(devices, 4, 4)
    start = jax.jit(lambda x: x + 1, out_shardings=place.shardings["start"])
    assert start(place.put(np.ones((4, 5)))).sharding.shard_shape((4, 5)) == (1, 5)
    assert set(place.shardings) == {"init", "start", "everyone", "gather"}
