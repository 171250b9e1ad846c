"""One client's GRPO step on its responses, own or swapped: gradient, optimizer, metrics. federation.py adds the client axis."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from pubswap_jax.algorithm.aggregation import proximal_penalty
from pubswap_jax.algorithm.corrections import proximal
from pubswap_jax.algorithm.losses import (
    group_advantages,
    grpo_term,
    keep_truncated,
    kl_k1,
    kl_of_tokens,
    less_kl,
    masked_mean,
    per_sequence,
    reward_less_kl,
    safe_sqrt,
    total,
    zero_variance,
)
from pubswap_jax.policy.logps import response_logps
from pubswap_jax.types import (
    Advantages,
    Array,
    ClientState,
    Correction,
    Hparams,
    Loss,
    Normaliser,
    Prompts,
    PyTree,
    Rollout,
    Verdict,
)


@flax.struct.dataclass
class Material:
    """What the gradient of one client's step reads: every leaf has one entry a prompt, so that a microbatch is a slice."""

    prompts: Prompts
    rollout: Rollout
    advantages: Array  # f32[B, G]
    slot_weights: Array  # f32[B, G]     the swap's weight and the truncation's
    swapped: Array  # bool[B, G]
    token_norm: Array  # f32[B, G, R]  of the whole batch, not of the microbatch


@flax.struct.dataclass
class Scores:
    """Log-probs, entropies and token weights of the responses in one gradient step. f32[B, G, R] each."""

    logps: Array
    old_logps: Array
    entropy: Array
    ref_logps: Array | None
    token_weights: Array


class Learning(NamedTuple):
    """Settings of a client's update: how it learns from its responses. `pubswap` explains each of them."""

    loss: Loss = grpo_term
    advantages: Advantages = group_advantages
    normalise: Normaliser = per_sequence
    counted: Callable | None = None
    kl: Callable | None = None
    kl_in_reward: bool = False
    truncation: Callable = keep_truncated
    importance: Callable | None = None
    correction: Correction = proximal()
    microbatch: int | None = None
    inner_epochs: int = 1

    def check(self) -> None:
        if self.inner_epochs < 1:
            raise ValueError(f"inner_epochs: 1 or more expected, got {self.inner_epochs}")
        if self.kl_in_reward and self.kl is not kl_k1:
            raise ValueError(
                "kl_in_reward: kl=kl_k1 expected; in the reward no other one has the gradient of the KL divergence"
            )


class Update(NamedTuple):
    """A client's update as an object: `learn` is the whole step, the other methods are its parts."""

    model: Any
    tx: optax.GradientTransformation
    how: Learning
    eos_ids: tuple[int, ...]

    def learn(
        self,
        base: PyTree,
        received: PyTree,
        client: ClientState,
        prompts: Prompts,
        rollout: Rollout,
        verdict: Verdict,
        swapped: Array,
        hparams: Hparams,
    ) -> tuple[ClientState, dict[str, Array]]:
        """One training step of one client on its responses: the client after the step, and its metrics."""
        how = self.how
        truncated = is_truncated(rollout, self.eos_ids)
        reward, slot_weights = how.truncation(verdict.reward, rollout.mask, truncated)
        slot_weights = slot_weights * jnp.where(swapped, hparams.swap_weight, 1.0)
        kl_metrics = {}
        if how.kl_in_reward:
            # Reading: a swapped response is foreign, and its KL is under the receiver's own policy, as its ratio is.
            # The loss takes it as a constant, since `objective` is differentiated by `logps` alone. No `stop_gradient` here: a
            # gradient through several steps depends on the earlier ones by this path too.
            difference = self.kl_before(base, hparams, client.adapter, prompts, rollout)
            reward = reward_less_kl(reward, difference, rollout.mask, hparams.kl_coef)
            kl_metrics = {"kl": masked_mean(difference, rollout.mask)}
        advantages = how.advantages(reward)
        counted = () if how.counted is None else (how.counted(advantages),)
        token_norm = how.normalise(rollout.mask, *counted)
        material = Material(prompts, rollout, advantages, slot_weights, swapped, token_norm)

        adapter, opt_state, memory, scores = client.adapter, client.opt_state, client.memory, None
        for _ in range(how.inner_epochs):
            old_logps = None if scores is None else scores.old_logps
            gradient, scores = self.accumulate(base, hparams, adapter, material, old_logps)
            final = (self.objective(scores.logps, scores, material, hparams), _norm(gradient))
            memory = how.correction.observe(gradient, adapter, received, memory, hparams)
            gradient = how.correction.gradient(gradient, adapter, received, memory, hparams)
            direction, opt_state = self.tx.update(gradient, opt_state, adapter)
            direction = how.correction.restrict(direction, memory)
            adapter = jax.tree.map(lambda x, d: x - hparams.lr * d, adapter, direction)

        (value, loss_metrics), gradient_norm = final
        metrics = loss_metrics | kl_metrics | _response_metrics(rollout, verdict, truncated, swapped, scores)
        metrics |= {"loss": value, "grad_norm": gradient_norm, "drift": safe_sqrt(2 * proximal_penalty(adapter, received))}
        client = client.replace(adapter=adapter, opt_state=opt_state, steps=client.steps + how.inner_epochs, memory=memory)
        return client, metrics

    def objective(self, logps: Array, scores: Scores, material: Material, hparams: Hparams) -> tuple[Array, dict[str, Array]]:
        """The training loss of responses, from the policy's log-probs `logps` of them; and its metrics."""
        mask = material.rollout.mask
        term, metrics = self.how.loss(logps, scores.old_logps, material.advantages, mask, hparams)
        if self.how.kl is not None and not self.how.kl_in_reward:
            term, more = less_kl(term, self.how.kl, logps, scores.ref_logps, mask, hparams.kl_coef)
            metrics = metrics | more
        return total(term, scores.token_weights, material.token_norm, mask), metrics

    def differentiate(self, base, hparams, adapter, material: Material, old_logps: Array | None) -> tuple[PyTree, Scores]:
        """The loss's gradient by the adapter, and the scores of the responses that it was computed from."""
        score = partial(response_logps, self.model, base, temperature=hparams.temperature)
        prompts, tokens, how = material.prompts, material.rollout.tokens, self.how
        # vjp rather than grad: the forward pass of the gradient also gives the old log-probs, which enter the loss as an
        # argument. A `stop_gradient` inside the loss would make every gradient through two or more steps wrong.
        logps, pull_back, entropy = jax.vjp(lambda x: score(x, prompts, tokens, entropy=True), adapter, has_aux=True)
        old_logps = logps if old_logps is None else old_logps
        ref_logps = None if how.kl is None or how.kl_in_reward else score(None, prompts, tokens)
        token_weights = jnp.broadcast_to(material.slot_weights[..., None], logps.shape)
        if how.importance is not None:
            ratio = how.importance(old_logps, material.rollout.logps)
            token_weights = token_weights * jnp.where(material.swapped[..., None], 1.0, ratio)
        scores = Scores(logps, old_logps, entropy, ref_logps, token_weights)
        cotangent = jax.grad(lambda x: self.objective(x, scores, material, hparams)[0])(logps)
        return pull_back(cotangent)[0], scores

    def accumulate(self, base, hparams, adapter, material: Material, old_logps: Array | None) -> tuple[PyTree, Scores]:
        """`differentiate` one microbatch after another, with the gradients added: the same result with less memory."""
        num_prompts = material.advantages.shape[0]
        check_microbatch(self.how.microbatch, num_prompts)
        size = self.how.microbatch or num_prompts
        if size == num_prompts:
            return self.differentiate(base, hparams, adapter, material, old_logps)

        def add(so_far, part):
            gradient, scores = self.differentiate(base, hparams, adapter, *part)
            return jax.tree.map(jnp.add, so_far, gradient), scores

        parts = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), (material, old_logps))
        gradient, scores = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, adapter), parts)
        return gradient, jax.tree.map(lambda x: x.reshape(num_prompts, *x.shape[2:]), scores)

    def kl_before(self, base, hparams, adapter, prompts: Prompts, rollout: Rollout) -> Array:
        """The KL of every token before the first gradient step, f32[B, G, R]: a forward pass of policy and base."""
        score = partial(response_logps, self.model, base, temperature=hparams.temperature)

        def of_part(part):
            logps, ref_logps = (score(whose, part[0], part[1].tokens) for whose in (adapter, None))
            return kl_of_tokens(self.how.kl, logps, ref_logps, part[1].mask)

        num_prompts, microbatch = rollout.tokens.shape[0], self.how.microbatch
        check_microbatch(microbatch, num_prompts)
        if microbatch in (None, num_prompts):
            return of_part((prompts, rollout))
        parts = jax.tree.map(lambda x: x.reshape(-1, microbatch, *x.shape[1:]), (prompts, rollout))
        return jax.lax.map(of_part, parts).reshape(rollout.tokens.shape)


def make_update(model, tx: optax.GradientTransformation, how: Learning, eos_ids: tuple[int, ...]) -> Callable:
    """Builds a client's `learn`: (base, received, client, prompts, rollout, verdict, swapped, hparams) -> client, metrics."""
    how.check()
    return Update(model, tx, how, eos_ids).learn


def check_microbatch(microbatch: int | None, num_prompts: int) -> None:
    if microbatch is not None and (microbatch < 1 or num_prompts % microbatch):
        raise ValueError(f"microbatch: a divisor of the batch's {num_prompts} prompts expected, got {microbatch}")


def is_truncated(rollout: Rollout, eos_ids: tuple[int, ...]) -> Array:
    """Marks the responses that reached the length limit without an end token, bool[B, G]."""
    ended = jnp.isin(rollout.tokens[..., -1], jnp.asarray(eos_ids, rollout.tokens.dtype))
    return rollout.mask[..., -1] & ~ended


def _response_metrics(rollout, verdict, truncated, swapped, scores) -> dict[str, Array]:
    mask = rollout.mask
    own = mask & ~swapped[..., None]
    return {
        "reward": verdict.reward.mean(),
        "correct": verdict.correct.mean(),
        "zero_variance": zero_variance(verdict.reward).mean(),
        "length": mask.sum(-1).mean(),
        "truncated": truncated.mean(),
        "entropy": masked_mean(scores.entropy, mask),
        # A donor's sampler says nothing about ours, so swapped slots are left out.
        "sampler_gap": masked_mean(jnp.abs(scores.old_logps - rollout.logps), own),
    }


def _norm(tree: PyTree) -> Array:
    return safe_sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)))
