"""Options under any keys: shown as letters, read by their letter or their key."""

import pytest

from pubswap_jax.verifier.keys import check, is_letter, labels, lettered

YES = {"yes": "yes", "no": "no", "maybe": "maybe"}
DIGITS = {"1": "It doubles", "2": "It halves", "10": "It grows by 10"}


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        ("ABCD", "ABCD"),
        ("abc", "abc"),
        ("ABCDEFGHIJKL", "ABCDEFGHIJKL"),
        (["1", "2"], "AB"),
        (["yes", "no", "maybe"], "ABC"),
        (["A", "a"], "AB"),  # the same letter twice: by place
        (["A", "2"], "AB"),
        ([], ""),
    ],
)
def test_labels(keys, shown):
    assert labels(keys) == dict(zip(keys, shown, strict=True))


@pytest.mark.parametrize(
    ("options", "text", "read"),
    [
        (YES, "Yes, it does.", "A, it does."),
        (YES, "The answer is no.", "The answer is B."),
        (YES, "maybe because of it", "C because of it"),
        (YES, "I have no doubt, yesterday or now.", "I have no doubt, yesterday or now."),
        (YES, "yes/no", "A/B"),
        (DIGITS, "The answer is 2.", "The answer is B."),
        (DIGITS, "10", "C"),
        (
            DIGITS,
            "There are 2 of them; 2.5, -2, 1/2, x^2, 2x, 2%, 12, 1,000",
            "There are 2 of them; 2.5, -2, 1/2, x^2, 2x, 2%, 12, 1,000",
        ),
        ({"a": "x", "b": "y"}, "So a is correct, a cat is not.", "So A is correct, a cat is not."),
        ({"A": "x", "B": "y"}, "a is correct", "a is correct"),
        ({"yes": "x", "Yes": "y"}, "yes", "yes"),  # nobody can tell which
        ({"I": "x", "II": "y", "III": "z"}, "I think II or III, not I.", "I think B or C, not A."),
        ({"A": "x", "C": "y", "D1": "z"}, "C, A, D1", "C, A, C"),
        ({"1": "2", "2": "4"}, "2", "2"),  # the name of one and the text of the other
    ],
)
def test_keys_in_a_text_become_letters(options, text, read):
    assert lettered(text, options)[0] == read


def test_the_texts_of_options_follow():
    read = lettered("x = 2", {"1": "x = 2", "2": "2 apples"})
    assert read == ("x = B", {"A": "x = B", "B": "2 apples"}, {"1": "A", "2": "B"})
    assert lettered("B", {"1": "2", "2": "4"})[1] == {"A": "", "B": "4"}


def test_options_without_a_letter_are_refused_in_a_line():
    check({str(i): "x" for i in range(26)}, "q")
    with pytest.raises(ValueError, match="^q: 27 options; there are letters for at most 26"):
        check({str(i): "x" for i in range(27)}, "q")
    with pytest.raises(ValueError, match="^q: .* not empty"):
        check({"": "x"}, "q")


def test_a_letter():
    assert [is_letter(key) for key in ("A", "k ", "", "1", "AB", "é")] == [True, True, False, False, False, False]
