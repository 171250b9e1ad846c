"""FedRevive (arXiv 2511.00655) for language models: the server distils a stale client's policy into the present one.

The client's change Δ counts less the staler it is, and the change Δ_KD of the distilled policy more: (1 − β) Δ + β Δ_KD. The
paper distils on images of a generator. Reading: a text generator of that kind makes no sense, so the teacher, which is the
client's uploaded policy, answers public questions, and the student learns the teacher's distributions on these answers.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from pubswap_jax.algorithm.aggregation import broadcast, choose, per_client, rebased
from pubswap_jax.algorithm.client import arrived
from pubswap_jax.algorithm.federation import Parts, Rows, make_rows
from pubswap_jax.algorithm.swap import check_present, no_swap
from pubswap_jax.algorithm.update import check_microbatch
from pubswap_jax.policy.adapter import each_layer
from pubswap_jax.policy.logps import response_divergence, response_states
from pubswap_jax.policy.sampling import sample
from pubswap_jax.records import Record
from pubswap_jax.types import (
    Array,
    Batch,
    Channel,
    Federation,
    Hparams,
    Judge,
    Program,
    Prompts,
    PyTree,
    Rollout,
    StepRecord,
    Verdict,
    compiled,
)

APART = 0x5EED  # folded into a distillation's key: a job's step may have the same (round, step)


class Distilling(NamedTuple):
    """Settings of a distillation: how a student learns from a teacher."""

    steps: int = 10  # of Adam
    lr: float = 1e-4
    responses: int = 32  # of the teacher's responses, those that count; right ones first
    microbatch: int | None = None  # questions whose gradient is computed at a time; None: all


def beta(staleness: Array, s_max: float | Array) -> Array:
    """The weight of FedRevive's distilled change at staleness s: int32[...] -> f32[...].

    β(s) = 1 − (1 + cos(π s / (2 s_max))) / 2, and 1 beyond 2 s_max.
    """
    share = jnp.clip(staleness / (2.0 * s_max), 0.0, 1.0)
    return jnp.where(share == 1, 1.0, (1 - jnp.cos(jnp.pi * share)) / 2)


def blended(adapter: PyTree, uploads: PyTree, students: PyTree, weight: Array) -> PyTree:
    """Mixes each upload with its distilled student, by the weight β: [C, ...], f32[C] -> [C, ...].

    adapter + (1 − β) (upload − adapter) + β (student − adapter), from rebased uploads.

    β = 0 is the upload and β = 1 the student, to the bit.
    """

    def blend(x, upload, student):
        share = per_client(weight, upload).astype(upload.dtype)
        between = x[None] + (1 - share) * (upload - x[None]) + share * (student - x[None])
        return jnp.where(share == 0, upload, jnp.where(share == 1, student, between))

    return jax.tree.map(blend, adapter, uploads, students)


def revived(adapter: PyTree, uploads: PyTree, received: PyTree, staleness: Array, waiting: PyTree) -> PyTree:
    """What the server averages for each client: its distilled upload if there is one, else its rebased upload.

    A `types.Rebase`.
    """
    return choose(waiting["here"], waiting["uploads"], rebased(adapter, uploads, received, staleness))


def that_count(correct: Array, count: int) -> Array:
    """Marks the `count` responses that a distillation uses: right ones first, then in their order. bool[B, G] -> bool[B, G]."""
    order = jnp.argsort(~correct.ravel(), stable=True)
    return jnp.zeros(correct.size, bool).at[order[:count]].set(True).reshape(correct.shape)


def divergence(model, how: Distilling, base: PyTree, teacher: PyTree, material: tuple[Prompts, Rollout, Verdict], hparams):
    """The distillation's loss in parts of `how.microbatch` questions: (student, part) -> the part's share, and the parts.

    The sum over the parts is the mean over tokens of KL(teacher‖student), over whole distributions.
    """
    prompts, rollout, verdict = material
    mask = rollout.mask & that_count(verdict.correct, how.responses)[..., None]
    total = jnp.maximum(mask.sum(), 1)
    check_microbatch(how.microbatch, mask.shape[0])
    size = how.microbatch or mask.shape[0]
    parts = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), (prompts, rollout.tokens, mask))
    target = jax.lax.map(lambda part: response_states(model, base, teacher, *part[:2]), parts)

    def share(student, part):
        (prompts, tokens, mask), target = part
        states = response_states(model, base, student, prompts, tokens)
        kl = response_divergence(model, base, target, states, temperature=hparams.temperature)
        return jnp.sum(kl, where=mask) / total

    return share, (parts, jax.lax.stop_gradient(target))


def summed(function: Callable, student: PyTree, parts: PyTree) -> PyTree:
    """The sum of `function(student, part)` over the parts, which are computed one after another."""
    shapes = jax.eval_shape(function, student, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(lambda so_far, part: (jax.tree.map(jnp.add, so_far, function(student, part)), None), zeros, parts)[0]


def distil(
    model, how: Distilling, base: PyTree, adapter: PyTree, teacher: PyTree, material: tuple[Prompts, Rollout, Verdict], hparams
) -> tuple[PyTree, dict[str, Array]]:
    """Trains a student, which starts at `adapter`, to the teacher's distributions on its responses: (student, figures).

    The figures are the loss of the last step, and the mean KL before and after. No gradient reaches the teacher.
    """
    share, parts = divergence(model, how, base, teacher, material, hparams)
    tx = optax.adam(how.lr)

    def one(carry, _):
        student, moments = carry
        value, gradient = summed(jax.value_and_grad(share), student, parts)
        step, moments = tx.update(gradient, moments, student)
        return (optax.apply_updates(student, step), moments), value

    (student, _), values = jax.lax.scan(one, (adapter, tx.init(adapter)), length=how.steps)
    return student, {"loss": values[-1], "kl_before": values[0], "kl_after": summed(share, student, parts)}


def fedrevive(
    model,
    inner: Federation,
    *,
    num_clients: int,
    group: int,
    s_max: float,
    how: Distilling = Distilling(),  # noqa: B008
    part: int | None = None,
    program: Program = compiled,
) -> Federation:
    """Adds distillation to the federation `inner`: a public step distils stale clients' policies for the next `close`.

    Args:
      inner: `pubswap(..., lockstep=False, rebase=revived)`, whose jobs take private steps alone.
      s_max: the staleness at which β is 0.5.
      part: clients at a time; None: all.
    """
    functions = make_functions(model, how, num_clients, group, s_max)
    run = {name: program(name, function) for name, function in functions.items()}
    reviving = Reviving(inner, num_clients, part, run, make_rows(program))
    return inner._replace(init=reviving.init, step=reviving.step, close=reviving.close)


def make_functions(model, how: Distilling, num_clients: int, group: int, s_max: float) -> dict[str, Callable]:
    """The functions of FedRevive that a run compiles, by name. They take and return leaves [C, ...]."""
    family, config = model.config.adapter, model.config
    form = jax.vmap(partial(each_layer, family.upload))  # as it crosses

    def teach(base, teachers, prompts, keys, hparams: Hparams) -> Rollout:
        how = {"group": group, "max_new_tokens": config.max_new_tokens, "temperature": hparams.temperature}
        return sample(model, base, teachers, prompts, keys, **how)

    def students(base, adapter, teachers, prompts, rollouts, verdicts, hparams):
        one = partial(distil, model, how, base, arrived(family, adapter), hparams=hparams)
        made, figures = jax.vmap(lambda teacher, *material: one(teacher, material))(teachers, prompts, rollouts, verdicts)
        figures |= {"reward": verdicts.reward.mean((1, 2)), "correct": verdicts.correct.mean((1, 2))}
        return form(made), figures | {"length": rollouts.mask.sum(-1).mean((1, 2))}

    def wait(state, uploads, made, who):
        present = check_present(who, num_clients)
        staleness = state.server.round - state.clients.version
        received = form(state.clients.received)
        weight = beta(staleness, s_max)
        fresh = blended(state.server.adapter, rebased(state.server.adapter, uploads, received, staleness), made, weight)
        here = state.waiting["here"] | present
        waiting = {"uploads": choose(present, fresh, state.waiting["uploads"]), "here": here}
        return waiting, {"beta": weight, "staleness": staleness.astype(weight.dtype), "swapped": jnp.zeros_like(weight)}

    return {
        "nothing_waits": lambda adapter: {"uploads": broadcast(adapter, num_clients), "here": jnp.zeros(num_clients, bool)},
        "form_of_uploads": form,
        "form_of_training": jax.vmap(partial(arrived, family)),
        "keys_of_teachers": lambda key, ids: jax.vmap(partial(jax.random.fold_in, jax.random.fold_in(key, APART)))(ids),
        "teach": teach,
        "distil": students,
        "wait": wait,
        "own_of_teachers": partial(no_swap, None),
        "unsent": lambda who, here: check_present(who, num_clients) & ~here,
        "forget": lambda waiting, weights: waiting | {"here": waiting["here"] & ~check_present(weights, num_clients)},
    }


class Reviving(NamedTuple):
    """FedRevive's `init`, `step` and `close`, which wrap those of an inner federation, over compiled functions."""

    inner: Federation
    num_clients: int
    part: int | None
    run: dict[str, Callable]
    rows: Rows

    def init(self, adapter: PyTree) -> PyTree:
        state = self.inner.init(adapter)
        return state.replace(waiting=self.run["nothing_waits"](state.server.adapter))

    def step(
        self, base, state, batch: Batch, judge: Judge, channel: Channel, key: Array, hparams: Hparams, who=None
    ) -> tuple[PyTree, StepRecord]:
        """A private step of clients, or a public step in which uploads of `who` teach students, kept for the next `close`."""
        if not batch.public:
            return self.inner.step(base, state, batch, judge, channel, key, hparams, who)
        run, parts = self.run, Parts(self.rows, self.num_clients, who, self.part)
        sent = {"adapter": run["form_of_uploads"](state.clients.adapter)}
        uploads = channel.up(Record("adapters", "up", sent, who=who)).arrays["adapter"]
        teachers, keys = run["form_of_training"](uploads), run["keys_of_teachers"](key, state.clients.id)
        said = [run["teach"](base, *of_part, hparams) for of_part in parts.of((teachers, batch.prompts, keys))]
        judged = [judge(rollouts, of_part) for rollouts, of_part in zip(said, parts.batches(batch), strict=True)]
        own = parts.whole(said), parts.whole(judged)
        asked = parts.of((teachers, batch.prompts, *own))
        made = [run["distil"](base, state.server.adapter, *of_part, hparams) for of_part in asked]
        students = parts.put_back(uploads, [student for student, _ in made])
        waiting, figures = run["wait"](state, uploads, students, jax.device_put(who))
        plan = run["own_of_teachers"](own[1].correct)
        metrics = parts.whole([found for _, found in made]) | figures
        return state.replace(waiting=waiting), StepRecord(metrics, *own, *own, plan, teachers)

    def close(self, state, channel: Channel, weights: Array | None = None) -> tuple[PyTree, dict[str, Array]]:
        """Ends a round by the inner federation's `close`. Uploads that crossed for a distillation do not cross again."""

        def up(record: Record) -> Record:
            if record.kind != "adapters":
                return channel.up(record)
            return channel.up(record.replace(who=self.run["unsent"](record.who, state.waiting["here"])))

        closed, figures = self.inner.close(state, Channel(up, channel.down), weights)
        return closed.replace(waiting=self.run["forget"](closed.waiting, weights)), figures
