"""Questions made by the generators of reasoning_gym, offline: each generator is a topic, and its own verifier the reward.

The package is the extra `reasoning-gym`. A generator whose verifier hands the model's answer to `eval` or to a sympy parser is
refused: the answer could run code.
"""

import functools
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from pubswap_jax.questions.problem import Problem
from pubswap_jax.questions.sources import last_box
from pubswap_jax.settings import nearest

PREFIX = "reasoning_gym:"
USUAL = 2000  # questions of all generators together where no number is asked for
LONGEST = 4096  # characters of an answer; a longer one is wrong
RUNS_CODE = re.compile(r"\b(eval|exec|sympify|parse_expr)\(|\b(sympy|composite)\b")
COLUMN = "reasoning_gym"  # the column with a question's generator and entry


def problems(spec: str, count: int, seed: int) -> list[Problem]:
    """Questions of 'reasoning_gym:leg_counting+chain_sum', in turn from each generator; `count` 0: USUAL."""
    names = spec.removeprefix(PREFIX).split("+")
    gym = _package(spec)
    for name in names:
        if name not in gym.factory.DATASETS:
            raise ValueError(
                f"config.data.name={spec}: reasoning_gym has no generator {name!r}{nearest(name, gym.factory.DATASETS)}"
            )
        _check_safe(gym, name)
    each = -(-(count or USUAL) // len(names))
    made = {name: gym.create_dataset(name, size=each, seed=seed) for name in names}
    asked = [_problem(name, i, made[name][i]) for i in range(each) for name in names]
    return asked[: count or USUAL]


def rewards(completions: Sequence, reasoning_gym: Sequence[dict]) -> list[float]:
    r"""Each question's own verifier scores the answer in \boxed{} or <answer>. A completion without either gets 0."""
    texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
    return [_score(text, asked) for text, asked in zip(texts, reasoning_gym, strict=True)]


def _problem(name: str, number: int, entry: dict) -> Problem:
    columns = {COLUMN: {"generator": name, "entry": entry}}
    return Problem(f"{name}/{number}", entry["question"], str(entry["answer"]), topic=name, columns=columns)


def _score(text: str, asked: dict[str, Any]) -> float:
    answer = last_box(text)
    if not answer:
        tagged = re.findall(r"<answer>\s*(.*?)\s*</answer>", text, re.DOTALL)
        answer = tagged[-1] if tagged else ""
    if not answer or len(answer) > LONGEST:
        return 0.0
    return float(_verifier(asked["generator"])(answer, asked["entry"]))


@functools.cache
def _verifier(name: str) -> Callable[[str, dict], float]:
    gym = _package(PREFIX + name)
    _check_safe(gym, name)
    return gym.get_score_answer_fn(name)


def _check_safe(gym: Any, name: str) -> None:
    """Raises if the generator's verifier lives in a module that could run an answer as code.

    A generator without a verifier of its own uses the package's comparison, which could not.
    """
    made, _ = gym.factory.DATASETS[name]
    owner = next(one for one in made.__mro__ if "score_answer" in vars(one))
    found = RUNS_CODE.search(_source(owner))
    if found:
        raise ValueError(
            f"config.data.name={PREFIX}{name}: its verifier's module uses {found.group().strip('(')}, which may run an answer "
            f"as code; name another generator"
        )


def _source(owner: type) -> str:
    """The source text of the module in which a class is defined."""
    return inspect.getsource(sys.modules[owner.__module__])


def _package(spec: str) -> Any:
    try:
        import reasoning_gym
    except ImportError:
        raise ValueError(
            f"config.data.name={spec}: reasoning_gym is not installed; pip install 'pubswap_jax[reasoning-gym]'"
        ) from None
    return reasoning_gym
