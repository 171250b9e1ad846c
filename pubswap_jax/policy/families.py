"""Adapter families whose average is exact, because what is trained enters ΔW linearly."""

import functools

import jax
import jax.numpy as jnp

from pubswap_jax.policy.adapter import lora
from pubswap_jax.types import Adapter, Array


@functools.cache
def ffa_lora(rank: int, alpha: float) -> Adapter:
    """The family FFA-LoRA (arXiv 2403.12313): LoRA whose A is frozen, so that only B is trained and sent: half the bytes.

    With a shared A, the mean of the clients' B gives exactly the mean of their ΔW.
    """
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


def ravan(heads: int, rank: int, bases: str = "orthogonal") -> Adapter:
    """The family RAVAN (arXiv 2506.05568): ΔW = Σ s_h A_h H_h B_h over heads, with A_h and B_h frozen.

    A_h and B_h are orthogonal across heads. A client trains H_h [r, r] and s_h. It sends s_h H_h, and starts the next round
    from the mean of these as H_h, with s_h = 1, so the mean of ΔW is exact.
    Reading: orthogonal bases have orthonormal columns in A and rows in B, from a QR decomposition with a fixed sign; random
    bases are normal, with columns and rows of norm 1 in expectation.
    """
    if bases not in BASES:
        raise ValueError(f"bases: one of {', '.join(BASES)} expected, got {bases!r}")
    return _ravan(heads, rank, bases)  # cached by all three arguments, also where `bases` is not given


@functools.cache
def _ravan(heads: int, rank: int, bases: str) -> Adapter:
    draw, kind = BASES[bases]

    def init(key: Array, wide: int, out: int, stack: tuple[int, ...] = ()) -> tuple[dict, dict]:
        if heads * rank > min(wide, out):
            raise ValueError(
                f"ravan: {heads} heads of rank {rank} need {heads * rank} {kind} directions, and a layer of {wide} x {out} "
                f"has {min(wide, out)}; lower the heads or the rank, or leave the layer out"
            )
        a_key, b_key = jax.random.split(key)
        a, b = draw(a_key, (*stack, wide, heads * rank)), draw(b_key, (*stack, out, heads * rank))
        a = jnp.moveaxis(a.reshape(*stack, wide, heads, rank), -2, -3)
        b = jnp.moveaxis(b.reshape(*stack, out, heads, rank), (-3, -2, -1), (-1, -3, -2))
        return {"a": a, "b": b}, {"h": jnp.zeros((*stack, heads, rank, rank)), "s": jnp.ones((*stack, heads))}

    def apply(x: Array, frozen: dict, trained: dict) -> Array:
        core = trained["s"][:, None, None] * trained["h"]
        return jnp.einsum("...i,hir,hrq,hqo->...o", x, frozen["a"], core, frozen["b"], optimize=[(0, 1), (0, 2), (0, 1)])

    def factors(frozen: dict, trained: dict) -> tuple[Array, Array]:
        left = jnp.moveaxis(frozen["a"], -3, -2)  # [..., in, H, r]
        right = (trained["s"][..., None, None] * trained["h"]) @ frozen["b"]  # [..., H, r, out]
        return left.reshape(*left.shape[:-2], heads * rank), right.reshape(*right.shape[:-3], heads * rank, right.shape[-1])

    return Adapter(
        init,
        apply,
        factors,
        upload=lambda trained: {"h": trained["s"][..., None, None] * trained["h"]},
        download=lambda received: {"h": received["h"], "s": jnp.ones(received["h"].shape[:-2], received["h"].dtype)},
        exact=True,
        name="ravan",
        settings=(("heads", heads), ("rank", rank), *((("bases", bases),) if bases != "orthogonal" else ())),
    )


def _orthonormal(key: Array, shape: tuple[int, ...]) -> Array:
    """Draws matrices with orthonormal columns, [..., n, k], by QR. The signs make R's diagonal positive, so they are unique."""
    q, r = jnp.linalg.qr(jax.random.normal(key, shape, float))
    return q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[..., None, :]


def _normal(key: Array, shape: tuple[int, ...]) -> Array:
    """Draws matrices of normal entries of variance 1/n, [..., n, k], whose columns have norm 1 in expectation."""
    return jax.random.normal(key, shape, float) * shape[-2] ** -0.5


BASES = {"orthogonal": (_orthonormal, "orthogonal"), "random": (_normal, "independent")}  # bases -> how to draw them, a word
