"""A regular expression with examples beside it: texts in which it is found and texts in which it is not.

tests/verifier/test_pattern.py runs the examples of every pattern in this folder, and fails for a long expression without any.
"""

import re
from collections.abc import Callable, Sequence


class Pattern:
    """A compiled regular expression with examples of texts that it finds and texts that it must not find.

    `by` is the method that the code calls, such as re.Pattern.match.
    """

    __slots__ = ("by", "compiled", "findall", "finditer", "fullmatch", "match", "matches", "not_", "search", "split", "sub")

    def __init__(
        self,
        regex: str,
        flags: int = 0,
        *,
        matches: Sequence[str],
        not_: Sequence[str],
        by: Callable[[re.Pattern, str], re.Match | None] = re.Pattern.search,
    ):
        self.compiled = compiled = re.compile(regex, flags)
        self.matches, self.not_, self.by = matches, not_, by
        # Bound methods of the compiled expression. Methods that call them would add a Python frame to each of many calls.
        self.search, self.match, self.fullmatch = compiled.search, compiled.match, compiled.fullmatch
        self.findall, self.finditer, self.split, self.sub = compiled.findall, compiled.finditer, compiled.split, compiled.sub

    def finds(self, text: str) -> bool:
        """Whether the pattern is found in the text when it is applied with its method `by`, as the code does."""
        return self.by(self.compiled, text) is not None
