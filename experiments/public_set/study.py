"""Does a poor public set hurt, and does the swap make it worse? PubSwap and the control without the swap on each.

    python -m experiments.public_set.study --seeds 1 2 3
    python -m experiments.public_set.study --draw         # the table and the picture of what is there

Six rounds of 40 steps in the hard world, as in experiments/sweeps.
"""

import pathlib
from functools import partial

from experiments.cells import Alter, arguments, fill, kept, settings_of
from experiments.figures import curve, dots, markdown, mean_and_half, paired, panels, save
from experiments.public_set.alter import strangers, two_topics, wrong_answers

HERE = pathlib.Path(__file__).parent
ROUNDS = 6
CLEAN = "as it is"
METHODS = {"PubSwap": {}, "without swap": {"federation.swap": "no_swap"}}
COLOURS = {"PubSwap": "#d55e00", "without swap": "#0072b2"}
SETS: dict[str, Alter | None] = {
    CLEAN: None,
    "a quarter of the answers wrong": partial(wrong_answers, share=0.25),
    "half of the answers wrong": partial(wrong_answers, share=0.5),
    "two topics of eight": two_topics,
    "two topics that nobody else has": strangers,
}


def name_of(method: str, questions: str) -> str:
    return f"{method}, {questions}"


def cells(common: dict) -> dict[str, dict]:
    rounds = {"federation.rounds": ROUNDS}
    return {name_of(m, q): {**rounds, **common, **changes} for q in SETS for m, changes in METHODS.items()}


def alterations() -> dict[str, Alter]:
    return {name_of(method, questions): alter for questions, alter in SETS.items() if alter for method in METHODS}


def table(results: dict) -> str:
    rows = []
    for questions in SETS:
        mine, control = (results.get(name_of(method, questions)) for method in METHODS)
        row = [questions]
        for seeds in (mine, control):
            row.append(mean_and_half(curve(seeds, "global")[:, -1]) if seeds else "not run")
        row.append(paired(mine, control) if mine and control else "")
        for method, seeds in zip(METHODS, (mine, control), strict=True):
            clean = results.get(name_of(method, CLEAN))
            row.append("–" if questions == CLEAN else paired(seeds, clean) if seeds and clean else "")
        rows.append(row)
    heads = [
        "public questions",
        *METHODS,
        "the swap's worth (p)",
        *(f"{method}: to the set as it is (p)" for method in METHODS),
    ]
    return markdown(heads, rows)


def draw(results: dict, path: pathlib.Path) -> None:
    figure, (axis,) = panels(1, width=8.0, height=3.6)
    for i, method in enumerate(METHODS):
        there = [questions for questions in SETS if name_of(method, questions) in results]
        ends = [curve(results[name_of(method, questions)], "global")[:, -1] for questions in there]
        dots(axis, there, ends, [COLOURS[method]] * len(there), offset=0.24 * i - 0.12)
        axis.plot([], [], "o-", color=COLOURS[method], label=method)
    axis.legend(loc="lower right", frameon=False)
    axis.set(xlim=(0, 1), xlabel=f"accuracy of the averaged model after {ROUNDS} rounds\nticks: seeds, bars: 95 % intervals")
    save(figure, path)


def main():
    parser = arguments(__doc__, out=HERE / "results.json")
    parser.add_argument("--draw", action="store_true", help="train nothing")
    a = parser.parse_args()
    asked = cells(settings_of(a.set))
    results = kept(a.out) if a.draw else fill(a.out, a.config, asked, a.seeds, a.processes, alterations())
    print(table(results))
    draw(results, a.out.with_name("public_set.png"))


if __name__ == "__main__":
    main()
