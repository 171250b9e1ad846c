"""Fused attention is used where it was seen to agree, and nowhere else."""

import functools

import jax
import jax.numpy as jnp
import pytest
from small_models import SHALLOW

from pubswap_jax.policy import attention, kernel_check, triton_attention

WIDE = SHALLOW.replace(head_dim=64)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    for cached in (kernel_check._cudnn_agrees, kernel_check._triton_agrees):
        cached.cache_clear()
    yield
    for cached in (kernel_check._cudnn_agrees, kernel_check._triton_agrees):
        cached.cache_clear()


def test_the_triton_kernel_agrees_in_a_loop_that_writes_its_caches(monkeypatch):
    monkeypatch.setattr(attention, "own_attention", functools.partial(triton_attention.own_attention, interpret=True))
    assert 0 < float(kernel_check.decode_error("triton", 3, 64)) < 0.05


def test_a_kernel_that_is_wrong_is_seen(monkeypatch):
    def blind(q, k, v, step):
        return triton_attention.own_attention(q, k, v, step - 1, interpret=True)

    monkeypatch.setattr(attention, "own_attention", blind)
    assert float(kernel_check.decode_error("triton", 3, 64)) > 0.05


def test_the_fused_form_of_training_agrees(monkeypatch):
    assert float(kernel_check.packed_error(None)) < 0.05  # None lets jax.nn.dot_product_attention choose


def test_a_form_is_for_half_precision_and_sizes_that_fit(gpu, monkeypatch):
    monkeypatch.setattr(kernel_check, "packed_error", lambda form: jnp.float32(0.01))
    monkeypatch.setattr(kernel_check, "decode_error", lambda form, queries, size: jnp.float32(0.01))
    assert (
        kernel_check.training_kernel(jnp.bfloat16, 8, 6) == "cudnn"
        and kernel_check.decode_kernel(jnp.bfloat16, WIDE) == "triton"
    )
    assert kernel_check.training_kernel(jnp.float32, 8, 6) == kernel_check.training_kernel(jnp.bfloat16, 8, 7) == "xla"
    assert (
        kernel_check.decode_kernel(jnp.float32, WIDE)
        == kernel_check.decode_kernel(jnp.bfloat16, WIDE.replace(head_dim=80))
        == "xla"
    )
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert kernel_check.decode_kernel(jnp.bfloat16, WIDE) == "xla"


@pytest.mark.parametrize("error", [jnp.inf, jnp.nan, 0.2])
def test_a_form_that_disagrees_is_named_and_not_used(gpu, monkeypatch, capsys, error):
    monkeypatch.setattr(kernel_check, "packed_error", lambda form: jnp.float32(error))
    assert kernel_check.training_kernel(jnp.bfloat16, 8) == "xla"
    assert "cuDNN's attention is not used: it differs" in capsys.readouterr().err


def test_a_probe_runs_at_once_also_inside_of_a_trace(gpu, monkeypatch, capsys):
    seen = []

    def error(form):
        seen.append(isinstance(jnp.ones(2) + 1, jax.core.Tracer))
        raise TypeError("too old\nand more")

    monkeypatch.setattr(kernel_check, "packed_error", error)
    used = []
    jax.jit(lambda x: used.append(kernel_check.training_kernel(jnp.bfloat16, 8)) or x)(1.0)
    assert seen == [False] and used == ["xla"]
    assert capsys.readouterr().err == "cuDNN's attention is not used: too old\n"
