"""The slow oracle, used only in worker processes: parses expressions with math-verify and compares values to 50 digits."""

import os
from collections.abc import Callable, Sequence

import sympy

from pubswap_jax.verifier.equality import equal_texts
from pubswap_jax.verifier.numerals import Number, close, readings
from pubswap_jax.verifier.parser import parse, parse_gold, seal
from pubswap_jax.verifier.shape import Unreadable, expressions
from pubswap_jax.verifier.structure import read
from pubswap_jax.verifier.values import DIGITS, agree, as_fraction, as_sympy, evaluate, near, points, rational, same
from pubswap_jax.verifier.warmup import FORMS


def warm_judge() -> Callable[[str, str], str]:
    """Seals this process, warms up the parser on sample answers, and returns the judge."""
    seal()
    rehearse(FORMS)
    # A worker's first judgements copy heap pages that it shares with the nursery. Copy them before the first deadline runs.
    os.register_at_fork(after_in_child=lambda: rehearse(FORMS[:12]))
    return judge


def rehearse(samples: Sequence[tuple[str, str]]) -> None:
    """Judges (gold, answer) pairs and drops the verdicts, to warm up the parser and its caches."""
    for gold, answer in samples:
        judge(gold, answer)


def judge(gold: str, answer: str) -> str:
    """Compares two canonical answers with sympy, inside a worker, and returns a status.

    An empty gold asks only whether the answer can be read.
    """
    seal()
    try:
        if gold:
            return "correct" if equal_texts(gold, answer, Symbolic()) else "wrong"
        for expression in expressions(read(answer)):
            parse(expression)
        return "correct"
    except Unreadable:
        return "unparsed"
    except RecursionError:
        return "refused"
    except MemoryError:
        raise
    except Exception:  # sympy may raise any exception; an answer that it cannot compare must not pass
        return "unparsed"


class Symbolic:
    """The slow oracle: compares expressions by value, exactly if rational, else to 50 digits; letters get several values."""

    def expr(self, gold: str, answer: str) -> bool:
        """Whether two canonical expressions have the same value."""
        numbers = readings(gold), readings(answer)
        if numbers[0] and numbers[1]:
            return any(close(a, b) for a in numbers[0] for b in numbers[1])
        if numbers[0] or numbers[1]:
            plain, other = (numbers[0], parse(answer)) if numbers[0] else (numbers[1], parse_gold(gold))
            return self._number(plain, other)
        return same(parse_gold(gold), parse(answer))

    def _number(self, plain: list[Number], other: sympy.Basic) -> bool:
        """Whether an expression equals one of the values that a plain number may stand for, decimals within their rounding."""
        if not isinstance(other, sympy.Expr) or other.free_symbols:
            return isinstance(other, sympy.Expr) and any(same(as_sympy(value), other) for value, _ in plain)
        if (exact := rational(other)) is not None:
            return any(close(one, (exact, None)) for one in plain)
        value = evaluate(other)
        if value is None or not value.is_real:
            return False
        nearby = as_fraction(value)
        return any(
            (places is not None and close((v, places), (nearby, None))) or agree(as_sympy(v), other) for v, places in plain
        )

    def multiple(self, gold: tuple[str, str], answer: tuple[str, str], positive: bool) -> bool:
        """Whether gold's left minus right is a constant multiple of the answer's: the same line, plane or half-space.

        `positive` demands a positive constant, for inequalities.
        """
        f, g = (sympy.Add(parse(left), sympy.Mul(-1, parse(right))) for left, right in (gold, answer))
        symbols = sorted(f.free_symbols | g.free_symbols, key=str)
        if not symbols or f.free_symbols != g.free_symbols:
            return False
        ratios = []
        for point in points(symbols):
            a, b = evaluate(f, point), evaluate(g, point)
            if a is None or b is None or a == 0 or b == 0:
                return False
            ratios.append((a / b).evalf(DIGITS))
        first = ratios[0]
        if positive and not (first.is_real and first > 0):
            return False
        return all(near(first, ratio) for ratio in ratios)
