"""The patterns of a choice, each beside texts that it matches and that it must not, for few and for many options."""

import pytest

from pubswap_jax.verifier.phrases import phrases

# name: (texts that it finds, texts in which it finds nothing), with the options A to J
EXAMPLES = {
    "FIELD": ('{"answer_choice": "B"}', "answer: B"),
    "MARK": ("The answer is B|We choose B|#### B", "B and C differ|unanswered"),
    "REVERSED": ("B is correct|Option B is the best", "B is wrong|He is right"),
    "LETTER": ("B|(B)|option B|So, B", "Beta|B12|I am"),
    "SMALL": ("(b)|b|option b", "beta|b blocker"),
    "SMALLS": ("b|(a)", "a cat|ab"),
    "LEADING": ("the answer|a cat", "then|cat"),
    "ARTICLE": (" cat", " is| because"),
    "DENIED": (" is wrong|?|: incorrect", " is right"),
    "NEXT": (", C", " Cat"),
    "TOO": (" or C|/C", " or Cat"),
    "LABEL": ("B) text|Option C:", "But"),
    "SECOND": ("C. Rome", "C. rome"),
    "DENIED_LATER": ("London is wrong", " A is wrong|London is right"),
    "SPEAKER": ("so |think ", "vitamin "),
    "LISTED": ("B. |(C) "[:3], "B12. "),
    "CLAUSE": (" because|, not B", " not sure"),
    "END": (". The", ". No wait"),
    "ANOTHER": (". Explanation", ". Paris"),
    "OTHER": ("or C|, C", "or Cat|or A cat"),
    "UNSURE": ("not sure|C could be", "sure"),
    "RETRACTED": ("Wait, C.", "Wait, cats"),
    "BEFORE": ("not ", "not. "),
    "NONE": ("none of them|Neither", "A none"),
    "LIKELY": ("the best choice is B", "the choice is B"),
    "RIGHT": (" is correct.", " is wrong."),
    "TAKES_BACK": ("wait, ", "await"),
    "NAMED": ("blocker (B).", "blocker (B) or"),
}
ANCHORED = {"LETTER", "SMALL", "LEADING", "ARTICLE", "DENIED", "NEXT", "TOO", "ANOTHER", "NONE", "RIGHT"}  # used by `match`


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_pattern_beside_its_examples(name):
    pattern = getattr(phrases(), name)
    find = pattern.match if name in ANCHORED else pattern.search
    found, missed = EXAMPLES[name]
    assert [text for text in found.split("|") if not find(text)] == []
    assert [text for text in missed.split("|") if find(text)] == []


def test_every_pattern_has_examples():
    assert set(vars(phrases())) == set(EXAMPLES)


def test_more_options_widen_the_letters():
    assert phrases("L").LETTER.match("K") and not phrases().LETTER.match("K") and not phrases("L").LETTER.match("M")
    assert phrases("L").SMALL.match("(l)") and not phrases().SMALL.match("(l)")
    assert phrases("L").OTHER.search("or K") and not phrases().OTHER.search("or K")
    assert phrases("D") is not phrases("L") and phrases("D").LETTER.match("J")  # never fewer than A to J
