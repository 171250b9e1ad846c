"""Shapes as values."""

from pubswap_jax.verifier.shape import Shape, expressions


def test_the_expressions_of_nested_shapes_in_order():
    pair = Shape("tuple", "(1,x)", (Shape("expr", "1"), Shape("expr", "x")), "()")
    assert expressions(Shape("list", "(1,x),odd,2", (pair, Shape("text", "odd"), Shape("expr", "2")))) == ["1", "x", "2"]
    assert expressions(Shape("text", "odd")) == []
