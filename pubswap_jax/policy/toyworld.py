"""Toy model and task for tests and Colab: a two-layer policy, 17 tokens, and questions that jax.numpy can judge.

A question is `a + b =` or `a =` in digits. An answer is right if it has a token besides the end token and the sum of these
tokens has the parity of the question's sum. A random policy is right about half of the time, so groups differ and swaps happen.
"""

import jax
import jax.numpy as jnp
import numpy as np

from pubswap_jax.policy.adapter import init_adapter, init_basis, lora
from pubswap_jax.policy.model import Transformer
from pubswap_jax.types import Array, Batch, ModelConfig, Prompts, PyTree, Reference, Rollout, Verdict

PLUS, EQUALS, PAD, EOS = 10, 11, 15, 16  # 0 … 9 are the digits, 12 … 14 are unused
PROMPT_LENGTH = 4

TOY_CONFIG = ModelConfig(
    vocab_size=17,
    hidden_size=16,
    intermediate_size=32,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    eos_ids=(EOS,),
    pad_id=PAD,
    max_new_tokens=4,
    adapter=lora(2, 4.0),
)


def toy(key: Array, config: ModelConfig = TOY_CONFIG) -> tuple[Transformer, PyTree, PyTree]:
    """A random policy for tests and examples: (model, base, adapter)."""
    model = Transformer(config)
    params_key, adapter_key = jax.random.split(key)
    basis_key = jax.random.fold_in(adapter_key, 2**32 - 1)  # no layer of the adapter has this number
    params = model.init(params_key, jnp.zeros((1, 1), jnp.int32))["params"]
    # At this width the usual scale of 0.02 gives nearly the same logits for every prompt, so use ten times that.
    params = jax.tree.map(lambda x: x * 10 if x.ndim > 1 else x, params)
    base = {"params": params, "basis": init_basis(basis_key, model, {"params": params})}
    return model, base, init_adapter(adapter_key, model, base)


def toy_batches(key: Array, num_clients: int, num_prompts: int = 4) -> list[Batch]:
    """Two private batches and a public batch, as `round_step` takes them. The public questions are numbered from 0."""

    def questions(key, clients):
        a, b = jax.random.randint(key, (2, clients, num_prompts), 0, 10)
        return jax.vmap(jax.vmap(_question))(a, b)

    keys = jax.random.split(key, 3)
    private = [questions(k, num_clients) for k in keys[:2]]
    shared = jax.tree.map(lambda x: jnp.repeat(x, num_clients, axis=0), questions(keys[2], 1))
    numbers = jnp.broadcast_to(jnp.arange(num_prompts, dtype=jnp.int32), (num_clients, num_prompts))
    return [Batch(*private[0]), Batch(*private[1]), Batch(*shared, public=True, ids=numbers)]


def parity_judge(rollouts: Rollout, batch: Batch) -> Verdict:
    """The toy task's judge: right if the sum of a response's tokens has the parity `batch.answers`.

    [C, B, G] from tokens [C, B, G, R].

    With a `Reference`, a client that does not hold the question compares with the parity of its own response.
    """
    parity, answers = _parity(rollouts), batch.answers
    if isinstance(answers, Reference):
        answers = jnp.where(answers.held, answers.answers, _parity(answers.said)[..., 0])
    return Verdict.from_correct((parity >= 0) & (parity == answers[..., None]))


def _parity(rollouts: Rollout) -> Array:
    """The parity of the sum of a response's tokens; -1 for a response without a token. int32[..., G]"""
    said = rollouts.mask & (rollouts.tokens != EOS)
    return jnp.where(said.any(-1), jnp.sum(rollouts.tokens, axis=-1, where=said) % 2, -1)


def _question(a: Array, b: Array) -> tuple[Prompts, Array]:
    """The toy question `a + b =`, or `a =` where b is 0, as a prompt, and its answer, the parity of a + b."""
    long, short = jnp.stack([a, PLUS, b, EQUALS]), jnp.stack([PAD, PAD, a, EQUALS])
    tokens = jnp.where(b > 0, long, short).astype(jnp.int32)
    return Prompts(tokens, tokens != PAD), (a + b) % 2


def _targets() -> tuple[Prompts, np.ndarray]:
    sums = [(a, b) for a in range(1, 10, 2) for b in range(1, 10, 4)]
    tokens = np.array([[a, PLUS, b, EQUALS] for a, b in sums], np.int32)
    right = np.array([[[digit, EOS] for digit in range((a + b) % 2, 10, 2)] for a, b in sums], np.int32)
    return Prompts(tokens, np.ones_like(tokens, bool)), right


# Held-out questions and right answers to them: (Prompts [B, P], int32[B, G, R]), arguments of `response_logps`.
toy_targets = _targets()
