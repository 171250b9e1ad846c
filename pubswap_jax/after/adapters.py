"""Reads the clients' own adapters of a run that has ended, as blocks of low-rank factors that can be merged."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from pubswap_jax.after.merging import Block, Factors, Group
from pubswap_jax.policy.adapter import each_layer, lora
from pubswap_jax.policy.model import Transformer
from pubswap_jax.records import Record
from pubswap_jax.run.assembly import Run, make_examiner
from pubswap_jax.run.export import last_state, with_own
from pubswap_jax.run.ledger import Gate
from pubswap_jax.run.pass_at_k import Evaluation, pass_at_k
from pubswap_jax.run.state import place_of
from pubswap_jax.types import ModelConfig, PyTree
from pubswap_jax.weights.peft_tensors import adapted_layers, layer_arrays


class Own(NamedTuple):
    """The clients' own adapters at the end of a run; if the run averages, those from before the last averaging."""

    round: int  # rounds done
    clients: list[int]  # N of the run's clients
    adapters: PyTree  # leaves [N, ...]
    blocks: list[Block]  # of each layer of the transformer, with factors of the N adapters
    sent: int  # bytes that one client's adapter takes to cross


def own_adapters(run: Run, workdir: pathlib.Path) -> Own:
    """Each client's own adapter from the newest checkpoint in `workdir`. Raises unless two of the adapters differ.

    An adapter passes a `Gate`, which counts its bytes, as on its way to an averaging. The adapters are those of the last
    round, not of the best one: clients that train alone forget the topics of other clients, so by the mean over all topics,
    which chooses the best round, the base model is often the best.
    """
    at = last_state(run, workdir)
    round, clients, adapters = place_of(run, at.number)[0], with_own(run, at), run.federation.own(at.federation)
    if adapters is None:
        raise ValueError(f"{workdir}: no client of this run has an adapter of its own; give a run of another federation.method")
    total = jax.tree.leaves(adapters)[0].shape[0]
    if total > 1 and not round:
        raise ValueError(f"{workdir}: no round of it has ended, and so no adapter is trained; train longer")
    if min(total, len(clients)) < 2:
        raise ValueError(f"{workdir}: it has one client's adapter, and two or more are needed; give a run of more clients")
    adapters = jax.tree.map(lambda x: np.asarray(x)[clients], jax.device_get(adapters))
    if all((x == x[:1]).all() for x in jax.tree.leaves(adapters)):
        raise ValueError(
            f"{workdir}: the adapters of its {len(clients)} clients are equal; give a run with federation.average=False, or "
            f"one whose clients learned something before the last averaging"
        )
    family, config = run.policy.config.adapter, run.policy.config
    sent = each_layer(jax.vmap(family.upload), adapters)
    gate = Gate(0, {"up/adapters": {"adapter": sent}})
    crossed = gate.channel.up(Record("adapters", "up", {"adapter": sent})).arrays["adapter"]
    adapters = jax.device_get(each_layer(jax.vmap(family.download), crossed))
    parts = [
        layer_arrays(config, jax.tree.map(lambda x, i=i: x[i], adapters), run.policy.base["basis"]) for i in range(len(clients))
    ]
    return Own(round, clients, adapters, blocks_of(config, parts), gate.account["up/adapters"][0])


def blocks_of(config: ModelConfig, parts: Sequence[Mapping[str, tuple[dict, dict]]]) -> list[Block]:
    """One `Block` for each transformer layer: the factors P and Q of N adapters.

    `parts`: each adapter's (frozen, trained) arrays.
    """
    blocks: list[dict[str, Factors]] = [{} for _ in range(config.num_layers)]
    for name, layer in adapted_layers(config).items():
        pairs = [config.adapter.factors(*part[name]) for part in parts]
        p, q = (np.stack([np.asarray(pair[i]) for pair in pairs]) for i in range(2))
        blocks[layer.number][name] = Factors(p, q)
    return blocks


def sizes_of(blocks: Sequence[Block]) -> np.ndarray:
    """f64[B]: for each of B blocks, the number of parameters of the dense matrices ΔW that its factors stand for."""
    return np.array([sum(p.shape[-2] * q.shape[-1] for p, q in block.values()) for block in blocks], float)


def rank_of(blocks: Sequence[Block]) -> int:
    """The largest rank of any factor in the blocks, which one LoRA adapter needs to hold all of them."""
    return max(p.shape[-1] for block in blocks for p, _ in block.values())


def lora_of(config: ModelConfig, blocks: Sequence[Block], rank: int) -> tuple[ModelConfig, PyTree]:
    """Turns one adapter's blocks into a LoRA adapter of this rank: (its model config, its arrays).

    Its scale is 1. Blocks of a lower rank are padded with zeros, which changes no product.
    """
    leaves: dict = {}
    for name, layer in adapted_layers(config).items():
        p, q = blocks[layer.number][name]
        padding = (0, rank - p.shape[-1])
        for half, matrix in (("a", np.pad(p, ((0, 0), padding))), ("b", np.pad(q, (padding, (0, 0))))):
            leaves.setdefault((*layer.path, half), {})[layer.number] = matrix.astype(np.float32)
    stacked = {
        path: np.stack([x[i] for i in sorted(x)]) if config.scan_layers else x.popitem()[1] for path, x in leaves.items()
    }
    return config.replace(adapter=lora(rank, float(rank))), unflatten_dict(stacked)


def with_rank(run: Run, config, rank: int) -> Run:
    """A copy of the run whose model and evaluation take LoRA adapters of this rank, as `lora_of` makes them."""
    model = Transformer(run.policy.config.replace(adapter=lora(rank, float(rank))))
    policy = run.policy._replace(model=model, base=run.policy.base | {"basis": {}})
    return run._replace(policy=policy, examiner=make_examiner(config, policy, run.place, run.programs, run.own))


def mixture(run: Run, client: int) -> dict[str, float]:
    """{topic: its share of the client's private questions}. The shares add up to 1."""
    topics = [run.data.train.problems[i].topic for i in run.data.split.clients[client]]
    return {topic: topics.count(topic) / len(topics) for topic in sorted(set(topics))}


def accuracy(found: Evaluation, shares: Mapping[str, float]) -> float:
    """pass@1 of a client: the mean over topics, weighted by their shares. Topics that `found` did not ask are left out."""
    asked = {problem.topic for problem in found.problems}
    weights = {topic: share for topic, share in shares.items() if topic in asked}
    if not weights:
        return pass_at_k(found.correct, 1)
    total = sum(share * pass_at_k(found.topic(topic).correct, 1) for topic, share in weights.items())
    return total / sum(weights.values())


def names_of(clients: Sequence[int], group: Group) -> str:
    """Names the clients of a group by their numbers in the run, such as '0+2'."""
    return "+".join(str(clients[i]) for i in group)
