"""Unicode characters: full-width forms, dashes, raised and lowered digits and symbols, spelled in ASCII and LaTeX."""

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


def folded(text: str) -> str:
    """Replaces full-width characters and dashes by ASCII characters, and deletes characters without width."""
    return text if text.isascii() else text.translate(_FOLDS)


def spelled(text: str) -> str:
    """Replaces symbols by LaTeX commands and white space by spaces: `½π` -> `\\frac{1}{2}\\pi `, `x¹⁰` -> `x^{10}`."""
    return _levels(text).translate(_SYMBOLS)


def _levels(text: str) -> str:
    """Spells raised and lowered characters in LaTeX: `x¹⁰` -> `x^{10}`, `a₁` -> `a_{1}`."""
    if text.isascii():
        return text
    text = _RAISED.sub(lambda match: "^{" + match[0].translate(_LEVEL) + "}", text)
    return _LOWERED.sub(lambda match: "_{" + match[0].translate(_LEVEL) + "}", text)
