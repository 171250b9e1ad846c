"""The client of PubSwap: it samples responses with its adapter and learns by GRPO. Only the client knows the model."""

import jax
import jax.numpy as jnp
import optax

from pubswap_jax.algorithm.update import Learning, make_update
from pubswap_jax.policy.adapter import each_layer
from pubswap_jax.policy.sampling import sample
from pubswap_jax.types import Adapter, Array, Client, ClientState, Hparams, Prompts, PyTree, Rollout, Verdict

MOMENTS = ("reset", "average", "keep")


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
    """A `Client` that samples responses and learns from them by GRPO.

    `ends`: all stop tokens, and the token that pads. `moments`: what an averaging does to the optimizer's moments.
    """
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
        memory = how.correction.receive(client.memory, download["sent"]) if "sent" in download else client.memory
        started = client.replace(adapter=adapter, opt_state=opt_state, steps=jnp.zeros_like(client.steps), memory=memory)
        return started.replace(received=() if lockstep else adapter)

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

    def finished(client: ClientState) -> tuple[PyTree, dict[str, PyTree]]:
        return how.correction.finish(client.adapter, client.received, client.memory, client.steps)

    def upload(client: ClientState) -> tuple[PyTree, dict[str, Array]]:
        sent = each_layer(family.upload, client.adapter)
        return {"adapter": sent} | ({"moments": client.opt_state} if moments == "average" else {}), finished(client)[1]

    def finish(client: ClientState) -> ClientState:
        return client.replace(memory=finished(client)[0])

    return Client(start, respond, make_update(model, tx, how, eos_ids), upload, finish)


def arrived(family: Adapter, crossed: PyTree) -> PyTree:
    """Converts an adapter from the form that crosses between client and server to the form that is trained."""
    return each_layer(family.download, crossed)


def receive(rollouts: Rollout, verdicts: Verdict, given: PyTree) -> tuple[Rollout, Verdict]:
    """What a client learns from after a swap: the responses that it was given in the swapped slots, its own in all others."""
    slots = given["slots"]
    tokens, mask = (jnp.where(slots[..., None], given[n], getattr(rollouts, n)) for n in ("tokens", "mask"))
    # A donor's log-probs stay at home: the ratio is against the receiver's own old policy.
    rollouts = Rollout(tokens, mask, jnp.where(slots[..., None], 0.0, rollouts.logps))
    correct, reward = (jnp.where(slots, given[n], getattr(verdicts, n)) for n in ("correct", "reward"))
    return rollouts, Verdict(reward, correct, jnp.where(slots, correct.astype(jnp.int8), verdicts.status))


def check_shapes(prompts: Prompts, rollouts: Rollout, verdicts: Verdict, swapped: Array) -> None:
    """Raises ValueError, with the input's name, unless all inputs of an update have the same clients, prompts and groups."""
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
