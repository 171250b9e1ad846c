"""Configs that are refused before a run begins, and the line that says why."""

import pytest

from pubswap_jax import settings
from pubswap_jax.fields import default_config


def with_fields(**values):
    """The default config with these fields set, as section__field=value."""
    config = default_config()
    for name, value in values.items():
        section, _, leaf = name.partition("__")
        config[section][leaf] = value
    return config


def refused(values, message):
    """Asserts that the check of the fields refuses these values in one line that matches `message`."""
    with pytest.raises(ValueError, match=f"^config.{message}") as error:
        settings.check(with_fields(**values))
    assert "\n" not in str(error.value)
