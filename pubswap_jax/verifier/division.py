"""Divides a canonical string at separators such as commas, but only where they stand outside all brackets."""

import re

from pubswap_jax.verifier.pattern import Pattern

_OPEN, _CLOSE, _OPEN_ESCAPED, _CLOSE_ESCAPED = tuple("([{"), tuple(")]}"), ("{",), ("}",)
_EQUALS = re.compile("=")


def divide(text: str, pattern: re.Pattern | Pattern) -> tuple[list[str], list[str]]:
    """Divides a text at the matches that stand outside all brackets: (parts, separators)."""
    matches = list(pattern.finditer(text))
    if not matches:
        return [text.strip()], []
    depths, depth, i = [], 0, 0
    while i < len(text):
        escaped = text[i] == "\\"
        char = text[i + 1 : i + 2] if escaped else text[i]
        depths += [depth] * (1 + escaped)
        depth += (char in _OPEN_ESCAPED) - (char in _CLOSE_ESCAPED) if escaped else (char in _OPEN) - (char in _CLOSE)
        i += 1 + escaped
    parts, separators, start = [], [], 0
    for match in matches:
        if depths[match.start()] <= 0:
            parts.append(text[start : match.start()].strip())
            separators.append(match[0].strip())
            start = match.end()
    return [*parts, text[start:].strip()], separators


def balanced(inside: str) -> bool:
    """Whether every bracket in a text is closed and none is closed before it is opened."""
    depth, i = 0, 0
    while i < len(inside):
        char = inside[i]
        if char == "\\":
            escaped = inside[i + 1 : i + 2]
            depth += (escaped == "{") - (escaped == "}")
            i += 2
        else:
            depth += (char in "([{") - (char in ")]}")
            i += 1
        if depth < 0:
            return False
    return depth == 0


def result(text: str) -> str:
    """The text after the last equals sign: `1` of `\\lim_{x \\to 0} \\frac{\\sin x}{x} = 1`."""
    return divide(text, _EQUALS)[0][-1]
