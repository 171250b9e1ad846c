"""The sampler: its log-probs are the policy's, its distribution is exact, and every response is its own."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from statistics_of_draws import chi_square

from pubswap_jax import Prompts, Transformer, init_adapter, lora, response_logps, sample
from pubswap_jax.types import Llama3Rope, ModelConfig

TINY = ModelConfig(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    adapter=lora(3, 64.0),
)
FAMILIES = {
    "qwen2": TINY.replace(qkv_bias=True),
    "qwen3": TINY.replace(qk_norm=True, rope_theta=1e6, scan_layers=True),
    "llama": TINY.replace(rope_scaling=Llama3Rope(8.0, 1.0, 4.0, 16), tie_embeddings=False, rope_theta=5e5, num_layers=1),
}
SHALLOW = FAMILIES["qwen2"].replace(num_layers=1)
CLIENTS = 3
EOS = (2, 3, 5, 7, 11)
SHAPE = {"group": 4, "max_new_tokens": 8, "pad_id": 1}


@functools.cache
def world(config=SHALLOW):
    """A model, its base, and three unlike adapters."""
    model = Transformer(config)
    base = model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32)) | {"basis": {}}
    adapters = jax.tree.map(lambda x: jnp.stack([x] * CLIENTS), init_adapter(jax.random.key(1), model, base))
    leaves, tree = jax.tree.flatten((base, adapters))
    noise = np.random.default_rng(0)
    leaves = [x + jnp.asarray(0.2 * noise.standard_normal(x.shape), x.dtype) for x in leaves]
    return model, *jax.tree.unflatten(tree, leaves)


def prompts_of(clients=CLIENTS):
    """Two prompts a client, of one to six tokens."""
    rng = np.random.default_rng(1)
    mask = np.arange(6) >= rng.integers(0, 6, (clients, 2, 1))
    mask[0, 0], mask[0, 1, :5] = True, False
    return Prompts(tokens=jnp.asarray(rng.integers(0, 40, mask.shape)), mask=jnp.asarray(mask))


def pick(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("group", [1, 8])
def test_the_samplers_log_probs_are_those_of_the_policy(family, group, getkey):
    model, base, adapters = world(FAMILIES[family])
    prompts = prompts_of()
    # Early ends: half of the vocabulary stops; late ones: almost nothing does.
    eos_ids = tuple(range(20)) if group == 8 else (3,)
    rollouts = sample(model, base, adapters, prompts, getkey(), group=group, max_new_tokens=9, temperature=0.7, eos_ids=eos_ids)
    policy = jax.jit(jax.vmap(lambda *a: response_logps(model, base, *a, temperature=0.7)))
    logps = policy(adapters, prompts, rollouts.tokens)
    np.testing.assert_allclose(jnp.where(rollouts.mask, logps, 0), rollouts.logps, atol=1e-4)
    lengths = rollouts.mask.sum(-1)
    assert lengths.min() >= 1 and (lengths.min() < 5 if group == 8 else lengths.max() == 9)


def test_tokens_mask_and_log_probs_end_with_the_end_token(getkey):
    model, base, adapters = world()
    rollouts = sample(model, base, adapters, prompts_of(), getkey(), eos_ids=EOS, **SHAPE)
    is_end = np.isin(rollouts.tokens, EOS)
    ended_before = np.cumsum(is_end, axis=-1) - is_end > 0
    np.testing.assert_array_equal(rollouts.mask, ~ended_before)
    assert (np.asarray(rollouts.tokens)[ended_before] == 1).all() and (np.asarray(rollouts.logps)[ended_before] == 0).all()
    assert ended_before.any() and (np.asarray(rollouts.logps)[~ended_before] < 0).all()


def test_no_end_token_fills_the_room_and_all_ends_stop_at_once(getkey):
    model, base, adapters = world()
    endless = sample(model, base, adapters, prompts_of(), getkey(), eos_ids=(), **SHAPE)
    assert endless.mask.all() and endless.tokens.dtype == jnp.int32
    at_once = sample(model, base, adapters, prompts_of(), getkey(), eos_ids=tuple(range(40)), **SHAPE)
    assert at_once.mask[..., 0].all() and not at_once.mask[..., 1:].any() and (at_once.tokens[..., 1:] == 1).all()
    single = sample(model, base, adapters, prompts_of(), getkey(), group=1, max_new_tokens=1, eos_ids=())
    assert single.tokens.shape == (3, 2, 1, 1) and single.mask.all() and (single.logps < 0).all()


def test_a_clients_rollout_depends_on_nobody_else(getkey):
    model, base, adapters = world()
    prompts, keys = prompts_of(), jax.random.split(getkey(), CLIENTS)
    run = functools.partial(sample, model, base, eos_ids=EOS, **SHAPE)
    together = run(adapters, prompts, keys)
    for i in (0, 2):
        one = slice(i, i + 1)
        alone = run(pick(adapters, one), pick(prompts, one), keys[one])
        np.testing.assert_array_equal(alone.tokens, together.tokens[one])
        np.testing.assert_allclose(alone.logps, together.logps[one], atol=1e-5)


def test_a_response_follows_its_own_seed(getkey):
    model, base, adapters = world()
    prompts = prompts_of()
    run = functools.partial(sample, model, base, adapters, prompts, eos_ids=(), **SHAPE)
    seeds = jax.random.split(getkey(), (3, 2, 4))
    first = run(seeds).tokens
    second = run(seeds.at[1, 0, 2].set(getkey())).tokens
    changed = (first != second).any(-1)
    assert changed[1, 0, 2] and changed.sum() == 1
    by_client = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(7), jnp.arange(3))
    np.testing.assert_array_equal(run(jax.random.key(7)).tokens, run(by_client).tokens)
    with pytest.raises(ValueError, match="one per client"):
        run(seeds[:2])


def test_greedy_takes_the_likeliest_token_of_plain_forward_passes(getkey):
    model, base, adapters = world()
    prompts = prompts_of()
    rollouts = sample(model, base, adapters, prompts, getkey(), greedy=True, eos_ids=(), **SHAPE)
    forward = jax.jit(lambda adapter, *a: model.apply(base | {"adapter": adapter}, *a))
    for client, row in ((0, 1), (2, 0)):
        tokens = jnp.concatenate([prompts.tokens[client, row], rollouts.tokens[client, row, 3]])
        mask = jnp.concatenate([prompts.mask[client, row], jnp.ones(8, bool)])
        likeliest = forward(pick(adapters, client), tokens[None], mask[None])[0].argmax(-1)
        np.testing.assert_array_equal(likeliest[5:-1], rollouts.tokens[client, row, 3])


def test_the_base_is_sampled_without_adapters(getkey):
    model, base, adapters = world()
    fresh, key = jax.tree.map(jnp.zeros_like, adapters), getkey()
    run = functools.partial(sample, model, base, prompts=prompts_of(), key=key, eos_ids=(), **SHAPE)
    np.testing.assert_array_equal(run(None).tokens, run(fresh).tokens)
    assert (run(None).tokens != run(adapters).tokens).any()


def test_whole_responses_are_exactly_distributed(getkey):
    """Chi-square over all 7³ responses, whose exact probabilities are the policy's."""
    model, base, adapters = world(SHALLOW.replace(vocab_size=7))
    prompt = Prompts(tokens=jnp.array([[[3, 1, 4]]]), mask=jnp.array([[[False, True, True]]]))
    adapter = pick(adapters, slice(0, 1))
    tokens = sample(model, base, adapter, prompt, getkey(), group=20000, max_new_tokens=3, eos_ids=()).tokens
    counts = np.bincount(np.asarray(tokens.reshape(-1, 3) @ jnp.array([49, 7, 1])), minlength=343)
    every = jnp.stack(jnp.meshgrid(*[jnp.arange(7)] * 3, indexing="ij"), axis=-1).reshape(1, 343, 3)
    logps = jax.jit(lambda *a: response_logps(model, base, *a))(pick(adapter, 0), pick(prompt, 0), every)
    assert abs(chi_square(counts, np.exp(logps.sum(-1)[0]))) < 4


@pytest.mark.slow
def test_gradients_and_grids_go_around_the_loop():
    model, base, adapters = world()
    prompts, key = prompts_of(), jax.random.key(3)

    def loss(temperature):
        scaled = jax.tree.map(lambda x: temperature * x, adapters)
        rollouts = sample(model, base, scaled, prompts, key, temperature=temperature, eos_ids=EOS, **SHAPE)
        policy = jax.vmap(lambda *a: response_logps(model, base, *a, temperature=temperature))
        return jnp.where(rollouts.mask, policy(scaled, prompts, rollouts.tokens), 0).mean()

    grid = jnp.array([0.5, 0.8])
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(loss)))(grid)
    alone = jax.jit(jax.value_and_grad(loss))
    for i in range(2):
        np.testing.assert_allclose((values[i], slopes[i]), alone(grid[i]), rtol=2e-4)


@pytest.mark.slow
def test_float64_stays_float64():
    with jax.enable_x64(True):
        model, base, adapters = world(SHALLOW.replace(pad_id=1))
        wide = jax.tree.map(lambda x: x.astype(jnp.float64), (base, adapters))
        rollouts = sample(model, *wide, prompts_of(), jax.random.key(0), group=2, max_new_tokens=2, eos_ids=())
        policy = jax.jit(jax.vmap(lambda *a: response_logps(model, wide[0], *a)))
        assert rollouts.logps.dtype == jnp.float64
        np.testing.assert_allclose(rollouts.logps, policy(wide[1], prompts_of(), rollouts.tokens), atol=1e-12)


def test_nothing_compiles_after_the_first_call(getkey):
    model, base, adapters = world()
    run = functools.partial(sample, model, base, eos_ids=EOS, **SHAPE)
    jax.block_until_ready(run(adapters, prompts_of(), getkey(), temperature=0.5))
    arguments = [(jax.tree.map(lambda x, c=c: c * x, adapters), prompts_of(), getkey(), 0.5 + c) for c in range(3)]
    compiled = []

    def listener(event, _, **__):
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        for adapter, prompts, key, temperature in arguments:
            jax.block_until_ready(run(adapter, prompts, key, temperature=temperature))
        assert compiled == []
        jax.block_until_ready(jax.jit(lambda x: x + 1)(1.0))
        assert compiled, "the listener hears compilations"
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)


@pytest.mark.parametrize("config", [SHALLOW, FAMILIES["qwen3"]], ids=["one layer", "scanned layers"])
def test_the_loop_copies_no_cache_of_a_single_prompt(config):
    model, base, adapters = world(config)
    run = functools.partial(sample, model, base, group=4, max_new_tokens=9, eos_ids=())
    arguments = pick(adapters, slice(1)), jax.tree.map(lambda x: x[:1, :1], prompts_of()), jax.random.key(0)
    loops, _ = jax.jit(run).lower(*arguments).compile().as_text().split("\nENTRY")
    assert "[4,2,9,8]" in loops and "[2,4,2,9,8]" not in loops and not re.search(r"9,8\]\S* copy\(", loops)


@pytest.mark.parametrize("length", [11, 13])
def test_at_a_prime_length_the_ends_are_tested_seldom_and_the_response_has_its_length(getkey, length):
    """A stride of one token would wait for the device after each."""
    model, base, adapters = world()
    key, shape = getkey(), {"group": 4, "pad_id": 1, "eos_ids": (3,)}
    run = functools.partial(sample, model, base, adapters, prompts_of(), key, max_new_tokens=length, **shape)
    (loop,) = [eqn for eqn in _equations(jax.make_jaxpr(run)().jaxpr) if eqn.primitive.name == "while"]
    (inner,) = [eqn for eqn in loop.params["body_jaxpr"].jaxpr.eqns if eqn.primitive.name == "scan"]
    assert 6 <= inner.params["length"] <= 8
    rollouts, longer = run(), sample(model, base, adapters, prompts_of(), key, max_new_tokens=16, **shape)
    assert rollouts.tokens.shape == rollouts.mask.shape == rollouts.logps.shape == (CLIENTS, 2, 4, length)
    np.testing.assert_array_equal(rollouts.tokens, longer.tokens[..., :length])
    np.testing.assert_array_equal(rollouts.mask, longer.mask[..., :length])
    np.testing.assert_allclose(rollouts.logps, longer.logps[..., :length], atol=1e-5)


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        if equation.primitive.name == "jit":
            yield from _equations(equation.params["jaxpr"].jaxpr)


def test_positions_beyond_the_bases_are_refused(getkey):
    model, base, adapters = world()
    short = Transformer(model.config.replace(max_positions=6 + 8))
    run = functools.partial(sample, short, base, adapters, prompts_of(), eos_ids=(), group=2)
    assert run(getkey(), max_new_tokens=8).tokens.shape[-1] == 8
    with pytest.raises(
        ValueError, match="the prompts' width=6 and max_new_tokens=9 are 15 positions together, and the base has 14"
    ):
        jax.eval_shape(functools.partial(run, max_new_tokens=9), getkey())
    prompts, tokens = pick(prompts_of(), 0), jnp.zeros((2, 2, 9), jnp.int32)
    with pytest.raises(ValueError, match="the responses' length=9 are 15 positions together"):
        response_logps(short, base, pick(adapters, 0), prompts, tokens)


def test_prompts_without_a_client_axis_are_refused(getkey):
    model, base, adapters = world()
    with pytest.raises(ValueError, match="C = 1 for one client"):
        sample(model, base, adapters, pick(prompts_of(), 0), getkey(), eos_ids=(), **SHAPE)


def test_knobs_without_a_meaning_are_refused(getkey):
    model, base, adapters = world()
    for knob in ({"temperature": 0.0}, {"top_k": -1}, {"top_p": 1.5}, {"min_p": 2.0}):
        with pytest.raises(ValueError, match=next(iter(knob))):
            sample(model, base, adapters, prompts_of(), getkey(), eos_ids=(), **SHAPE, **knob)
