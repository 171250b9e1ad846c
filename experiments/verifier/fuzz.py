"""Random and mutated answers: no exception may reach the caller, and none may take over two seconds.

    python experiments/verifier/fuzz.py --rows 1000000 --seed 0 [--data DATA]     # DATA/verifier/*.jsonl joins the seeds

Every answer is timed where it is judged: in the caller's process, and from its hand-over to a worker until the worker's answer,
or until the worker that was late is replaced.
"""

import argparse
import collections
import json
import pathlib
import random
import time
import warnings
from collections.abc import Callable

from pubswap_jax.verifier import choice, pool, score

GOLDEN = pathlib.Path(__file__).parents[2] / "tests/golden"
PIECES = r"""
\frac { } ( ) [ ] \{ \} ^ _ \sqrt \sqrt[3] \pm \mp \cup \infty \pi \text{ \text{or} and or , ; : = < > \le \ge \neq \in | %
\% $ $$ \$ 0 1 2 9 42 0.5 1e9 10^{10} ! \binom \log \sin \cos i e x y n + - * / \cdot \times \left( \right) & \\ \begin{pmatrix}
\end{pmatrix} \boxed{ \boxed answer: #### A B C D (B) none not is the \int \sum \prod \lim \overline{3} ° π √ ½ × − \, \! ~
__import__ lambda
""".split()  # noqa: SIM905  a list would be ten times as long
BATCH = 1000
TIMEOUT = 1.0


def seeds(data: pathlib.Path | None) -> list[dict]:
    files = [GOLDEN / f"verify_{name}.jsonl" for name in ("pairs", "texts", "choices")]
    files += [data / f"verifier/{name}.jsonl" for name in ("open", "attacks", "contested")] if data else []
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [row for row in rows if "answer" in row and len(row["answer"]) < 5000]


def noise(rng: random.Random) -> str:
    """Characters of all planes, or pieces of LaTeX, of a random length."""
    if rng.random() < 0.3:
        return "".join(chr(rng.randrange(rng.choice((128, 0x3000, 0x110000)))) for _ in range(rng.randrange(60)))
    return rng.choice(("", " ")).join(rng.choices(PIECES, k=rng.randrange(1, 40)))


def edited(rng: random.Random, text: str, other: str) -> str:
    """One edit: a piece put in, a span taken out, exchanged or repeated, a flood in front."""
    i, j = sorted(rng.randrange(len(text) + 1) for _ in range(2))
    match rng.randrange(6):
        case 0:
            return text[:i] + rng.choice(PIECES) + text[i:]
        case 1:
            return text[:i] + text[j:]
        case 2:
            return text[:j] + text[i:]
        case 3:
            return text[:i] + other[:40] + text[j:]
        case 4:
            return text[:i] + text[i:j][:20] * rng.randrange(2, 30) + text[j:]
        case _:
            return rng.choice(PIECES) * rng.randrange(1, 200) + text


def mutated(rng: random.Random, text: str, other: str) -> str:
    for _ in range(rng.randrange(1, 5)):
        text = edited(rng, text, other)[:20000]
    return text


def row(rng: random.Random, rows: list[dict]) -> tuple[str, str, str, dict | None]:
    """(text, gold, kind, options)."""
    seed, other = rng.choice(rows), rng.choice(rows)
    text = noise(rng) if rng.random() < 0.3 else mutated(rng, seed["answer"], other["answer"])
    text = rng.choice((text, rf"\boxed{{{text}}}", f"The answer is {text}.", f"${text}$"))
    gold = rng.choice((seed["gold"], other["gold"], noise(rng) if rng.random() < 0.1 else seed["gold"]))
    return text, gold, rng.choice(("math", "math", "math", "choice")), seed.get("options")


def grade(batch: list[tuple[str, str, str, dict | None]]) -> collections.Counter:
    counts: collections.Counter = collections.Counter()
    for kind in score.KINDS:
        chosen = [entry for entry in batch if entry[2] == kind]
        options = [entry[3] for entry in chosen]
        counts.update(
            score.verify([e[0] for e in chosen], [e[1] for e in chosen], kind=kind, options=options, timeout=TIMEOUT).status
        )
    return counts


class Clock:
    """The longest time that one answer took in the caller's process and in a worker, until its worker was replaced."""

    def __init__(self):
        self.caller, self.worker = (0.0, ""), 0.0

    def timed(self, function: Callable) -> Callable:
        def call(*arguments):
            start = time.perf_counter()
            result = function(*arguments)
            self.caller = max(self.caller, (time.perf_counter() - start, str(arguments)[:120]))
            return result

        return call

    def install(self) -> None:
        score.extract, score._fast, choice.judge = map(self.timed, (score.extract, score._fast, choice.judge))
        judged, replaced = pool.Pool._answer, pool.Pool._replace

        def answer(of_pool, worker):
            self.worker = max(self.worker, time.monotonic() - worker.due + TIMEOUT)
            return judged(of_pool, worker)

        def replace(of_pool, worker):
            replaced(of_pool, worker)
            self.worker = max(self.worker, time.monotonic() - worker.due + TIMEOUT)

        pool.Pool._answer, pool.Pool._replace = answer, replace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=pathlib.Path, help="a folder with verifier/open.jsonl and so on")
    flags = parser.parse_args()
    warnings.simplefilter("error")  # what `verify` would only warn of ends the fuzz
    rng, rows = random.Random(flags.seed), seeds(flags.data)
    grade([("1", "x", "math", None)])
    clock = Clock()
    clock.install()
    counts: collections.Counter = collections.Counter()
    begin = time.perf_counter()
    for done in range(0, flags.rows, BATCH):
        counts += grade([row(rng, rows) for _ in range(min(BATCH, flags.rows - done))])
        if done % (50 * BATCH) == 0:
            print(f"{sum(counts.values()):>9} {time.perf_counter() - begin:>7.0f} s  {dict(counts)}", flush=True)
    print(f"{sum(counts.values())} answers in {time.perf_counter() - begin:.0f} s, no exception: {dict(counts)}")
    print(f"slowest in the caller: {clock.caller[0]:.2f} s {clock.caller[1]!r}")
    print(f"slowest in a worker, with its replacement: {clock.worker:.2f} s")
    print(f"{len(pool.shared().pids())} workers of {pool.shared().size} left")


if __name__ == "__main__":
    main()
