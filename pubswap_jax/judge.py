"""One (gold, answer) pair judged with sympy at hand: what a worker does."""

from pubswap_jax.equality import equal_texts
from pubswap_jax.shapes import Unreadable, expressions, read
from pubswap_jax.symbolic import Symbolic, parse, seal

seal()


def judge(gold: str, answer: str) -> str:
    """The status of a canonical answer against a canonical gold; an empty gold asks only whether the answer can be read."""
    try:
        if not gold:
            for expression in expressions(read(answer)):
                parse(expression)
            return "correct"
        return "correct" if equal_texts(gold, answer, Symbolic()) else "wrong"
    except Unreadable:
        return "unparsed"
    except RecursionError:
        return "refused"
    except MemoryError:
        raise
    except Exception:  # sympy raises anything; what it cannot compare is not shown to be equal
        return "unparsed"
