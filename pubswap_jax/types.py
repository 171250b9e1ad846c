"""The data types of the project. Arrays that pass between files are fields of these types.

A few folders have types of their own for values that only they use.

Axes: C clients, B prompts, G samples per prompt (the paper's K), P prompt length, R response length, V vocabulary, r rank.
Shapes are written for one client; the stacked form has a leading C and a plural name (`client` / `clients`).

Index law: `tokens`, `mask` and `logps` of a rollout are aligned: entry t of each belongs to `tokens[t]`. Only `response_logps`
does the shift by one (the last prompt token predicts the first response token).

"f32" means at least float32. No code casts down to float32, so the same code runs in float64.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from pubswap_jax.field_table import LINEAR_LAYERS as LINEAR_LAYERS

Array = jax.Array
PyTree = Any

# Outcomes of verifying an answer. `Verdict.status` holds indices into STATUSES.
STATUSES = ("wrong", "correct", "unparsed", "refused", "timeout")
WRONG, CORRECT, UNPARSED, REFUSED, TIMEOUT = range(len(STATUSES))


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
    logps: Array  # f32[B, G, R]    log π(token) of the sampler, 0 where the mask is False


@flax.struct.dataclass
class Verdict:
    """The judge's result for each response: `correct` and `reward`. The swap reads `correct`, never `reward`."""

    reward: Array  # f32[B, G]
    correct: Array  # bool[B, G]
    status: Array  # int8[B, G], an index into STATUSES

    @classmethod
    def from_correct(cls, correct: Array) -> "Verdict":
        """Makes a verdict from correctness bits alone: reward 1 for a correct answer, else 0."""
        return cls(reward=correct.astype(float), correct=correct, status=correct.astype(jnp.int8))


@flax.struct.dataclass
class SwapPlan:
    """Says where each slot's response comes from, for all clients: `source` numbers the response of some client."""

    source: Array  # int32[C, B, G]   client * G + g over all clients; a slot's own index where nothing is swapped
    swapped: Array  # bool[C, B, G]


@flax.struct.dataclass
class Batch:
    """The questions of one step for all clients. A public batch repeats its rows for every client."""

    prompts: Prompts  # [C, B, P]
    answers: Any  # the judge's input: an array for a jnp judge, problems [C][B] for a judge on the host
    public: bool = flax.struct.field(pytree_node=False, default=False)
    ids: Any = None  # int32[C, B], numbers in the list of public questions, -1 for a private one; None: nobody counts them
    again: Any = flax.struct.field(pytree_node=False, default=None)
    # ^ (verdicts, draws so far) -> a Batch of other questions for groups without variance, or None for no more; decides on the
    # host, as the judge does. None: no question is replaced
    labelled: bool = flax.struct.field(pytree_node=False, default=False)  # public, and the server has the answers
    held: Any = None  # bool[C, B], the clients that have the answer of a public question; None: nobody has


@flax.struct.dataclass
class Reference:
    """FedGRPO's `answers` of a batch: for C clients and B questions, what a client as expert compares candidates with."""

    answers: Any  # as a batch's; read only where a client holds the question
    held: Array  # bool[C, B], the client holds the question, and so its answer
    asked: Array  # bool[C, B], the client is an expert of the question; verdicts elsewhere mean nothing
    said: Rollout  # [C, B, 1, R], the client's own response to the question


@flax.struct.dataclass
class ClientState:
    """State of one client: adapter, optimizer, and what it received.

    Keys are folded with `id`, so a client samples the same alone and stacked.
    """

    id: Array  # int32[]
    adapter: PyTree
    opt_state: PyTree
    version: Array  # int32[], the server's round at the client's last start
    steps: Array  # int32[], gradient steps since its start
    received: PyTree = ()  # the adapter that came down at its start; () in lockstep, where `learn` takes the server's
    memory: PyTree = ()  # its Correction's


@flax.struct.dataclass
class ServerState:
    """State of the server. The adapter is in the form that crosses between server and clients."""

    adapter: PyTree
    moments: PyTree  # the averaged optimizer moments, or () if moments are not averaged
    round: Array  # int32[], averagings so far
    memory: PyTree = ()  # its Aggregator's


@flax.struct.dataclass
class StepRecord:
    """What one step did, for all clients: responses, verdicts, swaps and metrics.

    After a private step, `swapped_*` are the clients' own. Metrics are f32[C]. An absent client's rows mean nothing: they are
    zeros where only the clients that take part are computed, and else whatever was computed.
    """

    metrics: dict[str, Array]
    rollouts: Rollout
    verdicts: Verdict
    swapped_rollouts: Rollout
    swapped_verdicts: Verdict
    plan: SwapPlan
    adapters: PyTree  # [C, ...], those that sampled the rollouts
    drawn: tuple = flax.struct.field(pytree_node=False, default=())
    # ^ for each draw of other questions: their answers, and source int32[C, B], as `resampling.fill` gives it


@flax.struct.dataclass
class Hparams:
    """Numeric hyperparameters as traced scalars: one compiled program serves a whole grid, and gradients flow through."""

    lr: Array
    clip_low: Array
    clip_high: Array
    dual_clip: Array  # used only if the loss is built with dual_clip=True
    kl_coef: Array  # weight of the KL in the loss or in the reward; used only with a KL estimator
    prox_coef: Array
    swap_weight: Array  # weight of swapped responses in the loss; 1 is the plain swap, 0 omits swapped slots
    temperature: Array

    @classmethod
    def create(
        cls, lr=1e-5, clip_low=0.2, clip_high=0.2, dual_clip=3.0, kl_coef=0.0, prox_coef=0.0, swap_weight=1.0, temperature=1.0
    ) -> "Hparams":
        values = (lr, clip_low, clip_high, dual_clip, kl_coef, prox_coef, swap_weight, temperature)
        return cls(*(jnp.asarray(value, float) for value in values))


class Adapter(NamedTuple):
    """An adapter family such as LoRA: pure functions that make, apply and send the adapter of one linear layer.

    `frozen` arrays are shared by all clients and never trained; `trained` arrays are a client's own. Factories such as `lora`
    are cached: equal arguments give the same object, and so the same compiled programs.
    """

    init: Callable[..., tuple[dict, dict]]
    # ^ (key, in, out) -> frozen, trained; with a fourth argument `stack`, the leading axes of scanned layers
    apply: Callable[[Array, dict, dict], Array]  # (x [..., in], frozen, trained) -> what is added to x W, [..., out]
    factors: Callable[[dict, dict], tuple[Array, Array]]
    # ^ (frozen, trained) -> P [..., in, k], Q [..., k, out] with ΔW = P Q, which is never formed; [...] is a scanned layer axis
    upload: Callable[[dict], dict] = lambda trained: trained  # trained -> what crosses
    download: Callable[[dict], dict] = lambda received: received  # what came down -> trained
    peft: Callable[[dict, dict], tuple[Array, Array, float]] | None = None
    # ^ (frozen, trained) -> A, B, alpha as PEFT stores them: ΔW = alpha / k · A B; None: the factors, with alpha = k
    exact: bool = False  # ΔW is linear in what crosses, so that the average of uploads is the average of ΔW
    name: str = "adapter"
    settings: tuple[tuple[str, float | str], ...] = ()  # the factory's arguments, by name

    def delta(self, frozen: dict, trained: dict) -> Array:
        """The dense change ΔW = P Q of a layer, [..., in, out]; used by tests only."""
        p, q = self.factors(frozen, trained)
        return p @ q


@dataclasses.dataclass(frozen=True)
class Llama3Rope:
    """Llama 3's RoPE frequency scaling: the fields of `rope_scaling` in config.json."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Static configuration of a decoder-only transformer. Hashable, so that it can be a static argument of `jit`."""

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
    dtype: str | None = None  # name of the compute dtype; None is the parameters' dtype
    remat: str = "none"  # none | block: the backward pass recomputes nothing, or each block
    scan_layers: bool = False  # compile one block for all layers, with stacked parameters
    eos_ids: tuple[int, ...] = ()  # all stop tokens
    pad_id: int = 0
    max_new_tokens: int = 256  # default response length R
    adapter: Adapter | None = None  # the adapter family, e.g. `lora(8, 16.0)`; None: only the base can be computed
    lora_targets: tuple[str, ...] = LINEAR_LAYERS  # the layers that have an adapter
    # The base's folder, or empty. Adapters are checked against it. compare=False: the folder must not cause a recompilation.
    folder: str = dataclasses.field(default="", compare=False)

    def replace(self, **changes) -> "ModelConfig":
        return dataclasses.replace(self, **changes)


# --- functions that take part in a federation; algorithm/federation.py composes them ----------------------------------------

Planner = Callable[..., SwapPlan]  # (key, correct bool[C, B, G], present bool[C] | None) -> plan
Loss = Callable[..., tuple[Array, dict[str, Array]]]
# ^ (logps, old_logps, advantages [B, G], mask, hparams) -> a term for every token f32[B, G, R], metrics
Advantages = Callable[[Array], Array]  # rewards f32[B, G] -> f32[B, G]
Normaliser = Callable[..., Array]  # (mask bool[B, G, R], counted bool[B] | None) -> the weight of every token f32[B, G, R]
Judge = Callable[[Rollout, Batch], Verdict]  # stacked; the only crossing to the host in a step
Rebase = Callable[..., PyTree]
# ^ (adapter, uploads [C, ...], received [C, ...], staleness int32[C], waiting) -> uploads as the aggregation rule takes them
Program = Callable[[str, Callable], Callable]  # (name, function) -> the compiled function; `compiled` is jax.jit


def compiled(name: str, function: Callable) -> Callable:
    """Compiles a function by `jax.jit`, whatever its name: the default `Program`."""
    return jax.jit(function)


class Aggregator(NamedTuple):
    """An aggregation rule: how clients' uploads become the next adapter. Pure functions that see adapters, never a model.

    A weight of 0 means absent: whatever that upload holds, NaN included, changes nothing.
    """

    init: Callable[[PyTree], PyTree]  # adapter -> memory
    apply: Callable[..., tuple[PyTree, PyTree]]
    # ^ (memory, adapter [...], uploads [C, ...], weights f32[C], staleness int32[C], extra={}) -> adapter, memory
    due: Callable[[PyTree, Array], Any] = lambda memory, weights: True  # whether this makes a new version
    shares: bool = True  # False: nothing is uploaded, and every client keeps its own adapter
    needs: int = 1  # clients that must be present. `apply` raises where it knows the weights, and keeps the adapter where not
    sends: Callable[[PyTree, int], PyTree] = lambda memory, num_clients: ()  # what goes down beside the adapter. [C, ...]
    gathers: bool = False  # `apply` compares whole uploads: on a mesh every device gets all of them first
    starts: Callable[[PyTree], PyTree] | None = None  # memory -> adapters [C, ...] that clients start from; None: the server's


class Correction(NamedTuple):
    """What a federated method changes inside a client: terms for its gradient, as pure functions of one client.

    A client calls `receive` at the start of a round, `observe` and then `gradient` at every step, and `finish` at the end.
    """

    init: Callable[[PyTree], PyTree]  # adapter -> memory
    gradient: Callable[..., PyTree]  # (gradient, adapter, received, memory, hparams) -> gradient, before the optimizer
    finish: Callable[..., tuple[PyTree, dict[str, PyTree]]]
    # ^ (adapter, received, memory, steps) -> memory, and what goes up beside the adapter, by name
    observe: Callable[..., PyTree] = lambda gradient, adapter, received, memory, hparams: memory  # -> memory
    receive: Callable[[PyTree, PyTree], PyTree] = lambda memory, sent: memory  # sent: one client's row of `sends`
    restrict: Callable[[PyTree, PyTree], PyTree] = lambda direction, memory: direction  # after the optimizer


class Client(NamedTuple):
    """What a client does: answers questions, learns, uploads. It knows the model and the optimizer.

    `start`, `learn` and `upload` are written for one client and vmapped by `over_clients`; `respond` is stacked already.
    """

    start: Callable[..., ClientState]  # (download, client) -> client at the beginning of a round
    respond: Callable[..., Rollout]  # (base, clients, prompts [C, B, P], keys [C], hparams) -> rollouts
    learn: Callable[..., tuple[ClientState, dict[str, Array]]]
    # ^ (base, received, client, prompts, rollout, verdict, swapped bool[B, G], hparams) -> client, metrics
    upload: Callable[..., tuple[PyTree, dict[str, PyTree]]]  # (client) -> what crosses, extra values for the aggregator
    finish: Callable[[ClientState], ClientState] = lambda client: client
    # ^ the client after its upload: its correction's memory goes on


class Server(NamedTuple):
    """What a server does: sends its adapter, plans swaps, aggregates uploads. PubSwap's server knows no model."""

    download: Callable[[ServerState], PyTree | None]  # None: nothing comes down, and everybody trains alone
    swap: Callable[..., tuple[PyTree, SwapPlan]]  # (key, correct, responses [C, B, G, ...], present) -> responses, plan
    aggregate: Callable[..., ServerState]  # (server, uploads [C, ...], weights, staleness, extra) -> server
    init: Callable[[PyTree, PyTree], ServerState]  # (adapter, a fresh optimizer state) -> server
    send: Callable[[ServerState, int], PyTree]  # (server, C) -> the download of every client, leaves [C, ...]
    needs: int = 1  # clients that an averaging needs
    gathers: bool = False  # `aggregate` compares whole uploads: on a mesh every device gets all of them first


class Channel(NamedTuple):
    """The only way out of a client and into one. A `Record` goes in and comes out at the other end; see records.py."""

    up: Callable[[Any], Any]
    down: Callable[[Any], Any]


class Federation(NamedTuple):
    """One way of federating. The training loop, checkpoints, evaluation and export know nothing else of it.

    The state is a pytree of its own with a field or property `round`.
    """

    init: Callable[[PyTree], PyTree]  # adapter -> state
    open: Callable[..., PyTree]  # (state, channel, who=None) -> state: the download to bool[C] `who`; None: to all
    step: Callable[..., tuple[PyTree, StepRecord]]  # (base, state, batch, judge, channel, key, hparams, who=None)
    close: Callable[..., tuple[PyTree, dict[str, Array]]]  # (state, channel, weights=None) -> state, figures of the round
    shared: Callable[[PyTree], PyTree | None]  # the adapter to evaluate and export; None: there is none
    own: Callable[[PyTree], PyTree | None]  # each client's adapter [C, ...], before the next open; None: there is none
    saved: Callable[[PyTree], PyTree]  # the part of a state that a checkpoint between two rounds needs
    reports: bool = True  # figures and transcripts of a step cross the channel; False: a run writes them, and nobody sends them


class Event(NamedTuple):
    """One event of a run: a step, or the begin or end of a round, or an evaluation. All values are on the host."""

    kind: str  # evaluate | open | private | public | auxiliary | close; auxiliary: a survey of FedGRPO
    who: Any  # bool[C], the clients it concerns
    round: int  # from 0; -1 for the evaluation of the base model
    step: int
    number: int  # earlier events of its kind; a public step's number indexes the stream of public questions
    served: Any  # int[C], private steps behind each client, which index its stream of private questions
    time: float | None = None  # of the simulated clock; None: the timeline has none
    staleness: Any = None  # int[C], server updates since the start of each client that uploads; None: all start together


class Timeline(NamedTuple):
    """A run's events: a pure function of the event's index, so that a checkpoint needs one number."""

    event: Callable[[int], Event]
    length: int
    number: Callable[[int, int], int]  # (round, step) -> the index of that step's event
    place: Callable[[int], tuple[int, int]]  # index -> (rounds done, how far the next one is), which name a checkpoint
    resume: Callable[[int, int], int]  # a place -> the index of its next event

    def __call__(self, index: int) -> Event:
        return self.event(index)


def at_least_f32(x: Array) -> Array:
    """Casts narrower dtypes up to float32; float64 stays float64."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
