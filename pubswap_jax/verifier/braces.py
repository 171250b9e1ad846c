"""Finds the bracket that closes another one, and puts braces around the arguments of TeX commands."""

import re

from pubswap_jax.verifier.pattern import Pattern

_HEAD_OF_ARGUMENTS = Pattern(
    r"\^\s*(?=\\(?:frac|sqrt))|\\frac(?![A-Za-z])|\\(?:sqrt|cbrt)(?![A-Za-z])|\^\s*\(",
    matches=[r"\frac12", r"\sqrt3", r"x^\frac12", "x^(2)", r"\cbrt 8"],
    not_=["x^2", r"\fraction", "(2)"],
)
_COMMAND = re.compile(r"\\(?!frac|sqrt)[A-Za-z]+")


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


def braced(text: str) -> str:
    r"""Puts braces around TeX arguments that lack them: `\frac12` -> `\frac{1}{2}`, `\sqrt3` -> `\sqrt{3}`."""
    out, i = [], 0
    while head := _HEAD_OF_ARGUMENTS.search(text, i):
        out.append(text[i : head.start()])
        i = head.end()
        if head[0] == r"\frac":
            top, after = _argument(text, i)
            bottom, after = _argument(text, after)
            if not top or not bottom:
                out.append(head[0])
                continue
            out.append(r"\frac{" + braced(top) + "}{" + braced(bottom) + "}")
            i = after
        elif head[0].rstrip() == "^":
            end = _argument_end(text, i)
            out.append("^{" + braced(text[i:end]) + "}")
            i = end
        elif head[0][0] == "^":
            end = closing(text, i - 1)
            out.append("^(" if end < 0 else "^{" + braced(text[i:end]) + "}")
            i = i if end < 0 else end + 1
        else:
            i = _root(text, i, head[0], out)
    out.append(text[i:])
    return "".join(out)


def _argument(text: str, i: int) -> tuple[str, int]:
    """The next TeX argument of `text` from index `i` on, in braces, and the index after it.

    An argument is a braced group, a command, or one character.
    """
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
    out.append(r"\sqrt" + ("" if index == "[2]" else index) + "{" + braced(inside) + "}")
    return i
