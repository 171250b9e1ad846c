"""PubSwap as a federation: LoRA averaging, and on public steps a swap of responses between the clients.

`make_client` and `make_server` are the two roles, `pubswap` joins them to a `Federation`. What crosses between them is what
passes `channel` in `_open`, `exchange`, `_step` and `_close`.
"""

from collections.abc import Callable, Sequence
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from pubswap_jax.algorithm.aggregation import broadcast, check_weights, choose, fedavg, mean, sound
from pubswap_jax.algorithm.corrections import proximal
from pubswap_jax.algorithm.drift import drift
from pubswap_jax.algorithm.federation import Parts, make_rows, over_clients
from pubswap_jax.algorithm.losses import group_advantages, grpo_term, keep_truncated, per_sequence
from pubswap_jax.algorithm.swap import apply_swap, balanced, check_present, no_swap, swap_metrics
from pubswap_jax.algorithm.update import Learning, make_update
from pubswap_jax.policy.adapter import each_layer
from pubswap_jax.policy.sampling import sample
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
    Prompts,
    PyTree,
    Rollout,
    Server,
    ServerState,
    StepRecord,
    SwapPlan,
    Verdict,
    compiled,
)

MOMENTS = ("reset", "average", "keep")


@flax.struct.dataclass
class State:
    """The server and all clients. Between two rounds the clients hold their adapters from before the averaging."""

    server: ServerState
    clients: ClientState  # stacked

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
    kl: Callable | None = None,
    kl_in_reward: bool = False,
    truncation: Callable = keep_truncated,
    importance: Callable | None = None,
    correction: Correction = proximal(),
    eos_ids: Sequence[int] | None = None,
    pad_id: int | None = None,
    lockstep: bool = True,
    program: Program = compiled,
) -> Federation:
    """PubSwap (arXiv 2604.12160) as reconstructed from its public descriptions; docs/readings.md has the readings.

    Args:
      model: a Linen module with collections `params`, `basis` and `adapter`, and a `config`.
      tx: an optax transformation *without* a learning rate: adapter ← adapter − hparams.lr · direction.
      num_clients: C.
      group: G, responses a prompt (the paper's K).
      planner: the planner of a public step's swap; `no_swap` is the control.
      loss: a token's term, e.g. `grpo_term`; one of losses.py.
      aggregator: how the clients' adapters become the server's; `mean()` averages A and B apart, `alone()` shares nothing.
      moments: what becomes of the optimizer's moments at an averaging: `reset`, `average` them too, or every client may `keep`
        its own. Reading: the default resets them, since the paper says that a reset matters and not how it is done.
      max_new_tokens: R; by default the config's.
      microbatch: prompts at a time in the update; must divide B. The result does not depend on it.
      clients_at_once: clients whose updates run as one batch; None: all, as a mesh wants it. On a CPU one is fastest where a
        model is small, for its activations stay in the cache. The result does not depend on it.
      part: clients whose states are on their way through a step at a time: the device samples the next part while the host
        judges this one. None: all.
      inner_epochs: gradient steps on one rollout; the clip acts only from the second one on.
      advantages: rewards [B, G] -> advantages [B, G].
      normalise: mask [B, G, R] -> the weight of every token, over the whole batch and all microbatches.
      kl: an estimator of losses.py against the base model, which costs one more forward pass. In the loss `kl_k2` has the
        gradient of KL(policy‖base), `kl_k3` that of KL(base‖policy), and `kl_k1` none on average.
      kl_in_reward: subtract hparams.kl_coef · Σ kl of a response from its reward instead, before advantages are computed. Only
        `kl_k1` is taken: there it has the gradient of KL(policy‖base) of whole responses. The KL is that before the first
        inner epoch. Advantages that divide by the rewards' deviation divide the KL too; see configs/README.md.
      truncation: what becomes of responses cut off by the length limit, one of losses.py.
      importance: (scorer log-probs, sampler log-probs) -> weights of a client's own tokens, e.g. `truncated_importance(2.)`.
      correction: what is added to a client's gradient, one of corrections.py.
      eos_ids, pad_id: by default the config's.
      lockstep: all clients start from the server's present adapter. False: each keeps the one that it received.
      program: compiles the functions; see `types.Program`.
    """
    if num_clients < 1:
        raise ValueError(f"num_clients: 1 or more expected, got {num_clients}")
    how = Learning(loss, advantages, normalise, kl, kl_in_reward, truncation, importance, correction, microbatch, inner_epochs)
    tokens = model.config.max_new_tokens if max_new_tokens is None else max_new_tokens
    ends = (model.config.eos_ids if eos_ids is None else tuple(eos_ids), model.config.pad_id if pad_id is None else pad_id)
    client = make_client(model, tx, how, group=group, max_new_tokens=tokens, ends=ends, moments=moments, lockstep=lockstep)
    server = make_server(planner, aggregator, moments=moments)
    keeps, family = moments == "keep" or not aggregator.shares, model.config.adapter
    return join(client, server, num_clients, family, clients_at_once=clients_at_once, part=part, keeps=keeps, program=program)


# --- the two roles ------------------------------------------------------------------------------------------------------


def make_client(
    model,
    tx: optax.GradientTransformation,
    how: Learning,
    *,
    group: int,
    max_new_tokens: int,
    ends: tuple[tuple[int, ...], int],
    moments: str = "reset",
    lockstep: bool = True,
) -> Client:
    """A client that answers and learns by GRPO. `ends`: all stop tokens, and the token that pads."""
    if group < 2:
        raise ValueError(f"group: at least 2 responses a prompt expected, since advantages compare them; got {group}")
    if moments not in MOMENTS:
        raise ValueError(f"moments: one of {', '.join(MOMENTS)} expected, got {moments!r}")
    eos_ids, pad_id = ends
    family = model.config.adapter

    def start(download: PyTree, client: ClientState | None = None) -> ClientState:
        adapter = arrived(family, download["adapter"])
        if client is None:
            zero = jnp.zeros((), jnp.int32)
            client = ClientState(zero, adapter, (), zero, zero, memory=how.correction.init(adapter))
        opt_state = download.get("moments", client.opt_state if moments == "keep" else ())
        opt_state = opt_state if jax.tree.leaves(opt_state) else tx.init(adapter)
        return client.replace(adapter=adapter, opt_state=opt_state, received=() if lockstep else adapter)

    def respond(base: PyTree, clients: ClientState, prompts: Prompts, keys: Array, hparams: Hparams) -> Rollout:
        return sample(
            model,
            base,
            clients.adapter,
            prompts,
            keys,
            group=group,
            max_new_tokens=max_new_tokens,
            temperature=hparams.temperature,
            eos_ids=eos_ids,
            pad_id=pad_id,
        )

    def upload(client: ClientState) -> tuple[PyTree, dict[str, Array]]:
        sent = each_layer(family.upload, client.adapter)
        return {"adapter": sent} | ({"moments": client.opt_state} if moments == "average" else {}), {}

    return Client(start, respond, make_update(model, tx, how, eos_ids), upload)


def arrived(family: Adapter, crossed: PyTree) -> PyTree:
    """An adapter in the form that is trained, from the form that crosses."""
    return each_layer(family.download, crossed)


def make_server(planner: Planner = balanced, aggregator: Aggregator = mean(), *, moments: str = "reset") -> Server:
    """The server: it plans swaps and aggregates, and knows no model."""

    def init(adapter: PyTree, opt_state: PyTree) -> ServerState:
        averaged = opt_state if moments == "average" and aggregator.shares else ()
        return ServerState(adapter, averaged, jnp.zeros((), jnp.int32), aggregator.init(adapter))

    def download(server: ServerState) -> PyTree | None:
        if not aggregator.shares:
            return None
        return {"adapter": server.adapter} | ({"moments": server.moments} if moments == "average" else {})

    def swap(key: Array, correct: Array, responses: PyTree, present: Array | None = None) -> tuple[PyTree, SwapPlan]:
        plan = planner(key, correct, present)
        return apply_swap(plan, responses), plan

    def aggregate(server: ServerState, uploads: PyTree, weights: Array, staleness: Array, extra: PyTree) -> ServerState:
        following = server.replace(round=server.round + 1)
        if not aggregator.shares:
            return following
        weights = jnp.where(sound(uploads), weights, 0)
        somebody = weights.sum() > 0  # else the adapter stays what it was
        keep = partial(jax.tree.map, lambda new, old: jnp.where(somebody, new, old))
        adapter, memory = aggregator.apply(server.memory, server.adapter, uploads["adapter"], weights, staleness, extra)
        following = following.replace(adapter=keep(adapter, server.adapter), memory=keep(memory, server.memory))
        if "moments" not in uploads:
            return following
        return following.replace(moments=keep(fedavg(uploads["moments"], weights), server.moments))

    return Server(init, download, swap, aggregate)


# --- their federation ---------------------------------------------------------------------------------------------------


def exchange(server: Server, channel: Channel, key: Array, own: tuple[Rollout, Verdict], ids, who, present) -> tuple:
    """A public step's exchange: -> (what comes down to every client, the plan). Only responses and verdicts go up."""
    rollouts, verdicts = own
    channel.down(Record("questions", "down", {"numbers": ids}, ids, who))
    said = channel.up(Record("responses", "up", {"tokens": rollouts.tokens, "mask": rollouts.mask}, ids, who)).arrays
    found = channel.up(Record("verdicts", "up", {"correct": verdicts.correct, "reward": verdicts.reward}, ids, who)).arrays
    swapped, plan = server.swap(key, found["correct"], said | found, present)
    given = channel.down(Record("responses", "down", swapped | {"slots": plan.swapped}, ids, who)).arrays
    return given, plan.replace(swapped=given["slots"])


def receive(rollouts: Rollout, verdicts: Verdict, given: PyTree) -> tuple[Rollout, Verdict]:
    """The responses that a client learns from: swapped ones in their slots, its own in all others."""
    slots = given["slots"]
    tokens, mask = (jnp.where(slots[..., None], given[n], getattr(rollouts, n)) for n in ("tokens", "mask"))
    # A donor's log-probs stay at home: the ratio is against the receiver's own old policy.
    rollouts = Rollout(tokens, mask, jnp.where(slots[..., None], 0.0, rollouts.logps))
    correct, reward = (jnp.where(slots, given[n], getattr(verdicts, n)) for n in ("correct", "reward"))
    return rollouts, Verdict(reward, correct, correct.astype(jnp.int8))


def join(
    client: Client,
    server: Server,
    num_clients: int,
    family: Adapter,
    *,
    clients_at_once: int | None = None,
    part: int | None = None,
    keeps: bool = False,
    program: Program = compiled,
) -> Federation:
    """The federation of `num_clients` such clients and this server.

    `family` says how an adapter that crosses is trained; with `keeps` a client's moments outlast the averaging.
    """
    stacked, rows = over_clients(client, clients_at_once), make_rows(program)

    def first(adapter: PyTree) -> State:
        one = client.start({"adapter": adapter})
        clients = broadcast(one, num_clients).replace(id=jnp.arange(num_clients, dtype=jnp.int32))
        return State(server.init(client.upload(one)[0]["adapter"], one.opt_state), clients)

    def begin(sent: PyTree, clients: ClientState, round: Array, present: Array | None) -> ClientState:
        started = stacked.start(sent, clients).replace(version=jnp.full(clients.id.shape, round))
        if present is None:
            return started
        missing = not jax.tree.leaves(clients.opt_state)
        return choose(present, started, clients.replace(opt_state=started.opt_state) if missing else clients)

    def fold(key: Array, ids: Array) -> Array:
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, ids)

    def learn(base, received, clients, prompts, rollouts, verdicts, swapped, hparams):
        check_shapes(prompts, rollouts, verdicts, swapped)
        received = clients.received if received is None else arrived(family, received)
        return stacked.learn(base, received, clients, prompts, rollouts, verdicts, swapped, hparams)

    def settle(server_state: ServerState, clients: ClientState, weights: Array | None):
        """Resets clients that are not sound to the server's adapter and weighs them 0: one NaN in a mean is everybody's."""
        here = sound((clients.adapter, clients.opt_state))
        weights = jnp.where(here, jnp.ones(here.shape) if weights is None else weights, 0)
        fresh = {"adapter": server_state.adapter}  # in the form that crosses, as a download is
        if jax.tree.leaves(server_state.moments):
            fresh["moments"] = server_state.moments
        again = stacked.start(broadcast(fresh, here.shape[0]), clients.replace(opt_state=()))
        return choose(here, clients, again), weights, server_state.round - clients.version, here

    programs = {
        "init": first,
        "everyone": lambda tree: broadcast(tree, num_clients),
        "start": begin,
        "present": lambda weights: weights > 0,
        "two_keys": lambda key: tuple(jax.random.split(key)),
        "keys": fold,
        "rollout": stacked.respond,
        "own": _no_swap,
        "swap": server.swap,
        "receive": receive,
        "update": learn,
        "choose": choose,
        "swap_metrics": swap_metrics,
        "settle": settle,
        "upload": stacked.upload,
        "average": server.aggregate,
        "drift": lambda adapters, anchor, weights: drift(adapters, arrived(family, anchor), weights),
    }
    run = {name: program(name, function) for name, function in programs.items()}
    served = server._replace(swap=run["swap"], aggregate=run["average"])

    def open(state: State, channel: Channel, who=None) -> State:
        coming = server.download(state.server)
        if coming is None:
            return state
        sent = channel.down(Record("adapters", "down", run["everyone"](coming), who=who)).arrays
        return state.replace(clients=run["start"](sent, state.clients, state.server.round, _placed(who)))

    def step(
        base, state: State, batch: Batch, judge: Judge, channel: Channel, key: Array, hparams: Hparams, who=None
    ) -> tuple[State, StepRecord]:
        clients, present = state.clients, _placed(who)
        if present is not None:
            present = check_present(present, num_clients)
        parts = Parts(rows, clients.id.shape[0], who, part)
        respond_key, swap_key = run["two_keys"](key)
        asked = parts.of((clients, batch.prompts, run["keys"](respond_key, clients.id)))
        said = [run["rollout"](base, *of_part, hparams) for of_part in asked]
        judged = [judge(rollouts, of_part) for rollouts, of_part in zip(said, parts.batches(batch), strict=True)]
        own = after = parts.whole(said), parts.whole(judged)
        if batch.public:
            given, plan = exchange(served, channel, swap_key, own, batch.ids, who, present)
            after = run["receive"](*own, given)
        else:
            plan = run["own"](own[1].correct)
        received = None if jax.tree.leaves(clients.received) else state.server.adapter
        learnt = []
        for of_part in parts.of((clients, batch.prompts, *after, plan.swapped)):
            learnt.append(run["update"](base, received, *of_part, hparams))
        updated = parts.put_back(clients, [one for one, _ in learnt])
        if present is not None and not isinstance(who, np.ndarray):
            updated = run["choose"](present, updated, clients)
        metrics = parts.whole([found for _, found in learnt]) | run["swap_metrics"](plan, own[1], after[1], after[0].mask)
        metrics = channel.up(Record("counters", "up", metrics, who=who)).arrays
        return state.replace(clients=updated), StepRecord(metrics, *own, *after, plan, clients.adapter)

    def close(state: State, channel: Channel, weights: Array | None = None) -> tuple[State, dict[str, Array]]:
        weights = _checked(weights, num_clients)
        who = None if weights is None else run["present"](weights)
        clients, share, staleness, here = run["settle"](state.server, state.clients, weights)
        figures = run["drift"](clients.adapter, state.server.adapter, share) | {"sound": here}
        uploads, extra = run["upload"](clients)
        if server.download(state.server) is not None:
            uploads = channel.up(Record("adapters", "up", uploads, who=who)).arrays
        following = run["average"](state.server, uploads, share, staleness, extra)
        return State(following, clients), figures

    def shared(state: State) -> PyTree | None:
        coming = server.download(state.server)
        return None if coming is None else arrived(family, coming["adapter"])

    def saved(state: State) -> State:
        return state if keeps else state.replace(clients=state.clients.replace(opt_state=()))

    return Federation(run["init"], open, step, close, shared, lambda state: state.clients.adapter, saved)


def _no_swap(correct: Array) -> SwapPlan:
    """The plan of a private step, on the devices of `correct`."""
    plan = no_swap(None, correct)
    return plan.replace(swapped=plan.swapped & correct)


def _placed(who):
    return jax.device_put(who) if isinstance(who, np.ndarray) else who


def _checked(weights: Array | None, num_clients: int) -> Array | None:
    return weights if weights is None or isinstance(weights, jax.ShapeDtypeStruct) else check_weights(weights, num_clients)


def check_shapes(prompts: Prompts, rollouts: Rollout, verdicts: Verdict, swapped: Array) -> None:
    """Everything an update reads speaks of the same clients, prompts and groups; a ValueError names what does not."""
    if rollouts.tokens.ndim != 4:
        raise ValueError(f"rollouts.tokens: [C, B, G, R] expected, got {list(rollouts.tokens.shape)}")
    slots = rollouts.tokens.shape[:3]
    expected = {
        "rollouts.mask": (rollouts.mask, rollouts.tokens.shape),
        "verdicts.reward": (verdicts.reward, slots),
        "plan.swapped": (swapped, slots),
        "prompts.tokens": (prompts.tokens, (*slots[:2], prompts.tokens.shape[-1])),
        "prompts.mask": (prompts.mask, prompts.tokens.shape),
    }
    for name, (array, shape) in expected.items():
        if array.shape != tuple(shape):
            raise ValueError(f"{name}: shape {list(shape)} expected beside rollouts of {list(slots)}, got {list(array.shape)}")
