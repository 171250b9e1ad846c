"""Reduces answers under a modulus: `x = 10` modulo 7 becomes `x = 3`."""

import dataclasses

from pubswap_jax.verifier.numerals import readings
from pubswap_jax.verifier.shape import Shape


def reduced(shape: Shape) -> Shape:
    """Replaces every integer of a parsed answer by its residue under the modulus in its unit: with `mod 7`, 9 becomes 2."""
    number = shape.unit.removeprefix("mod ")
    return _reduced(shape, int(number)) if number.isdecimal() and 0 < len(number) < 100 and int(number) else shape


def _reduced(shape: Shape, modulus: int) -> Shape:
    """Replaces every integer of a shape by its residue under this modulus."""
    if shape.kind == "relation":  # only the last side is a value; the name of the unknown stays
        return dataclasses.replace(shape, items=(*shape.items[:-1], _reduced(shape.items[-1], modulus)))
    if shape.items:
        return dataclasses.replace(shape, items=tuple(_reduced(item, modulus) for item in shape.items))
    found = readings(shape.text)
    if not found or found[0][0].denominator != 1:
        return shape
    return dataclasses.replace(shape, text=str(found[0][0].numerator % modulus))
