"""Units after a number: detected, split off, and compared if both answers name a known unit."""

import re

from pubswap_jax.verifier.pattern import Pattern

_TEXT = r"\\text\s*\{[^{}]*\}(?:\s*\^\{?-?[0-9]\}?)?"
_TEXT_UNIT = Pattern(
    rf"{_TEXT}(?:\s*(?:/|\\cdot)?\s*{_TEXT})*$",
    matches=[r"15\text{ cm}", r"15\text{m}^2", r"3 \text{m}\cdot\text{s}^{-1}", r"\text{km}/\text{h}"],
    not_=[r"\text{cm} 5", "5 cm"],
)
# A second number inside the words: `2\text{ hours 30 minutes}` has no unit that could be split off.
_SECOND_COUNT = Pattern(
    r"\{[^{}]*(?:^|[\s(,{])[0-9]",
    matches=[r"\text{ hours 30 minutes}", "{ 2 cm}", "{(5)}"],
    not_=[r"\text{ hours}", r"\text{cm}^2", "{m2}"],
)
_TOP, _BELOW = (
    r"(?:[cmk]?m|km|mi|miles?|ft|feet|in|k?g|mg|m?[lL]|dollars?|J|N|C)",
    r"(?:s|sec|seconds?|min|minutes?|h|hr|hours?|days?|m|[ck]m|m?L)",
)
_FRACTION_UNIT = Pattern(
    rf"(?<=[0-9}}])\s*\\frac\{{\s*(?:\\text\{{\s*)?({_TOP})\s*\}}?\s*\}}"
    rf"\{{\s*(?:\\text\{{\s*)?({_BELOW})\s*\}}?\s*(\^\{{?[23]\}}?)?\s*\}}$",
    matches=[r"15\frac{m}{s}", r"9.8\frac{\text{m}}{\text{s}^2}", r"5 \frac{dollars}{hour}"],
    not_=[r"15\frac{x}{y}", r"\frac{m}{s}", r"15\frac{m}{s}+1"],
)
_LENGTHS = ("m", "cm", "mm", "km", "ft", "in", "sq")
_SHORT = r"(?:[cmkd]?m|k?g|mg|sq|s|h|hr|ft|in|mi|lb|oz|m?[lL]|[JNWVCFK]|k[JNW]|mph|yd|M?Hz|Pa|eV|by|of)"
_WORD = rf"(?:[A-Za-z]{{3,}}|{_SHORT}(?![A-Za-z]))\.?"
_BARE_UNIT = Pattern(
    rf"(?<=[0-9}})i])(?:\s*[AaPp]\.?\s?[Mm]\.?$|(?:\s+{_WORD}|\s*(?:[cmk]m|kg|mph|ft|lbs?|hrs?|mins?|secs?))"
    rf"(?:(?:\s+|/){_WORD}){{0,3}}(?:\s*\^\{{?[23]\}}?)?$)",
    matches=["5 cm", "60 miles per hour", "12:30 p.m.", "5cm", "15 m/s", "4 cm^2"],
    not_=["5 x", "cm", "5x", "x apples"],
)
# A unit that may follow a number without a space: `60km`, `9.8m/s^2`, `3hours`. The letters of `5x`, `12k`, `20i` and `3e` are
# variables or constants, not units.
_GLUED_UNIT = (
    r"(?:[cmkdnu]?m|[km]?g|[cmd]?[lL]|k?[JNW]|[km]?[VA]|[kMG]?Hz|k?Pa|kWh|eV|ft|in|yd|mi|lbs?|oz|s|h|hrs?|ms|mins?|secs?|yrs?|pts?|mph|kph|mol"
    r"|hours?|minutes?|seconds?|days?|weeks?|months?|years?|cents?|dollars?|euros?|inch(?:es)?|feet|foot|miles?|met(?:er|re)s?"
    r"|grams?|lit(?:er|re)s?|pounds?|points?|(?!alpha|beta|gamma|delta|theta|lambda|omega|sqrt)[a-z]{4,})"
)
_GLUED_POWER = r"(?:\^?[23]|\^\{[23]\}|[²³])?"
_NUMBER_AND_UNIT = Pattern(
    rf"([-+]?[$£€]?[0-9][0-9,]*(?:\.[0-9]+)?)({_GLUED_UNIT}{_GLUED_POWER}(?:/{_GLUED_UNIT}{_GLUED_POWER})?)\.?",
    re.ASCII,
    matches=["500g", "9.8m/s^2", "-40km/h", "3hours", "25cm²", "1,000kg."],
    not_=["5x", "12k", "3e", "500 g", "2alpha"],
    by=re.Pattern.fullmatch,
)
_BASE = Pattern(
    r"\(?(-?[0-9A-F]+)\)?(?:_(?:([0-9])|\{(?:\\text\{)?([a-z0-9]+)\}?\})|\s*\\text\{\s*\(?base\s*([a-z0-9]+)\)?\s*\}"
    r"|\s*\\text\{\s*\(?base\s*\}\s*([0-9]+)|\s+\(?base\s+([a-z0-9]+)\)?)",
    re.ASCII,
    matches=["1210_5", "1A_{16}", r"1010_{\text{two}}", r"101\text{ (base 2)}", "12 base 5", "(1010)_2"],
    not_=["x_5", "1210", "12 based 5", "1210_5+1"],
    by=re.Pattern.fullmatch,
)
_BASES = {
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
    "twelve": "12",
    "sixteen": "16",
}
_QUANTITY = Pattern(
    r"[+-]?(?:[0-9][0-9.,:]*(?:\s?/\s?[0-9]+)?)?\s*(?:\\frac\{[0-9]+\}\{[0-9]+\})?(?<=[0-9}])\s*(?:\\sqrt\{[0-9]+\}|\\pi(?![A-Za-z]))*\s*[A-Za-z]",
    matches=["5 cm", "1/2 hour", r"6\sqrt{5} m", r"\frac{1}{2} cup", "12:30 pm"],
    not_=["n apples", "cm", "5", "5+x"],
    by=re.Pattern.match,
)
_ORDINAL = Pattern(
    r"(?<=[0-9])(?:\s*\\text\{\s*(?:st|nd|rd|th)\s*\}|\^\{?\\text\{\s*(?:st|nd|rd|th)\s*\}\}?|st|nd|rd|th)$",
    matches=["3rd", r"3\text{ rd }", r"4^{\text{th}}", "21st"],
    not_=["third", "nth", "3r", "3rd x"],
)
# Words that never belong to a unit: `5 or`, `5 million`, `5 squared`.
_NOT_UNITS = frozenset(
    """
    is are was not no nor but and or if when where then than it to wrong right false true incorrect except unless only either
    neither plus minus times divided over choose mod modulo base maybe perhaps possibly approximately about more less greater
    fewer million billion thousand hundred trillion dozen half quarter dozens i e x y z n pi for some any all integer integers
    even odd both none unknown undefined also actually instead thus hence because since let so
    squared cubed factorial halves third thirds fourth fourths fifth fifths sixth sixths tenth tenths hundredth hundredths
    thousandth thousandths power double twice triple multiplied exponent reciprocal inverse below above under negative rejected
    fails fail extraneous cannot impossible invalid excluded discarded ruled doesn does isn don won never error mistake untrue
    """.split()  # noqa: SIM905  a list would be ten times as long
)
_SAME = {
    name: line.split()[0]
    for line in """
        m metre meter metres meters
        cm centimetre centimeter centimetres centimeters
        mm millimetre millimeter millimetres millimeters
        km kilometre kilometer kilometres kilometers
        ft foot feet
        in inch inches
        mi mile miles
        yd yard yards
        s sec secs second seconds
        min mins minute minutes
        h hr hrs hour hours
        day days
        week weeks
        month months
        year years
        g gram grams
        kg kilogram kilograms
        cent cents
        dollar dollars
        am
        pm
    """.strip().splitlines()
    for name in line.split()
}


def split_unit(text: str) -> tuple[str, str]:
    """Splits `15\\text{ cm}^2` into (`15`, `cm^2`). Without a unit, the second text is empty. A base is a unit: `1210_5`."""
    if base := _BASE.fullmatch(text):
        name = next(group for group in base.groups()[1:] if group)
        return base[1], f"base {_BASES.get(name, name)}"
    if ordinal := _ORDINAL.search(text):
        return text[: ordinal.start()].strip(), "th"
    quotient = _FRACTION_UNIT.search(text)
    if quotient and not _FRACTION_UNIT.search(text, 0, quotient.start()):
        return text[: quotient.start()].strip(), f"{quotient[1]}/{quotient[2]}{quotient[3] or ''}"
    match = _TEXT_UNIT.search(text) or (_BARE_UNIT.search(text) if _number_before(text) else None)
    if not match or not (core := text[: match.start()].strip().rstrip(" \\")):
        return text, ""
    words = re.findall(r"[A-Za-z]+", re.sub(r"\\(?:text|cdot)", "", match[0]))
    if words and core.endswith(r"\pi") and len(words[0]) < 3 and words[0] not in _LENGTHS:
        return text, ""  # `2\pi hr` is a product
    if (
        not words
        or len(words) > 5
        or _SECOND_COUNT.search(match[0])
        or any(word.lower() in _NOT_UNITS for word in words)
        or core[-1] in "+-*/^_=<>(,"
    ):
        return text, ""
    power = re.search(r"\^\{?(-?[0-9])\}?$", match[0])
    return core, " ".join(words) + (f"^{power[1]}" if power else "")


def unglued(text: str) -> str:
    """`500g` -> `500 g`: separates a number from a unit written without a space. Other texts are returned unchanged."""
    match = _NUMBER_AND_UNIT.fullmatch(text.strip(" *"))
    return f"{match[1]} {match[2]}" if match else text


def _number_before(text: str) -> bool:
    """Whether a number starts the text, as in `5 cm` but not in `n apples`. Bare words are a unit only after a number."""
    return bool(_QUANTITY.match(text))


def conflict(one: str, other: str) -> bool:
    """Whether two units are both known and differ: 5 cm is not 5 m, 5 cm^2 is not 5 cm^3, 12 in base 5 is not 12 in base 6."""
    if any(one.startswith(kind) and other.startswith(kind) for kind in ("base ", "mod ")):
        return one != other
    (name, _, power), (name_too, _, power_too) = one.partition("^"), other.partition("^")
    known, known_too = (_SAME.get(unit.lower().replace(" ", "")) for unit in (name, name_too))
    if power and power_too and power.strip("-") != power_too.strip("-"):  # m/s^2 is m s^{-2}
        return True
    return bool(known and known_too and known != known_too)
