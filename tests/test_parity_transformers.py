"""The policy against transformers and peft: their recorded results everywhere, they themselves under `-m parity`.

Weights are random, norms and biases included, so that a missing norm, bias, transposition or stretched wavelength would show.
"""

import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from pubswap_jax import (
    Prompts,
    Transformer,
    export_adapter,
    ffa_lora,
    init_adapter,
    init_basis,
    load_pretrained,
    lora,
    ravan,
    sample,
)
from pubswap_jax.policy.model import rope_angles
from pubswap_jax.types import LINEAR_LAYERS
from pubswap_jax.weights.hf_config import read_config
from pubswap_jax.weights.peft import load_adapter, merge_adapter

GOLDEN = pathlib.Path(__file__).parent / "golden"
FAMILIES = ("llama", "qwen2", "qwen3")
BOUND = 2e-4
live = pytest.mark.parity
quiet = pytest.mark.filterwarnings("ignore")
NEEDS = "needs torch, transformers and peft: pip install 'pubswap_jax[parity]'"


def logits_of(config, base, tokens, mask, adapter=None):
    collections = base | ({} if adapter is None else {"adapter": adapter})
    return jax.jit(Transformer(config).apply)(collections, jnp.asarray(tokens, jnp.int32), jnp.asarray(mask))


def parts_of(config, base, tokens, mask):
    """The output of every module, by transformers' names."""
    _, kept = Transformer(config).apply(
        base,
        jnp.asarray(tokens, jnp.int32),
        jnp.asarray(mask),
        capture_intermediates=True,
        mutable="intermediates",
    )
    flat = jax.tree_util.tree_leaves_with_path(kept["intermediates"])
    outputs = {".".join(k.key for k in path if isinstance(k, jax.tree_util.DictKey)): leaf for path, leaf in flat}
    return {name.removesuffix(".__call__").replace("layers_", "layers."): leaf for name, leaf in outputs.items()}


def greedy_of(config, base, tokens, mask, steps=64):
    prompts = Prompts(jnp.asarray(tokens, jnp.int32)[None], jnp.asarray(mask)[None])
    rollout = sample(
        Transformer(config), base, None, prompts, jax.random.key(0), group=2, max_new_tokens=steps, eos_ids=(), greedy=True
    )
    return rollout.tokens[0]


def assert_close(ours, theirs, mask, bound=BOUND):
    """Padding's own outputs are nobody's business."""
    np.testing.assert_allclose(np.asarray(ours)[mask], np.asarray(theirs)[mask], rtol=0, atol=bound)


# --- recorded ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=FAMILIES)
def recorded(request):
    folder = GOLDEN / request.param
    with np.load(folder / "expected.npz") as arrays:
        expected = dict(arrays)
    return folder, *load_pretrained(folder, dtype="float32"), expected


def test_logits_are_transformers_under_left_padding(recorded):
    _, config, base, expected = recorded
    tokens, mask = expected["tokens"], expected["mask"]
    assert not mask.all() and mask[:, -1].all()
    assert_close(logits_of(config, base, tokens, mask), expected["logits"], mask, 2e-5)


def test_scanned_and_rematerialised_layers_give_the_same_logits(recorded):
    folder, _, _, expected = recorded
    config, base = load_pretrained(folder, dtype="float32", scan_layers=True)
    ours = logits_of(config.replace(remat="block"), base, expected["tokens"], expected["mask"])
    assert_close(ours, expected["logits"], expected["mask"], 2e-5)


def test_every_part_of_every_block_is_transformers(recorded):
    _, config, base, expected = recorded
    ours = parts_of(config, base, expected["tokens"], expected["mask"])
    names = [name for name in expected if name.startswith("layers.")]
    assert len(names) == 6
    for name in names:
        assert_close(ours[name], expected[name], expected["mask"], 5e-5)


def test_64_greedy_tokens_are_those_of_generate(recorded):
    _, config, base, expected = recorded
    ours = greedy_of(config, base, expected["tokens"], expected["mask"])
    assert len(np.unique(expected["greedy"])) > 8
    np.testing.assert_array_equal(ours, np.repeat(expected["greedy"][:, None], 2, axis=1))


def test_an_adapter_of_peft_gives_pefts_logits(recorded):
    folder, config, base, expected = recorded
    config, adapter = load_adapter(folder / "adapter", config)
    assert config.adapter == lora(2, 3.0)
    ours = logits_of(config, base, expected["tokens"], expected["mask"], adapter)
    assert_close(ours, expected["adapted_logits"], expected["mask"], 2e-5)
    assert np.abs(expected["adapted_logits"] - expected["logits"]).max() > 0.1


def test_an_adapter_of_peft_is_written_again_as_peft_wrote_it(recorded, tmp_path):
    folder, config, _, _ = recorded
    config, adapter = load_adapter(folder / "adapter", config)
    export_adapter(tmp_path / "adapter", adapter, config, "base")
    ours, theirs = (
        safetensors.numpy.load_file(f / "adapter_model.safetensors") for f in (tmp_path / "adapter", folder / "adapter")
    )
    assert set(ours) == set(theirs)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name])
    fields = [json.loads((f / "adapter_config.json").read_text()) for f in (tmp_path / "adapter", folder / "adapter")]
    for name in set(fields[0]) - {"base_model_name_or_path", "target_modules"}:
        assert fields[0][name] == fields[1][name], name


# --- live -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs():
    """The script that recorded the goldens: it builds torch models and runs them."""
    for name in ("torch", "transformers", "peft"):
        pytest.importorskip(name, reason=NEEDS)
    spec = importlib.util.spec_from_file_location("make_policy_goldens", GOLDEN / "make_policy_goldens.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PUBLISHED = [
    *("Llama-3.2-1B", "Llama-3.2-1B-Instruct", "Llama-3.2-3B-Instruct"),
    *("Qwen2.5-0.5B", "Qwen2.5-0.5B-Instruct", "Qwen2.5-1.5B.reconstructed", "Qwen2.5-1.5B-Instruct"),
    *("Qwen2.5-7B-Instruct", "Qwen2.5-Math-1.5B.reconstructed"),
    *("Qwen3-0.6B", "Qwen3-1.7B", "Qwen3-4B"),
]


@live
@quiet
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_config_cut_down(theirs, shared_data, tmp_path, name):
    model = theirs.build(theirs.cut(theirs.published(shared_data, name), layers=3), seed=1)
    model.save_pretrained(tmp_path)
    config, base = load_pretrained(tmp_path)
    tokens, mask = theirs.prompts(config.vocab_size, seed=1)
    expected = theirs.run(model, tokens, mask)
    assert_close(logits_of(config, base, tokens, mask), expected["logits"], mask)
    ours = parts_of(config, base, tokens, mask)
    for part in theirs.PARTS:
        assert_close(ours[part], expected[part], mask)
    np.testing.assert_array_equal(greedy_of(config, base, tokens, mask)[:, 0], theirs.greedy(model, tokens, mask))


@live
@quiet
@pytest.mark.parametrize("name", ["Llama-3.2-1B", "Qwen2.5-0.5B", "Qwen3-0.6B"])
def test_full_width_with_two_layers(theirs, shared_data, tmp_path, name):
    # The vocabulary alone is cut: what it adds is 150,000 more columns of the same product.
    fields = theirs.published(shared_data, name) | {"num_hidden_layers": 2, "torch_dtype": "float32"}
    if name != "Qwen2.5-0.5B":
        fields |= {"vocab_size": 4096, "bos_token_id": None, "eos_token_id": None}
    model = theirs.build(fields)
    model.save_pretrained(tmp_path)
    config, base = load_pretrained(tmp_path)
    tokens, mask = theirs.prompts(config.vocab_size)
    assert_close(logits_of(config, base, tokens, mask), theirs.run(model, tokens, mask)["logits"], mask)


@live
@quiet
@pytest.mark.parametrize("name", ["Llama-3.2-1B", "Llama-3.2-3B-Instruct"])
def test_frequencies_of_stretched_rope(theirs, shared_data, tmp_path, name):
    from transformers import AutoConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    fields = theirs.published(shared_data, name)
    (tmp_path / "config.json").write_text(json.dumps(fields))
    ours = rope_angles(read_config(tmp_path), jnp.ones((1,)))
    frequencies = LlamaRotaryEmbedding(AutoConfig.for_model(**fields)).inv_freq.numpy()
    np.testing.assert_allclose(np.asarray(ours).reshape(-1), frequencies, rtol=1e-5)


@pytest.fixture(params=FAMILIES)
def pair(request, theirs, shared_data, tmp_path):
    """A torch model, its folder, and the same model here."""
    model = theirs.build(theirs.cut(theirs.published(shared_data, theirs.FAMILIES[request.param])), seed=2)
    model.save_pretrained(tmp_path / "base")
    return model, tmp_path, *load_pretrained(tmp_path / "base")


@live
@quiet
@pytest.mark.parametrize(
    ("family", "targets"),
    [(lora(4, 6.0), ("q_proj", "v_proj")), (lora(4, 6.0), LINEAR_LAYERS), (ffa_lora(4, 6.0), LINEAR_LAYERS)]
    + [(ravan(3, 2), LINEAR_LAYERS), (ravan(3, 2, "random"), LINEAR_LAYERS)],
    ids=["lora-some", "lora", "ffa_lora", "ravan", "ravan-random"],
)
def test_our_adapter_in_peft_and_merged_in_transformers(theirs, pair, family, targets):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model, folder, config, base = pair
    config = config.replace(adapter=family, lora_targets=targets)
    base = base | {"basis": init_basis(jax.random.key(1), Transformer(config), base)}
    shapes = jax.eval_shape(lambda: init_adapter(jax.random.key(0), Transformer(config), base))
    rng = np.random.default_rng(0)
    adapter = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)
    tokens, mask = theirs.prompts(config.vocab_size)
    ours = logits_of(config, base, tokens, mask, adapter)
    assert np.abs(ours - logits_of(config, base, tokens, mask))[mask].max() > 0.1

    merge_adapter(folder / "merged", folder / "base", adapter, config, basis=base["basis"])
    merged = AutoModelForCausalLM.from_pretrained(folder / "merged").eval()
    assert_close(ours, theirs.run(merged, tokens, mask)["logits"], mask)

    export_adapter(folder / "adapter", adapter, config, str(folder / "base"), basis=base["basis"])
    loaded = PeftModel.from_pretrained(model, folder / "adapter").eval()
    assert_close(ours, theirs.run(loaded.get_base_model(), tokens, mask)["logits"], mask)


OPTIONS = {
    "some layers": {"target_modules": ["q_proj", "down_proj"], "r": 4, "lora_alpha": 2},
    "all linear": {"target_modules": "all-linear"},
    "a pattern": {"target_modules": r".*\.(k_proj|up_proj)"},
    "rslora": {"target_modules": ["o_proj"], "use_rslora": True},
    "gaussian": {"target_modules": ["v_proj"], "init_lora_weights": "gaussian"},
}


@live
@quiet
@pytest.mark.parametrize("option", OPTIONS)
def test_pefts_adapter_here(theirs, pair, option):
    model, folder, config, base = pair
    peft_model = theirs.adapted(model, **OPTIONS[option])
    peft_model.save_pretrained(folder / "adapter")
    tokens, mask = theirs.prompts(config.vocab_size)
    expected = theirs.run(peft_model.get_base_model(), tokens, mask)["logits"]
    config, adapter = load_adapter(folder / "adapter", config)
    assert_close(logits_of(config, base, tokens, mask, adapter), expected, mask)


@live
@quiet
def test_what_peft_adds_to_plain_lora_is_refused(theirs, pair):
    model, folder, config, _ = pair
    theirs.adapted(model, target_modules=["q_proj"], use_dora=True).save_pretrained(folder / "adapter")
    with pytest.raises(ValueError, match="use_dora"):
        load_adapter(folder / "adapter", config)
