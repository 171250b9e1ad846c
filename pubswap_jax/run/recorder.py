"""Writes a run's metrics, evaluations and transcripts, and shows its progress."""

import json
import threading
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from pubswap_jax import system
from pubswap_jax.algorithm.swap import donor_matrix
from pubswap_jax.devices import hosts
from pubswap_jax.records import Record
from pubswap_jax.run import doctor, journal
from pubswap_jax.run.assembly import Log, Run
from pubswap_jax.run.pass_at_k import Evaluation, by_topic, summary
from pubswap_jax.run.programs import shapes
from pubswap_jax.run.progress import Progress
from pubswap_jax.run.resampling import settled
from pubswap_jax.run.symptoms import needed
from pubswap_jax.types import STATUSES, TIMEOUT, Array, Batch, Event, Hparams, PyTree, StepRecord

FILES = ("metrics", "evaluations", "rollouts")
KS = (2, 4, 8, 16, 32, 64)
COMPILED = "/jax/core/compile/backend_compile_duration"


class Recorder:
    """Writes a run's rows to files and sinks. Rows are durable once `journal.position()` is stored in a checkpoint."""

    def __init__(self, run: Run, workdir, position: Mapping[str, int] | None, done: int):
        self.run, self.clock, self.compiled = run, run.programs.clock, []
        self._compiling, self._thread = 0.0, threading.get_ident()  # seconds of compilation in the run's own thread
        self.clock.lap()
        run.tally.take()  # of a step that was discarded
        writes = hosts.first()  # other processes only take part in gathering arrays
        self.sinks = _sinks(run, workdir, done) if writes else []
        self.journal = journal.Journal(workdir, FILES, position) if writes else journal.Nowhere()
        earlier = journal.read(workdir, "metrics") if writes and position else []
        self.rows = [needed(row) for row in earlier]  # what the alarms read
        self.progress = Progress(run.rounds * run.steps, done, quiet=not writes, doing=run.programs.doing)
        jax.monitoring.register_event_duration_secs_listener(self._count_compilation)

    def step(
        self, event: Event, batch: Batch, record: StepRecord, hparams: Hparams, seconds: float, more: Mapping[str, object] = {}
    ) -> dict[str, float]:
        """Writes a step's row: its metrics per client, those of `more`, and on a public step what was swapped."""
        _, replaced = settled(batch, record)
        compiling = self._compiling + self.run.programs.waited  # before the measurement, whose program is not the step's
        phase, present, round, step = event.kind, event.who, event.round, event.step
        values = hosts.fetch(record.metrics)
        row = journal.row(round, step, phase, values, present)
        tokens = float(hosts.fetch(record.rollouts.mask).sum((1, 2, 3))[present].sum())
        of_clients = {"timeout": (hosts.fetch(record.verdicts.status) == TIMEOUT).mean((1, 2))}
        of_clients |= {} if replaced is None else {"resampled": replaced}
        row |= journal.row(round, step, phase, of_clients, present)
        row |= {} if event.time is None else {"simulated/time": event.time}
        row |= {f"{phase}/tokens": tokens, "time/step": seconds, "time/tokens_per_second": tokens / seconds, **more}
        if phase == "public":
            row["public/donors"] = hosts.fetch(donor_matrix(record.plan)).tolist()
            row |= journal.row(round, step, "swap", self._distortion(event, batch, record, hparams), present)
        row |= {f"time/step_{name}": spent for name, spent in self.clock.split().items()}
        row |= {"time/step_compile": compiling} if compiling else {}
        self._forget_compilations()
        self._write(row, round * self.run.steps + step)
        seen = journal.scalars(row)
        flat = seen.get(f"{phase}/zero_variance_before", 0.0)
        self.progress.step(
            round, seen[f"{phase}/reward"], seen.get(f"{phase}/swapped", 0.0), row["time/tokens_per_second"], flat
        )
        return seen

    def transcript(self, record: Record) -> None:
        self.journal.write("rollouts", json.loads(bytes(record.arrays["row"][0])))

    def _distortion(self, event: Event, batch: Batch, record: StepRecord, hparams: Hparams) -> dict[str, np.ndarray]:
        """Metrics of a swap: each client's number of swapped responses; if due, how far it moved a gradient, and the bound M·β.

        They are measured on the group with the most replacements.
        """
        found, run = {"replacements": hosts.fetch(record.plan.swapped).sum((1, 2))}, self.run
        if run.measure is None:
            return found
        who = run.who(event)
        who = np.flatnonzero(who).astype(np.int32) if isinstance(who, np.ndarray) else None
        of_clients = record.adapters, batch.prompts, record.replace(adapters=(), metrics={})
        if who is not None:
            of_clients = run.rows.take(of_clients, jax.device_put(who))
        arguments = run.policy.base, *of_clients, hparams
        if not hosts.several():
            # Compile in the background from the first public step on: the first measurement may come many steps later.
            run.measure(*shapes(arguments))
        if run.log.distortion == "round" and not self._last_public(event):
            return found
        one = self.clock.timed("distortion", run.measure, hosts.fetch)(*arguments)
        measured = {"group": one.replacements, "beta": one.beta, "bound": one.bound, "distance": one.distance}
        if who is not None:
            everybody = jax.device_put(np.zeros(len(event.who), bool))
            measured = jax.device_get(run.rows.spread(measured, jax.device_put(who), everybody))
        return found | measured

    def _last_public(self, event: Event) -> bool:
        """Whether no public step follows this event in its round, so that it is the round's last one."""
        later = range(event.step + 1, self.run.steps)
        number = self.run.timeline.number(event.round, event.step)
        return not any(self.run.timeline(number + step - event.step).kind == "public" for step in later)

    def evaluation(self, round: int, split: str, model: str, evaluation: Evaluation) -> dict[str, float]:
        """Writes one model's statistics, and its correct samples as a string of 0 and 1 per question."""
        figures = summary(evaluation, KS)
        bits = ["".join("01"[int(right)] for right in row) for row in evaluation.correct]
        row = {"round": round, "split": split, "model": model, "figures": figures, "by_topic": by_topic(evaluation)}
        self.journal.write("evaluations", row | {"correct": bits})
        return figures

    def round(self, round: int, values: Mapping[str, object]) -> None:
        """Writes the row of a finished round, with its phase times. `round`: the number of finished rounds."""
        row = {"round": round} | dict(values)
        row |= {f"time/{phase}": seconds for phase, seconds in self.clock.lap().items()}
        row |= {"time/compilations": len(self.compiled), "time/compiled": sorted(set(self.compiled)), **_memory()}
        row |= self._alarms(row)
        self.compiled.clear()
        self._forget_compilations()  # the evaluation's programs are no step's
        self._write(row, round * self.run.steps)

    def _alarms(self, row: Mapping[str, object]) -> dict[str, list[str]]:
        """Prints the alarms that a round raises first, and returns their names for the round's row."""
        known = {name for one in self.rows for name in one.get("round/alarms", [])}
        new = {name: line for name, line in doctor.raised([*self.rows, needed(row)]).items() if name not in known}
        for name, line in new.items():
            self.progress.say(f"ALARM: {name}: {line}")
        return {"round/alarms": list(new)} if new else {}

    def close_sinks(self) -> None:
        for sink in self.sinks:
            sink.close()

    def close(self) -> None:
        self.run.programs.close()
        self.close_sinks()
        self.journal.close()
        self.progress.close()
        jax.monitoring.unregister_event_duration_listener(self._count_compilation)

    def _write(self, row: dict, at: int) -> None:
        self.journal.write("metrics", row)
        self.rows.append(needed(row))
        for sink in self.sinks:
            sink.write(at, journal.scalars(row))

    def _forget_compilations(self) -> None:
        self._compiling = self.run.programs.waited = 0.0

    def _count_compilation(self, event: str, seconds: float, **details) -> None:
        if event == COMPILED:
            self.compiled.append(str(details.get("fun_name")))
            self._compiling += seconds if threading.get_ident() == self._thread else 0.0


def read_evaluations(workdir, problems: Mapping[str, Sequence]) -> dict[tuple[int, str, str], Evaluation]:
    """Reads evaluations.jsonl: (round, split, model) -> Evaluation. `problems`: split -> its questions."""
    found = {}
    for row in journal.read(workdir, "evaluations"):
        correct = np.array([[bit == "1" for bit in bits] for bits in row["correct"]], bool)
        nothing = np.full(correct.shape, "", object)
        asked = problems[row["split"]]
        found[row["round"], row["split"], row["model"]] = Evaluation(asked, correct, nothing, np.zeros(correct.shape, int))
    return found


def of_present(figures: Mapping[str, np.ndarray], present: np.ndarray) -> dict[str, object]:
    """Arrays of metrics [C], [C, C] or [C, L] as lists with null in the entries of absent clients; scalars are unchanged."""
    here = np.asarray(present)
    found = {}
    for name, value in figures.items():
        if np.ndim(value):
            shown = here[:, None] & here if name == "cosine" else here.reshape(-1, *[1] * (value.ndim - 1))
            value = np.where(np.broadcast_to(shown, value.shape), value.astype(object), None)
        found[name] = value.tolist()
    return found


def transcripts_a_step(log: Log) -> int:
    """How many groups' transcripts a step writes. log.transcripts=-1 means one, or none if several processes run."""
    return int(not hosts.several()) if log.transcripts < 0 else log.transcripts


def transcripts(run: Run, event: Event, batch: Batch, record: StepRecord) -> list[Record]:
    """Transcripts of some groups of a step, as records: questions, responses and swaps. Clients are shown in turn."""
    clients, count = np.flatnonzero(event.who), transcripts_a_step(run.log)
    # Public and private steps have turns of their own: counted together, a period of 2 would show half the clients each.
    prompts, first = record.plan.source.shape[1], event.number * count
    turns = [(clients[turn % len(clients)], turn // len(clients) % prompts) for turn in range(first, first + count)]
    found = []
    for client, row in turns:
        text = json.dumps(_transcript(run, event, batch, record, int(client), row)).encode()
        rows = np.broadcast_to(np.frombuffer(text, np.uint8), (len(event.who), len(text)))
        found.append(Record("transcripts", "up", {"row": rows}, who=np.arange(len(event.who)) == client))
    return found


def _transcript(run: Run, event: Event, batch: Batch, record: StepRecord, client: int, row: int) -> dict:
    group = record.plan.source.shape[-1]
    problem = settled(batch, record)[0].answers[client][row]
    before, after = record.rollouts, record.swapped_rollouts
    arrays = (
        before.tokens,
        before.mask,
        after.tokens,
        after.mask,
        record.verdicts.status,
        record.plan.source,
        record.plan.swapped,
        record.verdicts.reward,
    )
    # Fetch only this group. `client` and `row` are traced: static indices would compile one program for each pair.
    shown = hosts.fetch(_group(arrays, np.int32(client), np.int32(row)))
    tokens, mask, new_tokens, new_mask, status, source, swapped, worth = shown
    decode = run.policy.tokenizer.decode
    texts, new_texts = decode(tokens, mask).tolist(), decode(new_tokens, new_mask).tolist()
    responses = [
        {"text": text, "verdict": STATUSES[verdict]}
        | ({"reward": float(own)} if run.own else {})
        | ({"from_client": int(origin) // group, "replaced_by": other} if replaced else {})
        for text, other, verdict, origin, replaced, own in zip(texts, new_texts, status, source, swapped, worth, strict=True)
    ]
    where = {"round": event.round, "step": event.step, "public": batch.public, "client": client}
    asked = {"topic": problem.topic, "question": problem.prompt, "answer": problem.answer}
    return where | asked | {"responses": responses}


@jax.jit
def _group(arrays: PyTree, client: Array, row: Array) -> PyTree:
    return jax.tree.map(lambda x: x[client, row], arrays)


def _sinks(run: Run, workdir, done: int) -> list[journal.Sink]:
    sinks = []
    if run.log.tensorboard == "on" or (run.log.tensorboard == "auto" and journal.has_tensorboard()):
        sinks.append(journal.tensorboard(workdir, done))
    if run.log.wandb:
        sinks.append(journal.wandb(run.log.wandb, workdir, run.settings))
    return sinks


def _memory() -> dict[str, float]:
    """Peak memory in bytes of this process, and of the first device if it reports one."""
    host = system.peak_bytes()
    peak = {} if host is None else {"time/peak_host_bytes": host}
    statistics = jax.local_devices()[0].memory_stats() or {}
    return peak | ({"time/peak_device_bytes": statistics["peak_bytes_in_use"]} if "peak_bytes_in_use" in statistics else {})
