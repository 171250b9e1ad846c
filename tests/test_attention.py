"""Attention by blocks of queries and by the fused kernel's form: the same values and gradients as in one piece."""

import jax
import jax.numpy as jnp
import numpy as np
from small_models import SHALLOW, batch, world

from pubswap_jax import attention, response_logps


def test_blocks_of_queries_and_the_fused_kernels_form_agree(monkeypatch):
    model, params, lora = world(SHALLOW)
    prompts, tokens = batch(length=8)

    def value_and_grad():
        f = lambda lora: (lambda x: (jnp.mean(x**2), x))(response_logps(model, params, lora, prompts, tokens))  # noqa: E731
        (_, value), grad = jax.jit(jax.value_and_grad(f, has_aux=True))(lora)
        return value, grad

    whole = value_and_grad()
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", 1500)
    blocks = value_and_grad()
    monkeypatch.setattr(attention, "choose", lambda *_: None)  # None lets jax.nn.dot_product_attention choose
    repeated = value_and_grad()
    for other in (blocks, repeated):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), whole, other)
