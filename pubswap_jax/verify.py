"""Command line of the verifier: `python -m pubswap_jax.verify FILE` grades a file of {gold, answer} rows.

From Python: `score` returns which answers are correct, `verify` also returns the status of each answer, and `readable` returns
which golds answers can be compared with. Importing this module loads no JAX.
"""

import argparse
import json
import pathlib
from collections import Counter
from collections.abc import Sequence

from pubswap_jax.questions import readers
from pubswap_jax.verifier import keys, pool
from pubswap_jax.verifier.score import KINDS
from pubswap_jax.verifier.score import readable as readable
from pubswap_jax.verifier.score import score as score
from pubswap_jax.verifier.score import verify as verify


def _completion(row: dict) -> str:
    """The text to grade: the row's answer, put in a box if the row says that it is a bare expression."""
    return (
        r"\boxed{" + row["answer"] + "}" if row.get("form") == "expr" and row.get("kind", "math") == "math" else row["answer"]
    )


def main(arguments: Sequence[str] | None = None, prog: str = "python -m pubswap_jax.verify") -> None:
    parser = argparse.ArgumentParser(prog=prog, description="Grades a file of {gold, answer} rows.")
    parser.add_argument("file", help="JSON lines: gold, answer; optional: kind, options, form, label")
    parser.add_argument("--timeout", type=float, default=1.0, help="seconds per answer (default: 1)")
    parser.add_argument("--workers", type=int, help="worker processes (default: one per core, at most 8)")
    parser.add_argument("--out", help="write each row with its status and what was extracted to this file")
    flags = parser.parse_args(arguments)
    try:
        if not 0 < flags.timeout < float("inf"):
            raise ValueError(f"--timeout must be positive seconds, got {flags.timeout:g}")
        if flags.workers is not None:
            pool.set_workers(flags.workers)
        rows = _read(flags.file)
        if flags.out:
            open(flags.out, "a", encoding="utf-8").close()  # fail on an unwritable path before grading, not after
    except (OSError, ValueError) as error:
        parser.exit(2, f"pubswap_jax.verify: {error}\n")
    _grade(rows, flags.timeout)
    if flags.out:
        with open(flags.out, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    _print_report(rows)


def _read(path: str) -> list[dict]:
    """The rows of a JSON Lines file. A ValueError names the first invalid line."""
    rows = []
    for number, row in readers.jsonl(pathlib.Path(path)):
        if not all(isinstance(row.get(name), str) for name in ("gold", "answer")):
            raise ValueError(f"{path}:{number}: an object with the texts 'gold' and 'answer' expected")
        if row.get("kind", "math") not in KINDS:
            raise ValueError(f"{path}:{number}: kind is {row['kind']!r}; there are {', '.join(KINDS)}")
        if (options := row.get("options")) is not None:
            if not isinstance(options, dict) or not all(isinstance(text, str) for text in options.values()):
                raise ValueError(
                    f"{path}:{number}: options must be an object of keys and texts, got {json.dumps(options)[:60]}"
                )
            keys.check(options, f"{path}:{number}")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path}: no rows in it")
    return rows


def _grade(rows: list[dict], timeout: float) -> None:
    """Verifies all rows and writes `status` and `extracted` into each."""
    for kind in KINDS:
        chosen = [row for row in rows if row.get("kind", "math") == kind]
        texts, golds = [_completion(row) for row in chosen], [row["gold"] for row in chosen]
        found = verify(texts, golds, kind=kind, options=[row.get("options") for row in chosen], timeout=timeout)
        for row, status, extracted in zip(chosen, found.status, found.extracted, strict=True):
            row["status"], row["extracted"] = status, extracted


def _print_report(rows: list[dict]) -> None:
    """Prints counts by status, then the rows whose verdict contradicts their label and the unlabelled rows not correct."""
    for kind in KINDS:
        chosen = [row for row in rows if row.get("kind", "math") == kind]
        if not chosen:
            continue
        counts = ", ".join(f"{count} {status}" for status, count in Counter(row["status"] for row in chosen).most_common())
        print(f"{kind}: {len(chosen)} rows: {counts}")
        for label, name in ((True, "missed right"), (False, "accepted wrong"), (None, "not correct, without a label")):
            of_label = [row for row in chosen if row.get("label") is label]
            failed = [row for row in of_label if (row["status"] == "correct") is (label is False)]
            if of_label:
                print(f"  {name}: {len(failed)} of {len(of_label)}")
            for row in failed:
                gold, answer, extracted = row["gold"][-80:], row["answer"][-80:], row["extracted"][:80]
                print(f"    [{row['status']}] gold {gold!r} answer {answer!r} read as {extracted!r}")


if __name__ == "__main__":
    main()
