"""Log-probs a chunk at a time: the values and both derivatives of the form that keeps all logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import SHALLOW, batch, world

from pubswap_jax import response_logps
from pubswap_jax.policy import logps


def test_chunks_give_the_values_and_both_derivatives_of_all_logits_at_once(getkey):
    states, kernel = jax.random.normal(getkey(), (2, 3, 7, 5)), jax.random.normal(getkey(), (5, 40))
    _, tokens = batch()
    weights = jax.random.normal(getkey(), (2, 3, 7))

    def loss(f):
        unembed = lambda h: h @ kernel  # noqa: E731
        return lambda h, t: sum(jnp.sum(weights * x) for x in f(unembed, h, tokens[:2, :3], t, entropy=True))

    def derivatives(f):
        grad = jax.grad(loss(f), (0, 1))
        second = jax.grad(lambda h, t: sum(jnp.sum(jnp.sin(x)) for x in grad(h, t)), (0, 1))
        return jax.jit(lambda h, t: (loss(f)(h, t), grad(h, t), second(h, t)))(states, 0.7)

    chunked = derivatives(functools.partial(logps.chunked_logps, chunk=3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), chunked, derivatives(logps.token_logps))


def test_an_adapter_that_does_not_fit_is_named_and_not_ignored():
    model, base, adapter = world(SHALLOW)
    score = lambda adapter, **more: response_logps(model, base, adapter, *batch(), **more)  # noqa: E731
    for wrong, message in (
        ({"lora": adapter}, "no layer 'lora/layers_0/mlp/down_proj'"),
        ({"layers": adapter["layers_0"]}, "no layer 'layers/"),
        (
            jax.tree.map(lambda x: jnp.stack([x] * 3), adapter),
            r"q_proj has a \[3, 16, 3\] and b \[3, 3, 32\]; a \[16, 3\] and b",
        ),
        (jax.tree.map(lambda x: x[:, :1], adapter), r"for one client's adapter of the family lora \(rank 3, alpha 64\)"),
    ):
        with pytest.raises(ValueError, match=message):
            score(wrong)
    with pytest.raises(ValueError, match="base: a dict with 'params' and 'basis' expected, got one with embed_tokens"):
        response_logps(model, base["params"], adapter, *batch())
    with pytest.raises(ValueError, match="temperature: more than 0"):
        score(adapter, temperature=0.0)
