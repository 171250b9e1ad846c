"""The token ids around a question: chat template, system prompt, and examples as earlier turns."""

from collections.abc import Mapping, Sequence
from typing import Any

_SYSTEM = "@@the-system-prompt-goes-here@@"


def around(
    hf, place: str, system: str | None, examples: Sequence[tuple[str, str]], extra: Mapping[str, Any]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids before and after the question. Without a chat template (a base model), the prompt is plain text.

    `system` None leaves the template's own system prompt in place; an empty text removes it.
    """
    if hf.chat_template is None:
        shown = "".join(f"{question}\n{answer}\n\n" for question, answer in examples)
        return tuple(hf("").input_ids) + _ids(hf, (f"{system}\n\n" if system else "") + shown), _ids(hf, "\n")

    def rendered(messages: list[dict[str, str]], **how) -> str:
        return hf.apply_chat_template(messages, tokenize=False, **({"add_generation_prompt": True} | how), **extra)

    turns = [_turn("system", system)] if system else []
    for question, answer in examples:
        turns += [_turn("user", question), _turn("assistant", answer)]
    before, found, after = rendered([*turns, _turn("user", place)]).partition(place)
    if not found or place in after:
        raise ValueError("the chat template must hold the user's message once, as it is")
    if system == "":
        begin, own = _own_prompt(hf, rendered, place)
        if not before.startswith(own):
            raise ValueError("config.model.system: this chat template's own prompt cannot be removed; give a text of your own")
        before = begin + before[len(own) :]
    return _ids(hf, before), _ids(hf, after)


def _own_prompt(hf, rendered, place: str) -> tuple[str, str]:
    """Finds a chat template's own system prompt: (text that every prompt begins with, that text and the own system turn).

    The two are equal if the template has no system prompt.

    With a system prompt S, a template renders `begin + header + S + end + user header + question`. `end` is known from what
    follows a question without a generation prompt, so that the user header is what is left.
    """
    plain = rendered([_turn("user", place)]).partition(place)[0]
    try:
        head, found, tail = rendered([_turn("system", _SYSTEM), _turn("user", place)]).partition(place)[0].partition(_SYSTEM)
    except Exception:  # a template may refuse the role `system`, by an error of its own
        return "", ""
    end = rendered([_turn("user", place)], add_generation_prompt=False).partition(place)[2]
    if not found or not tail.startswith(end) or not plain.startswith(head) or not plain.endswith(tail):
        return "", ""
    user = tail.removeprefix(end)
    begin = hf.bos_token if hf.bos_token and head.startswith(hf.bos_token) and not user.startswith(hf.bos_token) else ""
    return begin, plain.removesuffix(user)


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _ids(hf, text: str) -> tuple[int, ...]:
    return tuple(hf(text, add_special_tokens=False, split_special_tokens=False).input_ids)
