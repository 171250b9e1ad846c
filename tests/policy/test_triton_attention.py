"""The Triton kernel, by Pallas's interpreter: what it reads, and that it is written in what Triton has."""

import contextlib

import jax
import jax.numpy as jnp
import pytest

from pubswap_jax.policy import triton_attention


def test_what_lies_behind_the_step_is_not_read():
    q, k, v = (jnp.ones((1, rows, 16)) for rows in (2, 200, 200))
    behind = jnp.arange(200)[:, None] > 70
    found = triton_attention.own_attention(
        q, jnp.where(behind, jnp.nan, k), jnp.where(behind, jnp.nan, v), jnp.int32(70), interpret=True
    )
    assert all(jnp.isfinite(x).all() for x in found) and float(found[1].max()) == 71


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")
@pytest.mark.parametrize("queries, size, length", [(7, 64, 512), (3, 128, 500), (1, 16, 33)])
def test_the_kernel_is_written_in_what_triton_has(queries, size, length):
    """Lowered for CUDA without one: every operation of the kernel has its counterpart in Triton's language."""
    shapes = [(2, queries, size), (2, length, size), (2, length, size)]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes] + [jax.ShapeDtypeStruct((), jnp.int32)]
    with h100():
        text = jax.jit(triton_attention.own_attention).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    assert "triton" in text and "own_attention" in text


def h100():
    """JAX 0.11 asks which GPU a kernel is for."""
    if jax.__version_info__ < (0, 11):
        return contextlib.nullcontext()
    device = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", 132, "cuda")
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("x",), abstract_device=device))
