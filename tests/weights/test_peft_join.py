"""Adapters added to a base, and joined with other adapters: the sums of their products."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from hf_files import adapted

from pubswap_jax import lora, merge_adapter
from pubswap_jax.weights import peft_join
from pubswap_jax.weights.pretrained import load_pretrained


def products(config, adapter):
    return {path: np.asarray(p @ q) for path, (p, q) in peft_join._factors(config, adapter, {}).items()}


@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_base_with_an_adapter_is_the_merged_model(tmp_path, scan_layers):
    config, base, adapter = adapted(tmp_path / "base", scan_layers=scan_layers)
    merge_adapter(tmp_path / "merged", tmp_path / "base", adapter, config)
    _, wanted = load_pretrained(tmp_path / "merged", scan_layers=scan_layers)
    found = flatten_dict(peft_join.with_adapter(base["params"], config, adapter))
    for path, leaf in flatten_dict(wanted["params"]).items():
        np.testing.assert_allclose(found[path], leaf, rtol=1e-6, atol=1e-6)


def test_joined_adapters_add_up(tmp_path):
    config, _, one = adapted(tmp_path / "base")
    other_config = config.replace(adapter=lora(2, 3.0), lora_targets=("q_proj", "down_proj"))
    _, _, whole = adapted(tmp_path / "base", adapter=lora(2, 3.0))
    other = {path: leaf for path, leaf in flatten_dict(whole).items() if path[-2] in other_config.lora_targets}
    other = jax.tree.map(lambda x: x + 0.1, unflatten_dict(other))
    joined_config, joined = peft_join.joined((config, one), (other_config, other), {})
    assert joined_config.adapter == lora(5, 5.0) and set(joined_config.lora_targets) == set(config.lora_targets)
    ours, theirs, both = products(config, one), products(other_config, other), products(joined_config, joined)
    assert set(both) == set(ours) > set(theirs)
    for path, product in both.items():
        np.testing.assert_allclose(product, ours[path] + theirs.get(path, 0), rtol=1e-5, atol=1e-5)


def test_the_digest_is_that_of_both_files(tmp_path):
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_text(name)
    before = peft_join.adapter_digest(tmp_path)
    (tmp_path / "adapter_config.json").write_text("other")
    assert len(before) == 64 and peft_join.adapter_digest(tmp_path) != before
