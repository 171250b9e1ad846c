"""Canonical strings: rewrites LaTeX and plain-text answers to one spelling.

Uses only string operations, in linear time. This module does not use sympy and does not decide whether two answers are equal.
"""

import functools
import re

# Pairs of a Unicode character and its LaTeX spelling.
_CHARACTERS = r"""
× \times ⋅ \cdot · \cdot ÷ / ∕ / ⁄ / π \pi ∞ \infty √ \sqrt ≤ \le ≥ \ge ≠ \neq ± \pm ∓ \mp ∪ \cup ∩ \cap
∅ \emptyset ∈ \in ° ^{\circ} θ \theta α \alpha β \beta ½ \frac{1}{2} ¼ \frac{1}{4} ¾ \frac{3}{4} ⅓ \frac{1}{3} ⅔ \frac{2}{3}
⅕ \frac{1}{5} ⅖ \frac{2}{5} ⅗ \frac{3}{5} ⅘ \frac{4}{5} ⅙ \frac{1}{6} ⅚ \frac{5}{6} ⅛ \frac{1}{8} ⅜ \frac{3}{8} ⅝ \frac{5}{8}
⅞ \frac{7}{8} ∛ \cbrt ℝ \mathbb{R} “ " ” " ’ ' ⟨ ( ⟩ ) £ \$ € \$ ¥ \$ ₹ \$ … \ldots
⇒ \Rightarrow ≈ \approx ≡ \equiv
""".split()  # noqa: SIM905  a list would be ten times as long
_SYMBOLS = str.maketrans(
    {char: text + " " * text.startswith("\\") for char, text in zip(_CHARACTERS[::2], _CHARACTERS[1::2], strict=True)}
    | dict.fromkeys("\t\n\r\u00a0\u2009\u202f", " ")
)
# Unicode variants of ASCII characters: full-width forms and dashes. Characters without width are deleted.
_FOLDS = str.maketrans(
    {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    | dict.fromkeys("‐‑‒–—―−﹣", "-")
    | dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff")
    | {"\u3000": " ", "。": ".", "、": ",", "〈": "(", "〉": ")"}
)
_RAISED, _LOWERED = re.compile("[⁻⁺]?[⁰¹²³⁴-⁹]+"), re.compile("[₀-₉]+")
_LEVEL = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺₀₁₂₃₄₅₆₇₈₉", "0123456789-+0123456789")
# (pattern, replacement, substring), applied in this order. `$E` ends a command's name. Every match contains the substring, so
# that a text without the substring skips the pattern.
_REWRITES = [
    (re.compile(pattern.replace("$E", "(?![A-Za-z])")), spelling, "".join(part))
    for pattern, spelling, *part in [
        (r"(?<=[0-9]) ?(?:\{\s*,\s*\}|,\s*\\!)\s*(?=[0-9]{3}(?![0-9]))", ""),
        (r"\\!\s*", "", "\\!"),
        (r"\{\s*,\s*\}", ",", ","),
        (r"\\?\$|\\[\[\]()]", " "),
        (r"\\(?:text)?color\s*\{[A-Za-z0-9!]*\}|\\underline$E|\\(?:tiny|small|large|Large|LARGE|huge|Huge|normalsize)$E", ""),
        (r"\\(?:checkmark|blacksquare|square|qed)$E(?=[\s.}]*\Z)", ""),
        (r"\\[ns](?:ice)?frac$E", r"\\frac", "frac"),
        (r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|(?:no)?limits|hfill|rm|bf|it|mathstrut|boxed)$E", ""),
        (r"\\(?:[,;:> ]|q?quad(?![A-Za-z]{2})|(?:enspace|thinspace)$E|hspace\*?\{[^{}]*\}|phantom\s*(?:\{[^{}]*\}|-))|~", " "),
        (r"(?<![0-9.,])[0-9]{1,3}(?: [0-9]{3})+(?![0-9])", lambda match: match[0].replace(" ", "")),
        (r"\\[dtc]frac$E", r"\\frac", "frac"),
        (r"\\(?:math(?:rm|bf|it|sf)|bm|boldsymbol|text(?:bf|it|rm|sf|normal)|[mh]box|operatorname\*?)\s*\{", r"\\text{"),
        (r"\\%|(?:\b(?:as an?|in)\s+)?\b[Pp]er\s?cent(?:age)?s?(?:\s+points?)?\b|\bpct\b\.?", "%"),
        (r"\\text\s*\{[\s(-]*%[\s)]*\}|(?<=[0-9}])\s*\(\s*%\s*\)", "%", "%"),
        (r"^\s*%\s*[=:](?=\s*[0-9.\\-])|%\s*(?=%)", "", "%"),
        (r"(?<=[0-9)}])\s*%\s*([0-9]+)(?=\s*=)", r"\\bmod{\1}", "%"),
        (r"\\text\s*\{\s*\}", "", "text"),
        (r"\\text\{([^{}]*%)\s*\}", r"\1", "%"),
        (
            r"\\pmod\s*\{?\s*([0-9]+|[A-Za-z])\s*\}?|\(\s*(?:\\text\{\s*)?\\?b?mod(?:ulo)?\s*\}?\s*\{?([0-9]+)\}?\s*\)",
            r"\\pmod{\1\2}",
        ),
        (r"\\text\{\s*\(mod(?:ulo)?\s*([0-9]+)\)\s*\}", r"\\pmod{\1}", "mod"),
        (r"\\pmod(?!\{[0-9A-Za-z]+\})\s*(?:\{[^{}]*\}|[0-9])", "", "mod"),
        (
            r"(?<![A-Za-z])(?:\\b?mod$E|\\text\{\s*mod(?:ulo)?\s*\}|(?<=\s)mod(?:ulo)?(?=\s))\s*\{?([0-9]+)\}?",
            r"\\bmod{\1}",
            "mod",
        ),
        (
            r"\\bmod(\{[0-9]+\})\s*\Z",
            lambda match: ("\\pmod" if _EQUALS.search(match.string, 0, match.start()) else "\\bmod") + match[1],
            "mod",
        ),
        (r"\*\*", "^", "**"),
        (r"(?<=[0-9]) ?x ?(?=10\^)", r"\\times "),
        (r"\\leq(?:slant)?$E|<=", r"\\le "),
        (r"\\geq(?:slant)?$E|>=", r"\\ge "),
        (r"\\ne$E|\\not\s*=|(?<![0-9)])!=|/=", r"\\neq "),
        (r"\\lt$E", "<", "lt"),
        (r"\\gt$E", ">", "gt"),
        (r"\\(?:varnothing|O)$E|\\\{\s*\\\}", r"\\emptyset "),
        (r"\\(?:l|c)?dots[cbm]?$E|\.{3}", r"\\ldots "),
        (r"\\(?:langle|lgroup|lparen)$E", "("),
        (r"\\(?:rangle|rgroup|rparen)$E", ")"),
        (r"\\lbrack$E", "[", "lbrack"),
        (r"\\rbrack$E", "]", "rbrack"),
        (r"\\lbrace$E", r"\\{", "lbrace"),
        (r"\\rbrace$E", r"\\}", "rbrace"),
        (r"\\(?:ast|star)$E|(?<=[\w)}\s])\*", r"\\cdot "),
        (r"\\(?:[lr]?vert|mid)$E", "|"),
        (r"\\imath$E", "i", "imath"),
        (r"\\div$E", "/", "div"),
        (r"\\equiv$E", "=", "equiv"),
        (r"(?:\\text\{\s*)?\b[Aa]ll real(?: number)?s\b(?:\s*\})?|\\mathbb\s*\{?R\}?$E|\\R$E", r"(-\\infty,\\infty)"),
        (r"\\[dt]binom$E", r"\\binom", "binom"),
        (r"(?<![A-Za-z\\])(?:infinity|infty|inf|oo)$E", r"\\infty "),
        (r"(?<![A-Za-z\\])pi$E", r"\\pi ", "pi"),
        (r"\\exp$E\s*(?=[({])", "e^", "exp"),
        (r"(?<![A-Za-z\\])(sqrt|cbrt|log|ln|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan)(?=\s*[\^({])", r"\\\1"),
        (r"\{([^{}\\]*(?:\\(?!over|choose)[^{}\\]*)*)\\over$E([^{}]*)\}", r"\\frac{\1}{\2}", "over"),
        (r"\{([^{}\\]*(?:\\(?!over|choose)[^{}\\]*)*)\\choose$E([^{}]*)\}", r"\\binom{\1}{\2}", "choose"),
    ]
]
_EQUALS = re.compile(r"=|\\equiv(?![A-Za-z])")
_ALIGNED = re.compile(r"\\(?:begin|end)\{(?:align(?:ed)?|split|gather(?:ed)?|equation)\*?\}")
_PLAIN_MATRIX = re.compile(r"\\([pbBv]?matrix)\s*\{((?:[^{}]|\{[^{}]*\})*)\}")  # \pmatrix{1 & 2 \cr 3 & 4}
_HLINE = re.compile(r"\\hline(?![A-Za-z])")
_COLUMNS = re.compile(r"\\begin\{array\}\s*\{(?=[^{}]*\{)(?:[^{}]|\{[^{}]*\})*\}")  # \begin{array}{*{20}{c}}
_TURNED = re.compile(r"([\[\]])([^\[\](),;]+[,;][^\[\](),;]+)([\[\]])")
_DEGREE = r"(?:(?<=[0-9])\^\s*(?:o|\{o\})(?![A-Za-z])"
_DEGREE += r"|\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\}|\\degree)|\\(?:text)?degrees?(?![A-Za-z]))"
_DEGREES, _ANGLE = re.compile(_DEGREE), re.compile(rf"([0-9.]+)\s*{_DEGREE}")
_TRIG = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_ZEROS = {"hundred": "2", "thousand": "3", "million": "6", "billion": "9", "trillion": "12"}
_MULTIPLE = re.compile(
    r"(?<=[0-9]) ?(?:\\text\{ *)?(hundred|thousand|million|billion|trillion)(?: *\}|(?![a-z]))", re.IGNORECASE
)
_LABEL = re.compile(
    r"(?:the\s+)?(?:(?:final|correct|total|whole|exact)\s+)*(?:answer|solution|result|total|value|sum|area|volume|probability|length"
    r"|remainder|quotient|percentage)"
    r"\s*(?::|=|\bis\b:?|\bequals\b)\s*",
    re.IGNORECASE,
)
_SENTENCE = re.compile(
    r"\\text\{\s*(?:The|So|Thus|Therefore|Hence)\b[^{}]*\}(?:(?!\bnot\b).)*\\text\{(?:(?!\bnot\b)[^{}])*\b(?:is|equals):?\s*\}\s*(?=\S)"
)
_NEGATIVE = re.compile(r"(?:\\text\{\s*)?\b(?:negative|minus)\s*\}?\s*(?=[0-9.\\])", re.IGNORECASE)
_CURRENCY = re.compile(r"(?:\\text\{\s*)?\b(?:USD|EUR|GBP|INR|CNY|RMB|US|Rs)\b\.?\s*\}?\s*(?=[0-9.\\$])")
_ONES = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS = {word: str(number) for number, word in enumerate(["zero", *_ONES.split(), "seventeen", "eighteen", "nineteen"])} | {
    ten + (joint + one if one else ""): str(10 * tens + ones)
    for tens, ten in enumerate(_TENS.split(), 2)
    for ones, one in enumerate(["", *_ONES.split()[:9]])
    for joint in "- "
}
_PLAIN = re.compile(r"-?[0-9]+", re.ASCII)
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]|,[0-9])")
_HEADS = re.compile(r"\^\s*(?=\\(?:frac|sqrt))|\\frac(?![A-Za-z])|\\(?:sqrt|cbrt)(?![A-Za-z])|\^\s*\(")
_COMMAND = re.compile(r"\\(?!frac|sqrt)[A-Za-z]+")


@functools.lru_cache(1 << 16)
def canonical(text: str) -> str:
    """Rewrites an answer to one spelling. Words stay in `\\text{}`. Removes sizes, thin spaces, degree and currency signs."""
    if _PLAIN.fullmatch(text):
        return text
    text = _rows(_levels(folded(text)).translate(_SYMBOLS))
    text = _unwrapped(text.strip())
    for pattern, spelling, part in _REWRITES:
        if part in text:
            text = pattern.sub(spelling, text)
    text = _ANGLE.sub(r"(\\frac{\1\\pi}{180})", text) if _TRIG.search(text) else _DEGREES.sub(" ", text)
    text = _MULTIPLE.sub(lambda match: r"\times 10^{" + _ZEROS[match[1].lower()] + "}", text)
    if text[:1] == "]" or text[-1:] == "[":  # `]2,5[` is `(2,5)`
        text = _TURNED.sub(lambda match: "[("[match[1] == "]"] + match[2] + "])"[match[3] == "["], text)
    if "\\" not in text:  # plain `x^10` has the exponent 10; in TeX the exponent would be 1
        text = re.sub(r"\^(-?[0-9]+(?:\.[0-9]+)?)", r"^{\1}", text)
    text = re.sub(r"(\^|_)\{([A-Za-z0-9])\}(?! ?[A-Za-z0-9])", r"\1\2", _brace_arguments(text))
    return re.sub(r" +", " ", text).strip().rstrip(".").strip()


def radians(text: str) -> str:
    """`30^\\circ` -> `(\\frac{30\\pi}{180})`, for comparing degrees with radians."""
    return _ANGLE.sub(r"(\\frac{\1\\pi}{180})", text.replace("°", r"^\circ"))


def _rows(text: str) -> str:
    """Marks row ends of a matrix with the character 1. Elsewhere a double backslash is a redundant escape or a line break."""
    if _ALIGNED.search(text):
        text = _ALIGNED.sub("", text).replace("&", "")
    text = _HLINE.sub("", _PLAIN_MATRIX.sub(r"\\begin{\1}\2\\end{\1}", text)) if "matrix" in text or "array" in text else text
    if r"\begin" in text:
        text = _COLUMNS.sub(r"\\begin{array}{c}", text.replace("{smallmatrix}", "{matrix}"))
        return text.replace(r"\\", "\x01").replace(r"\cr", "\x01")
    return re.sub(r"\\\\(?=[A-Za-z{}%$])", r"\\", text).replace(r"\\", " ")


def folded(text: str) -> str:
    """Replaces full-width characters and dashes by ASCII characters, and deletes characters without width."""
    return text if text.isascii() else text.translate(_FOLDS)


def _levels(text: str) -> str:
    """`x¹⁰` -> `x^{10}`, `a₁` -> `a_{1}`."""
    if text.isascii():
        return text
    text = _RAISED.sub(lambda match: "^{" + match[0].translate(_LEVEL) + "}", text)
    return _LOWERED.sub(lambda match: "_{" + match[0].translate(_LEVEL) + "}", text)


def _unwrapped(text: str) -> str:
    """Removes quotes, stars and labels around an answer: `**15**`, `"15"`, `\\text{Answer: }15`."""
    for mark in ("**", '"', "`", "'"):
        if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark) and text.count(mark) == 2:
            text = text[len(mark) : -len(mark)].strip()
    if text.startswith(r"\text{") and (end := closing(text, 5)) > 0:
        inside, rest = text[6:end].strip(), text[end + 1 :].strip()
        if sentence := _SENTENCE.match(text):
            return text[sentence.end() :]
        if rest and _LABEL.fullmatch(inside):
            return rest
        if not rest and (label := _LABEL.match(inside)) and label.end() < len(inside):
            return inside[label.end() :].strip()
    elif (label := _LABEL.match(text)) and "=" not in label[0]:
        return text[label.end() :].strip() or text
    if _NEGATIVE.match(text) or _CURRENCY.match(text):
        return _NEGATIVE.sub("-", _CURRENCY.sub("", text, count=1), count=1)
    return _WORDS.get(text.removeprefix(r"\text{").removesuffix("}").strip().lower(), text)


def thousands(text: str) -> str:
    """`1,234 apples` -> `1234 apples`. `1,234` may also be a list, so `equality.equal_texts` tries both readings."""
    return _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)


def squeezed(text: str) -> str:
    """A canonical string without the spaces that carry no meaning."""
    if " " not in text:
        return text
    text = re.sub(r"(\\[A-Za-z]+) (?=[A-Za-z])|(?<=[0-9]) (?=[0-9])", lambda m: (m[1] or "") + "\0", text)
    return text.replace(" ", "").replace("\0", " ")


def closing(text: str, start: int, limit: int = 1 << 20) -> int:
    """The index of the bracket that closes the one at `start`, or -1. Escaped braces are not counted as brackets."""
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
    if command := _COMMAND.match(text, i):
        return command[0], command.end()
    return text[i], i + 1


def _argument_end(text: str, i: int) -> int:
    r"""The index after the bare `\frac` or `\sqrt` at `i` and its arguments."""
    arguments = 2 if text.startswith(r"\frac", i) else 1
    i += 5
    if arguments == 1 and text[i : i + 1] == "[":
        i = max(i, closing(text, i) + 1)
    for _ in range(arguments):
        i = _argument(text, i)[1]
    return i


def _brace_arguments(text: str) -> str:
    r"""Puts arguments in braces: `\frac12`, `\sqrt3`, `\sqrt(3)`, `x^(1/2)`."""
    out, i = [], 0
    while head := _HEADS.search(text, i):
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
        elif head[0].rstrip() == "^":
            end = _argument_end(text, i)
            out.append("^{" + _brace_arguments(text[i:end]) + "}")
            i = end
        elif head[0][0] == "^":
            end = closing(text, i - 1)
            out.append("^(" if end < 0 else "^{" + _brace_arguments(text[i:end]) + "}")
            i = i if end < 0 else end + 1
        else:
            i = _root(text, i, head[0], out)
    out.append(text[i:])
    return "".join(out)


def _root(text: str, i: int, head: str, out: list[str]) -> int:
    r"""Appends to `out` the root whose index or argument starts at `i`; returns the index after it."""
    while i < len(text) and text[i] == " ":
        i += 1
    index = "[3]" if head == r"\cbrt" else ""
    if text[i : i + 1] == "[" and (end := closing(text, i)) > 0:
        index, i = text[i : end + 1], end + 1
    if text[i : i + 1] == "(" and (end := closing(text, i)) > 0:
        inside, i = text[i + 1 : end], end + 1
    else:
        inside, i = _argument(text, i)
    out.append(r"\sqrt" + ("" if index == "[2]" else index) + "{" + _brace_arguments(inside) + "}")
    return i
