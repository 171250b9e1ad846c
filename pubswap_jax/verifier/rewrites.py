"""The table of rewrites by which `notation.canonical` brings LaTeX and plain text to one spelling."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from pubswap_jax.verifier.pattern import Pattern

EQUALS = Pattern(r"=|\\equiv(?![A-Za-z])", matches=["=", r"\equiv 3"], not_=[r"\equivalent", "3"])


class Rewrite(NamedTuple):
    """Replaces every match of `pattern` by `spelling`. Every match contains `needs`, so other texts skip the pattern.

    `examples` maps texts to their rewritten texts. A text that maps to itself is a counterexample.
    """

    pattern: re.Pattern
    spelling: str | Callable[[re.Match], str]
    needs: str
    examples: Mapping[str, str]


def _rewrite(regex: str, spelling, examples: Mapping[str, str], needs: str = "") -> Rewrite:
    """A `Rewrite` from the text of a regular expression, in which `$E` stands for the end of a command's name."""
    return Rewrite(re.compile(regex.replace("$E", "(?![A-Za-z])")), spelling, needs, examples)


# Applied in this order.
REWRITES = (
    _rewrite(
        r"(?<=[0-9]) ?(?:\{\s*,\s*\}|,\s*\\!)\s*(?=[0-9]{3}(?![0-9]))",
        "",
        {"1{,}234": "1234", r"1,\!234": "1234", "{,}5": "{,}5"},
    ),
    _rewrite(r"\\!\s*", "", {r"1\! 2": "12", r"\alpha!": r"\alpha!"}, needs="\\!"),
    _rewrite(r"\{\s*,\s*\}", ",", {"a{ , }b": "a,b", "{,x}": "{,x}"}, needs=","),
    _rewrite(r"\\?\$|\\[\[\]()]", " ", {r"\$5$": " 5 ", r"\(x\)": " x ", "(x)": "(x)"}),
    _rewrite(
        r"\\(?:text)?color\s*\{[A-Za-z0-9!]*\}|\\underline$E|\\(?:tiny|small|large|Large|LARGE|huge|Huge|normalsize)$E",
        "",
        {r"\color{red}5": "5", r"\underline{x}": "{x}", r"\largest": r"\largest"},
    ),
    _rewrite(
        r"\\(?:checkmark|blacksquare|square|qed)$E(?=[\s.}]*\Z)",
        "",
        {r"5\checkmark": "5", r"5 \square}": "5 }", r"\square x": r"\square x"},
    ),
    _rewrite(
        r"\\[ns](?:ice)?frac$E",
        r"\\frac",
        {r"\nicefrac12": r"\frac12", r"\sfrac{1}{2}": r"\frac{1}{2}", r"\fraction": r"\fraction"},
        needs="frac",
    ),
    _rewrite(
        r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|(?:no)?limits|hfill|rm|bf|it|mathstrut|boxed)$E",
        "",
        {r"\left(x\bigg)": "(x)", r"\boxed{5}": "{5}", r"\leftarrow": r"\leftarrow", r"\bigcup": r"\bigcup"},
    ),
    _rewrite(
        r"\\(?:[,;:> ]|q?quad(?![A-Za-z]{2})|(?:enspace|thinspace)$E|hspace\*?\{[^{}]*\}|phantom\s*(?:\{[^{}]*\}|-))|~",
        " ",
        {r"a\,b~c\qquad d": "a b c  d", r"5\phantom{00}": "5 ", r"\hspace{1cm}x": " x", r"\quadratic": r"\quadratic"},
    ),
    _rewrite(
        r"(?<![0-9.,])[0-9]{1,3}(?: [0-9]{3})+(?![0-9])",
        lambda match: match[0].replace(" ", ""),
        {"12 345 678": "12345678", "1234 567": "1234 567", "1 23": "1 23"},
    ),
    _rewrite(
        r"\\[dtc]frac$E",
        r"\\frac",
        {r"\dfrac{1}{2}": r"\frac{1}{2}", r"\tfrac12": r"\frac12", r"\dfraction": r"\dfraction"},
        needs="frac",
    ),
    _rewrite(
        r"\\(?:math(?:rm|bf|it|sf)|bm|boldsymbol|text(?:bf|it|rm|sf|normal)|[mh]box|operatorname\*?)\s*\{",
        r"\\text{",
        {
            r"\mathrm{cm}": r"\text{cm}",
            r"\operatorname*{max}": r"\text{max}",
            r"\mbox {x}": r"\text{x}",
            r"\mathbb{R}": r"\mathbb{R}",
        },
    ),
    _rewrite(
        r"\\%|(?:\b(?:as an?|in)\s+)?\b[Pp]er\s?cent(?:age)?s?(?:\s+points?)?\b|\bpct\b\.?",
        "%",
        {r"5\%": "5%", "5 percent": "5 %", "65 as a percentage": "65 %", "percentile": "percentile"},
    ),
    _rewrite(
        r"\\text\s*\{[\s(-]*%[\s)]*\}|(?<=[0-9}])\s*\(\s*%\s*\)",
        "%",
        {r"5\text{ (%)}": "5%", "5 (%)": "5%", "(%)": "(%)"},
        needs="%",
    ),
    _rewrite(r"^\s*%\s*[=:](?=\s*[0-9.\\-])|%\s*(?=%)", "", {"% = 5": " 5", "5% %": "5%", "% of": "% of"}, needs="%"),
    _rewrite(r"(?<=[0-9)}])\s*%\s*([0-9]+)(?=\s*=)", r"\\bmod{\1}", {"17%5 = 2": r"17\bmod{5} = 2", "17%5": "17%5"}, needs="%"),
    _rewrite(r"\\text\s*\{\s*\}", "", {r"5\text{ }": "5", r"\text{x}": r"\text{x}"}, needs="text"),
    _rewrite(r"\\text\{([^{}]*%)\s*\}", r"\1", {r"\text{5 %}": "5 %", r"\text{% of}": r"\text{% of}"}, needs="%"),
    _rewrite(
        r"\\pmod\s*\{?\s*([0-9]+|[A-Za-z])\s*\}?|\(\s*(?:\\text\{\s*)?\\?b?mod(?:ulo)?\s*\}?\s*\{?([0-9]+)\}?\s*\)",
        r"\\pmod{\1\2}",
        {
            r"3 \pmod 7": r"3 \pmod{7}",
            r"3 (\bmod 7)": r"3 \pmod{7}",
            r"3 (\text{mod }7)": r"3 \pmod{7}",
            "(model 7)": "(model 7)",
        },
    ),
    _rewrite(
        r"\\text\{\s*\(mod(?:ulo)?\s*([0-9]+)\)\s*\}",
        r"\\pmod{\1}",
        {r"3\text{ (mod 7)}": r"3\pmod{7}", r"\text{(model 7)}": r"\text{(model 7)}"},
        needs="mod",
    ),
    _rewrite(
        r"\\pmod(?!\{[0-9A-Za-z]+\})\s*(?:\{[^{}]*\}|[0-9])",
        "",
        {r"3 \pmod{x+1}": "3 ", r"3 \pmod{7}": r"3 \pmod{7}"},
        needs="mod",
    ),
    _rewrite(
        r"(?<![A-Za-z])(?:\\b?mod$E|\\text\{\s*mod(?:ulo)?\s*\}|(?<=\s)mod(?:ulo)?(?=\s))\s*\{?([0-9]+)\}?",
        r"\\bmod{\1}",
        {r"17 \mod 5": r"17 \bmod{5}", "17 mod 5": r"17 \bmod{5}", "model 5": "model 5"},
        needs="mod",
    ),
    _rewrite(
        r"\\bmod(\{[0-9]+\})\s*\Z",
        lambda match: ("\\pmod" if EQUALS.search(match.string, 0, match.start()) else "\\bmod") + match[1],
        {r"n=2 \bmod{5}": r"n=2 \pmod{5}", r"17 \bmod{5}": r"17 \bmod{5}", r"\bmod{5}=2": r"\bmod{5}=2"},
        needs="mod",
    ),
    _rewrite(r"\*\*", "^", {"x**2": "x^2", "x*2": "x*2"}, needs="**"),
    _rewrite(r"(?<=[0-9]) ?x ?(?=10\^)", r"\\times ", {"3 x 10^5": r"3\times 10^5", "x 10^5": "x 10^5"}),
    _rewrite(r"\\leq(?:slant)?$E|<=", r"\\le ", {r"x\leq 3": r"x\le  3", "x<=3": r"x\le 3", r"\left": r"\left"}),
    _rewrite(r"\\geq(?:slant)?$E|>=", r"\\ge ", {r"x\geqslant 3": r"x\ge  3", "x>=3": r"x\ge 3", "x>3": "x>3"}),
    _rewrite(
        r"\\ne$E|\\not\s*=|(?<![0-9)])!=|/=",
        r"\\neq ",
        {r"x\ne 3": r"x\neq  3", r"x\not= 3": r"x\neq  3", "x!=3": r"x\neq 3", "3!=6": "3!=6"},
    ),
    _rewrite(r"\\lt$E", "<", {r"x\lt 3": "x< 3", r"\ltimes": r"\ltimes"}, needs="lt"),
    _rewrite(r"\\gt$E", ">", {r"x\gt 3": "x> 3", r"\gtr": r"\gtr"}, needs="gt"),
    _rewrite(
        r"\\(?:varnothing|O)$E|\\\{\s*\\\}",
        r"\\emptyset ",
        {r"\varnothing": r"\emptyset ", r"\{ \}": r"\emptyset ", r"\Omega": r"\Omega"},
    ),
    _rewrite(
        r"\\(?:l|c)?dots[cbm]?$E|\.{3}", r"\\ldots ", {r"1,\dots,5": r"1,\ldots ,5", "1, ...": r"1, \ldots ", "1.5": "1.5"}
    ),
    _rewrite(r"\\(?:langle|lgroup|lparen)$E", "(", {r"\langle 1,2": "( 1,2", r"\lparen 1": "( 1"}),
    _rewrite(r"\\(?:rangle|rgroup|rparen)$E", ")", {r"1,2\rangle": "1,2)", r"1\rparen": "1)"}),
    _rewrite(r"\\lbrack$E", "[", {r"\lbrack 1": "[ 1", r"\lbracket": r"\lbracket"}, needs="lbrack"),
    _rewrite(r"\\rbrack$E", "]", {r"1\rbrack": "1]", r"\rbracket": r"\rbracket"}, needs="rbrack"),
    _rewrite(r"\\lbrace$E", r"\\{", {r"\lbrace 1": r"\{ 1", r"\lbraces": r"\lbraces"}, needs="lbrace"),
    _rewrite(r"\\rbrace$E", r"\\}", {r"1\rbrace": r"1\}", r"\rbraces": r"\rbraces"}, needs="rbrace"),
    _rewrite(r"\\(?:ast|star)$E|(?<=[\w)}\s])\*", r"\\cdot ", {r"a\ast b": r"a\cdot  b", "2*3": r"2\cdot 3", "*5": "*5"}),
    _rewrite(r"\\(?:[lr]?vert|mid)$E", "|", {r"\lvert x\rvert": "| x|", r"x\mid y": "x| y", r"\middle": r"\middle"}),
    _rewrite(r"\\imath$E", "i", {r"\imath": "i", r"\imaths": r"\imaths"}, needs="imath"),
    _rewrite(r"\\div$E", "/", {r"6\div 2": "6/ 2", r"\divide": r"\divide"}, needs="div"),
    _rewrite(r"\\equiv$E", "=", {r"x\equiv 3": "x= 3", r"\equivalent": r"\equivalent"}, needs="equiv"),
    _rewrite(
        r"(?:\\text\{\s*)?\b[Aa]ll real(?: number)?s\b(?:\s*\})?|\\mathbb\s*\{?R\}?$E|\\R$E",
        r"(-\\infty,\\infty)",
        {
            "all real numbers": r"(-\infty,\infty)",
            r"\mathbb{R}": r"(-\infty,\infty)",
            r"\text{all reals}": r"(-\infty,\infty)",
            r"\Re": r"\Re",
        },
    ),
    _rewrite(r"\\[dt]binom$E", r"\\binom", {r"\dbinom52": r"\binom52", r"\binom52": r"\binom52"}, needs="binom"),
    _rewrite(
        r"(?<![A-Za-z\\])(?:infinity|infty|inf|oo)$E",
        r"\\infty ",
        {"(0,infinity)": r"(0,\infty )", "-oo": r"-\infty ", "foo": "foo", r"\infty": r"\infty"},
    ),
    _rewrite(r"(?<![A-Za-z\\])pi$E", r"\\pi ", {"2pi": r"2\pi ", r"\pi": r"\pi", "pie": "pie"}, needs="pi"),
    _rewrite(r"\\exp$E\s*(?=[({])", "e^", {r"\exp(x)": "e^(x)", r"\expand": r"\expand"}, needs="exp"),
    _rewrite(
        r"(?<![A-Za-z\\])(sqrt|cbrt|log|ln|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan)(?=\s*[\^({])",
        r"\\\1",
        {"sqrt(3)": r"\sqrt(3)", "sin^2": r"\sin^2", r"\sqrt(3)": r"\sqrt(3)", "cost(3)": "cost(3)"},
    ),
    _rewrite(
        r"\{([^{}\\]*(?:\\(?!over|choose)[^{}\\]*)*)\\over$E([^{}]*)\}",
        r"\\frac{\1}{\2}",
        {r"{1\over 2}": r"\frac{1}{ 2}", r"\overline{x}": r"\overline{x}", r"{1\overline 2}": r"{1\overline 2}"},
        needs="over",
    ),
    _rewrite(
        r"\{([^{}\\]*(?:\\(?!over|choose)[^{}\\]*)*)\\choose$E([^{}]*)\}",
        r"\\binom{\1}{\2}",
        {r"{5\choose 2}": r"\binom{5}{ 2}", r"5\choose 2": r"5\choose 2"},
        needs="choose",
    ),
)
