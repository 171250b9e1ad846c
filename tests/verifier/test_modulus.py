"""Residues modulo a number."""

import pytest

from pubswap_jax.verifier.modulus import reduced
from pubswap_jax.verifier.score import score
from pubswap_jax.verifier.structure import read


def test_reduced():
    assert reduced(read(r"x=10\pmod{7}")).items[-1].text == "3"
    assert [item.text for item in reduced(read(r"-1,8\pmod{7}")).items] == ["6", "1"]
    assert reduced(read(r"x=10\pmod{m}")).items[-1].text == "10"
    assert reduced(read(r"\frac{1}{2}\pmod{7}")).text == r"\frac{1}{2}"
    assert reduced(read(r"5\pmod{0}")).text == "5"
    assert reduced(read("10")).text == "10"


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("3", r"17 \bmod 7 = 3", True),
        ("3", r"17 \mod 7 = 3", True),
        ("3", r"17 \pmod 7 = 3", True),
        ("3", "17 mod 7 = 3", True),
        ("7", r"17 \bmod 7 = 3", False),
        ("17", r"17 \bmod 7 = 3", False),
        ("4", r"2^{10} \equiv 4 \pmod{10}", True),
        ("10", r"2^{10} \equiv 4 \pmod{10}", False),
        (r"x \equiv 3 \pmod 7", r"x \equiv 10 (mod 7)", True),
        (r"x \equiv 3 \pmod 7", r"x \equiv 3 \pmod 8", False),
        (r"x \equiv 3 \pmod 7", r"y \equiv 3 \pmod 7", False),
        (r"n \equiv 2 \pmod 5", r"n = 2 \bmod 5", True),
        (r"1, 4 \pmod 8", r"12, 9 \pmod 8", True),
    ],
)
def test_congruences(gold, answer, right):
    assert score([rf"\boxed{{{answer}}}"], [gold]).tolist() == [right]
