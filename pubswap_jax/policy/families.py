"""Adapter families whose average is exact, because what is trained enters ΔW linearly."""

import functools

import jax
import jax.numpy as jnp

from pubswap_jax.policy.adapter import lora
from pubswap_jax.types import Adapter, Array


@functools.cache
def ffa_lora(rank: int, alpha: float) -> Adapter:
    """LoRA with a frozen A (FFA-LoRA, Sun et al., arXiv 2403.12313): the mean of B is that of ΔW, and half as much crosses."""
    plain = lora(rank, alpha)

    def init(key: Array, wide: int, out: int, stack: tuple[int, ...] = ()) -> tuple[dict, dict]:
        _, both = plain.init(key, wide, out, stack)
        return {"a": both["a"]}, {"b": both["b"]}

    return Adapter(
        init,
        apply=lambda x, frozen, trained: plain.apply(x, {}, frozen | trained),
        factors=lambda frozen, trained: plain.factors({}, frozen | trained),
        peft=lambda frozen, trained: plain.peft({}, frozen | trained),
        exact=True,
        name="ffa_lora",
        settings=plain.settings,
    )


@functools.cache
def ravan(heads: int, rank: int) -> Adapter:
    """ΔW = Σ s_h A_h H_h B_h over heads, with A_h and B_h frozen and orthogonal across heads (RAVAN, arXiv 2506.05568).

    A client trains H_h [r, r] and s_h. It sends s_h H_h, and starts again from H_h = that and s_h = 1, so the mean is exact.
    Reading: A and B have orthonormal columns and rows, from a QR decomposition with a fixed sign.
    """

    def init(key: Array, wide: int, out: int, stack: tuple[int, ...] = ()) -> tuple[dict, dict]:
        if heads * rank > min(wide, out):
            raise ValueError(
                f"ravan: {heads} heads of rank {rank} need {heads * rank} orthogonal directions, and a layer of {wide} x {out} "
                f"has {min(wide, out)}; lower the heads or the rank"
            )
        a_key, b_key = jax.random.split(key)
        a, b = _orthonormal(a_key, (*stack, wide, heads * rank)), _orthonormal(b_key, (*stack, out, heads * rank))
        a = jnp.moveaxis(a.reshape(*stack, wide, heads, rank), -2, -3)
        b = jnp.moveaxis(b.reshape(*stack, out, heads, rank), (-3, -2, -1), (-1, -3, -2))
        return {"a": a, "b": b}, {"h": jnp.zeros((*stack, heads, rank, rank)), "s": jnp.ones((*stack, heads))}

    def apply(x: Array, frozen: dict, trained: dict) -> Array:
        core = trained["s"][:, None, None] * trained["h"]
        return jnp.einsum("...i,hir,hrq,hqo->...o", x, frozen["a"], core, frozen["b"], optimize=[(0, 1), (0, 2), (0, 1)])

    def factors(frozen: dict, trained: dict) -> tuple[Array, Array]:
        left = frozen["a"] @ (trained["s"][..., None, None] * trained["h"])  # [..., H, in, r]
        left = jnp.moveaxis(left, -3, -2)
        right = frozen["b"]
        return left.reshape(*left.shape[:-2], heads * rank), right.reshape(*right.shape[:-3], heads * rank, right.shape[-1])

    return Adapter(
        init,
        apply,
        factors,
        upload=lambda trained: {"h": trained["s"][..., None, None] * trained["h"]},
        download=lambda received: {"h": received["h"], "s": jnp.ones(received["h"].shape[:-2], received["h"].dtype)},
        exact=True,
        name="ravan",
        settings=(("heads", heads), ("rank", rank)),
    )


def _orthonormal(key: Array, shape: tuple[int, ...]) -> Array:
    """Orthonormal columns [..., n, k]. The sign of each is that which makes R's diagonal positive."""
    q, r = jnp.linalg.qr(jax.random.normal(key, shape, float))
    return q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[..., None, :]
