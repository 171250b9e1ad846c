"""Products by transposes are those by the matrices, of one layer and of layers that read the same input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import FAMILIES, world

from pubswap_jax.policy import matmul


def test_a_few_rows_by_the_transpose(getkey):
    x, kernel = jax.random.normal(getkey(), (2, 3, 5)), jax.random.normal(getkey(), (5, 7))
    np.testing.assert_allclose(matmul.few_rows(x, kernel.T), x @ kernel, rtol=1e-5, atol=1e-6)
    half = matmul.few_rows(x.astype(jnp.bfloat16), kernel.T)
    assert half.dtype == jnp.bfloat16 and matmul.few_rows(half, jnp.ones((2, 7)), jnp.float32).dtype == jnp.float32


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_product_serves_all_layers_with_the_same_input(family, scan, getkey):
    model, base, adapter = world(FAMILIES[family].replace(scan_layers=scan))
    turned, joined = matmul.transposed_kernels(base["params"]), matmul.joined_kernels(base["params"])
    block = "layers" if scan else "layers_0"
    assert set(turned[block]["self_attn"]) == {"joined", "o_proj"} and set(turned[block]["mlp"]) == {"joined", "down_proj"}
    assert set(joined[block]["self_attn"]) == set(joined[block]["mlp"]) == {"joined"}
    tokens = jax.random.randint(getkey(), (1, 5), 0, model.config.vocab_size)
    plain = model.apply(base | {"adapter": adapter}, tokens)
    for copies in ({"transposed": turned}, {"joined": joined}):
        found = model.apply(base | {"adapter": adapter} | copies, tokens)
        np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-4)


def test_only_two_to_sixteen_rows_on_a_cpu():
    assert [rows for rows in (1, 2, 16, 17) if matmul.prefers_transposed(rows)] == [2, 16]


def test_one_gpu_joins_and_several_do_not(monkeypatch, getkey):
    params = world(FAMILIES["qwen2"])[1]["params"]
    assert set(matmul.copies(params, 8)) == {"transposed"} and matmul.copies(params, 512) == {}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for devices, expected in ((1, {"joined"}), (2, set())):
        monkeypatch.setattr(jax, "device_count", lambda n=devices: n)
        assert set(matmul.copies(params, 8)) == set(matmul.copies(params, 512)) == expected
