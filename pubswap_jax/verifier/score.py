"""The way into the verifier: judges completions by extraction, string rules, static limits, a cache and a pool of workers.

Training calls `verify(texts, answers)`, which returns a status for each answer; `score` returns only which are correct.
Neither function executes text that a model wrote or raises because of it. An answer takes at most `timeout` seconds. Importing
this module loads no JAX.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pubswap_jax.verifier import choice, keys, pool
from pubswap_jax.verifier.boxes import boxes_together
from pubswap_jax.verifier.division import result
from pubswap_jax.verifier.equality import Quick, equal_texts, has_several, plain_numbers
from pubswap_jax.verifier.extraction import extract, gold_answer
from pubswap_jax.verifier.limits import MAX_CHARACTERS, refusal, too_deep
from pubswap_jax.verifier.notation import canonical, radians
from pubswap_jax.verifier.shape import Undecided, Unreadable

CACHE = 1 << 15  # (gold, answer) pairs whose verdict is remembered
KINDS = ("math", "choice")


class Verdicts(NamedTuple):
    """Results, one entry per row. `status` is correct, wrong, unparsed, refused or timeout."""

    correct: np.ndarray  # bool[n]
    status: list[str]
    extracted: list[str]


_verdicts: OrderedDict[tuple[str, str], str] = OrderedDict()


def score(
    texts: Sequence[str],
    answers: Sequence[str],
    *,
    kind: str = "math",
    options: Sequence[dict[str, str] | None] | None = None,
    timeout: float = 1.0,
) -> np.ndarray:
    """bool[n]: whether completion i gives the answer of gold i. `timeout` is in seconds per answer."""
    return verify(texts, answers, kind=kind, options=options, timeout=timeout).correct


def verify(
    texts: Sequence[str],
    answers: Sequence[str],
    *,
    kind: str = "math",
    options: Sequence[dict[str, str] | None] | None = None,
    timeout: float = 1.0,
) -> Verdicts:
    """Like `score`, but also returns the status and the extracted answer of each row."""
    _check(texts, answers, kind, options, timeout)
    if kind == "choice":
        rows = [
            _guarded(("unparsed", ""), choice.judge, text, gold, row)
            for text, gold, row in zip(texts, answers, options or [None] * len(texts), strict=True)
        ]
        status, extracted = [row[0] for row in rows], [row[1] for row in rows]
    else:
        # A completion that repeats the gold verbatim is read as a gold, because `extract` might take only its last formula.
        extracted = [
            _guarded("", gold_answer, gold) if text.strip() == gold.strip() else _guarded("", _extracted, text, gold)
            for text, gold in zip(texts, answers, strict=True)
        ]
        status = _math(list(answers), extracted, timeout)
    return Verdicts(np.array([word == "correct" for word in status], bool), status, extracted)


def readable(
    answers: Sequence[str],
    kind: str = "math",
    timeout: float = 5.0,
    options: Sequence[Mapping[str, str] | None] | None = None,
) -> np.ndarray:
    """Whether each gold answer can be read and so be compared with, bool[n]. Questions whose gold cannot be read are dropped.

    The gold of a multiple choice is readable if it is the key of an option or, without `options`, a single letter.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    if kind == "choice":
        offered = options or [None] * len(answers)
        return np.array(
            [keys.is_letter(gold) if row is None else gold in row for gold, row in zip(answers, offered, strict=True)], bool
        )
    golds = [_canonical_gold(answer) for answer in answers]
    known = {gold: plain_numbers(gold) for gold in golds}
    waiting = [gold for gold, plain in known.items() if gold and not plain and not refusal(gold)]
    found = pool.shared().run([("", gold) for gold in waiting], timeout)
    known.update((gold, status == "correct") for gold, status in zip(waiting, found, strict=True))
    return np.array([known[gold] for gold in golds], bool)


def _check(texts, answers, kind, options, timeout) -> None:
    """Raises ValueError if the arguments of `verify` do not fit together, such as lists of different lengths."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    if len(texts) != len(answers):
        raise ValueError(f"texts and answers must have the same length, got {len(texts)} and {len(answers)}")
    if options is not None and len(options) != len(texts):
        raise ValueError(f"options must have one entry per text, got {len(options)} for {len(texts)}")
    if any(not isinstance(row, Mapping) for row in options or () if row is not None):
        raise ValueError("options: a dict of key and text, or None, a row expected")
    for i, row in enumerate(options or ()):
        if row is not None:
            keys.check(row, f"options[{i}]")
    if not timeout > 0:
        raise ValueError(f"timeout must be positive seconds, got {timeout}")


def _math(golds: list[str], extracted: list[str], timeout: float) -> list[str]:
    """The status of each pair of a gold and an extracted answer.

    Pairs that the fast path cannot decide go to the pool, each distinct pair once.

    The pool draws the pairs lazily, so the fast path runs while the workers judge earlier pairs.
    """
    pairs = list(zip(golds, extracted, strict=True))
    found: dict[tuple[str, str], str] = {}
    hard: list[tuple[str, str]] = []

    def left_open() -> Iterator[tuple[str, str]]:
        for pair in dict.fromkeys(pairs):
            gold, answer = pair
            status = _verdicts.get(pair) or _guarded("unparsed", _quickly, gold, answer)
            if isinstance(status, str):
                found[pair] = status
            else:
                hard.append(pair)
                yield status

    found.update(zip(hard, pool.shared().run(left_open(), timeout), strict=True))
    # Do not cache timeouts, because a busy machine may have caused them.
    _verdicts.update((pair, found[pair]) for pair in hard if found[pair] != "timeout")
    while len(_verdicts) > CACHE:
        _verdicts.popitem(last=False)
    return [found[pair] for pair in pairs]


def _guarded(otherwise, function: Callable, *arguments):
    """Calls function(*arguments); on an exception returns `otherwise` with a warning.

    A bug that one odd answer triggers must not end a long run.
    """
    try:
        return function(*arguments)
    except Exception as error:
        shown = " beside ".join(repr(one[-200:]) for one in arguments if isinstance(one, str))
        warnings.warn(f"the verifier failed on {shown}, which counts as not right: {error!r}", stacklevel=2)
        return otherwise


def _extracted(text: str, gold: str) -> str:
    """The answer of a completion. Adjacent boxes, joined by "and", are one answer if the gold also has several values."""
    together = boxes_together(text) if text.count("boxed") > 1 else None
    return together if together is not None and has_several(_canonical_gold(gold)) else extract(text)


def _quickly(gold: str, answer: str) -> str | tuple[str, str]:
    """The result of `_fast`, after degrees became radians on one side if only the other side has π."""
    if r"\pi" in gold and r"\pi" not in answer:
        answer = radians(answer)
    elif r"\pi" in answer and r"\pi" not in gold:
        gold = radians(gold)
    return _fast(_canonical_gold(gold), answer)


def _canonical_gold(gold: str) -> str:
    """The gold answer in canonical spelling; empty if it breaks the static limits, so that no answer equals it."""
    answer = gold_answer(gold)
    return "" if len(answer) > MAX_CHARACTERS or too_deep(answer) else canonical(answer)


def _fast(gold: str, answer: str) -> str | tuple[str, str]:
    """Judges one pair by string rules: a status if they decide it, else the canonical pair that a worker must judge."""
    if not answer.strip():
        return "unparsed"
    if len(answer) > MAX_CHARACTERS or too_deep(answer):
        return "refused"
    answer = canonical(answer)
    if not answer or not gold:
        return "unparsed"
    try:
        return "correct" if equal_texts(gold, answer, Quick()) else "wrong"
    except Undecided:
        if not refusal(answer):
            return gold, answer
        answer = result(answer)
        return "refused" if refusal(answer) else (gold, answer)
    except Unreadable:
        return "unparsed"
