"""The base model, its tokenizer and the adapter that training starts from, as the config says."""

import jax
import numpy as np
import pytest
from small_world import config_of, finished, small_config

from pubswap_jax import Transformer, export_adapter, load_adapter, load_pretrained, lora
from pubswap_jax.policy.adapter import init_adapter
from pubswap_jax.run import policy
from pubswap_jax.run.assembly import assemble
from pubswap_jax.types import LINEAR_LAYERS, Llama3Rope


def test_model_and_adapter_are_the_configs():
    run, _ = finished()
    ours = run.policy.config
    assert ours.adapter.settings == (("rank", 2), ("alpha", 64.0)) and ours.lora_targets == LINEAR_LAYERS
    assert ours.eos_ids == run.policy.tokenizer.stop_ids and ours.max_new_tokens == 3
    assert set(run.policy.base) == {"params", "basis"}
    again = init_adapter(jax.random.fold_in(run.key, policy.ADAPTER_STREAM), run.policy.model, run.policy.base)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(run.policy.adapter), strict=True):
        assert np.array_equal(one, other)


def test_the_revision_belongs_to_a_name_on_the_hub(tmp_path, monkeypatch):
    config = config_of(finished()[0], model__revision="abc123")
    with pytest.raises(ValueError, match="config.model.revision=abc123: no effect on the folder .*base; it belongs to a name"):
        policy.base_folder(config)
    config.model.path = ""
    with pytest.raises(ValueError, match="config.model.revision=abc123: no effect on the embedded model"):
        policy.base_folder(config)
    monkeypatch.setattr(policy.hf_folder, "find_folder", lambda path, revision: (path, revision))
    config.model.path = "Qwen/Qwen3-1.7B"
    assert policy.base_folder(config) == ("Qwen/Qwen3-1.7B", "abc123")
    config.model.revision = ""
    assert policy.base_folder(config) == ("Qwen/Qwen3-1.7B", None)


@pytest.mark.parametrize("names, targets", [("attention", LINEAR_LAYERS[:4]), ("q_proj, down_proj", ("q_proj", "down_proj"))])
def test_targets_by_name(names, targets):
    run, _ = finished()
    config = config_of(run)
    config.model.lora_targets = names
    assert policy.adapt(config, run.policy.config, run.policy.tokenizer).lora_targets == targets
    config.model.lora_targets = "q_projection"
    with pytest.raises(ValueError, match="'q_projection' is none of all, attention, q_proj"):
        policy.adapt(config, run.policy.config, run.policy.tokenizer)


def test_the_contexts_length_is_checked_before_weights_are_read(tmp_path):
    """The limit itself is allowed, one token more is not; llama3's scaling does not change it."""
    config = small_config(tmp_path, data__max_prompt_tokens=1021)
    (tmp_path / "base" / "model.safetensors").write_bytes(b"not read")
    with pytest.raises(ValueError, match="not a safetensors file"):
        assemble(config)
    config.training.max_new_tokens = 4
    with pytest.raises(ValueError, match="1025 positions together, and the base has 1024 .max_position_embeddings."):
        assemble(config)
    run, _ = finished()
    stretched = run.policy.config.replace(rope_scaling=Llama3Rope(32.0, 1.0, 4.0, 64))
    with pytest.raises(ValueError, match="the base has 1024"):
        policy.check_context(config, stretched)


def test_a_warm_up_adapter_is_part_of_the_base_and_of_what_is_exported(tmp_path):
    config = small_config(tmp_path, model__lora_targets="attention")
    plain = policy.load_policy(config)
    warm_config = plain.config.replace(adapter=lora(3, 5.0), lora_targets=("q_proj", "down_proj"))
    shapes = jax.eval_shape(lambda: init_adapter(jax.random.key(0), Transformer(warm_config), plain.base))
    rng = np.random.default_rng(0)
    warm = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)
    export_adapter(tmp_path / "warm", warm, warm_config, "base")
    config.model.warmup = str(tmp_path / "warm")
    found = policy.load_policy(config)
    assert found.digest != plain.digest == policy.digest_of(config_with(config, ""), plain.folder)
    tokens = np.arange(8)[None]
    logits = Transformer(warm_config).apply(plain.base | {"adapter": warm}, tokens)
    np.testing.assert_allclose(Transformer(found.config).apply(found.base, tokens), logits, rtol=1e-4, atol=1e-4)

    own = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), found.adapter)
    joined, adapter, basis = policy.beside_warmup(config.model.warmup, found.config, own, {})
    export_adapter(tmp_path / "exported", adapter, joined, "base", basis=basis)
    original, base = load_pretrained(plain.folder)
    loaded_config, loaded = load_adapter(tmp_path / "exported", original)
    wanted = Transformer(found.config).apply(found.base | {"adapter": own}, tokens)
    np.testing.assert_allclose(
        Transformer(loaded_config).apply(base | {"adapter": loaded}, tokens), wanted, rtol=1e-4, atol=1e-4
    )


def config_with(config, adapter):
    changed = config.copy_and_resolve_references()
    changed.model.warmup = adapter
    return changed


def test_examples_and_the_system_prompt_stand_before_the_question(tmp_path):
    (tmp_path / "shots.jsonl").write_text('{"question": "1+1=", "answer": "2"}\n')
    config = small_config(tmp_path, model__examples=str(tmp_path / "shots.jsonl"), model__system="")
    template = "{% for m in messages %}{% if m.role == 'system' %}0{% endif %}{{ m.content }}{% endfor %}"
    (tmp_path / "base" / "chat_template.jinja").write_text(template)
    tokenizer = policy.make_tokenizer(config, policy.base_folder(config))
    assert tokenizer.hf.decode(tokenizer.before) == "1+1=2" and tokenizer.after == ()
    config.model.system, config.model.examples = "+", ""
    tokenizer = policy.make_tokenizer(config, policy.base_folder(config))
    assert tokenizer.hf.decode(tokenizer.before) == "0+"
