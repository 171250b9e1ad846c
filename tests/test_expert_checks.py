"""FedGRPO's settings: what cannot be, and what has no effect, is named in one line."""

import pytest

from pubswap_jax import expert_checks, settings
from pubswap_jax.fields import default_config

FEDGRPO = {"federation.method": "fedgrpo", "data.public": 0.3, "federation.num_clients": 3}
IMPOSSIBLE = [
    ({"federation.experts": 4}, "federation.experts=4: there are 3 clients"),
    ({"federation.own_rounds": 10}, "federation.own_rounds=10: fewer than federation.rounds=10 expected"),
    ({"federation.steps": 1}, "federation.steps=1: at least 2 expected"),
    ({"federation.adapters": "a,b"}, "federation.adapters: 3 folders expected, one a client, got 2"),
    ({"training.advantages": "batch"}, "training.advantages=batch: group or centred expected with federation.method=fedgrpo"),
    ({"reward.functions": "length"}, "reward.functions=length: an empty text expected with federation.method=fedgrpo"),
    ({"mesh.data": 2}, "mesh.data=2: 1 expected with federation.method=fedgrpo"),
    ({"federation.swap": "rescue"}, "federation.swap=rescue: no effect with federation.method=fedgrpo; set .* to balanced"),
    ({"federation.aggregate": "median"}, "federation.aggregate=median: no effect with federation.method=fedgrpo"),
    (
        {"model.adapter": "ravan", "federation.heads": "4,4,1"},
        "federation.heads=4,4,1: no effect with federation.method=fedgrpo",
    ),
    ({"federation.participants": 2}, "federation.participants=2: no effect with federation.method=fedgrpo"),
]
ITS_OWN = [
    ({"federation.experts": 3}, "2"),
    ({"federation.neighbours": 5}, "20"),
    ({"federation.adapters": "a,b,c"}, "an empty text"),
]


def config_with(changes):
    config = default_config()
    for name, value in (FEDGRPO | changes).items():
        settings.override(config, name, str(value))
    return config


@pytest.mark.parametrize(("changes", "message"), IMPOSSIBLE)
def test_settings_that_cannot_be_beside_fedgrpo_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        settings.check(config_with(changes))


@pytest.mark.parametrize(("changes", "usual"), ITS_OWN)
def test_settings_of_fedgrpo_have_no_effect_elsewhere(changes, usual):
    settings.check(config_with(changes))
    (name,) = changes
    with pytest.raises(ValueError, match=f"{name}=.*: no effect with federation.method=pubswap; set {name} to {usual}"):
        settings.check(config_with(changes | {"federation.method": "pubswap"}))


def test_the_defaults_stand_with_every_method():
    for method in ("pubswap", "fedgrpo"):
        flat = settings.flatten(config_with({"federation.method": method}))
        assert not expert_checks.impossible(flat) and not expert_checks.idle(flat)
