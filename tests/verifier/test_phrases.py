"""The patterns of a choice, for few and for many options. test_pattern.py runs their examples."""

from pubswap_jax.verifier.phrases import phrases


def test_more_options_widen_the_letters():
    assert phrases("L").LETTER.match("K") and not phrases().LETTER.match("K") and not phrases("L").LETTER.match("M")
    assert phrases("L").SMALL_LETTER_FIRST.match("(l)") and not phrases().SMALL_LETTER_FIRST.match("(l)")
    assert phrases("L").OTHER_LETTER.search("or K") and not phrases().OTHER_LETTER.search("or K")
    assert phrases("D") is not phrases("L") and phrases("D").LETTER.match("J")  # never fewer than A to J


def test_patterns_are_compiled_by_name_with_their_flags():
    found = vars(phrases("L"))
    assert found.keys() == vars(phrases()).keys() and len(found) == 28
    assert found["LABEL_AT_LINE_START"].search("so\nK) x") and not phrases().LABEL_AT_LINE_START.search("so\nK) x")
