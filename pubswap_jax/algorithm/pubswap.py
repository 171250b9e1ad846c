"""PubSwap as a federation: LoRA averaging, and on public steps a swap of responses between the clients.

client.py and server.py have the two roles, and `pubswap` joins them to a `Federation`. Whatever crosses between them passes
`channel`, in `Together.open`, `step` and `close`, and in `exchange`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from pubswap_jax.algorithm.aggregation import broadcast, check_enough, check_weights, choose, mean, rebased, sound
from pubswap_jax.algorithm.client import arrived, check_shapes, make_client, receive
from pubswap_jax.algorithm.corrections import proximal
from pubswap_jax.algorithm.drift import drift
from pubswap_jax.algorithm.federation import Parts, Rows, make_rows, over_clients
from pubswap_jax.algorithm.losses import group_advantages, grpo_term, per_sequence
from pubswap_jax.algorithm.resampling import fill, resampled
from pubswap_jax.algorithm.server import exchange, make_server
from pubswap_jax.algorithm.swap import balanced, check_present, no_swap, swap_metrics
from pubswap_jax.algorithm.truncation import keep_truncated
from pubswap_jax.algorithm.update import Learning
from pubswap_jax.policy.adapter import each_layer
from pubswap_jax.records import Record
from pubswap_jax.types import (
    Adapter,
    Advantages,
    Aggregator,
    Array,
    Batch,
    Channel,
    Client,
    ClientState,
    Correction,
    Federation,
    Hparams,
    Judge,
    Loss,
    Normaliser,
    Planner,
    Program,
    PyTree,
    Rebase,
    Rollout,
    Server,
    ServerState,
    StepRecord,
    Verdict,
    compiled,
)


@flax.struct.dataclass
class State:
    """PubSwap's state: the server and all clients. Between two rounds the clients hold their adapters from before averaging."""

    server: ServerState
    clients: ClientState  # stacked
    waiting: PyTree = ()  # what the server has made of uploads before their close, which `rebase` takes; see fedrevive.py

    @property
    def round(self) -> Array:
        return self.server.round


def pubswap(
    model,
    tx: optax.GradientTransformation,
    *,
    num_clients: int,
    group: int,
    planner: Planner = balanced,
    loss: Loss = grpo_term,
    aggregator: Aggregator = mean(),
    moments: str = "reset",
    max_new_tokens: int | None = None,
    microbatch: int | None = None,
    clients_at_once: int | None = None,
    part: int | None = None,
    inner_epochs: int = 1,
    advantages: Advantages = group_advantages,
    normalise: Normaliser = per_sequence,
    counted: Callable | None = None,
    kl: Callable | None = None,
    kl_in_reward: bool = False,
    truncation: Callable = keep_truncated,
    importance: Callable | None = None,
    correction: Correction = proximal(),
    eos_ids: Sequence[int] | None = None,
    pad_id: int | None = None,
    lockstep: bool = True,
    rebase: Rebase = rebased,
    program: Program = compiled,
) -> Federation:
    """The federation PubSwap (arXiv 2604.12160), as reconstructed from its public descriptions; see docs/readings.md.

    Args:
      model: a Linen module with collections `params`, `basis` and `adapter`, and a `config`.
      tx: an optax transformation *without* a learning rate: adapter ← adapter − hparams.lr · direction.
      num_clients: C.
      group: G, responses a prompt (the paper's K).
      planner: the planner of a public step's swap; `no_swap` is the control.
      loss: a token's term, e.g. `grpo_term`; one of losses.py.
      aggregator: how the clients' adapters become the server's; `mean()` averages A and B apart, `alone()` shares nothing.
      moments: the optimizer's moments after an averaging: `reset` (to zero, when a client starts the next round), `average` (as
        the adapters are), or `keep` (every client keeps its own). Reading: the paper says that a reset matters, not how.
      max_new_tokens: R; by default the config's.
      microbatch: prompts at a time in the update; must divide B. The result does not depend on it.
      clients_at_once: clients whose updates run as one batch; None: all, as a mesh wants it. On a CPU one is fastest where a
        model is small, for its activations stay in the cache. The result does not depend on it.
      part: clients whose states are on their way through a step at a time: the device samples the next part while the host
        judges this one. None: all.
      inner_epochs: gradient steps on one rollout; the clip acts only from the second one on.
      advantages: rewards [B, G] -> advantages [B, G].
      normalise: mask [B, G, R] -> the weight of every token, over the whole batch and all microbatches.
      counted: advantages [B, G] -> bool[B], the groups that are in the loss and in its denominator, such as `not_flat`. None:
        all, so that groups without a gradient make the step smaller.
      kl: an estimator of divergence.py against the base model, which costs one more forward pass. In the loss `kl_k2` has the
        gradient of KL(policy‖base), `kl_k3` that of KL(base‖policy), and `kl_k1` none on average.
      kl_in_reward: subtract hparams.kl_coef · Σ kl of a response from its reward instead, before advantages are computed. Only
        `kl_k1` is taken: there it has the gradient of KL(policy‖base) of whole responses. The KL is that before the first
        inner epoch. Advantages that divide by the rewards' deviation divide the KL too; see docs/methods.md.
      truncation: what becomes of responses cut off by the length limit, one of truncation.py.
      importance: (scorer log-probs, sampler log-probs) -> weights of a client's own tokens, e.g. `truncated_importance(2.)`.
      correction: what is added to a client's gradient, one of corrections.py.
      eos_ids, pad_id: by default the config's.
      lockstep: all clients start from the server's present adapter. False: each keeps the one that it received.
      rebase: without lockstep, what the aggregation rule gets for uploads, which may be of clients that started earlier.
      program: compiles the functions; see `types.Program`.
    """
    if num_clients < 1:
        raise ValueError(f"num_clients: 1 or more expected, got {num_clients}")
    how = Learning(
        loss, advantages, normalise, counted, kl, kl_in_reward, truncation, importance, correction, microbatch, inner_epochs
    )
    tokens = model.config.max_new_tokens if max_new_tokens is None else max_new_tokens
    ends = (model.config.eos_ids if eos_ids is None else tuple(eos_ids), model.config.pad_id if pad_id is None else pad_id)
    client = make_client(model, tx, how, group=group, max_new_tokens=tokens, ends=ends, moments=moments, lockstep=lockstep)
    server = make_server(planner, aggregator, moments=moments)
    keeps, family = moments == "keep" or not aggregator.shares, model.config.adapter
    run = {"clients_at_once": clients_at_once, "part": part, "keeps": keeps or not lockstep, "program": program}
    return join(client, server, num_clients, family, rebase=rebase, **run)


# --- client and server together -----------------------------------------------------------------------------------------


def join(
    client: Client,
    server: Server,
    num_clients: int,
    family: Adapter,
    *,
    clients_at_once: int | None = None,
    part: int | None = None,
    keeps: bool = False,
    rebase: Rebase = rebased,
    program: Program = compiled,
) -> Federation:
    """Joins a client and a server to a federation of `num_clients` such clients and this server.

    `family` says how an adapter that crosses is trained; with `keeps` a client's moments outlast the averaging.
    """
    functions = client_programs(client, num_clients, family, clients_at_once)
    functions |= {"init": partial(first_state, client, server, num_clients), "swap": server.swap, "average": server.aggregate}
    functions |= {"everyone": lambda state: server.send(state, num_clients), "rebase": rebase}
    functions |= {"form": jax.vmap(lambda adapter: each_layer(family.upload, adapter))}
    functions |= {"gather": lambda uploads: uploads}  # on a mesh the run says that its result is on every device
    run = {name: program(name, function) for name, function in functions.items()}
    served = server._replace(swap=run["swap"], aggregate=run["average"])
    together = Together(served, family, num_clients, part, keeps, run, make_rows(program))
    own = lambda state: state.clients.adapter  # noqa: E731
    return Federation(run["init"], together.open, together.step, together.close, together.shared, own, together.saved)


def first_state(client: Client, server: Server, num_clients: int, adapter: PyTree) -> State:
    """The state before the first round: every client has the adapter and fresh moments."""
    one = client.start({"adapter": adapter})
    clients = broadcast(one, num_clients).replace(id=jnp.arange(num_clients, dtype=jnp.int32))
    return State(server.init(client.upload(one)[0]["adapter"], one.opt_state), clients)


def client_programs(client: Client, num_clients: int, family: Adapter, clients_at_once: int | None) -> dict[str, Callable]:
    """The clients' functions that a run compiles, by name. They take and return leaves [C, ...]."""
    stacked = over_clients(client, clients_at_once)

    def start(sent: PyTree, clients: ClientState, round: Array, present: Array | None) -> ClientState:
        started = stacked.start(sent, clients).replace(version=jnp.full(clients.id.shape, round))
        if present is None:
            return started
        missing = not jax.tree.leaves(clients.opt_state)
        return choose(present, started, clients.replace(opt_state=started.opt_state) if missing else clients)

    def update(base, received, clients, prompts, rollouts, verdicts, swapped, hparams):
        check_shapes(prompts, rollouts, verdicts, swapped)
        received = clients.received if received is None else arrived(family, received)
        return stacked.learn(base, received, clients, prompts, rollouts, verdicts, swapped, hparams)

    def settle(server: ServerState, clients: ClientState, weights: Array | None):
        """Gives clients with NaN or an enormous norm the server's adapter and weight 0. One NaN in a mean is everybody's."""
        here = sound((clients.adapter, clients.opt_state))
        weights = jnp.where(here, jnp.ones(here.shape) if weights is None else weights, 0)
        moments = {"moments": server.moments} if jax.tree.leaves(server.moments) else {}
        fresh = broadcast({"adapter": server.adapter} | moments, here.shape[0])
        forgotten = clients.replace(opt_state=(), memory=jax.tree.map(jnp.zeros_like, clients.memory))
        clients = choose(here, clients, stacked.start(fresh, forgotten))
        return clients, weights, server.round - clients.version, here

    def upload(clients: ClientState, here: Array):
        """What settled clients send. Those that had to be settled send NaN, so that a server elsewhere leaves them out too."""
        sent, extra = stacked.upload(clients)
        nothing = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan) if jnp.issubdtype(x.dtype, jnp.inexact) else x, sent)
        return choose(here, sent, nothing), extra, stacked.finish(clients)

    return {
        "start": start,
        "present": lambda weights: weights > 0,
        "two_keys": lambda key: tuple(jax.random.split(key)),
        "keys": jax.vmap(jax.random.fold_in, in_axes=(None, 0)),
        "rollout": stacked.respond,
        "fill": jax.vmap(fill),
        "own": partial(no_swap, None),
        "receive": receive,
        "update": update,
        "choose": choose,
        "swap_metrics": swap_metrics,
        "settle": settle,
        "upload": upload,
        "drift": lambda adapters, anchor, weights: drift(
            adapters, arrived(family, anchor), weights, family if family.exact else None
        ),
    }


class Together(NamedTuple):
    """PubSwap's `open`, `step` and `close` for all clients and the server. They call JAX through `run` and `rows` alone."""

    server: Server
    family: Adapter
    num_clients: int
    part: int | None
    keeps: bool
    run: dict[str, Callable]
    rows: Rows

    def open(self, state: State, channel: Channel, who=None) -> State:
        if self.server.download(state.server) is None:
            return state
        sent = channel.down(Record("adapters", "down", self.run["everyone"](state.server), who=who)).arrays
        return state.replace(clients=self.run["start"](sent, state.clients, state.server.round, _placed(who)))

    def step(
        self, base, state: State, batch: Batch, judge: Judge, channel: Channel, key: Array, hparams: Hparams, who=None
    ) -> tuple[State, StepRecord]:
        run, clients, present = self.run, state.clients, _placed(who)
        if present is not None:
            present = check_present(present, self.num_clients)
        parts = Parts(self.rows, clients.id.shape[0], who, self.part)
        respond_key, swap_key = run["two_keys"](key)

        def ask(questions: Batch, key: Array) -> tuple[Rollout, Verdict]:
            asked = parts.of((clients, questions.prompts, run["keys"](key, clients.id)))
            said = [run["rollout"](base, *of_part, hparams) for of_part in asked]
            judged = [judge(rollouts, of_part) for rollouts, of_part in zip(said, parts.batches(questions), strict=True)]
            return parts.whole(said), parts.whole(judged)

        own = ask(batch, respond_key)
        prompts, drawn = batch.prompts, ()
        if batch.public:
            given, plan = exchange(self.server, channel, swap_key, own, batch.ids, who, present)
            after = run["receive"](*own, given)
        else:  # no swap, so the swap's key is free for the other questions
            prompts, own, drawn = resampled(batch, own, ask, run, swap_key)
            after, plan = own, run["own"](own[1].correct)
        received = None if jax.tree.leaves(clients.received) else state.server.adapter
        each = parts.of((clients, prompts, *after, plan.swapped))
        learnt = [run["update"](base, received, *of_part, hparams) for of_part in each]
        updated = parts.put_back(clients, [one for one, _ in learnt])
        if present is not None and not isinstance(who, np.ndarray):
            updated = run["choose"](present, updated, clients)
        metrics = parts.whole([found for _, found in learnt]) | run["swap_metrics"](plan, own[1], after[1], after[0].mask)
        metrics = channel.up(Record("counters", "up", metrics, who=who)).arrays
        return state.replace(clients=updated), StepRecord(metrics, *own, *after, plan, clients.adapter, drawn)

    def close(self, state: State, channel: Channel, weights: Array | None = None) -> tuple[State, dict[str, Array]]:
        run, weights = self.run, _checked(weights, self.num_clients)
        if self.server.needs > 1 and not isinstance(weights, jax.ShapeDtypeStruct):
            check_enough("the aggregation rule", self.server.needs, weights, self.num_clients)
        who = None if weights is None else run["present"](weights)
        clients, share, staleness, here = run["settle"](state.server, state.clients, weights)
        figures = run["drift"](clients.adapter, state.server.adapter, share) | {"sound": here}
        uploads, extra, clients = run["upload"](clients, here)
        if self.server.download(state.server) is not None:
            uploads |= {"extra": extra} if extra else {}
            uploads = channel.up(Record("adapters", "up", uploads, who=who)).arrays
            extra = uploads.get("extra", {})
        if jax.tree.leaves(clients.received):
            sent, figures = run["form"](clients.received), figures | {"staleness": staleness}
            fresh = run["rebase"](state.server.adapter, uploads["adapter"], sent, staleness, state.waiting)
            uploads = uploads | {"adapter": fresh}
        if self.server.gathers:  # the weights too: XLA would split a sort over the clients if they stayed split
            adapters, share, staleness = run["gather"]((uploads["adapter"], share, staleness))
            uploads = uploads | {"adapter": adapters}
        server = self.server.aggregate(state.server, uploads, share, staleness, extra)
        return state.replace(server=server, clients=clients), figures

    def shared(self, state: State) -> PyTree | None:
        coming = self.server.download(state.server)
        return None if coming is None else arrived(self.family, coming["adapter"])

    def saved(self, state: State) -> State:
        return state if self.keeps else state.replace(clients=state.clients.replace(opt_state=()))


def _placed(who):
    return jax.device_put(who) if isinstance(who, np.ndarray) else who


def _checked(weights: Array | None, num_clients: int) -> Array | None:
    return weights if weights is None or isinstance(weights, jax.ShapeDtypeStruct) else check_weights(weights, num_clients)
