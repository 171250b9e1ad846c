"""Mutual information between blocks of a policy's hidden states, before and after training, per client and averaged.

python -m experiments.planning.policy                          # the embedded world; seeds that are there are not run again
python -m experiments.planning.policy --model FOLDER           # word problems: SmolLM2-135M-Instruct and its warm-up
python -m experiments.planning.policy --draw                   # the table and the picture of what is there
"""

import argparse
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cells import kept
from experiments.figures import lines, markdown, mean_and_half, panels, save
from experiments.laboratory import config_of
from experiments.planning import codes, information
from experiments.planning.study import shuffled
from pubswap_jax import direct, settings
from pubswap_jax.policy import attention
from pubswap_jax.policy.logps import variables
from pubswap_jax.questions.problem import Problem
from pubswap_jax.run.assembly import Run, assemble
from pubswap_jax.run.policy import load_policy
from pubswap_jax.types import PyTree

HERE = pathlib.Path(__file__).parent
SVAMP = HERE.parent / "real_model" / "data"
K, SEEDS, FIT = 64, (1, 2, 3, 4, 5), 700
QUESTIONS, PROMPT, RESPONSE, WIDTH = 3000, 8, 6, 2  # the last tokens of a prompt, the first of its response, a block
WORDS, WORD_WIDTH = 24, 4  # tokens of a word problem, and of its blocks
WORLD = {"federation.rounds": 2, "federation.steps": 25, "training.prompts": 4, "evaluation.samples": 1}
COLOURS = {"before": "#777777", "averaged": "#0072b2", "a client": "#d55e00", "base": "#777777", "warmed up": "#0072b2"}


def trained(run: Run) -> tuple[PyTree, PyTree, float]:
    """The averaged adapter, every client's own before the last average [C, ...], and the last steps' mean reward."""
    state, rewards = run.federation.init(run.policy.adapter), []
    for event in map(run.timeline, range(run.timeline.length)):
        if event.kind == "open":
            state = run.federation.open(state, direct)
        elif event.kind == "close":
            own, (state, _) = state.clients.adapter, run.federation.close(state, direct)
        elif event.kind in ("private", "public"):
            key = jax.random.fold_in(jax.random.fold_in(run.key, event.round), event.step)
            state, seen = run.federation.step(
                run.policy.base, state, run.data.batch(event), run.judge, direct, key, run.hparams(event)
            )
            rewards.append(float(np.mean(seen.verdicts.reward)))
    return run.federation.shared(state), own, float(np.mean(rewards[-5:]))


def answered(run: Run, adapters: PyTree, seed: int, batch: int = 250) -> np.ndarray:
    """Normed states of the last layer f32[M, N, PROMPT + RESPONSE, D] of M policies, each over its own responses.

    The first PROMPT places are the end of the prompt.
    """
    prompts, model = run.data.train.prompts, run.policy.model
    rows = np.flatnonzero(np.asarray(prompts.mask).sum(-1) >= PROMPT)
    rows = np.random.default_rng(seed).permutation(rows)[: QUESTIONS // batch * batch].reshape(-1, batch)

    @jax.jit
    def states(base, adapters, asked, tokens):
        def one(adapter, said):
            whole, mask = jnp.concatenate([asked.tokens, said], 1), jnp.concatenate([asked.mask, jnp.ones(said.shape, bool)], 1)
            places = attention.positions(mask), attention.causal(mask)
            hidden = model.apply(variables(base, adapter), whole, *places, method="hidden")
            return hidden[:, asked.tokens.shape[-1] - PROMPT :]

        return jax.vmap(one)(adapters, tokens)

    found = []
    for some in rows:
        asked = jax.tree.map(lambda x, some=some: jnp.asarray(x[some]), prompts)
        said = run.examiner.sampler(run.policy.base, adapters, asked, jnp.asarray(some), jax.random.key(seed))
        found.append(states(run.policy.base, adapters, asked, said.tokens[:, :, 0, :RESPONSE]))
    return np.concatenate(found, 1)


def measured(hidden: np.ndarray, width: int, seed: int) -> dict:
    """Codes used and information of the blocks, and of the same codes shuffled. Half of the sequences fit the VQ-VAE.

    Features have mean 0 and deviation 1 at each place, so that no code says merely where a block stands.
    """
    half = len(hidden) // 2
    mean, deviation = hidden[:half].mean(0), hidden[:half].std(0)
    blocks = codes.in_blocks((hidden - mean) / (deviation + 1e-6), width)
    model, params = codes.fit(blocks[:half].reshape(-1, blocks.shape[-1]), K, seed, steps=FIT)
    found, chance = codes.codes_of(model, params, blocks[half:]), np.random.default_rng(seed)
    control = shuffled(found, seed)
    return {
        "used": information.used(found, K),
        "information": information.by_offset(found, K, chance),
        "shuffled": information.by_offset(control, K, chance),
    }


def of_world(seed: int) -> dict:
    """{"before", "averaged", "client 0", …: what `measured` returns, "reward": of the last five steps}."""
    run = assemble(config_of("configs/math.py:tiny", seed, WORLD))
    shared, own, reward = trained(run)
    clients = run.settings["federation.num_clients"]
    names = ["before", "averaged", *(f"client {i}" for i in range(clients))]
    each = jax.tree.map(lambda start, mean, mine: jnp.stack([start, mean, *mine]), run.policy.adapter, shared, own)
    found = {name: measured(hidden, WIDTH, seed) for name, hidden in zip(names, answered(run, each, seed), strict=True)}
    return found | {"reward": reward}


def of_words(folder: str) -> dict:
    """{"base", "warmed up": one result of `measured` a seed} on SVAMP's questions, read but not answered."""
    rows = [json.loads(line) for file in sorted(SVAMP.glob("*.jsonl")) for line in file.read_text().splitlines()]
    found = {}
    for name, warm in (("base", False), ("warmed up", True)):
        config = settings.load("configs/math.py:smollm2-135m")
        config.model.path, config.compilation_cache = folder, ""
        config.model.warmup = config.model.warmup if warm else ""
        policy = load_policy(config)
        encoded = [policy.tokenizer.encode(Problem(row["id"], row["question"], row["answer"])) for row in rows]
        first, last = len(policy.tokenizer.before), len(policy.tokenizer.before) + WORDS
        read = np.stack([ids[:last] for ids in encoded if len(ids) - len(policy.tokenizer.after) >= last])
        hidden = _in_parts(policy, read)[:, first:]
        chance = np.random.default_rng(0)
        hidden = hidden[chance.permutation(len(hidden))]
        found[name] = [measured(np.roll(hidden, seed * len(hidden) // 5, 0), WORD_WIDTH, seed) for seed in SEEDS]
        print(f"{name}: {len(read)} questions", flush=True)
    return found


def _in_parts(policy, tokens: np.ndarray, batch: int = 32) -> np.ndarray:
    @jax.jit
    def states(part):
        mask = jnp.ones(part.shape, bool)
        given = (policy.base, part, attention.positions(mask), attention.causal(mask))
        return policy.model.apply(*given, method="hidden").astype(jnp.float32)

    return np.concatenate(
        [states(part) for part in np.array_split(tokens[: len(tokens) // batch * batch], len(tokens) // batch)]
    )


def above(found: list[dict], name: str = "information") -> np.ndarray | None:
    """Bits above chance f64[seeds, offsets]; None where a VQ-VAE of these collapsed."""
    if not all(one[name] for one in found):
        return None
    return np.array([np.array(one[name]["bits"]) - one[name]["chance"] for one in found])


def by_policy(world: dict) -> dict[str, list[dict]]:
    """{policy: its results, one a seed}. "a client" stands for the clients' mean."""
    clients = [[seed[name] for name in seed if name.startswith("client")] for seed in world.values()]
    alone = {name: [seed[name] for seed in world.values()] for name in ("before", "averaged")}
    return alone | {"a client": [_mean_of(some) for some in clients]}


def _mean_of(found: list[dict]) -> dict:
    """The mean of several results; no information where one of them has none."""
    merged = {"used": float(np.mean([one["used"] for one in found]))}
    for name in ("information", "shuffled"):
        whole = all(one[name] for one in found)
        keys = found[0][name] if whole else ()
        merged[name] = {key: np.mean([one[name][key] for one in found], 0).tolist() for key in keys} or None
    return merged


def table(groups: dict[str, list[dict]]) -> str:
    rows = []
    for policy, found in groups.items():
        used = mean_and_half(np.array([one["used"] / K for one in found]))
        values, control = above(found), above(found, "shuffled")
        if values is None:
            rows.append([policy, used, "not reported: collapsed", *["–"] * 4])
            continue
        largest = control[np.arange(len(control)), np.abs(control).argmax(1)]
        last = mean_and_half(values[:, -1] / values.max(1))
        cells = [f"{values.mean(0).argmax() + 1}", mean_and_half(values[:, 0]), mean_and_half(values[:, -1]), last]
        rows.append([policy, used, *cells, mean_and_half(largest)])
    heads = ["policy", "share of codes used", "largest at offset", "bits at offset 1", "at the last offset", "nMI there"]
    return markdown([*heads, "shuffled, largest"], rows)


def draw(results: dict, path: pathlib.Path) -> None:
    both = [("the embedded world", by_policy(results["world"])), ("word problems", results.get("words", {}))]
    both = [(title, groups) for title, groups in both if groups]
    figure, axes = panels(len(both))
    for axis, (title, groups) in zip(axes, both, strict=True):
        for policy, found in groups.items():
            if (values := above(found)) is not None:
                lines(axis, np.arange(1, values.shape[1] + 1), values, COLOURS[policy], policy)
                control = above(found, "shuffled").mean(0)
                axis.plot(np.arange(1, len(control) + 1), control, color=COLOURS[policy], ls=":", lw=1.5)
        axis.axhline(0, color="#777777", lw=0.8)
        axis.set(title=f"{title} (dotted: shuffled)", xlabel="offset in blocks")
        if axis.lines[1:]:
            axis.legend(frameon=False, fontsize=9)
    axes[0].set_ylabel("mutual information above chance, bits")
    save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "policy.json")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--model", help="a folder of SmolLM2-135M-Instruct: word problems instead of the embedded world")
    parser.add_argument("--draw", action="store_true", help="compute nothing")
    a = parser.parse_args()
    results = kept(a.out) if a.draw or a.out.is_file() else {"world": {}}
    begun = time.process_time()
    if a.model and not a.draw:
        results["words"] = of_words(a.model)
        a.out.write_text(json.dumps(results) + "\n")
    for seed in () if a.model or a.draw else [seed for seed in a.seeds if str(seed) not in results["world"]]:
        results["world"][str(seed)] = of_world(seed)
        a.out.write_text(json.dumps(results) + "\n")
        print(f"seed {seed}: {time.process_time() - begun:.0f} s of CPU until here", flush=True)
    print(f"reward at the end: {mean_and_half(np.array([one['reward'] for one in results['world'].values()]))}")
    print(table(by_policy(results["world"])), table(results["words"]) if "words" in results else "", sep="\n\n")
    draw(results, a.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
