"""The table of fields is the code's, and every field of it is read somewhere."""

import pathlib
import re

from pubswap_jax import field_table, fields, settings

ROOT = pathlib.Path(__file__).parent.parent


def test_the_table_in_the_readme_of_configs_is_the_codes():
    text = (ROOT / "configs" / "README.md").read_text()
    assert fields.table() in text, "python -m pubswap_jax.fields prints the table that belongs into configs/README.md"


def test_names_are_unique_and_defaults_pass_the_check():
    names = [field.name for field in fields.FIELDS]
    assert len(names) == len(set(names))
    config = fields.default_config()
    settings.check(config)
    assert settings.flatten(config).keys() == set(names)
    assert all(field.default in field.choices for field in fields.FIELDS if field.choices)
    assert all(field.source in (field_table.PAPER, field_table.READING, field_table.OURS) for field in fields.FIELDS)


def test_no_field_does_nothing():
    code = "".join(path.read_text() for path in (ROOT / "pubswap_jax").rglob("*.py") if path.stem not in ("fields", "settings"))
    for field in fields.FIELDS:
        leaf = field.name.split(".")[-1]
        assert re.search(rf'\.{leaf}\b|"{leaf}"', code), f"{field.name} is read nowhere"


def test_two_configs_share_nothing():
    one, other = fields.default_config(), fields.default_config()
    one.data.fields.prompt, one.seed = "problem", 7
    assert other.data.fields.to_dict() == {} and other.seed == 0
