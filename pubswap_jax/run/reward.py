"""Rewards of the user's own: functions with TRL's signature, loaded from a file or given in Python, weighted and added.

A reward function is called with keyword arguments only: `prompts`, `completions`, `completion_ids`, `answer`, `correct` and
each column of the data under its own name, one entry for each response. It gets the arguments that its signature names, or all
of them if it has **kwargs. It returns one number for each response, or None for a response that it leaves out.
"""

import hashlib
import inspect
import math
import os
import pathlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pubswap_jax import own
from pubswap_jax.questions import generators
from pubswap_jax.questions.sources import last_box
from pubswap_jax.run import fingerprint
from pubswap_jax.settings import nearest

SLOW = 10.0  # seconds after which a call that still runs is named
TEXTS = "; prompts and completions are texts here, set reward.form=messages for lists of messages"
OFFERED = ("prompts", "completions", "completion_ids", "answer", "correct")


class Reward(NamedTuple):
    """A reward function with its name and a SHA-256 of its code, which run.json lists."""

    name: str  # as the user wrote it; names the function in every message
    function: Callable[..., Sequence[float | None]]
    sha256: str  # of the file; of the source for a function given in Python; empty for a built-in one


class Responses(NamedTuple):
    """The arguments of reward functions for n responses. Responses to one question stand side by side."""

    prompts: Sequence[str]
    completions: Sequence[str]
    completion_ids: Sequence[Sequence[int]]  # without padding
    answer: Sequence[str]
    correct: Sequence[bool]  # the verifier's verdict
    columns: Mapping[str, Sequence[Any]]  # the data's other columns


class Scores(NamedTuple):
    reward: np.ndarray  # f64[n], the weighted sum of the functions; 0 for a response that all of them left out
    left_out: np.ndarray  # bool[n], all functions returned None
    each: dict[str, np.ndarray]  # f64[n] by name, NaN where the function returned None
    seconds: dict[str, float]  # by name


# --- built in -----------------------------------------------------------------------------------------------------------


def verifier(correct: Sequence[bool]) -> list[float]:
    """Reward function: 1 for an answer that the verifier finds right, else 0."""
    return [float(right) for right in correct]


def form(completions: Sequence) -> list[float]:
    r"""Reward function: 1 for a response with a final answer in \boxed{}, else 0."""
    return [float(bool(last_box(text if isinstance(text, str) else text[-1]["content"]))) for text in completions]


def length(completion_ids: Sequence[Sequence[int]]) -> list[float]:
    """Reward function: minus the number of thousands of tokens, so that short responses lose less."""
    return [-len(ids) / 1000 for ids in completion_ids]


BUILT_IN = {"verifier": verifier, "format": form, "length": length, "reasoning_gym": generators.rewards}


# --- loading ------------------------------------------------------------------------------------------------------------


def load(functions: str, weights: str = "") -> tuple[list[Reward], list[float]]:
    """Parses the fields reward.functions and reward.weights: 'rewards.py:close,verifier', '0.2,1.0' -> functions, weights.

    Without weights, each weight is 1.
    """
    return weighted([named(word.strip()) for word in functions.split(",")], weights)


def given(function: Callable) -> Reward:
    """Makes a `Reward` of a function that was passed in Python."""
    if not callable(function):
        raise ValueError(f"reward: a function expected, got {function!r}")
    return Reward(fingerprint.name_of(function), function, fingerprint.of_function(function))


def weighted(rewards: Sequence[Reward], weights: str) -> tuple[list[Reward], list[float]]:
    """Pairs reward functions with numbers from a text such as '0.2,1.0', one number each, or 1 each if it is empty.

    Raises ValueError if the counts differ or two functions have the same name.
    """
    numbers = [_number(word) for word in weights.split(",")] if weights else [1.0] * len(rewards)
    return list(rewards), checked_weights(numbers, rewards)


def checked_weights(weights: Sequence[float], rewards: Sequence[Reward]) -> list[float]:
    if len(weights) != len(rewards):
        names = ", ".join(reward.name for reward in rewards)
        raise ValueError(f"reward.weights has {len(weights)} numbers for {len(rewards)} functions ({names}); give one for each")
    if len({reward.name.rpartition(":")[2] for reward in rewards}) < len(rewards):
        raise ValueError(
            f"reward: {', '.join(reward.name for reward in rewards)}: two functions have the same name; rename one"
        )
    if not all(math.isfinite(weight) for weight in weights):
        raise ValueError(f"reward.weights={','.join(map(str, weights))}: finite numbers expected")
    return list(weights)


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"reward.weights: {word.strip()!r} is no number; write reward.weights=0.2,1.0") from None


def named(word: str) -> Reward:
    """Finds the reward function that a word names: a built-in such as verifier, or a file's, such as rewards.py:close."""
    path, colon, name = word.rpartition(":")
    if not colon:
        if word in BUILT_IN:
            return Reward(word, BUILT_IN[word], "")
        hint = f"; write {word}:FUNCTION" if word.endswith(".py") else nearest(word, BUILT_IN) + ", and FILE:FUNCTION"
        raise ValueError(f"reward.functions={word}: no such function{hint}")
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        siblings = [str(other) for other in file.parent.glob("*.py")]
        raise ValueError(f"reward.functions={word}: no such file {path}{nearest(path, siblings) if siblings else ''}")
    module = own.executed(file, f"reward.functions={word}")
    function = getattr(module, name, None)
    if not callable(function):
        known = own.functions_of(module)
        what = "no such function" if function is None else "not a function"
        raise ValueError(f"reward.functions={word}: {what}{nearest(name, known) if known else f'; {path} has none'}")
    return Reward(word, function, hashlib.sha256(file.read_bytes()).hexdigest())


# --- calling ------------------------------------------------------------------------------------------------------------


def score(
    rewards: Sequence[Reward],
    weights: Sequence[float],
    responses: Responses,
    *,
    conversational: bool = False,
    say: Callable[[str], None] = print,
) -> Scores:
    """Calls the reward functions and adds what they return: reward_i = Σ_f weight_f · f_i.

    The sum is over the functions f that did not return None for response i.
    """
    count, each, seconds = len(responses.completions), {}, {}
    for reward in rewards:
        slow = f"reward {reward.name} has run for {SLOW:g} s on {count} responses, and a step waits for it"
        watch = threading.Timer(SLOW, say, [slow])
        watch.daemon = True
        wanted, started = _wanted(reward, _offered(responses, conversational)), time.perf_counter()
        watch.start()
        try:
            found = reward.function(**wanted)
        except Exception as error:
            hint = "" if conversational or not isinstance(error, TypeError) else TEXTS
            raise ValueError(f"reward {reward.name}: {type(error).__name__}: {_first_line(error)}{hint}") from error
        finally:
            watch.cancel()
            seconds[reward.name] = time.perf_counter() - started
        each[reward.name] = _numbers(reward.name, found, count)
    table = np.array([each[reward.name] for reward in rewards])
    total = np.nansum(table * np.asarray(weights, float)[:, None], axis=0)
    return Scores(total, np.isnan(table).all(axis=0), each, seconds)


def bits(scores: Scores, verified: np.ndarray, correct_at: float | None) -> np.ndarray:
    """Which responses count as right in the swap, bool[n]: by the verifier, or by reward >= correct_at.

    A response that all functions left out is never right.
    """
    right = np.asarray(verified, bool) if correct_at is None else scores.reward >= correct_at
    return right & ~scores.left_out


def described(rewards: Sequence[Reward], weights: Sequence[float]) -> list[dict]:
    """The reward functions and weights in the form that run.json has."""
    return [{"name": r.name, "sha256": r.sha256, "weight": w} for r, w in zip(rewards, weights, strict=True)]


def agree(before: Sequence[Mapping], now: Sequence[Mapping], workdir: str | os.PathLike) -> None:
    """Raises if the run in `workdir` was made with other rewards than `now`.

    `before` and `now` are as `described` returns them.
    """
    names = lambda rows: ", ".join(f"{row['weight']:g} {row['name']}" for row in rows) or "none"  # noqa: E731
    if names(before) != names(now):
        raise ValueError(f"{workdir}: the run's rewards were {names(before)}, not {names(now)}; name another --workdir")
    for old, new in zip(before, now, strict=True):
        if old["sha256"] != new["sha256"]:
            raise ValueError(
                f"{workdir}: the code of reward {old['name']} has changed since the run began; name another --workdir"
            )


def _offered(responses: Responses, conversational: bool) -> dict[str, list]:
    """All keyword arguments that a reward function may ask for, in fresh lists: a function may change them."""
    offered = {name: list(values) for name, values in responses.columns.items()}
    offered |= {name: list(getattr(responses, name)) for name in OFFERED}
    if conversational:
        offered["prompts"] = [[{"role": "user", "content": text}] for text in offered["prompts"]]
        offered["completions"] = [[{"role": "assistant", "content": text}] for text in offered["completions"]]
    return offered


def _wanted(reward: Reward, offered: Mapping[str, list]) -> dict[str, list]:
    """The arguments that the function's signature names, or all of them if it takes any."""
    parameters = inspect.signature(reward.function).parameters.values()
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return dict(offered)
    missing = [one.name for one in parameters if one.default is one.empty and one.name not in offered]
    if missing:
        raise ValueError(f"reward {reward.name}: no column {missing[0]!r}{nearest(missing[0], offered)}")
    return {one.name: offered[one.name] for one in parameters if one.name in offered}


def _numbers(name: str, found: Any, count: int) -> np.ndarray:
    """What a reward function returned as f64[count], NaN for None. Raises unless it is one number or None for each response."""
    try:
        values = [math.nan if value is None else float(value) for value in found]
        left_out = [value is None for value in found]
    except (TypeError, ValueError):
        raise ValueError(f"reward {name}: a number or None for each response expected, got {str(found)[:80]}") from None
    if len(values) != count:
        raise ValueError(f"reward {name}: {len(values)} values for {count} responses; return one for each")
    wrong = [i for i, value in enumerate(values) if not math.isfinite(value) and not left_out[i]]
    if wrong:
        raise ValueError(
            f"reward {name}: {values[wrong[0]]} for response {wrong[0]}; return a finite number, or None to leave it out"
        )
    return np.array(values)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]
