"""SAPO's planner: how many responses are foreign, from which groups, and that none is local-only GRPO."""

import jax
import numpy as np
import pytest
from toy_rounds import HPARAMS, KEY, federation, step, world

import pubswap_jax as ps
from pubswap_jax.algorithm.aggregation import alone
from pubswap_jax.algorithm.sapo import sapo
from pubswap_jax.algorithm.swap import no_swap

# [C, B, G]: client 0 is informative on question 0, client 1 on both, client 2 on none.
CORRECT = np.array([[[1, 0, 0, 0], [0, 0, 0, 0]], [[1, 1, 1, 0], [1, 0, 0, 1]], [[1, 1, 1, 1], [0, 0, 0, 0]]], bool)


@pytest.mark.parametrize("foreign", [0, 2, 4])
def test_foreign_responses_come_from_informative_groups_of_others(foreign):
    plan = jax.jit(sapo(foreign))(KEY, CORRECT)
    donors, slots = np.asarray(plan.source) // 4, np.asarray(plan.swapped)
    expected = np.full((3, 2), foreign)
    expected[1, 1] = 0  # nobody else is informative on question 1
    assert slots.sum(-1).tolist() == expected.tolist()
    for client, question, slot in zip(*np.nonzero(slots), strict=True):
        donor = donors[client, question, slot]
        assert donor != client and 0 < CORRECT[donor, question].sum() < 4
    for client in range(3):
        for question in range(2):
            taken = np.asarray(plan.source)[client, question][slots[client, question]]
            assert len(set(taken.tolist())) == len(taken), "no response twice"


def test_absent_clients_neither_give_nor_receive():
    plan = sapo(2)(KEY, CORRECT, np.array([True, False, True]))
    assert not plan.swapped[0].any() and not plan.swapped[1].any() and plan.swapped[2, 0].sum() == 2


def test_without_foreign_responses_it_is_local_only_grpo_on_the_shared_questions_to_the_bit():
    batch, found = world()[3][2], []
    for planner, public in ((sapo(0), True), (no_swap, True), (no_swap, False)):
        how = {"planner": planner, "aggregator": alone()}
        state = federation(**how).init(world()[2])
        state, record = step(state, batch.replace(public=public), hparams=HPARAMS, **how)
        found.append(jax.tree.leaves((federation(**how).close(state, ps.direct)[0].clients, record.metrics)))
    for others in found[1:]:
        assert all(np.array_equal(x, y) for x, y in zip(found[0], others, strict=True))


def test_more_foreign_responses_than_a_group_has_are_refused():
    with pytest.raises(ValueError, match="foreign=5: at most the group's 4"):
        sapo(5)(KEY, CORRECT)
    with pytest.raises(ValueError, match="foreign=-1"):
        sapo(-1)
