"""One spelling for many: LaTeX and plain-text answers rewritten to a canonical string, and exact numbers read from it.

Pure string work in linear time. Nothing here knows of sympy, and nothing here decides that two answers are equal.
"""

import re
from fractions import Fraction

_SYMBOLS = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/",
        "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt", "≤": r"\le ", "≥": r"\ge ", "≠": r"\neq ", "±": r"\pm ", "∓": r"\mp ",
        "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "∈": r"\in ", "°": r"^{\circ}", "θ": r"\theta ", "α": r"\alpha ",
        "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
        "⁰": "^{0}", "¹": "^{1}", "²": "^{2}", "³": "^{3}", "⁴": "^{4}", "⁵": "^{5}", "⁶": "^{6}", "ℝ": r"\mathbb{R}",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "“": '"', "”": '"', "’": "'", "⟨": "(", "⟩": ")",
        "£": r"\$", "€": r"\$", "¥": r"\$", "₹": r"\$", "，": ",", "％": "%", "\t": " ", "\n": " ", "\r": " ",
    }
)
_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|hfill|rm|bf|it|mathstrut)(?![A-Za-z])")
_SPACES = re.compile(r"\\(?:[,;:> ]|q?quad(?![A-Za-z])|enspace|thinspace|hspace\*?\{[^{}]*\}|phantom\{[^{}]*\})|~")
_FRACTIONS = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_FONTS = re.compile(r"\\(?:mathrm|mathbf|mathit|mathsf|bm|boldsymbol|textbf|textit|textrm|textsf|textnormal|mbox|hbox|operatorname\*?)\s*\{")
_DEGREES = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\}|\\degree)|\\(?:degree|textdegree)s?(?![A-Za-z])")
_TRIG = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_PERCENT = re.compile(r"\\%|\b[Pp]er\s?cent(?:age)?(?:\s+points?)?\b|\bpct\b\.?")
_SYNONYMS = [
    (re.compile(r"\\leqslant(?![A-Za-z])|\\leq(?![A-Za-z])|<="), r"\\le "),
    (re.compile(r"\\geqslant(?![A-Za-z])|\\geq(?![A-Za-z])|>="), r"\\ge "),
    (re.compile(r"\\ne(?![A-Za-z])|\\not\s*=|!=|/="), r"\\neq "),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\(?:varnothing|O)(?![A-Za-z])"), r"\\emptyset "),
    (re.compile(r"\\l?dots(?:[cbm](?![A-Za-z]))?(?![A-Za-z])|\\cdots|\.{3}|…"), r"\\ldots "),
    (re.compile(r"\\(?:lbrace|lbrack|rbrace|rbrack|lparen|rparen)(?![A-Za-z])"), lambda m: _BRACKETS[m[0][1:]]),
    (re.compile(r"\\(?:ast|star)(?![A-Za-z])|(?<=[\w)}\s])\*(?!\*)"), r"\\cdot "),
    (re.compile(r"\\(?:lvert|rvert|vert|mid)(?![A-Za-z])"), "|"),
    (re.compile(r"\\(?:imath)(?![A-Za-z])"), "i"),
    (re.compile(r"\\div(?![A-Za-z])"), "/"),
    (re.compile(r"\\(?:langle|lgroup)(?![A-Za-z])"), "("),
    (re.compile(r"\\(?:rangle|rgroup)(?![A-Za-z])"), ")"),
    (re.compile(r"\\\{\s*\\\}"), r"\\emptyset "),
    (re.compile(r"\\[dt]binom(?![A-Za-z])"), r"\\binom"),
    (re.compile(r"(?<![A-Za-z\\])(?:infinity|infty|inf|oo)(?![A-Za-z])"), r"\\infty "),
    (re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])"), r"\\pi "),
    (re.compile(r"\\exp(?![A-Za-z])\s*(?=[({])"), "e^"),
    (re.compile(r"(?<![A-Za-z\\])(sqrt|cbrt|log|ln|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan)(?=\s*[\^({])"), r"\\\1"),
]
_BRACKETS = {"lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")"}
_ZEROS = {"hundred": "2", "thousand": "3", "million": "6", "billion": "9", "trillion": "12"}
_MULTIPLE = re.compile(r"(?<=[0-9])( ?)(?:\\text\{ *)?(hundred|thousand|million|billion|trillion)(?: *\}|(?![a-z]))", re.IGNORECASE)
_PLAIN = re.compile(r"-?[0-9]+", re.ASCII)
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
_NUMBER = re.compile(r"(?P<sign>[+-]?)(?P<whole>[0-9]+(?:,[0-9]{3})*|)(?:\.(?P<part>[0-9]*))?", re.ASCII)
_INFIX = re.compile(r"\{([^{}\\]*(?:\\(?!over|choose)[^{}\\]*)*)\\(over|choose)(?![A-Za-z])([^{}]*)\}")
_REPEATING = re.compile(r"([+-]?)([0-9]*)\.([0-9]*)\\(?:overline|bar|dot)\{?([0-9]+)\}?", re.ASCII)
_RATIO = re.compile(r"([+-]?)(?:\\frac\{([+-]?[0-9]+)\}\{([+-]?[0-9]+)\}|([0-9]+)/([+-]?[0-9]+|\([+-]?[0-9]+\)))", re.ASCII)
_MIXED = re.compile(r"([+-]?)([0-9]+)\s*\\frac\{([0-9]+)\}\{([0-9]+)\}|([+-]?)([0-9]+) ([0-9]+)/([0-9]+)", re.ASCII)
_SCIENTIFIC = re.compile(r"([+-]?[0-9]*\.?[0-9]*)(?:(?:\\times|\\cdot)\s*10\^(?:\{([+-]?[0-9]{1,3})\}|([0-9]))|[eE]([+-]?[0-9]{1,3}))")


def closing(text: str, start: int, limit: int = 1 << 20) -> int:
    """The index of the bracket which closes the one at `start`, or -1; an escaped brace is no bracket here."""
    opener, depth, i = text[start], 0, start
    closer = {"{": "}", "(": ")", "[": "]"}[opener]
    end = min(len(text), start + limit)
    while i < end:
        char = text[i]
        if char == "\\":
            i += 2
            continue
        depth += (char == opener) - (char == closer)
        if depth == 0:
            return i
        i += 1
    return -1


def _argument(text: str, i: int) -> tuple[str, int]:
    """TeX's next argument from `i`: a braced group, a command, or one character."""
    while i < len(text) and text[i] == " ":
        i += 1
    if i >= len(text):
        return "", i
    if text[i] == "{":
        end = closing(text, i)
        return (text[i + 1 : end], end + 1) if end > 0 else ("", len(text))
    command = re.compile(r"\\[A-Za-z]+").match(text, i)
    if command and command[0] != r"\frac" and command[0] != r"\sqrt":
        return command[0], command.end()
    return text[i], i + 1


def _brace_arguments(text: str) -> str:
    r"""`\frac12`, `\sqrt3`, `\sqrt(3)`, `x^(1/2)`: every argument in braces."""
    out, i, heads = [], 0, re.compile(r"\\frac(?![A-Za-z])|\\(?:sqrt|cbrt)(?![A-Za-z])|\^\s*\(")
    while head := heads.search(text, i):
        out.append(text[i : head.start()])
        i = head.end()
        if head[0] == r"\frac":
            top, after = _argument(text, i)
            bottom, after = _argument(text, after)
            if not top or not bottom:
                out.append(head[0])
                continue
            out.append(r"\frac{" + _brace_arguments(top) + "}{" + _brace_arguments(bottom) + "}")
            i = after
        elif head[0][0] == "^":
            end = closing(text, i - 1)
            out.append("^(" if end < 0 else "^{" + _brace_arguments(text[i:end]) + "}")
            i = i if end < 0 else end + 1
        else:
            i = _root(text, i, head[0], out)
    out.append(text[i:])
    return "".join(out)


def _root(text: str, i: int, head: str, out: list[str]) -> int:
    while i < len(text) and text[i] == " ":
        i += 1
    index = "[3]" if head == r"\cbrt" else ""
    if text[i : i + 1] == "[" and (end := closing(text, i)) > 0:
        index, i = text[i : end + 1], end + 1
    if text[i : i + 1] == "(" and (end := closing(text, i)) > 0:
        inside, i = text[i + 1 : end], end + 1
    else:
        digits = re.compile(r"[0-9]+" if "√" in head else r"[0-9]").match(text, i)
        inside, i = (digits[0], digits.end()) if digits else _argument(text, i)
    out.append(r"\sqrt" + ("" if index == "[2]" else index) + "{" + _brace_arguments(inside) + "}")
    return i


def canonical(text: str) -> str:
    """Rewrites an answer to one spelling. Text stays in `\\text{}`; sizes, thin spaces, degrees and currency go."""
    if _PLAIN.fullmatch(text):
        return text
    text = _rows(text.translate(_SYMBOLS))
    text = re.sub(r"\{\s*,\s*\}", ",", text.replace(r"\!", "")).replace(r"\$", " ").replace("$", " ")
    text = _SPACES.sub(" ", _SIZES.sub("", text))
    text = re.sub(r"(?<![0-9.,])([0-9]{1,3})((?: [0-9]{3})+)(?![0-9])", lambda m: m[1] + m[2].replace(" ", ""), text)
    text = _FRACTIONS.sub(r"\\frac", _FONTS.sub(r"\\text{", text))
    text = _degrees(text)
    text = re.sub(r"\\text\{\s*\}", "", re.sub(r"\\text\s*\{\s*\\?%\s*\}", "%", _PERCENT.sub("%", text)))
    text = re.sub(r"\\text\{([^{}]*%)\s*\}", r"\1", text)
    text = _MULTIPLE.sub(lambda m: m[1] + r"\times 10^{" + _ZEROS[m[2].lower()] + "}", text)
    text = text.replace("**", "^")
    for pattern, spelling in _SYNONYMS:
        text = pattern.sub(spelling, text)
    text = _INFIX.sub(lambda m: (r"\frac" if m[2] == "over" else r"\binom") + "{" + m[1] + "}{" + m[3] + "}", text)
    if "\\" not in text:
        text = re.sub(r"\^(-?[0-9]+(?:\.[0-9]+)?)", r"^{\1}", text)
    text = _brace_arguments(text)
    text = re.sub(r"(\^|_)\{([A-Za-z0-9])\}", r"\1\2", text)
    return re.sub(r" +", " ", text).strip().rstrip(".").strip()


def _rows(text: str) -> str:
    """A matrix keeps its row ends, as one character; elsewhere a doubled backslash is an escape too many or a line break."""
    if r"\begin" in text:
        return text.replace(r"\\", "\x01").replace(r"\cr", "\x01")
    return re.sub(r"\\\\(?=[A-Za-z{}%$])", r"\\", text).replace(r"\\", " ")


def thousands(text: str) -> str:
    """`1,234 apples` -> `1234 apples`. A list `1,234` reads the same: both readings are tried."""
    return _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)


def _degrees(text: str) -> str:
    if not _TRIG.search(text):
        return _DEGREES.sub("", text)
    return re.sub(r"([0-9.]+)\s*(?:" + _DEGREES.pattern + ")", r"(\\frac{\1\\pi}{180})", text)


def squeezed(text: str) -> str:
    """A canonical string without the spaces that carry no meaning."""
    if " " not in text:
        return text
    text = re.sub(r"(\\[A-Za-z]+) (?=[A-Za-z])|(?<=[0-9]) (?=[0-9])", lambda m: (m[1] or "") + "\0", text)
    return text.replace(" ", "").replace("\0", " ")


def number(text: str) -> tuple[Fraction, int | None] | None:
    """(value, decimals) of a plain number; `decimals` is None where it is exact: an integer, a fraction."""
    if len(text) > 600:
        return None
    text = text.strip()
    if match := _NUMBER.fullmatch(text):
        return _decimal(match)
    if match := _RATIO.fullmatch(text):
        sign, a, b, c, d = match.groups()
        top, bottom = int(a or c), int((b or d).strip("()"))
        return (Fraction(-top if sign == "-" else top, bottom), None) if bottom else None
    if match := _MIXED.fullmatch(text):
        sign, whole, top, bottom = match.groups()[:4] if match[2] else match.groups()[4:]
        if not int(bottom):
            return None
        value = int(whole) + Fraction(int(top), int(bottom))
        return (-value if sign == "-" else value), None
    if match := _REPEATING.fullmatch(text):
        return _repeating(*match.groups())
    if match := _SCIENTIFIC.fullmatch(squeezed(text)):
        return _scientific(match)
    return None


def _repeating(sign: str, whole: str, part: str, period: str) -> tuple[Fraction, None]:
    value = int(whole or "0") + (int(part or "0") + Fraction(int(period), 10 ** len(period) - 1)) / 10 ** len(part)
    return (-value if sign == "-" else value), None


def _decimal(match: re.Match) -> tuple[Fraction, int | None] | None:
    whole, part = match["whole"].replace(",", ""), match["part"]
    if not whole and not part:
        return None
    value = Fraction(int(whole or "0")) + (Fraction(int(part), 10 ** len(part)) if part else 0)
    return (-value if match["sign"] == "-" else value), (len(part) if part and part.strip("0") else None)


def _scientific(match: re.Match) -> tuple[Fraction, int | None] | None:
    base = _NUMBER.fullmatch(match[1])
    base = base and _decimal(base)
    if not base:
        return None
    power = int(match[2] or match[3] or match[4])
    decimals = None if base[1] is None or base[1] <= power else base[1] - power
    return base[0] * Fraction(10) ** power, decimals
