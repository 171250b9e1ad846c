"""Labels of multiple-choice options: the letters that the prompt shows, and how answers that use an option's key are read.

Keys that are single letters (A to L, a/b/c) are their own labels. Other keys (1/2/3, yes/no/maybe) get the labels A, B, C by
position in the prompt; an answer may then use the label or the key. A key inside prose does not count: "no" in "no doubt".
"""

import re
import string
from collections.abc import Iterable, Mapping

from pubswap_jax.verifier.pattern import Pattern

MOST = len(string.ascii_uppercase)
# Words that may follow a key that is an answer: "yes because ...", "2 is correct". Before any other word the key is prose.
_NO_PROSE_NEXT = (
    r"(?!\s+(?!(?:is|was|because|since|as|for|and|or|but|would|seems|must|should|over|not|nor|vs|versus|to|plus|with|then|however|given"
    r"|due|based)\b)[A-Za-z])"
)
_SMALL_LETTER_IS_CORRECT = Pattern(
    r"(?<![A-Za-z0-9'’])([a-z])(?=\)?\s(?:is|must\s+be|seems)\s(?:the\s)?(?:correct|right|best|answer|most\s+likely)\b)",
    matches=["a is correct", "b) is the answer"],
    not_=["a is fine", "data is correct"],
)


def check(options: Mapping[str, str], where: str) -> None:
    """Raises ValueError for options that cannot be labelled with letters."""
    if len(options) > MOST:
        raise ValueError(f"{where}: {len(options)} options; there are letters for at most {MOST}, so leave some out")
    if any(not isinstance(key, str) or not key.strip() for key in options):
        raise ValueError(f"{where}: the options' names must be texts that are not empty, got {', '.join(map(repr, options))}")


def labels(options: Iterable[str]) -> dict[str, str]:
    """key -> label in the prompt: the key itself if all keys are distinct single letters, else A, B, C by position."""
    names = list(options)
    if _are_letters(names):
        return {name: name.strip() for name in names}
    return dict(zip(names, string.ascii_uppercase, strict=False))


def lettered(text: str, options: Mapping[str, str]) -> tuple[str, dict[str, str], dict[str, str]]:
    """Replaces option keys by capital letters in a completion: (its text, letter -> option's text, key -> letter).

    Keys inside the options' own texts are replaced too.
    """
    letters = {key: label.upper() for key, label in labels(options).items()}
    if _are_letters(options):
        text = (
            _SMALL_LETTER_IS_CORRECT.sub(lambda match: match[1].upper(), text)
            if any(key.islower() for key in options)
            else text
        )
        return text, {letters[key]: option for key, option in options.items()}, letters
    said = {_folded(key): letters[key] for key in options}
    # a key such as `2` that is also another option's text is ambiguous: neither the key nor that text counts
    torn = {_folded(option) for key, option in options.items() if _folded(option) in said and _folded(option) != _folded(key)}
    shown = set(letters.values())
    spoken = {
        name: letter
        for name, letter in said.items()
        # Of keys A, C, D1 the key `C` is shown as B, and `C` is the letter of D1: skip it. No option of I, II, III is shown
        # as I: keep that key.
        if name not in torn and not (is_letter(name) and name.upper() != letter and name.upper() in shown)
    }
    if len(said) < len(options):  # keys that differ only by case, `yes` and `Yes`, are ambiguous
        spoken = {}
    texts = {letters[key]: "" if _folded(option) in torn else _replaced(option, spoken) for key, option in options.items()}
    return _replaced(text, spoken), texts, letters


def is_letter(key: str) -> bool:
    """Whether an option's key is a single letter, such as B, and not a word or number."""
    return bool(re.fullmatch("[A-Za-z]", key.strip()))


def _are_letters(keys: Iterable[str]) -> bool:
    """Whether all keys are single letters, no two of them equal without their case."""
    names = [key.strip() for key in keys]
    return all(map(is_letter, names)) and len({name.upper() for name in names}) == len(names)


def _folded(key: str) -> str:
    """A key for comparison, without case and outer spaces."""
    return key.strip().casefold()


def _replaced(text: str, letters: Mapping[str, str]) -> str:
    """Replaces each key in a text that stands alone, not inside a word, by its letter."""
    if not letters:
        return text
    names = "|".join(re.escape(name) for name in sorted(letters, key=len, reverse=True))
    before, behind = (
        r"(?<![A-Za-z0-9.+'’$^_\\-])(?<![\^_]\{)(?<![0-9][,/])",
        r"(?![A-Za-z0-9'’%^+-]|[.,/][0-9]|\s*(?:[=<>]|\*\s*[0-9A-Za-z]))",
    )
    pattern = f"{before}(?:{names}){behind}{_NO_PROSE_NEXT}"
    return re.sub(pattern, lambda match: letters[_folded(match[0])], text, flags=re.IGNORECASE)
