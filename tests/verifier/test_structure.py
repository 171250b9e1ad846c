"""The shape of an answer, from its string."""

import pytest

from pubswap_jax.verifier.notation import canonical
from pubswap_jax.verifier.shape import Unreadable
from pubswap_jax.verifier.structure import MAX_ITEMS, read


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


def test_a_flood_of_items_is_unreadable():
    with pytest.raises(Unreadable):
        read(",".join(["1"] * (MAX_ITEMS + 1)))
    with pytest.raises(Unreadable):
        read(r"1\pm2\pm3\pm4\pm5")
