"""Every choice in the table of fields stands for a function that exists, and every bound allows the default."""

import subprocess
import sys
from collections.abc import Mapping

import pytest

from pubswap_jax import settings
from pubswap_jax.algorithm import aggregation, losses, swap
from pubswap_jax.field_table import FIELDS, Field
from pubswap_jax.fields import default_config, field_named
from pubswap_jax.types import Adapter, Aggregator

NAMED = [(field.name, choice) for field in FIELDS if isinstance(field.choices, Mapping) for choice in field.choices]


@pytest.mark.parametrize(("name", "choice"), NAMED)
def test_every_choice_stands_for_a_function(name, choice):
    config = default_config()
    settings.override(config, name, choice)
    config.training.truncation_buffer = 2
    found = settings.chosen(config, name)
    assert callable(found) or isinstance(found, Adapter | Aggregator) or not field_named(name).choices[choice]


def test_a_choice_is_the_function_or_what_its_factory_makes_of_other_fields():
    config = default_config()
    config.training.loss = "gspo"
    config.training.advantages = "centred"
    config.training.kl = "k3"
    config.training.truncation = "mask"
    config.training.normalise = "fixed"
    config.training.max_new_tokens = 7
    assert settings.chosen(config, "training.loss") is losses.gspo_term
    assert settings.chosen(config, "training.advantages") is losses.centred_advantages
    assert settings.chosen(config, "training.kl") is losses.kl_k3
    assert settings.chosen(config, "training.truncation") is losses.mask_truncated
    assert settings.chosen(config, "federation.swap") is swap.balanced
    mask = losses.jnp.ones((1, 2, 3), bool)
    assert (settings.chosen(config, "training.normalise")(mask) == losses.fixed_length(7)(mask)).all()
    config.training.kl = "none"
    assert settings.chosen(config, "training.kl") is None
    config.training.kl = "k33"
    with pytest.raises(ValueError, match="^config.training.kl=k33: did you mean k3[?]"):
        settings.chosen(config, "training.kl")


def test_a_factory_may_take_no_field_or_several(monkeypatch):
    made = {"mean": "algorithm.aggregation:mean()", "both": "algorithm.losses:composed(training.kl, seed)"}
    monkeypatch.setattr(settings, "field_named", lambda name: Field(name, "mean", "", "ours", made))
    monkeypatch.setattr(losses, "composed", lambda *values: values)
    config = default_config()
    config.data.name = "mean"
    assert isinstance(settings.chosen(config, "data.name"), aggregation.Aggregator)
    config.data.name, config.training.kl, config.seed = "both", "k1", 5
    assert settings.chosen(config, "data.name") == ("k1", 5)


def test_bounds_are_of_numbers_and_allow_the_default():
    bounded = [field for field in FIELDS if field.least is not None or field.most is not None]
    assert len(bounded) > 40
    for field in bounded:
        assert type(field.default) in (int, float), field.name
        assert field.least is not None and field.least <= field.default, field.name
        assert field.most is None or field.default <= field.most, field.name


def test_the_table_loads_no_jax():
    code = "import sys, pubswap_jax.settings, pubswap_jax.fields; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
