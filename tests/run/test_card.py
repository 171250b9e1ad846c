"""Parts of the model card; tests/run/test_export.py reads whole cards."""

from pubswap_jax import settings
from pubswap_jax.fields import default_config
from pubswap_jax.run import card


def test_intervals_need_both_models():
    rows = [
        {"round": round, "model": "global", "figures": {"pass@1_low": 0.1 + round, "pass@1_high": 0.2 + round}}
        for round in (0, 1)
    ]
    models = ((0, "global"), (1, "global"))
    assert card._intervals(rows, models) == " (95 % intervals over questions: base 0.100 to 0.200, best 1.100 to 1.200)"
    assert card._intervals(rows[:1], models) == ""


def test_an_adapter_is_called_by_whose_it_is():
    assert card._whose("global", served=False) == "the averaged adapter"
    assert card._whose("global", served=True) == "the server's adapter"
    assert card._whose("client_1", served=False) == "client 1's own adapter, before averaging"


def test_flags_are_the_fields_that_differ():
    known = settings.flatten(default_config()) | {"seed": 3, "gone": 1}
    assert card._flags(known) == ["--config.seed=3"]
