"""Does the swap move the take-off? FedAvg-GRPO, public questions without and with the swap, on the embedded model.

    python experiments/tiny_base/effect.py --preset hard

Everything is the library's own (`split`, `rows`, `client_step`, `fedavg` through `aggregate`) but the judge, which compares
token ids in jax.numpy so that a step is one program; on the last answers it is held against the verifier.
"""

import argparse
import functools
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pubswap_jax import homework
from pubswap_jax.data import KINDS, Schedule, rows
from pubswap_jax.evaluate import make_sampler
from pubswap_jax.model import Transformer, init_lora
from pubswap_jax.partition import by_name, split
from pubswap_jax.pretrained import load_pretrained
from pubswap_jax.steps import client_step, pubswap
from pubswap_jax.swap import balanced, no_swap
from pubswap_jax.tokens import left_pad, load_tokenizer
from pubswap_jax.types import Batch, Hparams, Rollout, ServerState, Verdict
from pubswap_jax.verify import score

METHODS = {"fedavg_grpo": (0, no_swap), "public_no_swap": (2, no_swap), "pubswap": (2, balanced)}  # swap period, planner
PLAIN = dict.fromkeys(KINDS, "")


class World:
    """The model, and questions as arrays."""

    def __init__(self, folder, preset: str, kind: str, train: int, test: int):
        base, self.params = load_pretrained(folder, dtype="float32")
        self.tokenizer = load_tokenizer(folder, instructions=PLAIN)
        self.train = homework.problems("train", seed=0, count=train, preset=preset, kind=kind)
        self.test = homework.problems("test", seed=0, count=test, preset=preset, kind=kind)
        everything = self.train + self.test
        right = [homework.demonstrations(p)[homework.TOPICS[p.topic].procedure][0] for p in everything]
        ids = [[*row, base.eos_ids[0]] for row in self.tokenizer.hf(right, add_special_tokens=False).input_ids]
        longest = max(map(len, ids))
        self.answers = np.array([row + [base.pad_id] * (longest - len(row)) for row in ids], np.int32)
        encoded = [self.tokenizer.encode(problem) for problem in everything]
        width = max(map(len, encoded))
        self.prompts = left_pad(encoded, np.arange(len(encoded)), width, base.pad_id)
        self.config = base.replace(lora_rank=8, lora_alpha=16.0, max_new_tokens=longest)
        self.model = Transformer(self.config)

    def batch(self, chosen: np.ndarray, public: bool) -> Batch:
        return Batch(jax.tree.map(lambda x: x[chosen], self.prompts), self.answers[chosen], public)


def judge(rollouts: Rollout, batch: Batch) -> Verdict:
    """Right where all tokens behind the procedure's name are those of the right answer. Padding follows the end token."""
    said, right = rollouts.tokens[..., 1:], batch.answers[..., None, 1:]
    return Verdict.from_correct(jnp.all(said == right, axis=-1))


def compiled(world: World, a) -> dict:
    """The programs that all runs share: private steps are the same whatever the planner."""
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())
    found = {"sampler": make_sampler(world.model, samples=1, max_new_tokens=world.config.max_new_tokens)}
    for planner in (no_swap, balanced):
        algorithm = pubswap(world.model, tx, num_clients=a.clients, group=a.group, swap=planner)
        found[planner] = algorithm, jax.jit(functools.partial(client_step, algorithm, judge=judge))
    return found


def run(world: World, programs: dict, method: str, seed: int, a) -> list[dict]:
    period, planner = METHODS[method]
    schedule = Schedule(a.tau, period)
    partition = by_name(a.partition, a.alpha)
    parts = split(world.train, a.clients, partition, seed=seed, public=a.public, test=world.test)
    algorithm, hparams = programs[no_swap][0], Hparams.create(lr=a.lr)
    sampler = programs["sampler"]
    first = len(world.train)

    def accuracy(loras, count):
        asked = world.batch(np.arange(first, first + count), False)
        said = sampler(world.params, loras, asked.prompts, jnp.arange(count), jax.random.key(1))
        right = jnp.all(said.tokens[..., 1:] == asked.answers[None, :, None, 1:], axis=-1)
        return right.mean(axis=(1, 2)), said

    server = ServerState.create(init_lora(jax.random.key(seed), world.model, world.params))
    key, history, begun = jax.random.key(seed), [], time.time()
    one = jax.tree.map(lambda x: x[None], server.lora)
    base = accuracy(one, len(world.test))[0]
    print(f"{a.preset} {method} seed {seed}: base {float(base[0]):.3f}", flush=True)
    history.append({"round": 0, "global": float(base[0])})
    for round in range(a.rounds):
        clients, seconds = algorithm.init_clients(server), time.time()
        records = []
        for t in range(schedule.length):
            chosen = rows(parts, schedule, a.prompts, seed=seed, round=round, step=t)
            batch = world.batch(chosen, schedule.public(round, t))
            step_key = jax.random.fold_in(jax.random.fold_in(key, round), t)
            step = programs[planner if batch.public else no_swap][1]
            clients, record = step(world.params, server, clients, batch=batch, key=step_key, hparams=hparams)
            records.append({name: float(record.metrics[name].mean()) for name in ("reward", "zero_variance")})
        server = algorithm.aggregate(server, clients, None)
        trained = time.time() - seconds
        averaged, said = accuracy(jax.tree.map(lambda x: x[None], server.lora), len(world.test))
        own, _ = accuracy(clients.lora, min(128, len(world.test)))
        row = {"round": round + 1, "global": float(averaged[0]), "clients": float(own.mean()), "train_s": trained}
        row |= {name: float(np.mean([record[name] for record in records])) for name in records[0]}
        history.append(row)
        print(" ".join(f"{name} {value:.3f}" for name, value in row.items()), f"{time.time() - begun:.0f} s", flush=True)
        if a.stop and row["global"] > a.stop:
            break
    texts = world.tokenizer.decode(np.asarray(said.tokens), np.asarray(said.mask)).ravel()
    verified = score(list(texts), [p.answer for p in world.test], kind=a.kind, options=[p.options for p in world.test])
    history[-1] |= {"verified": float(verified.mean()), "sample": str(texts[0])}
    print("verifier says", history[-1]["verified"], repr(texts[:3]), flush=True)
    return history


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=pathlib.Path, default=homework.tiny_path())
    parser.add_argument("--preset", default="hard")
    parser.add_argument("--kind", default="math")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--tau", type=int, default=40)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--partition", default="dirichlet")
    parser.add_argument("--alpha", type=float, default=0.3)
    parser.add_argument("--public", type=float, default=0.1)
    parser.add_argument("--train", type=int, default=4096)
    parser.add_argument("--test", type=int, default=512)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--stop", type=float, default=0.0)
    parser.add_argument("--out", type=pathlib.Path)
    a = parser.parse_args()
    world = World(a.model, a.preset, a.kind, a.train, a.test)
    programs, results = compiled(world, a), {}
    for seed in a.seeds:
        for method in a.methods:
            results[f"{method}/{seed}"] = run(world, programs, method, seed, a)
            if a.out:
                a.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
