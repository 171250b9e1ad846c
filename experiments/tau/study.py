"""How often should adapters be averaged? FedAvg-GRPO and PubSwap with averaging every τ steps, 360 steps in all.

    python -m experiments.tau.study --seeds 1 2 3
    python -m experiments.tau.study --draw                # the table and the picture of what is there

The paper's one public table has the same shape: it is printed beside ours.
"""

import pathlib

import numpy as np

from experiments.cells import arguments, fill, kept, settings_of
from experiments.figures import curve, lines, markdown, mean_and_half, paired, panels, save

HERE = pathlib.Path(__file__).parent
STEPS, TAUS = 360, (10, 40, 90, 120)
METHODS = {"FedAvg-GRPO": {"federation.swap_period": 0}, "PubSwap": {}}
# Medical questions, Llama-3.2-3B-Instruct, pass@1 of the best checkpoint in per cent; arXiv 2604.12160, base 49.2.
PAPER = {"FedAvg-GRPO": (59.7, 58.9, 57.9, 57.7), "PubSwap": (58.3, 59.5, 58.5, 58.1)}
COLOURS = dict(zip(TAUS, ("#440154", "#31688e", "#35b779", "#c8a000"), strict=True))


def name_of(method: str, tau: int) -> str:
    return f"{method}, τ = {tau}"


def cells(common: dict, taus: tuple[int, ...] = TAUS) -> dict[str, dict]:
    period = {tau: {"federation.steps": tau, "federation.rounds": STEPS // tau} for tau in taus}
    return {name_of(method, tau): {**common, **METHODS[method], **period[tau]} for method in METHODS for tau in taus}


def table(results: dict) -> str:
    rows = []
    for method in METHODS:
        found = [results.get(name_of(method, tau)) for tau in TAUS]
        end = [mean_and_half(curve(seeds, "global")[:, -1]) + f" ({len(seeds)})" if seeds else "not run" for seeds in found]
        best = [f"{curve(seeds, 'global').max(1).mean():.3f}" if seeds else "not run" for seeds in found]
        rows += [[method, *end], ["– best evaluation", *best], ["– the paper's", *(f"{x} %" for x in PAPER[method])]]
    pairs = [[results.get(name_of(method, tau)) for method in ("PubSwap", "FedAvg-GRPO")] for tau in TAUS]
    rows.append(["PubSwap − FedAvg-GRPO (p)", *(paired(*pair) if all(pair) else "not run" for pair in pairs)])
    return markdown([f"after {STEPS} steps (seeds)", *(f"τ = {tau}" for tau in TAUS)], rows)


def draw(results: dict, path: pathlib.Path) -> None:
    figure, axes = panels(2, sharey=True)
    for axis, method in zip(axes, METHODS, strict=True):
        for tau in TAUS:
            if seeds := results.get(name_of(method, tau)):
                values = curve(seeds, "global")
                lines(axis, np.arange(values.shape[1]) * tau, values, COLOURS[tau], f"τ = {tau}")
        axis.set(title=method, xlabel="steps", xlim=(0, STEPS), ylim=(0, 1))
        if axis.lines:
            axis.legend(frameon=False, fontsize=9, loc="upper left", title="averaging every")
    axes[0].set_ylabel("accuracy on held-out questions")
    figure.suptitle("the averaged model: mean of the seeds, and each of them thin", fontsize=11)
    save(figure, path)


def main():
    parser = arguments(__doc__, out=HERE / "results.json")
    parser.add_argument("--taus", nargs="+", type=int, default=TAUS, choices=TAUS)
    parser.add_argument("--draw", action="store_true", help="train nothing")
    a = parser.parse_args()
    results = kept(a.out) if a.draw else fill(a.out, a.config, cells(settings_of(a.set), a.taus), a.seeds, a.processes)
    print(table(results))
    draw(results, a.out.with_name("tau.png"))


if __name__ == "__main__":
    main()
