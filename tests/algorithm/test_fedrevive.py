"""FedRevive: the blend at its ends, the teacher's answers, and a distillation of the toy policy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_rounds import CLIENTS, GROUP, HPARAMS, TX, world

import pubswap_jax as ps
from pubswap_jax.algorithm.fedrevive import Distilling, beta, blended, distil, fedrevive, revived, that_count
from pubswap_jax.types import Prompts, Rollout, Verdict

HOW = Distilling(steps=10, lr=1e-2, responses=4)


def test_beta_is_zero_for_fresh_half_at_s_max_and_one_beyond_twice_s_max():
    found = beta(jnp.arange(8), 3.0)
    np.testing.assert_allclose(found[:7], [(1 - np.cos(np.pi * s / 6)) / 2 for s in range(7)], rtol=1e-6, atol=1e-7)
    assert found[0] == 0 and found[6] == 1 and found[7] == 1 and abs(found[3] - 0.5) < 1e-6


def test_a_blend_is_the_upload_the_student_or_between():
    adapter, uploads, students = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(2,), (3, 2), (3, 2)]))
    found = blended(adapter, uploads, students, jnp.array([0.0, 1.0, 0.25]))
    assert np.array_equal(found[0], uploads[0]) and np.array_equal(found[1], students[1]), "to the bit"
    np.testing.assert_allclose(found[2], 0.75 * uploads[2] + 0.25 * students[2], rtol=1e-5, atol=1e-6)


def test_right_responses_count_first():
    correct = jnp.array([[False, True], [False, True], [False, False]])
    assert that_count(correct, 3).tolist() == [[True, True], [False, True], [False, False]]
    assert that_count(correct, 99).all()


@functools.cache
def material():
    """A teacher that is not the server's policy, and its responses to two questions."""
    model, base, adapter, batches = world()
    teacher = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(9), x.shape), adapter)
    prompts = jax.tree.map(lambda x: x[0, :2], batches[2].prompts)
    tokens = jax.random.randint(jax.random.key(3), (2, GROUP, 3), 1, 9)
    rollout = Rollout(tokens, jnp.ones_like(tokens, bool), jnp.zeros(tokens.shape))
    return teacher, (Prompts(prompts.tokens, prompts.mask), rollout, Verdict.from_correct(tokens[..., 0] % 2 == 0))


def test_a_distillation_lowers_the_kl_and_sends_no_gradient_to_its_teacher():
    model, base, adapter, _ = world()
    teacher, answers = material()

    @jax.jit
    def run(teacher, adapter):
        student, figures = distil(model, HOW, base, adapter, teacher, answers, HPARAMS)
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(student)), (student, figures)

    (_, (student, figures)), gradients = jax.value_and_grad(run, argnums=(0, 1), has_aux=True)(teacher, adapter)
    assert 0 < float(figures["kl_after"]) < 0.9 * float(figures["kl_before"])
    assert not any(np.any(x) for x in jax.tree.leaves(gradients[0]))
    assert any(np.any(x) for x in jax.tree.leaves(gradients[1]))
    assert any(np.any(x != y) for x, y in zip(jax.tree.leaves(student), jax.tree.leaves(adapter), strict=True))


def test_a_distillation_of_one_question_at_a_time_is_that_of_all_questions():
    model, base, adapter, _ = world()
    teacher, answers = material()

    @functools.partial(jax.jit, static_argnames="how")
    def run(how):
        return distil(model, how, base, adapter, teacher, answers, HPARAMS)

    for one, all_ in zip(*(jax.tree.leaves(run(HOW._replace(microbatch=size))) for size in (1, None)), strict=True):
        np.testing.assert_allclose(one, all_, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="microbatch: a divisor of the batch's 2 prompts expected, got 3"):
        run(HOW._replace(microbatch=3))


@pytest.fixture(scope="module")
def round_of_two_versions():
    """Client 0 starts from version 0 and is two versions old; client 1 is fresh. -> before, after the public step, closed."""
    model, base, adapter, batches = world()
    inner = ps.pubswap(model, TX, num_clients=CLIENTS, group=GROUP, lockstep=False, rebase=revived)
    federation = fedrevive(model, inner, num_clients=CLIENTS, group=GROUP, s_max=1.0, how=HOW)
    state = federation.open(federation.init(adapter), ps.direct)
    moved = lambda tree, by: jax.tree.map(lambda x: x + by, tree)  # noqa: E731
    state = state.replace(clients=state.clients.replace(adapter=moved(state.clients.adapter, 0.1)))
    server = state.server.replace(adapter=moved(state.server.adapter, 0.02), round=state.server.round + 2)
    state = state.replace(server=server)
    state = federation.open(state, ps.direct, np.array([False, True, False]))
    state = state.replace(clients=state.clients.replace(adapter=moved(state.clients.adapter, 0.01)))
    crossed = []

    def up(record):
        crossed.append((record.kind, None if record.who is None else np.asarray(record.who).tolist()))
        return record

    who, channel = np.array([True, False, False]), ps.direct._replace(up=up)
    taught, record = federation.step(base, state, batches[2], ps.parity_judge, channel, jax.random.key(4), HPARAMS, who)
    closed, figures = federation.close(taught, channel, jnp.array([1.0, 1.0, 0.0]))
    return state, taught, closed, record, figures, crossed


def test_a_stale_upload_at_beta_one_is_its_distillation_and_a_fresh_one_is_itself(round_of_two_versions):
    state, taught, closed, record, figures, _ = round_of_two_versions
    assert figures["staleness"].tolist()[:2] == [2, 0] and record.metrics["beta"].tolist()[:2] == [1.0, 0.0]
    assert record.metrics["kl_after"][0] < record.metrics["kl_before"][0]
    assert taught.waiting["here"].tolist() == [True, False, False] and not closed.waiting["here"].any()
    student = jax.tree.map(lambda x: x[0], taught.waiting["uploads"])
    for new, distilled, own in zip(*map(jax.tree.leaves, (closed.server.adapter, student, state.clients.adapter)), strict=True):
        np.testing.assert_allclose(new, (distilled + own[1]) / 2, rtol=1e-6, atol=1e-7)


def test_an_upload_crosses_once(round_of_two_versions):
    adapters = [who for kind, who in round_of_two_versions[-1] if kind == "adapters"]
    assert adapters == [[True, False, False], [False, True, False]]
