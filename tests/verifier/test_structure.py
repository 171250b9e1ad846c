"""The shape of an answer, from its string."""

import pytest

from pubswap_jax.verifier import choice, extraction, keys, regions, structure, symbolic
from pubswap_jax.verifier.notation import canonical
from pubswap_jax.verifier.structure import MAX_ITEMS, Unreadable, expressions, is_name, read, result


def kinds(text):
    shape = read(canonical(text))
    return shape.kind, [item.text for item in shape.items], shape.marks


@pytest.mark.parametrize(
    ("text", "kind", "items", "marks"),
    [
        ("42", "expr", [], ""),
        ("1, 2 and 3", "list", ["1", "2", "3"], ""),
        (r"\{1,2\}", "set", ["1", "2"], ""),
        (r"\left[0,1\right)", "tuple", ["0", "1"], "[)"),
        (r"(-\infty,2]\cup[3,\infty)", "union", [r"(-\infty,2]", r"[3,\infty)"], ""),
        (r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", "matrix", ["1", "2", "3", "4"], ("2", "2")),
        (r"-2\le x<7", "relation", ["-2", "x", "7"], (r"\le", "<")),
        (r"1\pm\sqrt{2}", "list", [r"1+\sqrt{2}", r"1-\sqrt{2}"], ""),
        ("(x,y)=(1,2)", "tuple", ["x=1", "y=2"], "()"),
        ("p=5,q=2;p=7,q=2", "list", ["p=5,q=2", "p=7,q=2"], ""),
        ("p=5,q=2,p=7,q=2", "list", ["p=5,q=2", "p=7,q=2"], ""),
        (r"x\in[0,1]", "tuple", ["0", "1"], "[]"),
        (r"\{x \mid x>3\}", "relation", ["x", "3"], (">",)),
        (r"\text{odd, not even}", "list", ["odd", "not even"], ""),
        (r"\ge 42", "text", [], ""),
        (r"\frac12 \text{ is wrong; it is } \frac13", "text", [], ""),
        (r"2x=6\Rightarrow x=3", "relation", ["x", "3"], ("=",)),
        (r"\pi\approx 3.14", "expr", [], ""),
    ],
)
def test_shapes(text, kind, items, marks):
    assert kinds(text) == (kind, items, marks)


@pytest.mark.parametrize("text", ["x", "f(x)", "x_1", r"\text{Area}", "V_1:V_2", r"\frac{NO}{BO}", r"\angle A", "f^{-1}(x)"])
def test_names(text):
    assert is_name(text)


@pytest.mark.parametrize("text", ["2x", "x+y", "x^2", "3", "", "a" * 200])
def test_what_is_no_name(text):
    assert not is_name(text)


def test_a_flood_of_items_is_unreadable():
    with pytest.raises(Unreadable):
        read(",".join(["1"] * (MAX_ITEMS + 1)))
    with pytest.raises(Unreadable):
        read(r"1\pm2\pm3\pm4\pm5")


def test_expressions_and_results():
    assert expressions(read("(1,x=2),3")) == ["1", "x", "2", "3"]
    assert result(r"\lim_{x\to 0} x = 1") == "1"


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        (
            structure._AROUND_MATRIX,
            [r"[\begin{matrix}1\end{matrix}]", r"\{ (\begin{a}1\end{a}) \}"],
            [r"\begin{a}1\end{a}", "[1]"],
        ),
        (structure._INEQUALITY, ["x<1", r"\le 2"], [r"\left", "x=1"]),
        (symbolic._LETTER_D, ["a + d r", r"d \cdot r"], ["dr", "2d rad", r"\d r", "x_d r"]),
        (regions._MODULUS, ["|x|"], ["|x", "||"]),
        (choice._BOLD, ["**B**", "**(b).**"], ["**Bold**", "*B*"]),
        (extraction._HEDGED_LATER, ["not 5, 6", "not 5 but 6"], ["not 5", "butter"]),
        (keys._SMALL_IS_RIGHT, ["a is correct", "b) is the answer"], ["a is fine", "data is correct"]),
    ],
)
def test_patterns_beside_their_examples(pattern, matches, others):
    assert [text for text in matches if not pattern.search(text)] == []
    assert [text for text in others if pattern.search(text)] == []
