"""Attention by blocks of queries and by the fused kernel's form: the same values and gradients as in one piece."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import SHALLOW, batch, world

from pubswap_jax import response_logps
from pubswap_jax.policy import attention, kernel_check, triton_attention


def test_blocks_of_queries_and_the_fused_kernels_form_agree(monkeypatch):
    model, base, adapter = world(SHALLOW)
    prompts, tokens = batch(length=8)

    def value_and_grad():
        f = lambda adapter: (lambda x: (jnp.mean(x**2), x))(response_logps(model, base, adapter, prompts, tokens))  # noqa: E731
        (_, value), grad = jax.jit(jax.value_and_grad(f, has_aux=True))(adapter)
        return value, grad

    whole = value_and_grad()
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", 1500)
    blocks = value_and_grad()
    monkeypatch.setattr(kernel_check, "training_kernel", lambda *_: None)  # None lets jax.nn.dot_product_attention choose
    repeated = value_and_grad()
    for other in (blocks, repeated):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), whole, other)


@pytest.mark.parametrize("rows", [8 * 24, 8 * 24 * 8])
def test_no_width_takes_more_than_one_block_beyond_the_fewest(rows):
    """8 questions, 24 heads: a width of 509, which is prime, was 509 blocks where 3 do."""
    for width in range(1, 601):
        for keys in (width, width + 512):
            scores = rows * width * keys
            number, size = attention._blocks(width, scores)
            fewest = next(n for n in range(1, width + 1) if rows * -(-width // n) * keys <= attention.SCORES_AT_ONCE)
            assert fewest <= number <= fewest + 1 and rows * size * keys <= attention.SCORES_AT_ONCE
            assert 0 <= number * size - width < number
            # Where a divisor takes as few, it is taken: nothing is padded, and the program is what it was.
            divisor = next(n for n in range(1, width + 1) if width % n == 0 and scores <= n * attention.SCORES_AT_ONCE)
            if divisor <= fewest + 1:
                assert (number, number * size) == (divisor, width)
    assert attention._blocks(509, 8 * 24 * 509 * 509) == (3, 170)


@pytest.mark.parametrize("width", [12, 13])
def test_blocks_of_a_prime_width_agree_with_one_piece(monkeypatch, width):
    """Values and gradients, with a padded prompt; a lucky width is computed in the very blocks of before."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, width, heads, 8)), jnp.float32) for heads in (4, 2, 2))
    mask = jnp.arange(width)[None] >= jnp.array([[0], [5]])

    def value_and_grad():
        def f(qkv):
            out, _ = attention.causal(mask)(*qkv, None)
            return jnp.sum(jnp.where(mask[..., None, None], out, 0) ** 2), out

        (_, out), grad = jax.jit(jax.value_and_grad(f, has_aux=True))((q, k, v))
        return jnp.where(mask[..., None, None], out, 0), grad

    whole = value_and_grad()
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", 2 * 4 * width * 4)  # three blocks of four queries, or four
    (scan,) = [e for e in jax.make_jaxpr(attention.causal(mask))(q, k, v, None).jaxpr.eqns if e.primitive.name == "scan"]
    assert scan.params["length"] == {12: 3, 13: 4}[width]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), whole, value_and_grad())


@pytest.mark.parametrize("step", [0, 63, 64, 89])
def test_the_triton_kernels_form_of_a_decode_step_agrees(monkeypatch, step):
    monkeypatch.setattr(attention, "own_attention", functools.partial(triton_attention.own_attention, interpret=True))
    rng = np.random.default_rng(step)
    clients, prompts, group, heads, shared, length, size = 2, 3, 4, 6, 2, 90, 16

    def normal(*shape):
        return jnp.asarray(rng.normal(size=(clients, prompts, *shape)), jnp.float32)

    q, k, v = normal(group, heads, size), normal(group, shared, size), normal(group, shared, size)
    cache = {"prefix_k": normal(shared, 5, size), "prefix_v": normal(shared, 5, size)}
    cache |= {"k": normal(group, shared, length, size), "v": normal(group, shared, length, size)}
    mask = jnp.arange(5)[None, None] >= jnp.asarray(rng.integers(0, 5, (clients, prompts, 1)))

    def decode(form):
        one = lambda mask, q, k, v, cache: attention.decode(mask, jnp.int32(step), form)(q, k, v, cache)  # noqa: E731
        return jax.jit(jax.vmap(one))(mask, q, k, v, cache)

    (plain, written), (fused, also) = decode("xla"), decode("triton")
    np.testing.assert_allclose(fused, plain, rtol=1e-5, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, also, written)


def test_on_a_cpu_halves_are_widened_before_products_into_f32():
    """XLA's CPU backend compiles some batched products of bfloat16 into float32, and then cannot run them."""
    x = jnp.ones((2, 3, 4), jnp.bfloat16)
    (equation,) = jax.make_jaxpr(lambda x: attention._product("bij,bkj->bik", x, x))(x).jaxpr.eqns[-1:]
    assert {v.aval.dtype for v in (*equation.invars, *equation.outvars)} == {jnp.dtype("float32")}
