"""What is passed in Python: what the manifest has of it, and which resume is refused."""

import pytest

import pubswap_jax as ps
from pubswap_jax.run.given import NOTHING, Given, agree


def planner(key, correct, present=None):
    return ps.no_swap(key, correct, present)


def test_the_manifest_has_names_and_digests():
    found = Given(planner=planner, aggregator=ps.median(), questions=[{"question": "?"}]).described()
    assert [one["name"] for one in found.values()] == ["planner", found["aggregator"]["name"], "1 rows"]
    assert all(len(one["sha256"]) == 64 for one in found.values()) and NOTHING.described() == {}


def test_what_a_resume_refuses():
    mine, other = (Given(planner=one).described() for one in (planner, ps.balanced))
    agree(mine, mine, "run")
    agree({}, {}, "run")
    with pytest.raises(ValueError, match=r"run: the run was begun with planner= from Python \(planner\); pass it"):
        agree(mine, {}, "run")
    with pytest.raises(ValueError, match="run: the run was begun without planner=; leave it out"):
        agree({}, mine, "run")
    with pytest.raises(ValueError, match="run: planner= is not what it was when the run began"):
        agree(mine, other, "run")
    agree(mine, {}, "run", ("aggregator",))
