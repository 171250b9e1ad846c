"""docs/adapters.md: its commands are accepted by the checks and fit the model, and its numbers are those of the code."""

import pathlib
import re

import jax
import pytest

from pubswap_jax import settings
from pubswap_jax.policy.adapter import each_layer, init_adapter
from pubswap_jax.policy.model import Transformer
from pubswap_jax.run import policy
from pubswap_jax.weights.hf_config import read_config
from pubswap_jax.weights.pretrained import param_shapes

PAGE = (pathlib.Path(__file__).parent.parent / "docs" / "adapters.md").read_text()
COMMANDS = re.findall(r"^python -m pubswap_jax.main --config=(\S+) (.*) --workdir=\S+$", PAGE, re.MULTILINE)


def model_of(name, flags):
    """The config and the model config of a command."""
    config = settings.load(name)
    for flag in flags:
        field, _, value = flag.removeprefix("--config.").partition("=")
        settings.override(config, field, value)
    settings.check(config)
    folder = policy.base_folder(config)
    ours = policy.adapt(config, read_config(folder), policy.make_tokenizer(config, folder))
    policy.check_family(config, ours)
    return config, ours


@pytest.mark.parametrize(("name", "flags"), COMMANDS)
def test_a_command_of_the_page_is_accepted(name, flags):
    _, ours = model_of(name, flags.split())
    given = dict(flag.removeprefix("--config.").split("=") for flag in flags.split())
    assert ours.adapter.name == given.get("model.adapter", "lora") and len(COMMANDS) == 4


@pytest.mark.parametrize(
    "row", re.findall(r"^\| `(\w+)` .*\| ([\d,]+) (?:at rank (\d+)|with (\d+) heads of rank (\d+)) \|", PAGE, re.M)
)
def test_the_bytes_of_an_upload_are_the_pages(row):
    family, size, rank, heads, rank_of_heads = row
    flags = [f"model.adapter={family}", f"model.lora_rank={rank or rank_of_heads}"] + [f"model.heads={heads}"] * bool(heads)
    _, ours = model_of("math", flags)
    shapes = {"params": param_shapes(ours)}
    adapter = jax.eval_shape(lambda: init_adapter(jax.random.key(0), Transformer(ours), shapes))
    crosses = jax.eval_shape(lambda tree: each_layer(ours.adapter.upload, tree), adapter)
    assert sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(crosses)) == int(size.replace(",", ""))


def test_every_family_of_the_config_is_on_the_page():
    families = next(field for field in settings.FIELDS if field.name == "model.adapter").choices
    assert set(re.findall(r"^\| `(\w+)` \(arXiv", PAGE, re.M)) == set(families)
