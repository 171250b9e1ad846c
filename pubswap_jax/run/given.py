"""What a caller passes in Python instead of naming it in the config, and its name and SHA-256 for run.json."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pubswap_jax.run import fingerprint
from pubswap_jax.run.reward import Reward
from pubswap_jax.types import Aggregator, Planner


class Given(NamedTuple):
    """Arguments of `pubswap_jax.train` that are Python objects: rewards, planner, aggregator, questions.

    run.json lists the rewards apart, with those that the config names.
    """

    rewards: Sequence[Reward] = ()
    planner: Planner | None = None
    aggregator: Aggregator | None = None
    questions: Sequence[Mapping] | None = None  # rows, as `questions.memory.rows` returns them

    def check(self) -> None:
        if self.planner is not None and not callable(self.planner):
            raise ValueError(f"planner={self.planner!r}: a function or a name of federation.swap expected, such as 'rescue'")
        if self.aggregator is not None and not isinstance(self.aggregator, Aggregator):
            raise ValueError(
                f"aggregator={fingerprint.name_of(self.aggregator)}: an Aggregator expected, such as "
                f"pubswap_jax.trimmed_mean(1), or a name of federation.aggregate"
            )

    def described(self) -> dict[str, dict[str, str]]:
        """{argument: its name and SHA-256} of what was given in Python, for run.json."""
        found = {}
        if self.planner is not None:
            found["planner"] = _described(fingerprint.name_of(self.planner), fingerprint.of_function(self.planner))
        if self.aggregator is not None:
            rule = fingerprint.name_of(self.aggregator.apply)
            found["aggregator"] = _described(rule, fingerprint.of_functions(self.aggregator))
        if self.questions is not None:
            found["questions"] = _described(f"{len(self.questions)} rows", fingerprint.of_rows(self.questions))
        return found


NOTHING = Given()


def agree(before: Mapping[str, Any], now: Mapping[str, Any], workdir, names=("planner", "aggregator", "questions")) -> None:
    """Raises if a run was begun with other arguments than those of `now`. Both are as `described`."""
    for name in names:
        old, new = before.get(name), now.get(name)
        if old and not new:
            raise ValueError(
                f"{workdir}: the run was begun with {name}= from Python ({old['name']}); pass it to pubswap_jax.train again"
            )
        if new and not old:
            raise ValueError(f"{workdir}: the run was begun without {name}=; leave it out, or name another workdir")
        if old != new:
            raise ValueError(f"{workdir}: {name}= is not what it was when the run began; name another workdir")


def _described(name: str, sha256: str) -> dict[str, str]:
    return {"name": name, "sha256": sha256}
