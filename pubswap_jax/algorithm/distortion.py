"""How far one replaced response, and a whole swap, move a group's gradient: the quantities of the paper's bound.

The bound is M·β: M is the number of replaced responses, β the farthest that a single replacement moves the gradient.

A group is a pytree with leaves [G, ...] (tokens, mask, reward, or other inputs of `gradient`). A pool of donors has leaves
[N, ...]. `gradient(group) -> pytree` is G(θ; x, Y) of one group. It is passed in, so this file does not depend on a model. With
`gradient = jax.grad(loss of the group)` every distance costs a backward pass. With per-response scores as leaves a distance
costs a few multiplications. `make_measure` uses scores, to measure during training.
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from pubswap_jax.algorithm.losses import safe_sqrt
from pubswap_jax.types import Array, Hparams, Prompts, PyTree, at_least_f32


@flax.struct.dataclass
class Distortion:
    """How far a swap moved a group's gradient, and its bound: ‖G(Y^M) − G(Y⁰)‖ ≤ M·β, by the triangle inequality.

    M is the number of replaced responses, β the largest effect of one replacement.
    """

    distance: Array  # f32[]   ‖G(θ; x, Ỹ) − G(θ; x, Y)‖ of the whole swap
    replacements: Array  # int32[]  M, the number of swapped slots
    beta: Array  # f32[]   the largest single-replacement distance over every group on the path Y⁰ … Y^M
    bound: Array  # f32[]   M·β


def one_replacement_distortion(gradient: Callable[[PyTree], PyTree], group: PyTree, donors: PyTree) -> Array:
    """How far each single replacement moves the gradient, f32[G, N]: ‖G(θ; x, Ỹ) − G(θ; x, Y)‖ with donor n in slot g."""
    return _distances(gradient, group, donors, gradient(group))


def distortion_bound(
    gradient: Callable[[PyTree], PyTree], group: PyTree, donors: PyTree, source: Array, swapped: Array, legal: Array
) -> Distortion:
    """The bound M·β of one group's swap, its factors M and β, and the distance that the gradient really moved.

    The path Y⁰ … Y^M replaces one swapped slot after another.

    Args:
      gradient: group -> pytree, the GRPO gradient of one group.
      group: leaves [G, ...], before the swap.
      donors: leaves [N, ...], the responses that could replace a slot.
      source: int32[G], the donor that each swapped slot takes.
      swapped: bool[G].
      legal: bool[G, N], the replacements that β ranges over (for Balanced: wrong slot, right donor). A slot is no longer
        legal once it is replaced. `legal` must include the actual replacement of every swapped slot.
    """
    start = gradient(group)

    def replace_next(path, slot):
        group, legal, beta = path
        taken = swapped[slot]
        distances = _distances(gradient, group, donors, gradient(group))
        beta = jnp.maximum(beta, jnp.max(distances, where=legal, initial=0.0))
        group = _select(taken, _replace(group, donors, slot, source[slot]), group)
        return (group, legal.at[slot].set(legal[slot] & ~taken), beta), None

    # The scan measures each group before a replacement, so β still lacks the group at the end of the path.
    zero = jnp.zeros((), jnp.result_type(float))
    (end, legal, beta), _ = jax.lax.scan(replace_next, (group, legal, zero), jnp.arange(swapped.shape[0]))
    final = gradient(end)
    beta = jnp.maximum(beta, jnp.max(_distances(gradient, end, donors, final), where=legal, initial=0.0))
    count = swapped.sum()
    return Distortion(distance=_norm_of_difference(final, start), replacements=count, beta=beta, bound=count * beta)


def make_measure(logps: Callable, advantages: Callable, normalise: Callable) -> Callable[..., Distortion]:
    """Returns a function that measures M·β on a public step: (base, adapters, prompts, record, hparams) -> Distortion, [C].

    M is the number of replaced responses of a group, β the farthest that one replacement moves its gradient. The measure takes
    one group per client, the group with the most replacements, and the adapters that sampled the responses.
    `logps` is (base, adapter, prompts, tokens, temperature=...) -> f32[B, G, R]; `advantages` and `normalise` are those of
    the update. Each response has its own backward pass, one after another: memory is 2G adapter gradients, not 2G activations.
    """

    @jax.jit
    def measure(base: PyTree, adapters: PyTree, prompts: Prompts, record, hparams: Hparams) -> Distortion:
        def of_client(client):
            adapter, *stacked = client
            fullest = jnp.argmax(stacked[-1].sum(-1))
            prompt, before, after, swapped = jax.tree.map(lambda x: x[fullest], tuple(stacked))

            def score(tokens, mask):
                def total(adapter):
                    one = jax.tree.map(lambda x: x[None], prompt)
                    found = logps(base, adapter, one, tokens[None, None], temperature=hparams.temperature)
                    return jnp.sum(found[0, 0], where=mask)

                return jax.grad(total)(adapter)

            def weigh(group):
                weights = jnp.where(group["received"], hparams.swap_weight, 1.0) * normalise(group["mask"][None])[0, :, 0]
                return weights * advantages(group["reward"][None])[0]

            return swap_distortion(score, weigh, before, after, swapped)

        before = _responses(record.rollouts, record.verdicts)
        after = _responses(record.swapped_rollouts, record.swapped_verdicts)
        return jax.lax.map(of_client, (adapters, prompts, before, after, record.plan.swapped))

    return measure


def swap_distortion(score: Callable, weigh: Callable, before: PyTree, after: PyTree, swapped: Array) -> Distortion:
    """`distortion_bound` of one group from per-response scores sᵢ = ∇ log π(yᵢ): its gradient on policy is −Σ wᵢ sᵢ.

    β ranges over every received response in every wrong slot. `score` is (tokens [R], mask [R]) -> pytree, `weigh` is
    group -> f32[G]. A group has tokens, mask, reward and correct.
    """
    group = swapped.shape[0]
    pool = jax.tree.map(lambda *both: jnp.concatenate(both), before, after)
    scores = jax.lax.map(lambda response: score(*response), (pool["tokens"], pool["mask"]))
    flat = [at_least_f32(leaf).reshape(2 * group, -1) for leaf in jax.tree.leaves(scores)]
    # Distances depend only on inner products, so points in 2G dimensions with the same Gram matrix replace the scores.
    values, vectors = jnp.linalg.eigh(sum(jnp.matmul(x, x.T, precision="highest") for x in flat))
    pool["score"] = vectors * safe_sqrt(values)[None]
    pool["received"] = jnp.arange(2 * group) >= group
    own, received = (jax.tree.map(lambda x, half=half: x[half], pool) for half in (slice(group), slice(group, None)))
    legal = swapped[None] & (~own["correct"][:, None] | jnp.eye(group, dtype=bool))
    slots = jnp.arange(group)
    return distortion_bound(lambda g: -weigh(g) @ g["score"], own, received, slots, swapped, legal)


def _responses(rollouts, verdicts) -> dict[str, Array]:
    return {"tokens": rollouts.tokens, "mask": rollouts.mask, "reward": verdicts.reward, "correct": verdicts.correct}


def _distances(gradient, group, donors, here):
    slots = jnp.arange(jax.tree.leaves(group)[0].shape[0])
    pool = jnp.arange(jax.tree.leaves(donors)[0].shape[0])

    def distance(slot, donor):
        return _norm_of_difference(gradient(_replace(group, donors, slot, donor)), here)

    return jax.vmap(jax.vmap(distance, in_axes=(None, 0)), in_axes=(0, None))(slots, pool)


def _replace(group, donors, slot, donor):
    return jax.tree.map(lambda mine, theirs: mine.at[slot].set(theirs[donor]), group, donors)


def _select(condition, yes, no):
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), yes, no)


def _norm_of_difference(x, y):
    squares = jax.tree.map(lambda a, b: jnp.sum(jnp.square(at_least_f32(a) - at_least_f32(b))), x, y)
    return safe_sqrt(sum(jax.tree.leaves(squares)))
