"""Does heterogeneity cost less where fewer filters are misaligned at the start? The two-layer CNN of arXiv 2502.08024.

python -m experiments.alignment.study           # ten seeds, two minutes on a core
python -m experiments.alignment.study --draw    # the table and the picture of what is there
"""

import argparse
import json
import pathlib
import time

import jax
import numpy as np

from experiments.alignment.cnn import Sizes, test_error
from experiments.cells import kept
from experiments.figures import lines, markdown, mean_and_half, panels, save

HERE = pathlib.Path(__file__).parent
SEEDS, ALIGNED, HETEROGENEITY = 10, (0.0, 0.3, 0.5, 0.7, 1.0), (0.0, 0.4, 0.8, 1.0)
COLOURS = dict(zip(ALIGNED, ("#440154", "#31688e", "#21918c", "#35b779", "#c8a000"), strict=True))


def run(seeds: int = SEEDS, aligned=ALIGNED, heterogeneity=HETEROGENEITY, sizes: Sizes = Sizes()) -> dict:  # noqa: B008
    """{share of aligned filters: test error [seeds, heterogeneities]}; all cells of a seed have the same filters and noise."""
    keys = jax.random.split(jax.random.key(0), seeds)
    errors = jax.vmap(lambda key, share, h: test_error(key, share, h, sizes)[0], in_axes=(0, None, None))
    return {str(share): np.stack([errors(keys, share, h) for h in heterogeneity], 1).tolist() for share in aligned}


def costs(results: dict) -> dict[float, np.ndarray]:
    """What heterogeneity costs: error at the largest minus error at none, f64[seeds], by the share of aligned filters."""
    return {float(share): np.array(found)[:, -1] - np.array(found)[:, 0] for share, found in results.items()}


def table(results: dict) -> str:
    rows, lost = [], costs(results)
    most = lost[min(lost)]
    for share, cost in sorted(lost.items()):
        found = np.array(results[str(share)])
        ends = [mean_and_half(found[:, i]) for i in (0, -1)]
        saved = mean_and_half(most - cost) if share > min(lost) else "–"
        rows.append([f"{1 - share:.1f}", *ends, mean_and_half(cost), saved])
    heads = [
        "misaligned at the start",
        "error, even labels",
        "one label a client",
        "cost",
        "saved against the first row",
    ]
    return markdown(heads, rows)


def draw(results: dict, path: pathlib.Path) -> None:
    figure, (errors, cost) = panels(2)
    for share, colour in COLOURS.items():
        lines(errors, np.array(HETEROGENEITY), np.array(results[str(share)]), colour, f"{1 - share:.1f} misaligned")
    errors.set(title="test error", xlabel="heterogeneity of labels", ylim=(0, None))
    errors.legend(frameon=False, fontsize=8)
    lost = costs(results)
    lines(cost, 1 - np.array(sorted(lost)), np.stack([lost[share] for share in sorted(lost)], 1), "#d55e00", "cost")
    cost.axhline(0, color="#777777", lw=0.8)
    cost.set(title="what heterogeneity costs", xlabel="share of misaligned filters at the start")
    save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results.json")
    parser.add_argument("--draw", action="store_true", help="compute nothing")
    a = parser.parse_args()
    begun = time.process_time()
    results = kept(a.out) if a.draw else run()
    if not a.draw:
        a.out.write_text(json.dumps(results) + "\n")
        print(f"{time.process_time() - begun:.0f} s of CPU")
    print(table(results))
    draw(results, a.out.with_name("alignment.png"))


if __name__ == "__main__":
    main()
