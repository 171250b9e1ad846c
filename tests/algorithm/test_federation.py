"""What ways of federating share: the client axis, the rows and parts that a step computes, and the checks of `round_step`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_rounds import (
    CLIENTS,
    GROUP,
    HPARAMS,
    KEY,
    TX,
    close,
    federation,
    learner,
    one_client,
    public_step,
    same,
    started,
    world,
)

import pubswap_jax as ps
from pubswap_jax.algorithm.federation import Parts, make_rows, step_key
from pubswap_jax.types import Batch, Client, ClientState

ROWS = make_rows()
FIRST_AND_LAST = np.array([True, False, True])


# --- the client axis ----------------------------------------------------------------------------------------------------


def test_clients_at_once_and_in_turn_learn_the_same():
    together = learner()(*public_step(), HPARAMS)
    close(learner(clients_at_once=2)(*public_step(), HPARAMS), together)  # two clients, and then the third


@pytest.mark.parametrize("clients_at_once", [None, 1, 2])
def test_received_may_be_shared_or_each_clients_own(clients_at_once):
    """A client that says what it got: the shared adapter, or the row of its own."""

    def learn(base, received, client, prompts, rollout, verdict, swapped, hparams):
        return client.replace(adapter=received), {"reward": base * verdict + hparams}

    client = Client(lambda sent, client: client.replace(adapter=sent), None, learn, lambda client: (client.adapter, {}))
    stacked, numbers = ps.over_clients(client, clients_at_once), jnp.arange(3)
    clients = ClientState(numbers, jnp.zeros((3, 2)), (), numbers, numbers)
    rest = jnp.zeros((3, 4)), jnp.zeros((3, 4)), jnp.array([1.0, 2.0, 3.0]), jnp.zeros((3, 4)), 0.5
    rows = jnp.arange(6.0).reshape(3, 2)
    found, metrics = stacked.learn(10.0, rows, clients, *rest)
    same(found.adapter, rows)
    assert metrics["reward"].tolist() == [10.5, 20.5, 30.5]
    found, _ = stacked.learn(10.0, rows[1], clients, *rest)
    same(found.adapter, jnp.stack([rows[1]] * 3))
    same(stacked.start(rows, clients).adapter, rows)
    same(stacked.upload(found), (found.adapter, {}))


# --- rows and parts -----------------------------------------------------------------------------------------------------


def test_rows_are_taken_joined_spread_and_put_back():
    tree, who = {"x": jnp.arange(12.0).reshape(4, 3), "n": jnp.arange(4)}, np.array([0, 2, 3], np.int32)
    some = ROWS.take(tree, who)
    assert some["n"].tolist() == [0, 2, 3] and some["x"].shape == (3, 3)
    assert ROWS.join([some, tree])["n"].tolist() == [0, 2, 3, 0, 1, 2, 3]
    spread = ROWS.spread({"n": some["n"] + 5}, who, np.zeros(4, bool))
    assert spread["n"].tolist() == [5, 0, 7, 8] and spread["n"].dtype == tree["n"].dtype
    assert ROWS.put_back(tree, {"x": some["x"], "n": some["n"] * 10}, who)["n"].tolist() == [0, 1, 20, 30]


@pytest.mark.parametrize(
    "who, size, expected",
    [
        (None, None, [[0, 1, 2, 3, 4]]),
        (None, 2, [[0, 1], [2, 3], [4]]),
        (np.ones(5, bool), 3, [[0, 1, 2], [3, 4]]),
        (np.array([0, 1, 0, 1, 1], bool), None, [[1, 3, 4]]),
        (np.array([0, 1, 0, 1, 1], bool), 2, [[1, 3], [4]]),
        (jnp.array([0, 1, 0, 1, 1], bool), 2, [[0, 1], [2, 3], [4]]),  # on a device its values are not read
    ],
)
def test_parts_are_those_of_who_in_order(who, size, expected):
    parts = Parts(ROWS, 5, who, size)
    assert [numbers.tolist() for numbers in parts.numbers] == expected
    tree = {"n": jnp.arange(5) + 1}
    some = parts.of(tree)
    assert [one["n"].tolist() for one in some] == [[n + 1 for n in numbers] for numbers in expected]
    there = np.isin(np.arange(5), np.concatenate(expected))
    assert parts.whole(some)["n"].tolist() == np.where(there, np.arange(5) + 1, 0).tolist()
    changed = parts.put_back(tree, [{"n": one["n"] * 10} for one in some])
    assert changed["n"].tolist() == (np.where(there, 10, 1) * (np.arange(5) + 1)).tolist()


def test_a_judge_sees_the_answers_of_its_part():
    parts = Parts(ROWS, 3, FIRST_AND_LAST, 1)
    listed = parts.batches(Batch(None, [["a"], ["b"], ["c"]]))
    assert [batch.answers for batch in listed] == [[["a"]], [["c"]]]
    arrays = parts.batches(Batch(None, np.arange(6).reshape(3, 2), public=True))
    assert [batch.answers.tolist() for batch in arrays] == [[[0, 1]], [[4, 5]]] and arrays[0].public
    batch = Batch("prompts", [["a"], ["b"], ["c"]])
    assert Parts(ROWS, 3, None).batches(batch) == [batch], "a part of everybody is the batch itself"


@pytest.fixture(scope="module")
def in_parts():
    """The same federation, two clients at a time."""
    return ps.pubswap(world()[0], TX, num_clients=CLIENTS, group=GROUP, part=2)


def judged_step(federation, batch, who=None):
    """A step -> state, record, how many clients the judge saw at each call."""
    seen = []

    def judge(rollouts, batch):
        seen.append(rollouts.tokens.shape[0])
        return ps.parity_judge(rollouts, batch)

    return *federation.step(world()[1], started(), batch, judge, ps.direct, KEY, HPARAMS, who), seen


@pytest.mark.parametrize("number", [0, 2])
def test_a_step_in_parts_is_the_whole_step(in_parts, number):
    batch = world()[3][number]
    whole, expected, once = judged_step(federation(), batch)
    parts, record, seen = judged_step(in_parts, batch)
    assert (once, seen) == ([CLIENTS], [2, 1])
    same(record.rollouts.tokens, expected.rollouts.tokens)
    same(record.plan, expected.plan)
    close((parts, record.metrics), (whole, expected.metrics), atol=1e-5)


@pytest.mark.parametrize("number", [0, 2])
def test_only_the_rows_of_who_are_computed(number):
    batch = world()[3][number]
    state, record, seen = judged_step(federation(), batch, FIRST_AND_LAST)
    assert seen == [2]
    learnt = {name: values for name, values in record.metrics.items() if "variance" not in name}  # a group of zeros has none
    for leaf in jax.tree.leaves((record.rollouts, record.verdicts, learnt)):
        assert not np.asarray(leaf[1]).any(), "nothing is sampled, judged or learnt for an absent client"
    same(one_client(state.clients, 1), one_client(started().clients, 1))
    everybody, expected, seen = judged_step(federation(), batch, jnp.asarray(FIRST_AND_LAST))
    assert seen == [CLIENTS], "with `who` on a device all rows are computed"
    same(record.plan.swapped, expected.plan.swapped)
    for c in (0, 2):
        same(record.rollouts.tokens[c], expected.rollouts.tokens[c])
        close(one_client(state.clients, c), one_client(everybody.clients, c), atol=1e-5)
    same(one_client(everybody.clients, 1), one_client(started().clients, 1))


# --- round_step ---------------------------------------------------------------------------------------------------------


def test_round_step_names_the_argument_that_is_wrong():
    batch, state = world()[3][0], started()
    for batches, hparams, weights, message in (
        ([], HPARAMS, None, "batches: at least one"),
        ([batch], HPARAMS.replace(temperature=0.0), None, "temperature: more than 0"),
        ([batch], HPARAMS, jnp.ones(2), "weights: one a client"),
        ([batch], HPARAMS, jnp.array([1.0, -1.0, 1.0]), "weights: finite, not negative"),
    ):
        with pytest.raises(ValueError, match=message):
            ps.round_step(federation(), world()[1], state, batches, ps.parity_judge, KEY, hparams, weights)


def test_the_steps_key_is_the_runs_folded_with_round_and_step():
    found = step_key(KEY, np.array([3, 5], np.uint32))
    same(jax.random.key_data(found), jax.random.key_data(jax.random.fold_in(jax.random.fold_in(KEY, 3), 5)))


def test_direct_changes_no_record():
    record = ps.Record("counters", "up", {"reward": np.ones(3)})
    assert ps.direct.up(record) is record and ps.direct.down(record) is record
