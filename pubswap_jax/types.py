"""The nouns of the project: every array that passes between files is a field of a type in this file.

Axes: C clients, B prompts, G samples per prompt (the paper's K), P prompt length, R response length, V vocabulary, r rank.
Shapes are written for one client; the stacked form has a leading C and a plural name (`client` / `clients`).

Index law: `tokens`, `mask` and `logps` of a rollout are aligned, entry t speaks of `tokens[t]`. The shift by one (the first
response token is predicted by the last prompt token) lives in `response_logps` and nowhere else.

"f32" means at least float32: nothing casts down, so that the same code runs in float64.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

Array = jax.Array
PyTree = Any

# What a verifier can say of an answer: the values of `Verdict.status`.
STATUSES = ("wrong", "correct", "unparsed", "refused", "timeout")
WRONG, CORRECT, UNPARSED, REFUSED, TIMEOUT = range(len(STATUSES))

# The linear layers of a block, by their Hugging Face names: what LoRA may adapt.
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@flax.struct.dataclass
class Prompts:
    """Left-padded questions: the last column is always a real token."""

    tokens: Array  # int32[B, P]
    mask: Array  # bool[B, P]


@flax.struct.dataclass
class Rollout:
    """G sampled responses to each of B prompts; the prompt is not repeated."""

    tokens: Array  # int32[B, G, R]
    mask: Array  # bool[B, G, R]   True up to and including the end token
    logps: Array  # f32[B, G, R]    log pi(token) of the sampler, 0 off the mask


@flax.struct.dataclass
class Verdict:
    """What the judge says of each response. The swap reads `correct`, never `reward`."""

    reward: Array  # f32[B, G]
    correct: Array  # bool[B, G]
    status: Array  # int8[B, G], an index into STATUSES

    @classmethod
    def from_correct(cls, correct: Array) -> "Verdict":
        """Reward 1 for a correct answer, else 0."""
        return cls(reward=correct.astype(float), correct=correct, status=correct.astype(jnp.int8))


@flax.struct.dataclass
class SwapPlan:
    """Where each slot's response comes from (stacked: it speaks of all clients)."""

    source: Array  # int32[C, B, G]   client * G + g over all clients; a slot's own index where nothing is swapped
    swapped: Array  # bool[C, B, G]


@flax.struct.dataclass
class Batch:
    """One step's questions (stacked). A public batch repeats its rows for every client."""

    prompts: Prompts  # [C, B, P]
    answers: Any  # what the judge reads: an array for a jnp judge, problems [C][B] for the host's
    public: bool = flax.struct.field(pytree_node=False, default=False)


@flax.struct.dataclass
class ClientState:
    """What a client keeps. Keys are folded with `id`, so a client samples the same alone and stacked."""

    id: Array  # int32[]
    lora: PyTree
    opt_state: PyTree


@flax.struct.dataclass
class ServerState:
    """What the server keeps: the global adapter, the round, and the averaged moments where they are averaged."""

    lora: PyTree
    round: Array  # int32[]
    opt_state: PyTree
    memory: PyTree = ()  # its Aggregator's

    @classmethod
    def create(cls, lora: PyTree) -> "ServerState":
        return cls(lora=lora, round=jnp.zeros((), jnp.int32), opt_state=())


@flax.struct.dataclass
class Hparams:
    """The knobs that are numbers: traced scalars, so that one program serves a grid, and a gradient goes through them."""

    lr: Array
    clip_low: Array
    clip_high: Array
    dual_clip: Array  # counts only where the loss is built with dual_clip=True
    kl_coef: Array  # of the KL in the loss or in the reward; counts only where there is an estimator
    prox_coef: Array
    swap_weight: Array  # scales the swapped responses' terms of the loss; 1 is the swap, 0 leaves those slots out
    temperature: Array

    @classmethod
    def create(
        cls, lr=1e-5, clip_low=0.2, clip_high=0.2, dual_clip=3.0, kl_coef=0.0, prox_coef=0.0, swap_weight=1.0, temperature=1.0
    ) -> "Hparams":
        values = (lr, clip_low, clip_high, dual_clip, kl_coef, prox_coef, swap_weight, temperature)
        return cls(*(jnp.asarray(value, float) for value in values))


@dataclasses.dataclass(frozen=True)
class Llama3Rope:
    """Llama 3's frequency scaling, as in the `rope_scaling` of its config.json."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The static facts of a decoder-only transformer: hashable, so that it can key a compiled program."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float = 10000.0
    rope_scaling: Llama3Rope | None = None
    rms_norm_eps: float = 1e-6
    qkv_bias: bool = False  # Qwen2
    qk_norm: bool = False  # Qwen3
    tie_embeddings: bool = True
    model_type: str = "llama"  # Hugging Face's name of the family
    max_positions: int = 4096
    dtype: str | None = None  # compute dtype by name; None computes in that of the parameters
    remat: str = "none"  # none | block: what the backward pass recomputes
    scan_layers: bool = False  # one compiled block for all layers, its parameters stacked
    eos_ids: tuple[int, ...] = ()  # all stop tokens
    pad_id: int = 0
    max_new_tokens: int = 256  # response length R where the caller names none
    lora_rank: int = 32
    lora_alpha: float = 64.0
    lora_targets: tuple[str, ...] = LINEAR_LAYERS
    # The base's folder, empty where it was not read from one: adapters are compared with it. It keys no program.
    folder: str = dataclasses.field(default="", compare=False)

    def replace(self, **changes) -> "ModelConfig":
        return dataclasses.replace(self, **changes)


class Aggregator(NamedTuple):
    """How uploads become the next adapter: pure functions that know no model and see adapters only.

    A weight of 0 means absent: whatever that upload holds, NaN included, changes nothing.
    """

    init: Callable[[PyTree], PyTree]  # adapter -> memory
    apply: Callable[..., tuple[PyTree, PyTree]]
    # ^ (memory, adapter [...], uploads [C, ...], weights f32[C], staleness int32[C], extra={}) -> adapter, memory
    due: Callable[[PyTree, Array], Any] = lambda memory, weights: True  # whether this makes a new version
    shares: bool = True  # False: nothing is uploaded, and every client keeps its own adapter


def at_least_f32(x: Array) -> Array:
    """Casts up to float32 and never down."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
