"""Inequalities as intervals."""

import pytest

from pubswap_jax.verifier.notation import canonical
from pubswap_jax.verifier.regions import interval, is_letter, needed, regions, union_of
from pubswap_jax.verifier.score import score
from pubswap_jax.verifier.structure import read


def written(shape):
    """A region as a text, for comparison."""
    if shape.kind == "union":
        return " u ".join(written(item) for item in shape.items)
    return f"{shape.marks[0]}{shape.items[0].text},{shape.items[1].text}{shape.marks[1]}".replace("\\infty", "oo")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("|x|>3", ["(-oo,-3) u (3,oo)"]),
        (r"|x|\ge 3", ["(-oo,-3] u [3,oo)"]),
        ("3 < |x|", ["(-oo,-3) u (3,oo)"]),
        ("|x|<3", ["(-3,3)"]),
        (r"|x-2| \le 5", ["[-3,7]"]),
        ("|2-x|<5", ["(-3,7)"]),
        ("|2x-1|>5", ["(-oo,-2) u (3,oo)"]),
        ("|-2x+1|>5", ["(-oo,-2) u (3,oo)"]),
        (r"|\frac{1}{2}x|<1", ["(-2,2)"]),
        (r"1 < |z| \le 2", ["[-2,-1) u (1,2]", "(1,2]"]),  # of a real z, and of |z| itself
        (r"|x+1|>\sqrt{5}", [r"(-oo,\frac{-(\sqrt{5})-(1)}{1}) u (\frac{+(\sqrt{5})-(1)}{1},oo)"]),
        ("|x|<-3", []),
        ("|x^2|<3", []),
        ("|x|+|y|<3", []),
        (r"x \neq 0", ["(-oo,0) u (0,oo)"]),
        ("x<-1, x>1", ["(-oo,-1) u (1,oo)"]),
        (r"2 \le x < 5", ["[2,5)"]),
        ("(1,2)", ["(1,2)"]),
        ("5", []),
    ],
)
def test_regions(text, expected):
    assert [written(region) for region in regions(read(canonical(text)))] == expected


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        (r"(-\infty,-3) \cup (3,\infty)", "|z|>3", True),
        (r"(-\infty,-3) \cup (3,\infty)", r"|z|\ge 3", False),
        (r"(-3,3)", "|z|<3", True),
        (r"(3,\infty)", "|z|>3", False),
        ("|x|>2", r"x<-2 \text{ or } x>2", True),
        ("|x|<2", "-2<x<2", True),
        ("|x|<2", "|y|<3", False),
        (r"x \neq 1", r"(-\infty,1)\cup(1,\infty)", True),
        (r"x \neq 1", r"(-\infty,1]\cup[1,\infty)", False),
        (r"x \neq 1", "|x|<1", False),
    ],
)
def test_inequalities_and_intervals(gold, answer, right):
    assert score([rf"\boxed{{{answer}}}", rf"\boxed{{{gold}}}"], [gold, answer]).tolist() == [right, right]


def test_the_small_functions():
    assert (
        needed(read("|x|>3"), read("(1,2)")) and not needed(read("|x|>3"), read("|x|>4")) and not needed(read("3"), read("4"))
    )
    assert written(interval(read("x>3"))) == "(3,oo)" and interval(read("x>y>z>1")) is None and interval(read("x=3")) is None
    assert union_of(read("x<1, x>2")).kind == "union" and union_of(read("1,2")).kind == "list"
    assert is_letter(read("x")) and not is_letter(read("2"))
