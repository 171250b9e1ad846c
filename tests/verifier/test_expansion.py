r"""Short notations written out as texts."""

import pytest

from pubswap_jax.verifier.expansion import bounds_of, matrix_body, pieces_without, plus_minus
from pubswap_jax.verifier.shape import Unreadable
from pubswap_jax.verifier.structure import read


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (r"1\pm2", ["1+2", "1-2"]),
        (r"\pm x", ["x", "- x"]),
        (r"1\pm2\mp3", ["1+2-3", "1-2+3"]),
        (r"\pm1\pm2", ["1+2", "1-2", "-1+2", "-1-2"]),
    ],
)
def test_plus_minus(text, values):
    assert plus_minus(text) == values


@pytest.mark.parametrize("text", [r"1\mp2", r"\pm1" * 4])
def test_unreadable_signs(text):
    with pytest.raises(Unreadable):
        plus_minus(text)


@pytest.mark.parametrize(
    ("points", "pieces"),
    [
        (r"\{0\}", [r"(-\infty,0)", r"(0,\infty)"]),
        (r"\{2,-1\}", [r"(-\infty,-1)", "(-1,2)", r"(2,\infty)"]),
        ("(0,1]", [r"(-\infty,0]", r"(1,\infty)"]),
        (r"\{x\}", []),
        ("5", []),
    ],
)
def test_the_reals_without_points(points, pieces):
    assert pieces_without(read(r"(-\infty,\infty)"), read(points)) == pieces
    assert pieces_without(read("(0,5)"), read(points)) == []


@pytest.mark.parametrize(
    ("values", "bounds"),
    [
        ("[0,1)", ["|z|<1"]),
        (r"(0,1]", [r"0<|z|\le 1"]),
        (r"[0,1)\cup(2,\infty)", ["|z|<1", "2<|z|"]),
        (r"\{1\}", []),
    ],
)
def test_bounds_of_an_absolute_value(values, bounds):
    assert bounds_of("|z|", read(values)) == bounds


@pytest.mark.parametrize(
    ("inside", "body"),
    [
        ("[1,2],[3,4]", "1&2\x013&4"),
        ("1,2;3,4", "1&2\x013&4"),
        ("1,2", ""),
        ("[1,2],[3]", ""),
        ("[1],[2]", ""),
        ("[1,2],3", ""),
    ],
)
def test_rows_of_a_matrix(inside, body):
    assert matrix_body(inside) == body
