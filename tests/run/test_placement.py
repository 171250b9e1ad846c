"""Where arrays go: on one device bound to nothing, on a mesh shared by it."""

import jax
import numpy as np
import pytest
from small_world import small_config

from pubswap_jax.run import placement


def test_on_one_device_arrays_are_bound_to_nothing(tmp_path):
    config = small_config(tmp_path)
    assert placement.make_devices(config) is None
    place, questions = placement.make_place(None), placement.make_place_questions(None)
    assert not place(np.ones(3)).committed and not questions({"x": np.ones(3)}, 1)["x"].committed


def test_questions_are_shared_by_all_devices_or_by_those_that_share_a_clients(tmp_path):
    devices = placement.make_devices(small_config(tmp_path, mesh__client=4, mesh__data=2, federation__num_clients=4))
    assert placement.make_place(devices)(np.ones(3)).sharding.is_fully_replicated
    place = placement.make_place_questions(devices)
    shares = [
        place(np.zeros((count, 5)), models).sharding.shard_shape((count, 5)) for count, models in ((8, 1), (8, 4), (7, 1))
    ]
    assert shares == [(1, 5), (4, 5), (7, 5)]


def test_many_processes_use_all_devices_and_share_the_clients(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"is 4, and 2 processes have 8 devices: .* --config.mesh.client=8"):
        placement.make_devices(small_config(tmp_path, mesh__client=4, federation__num_clients=4))
    parts = small_config(tmp_path, mesh__client=8, federation__num_clients=8, training__client_microbatch=1)
    with pytest.raises(ValueError, match="client_microbatch: 0 expected where processes share the clients"):
        placement.make_devices(parts)
