"""Measures the verifier: right and wrong on labelled pairs, answers a second, two workers against one, and time-bombs.

python experiments/verifier/benchmark.py DATA                      # DATA holds verifier/open.jsonl and math/*.jsonl
python experiments/verifier/benchmark.py DATA --peers hendrycks math_verify inspect_ai
"""

import argparse
import json
import pathlib
import random
import time

import peers

from pubswap_jax.verifier import notation, pool, score
from pubswap_jax.verifier.equality import _readings

# Within every static limit, and each hours of work for the parser or the evaluator.
BOMBS = [
    r"\boxed{%s+%%d}" % ("(" * 30 + "x+1" + ")^{2}" * 30),
    r"\boxed{%s+%%d}" % (r"\log_{2}(" * 30 + "x" + ")" * 30),
]


def rows_of(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def completion(row: dict) -> str:
    return rf"\boxed{{{row['answer']}}}" if row.get("form") == "expr" else row["answer"]


def forget() -> None:
    """Empties every cache of this process; the workers' go with the workers."""
    score._verdicts.clear()
    for cache in (notation.canonical, _readings):
        cache.cache_clear()


def warm(workers: int) -> None:
    """A fresh pool that has judged nothing but one sum."""
    pool.set_workers(workers)
    forget()
    score.score([r"\boxed{x+1}"] * 2, ["1+x", "x"])


def speed(texts: list[str], golds: list[str], workers: int) -> float:
    """Answers a second, each row once, caches cold, workers warm."""
    warm(workers)
    start = time.perf_counter()
    score.score(texts, golds)
    return len(texts) / (time.perf_counter() - start)


def fast_share(texts: list[str], golds: list[str]) -> float:
    forget()
    pairs = [(score._canonical_gold(gold), score.extract(text)) for text, gold in zip(texts, golds, strict=True)]
    return sum(isinstance(score._fast(*pair), str) for pair in pairs) / len(pairs)


def table(rows: list[dict], names: list[str]) -> None:
    """Missed, accepted, answers a second and the slowest answer of each grader, one answer at a time in one process."""
    right = sum(row["label"] for row in rows)
    print(f"{len(rows)} maths pairs, {right} right, {len(rows) - right} wrong; one answer a call")
    print(f"{'grader':<14}{'missed':>8}{'accepted':>10}{'answers/s':>11}{'slowest s':>11}")
    warm(1)
    graders = {"ours": lambda gold, text: bool(score.score([text], [gold])[0]), "hendrycks": peers.hendrycks}
    for name in ("ours", *names):
        grade = graders[name] if name in graders else getattr(peers, name)()
        grade("1", r"\boxed{x+1}")
        found, times = [], []
        for row in rows:
            start = time.perf_counter()
            found.append(grade(row["gold"], completion(row)))
            times.append(time.perf_counter() - start)
        missed = sum(row["label"] and not ok for row, ok in zip(rows, found, strict=True))
        accepted = sum(not row["label"] and ok for row, ok in zip(rows, found, strict=True))
        print(f"{name:<14}{missed:>8}{accepted:>10}{len(rows) / sum(times):>11.0f}{max(times):>11.3f}", flush=True)


def speeds(outputs: list[dict], golds: list[str], repeats: int) -> None:
    shuffled = random.Random(0).sample(golds, len(golds))
    sets = {
        "model outputs": ([row["answer"] for row in outputs], [row["gold"] for row in outputs]),
        "golds, themselves": ([rf"\boxed{{{gold}}}" for gold in golds], golds),
        "golds, each other": ([rf"\boxed{{{gold}}}" for gold in golds], shuffled),
    }
    print(f"best of {repeats}, interleaved")
    print(f"{'answers/s':<20}{'rows':>6}{'fast path':>11}{'1 worker':>10}{'2 workers':>11}{'ratio':>7}")
    for name, (texts, answers) in sets.items():
        runs = [(speed(texts, answers, 1), speed(texts, answers, 2)) for _ in range(repeats)]
        one, two = max(run[0] for run in runs), max(run[1] for run in runs)
        print(
            f"{name:<20}{len(texts):>6}{fast_share(texts, answers):>11.0%}{one:>10.0f}{two:>11.0f}{two / one:>7.2f}", flush=True
        )


def bombs(outputs: list[dict], golds: list[str], timeout: float = 1.0) -> None:
    """4,096 answers, 20 of them time-bombs, on two workers."""
    shuffled = random.Random(1).sample(golds, len(golds))
    pairs = [(row["answer"], row["gold"]) for row in outputs] + [
        (rf"\boxed{{{a}}}", b) for a, b in zip(golds, shuffled, strict=True)
    ]
    pairs = (pairs * (4096 // len(pairs) + 1))[:4076] + [(BOMBS[i % 2] % i, "x+y") for i in range(20)]
    random.Random(2).shuffle(pairs)
    warm(2)
    start = time.perf_counter()
    found = score.verify([text for text, _ in pairs], [gold for _, gold in pairs], timeout=timeout)
    taken = time.perf_counter() - start
    limit, late = 5 + 20 * timeout / 2, found.status.count("timeout")
    print(f"4,096 answers with 20 time-bombs, 2 workers: {taken:.1f} s (limit {limit:.0f} s), {late} timeouts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path, help="the folder of real data")
    parser.add_argument("--peers", nargs="*", default=[], help="hendrycks, math_verify, inspect_ai")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the fastest is printed")
    parser.add_argument("--only", choices=["table", "speed", "bombs"], help="one part alone")
    flags = parser.parse_args()
    rows = [row for row in rows_of(flags.data / "verifier/open.jsonl") if row["kind"] == "math"]
    outputs = [row for row in rows if row["test"].startswith("model_output")]
    golds = [row["answer"] for name in ("math_train", "math_test") for row in rows_of(flags.data / f"math/{name}.jsonl")]
    if flags.only in (None, "table"):
        table(rows, flags.peers)
    if flags.only in (None, "speed"):
        speeds(outputs, golds, flags.repeats)
    if flags.only in (None, "bombs"):
        bombs(outputs, golds)


if __name__ == "__main__":
    main()
