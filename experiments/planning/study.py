"""Do the codes of hidden states show which earlier block determines a later one? A check on made-up hidden states.

python -m experiments.planning.study            # K = 64 … 512, planted and shuffled, five seeds
python -m experiments.planning.study --draw     # the table and the picture of what is there
"""

import argparse
import json
import pathlib
import time

import numpy as np

from experiments.cells import kept
from experiments.figures import lines, markdown, mean_and_half, panels, save
from experiments.planning import codes, information

HERE = pathlib.Path(__file__).parent
KS, SEEDS, OFFSET = (64, 128, 256, 512), (1, 2, 3, 4, 5), 3
SEQUENCES, SYMBOLS, WIDTH, HIDDEN, NOISE = 4000, 64, 4, 16, 0.5
COLOURS = dict(zip(KS, ("#440154", "#31688e", "#35b779", "#c8a000"), strict=True))


def planted(seed: int, sequences: int = SEQUENCES, symbols: int = SYMBOLS) -> np.ndarray:
    """Hidden states f64[N, 6 · WIDTH, HIDDEN] of six blocks. Block t determines block t + 3 and no other block.

    Blocks 0, 1, 2 have random symbols, and blocks 3, 4, 5 a permutation of theirs. A symbol is WIDTH vectors, plus noise.
    """
    chance = np.random.default_rng(seed)
    first = chance.integers(symbols, size=(sequences, OFFSET))
    whole = np.concatenate([first, chance.permutation(symbols)[first]], 1)
    means = chance.normal(size=(symbols, WIDTH, HIDDEN))
    hidden = means[whole].reshape(sequences, -1, HIDDEN)
    return hidden + NOISE * chance.normal(size=hidden.shape)


def shuffled(blocks: np.ndarray, seed: int) -> np.ndarray:
    """The blocks of every place in another order of the sequences: the same blocks, and no structure between them."""
    chance = np.random.default_rng((seed, 1))
    return np.stack([blocks[chance.permutation(len(blocks)), i] for i in range(blocks.shape[1])], 1)


def measure(hidden: np.ndarray, K: int, seed: int, *, shuffle: bool = False, steps: int = 1500) -> dict:
    """Fits on one half of the sequences and counts codes on the other."""
    blocks = codes.in_blocks(hidden, WIDTH)
    blocks = shuffled(blocks, seed) if shuffle else blocks
    half = len(blocks) // 2
    model, params = codes.fit(blocks[:half].reshape(-1, blocks.shape[-1]), K, seed, steps=steps)
    found = codes.codes_of(model, params, blocks[half:])
    return {"used": information.used(found, K), "information": information.by_offset(found, K, np.random.default_rng(seed))}


def table(results: dict) -> str:
    rows = []
    for kind in ("planted", "shuffled"):
        for K in KS:
            found = results[kind][str(K)]
            shares = mean_and_half(np.array([one["used"] / K for one in found]))
            known = [one["information"] for one in found if one["information"]]
            if len(known) < len(found):
                rows.append(
                    [kind, str(K), shares, f"not reported: {len(found) - len(known)} of {len(found)} collapsed", "–", "–"]
                )
                continue
            above = np.array([one["bits"] for one in known]) - np.array([one["chance"] for one in known])
            others = np.delete(above, OFFSET - 1, axis=1)
            largest = others[np.arange(len(others)), np.abs(others).argmax(1)]
            bias = f"{np.mean([one['chance'] for one in known]):.2f}"
            rows.append([kind, str(K), shares, mean_and_half(above[:, OFFSET - 1]), mean_and_half(largest), bias])
    heads = ["", "K", "share of codes used", f"bits at offset {OFFSET}", "largest at another offset", "chance (subtracted)"]
    return markdown(heads, rows)


def draw(results: dict, path: pathlib.Path) -> None:
    figure, axes = panels(2, sharey=True)
    for axis, kind in zip(axes, ("planted", "shuffled"), strict=True):
        for K, colour in COLOURS.items():
            known = [one["information"] for one in results[kind][str(K)] if one["information"]]
            if known:
                above = np.array([one["bits"] for one in known]) - np.array([one["chance"] for one in known])
                lines(axis, np.arange(1, above.shape[1] + 1), above, colour, f"K = {K}")
        axis.set(title=f"{kind} blocks", xlabel="offset in blocks")
    axes[0].set_ylabel("mutual information above chance, bits")
    if axes[0].lines:
        axes[0].legend(frameon=False, fontsize=9)
    save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results.json")
    parser.add_argument("--draw", action="store_true", help="compute nothing")
    a = parser.parse_args()
    results = kept(a.out) if a.draw else {"planted": {}, "shuffled": {}}
    for K in () if a.draw else KS:
        begun = time.process_time()
        for kind in results:
            results[kind][str(K)] = [measure(planted(seed), K, seed, shuffle=kind == "shuffled") for seed in SEEDS]
        print(f"K = {K}: {time.process_time() - begun:.0f} s of CPU", flush=True)
        a.out.write_text(json.dumps(results) + "\n")
    print(table(results))
    draw(results, a.out.with_name("planning.png"))


if __name__ == "__main__":
    main()
