"""Many spellings of an answer become one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pubswap_jax.verifier import notation
from pubswap_jax.verifier.notation import canonical, squeezed, thousands

SPELLINGS = {
    r"\frac{1}{2}": [r"\frac12", r"\dfrac{1}{2}", r"\tfrac 1 2", r"\cfrac{1}2", r"{1\over2}", "½", r"\\frac{1}{2}"],
    r"\sqrt{3}": [r"\sqrt3", "sqrt(3)", r"\sqrt {3}", "$√3$"],
    "1234": [r"1\,234", r"1\!234", "1 234", r"$1234$", r"\$1234", "1234.", "1{,}234", "1 {, }234", r"1,\!234", r"1,\! 234"],
    "42": [r"42^\circ", r"42^{\circ}", "42°", r"\displaystyle 42", r"42\phantom{1}", "£42"],
    "28%": [r"28\%", "28 percent", r"28\text{ percent}"],
    r"x\le 3": [r"x\leq 3", r"x\leqslant 3", "x<= 3", "x≤3"],
    "x^2": ["x**2", "x^{2}", "x²"],
    "2^{10}": ["2**10", "2^10"],
    r"\binom{5}{2}": [r"\dbinom{5}{2}", r"{5\choose2}"],
}


@pytest.mark.parametrize(("wanted", "spelling"), [(wanted, s) for wanted, all_of_it in SPELLINGS.items() for s in all_of_it])
def test_spellings_meet(wanted, spelling):
    assert squeezed(canonical(spelling)) == squeezed(canonical(wanted)) == squeezed(wanted)


def test_angles_keep_their_degrees_inside_trigonometry():
    assert canonical(r"2\cos 15^\circ") == r"2\cos (\frac{15\pi}{180})"


def test_thousands_and_matrices():
    assert thousands("1,234,567 or 1,23") == "1234567 or 1,23"
    assert canonical(r"\begin{pmatrix}1\\2\end{pmatrix}") == "\\begin{pmatrix}1\x012\\end{pmatrix}"


def test_a_space_between_digits_or_behind_a_command_has_meaning():
    assert squeezed("4 2") != squeezed("42")
    assert squeezed(r"\pi x + 1") == r"\pi x+1"


@settings(deadline=None)
@given(st.text(alphabet=r"\{}()[]^_$%,. 12axfrcsqt√½π", max_size=60))
def test_any_text_has_a_spelling_and_keeps_it(text):
    once = canonical(text)
    assert len(once) <= 20 * len(text) + 20
    assert "  " not in once


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("40 (percentage)", "40%"),
        (r"65\text{ as a percentage}", "65%"),
        (r"10\%\text{ percentage}", "10%"),
        (r"\text{Percentage} = 30", "30"),
        (r"x \equiv 3 \ (\text{mod } 7)", r"x = 3 \pmod{7}"),
        (r"17 \mod 7 = 3", r"17 \bmod{7} = 3"),
        (r"n = 2 \bmod 5", r"n = 2 \pmod{5}"),
        ("model 7", "model 7"),
        ("]2,5[", "(2,5)"),
        ("[2,5]", "[2,5]"),
    ],
)
def test_percentages_remainders_and_turned_brackets(text, spelling):
    assert " ".join(notation.canonical(text).split()) == spelling


def test_degrees_as_radians():
    assert notation.radians(r"30^\circ") == r"(\frac{30\pi}{180})" and notation.radians("30") == "30"
