"""The transformer and the log-probs of responses: fast forms against obvious ones, for every family."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import FAMILIES, SHALLOW, TINY, batch, world

from pubswap_jax import Transformer, init_adapter, response_logps
from pubswap_jax.policy.model import RMSNorm, matmul, rope_angles, rotate
from pubswap_jax.types import Llama3Rope


def repeated_prompts(model, base, adapter, prompts, tokens, temperature=1.0):
    """The obvious form: G copies of each prompt, all logits, one log-softmax."""
    _, group, length = tokens.shape
    rows = jnp.concatenate([jnp.repeat(prompts.tokens[:, None], group, axis=1), tokens], axis=-1)
    mask = jnp.concatenate([jnp.repeat(prompts.mask[:, None], group, axis=1), jnp.ones_like(tokens, bool)], axis=-1)
    forward = functools.partial(model.apply, base | {"adapter": adapter})
    logits = forward(rows.reshape(-1, rows.shape[-1]), mask.reshape(-1, rows.shape[-1]))
    every = jax.nn.log_softmax(logits[:, -length - 1 : -1] / temperature).reshape(*tokens.shape, -1)
    return jnp.take_along_axis(every, tokens[..., None], axis=-1)[..., 0], -jnp.sum(jnp.exp(every) * every, axis=-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shared_prompt_equals_repeated_prompts(family):
    model, base, adapter = world(FAMILIES[family])
    prompts, tokens = batch()
    fast = jax.jit(lambda *a: response_logps(model, *a, temperature=0.7, entropy=True))(base, adapter, prompts, tokens)
    slow = jax.jit(lambda *a: repeated_prompts(model, *a, temperature=0.7))(base, adapter, prompts, tokens)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), fast, slow)


def test_what_stands_on_padding_is_irrelevant():
    model, base, adapter = world(SHALLOW)
    prompts, tokens = batch()
    f = jax.jit(lambda prompts: response_logps(model, base, adapter, prompts, tokens))
    other = prompts.replace(tokens=jnp.where(prompts.mask, prompts.tokens, 39 - prompts.tokens))
    np.testing.assert_array_equal(f(prompts), f(other))
    wider = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (2, 0))), prompts)
    np.testing.assert_allclose(f(prompts), f(wider), atol=1e-5)


def test_a_later_token_and_another_response_change_nothing():
    model, base, adapter = world(SHALLOW)
    prompts, tokens = batch()
    f = jax.jit(lambda tokens: response_logps(model, base, adapter, prompts, tokens))
    other = tokens.at[:, 1, 4].set(39 - tokens[:, 1, 4])
    moved = np.abs(f(tokens) - f(other)) > 0
    assert not moved[:, [0, 2, 3]].any() and not moved[:, 1, :4].any() and moved[:, 1, 4].all() and moved[:, 1, 5:].any()


def test_no_adapter_is_the_base_and_so_is_a_fresh_one(getkey):
    model, base, adapter = world(SHALLOW)
    prompts, tokens = batch()
    f = jax.jit(lambda adapter: response_logps(model, base, adapter, prompts, tokens))
    plain, fresh = f(None), init_adapter(getkey(), model, base)
    np.testing.assert_allclose(plain, f(fresh), atol=1e-6)
    assert np.abs(plain - f(adapter)).max() > 0.1


@pytest.mark.parametrize("changes", [{"remat": "block"}, {"scan_layers": True, "remat": "block"}])
def test_scan_and_remat_change_neither_values_nor_gradients(changes):
    model, base, adapter = world(FAMILIES["qwen2"])
    prompts, tokens = batch(groups=2, length=3)

    def value_and_grad(config, base, adapter):
        f = lambda adapter: response_logps(Transformer(config), base, adapter, prompts, tokens).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(f))(adapter)

    def stack(tree):
        if not changes.get("scan_layers"):
            return tree
        layers = jax.tree.map(lambda *x: jnp.stack(x), *(tree[f"layers_{i}"] for i in range(2)))
        return {k: v for k, v in tree.items() if not k.startswith("layers_")} | {"layers": layers}

    value, grad = value_and_grad(model.config, base, adapter)
    other, other_grad = value_and_grad(
        model.config.replace(**changes), {"params": stack(base["params"]), "basis": {}}, stack(adapter)
    )
    np.testing.assert_allclose(value, other, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), stack(grad), other_grad)


def test_the_old_log_probs_cost_no_second_forward_pass():
    model, base, adapter = world(SHALLOW)
    prompts, tokens = batch()

    def gradient(adapter, with_old):
        policy = functools.partial(response_logps, model, base, prompts=prompts, tokens=tokens)
        old = policy(adapter) if with_old else jnp.zeros(tokens.shape)
        return jax.grad(lambda adapter, old: jnp.exp(policy(adapter) - old).mean())(adapter, old)

    flops = [jax.jit(gradient, static_argnums=1).lower(adapter, x).compile().cost_analysis()["flops"] for x in (False, True)]
    assert flops[1] < 1.01 * flops[0]


def test_clients_vmapped_equal_clients_in_a_loop():
    model, base, adapter = world(SHALLOW)
    prompts, tokens = batch()
    adapters = jax.tree.map(lambda x: jnp.stack([x, 2 * x, -x]), adapter)
    many = jnp.stack([tokens, tokens[::-1], 39 - tokens])
    f = functools.partial(response_logps, model, base)
    stacked = jax.jit(jax.vmap(f, (0, None, 0)))(adapters, prompts, many)
    one = jax.jit(f)
    for i in range(3):
        np.testing.assert_allclose(
            stacked[i], one(jax.tree.map(lambda x, i=i: x[i], adapters), prompts, many[i]), rtol=1e-5, atol=1e-5
        )


def test_float64_stays_float64():
    with jax.enable_x64(True):
        model, base, adapter = world(SHALLOW.replace(qk_norm=True), jnp.float64)
        prompts, tokens = batch(groups=1, length=2)
        f = jax.jit(lambda adapter, t: response_logps(model, base, adapter, prompts, tokens, temperature=t))
        assert f(adapter, 0.9).dtype == jnp.float64
        slope = jax.jit(jax.grad(lambda t: f(adapter, t).sum()))(0.9)
        np.testing.assert_allclose(slope, (f(adapter, 0.9 + 1e-5) - f(adapter, 0.9 - 1e-5)).sum() / 2e-5, rtol=1e-8)


def test_a_half_precision_base_keeps_adapters_and_log_probs_in_float32():
    model, base, adapter = world(SHALLOW)
    prompts, tokens = batch(groups=2, length=3)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), base)

    def total(adapter, base):
        logps = response_logps(model, base, adapter, prompts, tokens)
        return logps.sum(), logps

    (_, logps16), grad = jax.jit(jax.value_and_grad(total, has_aux=True))(adapter, half)
    _, logps32 = jax.jit(total)(adapter, base)
    assert logps16.dtype == jnp.float32 and all(x.dtype == jnp.float32 for x in jax.tree.leaves(grad))
    np.testing.assert_allclose(logps16, logps32, atol=0.3)


def test_one_row_in_half_precision_is_the_row_of_many(getkey):
    x, kernel = jax.random.normal(getkey(), (4, 8), jnp.bfloat16), jax.random.normal(getkey(), (8, 6))
    np.testing.assert_array_equal(matmul(x[:1], kernel), matmul(x, kernel)[:1])


def test_init_lora_draws_as_peft_and_only_on_targets(getkey):
    config = TINY.replace(lora_targets=("q_proj", "down_proj"))
    model, base, _ = world(TINY)
    adapter = init_adapter(getkey(), Transformer(config), base)
    assert sorted(adapter) == ["layers_0", "layers_1"] and list(adapter["layers_0"]["mlp"]) == ["down_proj"]
    leaf = adapter["layers_0"]["mlp"]["down_proj"]
    assert leaf["a"].shape == (24, 3) and leaf["b"].shape == (3, 16) and not leaf["b"].any()
    assert 0.8 * 24**-0.5 < np.abs(leaf["a"]).max() <= 24**-0.5
    assert (adapter["layers_0"]["mlp"]["down_proj"]["a"] != adapter["layers_1"]["mlp"]["down_proj"]["a"]).any()
    shapes = jax.eval_shape(lambda p: p, base)
    again = init_adapter(jax.random.fold_in(jax.random.key(0), 0), Transformer(config), shapes)
    jax.tree.map(np.testing.assert_array_equal, adapter, again)
    with pytest.raises(ValueError, match="lora_targets"):
        init_adapter(getkey(), Transformer(TINY.replace(lora_targets=("lm_head",))), base)


def test_an_unknown_remat_is_refused():
    with pytest.raises(ValueError, match="config.remat is 'all'"):
        Transformer(TINY.replace(remat="all")).init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))


def test_rope_turns_by_position_and_stretches_long_waves():
    config = TINY.replace(head_dim=4, rope_theta=100.0)
    np.testing.assert_allclose(rope_angles(config, jnp.array([0, 3]))[:, 0], [[0, 0], [3, 0.3]], rtol=1e-6)
    turned = rotate(jnp.array([1.0, 0, 0, 2.0]), jnp.array([np.pi / 2, np.pi]))
    np.testing.assert_allclose(turned, [0, 0, 1, -2], atol=1e-6)
    # Wavelengths 2π and 20π of 64 positions: 10.2 turns are kept, 1.02 turns of the interval 1 … 4 are nearly divided by 8.
    scaled = rope_angles(config.replace(rope_scaling=Llama3Rope(8.0, 1.0, 4.0, 64)), jnp.array([1]))[0, 0]
    turns = 64 / (20 * np.pi)
    keep = (turns - 1) / 3
    np.testing.assert_allclose(scaled, [1.0, 0.1 * (keep + (1 - keep) / 8)], rtol=1e-5)


def test_rms_norm_by_hand():
    norm, scale = RMSNorm(0.0), {"params": {"scale": jnp.array([1.0, 10.0])}}
    np.testing.assert_allclose(norm.apply(scale, jnp.array([3.0, 4.0])), [3 / 12.5**0.5, 40 / 12.5**0.5])
