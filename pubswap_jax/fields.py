"""Makes the default config from the table of fields, and prints that table as Markdown or as text.

`python -m pubswap_jax.fields` prints the table in configs/README.md.
"""

import textwrap

from ml_collections import ConfigDict

from pubswap_jax.field_table import FIELDS, Field

# Names, and beginnings of names, of the fields that a run may change when it resumes. All other fields must stay as they were.
FREE = ("federation.rounds", "checkpoint.", "log.", "verifier.workers", "verifier.timeout", "merge.", "route.")
FREE += ("compilation_cache",)


def default_config() -> ConfigDict:
    """A config with every field at its default."""
    config = ConfigDict()
    for field in FIELDS:
        section, _, name = field.name.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict()
        (config[section] if section else config)[name] = field.default
    config.data.fields = ConfigDict(dict(config.data.fields))
    return config


def field_named(name: str) -> Field:
    """The row of the field `name` (dotted) in the table."""
    return next(field for field in FIELDS if field.name == name)


def table() -> str:
    """The fields as a Markdown table: name, default, meaning with choices, and where the choice comes from."""
    rows = ["| field | default | meaning | from |", "|---|---|---|---|"]
    for field in FIELDS:
        default = "" if field.default in ("", ConfigDict()) else f"`{field.default}`"
        choices = f" ({', '.join(field.choices)})" if field.choices else ""
        rows.append(f"| `{field.name}` | {default} | {field.meaning}{choices} | {field.source} |")
    return "\n".join(rows)


def text(section: str = "") -> str:
    """The fields as text for a terminal: all of them, those of `section`, or the one named `section`."""
    lines = []
    for field in FIELDS:
        if section in ("", field.name.rpartition(".")[0], field.name):
            default = "''" if field.default == "" else str(field.default) if field.default != ConfigDict() else "{}"
            choices = f" ({', '.join(field.choices)})" if field.choices else ""
            head = f"  --config.{field.name}={default}"
            lines += textwrap.wrap(f"{head:<46} {field.meaning}{choices}", 128, subsequent_indent=" " * 47)
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
