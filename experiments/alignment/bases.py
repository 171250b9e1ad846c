"""Does pre-training leave fewer LoRA units whose client update opposes the mean? Three bases of the embedded world, over alpha.

python -m experiments.alignment.bases           # five seeds
python -m experiments.alignment.bases --draw    # the table and the picture of what is there

Every client makes ten steps from the same adapter: by cross-entropy on right answers, which moves every base, or by GRPO
through the product's own federation, which has nothing to learn from where no group holds a right answer.
"""

import argparse
import json
import pathlib
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.cells import kept
from experiments.figures import interval, lines, markdown, mean_and_half, panels, save
from experiments.laboratory import config_of
from experiments.tiny_base.pretrain import CONFIG, lessons, pretrain
from pubswap_jax import direct, init_adapter
from pubswap_jax.algorithm.drift import drift
from pubswap_jax.policy.logps import response_logps
from pubswap_jax.policy.model import Transformer
from pubswap_jax.questions import embedded
from pubswap_jax.questions.load import load_questions
from pubswap_jax.run.assembly import Run, assemble, make_batches, questions_of

HERE = pathlib.Path(__file__).parent
SPEC, STEPS, WARM, RESPONSE = "configs/math.py:tiny", 10, 150, 8
SEEDS, ALPHAS = (1, 2, 3, 4, 5), (0.05, 0.3, 100.0)
BASES, UPDATES = ("random", "warmed up", "shipped"), ("cross-entropy", "GRPO")
COLOURS = dict(zip(BASES, ("#d55e00", "#0072b2", "#35b779"), strict=True))


def changes(alpha: float, clients: int = 8) -> dict:
    """The fields that differ from the preset: FedAvg-GRPO, one round of private steps, topics dealt by a Dirichlet."""
    return {
        "data.partition": "dirichlet",
        "data.alpha": alpha,
        "federation.num_clients": clients,
        "federation.swap_period": 0,
        "federation.steps": STEPS,
        "federation.rounds": 1,
        "training.prompts": 4,
    }


def bases(run: Run, seed: int = 0, warm: int = WARM) -> dict:
    """{"random", "warmed up", "shipped"}: parameters. Warmed up is the random base after `warm` steps of pre-training."""
    drawn = Transformer(CONFIG).init(jax.random.key(seed), jnp.zeros((1, 1), jnp.int32))["params"]
    material = [lessons(run.policy.tokenizer, "easy", kind, 32 * warm) for kind in ("math", "drill")]
    warmed = pretrain(CONFIG, material, warm, 32, 0.02, seed, drawn)
    return dict(zip(BASES, (drawn, warmed, run.policy.base["params"]), strict=True))


def right_answers(problems, tokenizer) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{question's id: tokens and mask [RESPONSE]} of the demonstrations by the right procedures."""
    said = [embedded.demonstrations(one)[embedded.TOPICS[one.topic].procedure][0] for one in problems]
    tokens = np.full((len(said), RESPONSE), tokenizer.pad_id, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for i, ids in enumerate(tokenizer.hf(said).input_ids):
        whole = [*ids, tokenizer.stop_ids[0]]
        tokens[i, : len(whole)], mask[i, : len(whole)] = whole, True
    return {one.id: pair for one, pair in zip(problems, zip(tokens, mask, strict=True), strict=True)}


def make_supervised(run: Run, lr: float):
    """(base, adapter, prompts [steps, C, B, P], tokens and mask [steps, C, B, R]) -> the adapters after these steps."""
    tx = optax.adam(lr)

    def loss(adapter, base, prompts, tokens, mask):
        logps = response_logps(run.policy.model, base, adapter, prompts, tokens[:, None])[:, 0]
        return -jnp.sum(logps, where=mask) / mask.sum()

    def client(base, adapter, *lessons):
        def step(carry, lesson):
            gradient = jax.grad(loss)(carry[0], base, *lesson)
            change, state = tx.update(gradient, carry[1])
            return (optax.apply_updates(carry[0], change), state), None

        return jax.lax.scan(step, (adapter, tx.init(adapter)), lessons)[0][0]

    return jax.jit(jax.vmap(client, in_axes=(None, None, 1, 1, 1)))


def by_grpo(run: Run, base, adapter, batches, key) -> dict[str, float]:
    """One round of the run's federation on the given batches: figures that are means over clients."""
    events = (run.timeline(number) for number in range(run.timeline.length))
    private = [event for event in events if event.kind == "private"]
    state, rewards = run.federation.open(run.federation.init(adapter), direct), []
    for event, batch in zip(private, batches, strict=True):
        own = jax.random.fold_in(key, event.step)
        state, seen = run.federation.step(base, state, batch, run.judge, direct, own, run.hparams(event))
        rewards.append(float(np.mean(seen.verdicts.reward)))
    return figures_of(run.federation.close(state, direct)[1]) | {"reward": float(np.mean(rewards))}


def by_cross_entropy(supervised, base, adapter, batches, answers: dict) -> dict[str, float]:
    """The same figures after steps towards the right answers: {question's id: (tokens, mask)}."""
    prompts = jax.tree.map(lambda *x: jnp.stack(x), *[batch.prompts for batch in batches])
    found = [[[answers[one.id] for one in row] for row in batch.answers] for batch in batches]
    tokens, mask = (np.array([[[pair[i] for pair in row] for row in step] for step in found]) for i in (0, 1))
    return figures_of(drift(supervised(base, adapter, prompts, tokens, mask), adapter))


def figures_of(moved: dict) -> dict[str, float]:
    """The mean share of opposing units, distance from the start, and cosine between two clients; cosine 0: nobody moved."""
    cosine, clients = np.asarray(moved["cosine"]), len(moved["drift"])
    pairs = (cosine.sum() - np.trace(cosine)) / (clients * (clients - 1))
    return {
        "share": float(np.mean(moved["opposing"])),
        "drift": float(np.mean(moved["drift"])),
        "cosine": float(pairs),
    }


def measure(keep: Callable[[dict], None], seeds=SEEDS, alphas=ALPHAS, warm: int = WARM) -> dict:
    """{update: {base: {alpha: [figures of each seed]}}}, which `keep` gets after every seed.

    Bases and updates of a seed and an alpha see the same questions.
    """
    run = assemble(config_of(SPEC, seeds[0], changes(alphas[0])))
    known, supervised = bases(run, warm=warm), make_supervised(run, run.settings["training.lr"])
    moved = dict(zip(UPDATES, (BASES, BASES[1:]), strict=True))
    found = {update: {name: {str(alpha): [] for alpha in alphas} for name in names} for update, names in moved.items()}
    start = jax.jit(lambda key: init_adapter(key, run.policy.model, run.policy.base))
    for seed in seeds:
        adapter, begun = start(jax.random.key(seed)), time.process_time()
        for alpha in alphas:
            config = config_of(SPEC, seed, changes(alpha))
            asked = load_questions(questions_of(config), run.policy.tokenizer)
            batch, events = make_batches(config, asked, run.place), map(run.timeline, range(run.timeline.length))
            batches = [batch(event) for event in events if event.kind == "private"]
            answers = right_answers([one for step in batches for row in step.answers for one in row], run.policy.tokenizer)
            for name, params in known.items():
                base, at = run.policy.base | {"params": params}, str(alpha)
                found[UPDATES[0]][name][at].append(by_cross_entropy(supervised, base, adapter, batches, answers))
                if name != "random":  # of its responses hardly one in a thousand is right: GRPO learns nothing from them
                    found[UPDATES[1]][name][at].append(by_grpo(run, base, adapter, batches, jax.random.key(seed)))
        print(f"seed {seed}: {time.process_time() - begun:.0f} s of CPU", flush=True)
        keep(found)
    return found


def shares(found: dict, name: str = "share") -> np.ndarray:
    """A figure of one update and base, f64[seeds, alphas]."""
    return np.array([[one[name] for one in found[alpha]] for alpha in found]).T


def table(results: dict) -> str:
    rows = []
    for update, by_base in results.items():
        for base, found in by_base.items():
            values, reward, cosine = shares(found), "–", shares(found, "cosine").mean(0)
            mean, half = interval(values[:, 0] - values[:, -1])
            if "reward" in found[str(ALPHAS[0])][0]:
                reward = f"{shares(found, 'reward').mean():.3f}"
            ends = [f"{cosine[0]:.2f}, {cosine[-1]:.2f}", reward]
            rows.append([update, base, *map(mean_and_half, values.T), f"{mean:+.3f} ± {half:.3f}", *ends])
    heads = ["update", "base", *(f"α = {alpha:g}" for alpha in ALPHAS), "smallest − largest α"]
    heads += ["clients' cosine at these two", "reward"]
    return markdown(heads, rows)


def draw(results: dict, path: pathlib.Path) -> None:
    figure, axes = panels(2, sharey=True)
    for axis, update in zip(axes, UPDATES, strict=True):
        for base, found in results[update].items():
            lines(axis, np.array(ALPHAS), shares(found), COLOURS[base], base)
        axis.set(xscale="log", title=update, xlabel="alpha of the Dirichlet over topics", ylim=(0, None))
    axes[0].set_ylabel("share of units that oppose the mean")
    axes[0].legend(frameon=False, fontsize=9)
    save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "bases.json")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--draw", action="store_true", help="compute nothing")
    a = parser.parse_args()
    begun = time.process_time()
    results = kept(a.out) if a.draw else measure(lambda found: a.out.write_text(json.dumps(found) + "\n"), a.seeds)
    if not a.draw:
        print(f"{time.process_time() - begun:.0f} s of CPU")
    print(table(results))
    draw(results, a.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
