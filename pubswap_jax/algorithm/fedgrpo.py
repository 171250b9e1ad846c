"""FedGRPO as a federation (arXiv 2602.12014): the server trains one policy by GRPO, and clients send scalars only.

The clients are experts. First they may train adapters of their own, at home. Then they answer the server's auxiliary questions,
whose bits say how competent each client is. From then on the server samples candidates for its own questions, and the experts
of a question reward them. experts.py has the mathematics. "Reading:" marks what the paper leaves open.
"""

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from pubswap_jax.algorithm.aggregation import alone, broadcast
from pubswap_jax.algorithm.client import make_client
from pubswap_jax.algorithm.experts import AXES, Judging, Use, no_use
from pubswap_jax.algorithm.federation import direct
from pubswap_jax.algorithm.fedgrpo_functions import cut_off, expert_functions, student_functions
from pubswap_jax.algorithm.losses import no_baseline
from pubswap_jax.algorithm.pubswap import State as Experts
from pubswap_jax.algorithm.pubswap import join
from pubswap_jax.algorithm.server import make_server
from pubswap_jax.algorithm.swap import no_swap
from pubswap_jax.algorithm.truncation import weights_alone
from pubswap_jax.algorithm.update import Learning
from pubswap_jax.policy.embedding import Encoder, mean_hidden
from pubswap_jax.records import Record
from pubswap_jax.types import (
    Array,
    Batch,
    Channel,
    ClientState,
    Federation,
    Hparams,
    Judge,
    Program,
    PyTree,
    Reference,
    Rollout,
    StepRecord,
    compiled,
)


@flax.struct.dataclass
class State:
    """The state of FedGRPO: the server's policy, the clients, and what the clients answered to the auxiliary questions."""

    policy: ClientState  # stacked, C = 1; `received` is its adapter when the round began
    experts: Experts  # the clients' own models, which train alone
    embedded: Array  # f32[A, D], the auxiliary questions; zeros before the first auxiliary step
    known: Array  # bool[C, A], the competence: whether a client answered the question right
    use: Use  # the experts' work since the round began
    round: Array  # int32[]

    @property
    def server(self) -> ClientState:
        return self.policy

    @property
    def clients(self) -> ClientState:
        return self.experts.clients


def fedgrpo(
    model,
    tx: optax.GradientTransformation,
    *,
    num_clients: int,
    group: int,
    how: Learning | None = None,
    judging: Judging | None = None,
    adapters: PyTree = (),
    encoder: Encoder | None = None,
    clients_at_once: int | None = None,
    part: int | None = None,
    program: Program = compiled,
) -> Federation:
    """The federation FedGRPO, as reconstructed from the paper: clients judge the responses of the server's policy.

    A batch that is not `public` is a step of the clients' own training, [C, B]. A `labelled` batch measures their competence,
    and any other public batch is a step of the server's policy; both are [1, B]. Absence is a reward that is not finite: `who`
    and weights count in the clients' own training alone.

    Args:
      model, tx, num_clients, group: as in `pubswap`; `group` is G, candidates a question.
      how: how the policy learns from advantages, and the clients from their own rewards; None: the defaults of `Learning`.
      judging: how experts are chosen, and how their rewards become advantages; None: the defaults of `Judging`.
      adapters: the clients' adapters [C, ...]; (): all start from the policy's.
      encoder: embeds questions; None: the base's mean hidden state.
      clients_at_once, part: as in `pubswap`, for the clients' own training.
      program: compiles the functions; see `types.Program`.
    """
    how, judging = how or Learning(), judging or Judging()
    if not 1 <= judging.experts <= num_clients:
        raise ValueError(f"judging.experts: 1 to {num_clients}, the number of clients, expected, got {judging.experts}")
    if judging.over not in AXES:
        raise ValueError(f"judging.over: one of {', '.join(AXES)} expected, got {judging.over!r}")
    if how.kl_in_reward:
        raise ValueError("how.kl_in_reward: False expected; rewards are the experts', and the policy's KL is no part of them")
    tokens, ends = model.config.max_new_tokens, (model.config.eos_ids, model.config.pad_id)
    make = {"group": group, "max_new_tokens": tokens, "ends": ends}
    client, server = make_client(model, tx, how, **make), make_server(no_swap, alone())
    at_home = {"clients_at_once": clients_at_once, "part": part, "keeps": True, "program": program}
    learners = join(client, server, num_clients, model.config.adapter, **at_home)
    encoder = mean_hidden(model) if encoder is None else encoder
    student = make_client(model, tx, how._replace(advantages=no_baseline, truncation=weights_alone(how.truncation)), **make)
    worth = cut_off(how.truncation, model.config.eos_ids)
    functions = student_functions(student) | expert_functions(model, encoder, num_clients, judging, worth)

    def init(adapter: PyTree, adapters: PyTree) -> State:
        experts, policy = learners.init(adapter), broadcast(student.start({"adapter": adapter}), 1)
        if jax.tree.leaves(adapters):
            experts = experts.replace(clients=experts.clients.replace(adapter=adapters))
        embedded, known = jnp.zeros((judging.auxiliary, encoder.size)), jnp.zeros((num_clients, judging.auxiliary), bool)
        policy = policy.replace(received=policy.adapter)
        return State(policy, experts, embedded, known, no_use(num_clients), jnp.zeros((), jnp.int32))

    functions["init"] = init
    run = {name: program(name, function) for name, function in functions.items()}
    together = Together(num_clients, learners, run)
    first = lambda state: jax.tree.map(lambda x: x[0], state.policy.adapter)  # noqa: E731
    shared = program("shared", first)
    return Federation(
        init=lambda adapter: run["init"](adapter, adapters),
        open=together.open,
        step=together.step,
        close=together.close,
        shared=shared,
        own=lambda state: None,
        saved=lambda state: state,
        reports=False,
    )


class Together(NamedTuple):
    """FedGRPO's `open`, `step` and `close` for all clients and the server, over compiled functions."""

    num_clients: int
    learners: Federation
    run: dict[str, Any]

    def open(self, state: State, channel: Channel, who=None) -> State:
        policy = state.policy.replace(received=state.policy.adapter)
        return state.replace(policy=policy, use=self.run["rest"](state.use))

    def step(
        self, base, state: State, batch: Batch, judge: Judge, channel: Channel, key: Array, hparams: Hparams, who=None
    ) -> tuple[State, StepRecord]:
        if batch.labelled:
            return self.survey(base, state, batch, judge, channel, key, hparams)
        if batch.public:
            return self.lesson(base, state, batch, judge, channel, key, hparams)
        # Nothing of the clients' own training leaves them: `direct` carries its figures to the run's rows and nowhere else.
        experts, record = self.learners.step(base, state.experts, batch, judge, direct, key, hparams, who)
        return state.replace(experts=experts), record

    def survey(self, base, state: State, batch: Batch, judge: Judge, channel: Channel, key: Array, hparams: Hparams):
        """Measures competence: all clients get auxiliary questions, and each returns one bit per question, right or wrong."""
        run, clients, ids = self.run, state.experts.clients, self.of_all(batch.ids)
        channel.down(Record("questions", "down", {"numbers": ids}, ids))
        keys = run["keys"](run["two_keys"](key)[0], clients.id)
        said = run["answer"](base, clients.adapter, batch.prompts, keys, hparams)
        judged = judge(said, batch.replace(prompts=None, answers=self.answers(batch.answers)))
        found = channel.up(Record("verdicts", "up", run["bits"](judged.correct, clients.adapter), ids)).arrays
        *learnt, plan, metrics = run["surveyed"](base, batch.prompts, said, found["correct"])
        embedded, known, rollouts, verdicts = learnt
        record = StepRecord(metrics, rollouts, verdicts, rollouts, verdicts, plan, state.policy.adapter)
        return state.replace(embedded=embedded, known=known), record

    def lesson(self, base, state: State, batch: Batch, judge: Judge, channel: Channel, key: Array, hparams: Hparams):
        """One step of the server's policy: each question's experts get its candidates, and their rewards train the policy."""
        run, policy, clients, ids = self.run, state.policy, state.experts.clients, self.of_all(batch.ids)
        respond_key, other = run["two_keys"](key)
        choose_key, answer_key = run["two_keys"](other)
        rollouts = run["rollout"](base, policy, batch.prompts, run["keys"](respond_key, policy.id), hparams)
        seen = base, batch.prompts, state.embedded, state.known, clients.adapter
        experts, asked, able = run["choose"](*seen, choose_key)
        sent = run["repeated"]({"tokens": rollouts.tokens, "mask": rollouts.mask})
        sent["slots"] = run["slots"](asked, rollouts.mask)
        given = channel.down(Record("responses", "down", sent, ids)).arrays
        said = run["consult"](base, clients.adapter, batch.prompts, experts, run["keys"](answer_key, clients.id), hparams)
        held = run["nobody"](asked) if batch.held is None else batch.held
        reference = Reference(self.answers(batch.answers), held, asked, said)
        candidates = Rollout(given["tokens"], given["mask"], None)
        reward = judge(candidates, batch.replace(prompts=None, answers=reference)).reward
        found = channel.up(Record("rewards", "up", run["report"](reward, asked, clients.adapter), ids)).arrays
        advantages, verdicts, use = run["advise"](found["reward"], experts, asked, state.use, rollouts)
        policy, metrics, plan = run["update"](base, policy, batch.prompts, rollouts, advantages, verdicts, hparams)
        metrics["competence"] = able
        record = StepRecord(metrics, rollouts, verdicts, rollouts, verdicts, plan, state.policy.adapter)
        return state.replace(policy=policy, use=use), record

    def close(self, state: State, channel: Channel, weights: Array | None = None) -> tuple[State, dict[str, Array]]:
        experts, own = self.learners.close(state.experts, direct)
        found = self.run["moved"](state.policy) | self.run["figures"](state.use, state.known)
        return state.replace(experts=experts, round=self.run["next"](state.round)), found | {"experts_sound": own["sound"]}

    def of_all(self, ids):
        """Repeats question numbers [1, B] for every client, [C, B]. Numbers that are on the host stay on the host."""
        if ids is None:
            return None
        everybody = (self.num_clients, ids.shape[-1])
        return np.broadcast_to(ids, everybody) if isinstance(ids, np.ndarray) else jnp.broadcast_to(ids, everybody)

    def answers(self, answers):
        """Repeats a batch's answers for every client: lists on the host, or arrays [C, B]."""
        return answers * self.num_clients if isinstance(answers, list) else self.run["repeated"](answers)
