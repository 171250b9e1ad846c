"""The functions that FedGRPO compiles: those of the server's policy, and those of the clients as experts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pubswap_jax.algorithm.aggregation import sound
from pubswap_jax.algorithm.drift import drift
from pubswap_jax.algorithm.experts import (
    Judging,
    Use,
    asked_of,
    competence,
    expert_advantages,
    figures,
    mean_rewards,
    nearest,
    no_use,
    rewards_of_experts,
    used,
)
from pubswap_jax.algorithm.federation import over_clients
from pubswap_jax.algorithm.swap import no_swap, swap_metrics
from pubswap_jax.algorithm.update import is_truncated
from pubswap_jax.policy.embedding import Encoder
from pubswap_jax.policy.sampling import sample
from pubswap_jax.types import Array, ClientState, Hparams, PyTree, Rollout, Verdict

Worth = Callable[[Array, Rollout], Array]  # (rewards [B, G, M], candidates [1, B, G, R]) -> rewards


def student_functions(student) -> dict[str, Any]:
    """The functions of the server's policy that a run compiles, by name: rollout, update, drift and the next round's number."""
    stacked = over_clients(student)

    def update(base, policy: ClientState, prompts, rollouts: Rollout, advantages: Verdict, verdicts: Verdict, hparams):
        """The policy after a step, its metrics, and the `SwapPlan` of a step in which nothing is swapped."""
        plan = no_swap(None, verdicts.correct)
        policy, metrics = stacked.learn(base, policy.received, policy, prompts, rollouts, advantages, plan.swapped, hparams)
        metrics |= swap_metrics(plan, verdicts, verdicts, rollouts.mask)
        figures = {"reward": verdicts.reward.mean((1, 2)), "correct": verdicts.correct.mean((1, 2), dtype=float)}
        return policy, metrics | figures, plan

    def moved(policy: ClientState) -> dict[str, Array]:
        anchor = jax.tree.map(lambda x: x[0], policy.received)
        return drift(policy.adapter, anchor, None) | {"sound": sound((policy.adapter, policy.opt_state))}

    return {"rollout": stacked.respond, "update": update, "moved": moved, "next": lambda round: round + 1}


def cut_off(truncation: Callable, eos_ids: tuple[int, ...]) -> Worth:
    """What a rule for responses that the length limit cut off makes of rewards, before they become advantages."""

    def worth(rewards: Array, rollouts: Rollout) -> Array:
        mask, truncated = rollouts.mask[0], is_truncated(rollouts, eos_ids)[0]
        return jax.vmap(lambda reward: truncation(reward, mask, truncated)[0], -1, -1)(rewards)

    return worth


def expert_functions(model, encoder: Encoder, num_clients: int, judging: Judging, worth: Worth) -> dict[str, Any]:
    """The functions of the clients as experts, and of the server that chooses them, by name."""

    def say(base, adapters, prompts, keys, hparams: Hparams) -> Rollout:
        """One answer to each prompt."""
        tokens = model.config.max_new_tokens
        return sample(model, base, adapters, prompts, keys, group=1, max_new_tokens=tokens, temperature=hparams.temperature)

    def repeated(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (num_clients, *x.shape[1:])), tree)

    def answer(base, adapters, prompts, keys, hparams: Hparams) -> Rollout:
        return say(base, adapters, repeated(prompts), keys, hparams)

    def consult(base, adapters, prompts, experts: Array, keys, hparams: Hparams) -> Rollout:
        """What each expert answers to its own questions, [C, B, 1, R]; empty where a client is not asked."""
        rows, whose = jnp.repeat(jnp.arange(experts.shape[0]), experts.shape[1]), experts.ravel()
        theirs, asked = jax.tree.map(lambda x: x[whose], adapters), jax.tree.map(lambda x: x[0, rows][:, None], prompts)
        fold = jax.vmap(jax.random.fold_in)
        each = fold(fold(keys[whose], rows), jnp.zeros_like(rows))[:, None, None]  # as if every client answered every question
        said = say(base, theirs, asked, each, hparams)
        shape = num_clients, experts.shape[0]
        return jax.tree.map(lambda x: jnp.zeros((*shape, *x.shape[2:]), x.dtype).at[whose, rows].set(x[:, 0]), said)

    def bits(correct: Array, adapters: PyTree) -> dict[str, Array]:
        right = correct & sound(adapters)[:, None, None]
        return {"correct": right, "reward": right.astype(float)}

    def choose(base, prompts, embedded: Array, known: Array, adapters: PyTree, key: Array) -> tuple[Array, Array, Array]:
        """Chooses a step's experts: int[B, M], which client is asked what bool[C, B], and their mean competence f32[1]."""
        one = jax.tree.map(lambda x: x[0], prompts)
        able = competence(known, nearest(encoder.embed(base, one), embedded, judging.neighbours))
        experts = judging.choose(able, sound(adapters), key, judging.experts)
        asked = asked_of(experts, num_clients)
        return experts, asked, (able * asked).sum(keepdims=True)[0] / (asked.shape[1] * judging.experts)

    def report(reward: Array, asked: Array, adapters: PyTree) -> dict[str, Array]:
        """An expert's rewards as it sends them. A client whose adapter is not finite sends NaN, which counts as no reward."""
        reward = jnp.where(sound(adapters)[:, None, None], reward, jnp.nan)
        return {"reward": jnp.where(asked[..., None], reward, 0.0), "asked": asked}

    def advise(rewards: Array, experts: Array, asked: Array, use: Use, rollouts: Rollout) -> tuple[Verdict, Verdict, Use]:
        """Turns experts' rewards into advantages and mean rewards, each as a `Verdict`, and counts the experts' work."""
        each = rewards_of_experts(rewards, experts)
        advantages = expert_advantages(worth(each, rollouts), judging.over, scale=judging.scale)[None]
        reward = mean_rewards(each)[None]
        right = reward >= 0.5  # for half of its experts at least: of two, the one that knows the topic is enough
        verdict = Verdict(reward, right, right.astype(jnp.int8))
        return verdict.replace(reward=advantages), verdict, used(use, rewards, asked)

    def surveyed(base, prompts, said: Rollout, correct: Array) -> tuple:
        """What a survey leaves at the server: embeddings of the auxiliary questions, and the clients' bits and responses.

        The responses form groups [1, A, C]: one answer by each client.
        """
        embedded = encoder.embed(base, jax.tree.map(lambda x: x[0], prompts))
        together = lambda x: jnp.moveaxis(x, 0, 2)[:, 0][None]  # noqa: E731  # [C, A, 1, ...] -> [1, A, C, ...]
        verdicts = Verdict.from_correct(together(correct))
        metrics = {"reward": verdicts.reward.mean((1, 2)), "correct": verdicts.reward.mean((1, 2))}
        grouped = jax.tree.map(together, said)
        return embedded, correct[..., 0], grouped, verdicts, no_swap(None, verdicts.correct), metrics

    return {
        "two_keys": lambda key: tuple(jax.random.split(key)),
        "keys": jax.vmap(jax.random.fold_in, in_axes=(None, 0)),
        "repeated": repeated,
        "answer": answer,
        "consult": consult,
        "bits": bits,
        "choose": choose,
        "report": report,
        "advise": advise,
        "surveyed": surveyed,
        "nobody": jnp.zeros_like,
        "slots": lambda asked, mask: jnp.broadcast_to(asked[..., None], (*asked.shape, mask.shape[2])),
        "rest": lambda use: no_use(use.asked.shape[0]),
        "figures": figures,
    }
