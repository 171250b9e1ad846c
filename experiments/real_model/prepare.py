"""The questions of the study, cleaned of near copies across the sets.

    python -m experiments.real_model.prepare svamp WORDS experiments/real_model/data   # how the committed files were made
    python -m experiments.real_model.prepare asdiv WORDS FOLDER                        # ASDiv's four operations, not committed

WORDS is a folder with svamp_*.jsonl and asdiv_*.jsonl: $PUBSWAP_DATA/words. ASDiv is CC BY-NC: its questions stay out of the
repository. SVAMP was derived from ASDiv, so a question is left out where a near copy of it stands in a set before: the test
questions first, then the warm-up's, then the training questions.
"""

import argparse
import json
import pathlib
from collections.abc import Sequence

from pubswap_jax.questions.leakage import near_copies
from pubswap_jax.questions.problem import Problem

OPERATIONS = ("Addition", "Subtraction", "Multiplication", "Common-Division")
WARM_UP, TEST, LONGEST = 80, 400, 300  # LONGEST: characters of a question of ASDiv, so that a prompt has at most 96 tokens
HERE = pathlib.Path(__file__).parent


def read(file: pathlib.Path, longest: int = 1 << 20) -> list[dict]:
    """The rows of a file whose topic is one of the four operations and whose question has at most `longest` characters."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [row for row in rows if row["topic"] in OPERATIONS and len(row["question"]) <= longest]


def write(file: pathlib.Path, rows: Sequence[dict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{file}: {len(rows)} questions")


def without_copies(rows: Sequence[dict], against: Sequence[dict]) -> list[dict]:
    """The rows of which no near copy stands in `against`."""
    kept = near_copies(_problems(rows), _problems(against)) < 0
    print(f"{len(rows) - int(kept.sum())} of {len(rows)} left out as near copies")
    return [row for row, keep in zip(rows, kept, strict=True) if keep]


def _problems(rows: Sequence[dict]) -> list[Problem]:
    return [Problem(row["id"], row["question"], row["answer"]) for row in rows]


def balanced(rows: Sequence[dict]) -> list[dict]:
    """The first WARM_UP rows, as many of each operation, in the given order: more than half of SVAMP's are subtractions."""
    each = {topic: [row["id"] for row in rows if row["topic"] == topic][: WARM_UP // len(OPERATIONS)] for topic in OPERATIONS}
    names = {name for found in each.values() for name in found}
    return [row for row in rows if row["id"] in names]


def svamp(words: pathlib.Path) -> dict[str, list[dict]]:
    """Warm-up, training and test questions of SVAMP. No warm-up question is a near copy of any test question."""
    test, train = read(words / "svamp_test.jsonl"), read(words / "svamp_train.jsonl")
    tests = [*test, *asdiv(words)["asdiv_test"]]
    clean = without_copies(train, test)
    warm = balanced(without_copies(clean, tests))
    names = {row["id"] for row in warm}
    rest = without_copies([row for row in clean if row["id"] not in names], warm)
    return {"svamp_warmup": warm, "svamp_train": rest, "svamp_test": test}


def asdiv(words: pathlib.Path) -> dict[str, list[dict]]:
    """ASDiv's four operations: 400 test questions, those of asdiv_test.jsonl first, and the training questions."""
    test, train = read(words / "asdiv_test.jsonl", LONGEST), read(words / "asdiv_train.jsonl", LONGEST)
    more = TEST - len(test)
    test, train = test + train[:more], train[more:]
    return {"asdiv_test": test, "asdiv_train": without_copies(train, test)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("svamp", "asdiv"))
    parser.add_argument("words", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    a = parser.parse_args()
    sets = svamp(a.words) if a.what == "svamp" else asdiv(a.words)
    if a.what == "asdiv":
        warm = read(HERE / "data" / "svamp_warmup.jsonl")
        sets["asdiv_train"] = without_copies(sets["asdiv_train"], warm)
    for name, rows in sets.items():
        write(a.folder / f"{name}.jsonl", rows)


if __name__ == "__main__":
    main()
