"""The names of a multiple choice's options: which letter each is shown with, and how a text that uses another name is read.

Keys that are single letters (A to L, a/b/c) are their own letters. All others (1/2/3, yes/no/maybe) get the letters A, B, C by
their place in the prompt; in an answer both the letter and the key itself count. A key in prose is none: "no" in "no doubt".
"""

import re
import string
from collections.abc import Iterable, Mapping

MOST = len(string.ascii_uppercase)
# Words behind a key that still leave it an answer: "yes because ...", "2 is correct". Before any other word it is prose.
_AFTER = (
    r"(?!\s+(?!(?:is|was|because|since|as|for|and|or|but|would|seems|must|should|over|not|nor|vs|versus|to|plus|with|then|however|given"
    r"|due|based)\b)[A-Za-z])"
)
_SMALL_IS_RIGHT = re.compile(
    r"(?<![A-Za-z0-9'’])([a-z])(?=\)?\s(?:is|must\s+be|seems)\s(?:the\s)?(?:correct|right|best|answer|most\s+likely)\b)"
)


def check(options: Mapping[str, str], where: str) -> None:
    """A ValueError for options that no letters can name."""
    if len(options) > MOST:
        raise ValueError(f"{where}: {len(options)} options; there are letters for at most {MOST}, so leave some out")
    if any(not isinstance(key, str) or not key.strip() for key in options):
        raise ValueError(f"{where}: the options' names must be texts that are not empty, got {', '.join(map(repr, options))}")


def labels(options: Iterable[str]) -> dict[str, str]:
    """key -> what the prompt calls it: the key where all keys are different single letters, else A, B, C by place."""
    names = list(options)
    if _are_letters(names):
        return {name: name.strip() for name in names}
    return dict(zip(names, string.ascii_uppercase, strict=False))


def lettered(text: str, options: Mapping[str, str]) -> tuple[str, dict[str, str], dict[str, str]]:
    """(text, letter -> option's text, key -> letter), with capital letters in the place of the keys in all of them."""
    letters = {key: label.upper() for key, label in labels(options).items()}
    if _are_letters(options):
        text = _SMALL_IS_RIGHT.sub(lambda match: match[1].upper(), text) if any(key.islower() for key in options) else text
        return text, {letters[key]: option for key, option in options.items()}, letters
    said = {_folded(key): letters[key] for key in options}
    # `2` is the name of one option and the text of another: nobody can tell which one is meant
    torn = {_folded(option) for key, option in options.items() if _folded(option) in said and _folded(option) != _folded(key)}
    shown = set(letters.values())
    spoken = {
        name: letter
        for name, letter in said.items()
        # the `C` of keys A, C, D1 is shown as B, and `C` is another option's letter; the I of I, II, III is nobody's
        if name not in torn and not (is_letter(name) and name.upper() != letter and name.upper() in shown)
    }
    if len(said) < len(options):  # `yes` and `Yes` are two options
        spoken = {}
    texts = {letters[key]: "" if _folded(option) in torn else _replaced(option, spoken) for key, option in options.items()}
    return _replaced(text, spoken), texts, letters


def is_letter(key: str) -> bool:
    return bool(re.fullmatch("[A-Za-z]", key.strip()))


def _are_letters(keys: Iterable[str]) -> bool:
    names = [key.strip() for key in keys]
    return all(map(is_letter, names)) and len({name.upper() for name in names}) == len(names)


def _folded(key: str) -> str:
    return key.strip().casefold()


def _replaced(text: str, letters: Mapping[str, str]) -> str:
    """The text with the letter of each key that stands alone."""
    if not letters:
        return text
    names = "|".join(re.escape(name) for name in sorted(letters, key=len, reverse=True))
    before, behind = (
        r"(?<![A-Za-z0-9.+'’$^_\\-])(?<![\^_]\{)(?<![0-9][,/])",
        r"(?![A-Za-z0-9'’%^+-]|[.,/][0-9]|\s*(?:[=<>]|\*\s*[0-9A-Za-z]))",
    )
    pattern = f"{before}(?:{names}){behind}{_AFTER}"
    return re.sub(pattern, lambda match: letters[_folded(match[0])], text, flags=re.IGNORECASE)
