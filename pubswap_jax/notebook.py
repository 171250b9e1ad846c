"""Training from Python and from a notebook: `pubswap_jax.train("math:tiny", reward=mine)` returns the trained run.

It trains with the loop and the config of the command. Interrupting the kernel saves, and the same call goes on.
"""

import contextlib
import html
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from pubswap_jax import loop, settings
from pubswap_jax.main import dated
from pubswap_jax.questions import hub, memory
from pubswap_jax.questions.problem import Problem
from pubswap_jax.questions.tokens import left_pad
from pubswap_jax.report import report
from pubswap_jax.run import checkpoint, export, journal, reward
from pubswap_jax.run.assembly import Run, assemble
from pubswap_jax.run.book import Round
from pubswap_jax.run.evaluation import one
from pubswap_jax.run.given import Given
from pubswap_jax.run.pass_at_k import make_sampler
from pubswap_jax.run.signals import Stopped
from pubswap_jax.types import Aggregator, Planner, PyTree


def train(
    config: Any,
    workdir: str | pathlib.Path | None = None,
    *,
    model: str | pathlib.Path = "",
    questions: Any = None,
    reward: Any = None,
    planner: Planner | str | None = None,
    aggregator: Aggregator | str | None = None,
    rounds: int = 0,
    fields: Mapping[str, Any] = {},
    on_round: Callable[[Round], None] | None = None,
    fork: bool = False,
    check: Callable[[], None] = lambda: None,
    offer: loop.Offer = lambda save: None,
) -> Any:
    """Trains, or goes on with a run that was interrupted, and returns it as a `Trained`.

    Args:
      config: a config as `--config` names it, such as "math:tiny" or "mine.py"; or a ConfigDict. An assembled `Run` is trained
        as it is, and the federation's last state is returned.
      workdir: the run's folder; by default a dated one under runs/. Calls with equal arguments have the same folder.
      model: a Hugging Face folder or a name on the hub.
      questions: a list of rows, a datasets.Dataset or a DataFrame; or the text of data.path or data.name.
      reward: a reward function, the text of one (`reward.functions`), or a list of both; docs/own.md says what they get.
      planner, aggregator: functions of the swap and of the averaging, or names of federation.swap and federation.aggregate.
      rounds: of the whole run; 0: the config's.
      fields: any other fields of the config by their dotted names.
      on_round: called after each round that is saved.
      fork, check, offer: as `train_and_evaluate` takes them.
    """
    if isinstance(config, Run):
        if (
            workdir is None
            or model
            or rounds
            or fields
            or any(one is not None for one in (questions, reward, planner, aggregator))
        ):
            raise ValueError("an assembled Run has its model, questions and functions already: give workdir= and none of these")
        return loop.train(config, pathlib.Path(workdir), fork=fork, check=check, offer=offer, on_round=on_round)
    changes = {"model.path": str(model), "federation.rounds": rounds} | _named(planner, aggregator) | _asked(questions)
    changes = {name: value for name, value in changes.items() if value} | dict(fields)
    listed = None if questions is None or isinstance(questions, (str, pathlib.Path)) else memory.rows(questions)
    if questions is not None:
        changes = {"data.test_name": ""} | ({} if listed is None else {"data.path": ""}) | changes
    given = Given(_rewards(reward), _function(planner), _function(aggregator), listed)
    given.check()
    made = configured(config, changes)
    folder = pathlib.Path(workdir) if workdir else _folder(config, changes, given, made.federation.rounds)
    loop.check_writable(folder)
    run = assemble(made, given)
    with _interruptible(check) as check:
        try:
            loop.train(run, folder, fork=fork, check=check, offer=offer, on_round=on_round)
        except Stopped:
            print(f"interrupted and saved in {folder}; the same call goes on from here")
    return Trained(run, folder)


def configured(config: Any, changes: Mapping[str, Any]) -> Any:
    """The config of this name, or a copy of the ConfigDict, with the fields in `changes` set; checked."""
    made = settings.load(str(config)) if isinstance(config, (str, pathlib.Path)) else config.copy_and_resolve_references()
    for name, value in changes.items():
        settings.override(made, name, str(value))
    settings.check(made)
    settings.check_packages(made)
    return made


def _named(planner: Any, aggregator: Any) -> dict[str, str]:
    named = {"federation.swap": planner, "federation.aggregate": aggregator}
    return {name: value for name, value in named.items() if isinstance(value, str)}


def _function(value: Any) -> Any:
    return None if isinstance(value, str) else value


def _asked(questions: Any) -> dict[str, str]:
    """The field for questions given as a text: {data.path: text} for files, {data.name: text} for names of data sets."""
    if not isinstance(questions, (str, pathlib.Path)):
        return {}
    return {"data.name" if hub.is_name(str(questions)) else "data.path": str(questions)}


def _rewards(functions: Any) -> list[reward.Reward]:
    listed = [] if functions is None else functions if isinstance(functions, (list, tuple)) else [functions]
    words = [part for one in listed for part in (one.split(",") if isinstance(one, str) else [one])]
    return [reward.named(word.strip()) if isinstance(word, str) else reward.given(word) for word in words]


def _folder(config: Any, changes: Mapping[str, Any], given: Given, rounds: int) -> pathlib.Path:
    """The run's dated folder, which depends on these arguments. The number of rounds does not count: a longer run resumes."""
    words = [f"{name}={value}" for name, value in changes.items() if name != "federation.rounds"]
    words += [f"{name}={one['sha256']}" for name, one in given.described().items()]
    words += [f"reward {one.name} {one.sha256}" for one in given.rewards]
    if not isinstance(config, (str, pathlib.Path)):
        words += [f"{name}={value}" for name, value in settings.flatten(config).items() if name != "federation.rounds"]
        config = "python"
    return dated(str(config), words, rounds)


@contextlib.contextmanager
def _interruptible(check: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Inside, the first interrupt raises Stopped at the next `check`; a second one is a KeyboardInterrupt at once."""
    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    asked: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def interrupt(number, frame) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, before)
        print("interrupted: saving after the present computation; a second interrupt does not wait", flush=True)

    def checked() -> None:
        check()
        if asked:
            raise Stopped

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield checked
    finally:
        signal.signal(signal.SIGINT, before)


# --- what train returns -----------------------------------------------------------------------------------------------


class Rows(list):
    """Rows of metrics.jsonl, as dicts: one a step, and one a finished round."""

    def to_pandas(self):
        """A DataFrame: `round`, `step` (NaN for a finished round), and each metric's mean over the clients that took part."""
        import pandas

        where = [{name: row[name] for name in ("round", "step") if name in row} for row in self]
        return pandas.DataFrame([at | journal.scalars(row) for at, row in zip(where, self, strict=True)])


class Report(NamedTuple):
    """The report.html of a run, which a notebook shows inline."""

    path: pathlib.Path

    def _repr_html_(self) -> str:
        page = html.escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" width="100%" height="720" style="border:0"></iframe>'


class Comparison(NamedTuple):
    """Responses to one question by the base model and by the trained adapter; a notebook shows them side by side."""

    question: str
    before: Sequence[str]
    after: Sequence[str]

    def __str__(self) -> str:
        lines = [f"{name}: {text}" for name, texts in (("before", self.before), ("after", self.after)) for text in texts]
        return "\n".join([self.question, *lines])

    def _repr_html_(self) -> str:
        pairs = zip(map(html.escape, self.before), map(html.escape, self.after), strict=True)
        cells = "".join(f"<tr><td>{before}</td><td>{after}</td></tr>" for before, after in pairs)
        return f"<p>{html.escape(self.question)}</p><table><tr><th>before</th><th>after</th></tr>{cells}</table>"


class Trained:
    """A run that was trained, to the end or until an interrupt: its results, its best adapter, and answers of its model."""

    def __init__(self, run: Run, workdir: pathlib.Path):
        self.run, self.workdir = run, workdir
        self._samplers: dict[int, Callable] = {}

    def __repr__(self) -> str:
        at = checkpoint.newest(self.workdir / "checkpoints", print)
        where = f"round {at.round} of {self.run.rounds}" if at else "interrupted before its first checkpoint"
        return f"<run in {self.workdir}: {where}>"

    @property
    def metrics(self) -> Rows:
        return Rows(journal.read(self.workdir, "metrics"))

    @property
    def best(self) -> export.BestRound:
        """The round with the best validation score, and its adapter."""
        return export.best_of_run(self.run, self.workdir)

    @property
    def report(self) -> Report:
        return Report(report.write(self.workdir))

    def export(self, folder: str | pathlib.Path) -> list[pathlib.Path]:
        """Writes the best round's adapters as PEFT folders below `folder`, and returns their paths."""
        return export.export_run(self.run, self.workdir, folder=pathlib.Path(folder))

    def ask(self, question: str, samples: int = 1, *, seed: int = 0) -> Any:
        """The response of the best round's model to a question; a list of responses if `samples` is above 1."""
        said = self._responses(self._adapter(), question, samples, seed)
        return said if samples > 1 else said[0]

    def compare(self, question: str, samples: int = 1, *, seed: int = 0) -> Comparison:
        """Responses of the base model and of the best round's adapter, drawn with the same random numbers."""
        adapters = (self.run.policy.adapter, self._adapter())
        return Comparison(question, *(self._responses(adapter, question, samples, seed) for adapter in adapters))

    def _adapter(self) -> PyTree:
        """The shared adapter of the best round, for the run's own base; where there is none, the first client's."""
        state, federation = export.best_state(self.run, self.workdir).federation, self.run.federation
        shared = federation.shared(state)
        return jax.tree.map(lambda x: x[0], federation.own(state)) if shared is None else shared

    def _responses(self, adapter: PyTree, question: str, samples: int, seed: int) -> list[str]:
        known, policy = self.run.settings, self.run.policy
        if samples not in self._samplers:
            how = {name: known[f"evaluation.{name}"] for name in ("temperature", "top_k", "top_p", "min_p")}
            tokens = known["training.max_new_tokens"]
            self._samplers[samples] = make_sampler(policy.model, samples=samples, max_new_tokens=tokens, **how)
        ids = policy.tokenizer.encode(Problem("asked", question, ""))
        length = max(self.run.data.test.prompts.tokens.shape[1], len(ids))
        prompts = left_pad([ids], np.zeros(1, int), length, policy.tokenizer.pad_id)
        place = (prompts, np.zeros(1, np.int32), jax.random.key(seed))
        rollouts = self._samplers[samples](policy.base, one(adapter), *place)
        return policy.tokenizer.decode(*jax.device_get((rollouts.tokens, rollouts.mask))).ravel().tolist()
