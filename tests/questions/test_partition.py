"""Partitions are disjoint and complete, give nobody nothing, and are the same for the same seed everywhere."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pubswap_jax.fields import default_config
from pubswap_jax.questions.partition import (
    Split,
    by_topic,
    counts,
    dirichlet,
    draw_iid,
    holders,
    iid,
    natural,
    overlapped,
    size_skew,
    split,
)
from pubswap_jax.questions.problem import Problem
from pubswap_jax.questions.sources import local
from pubswap_jax.settings import chosen

NAMES = ("iid", "dirichlet", "by_topic", "size_skew")


def named(name, alpha):
    """The partition that a config names."""
    config = default_config()
    config.data.partition, config.data.alpha = name, alpha
    return chosen(config, "data.partition")


def made(*sizes):
    """Unlike questions: of topic t as many as sizes[t], on keys (hospitals) by turns."""
    topics = [f"t{t}" for t, size in enumerate(sizes) for _ in range(size)]
    return [Problem(f"h{i % 4}/{i}", f"{i * 7919} and {topic}?", str(i), topic) for i, topic in enumerate(topics)]


def rng(seed=0):
    return np.random.Generator(np.random.Philox(seed))


def topics_of(problems, part):
    return {problems[i].topic for i in part}


SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=6)


@settings(deadline=None)
@given(sizes=SIZES, num_clients=st.integers(1, 12), name=st.sampled_from(NAMES), alpha=st.sampled_from((1e-9, 0.1, 1.0, 1e6)))
def test_disjoint_complete_and_nobody_empty(sizes, num_clients, name, alpha):
    problems = made(*sizes)
    if len(problems) < num_clients:
        with pytest.raises(ValueError, match=f"num_clients is {num_clients}, but there are {len(problems)} private questions"):
            named(name, alpha)(problems, num_clients, rng())
        return
    parts = named(name, alpha)(problems, num_clients, rng())
    assert len(parts) == num_clients and all(len(part) for part in parts)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(problems)))


@settings(deadline=None, max_examples=40)
@given(
    sizes=SIZES, seed=st.integers(0, 2**31), public=st.sampled_from((0, 0.02, 0.3)), name=st.sampled_from((*NAMES, "natural"))
)
def test_a_split_uses_every_question_once(sizes, seed, public, name):
    problems = made(*sizes, 8)
    got = split(problems, 2, named(name, 0.3), seed=seed, public=public)
    lists = [got.public, *got.clients, *got.removed.values()]
    assert sorted(i for part in lists for i in part) == list(range(len(problems)))
    assert Split(**json.loads(json.dumps(got.manifest()))) == got
    assert got == split(problems, 2, named(name, 0.3), seed=seed, public=public)


GOLDEN = """\
from pubswap_jax.questions.problem import Problem
from pubswap_jax.questions.partition import dirichlet, split
problems = [Problem(str(i), f"{i * 7919}?", str(i), "abc"[i % 3]) for i in range(18)]
got = split(problems, 3, dirichlet(0.3), seed=7, public=0.2)
print(got.public, got.clients)
"""


GOLDEN_LISTS = "[1, 9, 11, 12] [[0, 4, 8, 14, 15], [2, 3, 5, 6, 17], [7, 10, 13, 16]]"


def test_the_same_seed_gives_the_same_lists_in_a_new_process():
    """The lists are written out here, so that another machine or another numpy that shares out otherwise is noticed."""
    output = subprocess.run([sys.executable, "-c", GOLDEN], capture_output=True, text=True, check=True).stdout
    assert output.strip() == GOLDEN_LISTS


def test_seeds_differ():
    problems = made(20, 20)
    assert split(problems, 3, iid, seed=0).clients != split(problems, 3, iid, seed=1).clients


def topic_table(problems, parts, num_topics):
    return np.array([[sum(problems[i].topic == f"t{t}" for i in part) for t in range(num_topics)] for part in parts])


def test_dirichlet_gives_equal_shares_and_the_topics_that_alpha_asks_for():
    problems = made(100, 100, 100, 100)
    largest = []
    for alpha in (0.02, 0.3, 1e6):
        tables = [topic_table(problems, dirichlet(alpha)(problems, 4, rng(seed)), 4) for seed in range(20)]
        assert all((table.sum(axis=0) == 100).all() and (table.sum(axis=1) == 100).all() for table in tables)
        largest.append(np.mean([table.max(axis=1).mean() for table in tables]))
    few, some, equal = largest
    assert few > some + 10 and some > equal + 20 and equal < 27


def test_dirichlet_seldom_asked_topics_go_to_few():
    problems = made(300, 300, 300, 30)
    holders = [
        sum(len([i for i in part if problems[i].topic == "t3"]) > 2 for part in dirichlet(0.3)(problems, 10, rng(s)))
        for s in range(20)
    ]
    assert np.mean(holders) < 4


def test_by_topic():
    problems = made(5, 9, 4, 7)
    parts = by_topic(problems, 2, rng())
    assert [len(topics_of(problems, part)) for part in parts] == [2, 2]
    assert not topics_of(problems, parts[0]) & topics_of(problems, parts[1])
    parts = by_topic(problems, 7, rng())
    assert all(len(topics_of(problems, part)) == 1 for part in parts)


def test_size_skew_skews_sizes_and_not_topics():
    problems = made(500, 500)
    parts = size_skew(0.5)(problems, 5, rng(3))
    sizes = sorted(map(len, parts))
    assert sizes[-1] > 4 * sizes[0]
    assert abs(np.mean([problems[i].topic == "t0" for i in max(parts, key=len)]) - 0.5) < 0.1


def test_natural_keeps_keys_together():
    problems = made(9, 8)
    parts = natural(problems, 3, rng())
    keys = [{problems[i].id.split("/")[0] for i in part} for part in parts]
    assert sorted(key for group in keys for key in group) == ["h0", "h1", "h2", "h3"]
    with pytest.raises(ValueError, match="num_clients is 5, but the questions' ids have 4 keys: h0, h1, h2, h3"):
        natural(problems, 5, rng())


def test_the_public_set_has_the_topics_of_all():
    problems = made(60, 30, 10)
    for seed in range(5):
        drawn = draw_iid(problems, 10, rng(seed))
        assert [sum(problems[i].topic == f"t{t}" for i in drawn) for t in range(3)] == [6, 3, 1]
    assert len(split(problems, 2, iid, seed=0).public) == 2


def test_near_copies_of_test_and_public_questions_leave_the_clients():
    problems = made(40)
    problems[3] = Problem("leak", "Compute the sum of 12 and 30, please.", "42", "t0")
    test = [Problem("test", "compute the sum of 12 and 30, please", "42", "t0")]
    problems[9] = Problem("twin", problems[5].prompt.upper(), problems[5].answer, "t0")
    got = split(problems, 2, iid, seed=0, public=[5], test=test)
    assert got.public == [5] and got.removed == {"test": [3], "public": [9]}
    assert {3, 5, 9}.isdisjoint(got.clients[0] + got.clients[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda problems: dirichlet(0.0)(problems, 2, rng()),
            "data.alpha must be greater than 0 and finite, not 0.0",
        ),
        (
            lambda problems: size_skew(-1.0)(problems, 2, rng()),
            "data.alpha must be greater than 0 and finite, not -1.0",
        ),
        (
            lambda problems: dirichlet(float("nan"))(problems, 2, rng()),
            "data.alpha must be greater than 0 and finite, not nan",
        ),
        (lambda problems: named("dirichlett", 1.0), "config.data.partition=dirichlett: did you mean dirichlet[?]"),
        (lambda problems: split(problems, 0, iid, seed=0), "federation.num_clients must be at least 1, not 0"),
        (lambda problems: split(problems, 10, iid, seed=0), "num_clients is 10, but there are 9 private questions to share"),
        (lambda problems: split(problems, 2, iid, seed=0, public=1.5), "data.public is a share of the questions, .* not 1.5"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(made(6, 4))
    assert "\n" not in str(error.value)


def test_math_over_ten_clients(shared_data):
    problems = local([str(shared_data / "math" / f"{name}.jsonl") for name in ("math_train", "math_test")])
    got = split(problems, 10, dirichlet(0.3), seed=0)
    sizes = [len(part) for part in got.clients]
    assert max(sizes) - min(sizes) <= 1 and len(got.public) == 72
    shares = [max(np.unique([problems[i].topic for i in part], return_counts=True)[1]) / len(part) for part in got.clients]
    assert np.mean(shares) > 0.5


def test_counts_of_topics_by_holder():
    problems = [Problem(str(i), "?", "1", topic) for i, topic in enumerate(["few", *["many"] * 8, "few"])]
    names, table = counts(Split([1], [[0, 2, 3], [4, 5, 6, 7, 8, 9]], {"test": [], "public": []}), problems)
    assert names == ["many", "few"] and table.tolist() == [[1, 2, 5], [0, 1, 1]]


def test_every_client_holds_its_share_of_the_servers_questions():
    dealt = Split(public=[3, 5, 7, 8, 9, 11], clients=[[0, 1], [2, 4]], removed={"test": [], "public": []})
    assert overlapped(dealt, 0.0, 2, seed=0) is dealt
    assert overlapped(dealt, 1.0, 2, seed=0).clients == [[0, 1, 7, 8, 9, 11], [2, 4, 7, 8, 9, 11]]
    half = overlapped(dealt, 0.5, 2, seed=0)
    assert half == overlapped(dealt, 0.5, 2, seed=0) and half.public == dealt.public
    held = holders(half, np.array([7, 8, 9, 11]))
    assert held.shape == (2, 4) and held.sum(1).tolist() == [2, 2] and not holders(half, np.array([3, 5])).any()
