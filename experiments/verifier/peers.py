"""Other graders on the same pairs, each as a function (gold, completion) -> bool.

`hendrycks` is the string rule of the MATH paper (arXiv:2103.03874) in our own words; the others are imported where installed.
"""

import re
from collections.abc import Callable


def hendrycks(gold: str, text: str) -> bool:
    """Equality of normalised strings: fractions and roots in braces, units, spaces, dollars and degrees taken off."""
    from pubswap_jax.verifier.extraction import extract, gold_answer  # its own extraction is the last box alone

    return _normal(gold_answer(gold)) == _normal(extract(text))


def _normal(text: str) -> str:
    for old, new in (
        ("\n", ""),
        (r"\!", ""),
        (r"\\", "\\"),
        ("tfrac", "frac"),
        ("dfrac", "frac"),
        (r"\left", ""),
        (r"\right", ""),
    ):
        text = text.replace(old, new)
    for old in (r"^{\circ}", r"^\circ", r"\$", r"\%", "%"):
        text = text.replace(old, "")
    text = text.split(r"\text{ ")[0]  # a unit on the right
    text = text.replace(" .", " 0.").replace("{.", "{0.")
    text = "0" + text if text.startswith(".") else text
    head, equals, tail = text.partition("=")
    text = tail if equals and len(head) <= 2 else text
    text = re.sub(r"\\sqrt(?!\{)(.)", r"\\sqrt{\1}", text).replace(" ", "")
    text = re.sub(r"\\frac(?!\{)(.)(?!\{)(.)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac(?!\{)(.)(\{)", r"\\frac{\1}\2", text)
    text = r"\frac{1}{2}" if text == "0.5" else text
    ratio = re.fullmatch(r"(-?\d+)/(-?\d+)", text)
    return rf"\frac{{{ratio[1]}}}{{{ratio[2]}}}" if ratio else text


def math_verify() -> Callable[[str, str], bool]:
    """math-verify with its defaults; golds without dollars are put between them."""
    from math_verify import parse, verify

    def grade(gold: str, text: str) -> bool:
        wrapped = gold if "$" in gold or r"\boxed" in gold else f"${gold}$"
        try:
            return bool(verify(parse(wrapped), parse(text)))
        except BaseException as error:  # its timeout is no Exception
            if isinstance(error, KeyboardInterrupt):
                raise
            return False

    return grade


def inspect_ai() -> Callable[[str, str], bool]:
    """The `math` scorer of inspect_ai."""
    import asyncio

    from inspect_ai.model import ChatMessageUser, ModelName, ModelOutput
    from inspect_ai.scorer import Target, math
    from inspect_ai.solver import TaskState

    scorer = math()
    loop = asyncio.new_event_loop()

    def grade(gold: str, text: str) -> bool:
        message = ChatMessageUser(content="?")
        state = TaskState(
            ModelName("mockllm/model"), 0, 0, "?", [message], output=ModelOutput.from_content("mockllm/model", text)
        )
        return loop.run_until_complete(scorer(state, Target(gold))).value == "C"

    return grade
